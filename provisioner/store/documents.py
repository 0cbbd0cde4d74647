"""The documents of an image by way of the cache, and notes of what tags named when they were last asked for."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from provisioner.errors import MachineError, MalformedImage, NotAllowed, NotFound
from provisioner.filesystem.atomic import replace_in
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import DOCUMENT_LIMIT, Descriptor, media_type_of
from provisioner.image.reference import Reference
from provisioner.registry.client import Document
from provisioner.store.blobs import BlobCache, Origin
from provisioner.store.prune import TAGS


class DocumentSource(Origin, Protocol):
    """Where documents and blobs of one repository come from."""

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag or a digest names, verified."""


class Registry(DocumentSource, Protocol):
    """The same, where tags may move."""

    def resolve(self, selector: str) -> Descriptor:
        """What a tag names now, by its headers alone where that is possible."""


class Scratch(BlobCache):
    """A cache that goes with the run."""

    def kept(self, descriptor: Descriptor) -> int:
        """How many bytes of a blob will be there in the next run: none."""
        return 0


class Documents:
    """Indexes and manifests in the cache, each verified when it is read; and notes of what tags named.

    A cache that can't be written is no reason to fail: then nothing is kept.
    """

    def __init__(self, cache: BlobCache) -> None:
        self._cache = cache

    def find(self, digest: Digest, media_type: str = "") -> Document | None:
        """The document with this digest; None where it isn't there, or is damaged."""
        try:
            with io.BufferedReader(self._cache.open(digest)) as file:
                data = file.read(DOCUMENT_LIMIT + 1)
                with suppress(OSError):  # the cache may be another user's
                    os.utime(file.fileno())
            verify(data, digest, None, "the cached document")
        except (OSError, MalformedImage):
            return None
        return Document(data, media_type_of(data, media_type), digest)

    def keep(self, document: Document) -> None:
        """Keep a document."""
        with suppress(MachineError):
            descriptor = Descriptor(document.media_type, document.digest, len(document.data))
            self._cache.get(descriptor, _Given(document.data))

    def note(self, reference: Reference, document: Document) -> None:
        """Note that `reference` names this document now."""
        note = {"reference": str(reference), "digest": str(document.digest), "mediaType": document.media_type}
        with suppress(OSError):
            tags = self._cache.files.folder(TAGS, create=True)
            replace_in(tags, _file_name(reference), json.dumps(note).encode(), 0o600)

    def noted(self, reference: Reference) -> tuple[Digest, str] | None:
        """The digest and the media type of what `reference` named last; None where nobody has asked."""
        try:
            with open(self._cache.files.open(TAGS, _file_name(reference)), "rb") as file:
                note = json.loads(file.read(DOCUMENT_LIMIT))
                with suppress(OSError):
                    os.utime(file.fileno())
            if note["reference"] != str(reference) or not isinstance(note["mediaType"], str):
                return None
            digest = Digest.parse(note["digest"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError, MalformedImage):
            return None
        return digest, note["mediaType"]


def _file_name(reference: Reference) -> str:
    return hashlib.sha256(str(reference).encode()).hexdigest()


@dataclass(frozen=True)
class _Given:
    """Where a document comes from that is at hand."""

    data: bytes

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        yield self.data[start:]

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        return True  # it is verified: what a killed run has left was wrong


class Kept:
    """A registry whose documents are kept: a tag is asked for anew each time, a digest once."""

    def __init__(self, reference: Reference, registry: Registry, documents: Documents) -> None:
        self._reference = reference
        self._registry = registry
        self._documents = documents

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag names now, or a digest always."""
        document = by_digest(self._documents, selector)
        if not document and selector == self._reference.tag:
            document = self._unmoved(selector)
        if document:
            return document
        document = self._registry.manifest(selector)
        if self._documents.find(document.digest) is None:
            self._documents.keep(document)
        if isinstance(selector, str) and ":" not in selector:
            self._documents.note(self._reference, document)
        return document

    def _unmoved(self, tag: str) -> Document | None:
        """The document that the tag named last, where the registry says that it still does.

        It is asked for headers only: Docker Hub counts a manifest as a pull.
        """
        noted = self._documents.noted(self._reference)
        document = self._documents.find(*noted) if noted else None
        with suppress(NotFound, NotAllowed):  # some refuse HEAD
            if document and self._registry.resolve(tag).digest == document.digest:
                return document
        return None

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on, not yet verified."""
        return self._registry.blob(descriptor, start)

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Is told that a blob wasn't what its digest says. Whether it makes sense to ask for the whole of it again."""
        return self._registry.report_corrupt(descriptor)


def by_digest(documents: Documents, selector: str | Descriptor) -> Document | None:
    """The document in the cache that a digest names. Raises MalformedImage where its size isn't as announced."""
    if isinstance(selector, str):
        return documents.find(Digest.parse(selector)) if ":" in selector else None
    if document := documents.find(selector.digest, selector.media_type):
        verify(document.data, selector.digest, selector.size, "the cached document")
    return document
