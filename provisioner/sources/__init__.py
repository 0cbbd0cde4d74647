"""Where an image comes from: a registry, the cache alone, an archive or a directory.

A `Source` returns the documents of an image (`image()`), and then its layers as streams of bytes (`layers()`). Its
users need not know registries, mirrors, caches and lock files. `resolver` finds the manifest of an index for one
platform, or lists the manifests for all platforms; `tags` does that for many tags at a time. `detection` says what a
file is, `members` are the files of an archive or a directory, and `local` is the source of the images in them.
Every document is verified before it is returned, every layer when its stream has ended. May import store, registry,
image, archives, sizes, filesystem, terminal, threads and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from provisioner.image.digest import NOT_VERIFIED
from provisioner.image.image import Image, Layer
from provisioner.image.lockfile import LockedFile
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class ResolvedImage:
    """The image that a reference names for one platform, and the index that it was found by."""

    image: Image
    index: Index | None
    """The index that the reference names. None where it names a manifest, or a lock file named the manifest."""
    assumptions: tuple[str, ...] = ()
    """A line for the user about each thing that the image doesn't say."""
    cached: str = ""
    """A line for the user about what is in the cache already; empty where nothing is."""
    verified: str = ""
    """How far the content is verified: NOT_VERIFIED, or such as `by --sha256`; empty where digests cover all of it."""
    files: Mapping[Platform, LockedFile] = field(default_factory=dict)
    """Where the only layer is a file of a server of its own: these files, for locks, by platform."""

    @property
    def remarks(self) -> Iterator[str]:
        """Lines for the user: what the image doesn't say, and how far it is verified where digests don't cover all."""
        yield from self.assumptions
        if self.verified == NOT_VERIFIED:
            yield "not verified: nobody says what the file must be; --sha256 HEX does"
        elif self.verified:
            says_so = self.verified.startswith(("verified", "not verified"))
            yield self.verified if says_so else f"verified {self.verified}"


class LayerBlob(Protocol):
    """The blob of a layer, in a file that it arrives in, or that has it among others. Any thread may call methods.

    Bytes may be read before they are verified. They raise MalformedImage where the blob doesn't match its digest, and
    what has ended the download.
    """

    @property
    def start(self) -> int:
        """Where the blob begins in its file, in bytes."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the blob from its start, as it arrives. May be called more than once."""

    def wait(self, offset: int) -> int:
        """Wait for bytes of the blob behind `offset`, and return how many bytes from its start may be read.

        It returns no more than `offset` when the blob has ended there, and is verified.
        """

    def open_file(self) -> int:
        """Return a new descriptor of the file, when `wait` has returned. Its offset is shared: use pread(2)."""

    def report_read(self, position: int) -> None:
        """Record that a worker process has read the blob up to `position`, in bytes."""


class Arrivals(Protocol):
    """Counts the bytes of an image's blobs as they arrive. Any thread may call it."""

    def __call__(self, count: int, /) -> None:
        """Count bytes that were received or read; less than 0 for those that will be received again."""

    def count_cached(self, count: int, /) -> None:
        """Count bytes that were in the cache before."""


class Source(Protocol):
    """A place that an image is taken from."""

    @property
    def reference(self) -> str:
        """The full name of the image."""

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the image for `platform`, its documents verified. Raises NotFound, MalformedImage, NetworkError."""

    def layers(self, image: Image, progress: Arrivals) -> AbstractContextManager[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers from the lowest up, each with its blob.

        `progress` counts the bytes of the blobs.
        """
