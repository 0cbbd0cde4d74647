"""What the tags of a repository offer: platforms, digests and sizes."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace

from provisioner.errors import MalformedImage, NotFound
from provisioner.image.offers import Tag
from provisioner.image.platform import Platform
from provisioner.registry.parallel import in_parallel
from provisioner.store.cached_documents import CachedDocuments


def with_offers(documents: CachedDocuments, names: Iterable[str], jobs: int) -> Generator[Tag, None, None]:
    """The tags of these names with their platforms, in this order, `jobs` asked for at a time.

    Those that are gone meanwhile, or that name no container image, offer nothing and have a `problem`.
    """

    def look(name: str) -> Tag:
        try:
            top = documents.manifest(name)
            return Tag(name, top.digest, documents.offers(top))
        except (NotFound, MalformedImage) as error:
            return Tag(name, problem=error.message)

    return in_parallel(look, names, jobs)


def with_sizes(
    documents: CachedDocuments, tags: Iterable[Tag], wanted: Platform, jobs: int
) -> Generator[Tag, None, None]:
    """The same tags, with the size of what they offer for `wanted`."""

    def weigh(tag: Tag) -> Tag:
        best = tag.offer(wanted)
        if best is None or best.size is not None or best.manifest is None:
            return tag
        try:
            weighed = replace(best, size=documents.size(best.manifest))
        except MalformedImage:
            return tag
        return replace(tag, offers=tuple(weighed if offer is best else offer for offer in tag.offers))

    return in_parallel(weigh, tags, jobs)
