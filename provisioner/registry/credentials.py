"""Logins for registries, in the files of podman, skopeo and Docker: finding, adding and removing them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import MachineError, machine_errors
from provisioner.filesystem.locks import locked_directory
from provisioner.filesystem.user_directories import home_directory, user_directory
from provisioner.registry import helper
from provisioner.registry.authfile import AuthFile, Login, server_name
from provisioner.terminal.escaping import printable

_TOKEN_USER = "<token>"
"""The user name for which the secret of a helper is an identity token."""


@dataclass(frozen=True)
class Credentials:
    """The places where logins are looked up. Files are read and helpers run only when a registry asks for
    credentials."""

    files: tuple[Path, ...] = ()
    """The files of logins. The first one with a login for the image decides."""
    login: Login | None = None
    """A login that is used for every registry, without any lookup."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """Return this user's credentials: podman's and Docker's files, in the order of containers-auth.json(5)."""
        if own := environment.get("REGISTRY_AUTH_FILE"):
            return cls((Path(own),))
        home, runtime = home_directory(environment), environment.get("XDG_RUNTIME_DIR", "")
        docker = Path(environment["DOCKER_CONFIG"]) if environment.get("DOCKER_CONFIG") else home and home / ".docker"
        folders = [
            Path(runtime, "containers") if os.path.isabs(runtime) else None,
            user_directory("XDG_CONFIG_HOME", ".config", environment, "containers"),
        ]
        files = [folder / "auth.json" for folder in folders if folder]
        files += [docker / "config.json"] if docker else []
        return cls(tuple(files))

    def find(self, registry: str, repository: str) -> Login | None:
        """Return the login for a repository, or None. In a file, the most specific entry counts (`host/owner` before
        `host`).

        Raises UsageError for a malformed file, MachineError, and NotAllowed for a helper that fails.
        """
        if self.login:
            return self.login
        for path in self.files:
            file = AuthFile.read(path)
            for name in _names(registry, repository):
                if login := _exact_login(file, name, registry):
                    return login
            if file.store and (login := _store_login(file, registry)):
                return login
        return None

    def add(self, name: str, login: Login) -> str:
        """Save a login for `name`, a registry or a part of it. Return the file or helper that stores it, for display.

        It is saved in the first file that has an entry for `name`, else in the first that exists, else in podman's file
        that outlives a reboot. If that file names a helper program for the registry, the helper stores the secret.
        Raises UsageError, MachineError, NotAllowed.
        """
        if not self.files:
            raise MachineError("this user has no home directory for logins", "set HOME, or REGISTRY_AUTH_FILE")
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
        """Remove all logins for `name`. Return the files and helpers that had one, for display.

        Raises UsageError, MachineError, NotAllowed.
        """
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
    """Yield the names that an entry for a repository may have: `host/owner/image`, `host/owner`, `host`."""
    parts = [registry, *filter(None, repository.split("/"))]
    yield from ("/".join(parts[:count]) for count in range(len(parts), 0, -1))


def _exact_login(file: AuthFile, name: str, registry: str) -> Login | None:
    """Return the login for exactly this name: of the helper for this registry alone, else of the file itself."""
    if name == registry and (program := file.helper(registry)) and (login := _helper_login(program, registry)):
        return login
    return file.login(name)


def _store_login(file: AuthFile, registry: str) -> Login | None:
    """Return the login of the file's helper for all registries, if any.

    A helper that isn't installed is an error only if the file says that it has a login for this registry.
    """
    return _helper_login(file.store, registry) if _has_store(file, registry) else None


def _has_store(file: AuthFile, registry: str) -> bool:
    """Return whether the file's helper for all registries is to be run for `registry`."""
    return bool(file.store) and (any(file.keys(registry)) or helper.is_installed(file.store))


def _helper_login(program: str, registry: str) -> Login | None:
    """Run a helper and return its login for a registry, if any. Raises NotAllowed."""
    found = helper.fetch(program, server_name(registry))
    if found is None:
        return None
    username, secret = found
    return Login("", identity_token=secret) if username == _TOKEN_USER else Login(username, secret)
