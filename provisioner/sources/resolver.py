"""From an index to manifests: the one for a platform, or what there is for all platforms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from provisioner.errors import MalformedImage, error_context
from provisioner.image.manifest import INDEX_TYPES, Descriptor, Index, Manifest
from provisioner.image.offers import Offer
from provisioner.image.platform import Platform, choose
from provisioner.registry.client import Document
from provisioner.store.documents import CachingRegistry, DocumentSource

MAX_INDEXES = 4
"""The most indexes that may be nested."""


@dataclass(frozen=True)
class ResolvedManifest:
    """A manifest that was found by way of an index, or directly."""

    document: Document
    platform: Platform | None
    """What the index states; None where none does. It has more to say than the config: the variant, for arm."""


def resolve(documents: DocumentSource, top: Document, wanted: Platform, name: str) -> ResolvedManifest:
    """Return the manifest for the platform `wanted` that `top`, an index or a manifest, leads to.

    `name` is the image's name for errors. Raises NotFound where no entry of an index runs on `wanted`, MalformedImage,
    and what `documents` raises.
    """
    document, entries = _follow(documents, top, lambda index: _best_entry(index, wanted), name)
    return ResolvedManifest(document, next((entry.platform for entry in reversed(entries) if entry.platform), None))


def offers(documents: CachingRegistry, top: Document) -> tuple[Offer, ...]:
    """Return what an image has, by platform; `top` is the index or the manifest that its tag names.

    Where no entry of an index states its platform, the config that its first entry leads to decides. Raises
    MalformedImage, and what `documents` raises.
    """
    document, _ = _follow(documents, top, _first_of_unknown_platform)
    if document.media_type in INDEX_TYPES:
        entries = Index.from_json(document.data).manifests
        return tuple(Offer(entry.platform, entry) for entry in entries if entry.platform)
    descriptor = Descriptor(document.media_type, document.digest, len(document.data))
    return (Offer(documents.config(Manifest.from_json(document.data)).platform, descriptor),)


def download_size(documents: DocumentSource, manifest: Descriptor) -> int | None:
    """Return the bytes of all layers as they are downloaded, None where `manifest` turns out to be an index."""
    document = documents.manifest(manifest)
    if document.media_type in INDEX_TYPES:
        return None
    return sum(layer.size for layer in Manifest.from_json(document.data).layers)


def _follow(
    documents: DocumentSource, top: Document, next_entry: Callable[[Index], Descriptor | None], name: str = ""
) -> tuple[Document, list[Descriptor]]:
    """Go from index to index, by the entry that `next_entry` returns, and return the last document and the entries.

    The last document is a manifest, or an index for which `next_entry` has returned None.
    """
    document, entries = top, list[Descriptor]()
    context = partial(error_context, name) if name else nullcontext
    for _ in range(MAX_INDEXES):
        if document.media_type not in INDEX_TYPES:
            return document, entries
        with context():
            entry = next_entry(Index.from_json(document.data))
        if entry is None:
            return document, entries
        entries.append(entry)
        document = documents.manifest(entry)
    with context():
        raise MalformedImage(f"more than {MAX_INDEXES} nested indexes")


def _best_entry(index: Index, wanted: Platform) -> Descriptor:
    """Return the entry for the platform `wanted`. Where no entry states a platform, return the first of them."""
    stated = [(entry.platform, entry) for entry in index.manifests if entry.platform]
    return choose(stated or [(wanted, entry) for entry in index.manifests], wanted, "the image")


def _first_of_unknown_platform(index: Index) -> Descriptor | None:
    """Return the first entry of an index whose entries state no platform, else None."""
    return None if any(entry.platform for entry in index.manifests) else next(iter(index.manifests), None)
