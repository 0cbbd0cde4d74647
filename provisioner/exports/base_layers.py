"""The layers of the image that a directory was made of: from the cache, or fetched from where the image came from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace

from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.stored_blob import StoredBlob
from provisioner.sources import LayerBlob, Source
from provisioner.store.download import Unverified


def fetch_layers(
    image: Image, source: Source, needed: Collection[Digest], progress: Callable[[int], None], stack: ExitStack
) -> list[StoredBlob]:
    """Return those layers of an image whose digests are `needed`, from the lowest up, each once, and verified.

    Their files are open until `stack` closes them. `progress` is called with the number of bytes that have arrived.
    Raises ProvisionError.
    """
    if not needed:
        return []
    try:
        return _fetch(image, source, needed, progress, stack)
    except Unverified:  # the source sends nothing but verified bytes from now on
        return _fetch(image, source, needed, progress, stack)


def image_with_layers(image: Image, needed: Collection[Digest]) -> Image:
    """Return an image with some of the layers of another one, each once. Its documents are those of the other one."""
    pairs = dict(zip(image.manifest.layers, image.config.diff_ids, strict=True))
    found = {blob: diff_id for blob, diff_id in pairs.items() if blob.digest in needed}
    return replace(
        image,
        manifest=replace(image.manifest, layers=tuple(found)),
        config=replace(image.config, diff_ids=tuple(found.values())),
    )


def _fetch(
    image: Image, source: Source, needed: Collection[Digest], progress: Callable[[int], None], stack: ExitStack
) -> list[StoredBlob]:
    stored: dict[Digest, StoredBlob] = {}
    with source.layers(image, _Counter(progress)) as layers:
        for layer, blob in layers:
            if layer.blob.digest in needed and layer.blob.digest not in stored:
                _wait_for_all(blob)
                file = stack.enter_context(closing_descriptor(blob.open_file()))
                stored[layer.blob.digest] = StoredBlob(layer.blob, file, blob.start)
    return list(stored.values())


class _Counter:
    """Counts bytes that arrive, and those that were there, in the same way."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress

    def __call__(self, count: int, /) -> None:
        self._progress(count)

    def count_cached(self, count: int, /) -> None:
        self._progress(count)


def _wait_for_all(blob: LayerBlob) -> None:
    """Return when a blob has arrived and is verified."""
    end = 0
    while (more := blob.wait(end)) > end:
        end = more
