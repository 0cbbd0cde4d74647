"""Whom a registry is shown: the logins of podman, skopeo and Docker, looked up, added and taken away."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import machine_errors
from provisioner.filesystem.locks import locked_directory
from provisioner.registry import helper
from provisioner.registry.authfile import AuthFile, Login, server_name
from provisioner.terminal.escaping import printable

_TOKEN_USER = "<token>"
"""The user name by which a helper says that its secret is an identity token."""


@dataclass(frozen=True)
class Credentials:
    """The files that logins are kept in, the first that has one deciding; or one login for this run.

    Files are read and helpers are run when a registry asks, not before.
    """

    files: tuple[Path, ...] = ()
    given: Login | None = None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """The files in the order of containers-auth.json(5), which is podman's and skopeo's."""
        if own := environment.get("REGISTRY_AUTH_FILE"):
            return cls((Path(own),))
        home = Path(environment.get("HOME") or os.path.expanduser("~"))
        runtime, config = environment.get("XDG_RUNTIME_DIR", ""), environment.get("XDG_CONFIG_HOME", "")
        docker = environment.get("DOCKER_CONFIG")
        files = [Path(runtime, "containers/auth.json")] if os.path.isabs(runtime) else []
        files.append((Path(config) if os.path.isabs(config) else home / ".config") / "containers/auth.json")
        files.append(Path(docker or home / ".docker") / "config.json")
        return cls(tuple(files))

    def find(self, registry: str, repository: str) -> Login | None:
        """The login for a repository: in a file the most specific entry wins, `host/owner` before `host`.

        Raises UsageError for a malformed file, MachineError, and NotAllowed for a helper that fails.
        """
        if self.given:
            return self.given
        for path in self.files:
            file = AuthFile.read(path)
            for name in _names(registry, repository):
                if login := _kept(file, name, registry):
                    return login
            if file.store and (login := _stored(file, registry)):
                return login
        return None

    def add(self, name: str, login: Login) -> str:
        """Keep a login for `name`, a registry or a part of it; where, to be shown.

        That is the first file that has one for it already, else the first that is there, else podman's lasting one; and
        the helper program that the file names for this registry. Raises UsageError, MachineError, NotAllowed.
        """
        files = [AuthFile.read(path) for path in self.files]
        same = (file.path for file in files if any(file.keys(name)))
        there = (file.path for file in files if file.value)
        path = next(same, None) or next(there, None) or self.files[-2 if len(self.files) > 1 else 0]
        with machine_errors(f"make {printable(str(path.parent))}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_directory(path.parent):
            file = AuthFile.read(path)
            key = next(file.keys(name), server_name(name) if path.name == "config.json" else name)
            program = "" if "/" in name else file.helper(name) or file.store
            if program:
                helper.store(program, server_name(name), login.username, login.password)
                file.with_entry(key, {}).save()
                return f"docker-credential-{program}"
            file.with_entry(
                key, {"auth": base64.b64encode(f"{login.username}:{login.password}".encode()).decode()}
            ).save()
        return str(path)

    def remove(self, name: str) -> list[str]:
        """Forget all logins for `name`; where they were, to be shown. Raises UsageError, MachineError, NotAllowed."""
        places = []
        for path in self.files:
            file = AuthFile.read(path)
            program = "" if "/" in name else file.helper(name) or (file.store if _has_store(file, name) else "")
            if program and helper.erase(program, server_name(name)):
                places.append(f"docker-credential-{program}")
            if any(file.keys(name)):
                with locked_directory(path.parent):
                    if AuthFile.read(path).login(name):
                        places.append(str(path))
                    AuthFile.read(path).with_entry(name, None).save()
        return places


def _names(registry: str, repository: str) -> Iterator[str]:
    """`host/owner/image`, `host/owner`, `host`."""
    parts = [registry, *filter(None, repository.split("/"))]
    yield from ("/".join(parts[:count]) for count in range(len(parts), 0, -1))


def _kept(file: AuthFile, name: str, registry: str) -> Login | None:
    """What one file has for exactly this name: with a helper of the registry's own, or itself."""
    if name == registry and (program := file.helper(registry)) and (login := _asked(program, registry)):
        return login
    return file.login(name)


def _stored(file: AuthFile, registry: str) -> Login | None:
    """What the helper for all registries has.

    Where it isn't installed that is an error only if the file says that it holds a login for this one.
    """
    return _asked(file.store, registry) if _has_store(file, registry) else None


def _has_store(file: AuthFile, registry: str) -> bool:
    return bool(file.store) and (any(file.keys(registry)) or helper.is_installed(file.store))


def _asked(program: str, registry: str) -> Login | None:
    found = helper.fetch(program, server_name(registry))
    if found is None:
        return None
    username, secret = found
    return Login("", identity_token=secret) if username == _TOKEN_USER else Login(username, secret)
