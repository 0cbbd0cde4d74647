"""The record of a provisioned directory in `.provision/`, written once and read by later runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from provisioner import __version__
from provisioner.container.access import FOLDER as FOLDER
from provisioner.container.access import opened_directory, read_file
from provisioner.errors import MachineError
from provisioner.filesystem.atomic import write_new
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.image import Image
from provisioner.image.run_settings import AS_CONFIGURED, RunSettings
from provisioner.terminal.escaping import printable

ACCOUNTS = "accounts"
"""The folder in FOLDER with the image's files of users and groups."""
_NAME = "record.json"
_FORMAT = 1


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
    """What was wanted in place of what the image's config says."""
    version: str = __version__
    """The version of provision that wrote the record."""
    format: int = _FORMAT
    """The version of this format."""

    @classmethod
    def of(
        cls, reference: str, image: Image, profile: str, verified: str = "", run: RunSettings = AS_CONFIGURED
    ) -> Record:
        """Return the record of an image that is about to be provisioned."""
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
        """The same, from the open FOLDER of `directory`."""
        path = printable(str(directory / FOLDER / _NAME))
        data = read_file(folder, _NAME, path)
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
        run = RunSettings.from_json(value.get("run", {}))
        record = cls(**{**value, "layers": layers, "run": run})
        if record.format != _FORMAT:
            raise ValueError(f"format {record.format}")
        _check_types(record)
        for layer in layers:
            _check_types(layer)
        return record

    def to_json(self) -> str:
        """Return the text of record.json, which is also what `--json` prints: ASCII, safe on a terminal."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def write(self, folder: int, image: Image) -> None:
        """Write the record and the image's documents, byte for byte, into an open directory. Raises OSError."""
        write_new(folder, _NAME, self.to_json().encode())
        write_new(folder, "manifest.json", image.manifest_bytes)
        write_new(folder, "config.json", image.config_bytes)


def describe_missing(directory: Path, shown: str) -> str:
    """Return the message for a `directory` without a record; `shown` is its name for messages."""
    return f"{shown} was not made by provision" if directory.exists() else f"there is no directory {shown}"


def _check_types(part: Record | LayerRecord) -> None:
    """Raise TypeError for a field, other than `layers` and `run`, that doesn't have its declared type."""
    for field in fields(part):
        if field.name not in ("layers", "run") and type(getattr(part, field.name)).__name__ != field.type:
            raise TypeError(f"{field.name} is not of the type {field.type}")
