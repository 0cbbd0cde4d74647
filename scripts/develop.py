"""Creates the virtual environment .venv and runs the development commands in it; the Makefile calls this script.

    python3 scripts/develop.py run [IMAGE]       provision an image and start it
    python3 scripts/develop.py test [ARGUMENT..] run all tests; arguments go to pytest
    python3 scripts/develop.py lint              check format, style, types and shell scripts
    python3 scripts/develop.py check-fast        lint, then the tests that need no root, servers or real images
    python3 scripts/develop.py check             lint, then all tests
    python3 scripts/develop.py bench [OPTION..]  time provision and its peers (see bench.py)
    python3 scripts/develop.py bench-faults [WHAT..]  time pulls from registries that fail (see bench_faults.py)
    python3 scripts/develop.py bench-start [N]   time start.sh in N rounds (see bench_start.py)
    python3 scripts/develop.py matrix [OPTION..] run real programs in every runtime (see matrix.py)
    python3 scripts/develop.py texts             write completions and man pages (see texts.py)
    python3 scripts/develop.py zipapp            write dist/provision.pyz, one file that any Python runs
    python3 scripts/develop.py env               create the environment only

It needs only Python's standard library, neither make nor pip: where the system's Python has no pip (Debian without
python3-venv), it downloads Debian's package of pip, which needs no root.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "provisioner.stamp"
OLDEST = (3, 11)

START_SH = """
import sys
from provisioner.launch.launcher import launcher
from tests.support.containers import SETTINGS
sys.stdout.buffer.write(launcher(SETTINGS))
"""
"""Prints the start.sh of an image."""

HINT = "apt install python3-venv (Termux: pkg install python-ensurepip-wheels), then try again"
NO_VENV = f"this Python can't make environments: {HINT}"
NO_PIP = f"this Python has no pip: {HINT}"


FAST = "not (needs_root or needs_server or real_image or slow)"
"""The tests that check-fast runs, as an expression of pytest's markers."""


PROCESSES = min(3 * (os.cpu_count() or 1) // 2, 8)
"""The number of processes that run tests: more than there are cores, since tests also wait."""


SIDE_BY_SIDE = (f"--numprocesses={PROCESSES}", "--dist=loadfile", "--no-loadscope-reorder", "--reruns=1")
"""Tests of one file run in one process, since they share expensive fixtures. tests/conftest.py starts long files
first. A test that fails runs once more, and the end of the output shows why: it has a race, or the program has."""


class Failure(Exception):
    """An error that the developer has to fix, in one line."""


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    command, *rest = arguments or ["help"]
    if command not in COMMANDS or (rest and not command.startswith(("run", "test", "bench", "matrix"))):
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    try:
        return COMMANDS[command](rest)
    except Failure as failure:
        print(f"develop.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(arguments: list[str]) -> int:
    """Provision an image (see demo.py) and start it."""
    environment()
    return call(PYTHON, "-m", "scripts.demo", *arguments)


def test(arguments: list[str]) -> int:
    """Run pytest with these arguments; without any, run all tests, in several processes."""
    environment("test")
    return call(PYTHON, "-m", "pytest", *(arguments or SIDE_BY_SIDE))


def check_fast(_: list[str]) -> int:
    """Lint, then run the tests that need no root, servers or real images; they take about a minute."""
    return lint([]) or test([*SIDE_BY_SIDE, "-m", FAST])


def bench_faults(arguments: list[str]) -> int:
    """Time pulls from registries that fail (see bench_faults.py)."""
    environment("test")
    return call(PYTHON, "-m", "scripts.bench_faults", *arguments)


def lint(_: list[str]) -> int:
    """Run all linters, even after one has failed, and return 1 if any has."""
    environment("test")
    parts = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("scripts/start/*.sh"))
    shellcheck = shutil.which("shellcheck")
    if not shellcheck:
        print("develop.py: the shell scripts are not checked: apt install shellcheck", file=sys.stderr)
    linters = (
        (PYTHON, "-m", "ruff", "check"),
        (PYTHON, "-m", "ruff", "format", "--check"),
        (PYTHON, "-m", "mypy"),
        (shellcheck or "false", ".ci/run"),
        # Each part of start.sh uses variables of other parts (SC2154), and sets some for them (SC2034).
        (shellcheck or "false", "--shell=sh", "--exclude=SC2154,SC2034", *parts),
    )
    results = [min(call(*linter), 1) for linter in linters]
    # In the joined script, no variable may be unknown or unused.
    script = subprocess.run([PYTHON, "-c", START_SH], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    joined = subprocess.run([shellcheck or "false", "--shell=sh", "-"], input=script.stdout, cwd=ROOT, check=False)
    return max(*results, min(script.returncode or joined.returncode, 1))


def check(_: list[str]) -> int:
    """Lint, then run all tests: what CI does."""
    return lint([]) or test([])


def bench(arguments: list[str]) -> int:
    """Run the benchmark with these options."""
    environment()
    return call(PYTHON, "-m", "scripts.bench", *arguments)


def bench_start(arguments: list[str]) -> int:
    """Time start.sh beside the same commands without it (see bench_start.py)."""
    environment()
    return call(PYTHON, "-m", "scripts.bench_start", *arguments)


def matrix(arguments: list[str]) -> int:
    """Run real programs of Debian and Alpine in every runtime (see matrix.py)."""
    environment("test")
    return call(PYTHON, "-m", "scripts.matrix", *arguments)


def texts(_: list[str]) -> int:
    """Write completions and man pages from the texts of the help (see texts.py)."""
    environment("test")
    return call(PYTHON, "-m", "scripts.texts")


def zipapp(_: list[str]) -> int:
    """Write dist/provision.pyz (see zipapp.py)."""
    environment("test")
    return call(PYTHON, "-m", "scripts.zipapp")


def env(_: list[str]) -> int:
    """Create the environment for all other commands."""
    environment("test")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "test": test,
    "lint": lint,
    "check": check,
    "check-fast": check_fast,
    "env": env,
    "texts": texts,
    "zipapp": zipapp,
    "bench": bench,
    "bench-faults": bench_faults,
    "bench-start": bench_start,
    "matrix": matrix,
}


def call(*command: str) -> int:
    """Run a command at the top of the checkout and return its exit status."""
    return subprocess.call(command, cwd=ROOT)


def environment(extra: str = "") -> None:
    """Install the package into .venv, editable, with the dependencies of `extra`, unless that is done already.

    Those of the extra `fast` are installed where pip has wheels of them, which nothing depends on.
    The lines of the stamp file: checkout and Python, a hash of what is installed how, and each installed extra.
    """
    if sys.version_info < OLDEST:
        raise Failure(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}: make PYTHON=python3.13, say")
    target = f"{ROOT} {sys.base_prefix} {sys.version_info[:2]}"
    requirements = hashlib.sha256(
        b"".join((ROOT / name).read_bytes() for name in ("setup.cfg", "pyproject.toml", "scripts/develop.py"))
    ).hexdigest()
    stamp = STAMP.read_text().splitlines() if STAMP.exists() else []
    if stamp[:1] != [target]:
        print("develop.py: making .venv", flush=True)
        make_venv()
        stamp = [target]
        STAMP.write_text(target)
    extras = sorted({*stamp[2:], extra} - {""})
    if stamp[1:] == [requirements, *extras]:
        return
    what = f".[{','.join(extras)}]" if extras else "."
    print(f"develop.py: installing {what} into .venv", flush=True)
    pip = [PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--editable", what]
    done = subprocess.run(pip, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise Failure("the installation failed; what pip said is above")
    install_wheels_of_fast()
    STAMP.write_text("\n".join([target, requirements, *extras]))


def install_wheels_of_fast() -> None:
    """Install the dependencies of the extra `fast` into .venv, as far as there are wheels for this Python and
    machine."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for requirement in setup["options.extras_require"]["fast"].split("\n"):
        pip = [PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--only-binary=:all:"]
        if requirement and subprocess.run([*pip, requirement], cwd=ROOT, capture_output=True, check=False).returncode:
            print(f"develop.py: going on without {requirement}: pip has no wheel of it for this machine", flush=True)


def make_venv() -> None:
    """Create .venv from scratch, with pip from ensurepip, from this Python or from apt."""
    if call(sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)):
        raise Failure(NO_VENV)
    ensure = [PYTHON, "-m", "ensurepip", "--default-pip"]
    other = [sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip"]
    if any(subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0 for command in (ensure, other)):
        return
    with tempfile.TemporaryDirectory() as directory:
        wheel = pip_from_apt(Path(directory))
        # A wheel is a zip file, and Python runs pip from inside of it.
        if call(PYTHON, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)):
            raise Failure(NO_PIP)


def pip_from_apt(directory: Path) -> Path:
    """Download Debian's or Ubuntu's wheel of pip into `directory`, which is also apt's state, and return its path."""
    print("develop.py: this Python has no pip; downloading the one of this system", flush=True)
    (directory / "lists").mkdir()
    apt = ["apt-get", "-qq", "-o", f"Dir::State={directory}", "-o", f"Dir::Cache={directory}"]
    # apt of root would download as the user _apt, who can't write here.
    apt += ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]
    try:
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", "python3-pip-whl"], cwd=directory, check=True)
        (package,) = directory.glob("*.deb")
        subprocess.run(["dpkg", "-x", package, directory], check=True)
        return next((directory / "usr/share/python-wheels").glob("pip-*.whl"))
    except (OSError, subprocess.CalledProcessError, ValueError, StopIteration) as error:
        raise Failure(NO_PIP) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
