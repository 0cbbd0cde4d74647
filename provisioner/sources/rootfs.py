"""Root file systems in archives, as images of one layer."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from provisioner.archives.compression import compression_of, decompress
from provisioner.archives.tar import Archive
from provisioner.errors import MalformedImage, UsageError, error_context, machine_errors
from provisioner.image.digest import CHUNK, NOT_VERIFIED, Digest
from provisioner.image.image import Image, Layer, RootfsArchive
from provisioner.image.manifest import Descriptor
from provisioner.image.platform import Platform
from provisioner.sources import Arrivals, LayerBlob, ResolvedImage
from provisioner.sources.detection import Format, format_name, formats_of
from provisioner.sources.file_blob import FileBlob
from provisioner.sources.root_search import RootSearch
from provisioner.sources.squashfs import SquashfsBlob, is_squashfs

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
"""The media type in the manifest that stands for a rootfs archive; the compression follows it."""
SQUASHFS_TYPE = "application/vnd.squashfs"
"""That of a squashfs."""
_HEAD = 512


class RootfsSource:
    """The rootfs archive in an open file.

    `reference` is its canonical name, and `name` that for messages. `digest` is what the whole file is known to have;
    without one, it is computed. `verified` says how far that is verified. With `is_named`, the user says that it is a
    root file system, whatever names are in it.
    """

    def __init__(
        self,
        file: io.FileIO,
        reference: str,
        name: str,
        digest: Digest | None = None,
        verified: str = NOT_VERIFIED,
        *,
        is_named: bool = False,
    ) -> None:
        self._file = file
        self._reference = reference
        self._name = name
        self._digest = digest
        self._verified = verified
        self._is_named = is_named

    @property
    def reference(self) -> str:
        """The name that the record has."""
        return self._reference

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the archive as an image that is assumed to be for `platform`. Raises MalformedImage, MachineError."""
        with error_context(self._name):
            if self._digest is None:
                self._digest = hash_file(self._file, self._name)
            size = os.fstat(self._file.fileno()).st_size
            head = os.pread(self._file.fileno(), _HEAD, 0)
            media_type = SQUASHFS_TYPE if is_squashfs(head) else f"{MEDIA_TYPE}+{compression_of(head)}".rstrip("+")
            descriptor = Descriptor(media_type, self._digest, size)
            rootfs = self._form(head)
        variant = "" if platform.architecture == "amd64" else platform.variant  # the machine's own level
        assumed = Platform(platform.os, platform.architecture, variant)
        return ResolvedImage(Image.of_rootfs(descriptor, rootfs, assumed), None, verified=self._verified)

    def platforms(self) -> tuple[Platform, ...]:
        """Return nothing: an archive doesn't say what it is for."""
        return ()

    @contextmanager
    def layers(self, image: Image, progress: Arrivals) -> Iterator[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the archive as the only layer. Its reader verifies it once more."""
        (layer,) = image.layers
        file = self._file.fileno()
        if layer.rootfs and layer.rootfs.is_converted:
            with closing(SquashfsBlob(file, self._name, progress)) as squashfs:
                yield iter([(layer, squashfs)])
        else:
            yield iter([(layer, FileBlob(file, 0, layer.blob.size, self._name, progress))])

    def _form(self, head: bytes) -> RootfsArchive:
        """Return how the file that begins with `head` holds the root file system. Raises as `_find_root` does."""
        if is_squashfs(head):
            with closing(SquashfsBlob(self._file.fileno(), self._name)) as squashfs:
                files = list(squashfs.files())
            root = self._find_root(path for path, _ in files)
            return RootfsArchive(root, is_converted=True, unpacked_size=sum(size for _, size in files))
        blob = FileBlob(self._file.fileno(), 0, os.fstat(self._file.fileno()).st_size, self._name)
        archive = Archive(decompress(blob.chunks(), "", "it"))
        needs_end = self._verified == NOT_VERIFIED and not compression_of(head)
        root = self._find_root(entry.path for entry in archive)
        return RootfsArchive(root, is_guess=not self._is_named, needs_end=needs_end)

    def _find_root(self, paths: Iterable[bytes]) -> bytes:
        """Return the directory in the archive that is the root, by the paths of its files.

        Raises MalformedImage, and UsageError where none is.
        """
        search, is_empty, names = RootSearch(), True, set[str]()
        for path in paths:
            search.add(path)
            is_empty = False
            names.add(format_name(path))
            if search.root is not None:
                return search.root
        found = search.finish()
        if is_empty:
            raise MalformedImage("there is nothing in it", "name an archive of a root file system")
        if found is None and (formats := formats_of(names)):
            word = "docker-archive" if formats[0] is Format.DOCKER else "oci-archive"
            raise UsageError(f"it is {formats[0].value}, and no root file system", f"name it as {word}:FILE")
        if found is None and not self._is_named:
            hint = "if it is one all the same, say so: rootfs:FILE"
            raise UsageError("no directory in it looks like a root file system, with bin, etc, usr and var", hint)
        return found or b""


def hash_file(file: io.FileIO, name: str) -> Digest:
    """Return the SHA-256 of an open file. Raises MachineError."""
    hasher, offset = hashlib.sha256(), 0
    with machine_errors(f"read {name}"):
        while chunk := os.pread(file.fileno(), CHUNK, offset):
            hasher.update(chunk)
            offset += len(chunk)
    return Digest("sha256", hasher.hexdigest())


def hashed(chunks: Iterable[bytes], digests: list[Digest]) -> Iterator[bytes]:
    """Yield `chunks`, and append their SHA-256 to `digests` in the end."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    digests.append(Digest("sha256", hasher.hexdigest()))


def check_digest(found: Digest, expected: Digest, name: str, who: str) -> None:
    """Raise MalformedImage where a file has another digest than `who` says."""
    if found != expected:
        hint = "check the file and the digest; if they are right, the file was changed: don't use it"
        raise MalformedImage(f"{name} has the SHA-256 {found.hex}, {who} {expected.hex}", hint)
