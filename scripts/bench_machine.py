"""This machine for `make bench`: its processor, versions of programs, and Python environments for the entrants."""

from __future__ import annotations

import configparser
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAMS = ("docker-registry", "curl", "tar", "gzip", "skopeo", "umoci", "buildah")
DISTRIBUTIONS = {"FAST": "isal", "PROOT_DISTRO": "proot-distro", "UDOCKER": "udocker"}
"""The distribution in each environment whose version is reported."""


@dataclass(frozen=True)
class Machine:
    """The machine that figures come from."""

    cores: int
    cpu: str
    kernel: str
    python: str
    load: float
    """The load average of the last minute."""
    checkout: str
    versions: Mapping[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.cores} cores of {self.cpu}, Linux {self.kernel}, Python {self.python}; {versions}"


def find(program: str) -> str | None:
    """Return the path of a program on PATH or in the sbin directories, None if it is missing."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def machine(environments: Mapping[str, str]) -> Machine:
    """Return the description of this machine."""
    versions = {program: version(path, "--version") for program in PROGRAMS if (path := find(program))}
    for variable, name in DISTRIBUTIONS.items():
        if variable in environments:
            code = f"import importlib.metadata as found; print(found.version('{name}'))"
            versions[name] = version(f"{environments[variable]}/bin/python", "-c", code)
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=model[1] if model else platform.machine(),
        kernel=platform.release(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
        checkout=output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty").strip(),
        versions=versions,
    )


def version(*command: str) -> str:
    """Return the first version number in the output of a command."""
    found = re.search(r"\d+(\.\d+)+", output_of(*command))
    return found[0] if found else "of unknown version"


def output_of(*command: str) -> str:
    """Return the output of a command, empty when it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def environments(home: Path) -> dict[str, str]:
    """Create the Python environments below `home`, and return their paths by the names that entrants need.

    There are also CHECKOUT and, for root, ROOT. An environment that can't be created is left out, after pip's message.
    """
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    plain = setup["options"]["install_requires"].split("\n")
    fast = plain + setup["options.extras_require"]["fast"].split("\n")
    distributions = {"PLAIN": plain, "FAST": fast, "PROOT_DISTRO": ["proot-distro"], "UDOCKER": ["udocker"]}
    found = {"CHECKOUT": str(ROOT), **({"ROOT": "/"} if os.geteuid() == 0 else {})}
    for variable, requirements in distributions.items():
        directory = home / "environments" / variable.lower()
        if create_environment(directory, [one for one in requirements if one]):
            found[variable] = str(directory)
    return found


def create_environment(directory: Path, requirements: list[str]) -> bool:
    """Create an environment with these requirements unless it exists; return whether it exists now."""
    stamp = directory / "requirements.txt"
    content = "\n".join([f"# {sys.version}", *requirements])
    if stamp.exists() and stamp.read_text() == content:
        return True
    print(f"bench: making the environment {directory.name}", file=sys.stderr, flush=True)
    make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(directory)]
    pip = [sys.executable, "-m", "pip", "--python", f"{directory}/bin/python", "install", "--quiet", *requirements]
    if subprocess.run(make, check=False).returncode or subprocess.run(pip, check=False).returncode:
        return False
    stamp.write_text(content)
    return True
