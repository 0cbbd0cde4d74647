"""Probes of what guests of proot see and can do."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.children import run_program
from provisioner.errors import MachineError
from provisioner.image.platform import host_platform
from provisioner.launch.proot_filter import proot_filter
from provisioner.launch.proot_probe import CALLS, WORKS, proot_probe


def check_proot_paths(site: Site) -> Finding:
    """Check whether proot translates the paths of newer system calls, or whether start.sh's filter refuses these.

    Programs would see files of the host by them: Debian's and Ubuntu's proot 5.1.0 is older than statx(2).
    """
    program = shutil.which("proot")
    if not program:
        return unknown("there is no proot")
    try:
        untranslated = _untranslated_calls(program, site)
    except MachineError as error:
        return unknown(error.message)
    except OSError as error:
        return unknown(f"the probe can't be written: {error.strerror}")
    if untranslated is None:
        return unknown("the probe didn't end as it should: the kernel may end programs that make newer system calls")
    if not untranslated:
        return ok("proot translates all of them")
    names = ", ".join(untranslated)
    try:
        proot_filter(host_platform())
    except MachineError:
        return no(f"proot doesn't know {names}: programs see the host's files by them", "start.sh --runtime userns")
    return ok(f"proot doesn't know {names}: start.sh's filter refuses them, and programs use older calls")


def check_ping(site: Site) -> Finding:
    """Check whether users may send ICMP echo requests, without which ping fails in proot and userns."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except PermissionError:
        return no(
            "the kernel refuses it to this user: ping works in chroot only",
            "as root: sysctl -w net.ipv4.ping_group_range='0 2147483647'",
        )
    except OSError as error:
        return unknown(str(error.strerror))
    return ok("users may ping, in every runtime")


def try_start(program: str, site: Site, env: Mapping[str, str]) -> tuple[int, str]:
    """Start the probe in proot, as start.sh does to learn whether this proot starts anything; return its status and
    output. The status is `WORKS` or more where it has started.

    Raises MachineError where there is no probe for this machine, and OSError where it can't be written.
    """
    content = proot_probe(host_platform())
    with ExitStack() as stack:
        scratch = site.scratch or stack.enter_context(tempfile.TemporaryDirectory(prefix="provision-doctor-"))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        (root / "proot-probe").write_bytes(content)
        (root / "proot-probe").chmod(0o755)
        # The host has no such file at its root.
        return run_program(program, "-v", "-1", "-r", root, "-w", "/", "/proot-probe", "/proot-probe", env=env)


def has_started(status: int) -> bool:
    """Return whether this is the probe's own exit status, not one of proot's."""
    return WORKS <= status < WORKS + 8


def _untranslated_calls(program: str, site: Site) -> list[str] | None:
    """Return the calls that this proot makes with the host's paths, None where it doesn't work. Raises OSError."""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    status, _ = try_start(program, site, env)
    if not has_started(status):
        status, _ = try_start(program, site, {**env, "PROOT_NO_SECCOMP": "1"})
    return [name for name, bit in CALLS.items() if status - WORKS & bit] if has_started(status) else None
