"""Images from a registry: layers go through the blob cache, and are downloaded ahead of their readers."""

from __future__ import annotations

from collections.abc import Callable

from provisioner.errors import UsageError, error_context
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.lockfile import Lock
from provisioner.image.manifest import INDEX_TYPES, Index, Manifest
from provisioner.image.platform import Platform, choose
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.sizes import size_text
from provisioner.sources import ResolvedImage
from provisioner.sources.layer_downloads import LayerDownloads
from provisioner.sources.resolver import ResolvedManifest, find_image
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import DocumentSource, fetch_config


class RegistrySource(LayerDownloads):
    """The image that `reference` names, or that `lock` names in its place. `jobs` blobs are downloaded at a time.

    `ask_tag` is called when the registry is about to be asked for what the lock names.
    """

    def __init__(
        self,
        reference: Reference,
        registry: DocumentSource,
        cache: BlobCache,
        jobs: int,
        lock: Lock | None = None,
        ask_tag: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(registry, cache, jobs)
        self._reference = reference
        self._registry = registry
        self._lock = lock
        self._ask_tag = ask_tag

    @property
    def reference(self) -> str:
        """The full reference."""
        return str(self._reference)

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the image for `platform`: from the index, if there is one, to manifest and config, each verified.

        A lock names the manifest. Raises UsageError where the lock contradicts the manifest.
        """
        if self._lock:
            return self._resolved(self._locked_image(self._lock, platform), None)
        top = self._registry.manifest(self._reference.selector)
        if top.media_type not in INDEX_TYPES:
            return self._resolved(self._found(top, None, None, platform), None)
        with error_context(self._reference.familiar):
            index = Index.from_json(top.data)
        return self._resolved(self._found(top, top.digest, None, platform), index)

    def _locked_image(self, lock: Lock, platform: Platform) -> Image:
        with error_context(self._reference.familiar):
            stated, digest = lock.manifest(platform)
        if self._ask_tag:
            self._ask_tag()
        image = self._found(self._registry.manifest(str(digest)), lock.index, stated, platform)
        layers = tuple(layer.digest for layer in image.manifest.layers)
        if lock.layers.get(stated, layers) != layers:
            raise UsageError(
                f"{self._reference.familiar}: the lock names other layers for {stated} than its manifest does",
                "write the lock again: provision --lock FILE IMAGE DIR",
            )
        return image

    def _found(self, top: Document, index: Digest | None, stated: Platform | None, platform: Platform) -> Image:
        """Return the image for `platform` that `top` leads to. `stated` is its platform by a lock, if any."""

        def build(resolved: ResolvedManifest) -> Image:
            with error_context(self._reference.familiar):
                manifest = Manifest.from_json(resolved.document.data)
                config = fetch_config(manifest, self._cache, self._registry)
                known = resolved.platform or stated
                image = Image.from_documents(resolved.document.data, config, index, known, platform)
                choose([(image.config.platform, image)], platform, "the image")
                return image

        return find_image(self._registry, top, platform, build, self._reference.familiar)

    def _resolved(self, image: Image, index: Index | None) -> ResolvedImage:
        """Return the image with the index that it was found by, and what had to be assumed."""
        assumed = f"{self._reference.familiar} doesn't say which machines it is for: {image.config.platform} is assumed"
        assumptions = () if image.config.states_platform else (assumed,)
        return ResolvedImage(image, index, assumptions, cached=self._cached_text(image))

    def _cached_text(self, image: Image) -> str:
        """Return one line about what needn't be downloaded; empty where all has to be."""
        blobs = set(image.manifest.layers)
        whole = {blob for blob in blobs if self._cache.has(blob.digest)}
        size = sum(blob.size for blob in whole) + sum(map(self._cache.resumable_bytes, blobs - whole))
        if not size:
            return ""
        if whole == blobs:
            return f"the cache has all of it: {size_text(size)}"
        return f"the cache has {size_text(size)} of {size_text(image.download_size)}"
