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
"""The parts in the order of start.sh. Each is scripts/start/NAME.sh, and defines functions."""

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
"""Starts the script. It is the last line, so that the shell has read all functions before."""


def is_broken(script: bytes) -> bool:
    """Return whether a start.sh is damaged: it isn't a script, or it is provision's and its end is missing.

    A script that a user has written instead isn't damaged.
    """
    return not script.startswith(b"#!") or (_WRITTEN in script and _LAST_LINE.rstrip() not in script)


def body() -> bytes:
    """Return the part of start.sh after the quoted assignments. It is the same for all images."""
    return b"\n".join([*(read_resource("scripts/start", f"{name}.sh") for name in PARTS), _LAST_LINE])


def options_reader() -> bytes:
    """Return a script that parses the options of start.sh, and does nothing else.

    For an invalid option, it prints start.sh's message on standard error and exits with 125.
    """
    assignments = [f"{field.name}=''\n".encode() for field in fields(LaunchSettings)]
    return b"".join([*assignments, body().removesuffix(_LAST_LINE), _READ_OPTIONS])
