"""Images from files on this machine: an archive or a directory, whose layers are read in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from provisioner.errors import NotFound
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.image.digest import Digest
from provisioner.image.image import Image, Layer
from provisioner.image.lockfile import Lock
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform
from provisioner.sources import Arrivals, LayerBlob, ResolvedImage
from provisioner.sources.file_blob import FileBlob, verifying
from provisioner.sources.members import Member, Members
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class FoundImage:
    """An image that was found in files."""

    image: Image
    layers: tuple[Member, ...]
    """The files of its layers, from the lowest up."""
    verified: str
    """What of it is compared with what, for people."""
    index: Index | None = None
    """The index that it was found by, if any."""
    has_blob_digests: bool = True
    """Whether the manifest's digests are those of the files; if not, only the diff_ids are compared."""
    assumptions: tuple[str, ...] = ()
    """A line for the user about each thing that the image doesn't say."""


LOCK_AGAIN = "write the lock again: provision --lock FILE SOURCE DIR"


class ImageFiles(Protocol):
    """The images of an archive or a directory, of which one is chosen by name."""

    def image(self, platform: Platform, manifest: Digest | None = None) -> FoundImage:
        """Return the image for `platform`, its documents verified; only one with this digest of its manifest, if any.

        Where several images are there and none is chosen by its name, that digest chooses.
        Raises NotFound, UsageError, MalformedImage and MachineError.
        """

    def platforms(self) -> tuple[Platform, ...]:
        """Return all platforms that there is an image for."""


class LocalSource:
    """The image in `files`, whose content is in `members`; `reference` names it in the record.

    With `locks`, it is the first image that one of them names.
    """

    def __init__(self, reference: str, members: Members, files: ImageFiles, locks: Sequence[Lock] = ()) -> None:
        self.reference = reference
        """The word that names the image."""
        self._members = members
        self._files = files
        self._locks = locks
        self._found: FoundImage | None = None

    def platforms(self) -> tuple[Platform, ...]:
        """Return all platforms that there is an image for. Raises as `image` does."""
        return self._files.platforms()

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the image for `platform`, its documents verified.

        Raises NotFound, also where it isn't the one that the lock names, UsageError, MalformedImage, MachineError.
        """
        found = self._locked(platform) if self._locks else self._files.image(platform)
        self._found = found
        return ResolvedImage(found.image, found.index, found.assumptions, verified=found.verified)

    def _locked(self, platform: Platform) -> FoundImage:
        """Return the image that one of the locks names. Raises as `image` does, where none fits for the first one."""
        problems: list[NotFound] = []
        for lock in self._locks:
            try:
                locked = lock.manifest(platform)[1]
                found = self._files.image(platform, locked)
            except NotFound as error:
                problems.append(error)
                continue
            if found.image.digest == locked:
                return found
            what = f"{self.reference} has no image {locked!s:.19}, which is locked: it has {found.image.digest!s:.19}"
            problems.append(NotFound(what, LOCK_AGAIN))
        if len(problems) > 1:
            names = ", ".join(printable(lock.reference) for lock in self._locks)
            raise NotFound(f"{self.reference} has none of the images that are locked: {names}", LOCK_AGAIN)
        raise problems[0]

    @contextmanager
    def layers(self, image: Image, progress: Arrivals) -> Iterator[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers of the image that `image()` has returned last, with their blobs, to be read in place."""
        found = self._found
        assert found and found.image is image
        with ExitStack() as stack:
            blobs: dict[Member, FileBlob] = {}  # a file may be a layer more than once
            for layer, member in zip(image.layers, found.layers, strict=True):
                if member not in blobs:
                    # The digest of an uncompressed layer is its diff_id, which is compared while it is unpacked.
                    is_compared = found.has_blob_digests and layer.blob.digest != layer.diff_id
                    digest = layer.blob.digest if is_compared else None
                    file = stack.enter_context(closing_descriptor(self._members.open(member)))
                    what = printable(member.name)
                    blobs[member] = FileBlob(file, member.start, member.size, what, progress, digest)
            stack.enter_context(verifying(list(blobs.values())))
            yield ((layer, blobs[member]) for layer, member in zip(image.layers, found.layers, strict=True))
