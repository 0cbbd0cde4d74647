"""An image for one platform: manifest and config that belong together, and its layers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from provisioner.errors import MalformedImage
from provisioner.image.config import USUAL_PATH, ImageConfig
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import CONFIG_TYPES, OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class RootfsArchive:
    """The form of a file with a whole root file system: an archive without whiteouts, not a layer of an image."""

    root: bytes = b""
    """The path of the root directory in the archive; empty if it is the archive's own root."""
    is_converted: bool = False
    """Whether this process has to convert the verified file to an archive while reading it."""
    is_guess: bool = False
    """Whether the user has not said that it is a root file system: it is refused if it also is an archive of images."""
    unpacked_size: int = 0
    """The size of all files in bytes, including holes, if that is known before they are read; else 0."""
    needs_end: bool = False
    """Whether only the zero blocks at its end show that the archive is complete: it has no digest and no
    compression."""


@dataclass(frozen=True)
class Layer:
    """One layer of an image, or a rootfs archive instead of all layers."""

    blob: Descriptor  # the archive as it is downloaded, usually compressed
    diff_id: Digest | None  # of the uncompressed archive; None for a rootfs archive
    rootfs: RootfsArchive | None = None  # None for a layer of an image


@dataclass(frozen=True)
class Image:
    """An image for one platform. All its documents are verified."""

    digest: Digest  # of the manifest
    index_digest: Digest | None  # of the index that the reference names; None if it names the manifest
    manifest: Manifest
    manifest_bytes: bytes  # as the registry served it
    config: ImageConfig
    config_bytes: bytes  # as the registry served it
    rootfs: RootfsArchive | None = None  # for a rootfs archive, whose documents `of_rootfs` makes

    @classmethod
    def from_documents(
        cls,
        manifest_bytes: bytes,
        config_bytes: bytes,
        index_digest: Digest | None = None,
        platform: Platform | None = None,
        assumed: Platform | None = None,
    ) -> Image:
        """Return the image of a manifest and its config. Raises MalformedImage if they don't belong together.

        `platform` is the one that the index states. It overrides the config, which often lacks the variant of arm. If
        neither states one, the platform is `assumed`, by default this machine's.
        """
        manifest = Manifest.from_json(manifest_bytes)
        verify(config_bytes, manifest.config.digest, manifest.config.size, "config")
        config = _read_config(config_bytes, manifest, platform or assumed)
        if len(config.diff_ids) != len(manifest.layers):
            counts = f"{len(manifest.layers)} layers and the config {len(config.diff_ids)}"
            raise MalformedImage(f"the manifest has {counts}")
        config = replace(config, platform=platform or config.platform)
        return cls(Digest.of(manifest_bytes), index_digest, manifest, manifest_bytes, config, config_bytes)

    @classmethod
    def of_rootfs(
        cls, blob: Descriptor, rootfs: RootfsArchive, platform: Platform, command: tuple[str, ...] = ()
    ) -> Image:
        """Return the image of a rootfs archive, whose file is `blob`.

        The same arguments give the same documents. The image's digest is that of the file, for any platform and
        command.
        """
        names = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
        run = {"Cmd": list(command), "Env": [f"PATH={USUAL_PATH}"]}
        config = {**names, "config": run, "rootfs": {"diff_ids": [], "type": "layers"}}
        config_bytes = _to_json(config)
        layer = {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}
        described = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config_bytes)), "size": len(config_bytes)}
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": [layer]}
        return cls.from_rootfs_documents(_to_json(manifest), config_bytes, rootfs)

    @classmethod
    def from_rootfs_documents(
        cls, manifest_bytes: bytes, config_bytes: bytes, rootfs: RootfsArchive = RootfsArchive()
    ) -> Image:
        """Return the image of documents that `of_rootfs` has made. Raises MalformedImage."""
        manifest = Manifest.from_json(manifest_bytes)
        verify(config_bytes, manifest.config.digest, manifest.config.size, "config")
        if len(manifest.layers) != 1:
            raise MalformedImage(f"the manifest of a rootfs archive has {len(manifest.layers)} layers")
        config = replace(ImageConfig.from_json(config_bytes), states_platform=False)
        return cls(manifest.layers[0].digest, None, manifest, manifest_bytes, config, config_bytes, rootfs)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return the layers, from the lowest to the topmost."""
        if self.rootfs is not None:
            return (Layer(self.manifest.layers[0], None, self.rootfs),)
        return tuple(
            Layer(blob, diff_id) for blob, diff_id in zip(self.manifest.layers, self.config.diff_ids, strict=True)
        )

    @property
    def download_size(self) -> int:
        """Return the size in bytes of all layers as they are downloaded, each blob once."""
        return self.manifest.download_size


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode()


def _read_config(data: bytes, manifest: Manifest, assumed: Platform | None) -> ImageConfig:
    """Return the config of `manifest`. Raises MalformedImage. If its media type is vague, its content decides."""
    try:
        return ImageConfig.from_json(data, assumed)
    except MalformedImage as error:
        media_type = manifest.config.media_type
        if media_type in CONFIG_TYPES:
            raise
        kind = f", of the type {media_type[:100]!r}," if media_type else ""
        what = f"this is not a container image: its config{kind} is not an image's ({error.message})"
        raise MalformedImage(what, "name a container image") from None
