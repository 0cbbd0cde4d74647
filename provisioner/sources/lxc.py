"""Images of LXC image servers: the newest root file system of a name, which goes through the blob cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from provisioner.errors import NetworkError, NotFound, UsageError, error_context
from provisioner.image.image import Image, Layer, RootfsArchive
from provisioner.image.lockfile import Lock, LockedFile
from provisioner.image.manifest import Descriptor
from provisioner.image.platform import Platform
from provisioner.image.simplestreams import ROOTFS_TYPE, Products, build_for, build_name
from provisioner.image.source_name import Lxc
from provisioner.registry.lxc_server import LxcImages, Missing
from provisioner.sources import Arrivals, LayerBlob, ResolvedImage
from provisioner.sources.layer_downloads import LayerDownloads
from provisioner.store.blobs import BlobCache, BlobSource
from provisioner.store.known_tags import KnownTag, KnownTags

_ONLINE = "run once without --offline"


@dataclass
class _RemoteFile(BlobSource):
    """The file of one build on the servers. With `images` None, nothing is asked for."""

    images: LxcImages | None
    name: str
    path: str = ""

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of the file from `start` on. Raises NetworkError offline."""
        if self.images is None:
            raise NetworkError(f"offline: the cache has no sound file {descriptor.digest} of {self.name}", _ONLINE)
        return self.images.blob(self.path, descriptor, start)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Return whether another try may bring the right bytes."""
        return self.images is not None and self.images.report_corrupt(descriptor)


class LxcSource(LayerDownloads):
    """The image that `name` names on LXC image servers, or that `lock` names in its place.

    Without `images`, it comes from the cache alone.
    """

    def __init__(
        self, name: Lxc, images: LxcImages | None, cache: BlobCache, known_tags: KnownTags, lock: Lock | None = None
    ) -> None:
        self._file = _RemoteFile(images, str(name))
        super().__init__(self._file, cache, 1)
        self._name = name
        self._images = images
        self._known_tags = known_tags
        self._lock = lock
        self._locked_platform: Platform | None = None

    @property
    def reference(self) -> str:
        """The full name."""
        return str(self._name)

    def platforms(self) -> tuple[Platform, ...]:
        """Return the platforms that the server has images for; none where it isn't asked."""
        if self._images is None or self._lock:
            return ()
        return tuple(self._images.products().builds(self._name))

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the image of the newest build for `platform`. Nothing of it is downloaded yet."""
        if self._lock:
            return self._locked(self._lock, platform)
        if self._images is None:
            return self._cached(platform)
        builds = self._images.products().builds(self._name)
        found, build = build_for(builds, platform, self.reference)
        self._file.path = build.path
        self._known_tags.save(_key(self._name, found), KnownTag(build.digest, ROOTFS_TYPE))
        files = {each: LockedFile(other.digest, other.path, other.size) for each, other in builds.items()}
        return _resolved(
            build.descriptor, found, f"by the list of {self._images.listed_by} for its build {build.name}", files
        )

    @contextmanager
    def layers(self, image: Image, progress: Arrivals) -> Iterator[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the root file system as the only layer. Raises NotFound where no server has it any more."""
        blob = image.manifest.layers[0]
        if self._images is None and not self._cache.has(blob.digest):
            raise NetworkError(f"offline: {self.reference} is not in the cache: {blob.digest}", _ONLINE)
        try:
            with super().layers(image, progress) as layers:
                yield layers
        except Missing as error:
            build = build_name(self._file.path)
            if self._lock:
                what = f"the build {build} of {self.reference}, locked as {blob.digest}, is gone"
                hint = "servers keep builds for days: name a mirror that still has it, or lock the build of now: --lock"
                raise NotFound(f"{what}: {error.message}", hint) from error
            hint = "its list is newer than its files, or older: run again later, or name a mirror"
            raise NotFound(f"the build {build} of {self.reference} is not there: {error.message}", hint) from error

    def newer_build(self, products: Products) -> str:
        """Return a line about the locked build where the list of now names another one; else nothing.

        Raises NotFound and MalformedImage.
        """
        file = self._lock.files.get(self._locked_platform) if self._lock and self._locked_platform else None
        if file is None or self._lock is None:
            return ""
        product = next((each for each in products.named(self._name) if each.platform == self._locked_platform), None)
        newest, locked = product.newest if product else None, build_name(file.path)
        if product and newest and newest.digest == file.digest:
            return ""
        line = f"{self.reference} is locked at the build {locked} since {self._lock.locked:%Y-%m-%d}"
        if product and locked not in product.versions:
            line += ", which is no more on the server"
        return f"{line}; the newest is {newest.name}" if newest else f"{line}; now there is none"

    def _locked(self, lock: Lock, platform: Platform) -> ResolvedImage:
        with error_context(self.reference):
            found, digest = lock.manifest(platform)
            file = lock.files.get(found)
            if file is None:
                hint = "write the lock again: provision --lock FILE IMAGE DIR"
                raise UsageError(f"the lock doesn't say which file is {digest}", hint)
        self._file.path, self._locked_platform = file.path, found
        return _resolved(Descriptor(ROOTFS_TYPE, digest, file.size), found, "by the lock", lock.files)

    def _cached(self, platform: Platform) -> ResolvedImage:
        """Return the image that the name had when a server was asked last. Raises NetworkError."""
        for found in _satisfied_by(platform):
            if (known := self._known_tags.find(_key(self._name, found))) and self._cache.has(known.digest):
                with self._cache.errors(), self._cache.open(known.digest) as file:
                    size = file.seek(0, 2)
                verified = "by the list of an earlier run"
                return _resolved(Descriptor(ROOTFS_TYPE, known.digest, size), found, verified, {})
        raise NetworkError(f"offline: the cache has no {self.reference} for {platform}", _ONLINE)


def _resolved(
    blob: Descriptor, platform: Platform, verified: str, files: Mapping[Platform, LockedFile]
) -> ResolvedImage:
    return ResolvedImage(Image.of_rootfs(blob, RootfsArchive(), platform), None, verified=verified, files=files)


def _key(name: Lxc, platform: Platform) -> str:
    """Return what a name for a platform is called among known tags."""
    return f"{name} for {platform}"


def _satisfied_by(host: Platform) -> list[Platform]:
    """Return the platforms whose images run on `host`, the best first."""
    variants = [host.variant, *(f"v{level}" for level in range(host.level, 0, -1)), ""]
    return [Platform(host.os, host.architecture, variant) for variant in dict.fromkeys(variants)]
