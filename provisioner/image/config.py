"""The config of an image (OCI image-spec v1.1, config.md), made valid by `from_json`."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.image.digest import Digest
from provisioner.image.fields import JsonObject, parse_digest, parse_document, parse_platform
from provisioner.image.keys import CONFIG
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class ImageConfig:
    """What an image says of itself (OCI image-spec, config.md). Texts hold no NUL and are valid Unicode."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    created: str = ""

    @classmethod
    def from_json(cls, data: bytes) -> ImageConfig:
        """Make a config of its bytes. Raises MalformedImage."""
        fields = JsonObject(parse_document(data, "config", CONFIG), "config")
        rootfs = JsonObject(fields.value.get("rootfs"), "config.rootfs")
        run = JsonObject(fields.optional("config", dict) or {}, "config.config")
        labels = JsonObject(run.optional("Labels", dict) or {}, "config.config.Labels")
        return cls(
            platform=parse_platform(fields.value, "config"),
            diff_ids=tuple(
                parse_digest(text, f"config.rootfs.diff_ids[{i}]") for i, text in enumerate(rootfs.texts("diff_ids"))
            ),
            entrypoint=run.texts("Entrypoint"),
            command=run.texts("Cmd"),
            env=tuple(variable for variable in run.texts("Env") if variable.find("=") > 0),  # a bare NAME sets nothing
            working_dir=run.optional_text("WorkingDir"),
            user=run.optional_text("User"),
            stop_signal=run.optional_text("StopSignal"),
            ports=run.keys("ExposedPorts"),
            volumes=run.keys("Volumes"),
            labels=tuple((name, labels.optional_text(name)) for name in run.keys("Labels")),
            created=fields.optional_text("created"),
        )
