"""`provision logout REGISTRY`: forget a login, wherever it is kept."""

from __future__ import annotations

import argparse

from provisioner.commands.login import registry_and_name
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

HELP = "Forget the login to a registry, wherever it is kept: provision logout ghcr.io"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a logout."""
    parser.add_argument("registry", metavar="REGISTRY", help="as it was given to login")
    parser.add_argument("--quiet", action="store_true", help="show errors only")


def run(arguments: argparse.Namespace) -> int:
    """Forget it. Raises UsageError, MachineError, NotAllowed."""
    from provisioner.registry.credentials import Credentials

    _, name = registry_and_name(arguments.registry)
    places = Credentials.of_environment().remove(name)
    where = f"logged out of {name}: removed from {', '.join(map(printable, places))}"
    Console(quiet=arguments.quiet).step(where if places else f"there is no login for {name}")
    return 0
