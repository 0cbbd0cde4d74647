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
    """The descriptor in the index, which may be of another index. None for tags from Docker Hub's API."""
    size: int | None = None
    """The size of all blobs of layers together, in bytes; None if it is not known yet."""


@dataclass(frozen=True)
class Tag:
    """One tag of a repository."""

    name: str
    digest: Digest | None = None
    offers: tuple[Offer, ...] = ()
    updated: str = ""  # when it was pushed, RFC 3339
    problem: str = ""  # why the tag could not be read: it is gone, or is not a container image

    def offer(self, platform: Platform) -> Offer | None:
        """Return the offer with the newest variant that runs on `platform`; None if none runs there."""
        fitting = [offer for offer in self.offers if offer.platform.satisfies(platform)]
        return max(fitting, key=lambda offer: offer.platform.level, default=None)
