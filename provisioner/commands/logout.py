"""`provision logout REGISTRY`: removes a login from all auth files."""

from __future__ import annotations

import argparse

from provisioner.commands.login import registry_and_name
from provisioner.commands.output import make_console
from provisioner.terminal.escaping import printable

HELP = "Remove the login to a registry, wherever it is saved"
EXAMPLE = "provision logout ghcr.io"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `logout`."""
    parser.add_argument("registry", metavar="REGISTRY", help="the same name as for login")


def run(arguments: argparse.Namespace) -> int:
    """Remove the login. Raises UsageError, MachineError, NotAllowed."""
    from provisioner.registry.credentials import Credentials

    _, name = registry_and_name(arguments.registry)
    places = Credentials.of_environment().remove(name)
    removed = f"logged out of {name}: removed from {', '.join(map(printable, places))}"
    make_console(arguments).step(removed if places else f"there is no login for {name}")
    return 0
