"""`provision logout REGISTRY`: removes a login from all auth files."""

from __future__ import annotations

import argparse

from provisioner.commands.login import registry_and_name
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

HELP = "Remove the login to a registry, wherever it is saved"
EXAMPLE = "provision logout ghcr.io"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `logout`."""
    parser.add_argument("registry", metavar="REGISTRY", help="as it was given to login")
    parser.add_argument("--quiet", action="store_true", help="show errors only")


def run(arguments: argparse.Namespace) -> int:
    """Remove the login. Raises UsageError, MachineError, NotAllowed."""
    from provisioner.registry.credentials import Credentials

    _, name = registry_and_name(arguments.registry)
    places = Credentials.of_environment().remove(name)
    removed = f"logged out of {name}: removed from {', '.join(map(printable, places))}"
    Console(quiet=arguments.quiet).step(removed if places else f"there is no login for {name}")
    return 0
