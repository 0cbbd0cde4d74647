"""Where an image comes from. Every source gives the same: the image's documents, and its layers as streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from provisioner.image.image import Image, Layer
from provisioner.image.platform import Platform


class Source(Protocol):
    """A place that an image can be taken from."""

    @property
    def reference(self) -> str:
        """How the source is written in full."""

    def image(self, platform: Platform) -> Image:
        """The image for `platform`, its documents verified. Raises NotFound, MalformedImage, NetworkError."""

    def layers(
        self, image: Image, progress: Callable[[int], None]
    ) -> AbstractContextManager[Iterator[tuple[Layer, Iterator[bytes]]]]:
        """The layers from the lowest up, each with the chunks of its blob, which may wait for bytes on their way.

        They fail at the end with MalformedImage when the blob is not what its digest says. `progress` is told of
        bytes as they arrive, from any thread.
        """
