"""Reads the documents of an image, from a source or from a provisioned directory, to describe it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from provisioner.container.access import read_file
from provisioner.container.opened import OpenedContainer, opened_container
from provisioner.container.record import Record
from provisioner.container_files import CONFIG, FOLDER, MANIFEST, RECORD
from provisioner.errors import PROVISION_ELSEWHERE, MachineError, MalformedImage
from provisioner.filesystem.times import utc_time
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.digest import Digest
from provisioner.image.history import layer_commands
from provisioner.image.image import Image
from provisioner.image.platform import Platform
from provisioner.ownership.totals import TreeTotals, recorded_totals
from provisioner.sources import Source
from provisioner.sources.lazy import LocalImages
from provisioner.sources.registry import RegistrySource
from provisioner.sources.resolver import find_offers
from provisioner.store.documents import CachingRegistry
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class Inspection:
    """An image for one platform, and the other platforms of its reference."""

    reference: str
    image: Image
    platforms: tuple[Platform, ...]
    """All platforms that the reference has an image for."""
    record: Record | None = None
    """The record of the directory that was inspected, None for an image in a registry."""
    assumptions: tuple[str, ...] = ()
    """A line for the user about each property that the image doesn't state, and that is assumed."""
    verified: str = ""
    """What is verified and how, in words; empty if digests cover everything."""
    provisioned: float | None = None
    """When the directory was provisioned, in seconds since the epoch; None for an image."""
    unpacked: TreeTotals | None = None
    """The number and the size of the image's files; None for an image, or without an ownership record."""

    @property
    def layer_commands(self) -> tuple[str, ...]:
        """Return the command or instruction that made each layer; empty texts if the image doesn't state them."""
        return layer_commands(self.image.config_bytes, len(self.image.layers))

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        image, config = self.image, self.image.config
        layers = [
            {
                "digest": str(layer.blob.digest),
                "diff_id": str(layer.diff_id) if layer.diff_id else None,
                "size": layer.blob.size,
                "media_type": layer.blob.media_type,
                "created_by": command or None,
            }
            for layer, command in zip(image.layers, self.layer_commands, strict=True)
        ]
        record = self.record
        return {
            "reference": self.reference,
            "index_digest": str(image.index_digest) if image.index_digest else None,
            "manifest_digest": str(image.digest),
            "config_digest": str(image.manifest.config.digest),
            "platform": str(config.platform),
            "platforms": [str(platform) for platform in self.platforms],
            "created": config.created or None,
            "size": image.download_size,
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
            "verified": self.verified or None,
            "profile": record.profile if record else None,
            "provision_version": record.version if record else None,
            "id": record.id if record else None,
            "provisioned": None if self.provisioned is None else utc_time(self.provisioned),
            "unpacked_size": self.unpacked.size if self.unpacked else None,
            "files": self.unpacked.files if self.unpacked else None,
            "options": asdict(record.options) if record else None,
            "run": asdict(record.run) if record else None,
        }


def inspect_image(registry: CachingRegistry, host: Platform, platform: Platform | None) -> Inspection:
    """Inspect the image that the reference of `registry` names, for `platform`. No layer is downloaded.

    If `platform` is None, it is `host` if the image runs there, else the first platform of the image. Raises NotFound,
    NetworkError, NotAllowed and MalformedImage.
    """
    reference = registry.reference
    top = registry.manifest(reference.selector)
    platforms = tuple(dict.fromkeys(offer.platform for offer in find_offers(registry, top, platform or host)))
    if platform is None:
        runs_here = any(offered.satisfies(host) for offered in platforms)
        platform = host if runs_here or not platforms else platforms[0]
    # By its digest, since the tag may move between the two requests.
    source = RegistrySource(reference.at(top.digest), registry, registry.cache, jobs=1)
    resolved = source.image(platform)
    return Inspection(str(reference), resolved.image, platforms, assumptions=resolved.assumptions)


def inspect_files(source: Source, host: Platform, platform: Platform | None) -> Inspection:
    """Inspect the image of an archive, a directory or an LXC server. `host` and `platform` are as in `inspect_image`.

    Raises NotFound, UsageError, MalformedImage, MachineError.
    """
    platforms = source.platforms() if isinstance(source, LocalImages) else ()
    if platform is None:
        runs_here = any(offered.satisfies(host) for offered in platforms)
        platform = host if runs_here or not platforms else platforms[0]
    resolved = source.image(platform)
    platforms = platforms or (resolved.image.config.platform,)
    return Inspection(
        source.reference, resolved.image, platforms, assumptions=resolved.assumptions, verified=resolved.verified
    )


def inspect_directory(directory: Path, trust: TrustedDirectories = NOBODY) -> Inspection:
    """Inspect a provisioned directory by its `.provision/`.

    Raises NotFound, TargetExists, NotTrusted, MachineError, MalformedImage.
    """
    with opened_container(directory, trust) as container:
        record = container.read_record()
        return Inspection(
            record.reference,
            image_as_run(container, record),
            (_platform_of(record),),
            record,
            verified=record.verified,
            provisioned=os.stat(RECORD, dir_fd=container.folder).st_mtime,
            unpacked=recorded_totals(container.folder),
        )


def image_as_run(container: OpenedContainer, record: Record) -> Image:
    """Return the image that a container was made of, with what `record` has in place of its config.

    Raises as `read_image` does.
    """
    image = read_image(container.folder, container.path, record)
    return replace(image, config=record.run.applied_to(image.config))


def read_image(folder: int, directory: Path, record: Record) -> Image:
    """Return the image that `directory` was made of, from the documents in its `.provision/`, open as `folder`.

    Raises MachineError if one can't be read, and MalformedImage if they don't match the record.
    """
    manifest_bytes = _read(folder, directory, MANIFEST)
    config_bytes = _read(folder, directory, CONFIG)
    if [layer.diff_id for layer in record.layers] == [""]:
        image = Image.from_rootfs_documents(manifest_bytes, config_bytes)
    else:
        index_digest = Digest.parse(record.index_digest) if record.index_digest else None
        image = Image.from_documents(manifest_bytes, config_bytes, index_digest, _platform_of(record))
    if str(image.digest) != record.manifest_digest:
        shown = printable(str(directory))
        raise MalformedImage(f"{shown}: manifest.json is not the manifest that record.json names", PROVISION_ELSEWHERE)
    return image


def _platform_of(record: Record) -> Platform:
    return Platform(*(*record.platform.split("/"), "", "")[:3])


def _read(folder: int, directory: Path, name: str) -> bytes:
    """Return the content of a file in the `.provision/` of `directory`, open as `folder`. Raises MachineError."""
    path = directory / FOLDER / name
    try:
        data = read_file(folder, name, str(path))
    except MachineError as error:
        error.hint = error.hint or PROVISION_ELSEWHERE
        raise
    if data is None:
        raise MachineError(f"{printable(str(path))} is missing", PROVISION_ELSEWHERE)
    return data
