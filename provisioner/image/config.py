"""The config of an image (OCI image-spec v1.1, config.md)."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.image.digest import Digest
from provisioner.image.fields import JsonObject, parse_digest, parse_document, parse_platform
from provisioner.image.platform import Platform


@dataclass(frozen=True)
class ImageConfig:
    """The fields of a config that matter here. A field that the config doesn't have is empty."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    """The digests of the layers' uncompressed archives, from the lowest layer up."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()  # Cmd
    env: tuple[str, ...] = ()  # NAME=VALUE each
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    ports: tuple[str, ...] = ()  # 80/tcp
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()  # name and value, sorted
    created: str = ""  # RFC 3339

    @classmethod
    def from_json(cls, data: bytes) -> ImageConfig:
        """Return the config that these bytes hold. Raises MalformedImage."""
        fields = JsonObject(parse_document(data, "config"), "config")
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
