"""The columns of the matrix: the runtimes, each with the options and files by which start.sh uses it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from provisioner.launch.script import body

TERMUX_PROOT = "TERMUX_PROOT"
"""The environment variable with the path of a proot that was built from Termux's source."""


@dataclass(frozen=True)
class Column:
    """A runtime of the matrix."""

    name: str
    title: str
    options: tuple[str, ...]
    """Options of start.sh."""
    by_root: bool = False
    provision_options: tuple[str, ...] = ()
    proot: str = "host"
    """`host`, `sid` or `termux`: where proot comes from; with Termux's, hard links are refused as Android does."""
    without: tuple[str, ...] = ()
    """Files in DIR/.provision that are removed before the first start."""


COLUMNS = (
    Column("proot-plain", "proot {} without the filter", ("--runtime", "proot"), without=("proot.bpf",)),
    Column("proot", "proot {} with the filter", ("--runtime", "proot")),
    Column("proot-sid", "proot {} of sid", ("--runtime", "proot"), proot="sid"),
    Column("proot-termux", "Termux's proot {}", ("--runtime", "proot"), proot="termux"),
    Column("userns", "userns, one id", ("--runtime", "userns")),
    Column("userns-many", "userns, many ids", ("--runtime", "userns"), provision_options=("--ids", "many")),
    Column("chroot", "chroot", ("--runtime", "chroot"), by_root=True),
)


def why_missing(column: Column) -> str:
    """Return why a column can't be tested on this machine; empty if it can."""
    if column.proot == "termux" and not os.access(os.environ.get(TERMUX_PROOT, ""), os.X_OK):
        return f"{TERMUX_PROOT} is not the path of a proot that was built from Termux's source"
    if column.proot == "host" and "proot" in column.options and not shutil.which("proot"):
        return "proot is missing: apt install proot"
    if column.name == "proot" and "proot.bpf" not in body().decode():
        return "start.sh has no filter for proot yet"
    if column.provision_options:
        command = [sys.executable, "-m", "provisioner", "help", "install"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if column.provision_options[0] not in shown:
            return f"provision has no {column.provision_options[0]} yet"
    return ""


def versions_here() -> dict[str, str]:
    """Return the versions of each proot, the kernel and util-linux, and the machine."""
    termux = os.environ.get(TERMUX_PROOT, "")
    return {
        "host": _version("proot"),
        "termux": _version(termux) if os.access(termux, os.X_OK) else "",
        "kernel": os.uname().release.split("-")[0],
        "machine": os.uname().machine,
        "util-linux": _version("unshare"),
    }


def _version(program: str) -> str:
    """Return the version that a program reports, or an empty text."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    found = re.search(r"\bv?(\d+\.\d+(?:\.\d+)*)", done.stdout + done.stderr)
    return found[1] if found else ""
