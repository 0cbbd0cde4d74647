"""`provision login REGISTRY`: checks credentials with the registry and saves them where podman and Docker do."""

from __future__ import annotations

import argparse
import getpass
import re
import sys

from provisioner.commands.output import make_console
from provisioner.errors import UsageError
from provisioner.image.reference import Reference, parse_registry
from provisioner.terminal.escaping import printable

HELP = "Log in to a registry, for private images"
EXAMPLE = "provision login ghcr.io"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `login`."""
    parser.add_argument(
        "registry", metavar="REGISTRY", help="docker.io, ghcr.io, localhost:5000; ghcr.io/owner for a part of one"
    )
    parser.add_argument("--username", "-u", metavar="NAME", help="default: asked for")
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password, or access token, from standard input"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow plain HTTP and certificates that can't be verified"
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask for credentials, check them with the registry, and save them.

    Raises NotAllowed, NetworkError, UsageError, MachineError.
    """
    from provisioner.config import Config
    from provisioner.registry.authfile import Login
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.credentials import Credentials

    registry, name = registry_and_name(arguments.registry)
    if re.fullmatch("[a-z0-9_-]+", registry) and registry != "localhost":  # proot-distro's word for a shell
        raise UsageError(
            f"{registry} is no registry: that has a dot or a port, as ghcr.io",
            f"a shell in a container: provision shell {registry}",
        )
    insecure = arguments.insecure or Config.load().is_insecure(registry)
    console = make_console(arguments)
    login = Login(*_credentials(arguments))
    reference, credentials = Reference(registry, "", None, None), Credentials((), login)
    client = RegistryClient(reference, insecure=insecure, credentials=credentials, warn=console.warn)
    if not client.check_login():
        console.step(f"{registry} asks for no credentials: nothing to check, nothing saved")
        return 0
    place = Credentials.of_environment().add(name, login)
    console.step(f"logged in to {name} as {printable(login.username)}; saved in {printable(place)}")
    return 0


def registry_and_name(text: str) -> tuple[str, str]:
    """Return the registry that a user names, and the key of its login in auth files: `registry[/owner[/image]]`.

    Raises UsageError.
    """
    host, _, path = text.removeprefix("https://").removeprefix("http://").partition("/")
    registry, path = parse_registry(host), path.strip("/")
    if path in ("", "v1", "v2"):
        return registry, registry
    Reference.parse(f"{registry}/{path}")  # raises where it can't be a part of a repository
    return registry, f"{registry}/{path}"


def _credentials(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return the user name and the password, from the options or the terminal. Raises UsageError."""
    if arguments.password_stdin:
        if not arguments.username:
            raise UsageError("--password-stdin needs a name as well", "give it: --username NAME")
        username, password = arguments.username, _password_line()
    elif not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for a password on", "give it on standard input: --password-stdin")
    else:
        username = arguments.username or _username()
        try:
            password = getpass.getpass("Password: ", stream=sys.stderr)
        except EOFError:  # Ctrl-D
            password = ""
    if not username or ":" in username or not username.isprintable():
        raise UsageError(f"{username!r} can't be a user name", "give one without colons: --username NAME")
    if not password:
        raise UsageError("the password is empty", "give one, or an access token")
    if not password.isprintable():
        raise UsageError(
            "the password has characters that can't be printed", "give it in UTF-8, without control characters"
        )
    return username, password


def _password_line() -> str:
    """Return the first line of standard input. Bytes that aren't UTF-8 become characters that aren't printable."""
    return sys.stdin.buffer.readline().decode(errors="surrogateescape").rstrip("\r\n")


def _username() -> str:
    print("Username: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
