"""Tags, and the platforms that they have images for."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class Offer:
    """An image for one platform, as an index lists it."""

    platform: Platform
    manifest: Descriptor | None = None
    """What the index lists, which may be another index. None in Docker Hub's own lists of tags."""
    size: int | None = None
    """The bytes of all layers as they are downloaded; None where they are not known yet."""


@dataclass(frozen=True)
class Tag:
    """One tag, and what is known about it."""

    name: str
    digest: Digest | None = None
    offers: tuple[Offer, ...] = ()
    updated: str = ""  # when it was pushed, RFC 3339
    problem: str = ""  # why nothing is known: the tag is gone, or names no container image

    def offer(self, wanted: Platform) -> Offer | None:
        """Return the best offer for `wanted`: the newest variant that runs there; None where nothing does."""
        fitting = [offer for offer in self.offers if offer.platform.satisfies(wanted)]
        return max(fitting, key=lambda offer: offer.platform.level, default=None)
