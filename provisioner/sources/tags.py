"""The tags of a repository with their digests, platforms and sizes."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace

from provisioner.errors import MalformedImage, NotFound
from provisioner.image.offers import Tag
from provisioner.image.platform import Platform
from provisioner.registry.parallel import in_parallel
from provisioner.sources.resolver import download_size, find_offers
from provisioner.store.documents import CachingRegistry


def with_offers(
    documents: CachingRegistry, names: Iterable[str], jobs: int, platform: Platform | None = None
) -> Generator[Tag, None, None]:
    """Yield the tags of these names with their platforms, in this order; `jobs` are asked for at a time.

    An image that states no platform is for `platform`, or for this machine's. A tag that is gone
    meanwhile, or that names no container image, has no offers but a `problem`.
    """

    def find(name: str) -> Tag:
        try:
            top = documents.manifest(name)
            return Tag(name, top.digest, find_offers(documents, top, platform))
        except (NotFound, MalformedImage) as error:
            return Tag(name, problem=error.message)

    return in_parallel(find, names, jobs)


def with_sizes(
    documents: CachingRegistry, tags: Iterable[Tag], platform: Platform, jobs: int
) -> Generator[Tag, None, None]:
    """Yield `tags` in their order, each with the download size of what it offers for `platform`.

    `jobs` manifests are requested at a time. Raises ProvisionError, but a malformed one leaves the size unknown.
    """

    def with_size(tag: Tag) -> Tag:
        best = tag.offer(platform)
        if best is None or best.size is not None or best.manifest is None:
            return tag
        try:
            sized = replace(best, size=download_size(documents, best.manifest))
        except MalformedImage:
            return tag
        return replace(tag, offers=tuple(sized if offer is best else offer for offer in tag.offers))

    return in_parallel(with_size, tags, jobs)
