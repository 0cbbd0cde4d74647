"""A guest that swaps paths of its rootfs for links while start.sh starts another one in the same directory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.attacks_host.protection import protects
from tests.support.attack_runner import look
from tests.support.containers import Container, is_roots, make_container, starter
from tests.support.hostile import give_to_root
from tests.support.mounts import mounts_below, read_mountinfo
from tests.support.tools import as_user, clean_environment, need, need_root, user_python

STARTS = 200
SECONDS = 60
"""The starts end after so long, however many there were."""
NAMES = ("etc", "dev", "proc", "run", "sys", "work", "etc/resolv.conf", "etc/hosts", "dev/shm", "bound")

# Exchange each NAME.swap with NAME (RENAME_EXCHANGE): the path is always a file or directory, or a link.
SWAP = """
import ctypes, os, sys
number = {"x86_64": 316, "aarch64": 276}[os.uname().machine]
call = ctypes.CDLL(None).syscall
print("begun", flush=True)
while True:
    for name in sys.argv[1:]:
        call(number, -100, os.fsencode(name), -100, os.fsencode(name + ".swap"), 2)
"""


def make_canaries(outside: Path, target: Container, owner: int) -> None:
    """Make a directory of the host for each name, and beside each name in the rootfs a link to it."""
    for name in NAMES:
        inside, canary = target.rootfs / name, outside / name
        if "." in name or name == "etc/hosts":
            inside.write_text("10.0.0.1 inside\n")
            canary.write_text("the host's\n")
        else:
            inside.mkdir(exist_ok=True)
            canary.mkdir()
            (canary / "file").write_text("the host's\n")
        # Relative, so that the guest's reading of it is another path than the host's.
        link = inside.with_name(f"{inside.name}.swap")
        link.symlink_to(os.path.relpath(canary, link.parent))
    for path in (*outside.rglob("*"), *target.rootfs.rglob("*"), outside):
        os.chown(path, owner, owner, follow_symlinks=False)


@contextmanager
def swapping(target: Container, uid: int) -> Iterator[None]:
    """Swap paths of the rootfs, as the user who its guests are on the host."""
    python = sys.executable if uid == 0 else user_python()[0]
    options = {"cwd": target.rootfs} if uid == 0 else {**as_user(), "cwd": target.rootfs}
    with subprocess.Popen([python, "-c", SWAP, *NAMES], stdout=subprocess.PIPE, **options) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


class MountWatcher(threading.Thread):
    """Notes mounts at or below a directory in the mount namespaces of all processes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.found: set[str] = set()
        self.ended = threading.Event()
        self._directory = directory

    def run(self) -> None:
        own = os.readlink("/proc/self/ns/mnt")
        while not self.ended.wait(0.001):
            # The newest processes are those that start.sh has just made.
            for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int)[-40:]:
                with suppress(OSError):
                    if os.readlink(f"/proc/{name}/ns/mnt") != own:
                        mounts = read_mountinfo(Path(f"/proc/{name}/mountinfo").read_bytes())
                        self.found |= {str(m.point) for m in mounts if m.point.is_relative_to(self._directory)}


@pytest.mark.slow
@protects("userns", "chroot", users=())
def test_paths_swapped_during_starts_do_not_lead_out(place: Path, runtime: str) -> None:
    options = starter(runtime)
    target = make_container(place / "container")
    outside, source = place / "outside", place / "source"
    outside.mkdir()
    source.mkdir()
    uid = options.get("user", os.geteuid())
    make_canaries(outside, target, uid)
    if is_roots(runtime):
        give_to_root(target)
    before = look(outside)
    deadline = time.monotonic() + SECONDS
    watcher = MountWatcher(outside)

    def start(number: int) -> int | None:
        if time.monotonic() > deadline:
            return None
        words = ("--workdir", "/work", "--bind", f"{source}:/bound/new{number}", "true")
        return target.run(runtime, *words, **options).returncode

    watcher.start()
    with swapping(target, uid), ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(start, range(STARTS)))
    watcher.ended.set()
    watcher.join()
    assert look(outside) == before
    assert watcher.found == set()
    assert mounts_below(outside) == []
    assert statuses.count(0) > 0, "no start succeeded: the swaps proved nothing"


TAR = """\
#!/bin/sh
/usr/bin/env -i /bin/tar "$@" || exit
case $* in
    -cf*)
        [ -e ./link ] && [ ! -e ./gone ] && mv ./link ./gone && mv ./.hidden ./link
        ;;
esac
exit 0
"""
"""A tar behind which a guest swaps a link for a directory at the worst moment."""


def test_what_is_copied_of_run_goes_into_no_link(place: Path) -> None:
    """Another guest of the same DIR swaps a link for a directory between the copy of the one and of the other."""
    need_root()
    need("tar")
    target = make_container(place / "container")
    give_to_root(target)
    outside, tools = place / "outside", place / "tools"
    outside.mkdir()
    tools.mkdir()
    (tools / "tar").write_text(TAR)
    (tools / "tar").chmod(0o755)
    folder = target.rootfs / "run"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".hidden/evil").write_text("evil")
    (folder / "link").symlink_to(outside)
    env = {**clean_environment(), "PATH": f"{tools}:{os.environ['PATH']}"}
    done = target.run("chroot", "true", env=env)
    assert (folder / "gone").is_symlink(), done.stderr  # the swap has taken place
    assert list(outside.iterdir()) == []
    assert done.returncode == 0, done.stderr
