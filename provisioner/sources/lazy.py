"""A source that is opened when its image is asked for: reading an archive to its end may take long, and needs room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Protocol, runtime_checkable

from provisioner.image.image import Image, Layer
from provisioner.image.platform import Platform
from provisioner.sources import Arrivals, LayerBlob, ResolvedImage, Source


@runtime_checkable
class LocalImages(Source, Protocol):
    """A source that knows all of its platforms without reading layers."""

    def platforms(self) -> tuple[Platform, ...]:
        """Return all platforms that there is an image for. Raises as `image` does."""


class LazySource:
    """The source that `open_it` returns when it is called, once. `reference` names it in the record."""

    def __init__(self, reference: str, open_it: Callable[[], LocalImages]) -> None:
        self.reference = reference
        """The word that names the image."""
        self._open = open_it

    @cached_property
    def _source(self) -> LocalImages:
        return self._open()

    def platforms(self) -> tuple[Platform, ...]:
        """Return all platforms that there is an image for. Raises as `image` does."""
        return self._source.platforms()

    def image(self, platform: Platform) -> ResolvedImage:
        """Return the image for `platform`. Raises ProvisionError, also what opening the source raises."""
        return self._source.image(platform)

    def layers(self, image: Image, progress: Arrivals) -> AbstractContextManager[Iterator[tuple[Layer, LayerBlob]]]:
        """Return the layers of the image with their blobs."""
        return self._source.layers(image, progress)
