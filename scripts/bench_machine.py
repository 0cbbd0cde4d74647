"""What this machine has for `make bench`: its processor, the programs that take part, Python environments for them."""

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
"""What is of interest in each environment."""


@dataclass(frozen=True)
class Machine:
    """Where figures come from. `load` is the average of the minute before."""

    cores: int
    cpu: str
    kernel: str
    python: str
    load: float
    checkout: str
    versions: Mapping[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.cores} cores of {self.cpu}, Linux {self.kernel}, Python {self.python}; {versions}"


def find(program: str) -> str | None:
    """The path of a program, as root would find it."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def machine(environments: Mapping[str, str]) -> Machine:
    """Look at this machine."""
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
        checkout=printed("git", "-C", str(ROOT), "describe", "--always", "--dirty").strip(),
        versions=versions,
    )


def version(*command: str) -> str:
    """The first thing that a command prints and that looks like a version."""
    found = re.search(r"\d+(\.\d+)+", printed(*command))
    return found[0] if found else "of unknown version"


def printed(*command: str) -> str:
    """What a command prints, empty when it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def environments(home: Path) -> dict[str, str]:
    """What entrants need by names in capitals: Python environments, made below `home`, and ROOT where we are root.

    An environment that can't be made is left out; pip has said why.
    """
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    plain = setup["options"]["install_requires"].split("\n")
    fast = plain + setup["options.extras_require"]["fast"].split("\n")
    wanted = {"PLAIN": plain, "FAST": fast, "PROOT_DISTRO": ["proot-distro"], "UDOCKER": ["udocker"]}
    found = {"CHECKOUT": str(ROOT), **({"ROOT": "/"} if os.geteuid() == 0 else {})}
    for variable, requirements in wanted.items():
        place = home / "environments" / variable.lower()
        if environment(place, [one for one in requirements if one]):
            found[variable] = str(place)
    return found


def environment(place: Path, requirements: list[str]) -> bool:
    """Have an environment with these requirements at `place`; tell whether it is there."""
    stamp = place / "requirements.txt"
    content = "\n".join([f"# {sys.version}", *requirements])
    if stamp.exists() and stamp.read_text() == content:
        return True
    print(f"bench: making the environment {place.name}", file=sys.stderr, flush=True)
    make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)]
    pip = [sys.executable, "-m", "pip", "--python", f"{place}/bin/python", "install", "--quiet", *requirements]
    if subprocess.run(make, check=False).returncode or subprocess.run(pip, check=False).returncode:
        return False
    stamp.write_text(content)
    return True
