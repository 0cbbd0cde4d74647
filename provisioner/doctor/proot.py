"""Probes of what programs in proot can see and do."""

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

    By untranslated calls, programs can see files of the host. Debian's and Ubuntu's proot 5.1.0 is older than statx(2).
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
    """Check whether this user may send ICMP echo requests, which ping needs in proot and userns."""
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
    """Run the proot probe in proot, as start.sh does; return its exit status and output.

    If proot could start it, the status is `WORKS` or more. Raises MachineError if there is no probe for this machine,
    and OSError if it can't be written.
    """
    content = proot_probe(host_platform())
    with ExitStack() as stack:
        scratch = site.scratch or stack.enter_context(tempfile.TemporaryDirectory(prefix="provision-doctor-"))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        (root / "proot-probe").write_bytes(content)
        (root / "proot-probe").chmod(0o755)
        # Without translation the path would be /proot-probe of the host, which doesn't exist.
        return run_program(program, "-v", "-1", "-r", root, "-w", "/", "/proot-probe", "/proot-probe", env=env)


def has_started(status: int) -> bool:
    """Return whether this is the probe's own exit status, not one of proot's."""
    return WORKS <= status < WORKS + 8


def _untranslated_calls(program: str, site: Site) -> list[str] | None:
    """Return the calls whose paths this proot doesn't translate, or None if proot fails. Raises OSError."""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    status, _ = try_start(program, site, env)
    if not has_started(status):
        status, _ = try_start(program, site, {**env, "PROOT_NO_SECCOMP": "1"})
    return [name for name, bit in CALLS.items() if status - WORKS & bit] if has_started(status) else None
