"""Hostile guests: containers with a Python that runs tests/support/exploits.py, and the host that they attack."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import exploits
from tests.support.containers import Container, choosing, is_roots, make_container, starter
from tests.support.exploits import CANARY, Config
from tests.support.mounts import mounts_below
from tests.support.tools import fast_directory, need, open_terminal, run, user_id, user_python

USERS = ("root", "1234")
"""Whom the guest's programs run as."""
PYTHON = os.path.realpath(sys.executable)
"""The guest's Python, at the path that it has on the host."""
PROGRAM = "/opt/exploits.py"
"""The attacks, by their path in the guest."""


class Outcome(NamedTuple):
    """What an attack came to."""

    got: str | None
    """What it got hold of, None if it failed."""
    why: str
    """The error that stopped it."""


class Host:
    """A host with a canary, a disk, a process and a container for each runtime. Attacks run at their first use."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.outside = make_outside(place / "outside")
        self.handle = exploits.handle_of(str(self.outside / "secret"))
        self._containers: dict[str, Container] = {}
        self._outcomes: dict[tuple[str, str], dict[str, Outcome]] = {}

    def container(self, runtime: str) -> Container:
        """Return the container of a runtime, which belongs to whom the runtime is for."""
        if runtime not in self._containers:
            starter(runtime)  # skips the test where it can't be
            target = make_container(self.place / runtime)
            add_python(target)
            if is_roots(runtime):
                give_to_root(target)
            self._containers[runtime] = target
        return self._containers[runtime]

    def outcome(self, runtime: str, user: str, attack: str) -> Outcome:
        """Return what an attack came to in a runtime, as root or as uid 1234."""
        if (runtime, user) not in self._outcomes:
            self._outcomes[runtime, user] = self.attack(runtime, user)
        return self._outcomes[runtime, user][attack]

    def attack(self, runtime: str, user: str, **environment: str) -> dict[str, Outcome]:
        """Run all attacks in a runtime, started with an environment of variables that are added to the usual ones."""
        target, options = self.container(runtime), starter(runtime)
        options["env"] = {**options["env"], **environment}
        command = [target.script, *choosing(runtime), "--user", user, "--", PYTHON, PROGRAM, "attack"]
        with victim(guest_id(runtime, user)) as pid:
            return self.run(target, pid, command, options)

    def run(
        self, target: Container, pid: int, command: list[Any], options: dict[str, Any], only: tuple[str, ...] = ()
    ) -> dict[str, Outcome]:
        """Run a command that ends with attacks, which get their configuration as its last argument."""
        config = Config(outside=str(self.outside), victim=pid, handle=self.handle, only=only)
        config.command = tuple(str(word) for word in command)
        owner = os.stat(f"/proc/{pid}").st_uid
        with disk(self.place, target) as config.disk, terminal(owner) as config.terminal, control_group(owner):
            python = user_python()[0] if "user" in options else sys.executable
            program = self.place / "exploits.py"
            shutil.copy(exploits.__file__, program)
            words: list[str | Path] = [python, program, "arrange", json.dumps(dataclasses.asdict(config))]
            done = subprocess.run(words, check=False, capture_output=True, timeout=400, **options)
        assert done.returncode == 0, done
        return {name: Outcome(*found) for name, found in json.loads(done.stdout).items()}


def guest_id(runtime: str, user: str) -> int:
    """Return the host's id of a guest's user: in proot and userns that of who started it."""
    if runtime == "chroot":
        return 0 if user == "root" else int(user)
    return 0 if is_roots(runtime) else user_id()


def make_outside(path: Path) -> Path:
    """Make a directory of the host that only its path keeps from a guest."""
    path.mkdir()
    path.chmod(0o777)
    (path / "secret").write_text(CANARY)
    return path


@contextmanager
def hostile_host() -> Iterator[Host]:
    """Yield a Host, and remove it. AssertionError if something stays mounted."""
    place = Path(tempfile.mkdtemp(prefix="provision-attacks-", dir=fast_directory()))
    place.chmod(0o755)
    try:
        yield Host(place)
    finally:
        assert not (mounts := mounts_below(place)), f"left mounted: {mounts}"
        shutil.rmtree(place)


@contextmanager
def disk(place: Path, target: Container) -> Iterator[tuple[int, int]]:
    """Yield the numbers of a block device with CANARY; its node is in the container, as of an image with USER app.

    They are 0, 0 where only an unprivileged user is here.
    """
    if os.geteuid() != 0:
        yield 0, 0
        return
    need("losetup")
    image, node = place / "disk", target.rootfs / "app/disk"
    image.write_bytes(CANARY.encode().ljust(1 << 20, b"\0"))
    device = run("losetup", "--find", "--show", str(image)).strip()
    try:
        number = os.stat(device).st_rdev
        node.parent.mkdir(exist_ok=True)
        node.unlink(missing_ok=True)
        os.mknod(node, 0o060000, number)
        node.chmod(0o666)
        yield os.major(number), os.minor(number)
    finally:
        run("losetup", "--detach", device)
        node.unlink(missing_ok=True)


@contextmanager
def victim(uid: int) -> Iterator[int]:
    """Yield the number of a process of the host with that user id."""
    options: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}
    env = {"VICTIM": CANARY, "PATH": os.defpath}
    with subprocess.Popen(["sleep", "300"], env=env, cwd="/", **options) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def terminal(uid: int) -> Iterator[str]:
    """Yield the path of a terminal of that user, into which CANARY was typed."""
    leader, follower = open_terminal()
    name = os.ttyname(follower)
    if os.geteuid() == 0:
        os.chown(name, uid, -1)
    os.write(leader, f"{CANARY}\n".encode())
    try:
        yield name
    finally:
        os.close(follower)
        os.close(leader)


@contextmanager
def control_group(uid: int) -> Iterator[None]:
    """Make a control group that belongs to that user, as systemd does for each, where there are groups of version 2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    tops = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    if os.geteuid() != 0 or not tops:
        yield
        return
    group = tops[0] / f"provision-attacks-{os.getpid()}"
    group.mkdir()
    try:
        for path in (group, group / "cgroup.procs", group / "cgroup.kill"):
            os.chown(path, uid, uid)
        yield
    finally:
        group.rmdir()


def add_python(target: Container) -> None:
    """Copy a Python to its own path in the rootfs, with its libraries, and the program of the attacks."""
    standard = Path(sysconfig.get_path("stdlib"))
    unneeded = ("test", "site-packages", "dist-packages", "idlelib", "tkinter", "ensurepip", "config-*", "lib2to3")
    shutil.copytree(
        standard, _inside(target, standard), ignore=shutil.ignore_patterns(*unneeded), ignore_dangling_symlinks=True
    )
    _copy(target, Path(PYTHON))
    extensions = [path for name in ("_ctypes", "_json") for path in standard.glob(f"lib-dynload/{name}.*")]
    for program in [Path(PYTHON), *extensions]:
        for library in re.findall(r"(/\S+) \(0x", run("ldd", str(program))):
            _copy(target, Path(library))
    (target.rootfs / "opt").mkdir()
    shutil.copy(exploits.__file__, target.rootfs / PROGRAM.strip("/"))
    for name in ("dev", "sys", "run"):
        (target.rootfs / name).mkdir(exist_ok=True)
    (target.rootfs / "tmp").chmod(0o1777)


def give_to_root(target: Container) -> None:
    """Make all of a container root's."""
    for top, directories, files in os.walk(target.directory):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(top, name), 0, 0, follow_symlinks=False)


def _copy(target: Container, path: Path) -> None:
    inside = _inside(target, path)
    inside.parent.mkdir(parents=True, exist_ok=True)
    if not inside.exists():
        shutil.copy(path, inside)


def _inside(target: Container, path: Path) -> Path:
    return target.rootfs / str(path).lstrip("/")
