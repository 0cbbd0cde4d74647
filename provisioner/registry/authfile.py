"""Files of credentials: podman's auth.json (containers-auth.json(5)) and Docker's config.json, which have one form."""

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
"""What Docker calls Docker Hub where it keeps credentials."""

_LIMIT = 4 << 20


@dataclass(frozen=True)
class Login:
    """What a user proves to be somebody with: a name and a password, or an identity token. It shows no secret."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of `Authorization` (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def hidden(self, text: str) -> str:
        """`text` without our secrets, for what a registry says back."""
        coded = self.basic.removeprefix("Basic ") if self.password else ""
        for secret in filter(None, (coded, self.password, self.identity_token)):
            text = text.replace(secret, "…")
        return text


@dataclass(frozen=True)
class AuthFile:
    """A file's document, and the text that it was read from."""

    path: Path
    value: Mapping[str, Any]
    text: str = field(default="", repr=False)

    @classmethod
    def read(cls, path: Path) -> AuthFile:
        """The file; an empty one where there is none. Raises UsageError that names file, line and key; MachineError."""
        shown = printable(str(path))
        with machine_errors(f"read the credentials in {shown}"):
            try:
                with open(open_file(path), "rb") as file:
                    data = file.read(_LIMIT + 1)
            except (FileNotFoundError, NotADirectoryError):
                return cls(path, {})
        hint = "mend it, or move it away and log in again: provision login REGISTRY"
        try:
            value = json.loads(data) if data.strip() and len(data) <= _LIMIT else {} if not data.strip() else None
        except json.JSONDecodeError as error:
            raise UsageError(f"{shown} is not JSON: {error.msg} (line {error.lineno})", hint) from None
        except (ValueError, RecursionError):
            raise UsageError(f"{shown} is not JSON", hint) from None
        if not isinstance(value, dict):
            raise UsageError(f"{shown} is no file of credentials: it is not one JSON object", hint)
        found = cls(path, value, data.decode(errors="replace"))
        for key in ("auths", "credHelpers"):
            if not isinstance(value.get(key) or {}, dict):
                raise found.wrong(key, "not an object")
        if not isinstance(value.get("credsStore") or "", str):
            raise found.wrong("credsStore", "not a text")
        return found

    def keys(self, name: str) -> Iterator[str]:
        """The keys of entries for `name` (a registry, perhaps with a part of a path), as the file spells them."""
        yield from (key for key in self.value.get("auths") or {} if _canonical(key) == name)

    def login(self, name: str) -> Login | None:
        """What the file holds itself for `name`. Raises UsageError."""
        for key in self.keys(name):
            entry = self.value["auths"][key]
            if entry is not None and not isinstance(entry, dict):
                raise self.wrong(key, "not an object")
            fields = {part: (entry or {}).get(part) or "" for part in ("auth", "username", "password", "identitytoken")}
            if odd := next((part for part, text in fields.items() if not isinstance(text, str)), None):
                raise self.wrong(key, f"{odd} is not a text")
            username, password = self._decoded(key, fields["auth"])
            username, password = username or fields["username"], password or fields["password"]
            if password or fields["identitytoken"]:
                return Login(username, password, fields["identitytoken"])
        return None

    def _decoded(self, key: str, auth: str) -> tuple[str, str]:
        if not auth:
            return "", ""
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise self.wrong(key, "auth is not base64 of USER:PASSWORD")
        return username, password.strip("\0")

    def helper(self, registry: str) -> str:
        """The helper program for this registry alone, or nothing. Raises UsageError."""
        for key, name in (self.value.get("credHelpers") or {}).items():
            if _canonical(key) == registry:
                if not isinstance(name, str):
                    raise self.wrong(key, "not the name of a helper program")
                return name
        return ""

    @property
    def store(self) -> str:
        """The helper program for all other registries, or nothing."""
        return self.value.get("credsStore") or ""

    def with_entry(self, key: str, entry: Mapping[str, str] | None) -> AuthFile:
        """The file with this entry in place of all for the same name; with None without them."""
        same = set(self.keys(_canonical(key)))
        auths = {name: kept for name, kept in (self.value.get("auths") or {}).items() if name not in same}
        return replace(self, value={**self.value, "auths": auths if entry is None else {**auths, key: dict(entry)}})

    def save(self) -> None:
        """Write it, readable for its owner only. Raises MachineError."""
        with machine_errors(f"write the credentials to {printable(str(self.path))}"):
            replace_file(self.path, json.dumps(self.value, indent="\t", ensure_ascii=False).encode() + b"\n", 0o600)

    def wrong(self, key: str, why: str) -> UsageError:
        """The error for a key of this file. Values are not shown: they may be secrets."""
        what = f"{printable(str(self.path))}: {printable(key)}: {why}{line_of(self.text, key)}"
        return UsageError(what, "mend it, or log in again: provision login REGISTRY")


def _canonical(key: str) -> str:
    """How we write what an entry is for: `docker.io`, `ghcr.io/owner`. Nothing for what can't be meant."""
    text = re.sub(r"^https?://", "", key)
    host, _, path = text.partition("/")
    if text != key or path in ("v1/", "v2/"):  # Docker's old form, which is of a whole registry
        path = ""
    try:
        return "/".join(filter(None, (parse_registry(host), path.strip("/"))))
    except UsageError:
        return ""


def server_name(registry: str) -> str:
    """What helpers and Docker's own file call a registry."""
    return HUB_KEY if registry == DOCKER_HUB else registry
