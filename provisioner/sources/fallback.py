"""A source with another one in its place where it has no image for a platform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

from provisioner.errors import NotFound, error_context
from provisioner.image.image import Image, Layer
from provisioner.image.platform import Platform
from provisioner.sources import Arrivals, LayerBlob, ResolvedImage, Source
from provisioner.terminal.escaping import printable


class FallbackSource:
    """The source `first`, or where it has no image for a platform, the one that `find` returns for that.

    `who` names in messages where that one comes from, and `how_to_avoid` says how to do without it.
    """

    def __init__(self, first: Source, find: Callable[[Platform], Source | None], who: str, how_to_avoid: str) -> None:
        self._source = first
        self._find = find
        self._who = who
        self._how_to_avoid = how_to_avoid

    @property
    def reference(self) -> str:
        """The full name of the image; after `image()`, of the one that was found."""
        return self._source.reference

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the image for `platform`. Raises what the two sources raise, that of `first` where `find` has none."""
        try:
            return self._source.image(platform)
        except NotFound as error:
            other = self._find(platform)
            if other is None:
                raise
            why = error.message
        self._source = other
        name = printable(other.reference)
        with error_context(f"{why}; {self._who} has {name} for it"):
            resolved = other.image(platform)
        said = f"{why}: {self._who} has {name} for it, which is used; {self._how_to_avoid}"
        return replace(resolved, assumptions=(said, *resolved.assumptions))

    def layers(self, image: Image, progress: Arrivals) -> AbstractContextManager[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers from the source that `image()` has found."""
        return self._source.layers(image, progress)
