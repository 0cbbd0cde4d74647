"""`provision stop NAME|DIR`: ends what runs in a container, as `DIR/start.sh --stop` does."""

from __future__ import annotations

import argparse
import os

from provisioner.commands.container_names import add_container_argument, find_container
from provisioner.commands.output import number
from provisioner.commands.starting import become
from provisioner.commands.trusting import add_trust_argument

HELP = "Stop what runs in a container"
EXAMPLE = "provision stop web"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `stop`."""
    add_container_argument(parser)
    parser.add_argument(
        *("--timeout", "--time", "-t"),
        metavar="SECONDS",
        type=number(0, 9999),
        help="how long it may take before SIGKILL; default: 10",
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Become `start.sh --stop`. Raises NotFound, UsageError, NotTrusted and MachineError."""
    timeout = [] if arguments.timeout is None else ["--timeout", str(arguments.timeout)]
    become(os.path.join(find_container(arguments), "start.sh"), ["--stop", *timeout])
