"""The files in `.provision/` that depend on the machine: executables and seccomp filters for start.sh."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from provisioner.container_files import (
    BACKGROUND_FILTER,
    CONTAINER_FILTER,
    EMULATION_FILTER,
    HELPER,
    MACHINE,
    PROOT_FILTER,
    PROOT_PROBE,
    TERMINAL_RELAY,
)
from provisioner.errors import MachineError
from provisioner.filesystem.atomic import write_new
from provisioner.image.platform import Platform
from provisioner.launch.proot_filter import proot_filter
from provisioner.launch.proot_probe import proot_probe
from provisioner.launch.seccomp import background_filter, container_filter, root_emulation
from provisioner.launch.static_helper import static_helper
from provisioner.launch.terminal_relay import terminal_relay

_MACHINES = {"amd64": "x86_64", "386": "i386", "arm": "arm", "arm64": "aarch64", "riscv64": "riscv64"}
"""Architectures as start.sh names them, after `uname -m`."""


@dataclass(frozen=True)
class RuntimeFile:
    """A file of `.provision/`."""

    name: str
    content: bytes
    mode: int = 0o644


def runtime_files(platform: Platform) -> tuple[RuntimeFile, ...]:
    """Return the files for machines of `platform`, as far as they exist for it."""
    files = []
    with suppress(MachineError):
        files.append(RuntimeFile(EMULATION_FILTER, root_emulation(platform)))
        files.append(RuntimeFile(CONTAINER_FILTER, container_filter(platform)))
        files.append(RuntimeFile(BACKGROUND_FILTER, background_filter(platform)))
    with suppress(MachineError):
        files.append(RuntimeFile(PROOT_FILTER, proot_filter(platform)))
    with suppress(MachineError):
        files.append(RuntimeFile(PROOT_PROBE, proot_probe(platform), 0o755))
        files.append(RuntimeFile(TERMINAL_RELAY, terminal_relay(platform), 0o755))
        files.append(RuntimeFile(HELPER, static_helper(platform), 0o755))
        files.append(RuntimeFile(MACHINE, _MACHINES[platform.architecture].encode() + b"\n"))
    return tuple(files)


def has_helper(files: tuple[RuntimeFile, ...]) -> bool:
    """Return whether the static helper is among the files."""
    return any(file.name == HELPER for file in files)


def write_files(folder: int, files: tuple[RuntimeFile, ...]) -> None:
    """Write the files to `.provision`, open as `folder`. Raises OSError."""
    for file in files:
        write_new(folder, file.name, file.content, file.mode)
