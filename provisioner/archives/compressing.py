"""Compresses archives while they are written: gzip, xz or zstd, by the name of the file."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from provisioner.errors import HINTS, MachineError, UsageError
from provisioner.terminal.escaping import printable

_ENDS = {
    "gzip": (".gz", ".tgz"),
    "xz": (".xz", ".txz"),
    "zstd": (".zst", ".tzst", ".zstd"),
}
_OTHER_ENDS = (".zip", ".bz2", ".tbz", ".tbz2", ".tb2", ".lz", ".lz4", ".lzma", ".lzo", ".7z", ".rar", ".z", ".br")
"""How the names of other archives and compressed files end: a plain tar of such a name would be taken for one."""
_OTHER_HINT = "take a name that ends in .tar, .tar.gz, .tar.xz or .tar.zst"
_GZIP_WINDOW = 31  # zlib's wbits for the gzip format
_ZSTD_HINT = "install the program zstd (apt install zstd, pkg install zstd), or take a name that ends in .tar.gz"


class Compressor(Protocol):
    """Takes the bytes of an archive in order."""

    def write(self, data: bytes) -> None:
        """Compress more bytes, and write what is ready. Raises OSError."""

    def finish(self) -> None:
        """Write what is left. Raises OSError, and MachineError where a program failed."""


def compression_for(name: str) -> str:
    """Return the compression that the name of a file stands for: `gzip`, `xz`, `zstd`, or nothing for none.

    Raises UsageError for the name of an archive that can't be written.
    """
    if end := next((end for end in _OTHER_ENDS if name.lower().endswith(end)), ""):
        raise UsageError(f"{printable(name)}: {end} archives can't be written", _OTHER_HINT)
    return next((kind for kind, ends in _ENDS.items() if name.lower().endswith(ends)), "")


def compressor(kind: str, write: Callable[[bytes], object], output: int) -> Compressor:
    """Return what compresses to the function `write`, or to the same file by its descriptor `output`.

    Each gives the same bytes each time. Raises MachineError where nothing on this machine can compress like this.
    """
    if kind == "gzip":
        # Always Python's own zlib: others give other bytes.
        return _Stream(write, zlib.compressobj(6, zlib.DEFLATED, _GZIP_WINDOW))
    if kind == "xz":
        lzma: Any = _module("lzma")
        if lzma is None:
            raise MachineError("this Python was built without its module lzma, which xz needs", "take .tar.gz")
        return _Stream(write, lzma.LZMACompressor(lzma.FORMAT_XZ, preset=6))
    if kind == "zstd":
        library: Any = _module("compression.zstd") or _module("backports.zstd")
        if library is None:
            return _Program(output)
        options = {library.CompressionParameter.checksum_flag: 1}
        return _Stream(write, library.ZstdCompressor(options=options))
    return _Plain(write)


class _Plain:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> None:
        self._write(data)

    def finish(self) -> None:
        """Do nothing."""


class _Stream:
    """A compressor of a module, which has `compress` and `flush`."""

    def __init__(self, write: Callable[[bytes], object], stream: Any) -> None:
        self._write = write
        self._stream = stream

    def write(self, data: bytes) -> None:
        if ready := self._stream.compress(data):
            self._write(ready)

    def finish(self) -> None:
        self._write(self._stream.flush())


class _Program:
    """The program zstd, which writes to the output itself."""

    def __init__(self, output: int) -> None:
        path = shutil.which("zstd")
        if path is None:
            raise MachineError("nothing on this machine can compress as zstd", _ZSTD_HINT)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([path, "-cq", "-"], stdin=pipe, stdout=output, stderr=pipe)

    def write(self, data: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            raise self._failure() from None
        if self._process.wait():
            raise self._failure()

    def _failure(self) -> MachineError:
        """Return the error that zstd has told, such as a full disk."""
        _, said = self._process.communicate()
        lines = said.decode(errors="replace").strip().splitlines() or [f"exit status {self._process.returncode}"]
        hint = HINTS[errno.ENOSPC] if os.strerror(errno.ENOSPC) in lines[-1] else _ZSTD_HINT
        return MachineError(f"zstd failed: {printable(lines[-1].strip())}", hint)


def _module(name: str) -> Any:
    """Return a module; None where it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
