"""The documents of a repository by way of the blob cache: a tag is asked for anew each time, what it names is kept."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.blobs import BlobCache, Origin, Served
from provisioner.errors import MalformedImage
from provisioner.image import DOCUMENT_LIMIT, INDEX_TYPES, Descriptor, ImageConfig, Index, Manifest, media_type_of
from provisioner.platforms import Platform
from provisioner.reference import Reference
from provisioner.registry.client import Document, RegistryClient
from provisioner.registry.credentials import Credentials

_NESTED = 4
"""How many indexes may lead to one another."""


@dataclass(frozen=True)
class Offer:
    """What an image has for one platform: its manifest, and the bytes of its layers where that is known already."""

    platform: Platform
    manifest: Descriptor | None = None
    size: int | None = None


class CachedDocuments(RegistryClient):
    """A client that takes indexes, manifests and configs from `cache`, verified, and keeps there what is missing."""

    def __init__(
        self,
        reference: Reference,
        cache: BlobCache,
        *,
        insecure: bool = False,
        connections: int = 4,
        credentials: Credentials = Credentials(),  # noqa: B008  it is frozen
    ) -> None:
        super().__init__(reference, insecure=insecure, connections=connections, credentials=credentials)
        self.reference = reference
        self.cache = cache

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag or a digest names at this moment."""
        named = selector if isinstance(selector, Descriptor) else self.resolve(selector)
        data = self._cached(
            named, Served(lambda descriptor: iter([super(CachedDocuments, self).manifest(descriptor).data]))
        )
        return Document(data, media_type_of(data, named.media_type), named.digest)

    def config(self, manifest: Manifest) -> ImageConfig:
        """The config that `manifest` names."""
        return ImageConfig.from_json(self._cached(manifest.config, self))

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
