"""Layers inflated while they stream, by what their media type says (OCI image-spec, layer.md)."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.digest import CHUNK, Reader
from provisioner.errors import MachineError, MalformedImage, ProvisionError, printable

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257


@contextmanager
def inflated(blob: io.BufferedReader, media_type: str) -> Iterator[Reader]:
    """The archive inside of `blob`.

    Raises MalformedImage, also while reading, for content that isn't what `media_type` says, and MachineError
    where nothing on this machine can inflate it.
    """
    kind = _kind(media_type)
    head = blob.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    whole = _Rejoined(head, blob)
    found = next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "tar")
    if found != kind and head:
        raise MalformedImage(f"the layer is {_describe(found, head)}, its media type says {kind}")
    if kind == "gzip":
        yield _Checked(gzip.GzipFile(fileobj=whole).read)
    elif kind == "zstd":
        with _zstd(whole) as reader:
            yield reader
    else:
        yield whole


def _kind(media_type: str) -> str:
    """`gzip`, `zstd` or `tar`: OCI says tar+gzip, Docker tar.gzip."""
    for kind in _MAGIC:
        if media_type.endswith((f"+{kind}", f".{kind}")):
            return kind
    if media_type.endswith(".tar"):
        return "tar"
    raise MalformedImage(f"the layer has the media type {printable(media_type[:100])!r}, which is no archive's")


def _describe(found: str, head: bytes) -> str:
    if found != "tar" or head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return found
    try:
        import magic

        return f"something else ({printable(magic.from_buffer(head))[:100]})"
    except (ImportError, OSError):  # libmagic can't be loaded on every phone
        return f"something else (it begins with {head[:16]!r})"


@contextmanager
def _zstd(blob: io.RawIOBase) -> Iterator[Reader]:
    """An inflating reader: Python's own since 3.14, a package, or the program."""
    try:
        try:
            from compression import zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            from backports import zstd
    except ImportError:
        with _program("zstd", blob) as reader:
            yield reader
        return
    with zstd.ZstdFile(blob) as file:
        yield _Checked(file.read, (zstd.ZstdError,))


@contextmanager
def _program(name: str, blob: io.RawIOBase) -> Iterator[Reader]:
    """The output of a program that inflates its input."""
    path = shutil.which(name)
    if not path:
        hint = "pip install 'provisioner[fast]', or install the program zstd (apt install zstd, pkg install zstd)"
        raise MachineError("nothing here can inflate zstd layers", hint)
    failure: list[ProvisionError] = []
    with subprocess.Popen(
        [path, "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:

        def feed() -> None:
            assert process.stdin
            try:
                with process.stdin:
                    shutil.copyfileobj(blob, process.stdin, CHUNK)
            except ProvisionError as error:
                failure.append(error)
            except (BrokenPipeError, ValueError):  # it has ended, or nobody reads on: then the pipe is closed
                pass

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()

        def read(size: int) -> bytes:
            assert process.stdout and process.stderr
            data = process.stdout.read(size)
            if size < 0 or len(data) < size:  # this is the end
                feeder.join()
                for error in failure:
                    raise error
                if process.wait():
                    raise MalformedImage(f"the layer can't be inflated: {printable(process.stderr.read()[:200])}")
            return data

        try:
            yield _Checked(read)
        finally:
            process.kill()


class _Rejoined(io.RawIOBase):
    """What has been read of a stream to look at it, and then the rest."""

    def __init__(self, head: bytes, rest: Reader) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._rest.read(size)
        data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        return data + self._rest.read() if size < 0 else data


class _Checked:
    """Turns what decompressors raise into MalformedImage."""

    def __init__(self, read: Callable[[int], bytes], errors: tuple[type[Exception], ...] = ()) -> None:
        self._read = read
        self._errors: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error, EOFError, *errors)

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._read(size)
        except self._errors as error:
            raise MalformedImage(f"the layer can't be inflated: {error}") from error
