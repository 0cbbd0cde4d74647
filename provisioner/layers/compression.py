"""Layers inflated while they stream, by what their media type says (OCI image-spec, layer.md)."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from provisioner.errors import MachineError, MalformedImage, ProvisionError, lacks_resources
from provisioner.terminal.escaping import printable
from provisioner.threads import BackgroundThread

OUTPUT = 1 << 19
"""The most bytes that are inflated at a time: what little that is blown up to a lot costs in memory."""

_MAGIC = {
    "gzip": (b"\x1f\x8b",),
    # A frame, or one to be skipped, as pzstd writes before each.
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))),
}
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_GZIP_WINDOW = 31  # zlib's way to ask for gzip


def inflate(blob: Iterator[bytes], media_type: str) -> Iterator[bytes]:
    """The archive inside of `blob`, in pieces of at most OUTPUT bytes; a plain one in those of `blob`.

    Raises MalformedImage for content that isn't what `media_type` says, and MachineError where nothing on this machine
    can inflate it.
    """
    kind = _kind(media_type)
    head = b""
    while len(head) < _TAR_MAGIC_AT + len(_TAR_MAGIC) and (data := next(blob, b"")):
        head += data
    found = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "tar")
    if found != kind and head:
        raise MalformedImage(f"the layer is {_describe(found, head)}, its media type says {kind}")
    yield from _INFLATERS[kind](chain((head,), blob))


def _gzip(blob: Iterator[bytes]) -> Iterator[bytes]:
    """All members of a gzip file (RFC 1952), one after the other; zeros may follow, nothing else."""
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


def _zstd(blob: Iterator[bytes]) -> Iterator[bytes]:
    """All frames of a zstd file (RFC 8878): by Python since 3.14, a package, or the program."""
    library: Any = _first_module("compression.zstd", "backports.zstd")
    if library is None:
        yield from _program("zstd", blob)
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


_INFLATERS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {"gzip": _gzip, "zstd": _zstd, "tar": iter}


def _program(name: str, blob: Iterator[bytes]) -> Iterator[bytes]:
    """The output of a program that inflates its input."""
    path = shutil.which(name)
    if not path:
        hint = "pip install 'provisioner[fast]', or install the program zstd (apt install zstd, pkg install zstd)"
        raise MachineError("nothing here can inflate zstd layers", hint)
    failures: list[Exception] = []
    with subprocess.Popen(
        [path, "-dcq"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        feeder = BackgroundThread(_feed, "inflate", (process, blob, failures))
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


def _feed(process: subprocess.Popen[bytes], blob: Iterator[bytes], failures: list[Exception]) -> None:
    """Give `blob` to a program; what ends it early is noted in `failures`."""
    assert process.stdin
    try:
        with process.stdin:
            for data in blob:
                view = memoryview(data)
                while view:
                    view = view[process.stdin.write(view) :]
    except (BrokenPipeError, ValueError):  # it has ended, or nobody reads on: then the pipe is closed
        return
    except Exception as error:  # noqa: BLE001  the reader raises it
        failures.append(error)


def _kind(media_type: str) -> str:
    """`gzip`, `zstd` or `tar`: OCI says tar+gzip, Docker tar.gzip."""
    for kind in _MAGIC:
        if media_type.endswith((f"+{kind}", f".{kind}")):
            return kind
    if media_type.endswith(".tar"):
        return "tar"
    raise MalformedImage(f"the layer has the media type {printable(media_type[:100])!r}, which is no archive's")


def _describe(found: str, head: bytes) -> str:
    """What content is that isn't what it should be, for people."""
    if found != "tar" or head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return found
    try:
        magic: Any = importlib.import_module("magic")
        return f"something else ({printable(magic.from_buffer(head[:4096]))[:100]})"
    except (ImportError, OSError):  # libmagic can't be loaded on every phone
        return f"something else (it begins with {head[:16]!r})"


def _first_module(*names: str) -> Any:
    """The first of these modules that is installed; None where none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _damaged(why: object) -> ProvisionError:
    """Return the error for a stream that can't be inflated, for the reason `why` or for lack of memory."""
    if shortage := lacks_resources(RuntimeError(str(why))):
        return shortage
    return MalformedImage(f"the layer can't be inflated: {printable(str(why))}")
