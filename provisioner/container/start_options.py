"""The options of start.sh that were asked for when a directory was made, or changed since."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

OPTIONS = {"binds": "bind", "proot_options": "proot-option"}
"""How users write those fields of StartOptions that they write otherwise."""


@dataclass(frozen=True)
class StartOptions:
    """Defaults of start.sh's options, in addition to those of the profile. What is empty was not asked for."""

    runtime: str = ""
    """One of launch.settings.RUNTIMES."""
    dns: tuple[str, ...] = ()
    """The addresses of name servers."""
    hostname: str = ""
    binds: tuple[str, ...] = ()
    """SRC, or SRC:DST, with absolute paths."""
    env: tuple[str, ...] = ()
    """NAME=VALUE, or NAME for the value at each start."""
    proot_options: tuple[str, ...] = ()
    """Words for proot."""

    def changed_by(self, asked: StartOptions) -> StartOptions:
        """Return these options with those of `asked` that are not empty in their place."""
        return StartOptions(**{**self._values(), **{name: value for name, value in asked._values().items() if value}})

    def differences(self, other: StartOptions) -> tuple[str, ...]:
        """Return the names of the options that differ, as users write them."""
        ours, theirs = self._values(), other._values()
        return tuple(OPTIONS.get(name, name) for name in ours if ours[name] != theirs[name])

    @classmethod
    def from_json(cls, value: Any) -> StartOptions:
        """Return the options that `dataclasses.asdict` has turned into JSON. Raises ValueError or TypeError."""
        if not isinstance(value, dict):
            raise TypeError("not an object")
        items: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        options = cls(**items)
        for field in fields(cls):
            item = getattr(options, field.name)
            texts = item if isinstance(field.default, tuple) else (item,)
            if not isinstance(item, type(field.default)) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{field.name} is not of its type")
        return options

    def _values(self) -> dict[str, Any]:
        return asdict(self)


NO_OPTIONS = StartOptions()
"""Nothing was asked for."""
