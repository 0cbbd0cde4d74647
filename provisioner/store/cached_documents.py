"""The documents of a repository by way of the blob cache: a tag is asked for anew each time, what it names is kept."""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.manifest import DOCUMENT_LIMIT, INDEX_TYPES, Descriptor, Index, Manifest, media_type_of
from provisioner.image.offers import Offer
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.registry.mirrors import Mirrors
from provisioner.store.blobs import BlobCache, Origin, Served

_NESTED = 4
"""How many indexes may lead to one another."""


class CachedDocuments:
    """The indexes, manifests and configs of `registry`, from `cache` where they are there; what is missing is kept."""

    def __init__(self, reference: Reference, registry: Mirrors, cache: BlobCache) -> None:
        self.reference = reference
        self.cache = cache
        self._registry = registry

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag or a digest names at this moment."""
        named = selector if isinstance(selector, Descriptor) else self._registry.resolve(selector)
        data = self._cached(named, Served(lambda descriptor: iter([self._registry.manifest(descriptor).data])))
        return Document(data, media_type_of(data, named.media_type), named.digest)

    def config(self, manifest: Manifest) -> ImageConfig:
        """The config that `manifest` names."""
        return ImageConfig.from_json(self._cached(manifest.config, self._registry))

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """One page of the list of tags, as RegistryClient gives it: it changes, and isn't kept."""
        return self._registry.tags_page(query)

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on, not yet verified."""
        return self._registry.blob(descriptor, start)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Is told that a blob wasn't what its digest says. Whether it makes sense to ask for the whole of it again."""
        return self._registry.report_corrupt(descriptor)

    def offers(self, top: Document) -> tuple[Offer, ...]:
        """What an image has, by platform; `top` is what its tag names.

        Where an index doesn't say what its entries are for, the config of the first has the word.
        """
        document = top
        for _ in range(_NESTED):
            named = Descriptor(document.media_type, document.digest, len(document.data))
            if document.media_type not in INDEX_TYPES:
                return (Offer(self.config(Manifest.from_json(document.data)).platform, named),)
            entries = Index.from_json(document.data).manifests
            said = tuple(Offer(entry.platform, entry) for entry in entries if entry.platform)
            if said or not entries:
                return said
            document = self.manifest(entries[0])
        raise MalformedImage(f"more than {_NESTED} indexes lead to one another")

    def size(self, manifest: Descriptor) -> int | None:
        """The bytes of all layers as they are downloaded; None where `manifest` turns out to be an index."""
        document = self.manifest(manifest)
        if document.media_type in INDEX_TYPES:
            return None
        return sum(layer.size for layer in Manifest.from_json(document.data).layers)

    def _cached(self, descriptor: Descriptor, origin: Origin) -> bytes:
        if descriptor.size > DOCUMENT_LIMIT:
            raise MalformedImage(f"a document of {descriptor.size} bytes is too large: {DOCUMENT_LIMIT} is the most")
        return self.cache.get(descriptor, origin)
