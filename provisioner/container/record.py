"""The record of a provisioned directory in `.provision/`, written once and read by later runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from provisioner import __version__
from provisioner.container.access import opened_directory, read_file
from provisioner.container.start_options import NO_OPTIONS, StartOptions
from provisioner.container_files import CONFIG, FOLDER, MANIFEST, RECORD
from provisioner.errors import MachineError
from provisioner.filesystem.atomic import replace_in, write_new
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.image import Image
from provisioner.image.run_settings import AS_CONFIGURED, RunSettings
from provisioner.terminal.escaping import printable

_FORMAT = 1
_PARTS = ("layers", "run", "options")
"""Fields that are no simple values."""


@dataclass(frozen=True)
class LayerRecord:
    """A layer of the image that was provisioned."""

    digest: str
    """The digest of the blob."""
    diff_id: str
    """The digest of the uncompressed archive; empty for a rootfs archive, which is the only layer then."""
    size: int
    """The bytes of the blob."""
    media_type: str


@dataclass(frozen=True)
class Record:
    """What a directory was provisioned from. Digests are texts such as `sha256:…`."""

    reference: str
    platform: str
    """Such as `linux/arm64/v8`."""
    manifest_digest: str
    index_digest: str
    """Empty where the reference named a manifest."""
    config_digest: str
    layers: tuple[LayerRecord, ...]
    """From the base to the top."""
    profile: str
    """The profile's name."""
    verified: str = ""
    """How far the content was verified, in words such as `not verified`; empty where digests cover all of it."""
    run: RunSettings = AS_CONFIGURED
    """What was asked for in place of parts of the image's config."""
    options: StartOptions = NO_OPTIONS
    """The options of start.sh that were asked for."""
    id: str = ""
    """A number of this directory's own, which stays with it when it is moved; empty in older records."""
    hardlinks: str = ""
    """What was created where hard links were refused, as `--hardlinks` names it; empty in older records."""
    version: str = __version__
    """The version of provision that wrote the record."""
    format: int = _FORMAT
    """The version of this format."""

    @classmethod
    def of(
        cls,
        reference: str,
        image: Image,
        profile: str,
        verified: str = "",
        run: RunSettings = AS_CONFIGURED,
        options: StartOptions = NO_OPTIONS,
        hardlinks: str = "",
    ) -> Record:
        """Return the record of an image that is about to be provisioned, with an id of its own."""
        return cls(
            reference=reference,
            platform=str(image.config.platform),
            manifest_digest=str(image.digest),
            index_digest=str(image.index_digest or ""),
            config_digest=str(image.manifest.config.digest),
            layers=tuple(
                LayerRecord(str(layer.blob.digest), str(layer.diff_id or ""), layer.blob.size, layer.blob.media_type)
                for layer in image.layers
            ),
            profile=profile,
            verified=verified,
            run=run,
            options=options,
            id=new_id(),
            hardlinks=hardlinks,
        )

    @classmethod
    def read(cls, directory: Path, trust: TrustedDirectories = NOBODY) -> Record | None:
        """Return the record of a provisioned directory; None where there is none.

        Raises NotTrusted where the directory can't be relied on, and MachineError for a record that this version can't
        read.
        """
        with opened_directory(directory, trust) as folder:
            return None if folder is None else cls.read_from(folder, directory)

    @classmethod
    def read_from(cls, folder: int, directory: Path) -> Record | None:
        """Return the record in the open FOLDER of `directory`; None where there is none.

        Raises MachineError for a record that this version can't read.
        """
        path = printable(str(directory / FOLDER / RECORD))
        data = read_file(folder, RECORD, path)
        if data is None:
            return None
        try:
            return cls._from_json(json.loads(data))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise MachineError(
                f"{path} is damaged, or from another version",
                f"move {printable(str(directory))} away, then provision again",
            ) from error

    @classmethod
    def _from_json(cls, value: Any) -> Record:
        """Parse what `to_json` has written. Raises ValueError, TypeError or KeyError for anything else."""
        layers = tuple(LayerRecord(**layer) for layer in value["layers"])
        parts = {
            "layers": layers,
            "run": RunSettings.from_json(value.get("run", {})),
            "options": StartOptions.from_json(value.get("options", {})),
        }
        record = cls(**{**value, **parts})
        if record.format != _FORMAT:
            raise ValueError(f"format {record.format}")
        _check_types(record)
        for layer in layers:
            _check_types(layer)
        return record

    @property
    def download_size(self) -> int:
        """Return the bytes of all layers as they were downloaded (see Manifest)."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())

    def to_json(self) -> str:
        """Return the text of record.json, which is also what `--json` prints: ASCII, safe on a terminal."""
        values = asdict(self)
        return json.dumps({"format": values.pop("format"), **values}, indent=2) + "\n"

    def replace(self, folder: int) -> None:
        """Write the record in the place of the one in an open FOLDER, whose time stays: DIR was made then.

        Raises OSError.
        """
        status = os.stat(RECORD, dir_fd=folder, follow_symlinks=False)
        replace_in(folder, RECORD, self.to_json().encode(), 0o644)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(RECORD, ns=times, dir_fd=folder, follow_symlinks=False)

    def write(self, folder: int, image: Image) -> None:
        """Write the record and the image's documents, byte for byte, into an open directory. Raises OSError."""
        write_new(folder, RECORD, self.to_json().encode())
        write_new(folder, MANIFEST, image.manifest_bytes)
        write_new(folder, CONFIG, image.config_bytes)


def new_id() -> str:
    """Return an id for a directory, which no other has."""
    return os.urandom(16).hex()


def _check_types(part: Record | LayerRecord) -> None:
    """Raise TypeError for a field that doesn't have its declared type. Those of _PARTS were checked before."""
    for field in fields(part):
        if field.name not in _PARTS and type(getattr(part, field.name)).__name__ != field.type:
            raise TypeError(f"{field.name} is not of the type {field.type}")
