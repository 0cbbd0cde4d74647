"""The user's settings that override those of an image's config: command, environment, directory and user."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from provisioner.image.config import ImageConfig

OPTIONS = {"command": "cmd", "entrypoint": "entrypoint", "env": "env-image", "working_dir": "workdir", "user": "user"}
"""The fields of RunSettings, each with the name of its option."""


@dataclass(frozen=True)
class RunSettings:
    """Settings that override a config's. None keeps the config's."""

    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    """Variables, NAME=VALUE each, in addition to those of the config."""
    working_dir: str | None = None
    user: str | None = None
    """USER[:GROUP], names or numbers."""

    def applied_to(self, config: ImageConfig) -> ImageConfig:
        """Return the config with these settings. As in docker, an entrypoint without a command removes the config's."""
        command = () if self.entrypoint is not None and self.command is None else self.command
        return replace(
            config,
            entrypoint=config.entrypoint if self.entrypoint is None else self.entrypoint,
            command=config.command if command is None else command,
            env=config.env + (self.env or ()),
            working_dir=config.working_dir if self.working_dir is None else self.working_dir,
            user=config.user if self.user is None else self.user,
        )

    def changed_by(self, asked: RunSettings) -> RunSettings:
        """Return these settings, replaced by those of `asked` that are not None."""
        values = {field.name: getattr(asked, field.name) for field in fields(asked)}
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_json(cls, value: Any) -> RunSettings:
        """Return the settings in parsed JSON, as `dataclasses.asdict` makes it. Raises ValueError or TypeError."""
        if not isinstance(value, dict):
            raise TypeError("not an object")
        items: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        settings = cls(**items)
        for field in fields(cls):
            item = getattr(settings, field.name)
            is_list = field.name in ("entrypoint", "command", "env")
            texts = item if is_list and isinstance(item, tuple) else (item,)
            if item is not None and not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{field.name} is not of its type")
            if is_list and not isinstance(item, tuple | None):
                raise TypeError(f"{field.name} is not a list")
        return settings


AS_CONFIGURED = RunSettings()
"""No settings: everything is as in the config."""
