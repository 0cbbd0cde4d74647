"""An image for one platform: manifest and config that belong together, and its layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import Descriptor, Manifest
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class Layer:
    """One layer: the blob as it is served, and the digest of the archive inside."""

    blob: Descriptor
    diff_id: Digest


@dataclass(frozen=True)
class Image:
    """An image for one platform, all documents verified, with the bytes that the registry served.

    `digest` is the manifest's, `index_digest` that of the index which led to it (None where there was none).
    """

    digest: Digest
    index_digest: Digest | None
    manifest: Manifest
    manifest_bytes: bytes
    config: ImageConfig
    config_bytes: bytes

    @classmethod
    def from_documents(
        cls,
        manifest_bytes: bytes,
        config_bytes: bytes,
        index_digest: Digest | None = None,
        platform: Platform | None = None,
    ) -> Image:
        """Put an image together. Raises MalformedImage where manifest and config don't belong together.

        `platform` is what the index says. It wins over the config, where the variant of arm is often missing.
        """
        manifest = Manifest.from_json(manifest_bytes)
        verify(config_bytes, manifest.config.digest, manifest.config.size, "config")
        config = ImageConfig.from_json(config_bytes)
        if len(config.diff_ids) != len(manifest.layers):
            counts = f"{len(manifest.layers)} layers and the config {len(config.diff_ids)}"
            raise MalformedImage(f"the manifest has {counts}")
        config = replace(config, platform=platform or config.platform)
        return cls(Digest.of(manifest_bytes), index_digest, manifest, manifest_bytes, config, config_bytes)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, from the lowest to the topmost."""
        return tuple(
            Layer(blob, diff_id) for blob, diff_id in zip(self.manifest.layers, self.config.diff_ids, strict=True)
        )
