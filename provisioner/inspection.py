"""What an image is, by its documents: those in a registry, or their copies in a provisioned directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.container.record import FOLDER, Record, describe_missing
from provisioner.errors import MachineError, MalformedImage, NotFound, machine_errors
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.platform import Platform
from provisioner.sources.registry import RegistrySource
from provisioner.sources.resolver import offers
from provisioner.store.documents import CachingRegistry
from provisioner.terminal.escaping import printable

_HINT = "to make the directory anew: provision --force"


@dataclass(frozen=True)
class Inspection:
    """An image for one platform, and what is known beside it."""

    reference: str
    image: Image
    platforms: tuple[Platform, ...]
    """All platforms that the reference has an image for."""
    record: Record | None = None
    """The record of the directory that was inspected, None for an image in a registry."""

    @property
    def size(self) -> int:
        """Return the bytes of all layers as they are downloaded."""
        return sum(layer.blob.size for layer in self.image.layers)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as `--json` prints it."""
        image, config = self.image, self.image.config
        layers = [
            {
                "digest": str(layer.blob.digest),
                "diff_id": str(layer.diff_id),
                "size": layer.blob.size,
                "media_type": layer.blob.media_type,
            }
            for layer in image.layers
        ]
        return {
            "reference": self.reference,
            "index_digest": str(image.index_digest) if image.index_digest else None,
            "manifest_digest": str(image.digest),
            "config_digest": str(image.manifest.config.digest),
            "platform": str(config.platform),
            "platforms": [str(platform) for platform in self.platforms],
            "created": config.created or None,
            "size": self.size,
            "layers": layers,
            "entrypoint": list(config.entrypoint),
            "command": list(config.command),
            "env": list(config.env),
            "user": config.user,
            "working_dir": config.working_dir,
            "stop_signal": config.stop_signal,
            "ports": list(config.ports),
            "volumes": list(config.volumes),
            "labels": dict(config.labels),
            "profile": self.record.profile if self.record else None,
            "provision_version": self.record.version if self.record else None,
        }


def inspect_image(registry: CachingRegistry, host: Platform, wanted: Platform | None) -> Inspection:
    """Inspect the image that the reference of `registry` names, without its layers, for the platform `wanted`.

    Without one, for `host`, else for the first platform of the image. Raises NotFound, NetworkError, NotAllowed,
    MalformedImage.
    """
    reference = registry.reference
    top = registry.manifest(reference.selector)
    platforms = tuple(dict.fromkeys(offer.platform for offer in offers(registry, top)))
    if wanted is None:
        runs_here = any(platform.satisfies(host) for platform in platforms)
        wanted = host if runs_here or not platforms else platforms[0]
    # By its digest, since the tag may move between the two requests.
    source = RegistrySource(reference.at(top.digest), registry, registry.cache, jobs=1)
    return Inspection(str(reference), source.image(wanted).image, platforms)


def inspect_directory(directory: Path) -> Inspection:
    """Inspect a provisioned directory by its `.provision/`. Raises NotFound, MachineError, MalformedImage."""
    shown = printable(str(directory))
    record = Record.read(directory)
    if record is None:
        raise NotFound(describe_missing(directory, shown), "name a directory that holds .provision/, or an image")
    manifest_bytes, config_bytes = _read(directory, "manifest.json"), _read(directory, "config.json")
    platform = Platform(*(*record.platform.split("/"), "", "")[:3])
    index_digest = Digest.parse(record.index_digest) if record.index_digest else None
    image = Image.from_documents(manifest_bytes, config_bytes, index_digest, platform)
    if str(image.digest) != record.manifest_digest:
        raise MalformedImage(f"{shown}: the manifest that is kept there is not the one it was made of", _HINT)
    return Inspection(record.reference, image, (platform,), record)


def _read(directory: Path, name: str) -> bytes:
    try:
        with machine_errors(f"read the {name} that is kept in {printable(str(directory))}"):
            return (directory / FOLDER / name).read_bytes()
    except MachineError as error:
        error.hint = error.hint or _HINT
        raise
