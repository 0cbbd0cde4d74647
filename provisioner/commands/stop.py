"""`provision stop NAME|DIR…`: ends what runs in containers, as `DIR/start.sh --stop` does."""

from __future__ import annotations

import argparse
import subprocess

from provisioner.commands.container_names import add_container_argument, checked_container
from provisioner.commands.output import number
from provisioner.commands.starting import become, check_script
from provisioner.commands.trusting import add_trust_argument
from provisioner.container_files import SCRIPT
from provisioner.errors import machine_errors

HELP = "Stop what runs in containers"
EXAMPLE = "provision stop web"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `stop`."""
    add_container_argument(parser, "+")
    parser.add_argument(
        *("--timeout", "--time", "-t"),
        metavar="SECONDS",
        type=number(0, 9999),
        help="how long it may take before SIGKILL; default: 10",
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Become `start.sh --stop`, or run that of each container; then the exit status is the highest.

    Raises NotFound, UsageError, NotTrusted and MachineError, before anything is stopped.
    """
    timeout = [] if arguments.timeout is None else ["--timeout", str(arguments.timeout)]
    scripts = [checked_container(name, arguments) / SCRIPT for name in arguments.container]
    if len(scripts) == 1:
        become(str(scripts[0]), ["--stop", *timeout])
    for script in scripts:
        check_script(script)
    with machine_errors("run start.sh"):
        return max(subprocess.run([script, "--stop", *timeout], check=False).returncode for script in scripts)
