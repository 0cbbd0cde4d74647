"""The main job on file systems of all kinds, each made for real: docs/file-systems.md has the same table."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from provisioner.container.place import limits_of
from provisioner.doctor.check import Finding, Site, State
from provisioner.doctor.filesystem import check_directory
from provisioner.filesystem.descriptors import directory_descriptor
from provisioner.filesystem.removal import remove_tree
from provisioner.ownership.policy import Ownership
from tests.support import builders
from tests.support.archives import END, raw
from tests.support.disks import disk
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import find_program, need, need_root, provision_command, run, unavailable
from tests.support.waiting import wait_until

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
MODES = {"readme": 0o644, "README": 0o6755, "closed": 0o000}
CONTENTS = {"readme": b"lower", "README": b"upper", "closed": b"x"}
TIME = 1234567890


def file_of_another(name: str) -> bytes:
    fields = {"mode": b"%07o" % MODES[name], "uid": b"0000001", "gid": b"0000002", "mtime": b"%011o" % TIME}
    return raw(b"usr/" + name.encode(), content=CONTENTS[name], **fields)


def image() -> builders.Image:
    directories = [raw(name, b"5", mode=b"0000755", mtime=b"%011o" % TIME) for name in (b"etc", b"usr")]
    files = [raw(b"etc/os-release", content=b"ID=tiny\n"), *map(file_of_another, MODES)]
    archive = b"".join((*directories, *files, END))
    blob = builders.compressed(archive, "gzip")
    return builders.image(builders.Layer(blob, f"{builders.OCI_LAYER}+gzip", builders.digest_of(archive)))


@pytest.fixture(scope="module")
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as served:
        served.push("x", image())
        yield served


@contextmanager
def mounted(place: Path, *command: str | Path) -> Iterator[Path]:
    """Mount at `place/mounted` by a command, to which that path is added."""
    point = place / "mounted"
    point.mkdir()
    program, *options = command
    run(find_program(str(program)) or program, *options, point)
    try:
        yield point
    finally:
        run("umount", point)


@contextmanager
def on_loop(place: Path, make: str, *command: str) -> Iterator[Path]:
    """Make a file system by the program `make` on a loop device and mount it by a command."""
    need("losetup", make.split()[0], command[0])
    file = place / "backing"
    with file.open("wb") as opened:
        opened.truncate(256 << 20)
    program, *options = make.split()
    run(find_program(program) or program, *options, file)
    device = run("losetup", "--find", "--show", file).strip()
    try:
        with mounted(place, *command, device) as point:
            yield point
    finally:
        run("losetup", "--detach", device)


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    with mounted(place, "mount", "-t", "tmpfs", "-o", options, "tmpfs") as point:
        yield point


@contextmanager
def overlay(place: Path) -> Iterator[Path]:
    with tmpfs_below(place) as below:
        for name in ("lower", "upper", "work"):
            (below / name).mkdir()
        options = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
        with mounted(place, "mount", "-t", "overlay", "-o", options, "overlay") as point:
            yield point


@contextmanager
def tmpfs_below(place: Path) -> Iterator[Path]:
    below = place / "below"
    below.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", below)
    try:
        yield below
    finally:
        run("umount", "--lazy", below)  # a file system of FUSE that shows it ends a moment after its own unmounting


@contextmanager
def bindfs(place: Path, *options: str) -> Iterator[Path]:
    need("bindfs")
    with tmpfs_below(place) as below, mounted(place, "bindfs", *options, below) as point:
        yield point


@contextmanager
def sshfs(place: Path) -> Iterator[Path]:
    """Mount a directory by sshfs, connected to an SFTP server by a socket instead of ssh."""
    need("sshfs")
    if not SFTP_SERVER.exists():
        unavailable("there is no SFTP server: apt-get install openssh-sftp-server")
    point = place / "mounted"
    point.mkdir()
    with ExitStack() as stack:
        below = stack.enter_context(tmpfs_below(place))
        ours, theirs = socket.socketpair()
        server = stack.enter_context(
            subprocess.Popen([str(SFTP_SERVER)], stdin=theirs.fileno(), stdout=theirs.fileno())
        )
        client = stack.enter_context(
            subprocess.Popen(
                ["sshfs", "-f", "-o", "passive", f":{below}", str(point)], stdin=ours.fileno(), stdout=ours.fileno()
            )
        )
        ours.close()
        theirs.close()
        while not os.path.ismount(point):
            assert client.poll() is None
            time.sleep(0.01)
        try:
            yield point
        finally:
            run("umount", point)
            server.terminate()


@contextmanager
def on_disk(place: Path, file_system: str) -> Iterator[Path]:
    with disk(place, file_system) as mounted_disk:
        yield mounted_disk.path


def provision(
    registry: ScriptedRegistry, directory: Path, *words: str, cache: Path, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command, options = provision_command(f"{registry.host}/x", "--platform=linux/amd64", directory, *words, cache=cache)
    return subprocess.run([*prefix, *command], check=False, **options)


NTFS = "mkfs.ntfs -Q -F"
SAME_OWNER = "the owners of the image can't be set here: all files get the same owner (provision doctor)"
NOW = "this file system doesn't keep the times of files: they are those of now"
NOSUID = "this file system is mounted nosuid: in chroot, sudo and su can't become another user"
SQUASHED = ("--force-user=65534", "--force-group=65534", "--chown-deny", "--chgrp-deny")
WORKING: dict[str, tuple[Callable[[Path], AbstractContextManager[Path]], list[str]]] = {
    "ext4": (lambda place: on_disk(place, "ext4"), []),
    "xfs": (lambda place: on_disk(place, "xfs"), []),
    "btrfs": (lambda place: on_disk(place, "btrfs"), []),
    "tmpfs": (lambda place: tmpfs(place, "noatime,nodev"), []),
    "overlayfs": (overlay, []),
    "bindfs": (bindfs, [NOSUID]),
    "nosuid": (lambda place: tmpfs(place, "nosuid"), [NOSUID]),
    "root_squash": (lambda place: bindfs(place, *SQUASHED), [SAME_OWNER]),
    "chown ignored": (lambda place: bindfs(place, "--chown-ignore", "--chgrp-ignore"), [SAME_OWNER]),
    "ntfs-3g with permissions": (lambda place: on_loop(place, NTFS, "ntfs-3g", "-o", "permissions"), []),
}
"""What works, and what it says."""
REFUSED: dict[str, tuple[Callable[[Path], AbstractContextManager[Path]], str]] = {
    "sshfs": (sshfs, "refuses absolute symlinks"),
    "noexec": (lambda place: tmpfs(place, "noexec"), "mounted noexec"),
    "read-only": (lambda place: tmpfs(place, "ro"), "Read-only file system"),
    "chmod ignored": (lambda place: bindfs(place, "--chmod-ignore"), "without execute permission"),
    "exFAT": (lambda place: on_loop(place, "mkfs.exfat", "mount.exfat-fuse", "-o", "dmask=022"), "without symlinks"),
    "vfat": (lambda place: on_loop(place, "mkfs.vfat", "fusefat", "-o", "rw+"), "without symlinks"),
    "ntfs-3g": (lambda place: on_loop(place, NTFS, "ntfs-3g", "-o", "umask=022"), "without permissions"),
    "case-insensitive": (
        lambda place: on_loop(place, NTFS, "lowntfs-3g", "-o", "permissions,ignore_case"),
        "doesn't tell upper from lower case",
    ),
}
"""What is refused before anything is downloaded, and the message."""


def doctor_s_finding(point: Path) -> Finding:
    """Return what doctor says of a directory on that file system."""
    scratch = point / "scratch"
    scratch.mkdir(mode=0o700)
    try:
        return check_directory(Site(point, scratch))
    finally:
        scratch.rmdir()


@pytest.mark.parametrize("kind", WORKING)
def test_the_main_job_works_and_says_what_is_missing(registry: ScriptedRegistry, tmp_path: Path, kind: str) -> None:
    need_root()
    make, limits = WORKING[kind]
    with make(tmp_path) as point:
        point.chmod(0o755)
        for options in ((), ("--force",)):
            done = provision(registry, point / "dir", *options, cache=tmp_path / "cache")
            assert done.returncode == 0, done.stderr
            assert [line for line in done.stderr.splitlines() if line in (SAME_OWNER, NOW, NOSUID)] == limits
        assert {name for name in os.listdir(point) if name.startswith(".")} == set()
        assert doctor_s_finding(point).state == State.OK
        is_exact = SAME_OWNER not in limits
        usr = point / "dir/rootfs/usr"
        assert set(os.listdir(usr)) == set(MODES)
        for name, mode in MODES.items():
            state = (usr / name).lstat()
            assert (usr / name).read_bytes() == CONTENTS[name]
            assert (state.st_uid, state.st_gid) == ((1, 2) if is_exact else (point.stat().st_uid, point.stat().st_gid))
            assert stat.S_IMODE(state.st_mode) == (mode if is_exact else mode | 0o600)
            assert state.st_mtime == TIME
        assert usr.stat().st_mtime == TIME
        record = (point / "dir/.provision/ownership.mtree").read_text()
        assert len(re.findall("uid=1 gid=2", record)) == len(MODES)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_hold_no_container_is_refused_at_once(registry: ScriptedRegistry, tmp_path: Path, kind: str) -> None:
    need_root()
    make, message = REFUSED[kind]
    with make(tmp_path) as point:
        if kind == "case-insensitive":
            point.chmod(0o755)
        before = len(registry.requests)
        done = provision(registry, point / "dir", cache=tmp_path / "cache")
        assert done.returncode == 7, done.stderr
        assert message in done.stderr
        assert len(registry.requests) == before
        assert not [name for name in os.listdir(point) if "dir" in name]
        if kind != "read-only":
            finding = doctor_s_finding(point)
            assert (finding.state, bool(finding.fix)) == (State.NO, True)
            assert message in finding.detail


def test_a_file_system_that_writes_after_the_time_is_set_loses_it(tmp_path: Path) -> None:
    need_root()
    with sshfs(tmp_path) as point, directory_descriptor(point) as directory:
        assert limits_of(directory, Ownership(exact=False))[-1] == NOW
        wait_until(lambda: not os.listdir(directory))  # a file that was open is there until its closing has arrived


def test_a_directory_is_removed_whose_files_are_just_being_closed(tmp_path: Path) -> None:
    need_root()
    with sshfs(tmp_path) as point, directory_descriptor(point) as directory:
        (point / "tree/below").mkdir(parents=True)
        file = (point / "tree/below/file").open("w")
        closing = threading.Timer(0.1, file.close)
        closing.start()
        try:
            remove_tree(directory, b"tree")
        finally:
            closing.join()
        assert os.listdir(point) == []


@pytest.mark.parametrize("dropped", ["all", "chown", "fowner", "dac_override"])
def test_root_without_capabilities_is_a_user_like_any_other(
    registry: ScriptedRegistry, tmp_path: Path, dropped: str
) -> None:
    """Pods that drop all capabilities still run as uid 0."""
    need_root()
    need("setpriv")
    for options in ((), ("--force",)):
        done = provision(
            registry,
            tmp_path / "dir",
            *options,
            cache=tmp_path / "cache",
            prefix=("setpriv", f"--bounding-set=-{dropped}"),
        )
        assert done.returncode == 0, done.stderr
        assert SAME_OWNER in done.stderr
    usr = tmp_path / "dir/rootfs/usr"
    assert {path.lstat().st_uid for path in usr.iterdir()} == {0}
    assert {path.name: path.read_bytes() for path in usr.iterdir()} == CONTENTS
    assert len(re.findall("uid=1 gid=2", (tmp_path / "dir/.provision/ownership.mtree").read_text())) == len(MODES)
