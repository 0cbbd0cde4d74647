"""Images from a registry: documents straight from it, layers through the blob cache, downloaded ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.errors import MalformedImage, NetworkError, UsageError, error_context
from provisioner.image.digest import Digest
from provisioner.image.image import Image, Layer
from provisioner.image.lockfile import Lock
from provisioner.image.manifest import DOCUMENT_LIMIT, INDEX_TYPES, Descriptor, Index, Manifest
from provisioner.image.platform import Platform, choose
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.store.blobs import BlobCache, Download, Unverified, downloading
from provisioner.store.documents import DocumentSource

_NESTED = 4
"""How many indexes may lead to one another."""


class RegistrySource:
    """The image at `reference`, or what `lock` holds it to. `jobs` blobs are downloaded at a time."""

    def __init__(
        self, reference: Reference, registry: DocumentSource, cache: BlobCache, jobs: int, lock: Lock | None = None
    ) -> None:
        self._reference = reference
        self._registry = registry
        self._cache = cache
        self._jobs = jobs
        self._verified_first = False
        self._lock = lock
        self.index: Index | None = None
        """What the reference names, once `image()` has asked, where that is an index."""

    @property
    def reference(self) -> str:
        """The full reference."""
        return str(self._reference)

    def image(self, platform: Platform) -> Image:
        """The image for `platform`: index, if there is one, to manifest to config, each checked against its digest.

        Where a lock has the word, it names the manifest. Raises UsageError where it contradicts itself.
        """
        if self._lock:
            return self._locked_image(self._lock, platform)
        top = self._registry.manifest(self._reference.selector)
        if top.media_type not in INDEX_TYPES:
            return self._followed(top, None, None, platform)
        with error_context(self._reference.familiar):
            self.index = Index.from_json(top.data)
        return self._followed(top, top.digest, None, platform)

    def _locked_image(self, lock: Lock, platform: Platform) -> Image:
        with error_context(self._reference.familiar):
            stated, digest = lock.manifest(platform)
        image = self._followed(self._registry.manifest(str(digest)), lock.index, stated, platform)
        layers = tuple(layer.digest for layer in image.manifest.layers)
        if lock.layers.get(stated, layers) != layers:
            raise UsageError(
                f"{self._reference.familiar}: the lock names other layers for {stated} than its manifest does",
                "write it anew: provision --lock FILE IMAGE DIR",
            )
        return image

    def _followed(self, document: Document, index: Digest | None, stated: Platform | None, platform: Platform) -> Image:
        """The image that `document` leads to; it is said to be for the platform `stated`."""
        for _ in range(_NESTED):
            if document.media_type not in INDEX_TYPES:
                return self._image(document, index, stated, platform)
            with error_context(self._reference.familiar):
                chosen = _chosen(Index.from_json(document.data), platform)
            stated = chosen.platform or stated
            document = self._registry.manifest(chosen)
        raise MalformedImage(f"{self._reference.familiar}: more than {_NESTED} indexes lead to one another")

    def _image(self, document: Document, index: Digest | None, stated: Platform | None, wanted: Platform) -> Image:
        """The image of a manifest that an index, if there was one, gave for the platform `stated`."""
        with error_context(self._reference.familiar):
            config = Manifest.from_json(document.data).config
            if config.size > DOCUMENT_LIMIT:
                raise MalformedImage(f"the config has {config.size} bytes, {DOCUMENT_LIMIT} is the most")
            data = self._cache.get(config, self._registry)
            image = Image.from_documents(document.data, data, index, stated)
            choose([(image.config.platform, image)], wanted, "the image")
            return image

    @contextmanager
    def layers(
        self, image: Image, progress: Callable[[int], None]
    ) -> Iterator[Iterator[tuple[Layer, Iterator[bytes]]]]:
        """The layers with their blobs; downloads start at once and run ahead.

        Raises Unverified when something that a blob's reader chokes on was not verified yet: the next time, blobs are
        given out when they are.
        """
        # A layer may occur more than once, and is downloaded once.
        arrivals = {blob: self._arrival(blob, progress) for blob in image.manifest.layers}
        with downloading(list(arrivals.values()), self._jobs):
            try:
                yield ((layer, arrivals[layer.blob].chunks()) for layer in image.layers)
            except MalformedImage as error:
                if any(arrival.is_doubtful for arrival in arrivals.values()) and not self._verified_first:
                    self._verified_first = True
                    raise Unverified(error.message, error.hint) from error
                raise
            except NetworkError as error:
                if kept := sum(self._cache.kept(blob) for blob in arrivals):
                    error.hint = f"{kept / 1e6:.1f} MB are kept: run again to go on; {error.hint}"
                raise

    def _arrival(self, blob: Descriptor, progress: Callable[[int], None]) -> Download:
        return Download(blob, self._cache, self._registry, progress, verified_first=self._verified_first)


def _chosen(index: Index, wanted: Platform) -> Descriptor:
    """The entry for the platform `wanted`. Where none says what it is for, the config of the first has the word."""
    said = [(entry.platform, entry) for entry in index.manifests if entry.platform]
    return choose(said or [(wanted, entry) for entry in index.manifests], wanted, "the image")
