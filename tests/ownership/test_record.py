"""The ownership record and fakeroot's state, read by the programs that they are for."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MachineError
from provisioner.layers.apply import LayerApplier
from provisioner.ownership.digests import EMPTY
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import remake_state, write_owners
from provisioner.rootfs.tree import Tree
from tests.support import builders
from tests.support.archives import Member, hard, special, tar
from tests.support.leftovers import clean_place
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need, need_root, provision_command

CAPABILITY = b"\1\0\0\2\0\x20" + bytes(14)  # cap_net_raw=ep
ODD = ["a b", "new\nline", "back\\slash", "\\040", "#hash", "tab\t", "k=v", "*[?]", "é", "\udcff\udcfe", "~", "..."]

Owned = tuple[bytes, int, int, int, str, int, int]
"""Type as in tar, mode, uid, gid, target, device's numbers."""


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **fields: Any) -> tarfile.TarInfo:
    header = special(name, kind, target, **{"mode": 0o644, "mtime": 1_500_000_000, **fields})
    header.pax_headers = fields.get("pax_headers", {"mtime": "1500000000.123456789"})
    return header


def _lower() -> list[Member]:
    odd = [member(f"odd/{name}", uid=100 + number, gid=200) for number, name in enumerate(ODD)]
    attributes = {
        "SCHILY.xattr.security.capability": CAPABILITY.decode(),
        "SCHILY.xattr.user.note": "a=b\n",
    }
    return [
        member(".", tarfile.DIRTYPE, mode=0o755),
        member("d", tarfile.DIRTYPE, mode=0o1777, uid=5, gid=6),
        member("d/suid", mode=0o6755, uid=7, gid=8),
        member("d/ping", mode=0o755, pax_headers=attributes),
        member("closed", tarfile.DIRTYPE, mode=0o000, uid=9, gid=9),
        member("closed/ro", mode=0o444),
        member("closed/none", mode=0o000),
        member("odd", tarfile.DIRTYPE, mode=0o755),
        *odd,
        member("null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
        member("disk", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=8, devminor=300),
        member("fifo", tarfile.FIFOTYPE, mode=0o604, uid=10),
        member("link", tarfile.SYMTYPE, "odd/a b", mode=0o777, uid=11, gid=12),
        hard("d/suid2", "d/suid"),
        hard("null2", "null"),
        member("over", uid=13, gid=13),
        member("gone", uid=14),
        member("lower", tarfile.DIRTYPE, mode=0o700, uid=15, gid=15),
        member("lower/gone", tarfile.DIRTYPE, mode=0o700, uid=16),
        member("lower/gone/x", uid=16),
        member("big", mode=0o640, uid=2**32 - 2, gid=70000),
    ]


def _upper() -> list[Member]:
    return [
        (".wh.gone", b""),
        ("fresh", b"takes the inode of gone"),
        member("over", mode=0o644),
        ("lower/.wh.gone", b""),
        ("lower/gone/y/new", b"below implied directories"),
        member("lower", tarfile.DIRTYPE, mode=0o755),
        hard("suid3", "d/suid2"),
    ]


def expected() -> dict[str, Owned]:
    """Return the whole tree of the image, with the files that provision adds to /etc."""
    found: dict[str, Owned] = {}
    for item in _lower():
        if isinstance(item, tarfile.TarInfo) and item.type != tarfile.LNKTYPE:
            numbers = (item.devmajor, item.devminor) if item.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (0, 0)
            found[item.name] = (item.type, item.mode, item.uid, item.gid, item.linkname, *numbers)
    for name in ("gone", "lower/gone/x"):
        del found[name]
    found["over"] = found["fresh"] = (tarfile.REGTYPE, 0o644, 0, 0, "", 0, 0)
    for name in ("lower", "lower/gone", "lower/gone/y"):
        found[name] = (tarfile.DIRTYPE, 0o755, 0, 0, "", 0, 0)
    found["lower/gone/y/new"] = (tarfile.REGTYPE, 0o644, 0, 0, "", 0, 0)
    found["d/suid2"] = found["suid3"] = found["d/suid"]
    found["null2"] = found["null"]
    for name in ("etc/resolv.conf", "etc/hosts", "etc/hostname"):
        found[name] = (tarfile.REGTYPE, 0o644, 0, 0, "", 0, 0)
    found["etc/mtab"] = (tarfile.SYMTYPE, 0o777, 0, 0, "/proc/mounts", 0, 0)
    found["etc"] = (tarfile.DIRTYPE, 0o755, 0, 0, "", 0, 0)
    return found


def members(archive: bytes) -> dict[str, Owned]:
    """Return the files of an archive. A hard link has the metadata of its file."""
    found: dict[str, Owned] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as opened:
        for item in opened:
            name = item.name.removeprefix("./")
            if item.type == tarfile.LNKTYPE:
                found[name] = found[item.linkname.removeprefix("./")]
                continue
            numbers = (item.devmajor, item.devminor) if item.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (0, 0)
            found[name] = (item.type, item.mode, item.uid, item.gid, item.linkname, *numbers)
    return found


def output(*command: str | Path, **options: Any) -> bytes:
    """Return the standard output of a command that has to succeed, with nothing on standard error."""
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False, **options)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return bytes(done.stdout)


def by_fakeroot(directory: Path, **options: Any) -> dict[str, Owned]:
    """Return the files of the archive that the command of docs/owners.md makes."""
    words = ["fakeroot", "-i", ".provision/fakeroot.state", "tar", "-C", "rootfs", "--format=pax", "-c", "."]
    return members(output(*words, **{**options, "cwd": directory}))


@pytest.fixture(scope="module", params=["user", "root", "fakeroot"])
def role(request: pytest.FixtureRequest) -> str:
    need("fakeroot", "bsdtar")
    if request.param == "root":
        need_root()
    return str(request.param)


@pytest.fixture(scope="module")
def options(role: str) -> dict[str, Any]:
    """Return the options of subprocess.run for the user who provisions and tests the directory."""
    return {"env": clean_environment()} if role == "root" else as_user()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with clean_place() as path:
        yield path


@pytest.fixture(scope="module")
def directory(role: str, options: dict[str, Any], place: Path) -> Path:
    """Provision a directory with files of all types, and odd names, modes and owners."""
    made = place / f"made by {role}"
    with ScriptedRegistry() as registry:
        registry.push("image", builders.image(builders.layer(*_lower()), builders.layer(*_upper())))
        words = ["--platform=linux/amd64", "--profile=debian", f"{registry.host}/image", str(made)]
        profile = place / "profile.toml"
        profile.write_text("")
        words[1] = f"--profile={profile}"
        command, given = provision_command(*words, cache=place / f"cache-{role}", **options)
        prefix = ["fakeroot", "--"] if role == "fakeroot" else []
        done = subprocess.run([*prefix, *command], check=False, **given)
        assert done.returncode == 0, done.stderr
        assert "hard links" not in done.stderr
    return made


def test_fakeroot_shows_the_image(directory: Path, options: dict[str, Any]) -> None:
    assert by_fakeroot(directory, **options) == expected()


def test_bsdtar_makes_the_image_of_the_record(directory: Path, options: dict[str, Any]) -> None:
    """Run in the tree; only under fakeroot it has the devices, too."""
    command = [
        "bsdtar",
        "-cf",
        "-",
        "--format=pax",
        "--options=pax:hdrcharset=BINARY",
        "@../.provision/ownership.mtree",
    ]
    inside = {**options, "cwd": directory / "rootfs"}
    devices = {"null", "null2", "disk"}
    assert members(output(*command, **inside)) == {k: v for k, v in expected().items() if k not in devices}
    assert members(output("fakeroot", "-i", "../.provision/fakeroot.state", *command, **inside)) == expected()


def test_bsdtar_lists_the_record_anywhere(directory: Path, options: dict[str, Any]) -> None:
    lines = output("bsdtar", "-tvf", directory / ".provision/ownership.mtree", **options).decode().splitlines()
    assert len(lines) == len(expected())
    (null,) = (line.split() for line in lines if line.endswith(" null"))
    assert (null[0], null[2:5]) == ("crw-rw-rw-", ["0", "0", "1,3"])
    (suid,) = (line.split() for line in lines if line.endswith(" d/suid"))
    assert suid[:5] == ["-rwsr-sr-x", "3", "7", "8", "0"]


def test_mtree_finds_the_tree_as_recorded(directory: Path, role: str) -> None:
    """NetBSD's mtree compares the record with the disk, times in nanoseconds too. Files stand in for devices."""
    need("mtree")
    if role == "root":
        lines = (directory / ".provision/ownership.mtree").read_bytes().splitlines(keepends=True)
        files = b"".join(line for line in lines if b" device=" not in line)
        command = ["mtree", "-p", str(directory / "rootfs")]
        done = subprocess.run(command, input=files, stdout=subprocess.PIPE, check=False)
        assert sorted(done.stdout.decode().split()) == ["disk", "extra:", "extra:", "extra:", "null", "null2"]


def test_times_sizes_and_attributes_are_recorded(directory: Path, role: str) -> None:
    lines = (directory / ".provision/ownership.mtree").read_bytes().splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith(b"ping "))
    words = b"ping type=file mode=0755 uid=0 gid=0 time=1500000000.000000000 size=0 sha256digest="
    assert lines[at] == words + EMPTY.hex().encode()
    assert lines[at - 2 : at] == [
        b"# xattr.security.capability=" + base64.b64encode(CAPABILITY),
        b"# xattr.user.note=" + base64.b64encode(b"a=b\n"),
    ]
    assert sum(line.startswith(b"# xattr") for line in lines) == 2
    (new,) = (line for line in lines if line.startswith(b"new "))
    digest = hashlib.sha256(b"below implied directories").hexdigest()
    assert new.endswith(b" time=0.000000000 size=25 sha256digest=" + digest.encode())
    (link,) = (line for line in lines if line.startswith(b"link "))
    assert link == rb"link type=link mode=0777 uid=11 gid=12 time=1500000000.123456789 link=odd/a\040b"
    ping = directory / "rootfs/d/ping"
    # fakeroot keeps attributes to itself.
    on_disk = {"user": ["user.note"], "root": ["security.capability", "user.note"], "fakeroot": []}
    assert sorted(os.listxattr(ping)) == on_disk[role]


def test_the_disk_has_what_it_can(directory: Path, role: str) -> None:
    rootfs = directory / "rootfs"
    suid, closed = (rootfs / "d/suid").stat(), (rootfs / "closed").stat()
    assert stat.S_IMODE(suid.st_mode) == 0o6755
    assert stat.S_IMODE(closed.st_mode) == (0 if role == "root" else 0o700)
    assert (suid.st_uid, suid.st_gid) == ((7, 8) if role == "root" else (directory.stat().st_uid,) * 2)
    assert stat.S_ISREG((rootfs / "null").stat().st_mode)
    assert rootfs.joinpath("null").samefile(rootfs / "null2")


def test_nobody_else_gets_in(directory: Path) -> None:
    """Or a setuid file of the image would give other users the account of whoever provisioned it."""
    need_root()
    stranger: dict[str, Any] = {"user": 65432, "group": 65432, "extra_groups": [], "cwd": "/"}
    for path in ("", "rootfs/d/suid", ".provision/ownership.mtree", "start.sh"):
        done = subprocess.run(["ls", directory / path], capture_output=True, text=True, check=False, **stranger)
        assert "Permission denied" in done.stderr


@pytest.fixture
def copy(directory: Path, options: dict[str, Any], place: Path) -> Iterator[Path]:
    """Copy the directory, which changes its inodes."""
    path = place / "a copy"
    output("cp", "-a", directory, path, **options)
    yield path
    output("chmod", "-R", "u+rwx", path, **options)
    shutil.rmtree(path)


def owners(path: Path, role: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command, given = provision_command("owners", path, cache=path.parent / f"cache-{role}", **options)
    return subprocess.run(command, check=False, **given)


def test_the_state_of_a_copy_is_written_again(copy: Path, role: str, options: dict[str, Any]) -> None:
    if role != "root":  # who copies devices and owners
        assert by_fakeroot(copy, **options) != expected()
    done = owners(copy, role, **options)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert by_fakeroot(copy, **options) == expected()
    # The command that it says can be pasted.
    pasted = done.stderr.splitlines()[-1].replace(" -c .", " --format=pax -c .")
    assert members(output("sh", "-c", pasted, **options)) == expected()
    assert os.listdir(copy / ".provision").count("fakeroot.state.new") == 0


def test_what_the_user_changed_stays_changed(copy: Path, role: str, options: dict[str, Any]) -> None:
    """New names at any place of the sorted order, missing names, other types and modes are no errors."""
    script = """cd "$1/rootfs" && mkdir 0new zz d/0 && touch 0new/x zz/x d/sub d/zz && rm -r odd && rm disk fifo &&
        rm -r lower && touch lower && rm over && mkdir over && touch over/x && chmod 600 d/suid && chmod 755 closed"""
    output("sh", "-c", script, "sh", copy, **options)
    assert owners(copy, role, **options).returncode == 0
    ours, shown = expected(), by_fakeroot(copy, **options)
    gone = {name for name in ours if name.split("/")[0] in ("odd", "disk", "fifo", "lower", "over")}
    added = {"0new", "0new/x", "zz", "zz/x", "d/0", "d/sub", "d/zz", "lower", "over", "over/x"}
    assert shown.keys() == (ours.keys() - gone) | added
    for name in added:
        assert shown[name][2:4] == (0, 0)
    changed = {"d/suid": 0o600, "d/suid2": 0o600, "suid3": 0o600, "closed": 0o755}
    for name in ours.keys() - gone:
        mode = changed.get(name, ours[name][1])
        assert shown[name] == (ours[name][0], mode, *ours[name][2:])


def test_without_a_record_there_is_an_error(tmp_path: Path, copy: Path, role: str, options: dict[str, Any]) -> None:
    done = owners(copy / "rootfs", role, **options)
    assert (done.returncode, done.stdout) == (8, "")
    assert "not made by provision" in done.stderr
    record = copy / ".provision/ownership.mtree"
    state = (copy / ".provision/fakeroot.state").read_bytes()
    record.write_bytes(record.read_bytes()[:-3])
    done = owners(copy, role, **options)
    assert (done.returncode, done.stdout) == (7, "")
    assert "damaged" in done.stderr
    assert (copy / ".provision/fakeroot.state").read_bytes() == state
    assert not (copy / ".provision/fakeroot.state.new").exists()
    record.unlink()
    done = owners(copy, role, **options)
    assert done.returncode == 7
    assert "to another directory" in done.stderr


def test_quiet_says_nothing(copy: Path, role: str, options: dict[str, Any]) -> None:
    command, given = provision_command("owners", "--quiet", copy, cache=copy.parent / f"cache-{role}", **options)
    done = subprocess.run(command, check=False, **given)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# In one process


@pytest.mark.slow
def test_depth_has_no_limit(tmp_path: Path) -> None:
    """The record of a deep tree is small, too: it has no paths."""
    root, folder = tmp_path / "root", tmp_path / "folder"
    root.mkdir()
    folder.mkdir()
    with Tree(root) as tree:
        LayerApplier(tree, Ownership(exact=False)).apply([tar(member("d/" * 1500 + "x", uid=5))])
        write_owners(folder, root, tree.overrides, Ownership(exact=False))
        before = (folder / "fakeroot.state").read_bytes()
        assert remake_state(folder, root) == 1
        tree.remove(tree.locate(b"d"))
    assert (folder / "fakeroot.state").read_bytes() == before
    assert (folder / "ownership.mtree").stat().st_size < 150_000


def test_the_state_is_written_through_no_link(tmp_path: Path) -> None:
    """The owner of the directory could put a symlink there for root."""
    for name in ("root", "folder"):
        (tmp_path / name).mkdir()
    with Tree(tmp_path / "root") as tree:
        LayerApplier(tree, Ownership(exact=False)).apply([tar(member("y", uid=5))])
        write_owners(tmp_path / "folder", tmp_path / "root", tree.overrides, Ownership(exact=False))
    (tmp_path / "outside").write_text("dear")
    (tmp_path / "folder/fakeroot.state.new").symlink_to("../outside")
    assert remake_state(tmp_path / "folder", tmp_path / "root") == 1
    assert (tmp_path / "outside").read_text() == "dear"
    assert sorted(os.listdir(tmp_path / "folder")) == ["fakeroot.state", "ownership.mtree"]


def test_a_record_of_another_tree_names_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("root", "other", "folder"):
        (tmp_path / name).mkdir()
    with Tree(tmp_path / "root") as tree:
        LayerApplier(tree, Ownership(exact=False)).apply([tar(member("d/x", uid=5), member("y", uid=5))])
        write_owners(folder, tmp_path / "root", tree.overrides, Ownership(exact=False))
    (tmp_path / "other/d").write_text("a file")
    (tmp_path / "other/y").mkdir()
    assert remake_state(folder, tmp_path / "other") == 0
    (folder / "ownership.mtree").write_bytes(b"#mtree\n")
    with pytest.raises(MachineError, match="damaged"):
        remake_state(folder, tmp_path / "other")
