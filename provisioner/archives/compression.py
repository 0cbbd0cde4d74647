"""Decompresses layers while they stream, by their first bytes: the digest of the archive proves the content."""

from __future__ import annotations

import importlib
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from provisioner.archives.external_program import ProgramFailed, run_filter
from provisioner.archives.fields import BLOCK, has_right_checksum
from provisioner.errors import MachineError, MalformedImage, ProvisionError, lacks_resources
from provisioner.terminal.escaping import printable

OUTPUT = 1 << 19
"""The most bytes that are decompressed at a time, which bounds the memory that a decompression bomb takes."""

_MAGIC = {
    "gzip": (b"\x1f\x8b\x08",),
    # A frame, or a skippable frame, which pzstd writes before each.
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))),
}
_MAGIC |= {"bzip2": (b"BZh",), "xz": (b"\xfd7zXZ\0",), "lz4": (b"\x04\x22\x4d\x18",)}
_MAGIC_SIZE = 6
_XZ_MEMORY = 256 << 20
"""The most bytes that decompressing xz may take; xz -9 needs 65 MiB."""
_LAYER = "the layer"
"""What is decompressed, for messages, unless another name is passed."""
_GZIP_WINDOW = 31  # zlib's wbits for the gzip format


def decompress(blob: Iterator[bytes], media_type: str, what: str = _LAYER) -> Iterator[bytes]:
    """Yield the archive in `blob`, in pieces of at most OUTPUT bytes; an uncompressed one in the chunks of `blob`.

    `media_type` only matters where it names encryption; `what` is for messages. Raises MalformedImage for content that
    can't be decompressed or is no archive, and MachineError where nothing on this machine can decompress it.
    """
    if media_type.endswith("+encrypted"):
        raise MalformedImage("the layer is encrypted", "take an image that isn't: provision has no keys for layers")
    head = b""
    for data in blob:
        head += data
        if len(head) >= BLOCK:
            break
    found = compression_of(head)
    if not found and head and not _may_be_archive(head):
        raise MalformedImage(f"{what} is no archive but {describe_content(head)}")
    try:
        yield from _DECOMPRESSORS[found](chain((head,), blob))
    except MalformedImage as error:
        error.message = error.message.replace(_LAYER, what, 1)
        raise


def compression_of(head: bytes) -> str:
    """Return the compression of what begins with these bytes: `gzip`, `zstd`, `bzip2`, `xz`, `lz4`, or nothing."""
    return next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "")


def unexpected_compression(head: bytes, media_type: str) -> str:
    """Return a text about a blob that begins with `head` and isn't compressed as its media type says.

    Such as `zstd, its media type says gzip`. It is empty where the two agree, and for less than _MAGIC_SIZE bytes.
    """
    found, stated = compression_of(head), _stated_compression(media_type)
    if len(head) < _MAGIC_SIZE or found == stated:
        return ""
    return f"{found or 'not compressed'}, its media type says {stated or 'tar'}"


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
    yield from _decompress_streams(blob, library.ZstdDecompressor, (library.ZstdError,))


def _decompress_lz4(blob: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all frames of an lz4 file with the package lz4 or the program."""
    library: Any = _first_module("lz4.frame")
    if library is None:
        yield from _run_program("lz4", blob)
        return
    yield from _decompress_streams(blob, library.LZ4FrameDecompressor, (RuntimeError, EOFError))


def _decompress_bzip2(blob: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all streams of a bzip2 file."""
    library = _needed_module("bz2")
    return _decompress_streams(blob, library.BZ2Decompressor, (OSError, ValueError))


def _decompress_xz(blob: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all streams of an xz file."""
    library = _needed_module("lzma")
    return _decompress_streams(
        blob, lambda: library.LZMADecompressor(library.FORMAT_XZ, _XZ_MEMORY), (library.LZMAError,), padding=b"\0"
    )


def _decompress_streams(
    blob: Iterator[bytes], new_stream: Callable[[], Any], errors: tuple[type[Exception], ...], padding: bytes = b""
) -> Iterator[bytes]:
    """Decompress streams that follow each other, with a decompressor for each as those of Python's bz2 module.

    Bytes of `padding` may be between them.
    """
    stream: Any = None
    for chunk in blob:
        data = chunk if stream is not None else chunk.lstrip(padding)
        while data or (stream is not None and not stream.needs_input):
            stream = stream or new_stream()
            try:
                piece = stream.decompress(data, OUTPUT)
            except errors as error:
                raise _damaged(error) from error
            if piece:
                yield piece
            data = b""
            if stream.eof:
                data, stream = stream.unused_data.lstrip(padding), None
    if stream is not None:
        raise _damaged("it ends early")


def _needed_module(name: str) -> Any:
    """Return a module of the standard library. Raises MachineError where Python was built without it."""
    if library := _first_module(name):
        return library
    raise MachineError(f"this Python was built without its module {name}, which the image's layers need", "install it")


_DECOMPRESSORS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    "gzip": _decompress_gzip,
    "zstd": _decompress_zstd,
    "bzip2": _decompress_bzip2,
    "xz": _decompress_xz,
    "lz4": _decompress_lz4,
    "": iter,
}


def _run_program(name: str, blob: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a program that decompresses its standard input writes."""
    path = shutil.which(name)
    if not path:
        package = "backports.zstd" if name == "zstd" else name
        hint = f"pip install {package}, or install the program {name} (apt install {name}, pkg install {name})"
        raise MachineError(f"nothing on this machine can decompress {name} layers", hint)
    try:
        yield from run_filter(path, "-dcq", chunks=blob)
    except ProgramFailed as error:
        raise _damaged(error) from error


def _stated_compression(media_type: str) -> str:
    """Return the compression that a media type names: it ends in `tar+gzip` for OCI, in `tar.gzip` for Docker."""
    return next((name for name in _MAGIC if media_type.endswith((f"+{name}", f".{name}"))), "")


def _may_be_archive(head: bytes) -> bool:
    """Return whether a tar archive may begin like this: with a header or with zeros."""
    with suppress(MalformedImage):
        return not head[:BLOCK].strip(b"\0") or (len(head) >= BLOCK and has_right_checksum(head[:BLOCK]))
    return False


def describe_content(head: bytes) -> str:
    """Describe content that begins with these bytes, for an error message."""
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


def _damaged(why: object) -> ProvisionError:
    """Return the error for a stream that can't be decompressed: `why`, or the lack of memory that it means."""
    if shortage := lacks_resources(RuntimeError(str(why))):
        return shortage
    return MalformedImage(f"{_LAYER} can't be decompressed: {printable(str(why))}")
