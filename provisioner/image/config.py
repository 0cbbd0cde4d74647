"""The config of an image (OCI image-spec v1.1, config.md)."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.image.digest import Digest
from provisioner.image.fields import JsonObject, parse_digest, parse_document, parse_platform
from provisioner.image.keys import CONFIG
from provisioner.image.platform import Platform, host_platform

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of Debian's and Alpine's images. It is used if an image states none, such as one of a rootfs archive."""


@dataclass(frozen=True)
class ImageConfig:
    """The fields of a config that provision uses. A field that the config lacks is empty."""

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
    states_platform: bool = True
    """Whether the config itself states the platform."""

    @classmethod
    def from_json(cls, data: bytes, platform: Platform | None = None) -> ImageConfig:
        """Return the config that these bytes hold. Raises MalformedImage.

        If the config states no architecture, `platform` is assumed, by default this machine's. Raises MachineError if
        no images exist for this machine.
        """
        fields = JsonObject(parse_document(data, "config", CONFIG), "config")
        rootfs = JsonObject(fields.value.get("rootfs"), "config.rootfs")
        run = JsonObject(fields.optional("config", dict) or {}, "config.config")
        stated = parse_platform(fields.value, "config")
        entrypoint = run.words("Entrypoint")
        return cls(
            platform=stated or platform or host_platform(),
            states_platform=stated is not None,
            diff_ids=tuple(
                parse_digest(text, f"config.rootfs.diff_ids[{i}]") for i, text in enumerate(rootfs.texts("diff_ids"))
            ),
            entrypoint=() if entrypoint == ("",) else entrypoint,  # Docker's way to reset the one of the base image
            command=run.words("Cmd"),
            env=tuple(variable for variable in run.texts("Env") if variable.find("=") > 0),  # a bare NAME sets nothing
            working_dir=run.optional_text("WorkingDir"),
            user=run.optional_text("User"),
            stop_signal=run.optional_text("StopSignal"),
            ports=run.keys("ExposedPorts"),
            volumes=run.keys("Volumes"),
            labels=run.shown_pairs("Labels"),
            created=fields.shown_text("created"),
        )
