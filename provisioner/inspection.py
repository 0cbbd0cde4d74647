"""What an image is, told by its documents alone: those of a registry, or those kept in a provisioned directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.container.access import FOLDER, opened_directory, read_file
from provisioner.container.record import Record, describe_missing
from provisioner.errors import MachineError, MalformedImage, NotFound
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.platform import Platform
from provisioner.sources.registry import RegistrySource
from provisioner.store.cached_documents import CachedDocuments
from provisioner.terminal.escaping import printable

_ANEW = "to make the directory anew: provision --force"


@dataclass(frozen=True)
class Inspection:
    """An image for one platform, all `platforms` that it is there for, and the record of a directory made of it."""

    reference: str
    image: Image
    platforms: tuple[Platform, ...]
    record: Record | None = None

    @property
    def size(self) -> int:
        """The bytes of all layers as they are downloaded."""
        return sum(layer.blob.size for layer in self.image.layers)

    def to_json(self) -> dict[str, Any]:
        """All of it, as `--json` prints it."""
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


def inspect_image(documents: CachedDocuments, host: Platform, wanted: Platform | None) -> Inspection:
    """Look at the image that `documents` refer to, without its layers, for the platform that is `wanted`.

    Without one, for `host`, else for the first there is. Raises NotFound, NetworkError, NotAllowed, MalformedImage.
    """
    reference = documents.reference
    top = documents.manifest(reference.selector)
    platforms = tuple(dict.fromkeys(offer.platform for offer in documents.offers(top)))
    if wanted is None:
        fitting = any(platform.satisfies(host) for platform in platforms)
        wanted = host if fitting or not platforms else platforms[0]
    # Held to the digest, so that both looks are at the same image.
    source = RegistrySource(reference.at(top.digest), documents, documents.cache, jobs=1)
    return Inspection(str(reference), source.image(wanted), platforms)


def inspect_directory(directory: Path, trust: TrustedDirectories = NOBODY) -> Inspection:
    """Look at a provisioned directory, by what was kept there.

    Raises NotFound, NotTrusted, MachineError, MalformedImage.
    """
    shown = printable(str(directory))
    with opened_directory(directory, trust) as folder:
        record = None if folder is None else Record.read_from(folder, directory)
        if folder is None or record is None:
            raise NotFound(describe_missing(directory, shown), "name a directory that holds .provision/, or an image")
        manifest_bytes = _kept(folder, directory, "manifest.json")
        config_bytes = _kept(folder, directory, "config.json")
    platform = Platform(*(*record.platform.split("/"), "", "")[:3])
    index_digest = Digest.parse(record.index_digest) if record.index_digest else None
    image = Image.from_documents(manifest_bytes, config_bytes, index_digest, platform)
    if str(image.digest) != record.manifest_digest:
        raise MalformedImage(f"{shown}: the manifest that is kept there is not the one it was made of", _ANEW)
    return Inspection(record.reference, image, (platform,), record)


def _kept(folder: int, directory: Path, name: str) -> bytes:
    """Return a document in the open FOLDER of `directory`. Raises MachineError."""
    data = read_file(folder, name, str(directory / FOLDER / name))
    if data is None:
        raise MachineError(f"the {name} that was kept in {printable(str(directory))} is gone", _ANEW)
    return data
