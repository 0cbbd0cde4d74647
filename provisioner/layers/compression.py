"""Decompresses layers while they stream, by their media type (OCI image-spec, layer.md)."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from provisioner.errors import MachineError, MalformedImage, ProvisionError
from provisioner.terminal.escaping import printable

OUTPUT = 1 << 19
"""The most bytes that are decompressed at a time, which bounds the memory that a decompression bomb takes."""

_MAGIC = {
    "gzip": (b"\x1f\x8b",),
    # A frame, or a skippable frame, which pzstd writes before each.
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))),
}
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_GZIP_WINDOW = 31  # zlib's wbits for the gzip format


def decompress(blob: Iterator[bytes], media_type: str) -> Iterator[bytes]:
    """Yield the archive in `blob`, in pieces of at most OUTPUT bytes; an uncompressed one in the chunks of `blob`.

    Raises MalformedImage for content that isn't what `media_type` says, and MachineError where nothing on this machine
    can decompress it.
    """
    compression = _compression(media_type)
    head = b""
    while len(head) < _TAR_MAGIC_AT + len(_TAR_MAGIC) and (data := next(blob, b"")):
        head += data
    found = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "tar")
    if found != compression and head:
        raise MalformedImage(f"the layer is {_describe(found, head)}, its media type says {compression}")
    yield from _DECOMPRESSORS[compression](chain((head,), blob))


def _decompress_gzip(blob: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all members of a gzip file (RFC 1952). Only zeros may follow them."""
    library: Any = _first_module("isal.isal_zlib", "zlib")
    member: Any = None
    ended = False
    for data in blob:
        while data:
            if member is None:
                zeros = not data.strip(b"\0")
                if ended and not zeros:
                    raise _damaged("there is more behind its end")
                if ended := zeros:
                    break
                member = library.decompressobj(_GZIP_WINDOW)
            try:
                piece = member.decompress(data, OUTPUT)
            except (zlib.error, library.error) as error:
                raise _damaged(error) from error
            if piece:
                yield piece
            if member.eof:
                data, member = member.unused_data, None
            else:
                data = member.unconsumed_tail
    if member is not None:
        raise _damaged("it ends early")


def _decompress_zstd(blob: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all frames of a zstd file (RFC 8878) with Python 3.14's module, backports.zstd or the program."""
    library: Any = _first_module("compression.zstd", "backports.zstd")
    if library is None:
        yield from _run_program("zstd", blob)
        return
    frame: Any = None
    for data in blob:
        while data or (frame is not None and not frame.needs_input):
            frame = frame or library.ZstdDecompressor()
            try:
                piece = frame.decompress(data, OUTPUT)
            except library.ZstdError as error:
                raise _damaged(error) from error
            if piece:
                yield piece
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise _damaged("it ends early")


_DECOMPRESSORS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    "gzip": _decompress_gzip,
    "zstd": _decompress_zstd,
    "tar": iter,
}


def _run_program(name: str, blob: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a program that decompresses its standard input writes."""
    path = shutil.which(name)
    if not path:
        hint = "pip install 'provisioner[fast]', or install the program zstd (apt install zstd, pkg install zstd)"
        raise MachineError("nothing on this machine can decompress zstd layers", hint)
    failures: list[ProvisionError] = []
    with subprocess.Popen(
        [path, "-dcq"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        feeder = threading.Thread(target=_feed_program, args=(process, blob, failures), daemon=True)
        feeder.start()
        try:
            while piece := process.stdout.read(OUTPUT):
                yield piece
            feeder.join()
            if failures:
                raise failures[0]
            if process.wait():
                raise _damaged(process.stderr.read(200).decode(errors="replace"))
        finally:
            process.kill()


def _feed_program(process: subprocess.Popen[bytes], blob: Iterator[bytes], failures: list[ProvisionError]) -> None:
    """Write `blob` to the standard input of a program, and append an error of `blob` to `failures`."""
    assert process.stdin
    try:
        with process.stdin:
            for data in blob:
                view = memoryview(data)
                while view:
                    view = view[process.stdin.write(view) :]
    except ProvisionError as error:
        failures.append(error)
    except (BrokenPipeError, ValueError):  # the program has ended, or our reader has closed the pipe
        return


def _compression(media_type: str) -> str:
    """Return `gzip`, `zstd` or `tar` for a media type, which ends in `tar+gzip` for OCI, in `tar.gzip` for Docker."""
    for compression in _MAGIC:
        if media_type.endswith((f"+{compression}", f".{compression}")):
            return compression
    if media_type.endswith(".tar"):
        return "tar"
    raise MalformedImage(f"the layer has the media type {printable(media_type[:100])!r}, which isn't a layer's")


def _describe(found: str, head: bytes) -> str:
    """Describe content that isn't what its media type says, for an error message."""
    if found != "tar" or head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return found
    try:
        magic: Any = importlib.import_module("magic")
        return f"something else ({printable(magic.from_buffer(head[:4096]))[:100]})"
    except (ImportError, OSError):  # not every phone has libmagic
        return f"something else (it begins with {head[:16]!r})"


def _first_module(*names: str) -> Any:
    """Return the first of these modules that is installed; None where none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _damaged(why: object) -> MalformedImage:
    return MalformedImage(f"the layer can't be decompressed: {printable(str(why))}")
