"""The body of start.sh, joined from its parts in scripts/start."""

from __future__ import annotations

from dataclasses import fields

from provisioner.launch.settings import LaunchSettings
from provisioner.resources import read_resource

PARTS = (
    "main",
    "text",
    "paths",
    "options",
    "docker",
    "processes",
    "trust",
    "ids",
    "runtimes",
    "user",
    "streams",
    "command",
    "caller",
    "environment",
    "etc_files",
    "binds",
    "desktop",
    "probe",
    "proot",
    "report",
    "links",
    "android",
    "namespaces",
    "filter",
    "helper",
    "watch",
    "mounts",
    "run_directory",
    "devices",
    "layers",
    "join",
    "entry",
    "supervise",
    "interrupts",
    "print",
    "sessions",
    "detach",
)
"""The parts in their order in start.sh: each is scripts/start/NAME.sh, and defines functions."""

_READ_OPTIONS = b"""
prepare_shell
set_defaults
while read_option $# "${1-}" "${2-}"; do
    shift "$width"
done
"""

_WRITTEN = b"# Written by provision."
"""Begins a comment at the top of start.sh."""
_LAST_LINE = b'main "$@"\n'
"""Runs the script. It comes last, so that a shell has read all functions by then."""


def is_broken(script: bytes) -> bool:
    """Return whether a start.sh can't run: it is no script, or one of provision whose end is missing.

    Another script, which a user has put there, isn't broken.
    """
    return not script.startswith(b"#!") or (_WRITTEN in script and _LAST_LINE.rstrip() not in script)


def body() -> bytes:
    """Return what follows the quoted assignments in start.sh. It is the same for all images."""
    return b"\n".join([*(read_resource("scripts/start", f"{name}.sh") for name in PARTS), _LAST_LINE])


def options_reader() -> bytes:
    """Return a script that reads the options of start.sh in its words, and does nothing else.

    Where one can't be had, it says so on standard error and exits with 125, as start.sh does.
    """
    assignments = [f"{field.name}=''\n".encode() for field in fields(LaunchSettings)]
    return b"".join([*assignments, body().removesuffix(_LAST_LINE), _READ_OPTIONS])
