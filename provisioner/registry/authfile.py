"""Files of credentials: podman's auth.json (containers-auth.json(5)) and Docker's config.json, in the same format."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from provisioner.errors import UsageError, machine_errors
from provisioner.filesystem.atomic import replace_file
from provisioner.filesystem.resolution import open_file
from provisioner.image.reference import DOCKER_HUB, parse_registry
from provisioner.settings import line_of
from provisioner.terminal.escaping import printable

HUB_KEY = "https://index.docker.io/v1/"
"""Docker's name for Docker Hub in files of credentials."""

_SIZE_LIMIT = 4 << 20


@dataclass(frozen=True)
class Login:
    """A user's credentials for a registry. Its `repr` shows no secret."""

    username: str
    """May be empty if there is an identity token."""
    password: str = field(default="", repr=False)
    """A password or an access token."""
    identity_token: str = field(default="", repr=False)
    """A refresh token (OAuth 2.0) for the registry's token server."""

    @property
    def basic(self) -> str:
        """Return the value of `Authorization` for the name and the password (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def redact(self, text: str) -> str:
        """Return `text` of a registry with the secrets of this login replaced by `…`."""
        encoded = self.basic.removeprefix("Basic ") if self.password else ""
        for secret in filter(None, (encoded, self.password, self.identity_token)):
            text = text.replace(secret, "…")
        return text


@dataclass(frozen=True)
class AuthFile:
    """The content of a file of credentials. Its `repr` may show secrets."""

    path: Path
    value: Mapping[str, Any]
    """The JSON object in the file; empty if there is no file."""
    text: str = field(default="", repr=False)
    """The text that it was read from, for line numbers in errors."""

    @classmethod
    def read(cls, path: Path) -> AuthFile:
        """Read a file; return an empty one where it doesn't exist. Raises UsageError with the line, MachineError."""
        shown = printable(str(path))
        with machine_errors(f"read the credentials in {shown}"):
            try:
                with open(open_file(path), "rb") as file:
                    data = file.read(_SIZE_LIMIT + 1)
            except (FileNotFoundError, NotADirectoryError):
                return cls(path, {})
        hint = "fix it, or move it away and log in again: provision login REGISTRY"
        try:
            value = json.loads(data) if data.strip() and len(data) <= _SIZE_LIMIT else {} if not data.strip() else None
        except json.JSONDecodeError as error:
            raise UsageError(f"{shown} is not JSON: {error.msg} (line {error.lineno})", hint) from None
        except (ValueError, RecursionError):
            raise UsageError(f"{shown} is not JSON", hint) from None
        if not isinstance(value, dict):
            raise UsageError(f"{shown} is not a file of credentials: it is not a JSON object", hint)
        found = cls(path, value, data.decode(errors="replace"))
        for key in ("auths", "credHelpers"):
            if not isinstance(value.get(key) or {}, dict):
                raise found.error_for(key, "not an object")
        if not isinstance(value.get("credsStore") or "", str):
            raise found.error_for("credsStore", "not a text")
        return found

    def keys(self, name: str) -> Iterator[str]:
        """Yield the keys of the entries for `name`, a registry or a part of it, as they are spelled in the file."""
        yield from (key for key in self.value.get("auths") or {} if _canonical(key) == name)

    def login(self, name: str) -> Login | None:
        """Return the login for `name` in the file itself, or None. Helpers aren't run. Raises UsageError."""
        for key in self.keys(name):
            entry = self.value["auths"][key]
            if entry is not None and not isinstance(entry, dict):
                raise self.error_for(key, "not an object")
            fields = {part: (entry or {}).get(part) or "" for part in ("auth", "username", "password", "identitytoken")}
            if odd := next((part for part, text in fields.items() if not isinstance(text, str)), None):
                raise self.error_for(key, f"{odd} is not a text")
            username, password = self._decode(key, fields["auth"])
            username, password = username or fields["username"], password or fields["password"]
            if password or fields["identitytoken"]:
                return Login(username, password, fields["identitytoken"])
        return None

    def _decode(self, key: str, auth: str) -> tuple[str, str]:
        """Return the user name and the password of an entry's `auth`. Raises UsageError."""
        if not auth:
            return "", ""
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise self.error_for(key, "auth is not base64 of USER:PASSWORD")
        return username, password.strip("\0")

    def helper(self, registry: str) -> str:
        """Return the NAME of the helper program for this registry alone; empty without one. Raises UsageError."""
        for key, name in (self.value.get("credHelpers") or {}).items():
            if _canonical(key) == registry:
                if not isinstance(name, str):
                    raise self.error_for(key, "not the name of a helper program")
                return name
        return ""

    @property
    def store(self) -> str:
        """Return the NAME of the helper program for all other registries; empty if there is none."""
        return self.value.get("credsStore") or ""

    def with_entry(self, key: str, entry: Mapping[str, str] | None) -> AuthFile:
        """Return a file in which this entry replaces all entries for the same name; None removes them."""
        same = set(self.keys(_canonical(key)))
        auths = {name: other for name, other in (self.value.get("auths") or {}).items() if name not in same}
        return replace(self, value={**self.value, "auths": auths if entry is None else {**auths, key: dict(entry)}})

    def save(self) -> None:
        """Write the file, readable for its owner only. Raises MachineError."""
        with machine_errors(f"write the credentials to {printable(str(self.path))}"):
            replace_file(self.path, json.dumps(self.value, indent="\t", ensure_ascii=False).encode() + b"\n", 0o600)

    def error_for(self, key: str, why: str) -> UsageError:
        """Return the error for a key of this file. It doesn't show the value, which may be a secret."""
        what = f"{printable(str(self.path))}: {printable(key)}: {why}{line_of(self.text, key)}"
        return UsageError(what, "fix it, or log in again: provision login REGISTRY")


def _canonical(key: str) -> str:
    """Return a key in the form `docker.io` or `ghcr.io/owner`; empty if it names no registry."""
    text = re.sub(r"^https?://", "", key)
    host, _, path = text.partition("/")
    if text != key or path in ("v1/", "v2/"):  # Docker's old form, for a whole registry
        path = ""
    try:
        return "/".join(filter(None, (parse_registry(host), path.strip("/"))))
    except UsageError:
        return ""


def server_name(registry: str) -> str:
    """Return the name of a registry in Docker's own file and for helper programs."""
    return HUB_KEY if registry == DOCKER_HUB else registry
