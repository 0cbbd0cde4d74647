"""An image for one platform: manifest and config that belong together, and its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import CONFIG_TYPES, Descriptor, Manifest
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class Layer:
    """One layer of an image."""

    blob: Descriptor  # the archive as it is downloaded, most often compressed
    diff_id: Digest  # of the uncompressed archive


@dataclass(frozen=True)
class Image:
    """An image for one platform. All its documents are verified."""

    digest: Digest  # of the manifest
    index_digest: Digest | None  # of the index that the reference names; None where it names the manifest
    manifest: Manifest
    manifest_bytes: bytes  # as the registry served it
    config: ImageConfig
    config_bytes: bytes  # as the registry served it

    @classmethod
    def from_documents(
        cls,
        manifest_bytes: bytes,
        config_bytes: bytes,
        index_digest: Digest | None = None,
        platform: Platform | None = None,
        assumed: Platform | None = None,
    ) -> Image:
        """Return the image of a manifest and its config. Raises MalformedImage where they don't belong together.

        `platform` is what the index states. It overrides the config, which often lacks the variant of arm. Where
        neither states one, it is `assumed`, by default this machine's.
        """
        manifest = Manifest.from_json(manifest_bytes)
        verify(config_bytes, manifest.config.digest, manifest.config.size, "config")
        config = _read_config(config_bytes, manifest, platform or assumed)
        if len(config.diff_ids) != len(manifest.layers):
            counts = f"{len(manifest.layers)} layers and the config {len(config.diff_ids)}"
            raise MalformedImage(f"the manifest has {counts}")
        config = replace(config, platform=platform or config.platform)
        return cls(Digest.of(manifest_bytes), index_digest, manifest, manifest_bytes, config, config_bytes)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers, from the lowest to the topmost."""
        return tuple(
            Layer(blob, diff_id) for blob, diff_id in zip(self.manifest.layers, self.config.diff_ids, strict=True)
        )


def _read_config(data: bytes, manifest: Manifest, assumed: Platform | None) -> ImageConfig:
    """Return the config of `manifest`. Raises MalformedImage; one without a media type is judged by its content."""
    try:
        return ImageConfig.from_json(data, assumed)
    except MalformedImage as error:
        media_type = manifest.config.media_type
        if media_type in CONFIG_TYPES:
            raise
        kind = f", of the type {media_type[:100]!r}," if media_type else ""
        what = f"this is no container image: its config{kind} is none of an image ({error.message})"
        raise MalformedImage(what, "name a container image") from None
