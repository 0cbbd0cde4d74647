"""Finds the manifest of an index for one platform, or the manifests for all platforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from provisioner.errors import MalformedImage, NotFound, ProvisionError, error_context
from provisioner.image.manifest import INDEX_TYPES, Descriptor, Index, MalformedEntry, Manifest
from provisioner.image.offers import Offer
from provisioner.image.platform import Platform, choose
from provisioner.registry.client import Document
from provisioner.store.documents import CachingRegistry, DocumentSource

T = TypeVar("T")

MAX_INDEXES = 4
"""The most indexes that may be nested."""


MAX_TRIES = 16
"""The most entries without a platform that are looked at in the search for an image."""


@dataclass(frozen=True)
class ResolvedManifest:
    """A manifest that was found by way of an index, or directly."""

    document: Document
    platform: Platform | None
    """The platform that the index states, None where it states none. It has the variant of arm, unlike many configs."""


def find_image(
    documents: DocumentSource,
    top: Document,
    platform: Platform,
    build: Callable[[ResolvedManifest], T],
    name: str,
) -> T:
    """Return what `build` makes of the manifest for `platform` that `top`, an index or a manifest, leads to.

    Where no entry of an index states a fitting platform, those that state none are tried in their order: what they are
    for is in their configs, which `build` reads. It raises NotFound or MalformedImage for those that don't fit.

    `name` is the image's name for errors. Raises NotFound where no entry of an index runs on `platform`,
    MalformedImage, and what `documents` and `build` raise.
    """
    return _Search(documents, platform, build, name).find(top, None, 0)


class _Search(Generic[T]):
    """The search for the image of one platform. The arguments are those of `find_image`."""

    def __init__(
        self, documents: DocumentSource, platform: Platform, build: Callable[[ResolvedManifest], T], name: str
    ) -> None:
        self._documents = documents
        self._platform = platform
        self._build = build
        self._name = name
        self._tries = MAX_TRIES

    def find(self, document: Document, stated: Platform | None, depth: int) -> T:
        """Return the image that a document leads to, for which an index states the platform `stated`."""
        if document.media_type not in INDEX_TYPES:
            return self._build(ResolvedManifest(document, stated))
        with error_context(self._name):
            if depth == MAX_INDEXES - 1:
                raise MalformedImage(f"more than {MAX_INDEXES} nested indexes")
            index = Index.from_json(document.data)
            entries: list[Descriptor | MalformedEntry] = [*index.manifests, *index.malformed]
            with_platform = [(entry.platform, entry) for entry in entries if entry.platform]
            without = [entry for entry in entries if not entry.platform]
            best: Descriptor | MalformedEntry | None = None
            if not without or any(platform.satisfies(self._platform) for platform, _ in with_platform):
                best = choose(with_platform, self._platform, "the image")
        if best is None:
            return self._first_that_fits(without, [platform for platform, _ in with_platform], stated, depth)
        return self.find(self._document(best), best.platform or stated, depth + 1)

    def _first_that_fits(
        self,
        entries: Sequence[Descriptor | MalformedEntry],
        others: Sequence[Platform],
        stated: Platform | None,
        depth: int,
    ) -> T:
        """Return the image of the first of `entries`, which state no platform, that is one for the platform.

        Raises the error of the first where it is for none, or NotFound where others of the index state a platform.
        """
        failure: ProvisionError | None = None
        for entry in entries:
            if not self._tries:
                break
            self._tries -= 1
            try:
                return self.find(self._document(entry), stated, depth + 1)
            except (NotFound, MalformedImage) as error:
                failure = failure if isinstance(failure, NotFound) else error
        if failure is None or others:
            with error_context(self._name):
                choose([(platform, None) for platform in others], self._platform, "the image")
        assert failure is not None
        raise failure

    def _document(self, entry: Descriptor | MalformedEntry) -> Document:
        if isinstance(entry, MalformedEntry):
            with error_context(self._name):
                raise entry.error
        return self._documents.manifest(entry)


def find_offers(documents: CachingRegistry, top: Document, platform: Platform | None = None) -> tuple[Offer, ...]:
    """Return the manifest for each platform of an image. `top` is the index or the manifest that its tag names.

    Where no entry of an index states its platform, the configs that its entries lead to decide; one that names none is
    for `platform`, or for this machine's. Raises MalformedImage, and what `documents` raises.
    """
    offers: list[Offer] = []
    failures: list[ProvisionError] = []
    pending, tries = [(top, 0)], MAX_TRIES
    while pending:
        document, depth = pending.pop(0)
        if document.media_type not in INDEX_TYPES:
            descriptor = Descriptor(document.media_type, document.digest, len(document.data))
            try:
                config = documents.config(Manifest.from_json(document.data), platform)
            except MalformedImage as error:
                failures.append(error)
            else:
                offers.append(Offer(config.platform, descriptor))
            continue
        index = Index.from_json(document.data)
        if any(entry.platform for entry in index.manifests):
            offers += [Offer(entry.platform, entry) for entry in index.manifests if entry.platform]
            continue
        if depth == MAX_INDEXES - 1:
            raise MalformedImage(f"more than {MAX_INDEXES} nested indexes")
        entries = index.manifests[:tries]
        tries -= len(entries)
        pending += [(documents.manifest(entry), depth + 1) for entry in entries]
    if failures and not offers:
        raise failures[0]
    return tuple(offers)


def download_size(documents: DocumentSource, manifest: Descriptor) -> int | None:
    """Return the `download_size` of a manifest by its descriptor; None where that turns out to be an index's."""
    document = documents.manifest(manifest)
    if document.media_type in INDEX_TYPES:
        return None
    return Manifest.from_json(document.data).download_size
