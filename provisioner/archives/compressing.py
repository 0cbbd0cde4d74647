"""Compresses archives while they are written: gzip, xz or zstd, by the name of the file."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from provisioner.archives.external_program import ProgramFailed, open_input
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
    """Compresses the bytes of an archive in order. Call `close` in the end, also after an error."""

    def write(self, data: bytes) -> None:
        """Compress more bytes, and write what is ready. Raises OSError, and MachineError where a program failed."""

    def finish(self) -> None:
        """Write what is left. Raises as `write` does."""

    def close(self) -> None:
        """End a program that still runs."""


def compression_for(name: str) -> str:
    """Return the compression that the name of a file stands for: `gzip`, `xz`, `zstd`, or nothing for none.

    Raises UsageError for the name of an archive that can't be written.
    """
    if end := next((end for end in _OTHER_ENDS if name.lower().endswith(end)), ""):
        raise UsageError(f"{printable(name)}: {end} archives can't be written", _OTHER_HINT)
    return next((kind for kind, ends in _ENDS.items() if name.lower().endswith(ends)), "")


def compressor(kind: str, write: Callable[[bytes], object], output: int) -> Compressor:
    """Return a compressor of this kind. It writes by the function `write`, or to the descriptor `output` of that file.

    The same input gives the same output each time. Raises MachineError where nothing on this machine compresses so.
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

    def close(self) -> None:
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

    def close(self) -> None:
        """Do nothing."""


class _Program:
    """The program zstd, which writes to the output itself."""

    def __init__(self, output: int) -> None:
        path = shutil.which("zstd")
        if path is None:
            raise MachineError("nothing on this machine can compress as zstd", _ZSTD_HINT)
        self._program, pipe = open_input(path, "-cq", "-", stdout=output)
        self._input = os.fdopen(pipe, "wb")

    def write(self, data: bytes) -> None:
        with self._failures():
            self._input.write(data)

    def finish(self) -> None:
        with self._failures():
            self._input.close()
            self._program.finish()

    def close(self) -> None:
        self._program.stop()
        with suppress(BrokenPipeError):  # the program ended before it had read what is in the buffer
            self._input.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise MachineError with the program's messages where it has failed: it may be a broken pipe that shows it."""
        try:
            try:
                yield
            except BrokenPipeError:
                self._program.finish()
                raise
        except ProgramFailed as error:
            is_full = os.strerror(errno.ENOSPC) in error.messages
            raise MachineError(f"zstd failed: {error}", HINTS[errno.ENOSPC] if is_full else _ZSTD_HINT) from error


def _module(name: str) -> Any:
    """Return a module; None where it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
