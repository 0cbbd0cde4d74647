"""A registry whose indexes, manifests and configs are stored in the blob cache."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from provisioner.errors import MachineError, MalformedImage, NotAllowed, NotFound
from provisioner.image.config import ImageConfig
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import DOCUMENT_LIMIT, Descriptor, Manifest, media_type_of
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.store.blobs import BlobCache, BlobInMemory, BlobSource
from provisioner.store.download import fetch_blob
from provisioner.store.known_tags import KnownTag, KnownTags


class DocumentSource(BlobSource, Protocol):
    """Where the documents and blobs of one repository come from."""

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the index or manifest that a tag or a digest names, verified."""


class Registry(DocumentSource, Protocol):
    """A repository in a registry, or in its mirrors."""

    def resolve(self, selector: str) -> Descriptor:
        """Return what a tag or a digest names now, by the headers alone where they say enough."""

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """Return one page of the list of tags for `query`, not parsed, and its Link header."""


class CachingRegistry:
    """The repository of `reference` in `registry`, with a cache: a tag is resolved each time, a digest is read once.

    With `known_tags`, a tag that is known is asked for with HEAD first, and others with GET. Without, HEAD always comes
    first, which suits those who look at many tags of the same digest. A cache that can't be written isn't an error for
    `manifest()`. Methods may be called from several threads, and raise what those of `registry` raise.
    """

    def __init__(
        self, reference: Reference, registry: Registry, cache: BlobCache, known_tags: KnownTags | None = None
    ) -> None:
        self.reference = reference
        self.cache = cache
        self._registry = registry
        self._known_tags = known_tags
        self._locks: dict[Digest, threading.Lock] = {}

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the index or manifest that a tag names now, or that has a digest. A Descriptor's size is checked."""
        if isinstance(selector, str):
            if ":" not in selector:
                return self._document_of_tag(selector)
            digest, media_type, size = Digest.parse(selector), "", None
        else:
            digest, media_type, size = selector.digest, selector.media_type, selector.size
        with self._locks.setdefault(digest, threading.Lock()):  # threads that ask at the same time download it once
            document = cached_document(self.cache, digest, media_type, size)
            return document or self._save(self._registry.manifest(selector))

    def resolve(self, selector: str) -> Descriptor:
        """Return what a tag or a digest names now. That is never cached."""
        return self._registry.resolve(selector)

    def config(self, manifest: Manifest, platform: Platform | None = None) -> ImageConfig:
        """Return the config that `manifest` names; `platform` is assumed where it states none.

        Raises MachineError where the cache can't be written.
        """
        return ImageConfig.from_json(fetch_config(manifest, self.cache, self._registry), platform)

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """Return one page of the list of tags and its Link header. That is never cached."""
        return self._registry.tags_page(query)

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Return the bytes of a blob from `start` on, not yet verified, from the registry."""
        return self._registry.blob(descriptor, start)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Report that a blob didn't match its digest. Return whether another download may bring the right bytes."""
        return self._registry.report_corrupt(descriptor)

    def _document_of_tag(self, tag: str) -> Document:
        if self._known_tags is None:
            with suppress(NotFound):  # the registry's headers were wrong, or it knows only tags
                return self.manifest(str(self._registry.resolve(tag).digest))
            return self._save(self._registry.manifest(tag))
        if document := self._known_document(tag, self._known_tags):
            return document
        document = self._save(self._registry.manifest(tag))
        self._known_tags.save(self.reference, KnownTag(document.digest, document.media_type))
        return document

    def _known_document(self, tag: str, known_tags: KnownTags) -> Document | None:
        """Return the document that the tag named last, if the registry says that it still does.

        This costs a HEAD request. Docker Hub counts GET requests for manifests as pulls.
        """
        known = known_tags.find(self.reference) if tag == self.reference.tag else None
        document = cached_document(self.cache, *known) if known else None
        with suppress(NotFound, NotAllowed):  # some registries refuse HEAD
            if document and self._registry.resolve(tag).digest == document.digest:
                return document
        return None

    def _save(self, document: Document) -> Document:
        """Write a document to the cache, if it can be written, and return it."""
        with suppress(MachineError):
            descriptor = Descriptor(document.media_type, document.digest, len(document.data))
            fetch_blob(descriptor, self.cache, BlobInMemory(document.data))
        return document


def cached_document(cache: BlobCache, digest: Digest, media_type: str = "", size: int | None = None) -> Document | None:
    """Return the document with this digest, verified; None where the cache doesn't have it, or it is damaged.

    `media_type` is what its descriptor says. Raises MalformedImage where it doesn't have the announced `size`, or is
    neither an index nor a manifest.
    """
    try:
        with io.BufferedReader(cache.open(digest)) as file:
            data = file.read(DOCUMENT_LIMIT + 1)
            verify(data, digest, None, "the cached document")
            with suppress(OSError):  # the cache may be another user's
                os.utime(file.fileno())  # last use, for pruning
    except (OSError, MalformedImage):
        return None
    if size is not None and len(data) != size:
        raise MalformedImage(f"the cached document has {len(data)} bytes, {size} were announced")
    return Document(data, media_type_of(data, media_type), digest)


def fetch_config(manifest: Manifest, cache: BlobCache, source: BlobSource) -> bytes:
    """Return the config that `manifest` names, from `cache` or else from `source`. Raises MalformedImage."""
    config = manifest.config
    if config.size > DOCUMENT_LIMIT:
        raise MalformedImage(f"the config has {config.size} bytes, which is too large: {DOCUMENT_LIMIT} is the most")
    return fetch_blob(config, cache, source)
