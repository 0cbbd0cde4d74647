"""What a tag offers, platform by platform."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class Offer:
    """What an image has for one platform: its manifest, and the bytes of its layers where that is known already."""

    platform: Platform
    manifest: Descriptor | None = None
    size: int | None = None


@dataclass(frozen=True)
class Tag:
    """One tag, and what is known of it: its digest, what it offers by platform, and when it was pushed (RFC 3339).

    `problem` says why nothing is known: the tag is gone, or names no container image.
    """

    name: str
    digest: Digest | None = None
    offers: tuple[Offer, ...] = ()
    updated: str = ""
    problem: str = ""

    def offer(self, wanted: Platform) -> Offer | None:
        """The best that there is for `wanted`: the newest variant that still runs there."""
        fitting = [offer for offer in self.offers if offer.platform.satisfies(wanted)]
        return max(fitting, key=lambda offer: offer.platform.level, default=None)
