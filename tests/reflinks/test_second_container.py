"""The second container of an image shares the blocks of the first one, and is as if its layers had been unpacked."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support import builders
from tests.support.archives import Member, hard, special, tar
from tests.support.containers import starter
from tests.support.disks import disk
from tests.support.kills import kill_at_random, run_forked
from tests.support.leftovers import staging_below
from tests.support.lxc_server import LxcServer, rootfs
from tests.support.provisioned import image
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need_root, own, provision, run, user_id
from tests.support.trees import Entry, tree_of

LARGE = os.urandom(3 << 20)
MORE: tuple[Member, ...] = (
    ("usr/large", LARGE),
    ("usr/empty", b""),
    # Another file with the same content, mode and number of names.
    ("usr/one more", b"shared content"),
    hard("usr/two more", "usr/one more"),
    ("usr/first", b"of a pair"),
    hard("usr/second", "usr/first"),
    hard("usr/third", "usr/first"),
    ("usr/ö\n[odd]", b"odd"),
    ("usr/implied/file", b"below a directory without an entry"),
    hard("usr/link-link", "usr/link"),
    special("usr/owned-directory", tarfile.DIRTYPE, mode=0o1777, uid=33, gid=34),
    special("usr/attributes", tarfile.REGTYPE, pax_headers={"SCHILY.xattr.user.note": "dear"}),
)
NOW = 1_500_000_000


@dataclass
class Shop:
    """A disk that can reflink, a registry with an image, and a user who provisions there."""

    path: Path
    registry: ScriptedRegistry
    options: dict[str, Any]

    def make(self, name: str, *words: str, source: str = "", state: str = "state", status: int = 0) -> str:
        """Provision a directory and return what was said; `state` is where the list of directories is."""
        cache = self.path / "cache"
        cache.mkdir(exist_ok=True)
        self.own(cache)
        options = {**self.options, "env": {**self.options["env"], "XDG_STATE_HOME": str(self.path / state)}}
        all_words: tuple[str | Path, ...] = (
            source or f"{self.registry.host}/image",
            self.path / name,
            "--platform=linux/amd64",
            "--no-sync",
            *words,
        )
        done = provision(*all_words, cache=cache, **options, status=status)
        return done.stderr

    def own(self, path: Path) -> None:
        """Give a file to the user who provisions."""
        if "user" in self.options:
            own(path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file as that user's."""
        path = self.path / name
        path.write_bytes(content)
        self.own(path)

    def empty_cache(self) -> None:
        shutil.rmtree(self.path / "cache")

    def used(self) -> int:
        run("sync", "--file-system", self.path)
        return shutil.disk_usage(self.path).used


@contextmanager
def opened_shop(place: Path, file_system: str, by: str) -> Iterator[Shop]:
    need_root()
    with disk(place, file_system) as mounted, ScriptedRegistry() as registry:
        registry.push("image", image(*MORE))
        own(mounted.path)
        yield Shop(mounted.path, registry, as_user() if by == "user" else {"env": clean_environment()})


@pytest.fixture(params=["btrfs", "xfs"])
def file_system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["root", "user"])
def shop(place: Path, request: pytest.FixtureRequest, file_system: str) -> Iterator[Shop]:
    with opened_shop(place, file_system, request.param) as opened:
        yield opened


@pytest.fixture
def btrfs(place: Path) -> Iterator[Shop]:
    with opened_shop(place, "btrfs", "root") as opened:
        yield opened


def files_of(directory: Path) -> dict[str, Entry]:
    """The rootfs. Times of what was made without an entry of the image are those of a run."""
    tree = tree_of(directory / "rootfs")
    return {path: replace(entry, mtime=0) if entry.mtime > NOW * 10**9 else entry for path, entry in tree.items()}


def record_of(directory: Path) -> str:
    text = (directory / ".provision/ownership.mtree").read_text()
    return re.sub(r"time=1[5-9]\d{8}\.\d{9}|(?<=# written=)\S+", "now", text)


def state_of(directory: Path) -> dict[str, str]:
    """fakeroot's state by path in place of inode."""
    lines = (directory / ".provision/fakeroot.state").read_text().splitlines()
    by_inode = {re.search(r"ino=(\d+)", line)[1]: re.sub(r"(dev|ino)=\w+,?", "", line) for line in lines}  # type: ignore[index]
    rootfs = directory / "rootfs"
    paths = [rootfs, *(Path(above, name) for above, names, files in os.walk(rootfs) for name in names + files)]
    return {
        str(path.relative_to(rootfs)): by_inode[str(path.lstat().st_ino)]
        for path in paths
        if str(path.lstat().st_ino) in by_inode
    }


def documents_of(directory: Path) -> dict[str, Any]:
    folder = directory / ".provision"
    record = json.loads((folder / "record.json").read_text())
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name in ("accounts", "generated")]
    return {**record, "id": "", **{path.name: path.read_text() for path in files}}


def assert_same(second: Path, inflated: Path) -> None:
    assert files_of(second) == files_of(inflated)
    assert record_of(second) == record_of(inflated)
    assert state_of(second) == state_of(inflated)
    assert documents_of(second) == documents_of(inflated)


def test_it_shares_blocks_and_is_as_if_its_layers_had_been_unpacked(shop: Shop) -> None:
    assert "reflinked" not in shop.make("first/box")
    shop.make("inflated/box", state="other")
    shop.empty_cache()
    asked = len(shop.registry.asked(r".*/blobs/.*"))
    before = shop.used()
    message = shop.make("second/box")
    assert re.search(rf"^\d+ files from {shop.path}/first/box \(reflinked\)$", message, re.MULTILINE), message
    assert shop.used() - before < 2 << 20
    assert len(shop.registry.asked(r".*/blobs/.*")) - asked <= 1  # the config
    assert_same(shop.path / "second/box", shop.path / "inflated/box")
    assert (shop.path / "second/box/rootfs/usr/large").read_bytes() == LARGE
    assert os.getxattr(shop.path / "second/box/rootfs/usr/attributes", "user.note") == b"dear"


def test_it_is_an_original_for_a_third_one(btrfs: Shop) -> None:
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    btrfs.make("second/box")
    shutil.rmtree(btrfs.path / "first")
    assert f"from {btrfs.path}/second/box (reflinked)" in btrfs.make("third/box")
    assert_same(btrfs.path / "third/box", btrfs.path / "inflated/box")


def test_what_was_changed_there_comes_from_the_layers(shop: Shop) -> None:
    shop.make("first/box")
    shop.make("inflated/box", state="other")
    rootfs = shop.path / "first/box/rootfs"
    shop.write("first/box/rootfs/usr/large", LARGE[:-1] + b"x")  # the same size
    (rootfs / "usr/first").unlink()
    (rootfs / "usr/second").unlink()
    (rootfs / "usr/second").symlink_to("/etc/passwd")
    shutil.rmtree(rootfs / "usr/implied")
    shop.write("first/box/rootfs/etc/resolv.conf", b"nameserver 9.9.9.9\n")
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    (rootfs / "usr/added").mkdir()
    (rootfs / "usr/added/file").write_text("of the user")
    (rootfs / "usr/owned").chmod(0o777)
    message = shop.make("second/box")
    assert re.search(
        r"files from \S+/first/box \(reflinked\), 5 that are not as the image has them there from its layers", message
    ), message
    assert_same(shop.path / "second/box", shop.path / "inflated/box")


def test_silent_damage_is_noticed_after_the_clone(btrfs: Shop) -> None:
    """Size and time are the image's, as after an error of a disk."""
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    large = btrfs.path / "first/box/rootfs/usr/large"
    status = large.stat()
    large.write_bytes(LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "1 that are not as the image has them" in btrfs.make("second/box")
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


def test_links_in_a_sibling_lead_nowhere(btrfs: Shop) -> None:
    """A directory that became a symlink, to a place with files of the same names, and a file that became one."""
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    usr = btrfs.path / "first/box/rootfs/usr"
    usr.rename(btrfs.path / "elsewhere")
    usr.symlink_to(btrfs.path / "elsewhere")
    message = btrfs.make("second/box")
    assert "layer 1 of" in message
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


def test_with_changed_links_that_nobody_can_tell_apart_all_is_unpacked(btrfs: Shop) -> None:
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    for name in ("one", "two more"):
        path = btrfs.path / "first/box/rootfs/usr" / name
        content, status = path.read_bytes(), path.stat()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert "reflinked" not in btrfs.make("second/box")
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


@pytest.mark.parametrize("change", ["record", "digest", "restored", "other profile", "workdir", "stranger", "gone"])
def test_a_directory_that_may_be_wrong_is_not_used(btrfs: Shop, change: str) -> None:
    btrfs.make("first/box", *(["--profile=debian"] if change == "other profile" else []))
    btrfs.make("inflated/box", state="other")
    first = btrfs.path / "first/box"
    record = first / ".provision/ownership.mtree"
    if change == "record":
        # Who can write to the record can have it say anything, also the digest of a file that is not the image's.
        record.write_bytes(record.read_bytes().replace(b"uid=33", b"uid=0"))
    elif change == "digest":
        known = btrfs.path / "state/provision/directories"
        known.write_text(re.sub(r'"content": "\w+"', '"content": ""', known.read_text()))
    elif change == "restored":
        env: dict[str, Any] = {"env": clean_environment(XDG_STATE_HOME=str(btrfs.path / "state"))}
        provision("backup", first, btrfs.path / "backup.tar", **env, status=0)
        shutil.rmtree(first)
        provision("restore", btrfs.path / "backup.tar", first, **env, status=0)
        (first / "rootfs/usr/large").write_bytes(b"evil")
    elif change == "workdir":
        json_file = first / ".provision/record.json"
        json_file.write_text(json_file.read_text().replace('"working_dir": null', '"working_dir": "/made"'))
    elif change == "stranger":
        os.chown(first, user_id() + 1, user_id() + 1)
    elif change == "gone":
        shutil.rmtree(first)
    if change == "restored":
        btrfs.make("second/box")
    else:
        assert "reflinked" not in btrfs.make("second/box")
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


def test_a_record_of_another_image_is_not_taken_for_this_one(btrfs: Shop) -> None:
    """Also where both were written here: record.json says which image it is, and may lie."""
    btrfs.make("first/box")
    digest = json.loads((btrfs.path / "first/box/.provision/record.json").read_text())["manifest_digest"]
    btrfs.registry.push("image", image(("usr/evil", b"evil")))
    btrfs.make("evil/box")
    record = btrfs.path / "evil/box/.provision/record.json"
    other = json.loads(record.read_text())["manifest_digest"]
    record.write_text(record.read_text().replace(other, digest))
    shutil.rmtree(btrfs.path / "first")
    btrfs.registry.push("image", image(*MORE))
    assert "reflinked" not in btrfs.make("second/box")
    assert not (btrfs.path / "second/box/rootfs/usr/evil").exists()


def test_a_file_of_a_root_file_system_is_known_again(btrfs: Shop) -> None:
    """By its digest; a file that was packed again is another one."""
    root = btrfs.path / "root.tar"
    members = [member for member in MORE if not isinstance(member, tuple) or member[0] != "usr/link-link"]
    root.write_bytes(tar(("etc", None), ("etc/os-release", b"ID=tiny\n"), ("bin", None), ("var", None), *members[:7]))
    source = f"rootfs:{root}"
    assert "reflinked" not in btrfs.make("first/box", source=source)
    btrfs.make("inflated/box", source=source, state="other")
    (btrfs.path / "first/box/rootfs/usr/empty").write_bytes(b"not any more")
    (btrfs.path / "first/box/rootfs/usr/first").unlink()
    message = btrfs.make("second/box", source=source)
    assert re.search(r"files from \S+/first/box \(reflinked\), \d that are not", message), message
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")
    root.write_bytes(root.read_bytes() + bytes(512))
    assert "reflinked" not in btrfs.make("third/box", source=source)


def test_an_image_server_is_asked_for_its_list_alone(btrfs: Shop, tmp_path: Path) -> None:
    with LxcServer() as server:
        config = tmp_path / "config.toml"
        config.write_text(f"[lxc]\nserver = {json.dumps(server.address)}\n")
        btrfs.options["env"]["PROVISION_CONFIG"] = str(config)
        server.add("tiny/1", rootfs(("etc/os-release", b"ID=tiny\n"), ("usr/large", LARGE)), "20260101_05:24")
        btrfs.make("first/box", source="lxc:tiny/1")
        btrfs.make("inflated/box", source="lxc:tiny/1", state="other")
        btrfs.empty_cache()
        before = len(server.asked(".*rootfs.tar.xz"))
        assert "reflinked" in btrfs.make("second/box", source="lxc:tiny/1")
        assert len(server.asked(".*rootfs.tar.xz")) == before
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


def test_copies_and_moved_directories_are_used(btrfs: Shop) -> None:
    env: dict[str, Any] = {"env": clean_environment(XDG_STATE_HOME=str(btrfs.path / "state"))}
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    provision("move", btrfs.path / "first/box", btrfs.path / "moved", **env, status=0)
    assert f"from {btrfs.path}/moved (reflinked)" in btrfs.make("second/box")
    shutil.rmtree(btrfs.path / "second")
    provision("copy", btrfs.path / "moved", btrfs.path / "copied", **env, status=0)
    shutil.rmtree(btrfs.path / "moved")
    assert f"from {btrfs.path}/copied (reflinked)" in btrfs.make("second/box")
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")
    btrfs.make("copied")  # up to date: it is still known for what it is
    shutil.rmtree(btrfs.path / "second")
    assert f"from {btrfs.path}/copied (reflinked)" in btrfs.make("second/box")


def test_a_directory_that_lost_most_of_its_files_is_not_used(btrfs: Shop) -> None:
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    for path in (btrfs.path / "first/box/rootfs").iterdir():
        if path.name != "bin":
            shutil.rmtree(path)
    assert "is not used: most of its files" in btrfs.make("second/box", "--verbose")
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


def test_a_directory_is_replaced_by_its_own_files(btrfs: Shop) -> None:
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    btrfs.write("first/box/rootfs/usr/one", b"changed")
    btrfs.write("first/box/rootfs/added", b"added")
    assert f"from {btrfs.path}/first/box (reflinked), 2 that" in btrfs.make("first/box", "--force")
    assert_same(btrfs.path / "first/box", btrfs.path / "inflated/box")


def test_no_layer_is_needed(btrfs: Shop) -> None:
    """Offline, with the documents in the cache alone."""
    btrfs.make("first/box")
    btrfs.make("inflated/box", state="other")
    for blob in (btrfs.path / "cache").rglob("*"):
        if blob.is_file() and blob.stat().st_size > 1 << 19:
            blob.unlink()
    assert "reflinked" in btrfs.make("second/box", "--offline")
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")


def test_containers_that_are_updated_to_one_image_share_its_files(btrfs: Shop) -> None:
    """What the user has changed in one is not in the other, and shares nothing."""
    env: dict[str, Any] = {"env": clean_environment(XDG_STATE_HOME=str(btrfs.path / "state"))}
    btrfs.make("first/box")
    btrfs.make("second/box")
    btrfs.registry.push("image", image(*MORE, ("usr/newer", LARGE[::-1])))
    btrfs.make("inflated/box", state="other")
    btrfs.write("first/box/rootfs/usr/one", b"of the user")
    for name, reflinked in (("first", False), ("second", True)):
        done = provision(
            "update", btrfs.path / name / "box", "--yes", "--no-keep", cache=btrfs.path / "cache", **env, status=0
        )
        assert ("reflinked" in done.stderr) is reflinked, done.stderr
    assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")
    assert "reflinked" in btrfs.make("third/box")
    assert_same(btrfs.path / "third/box", btrfs.path / "inflated/box")


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_large_files_of_a_single_layer_have_digests_too(btrfs: Shop, compression: Literal["gzip", "zstd", ""]) -> None:
    """Which two processes may unpack."""
    members = [(f"usr/{number}", os.urandom(2 << 20)) for number in range(4)]
    btrfs.registry.push("image", builders.image(builders.layer(("usr", None), *members, compression=compression)))
    btrfs.make("first/box")
    record = (btrfs.path / "first/box/.provision/ownership.mtree").read_text()
    assert record.count(" type=file ") == record.count(" sha256digest=")
    assert "4 files from" in btrfs.make("second/box")


def test_max_size_counts_reflinks_as_files(btrfs: Shop) -> None:
    btrfs.make("first/box")
    assert "takes more than" in btrfs.make("second/box", "--max-size=2M", status=7)
    assert not (btrfs.path / "second").exists()


def test_options_of_the_second_one_are_its_own(btrfs: Shop) -> None:
    btrfs.make("first/box", "--hostname=one", "--dns=1.1.1.1")
    btrfs.make("inflated/two", "--hostname=other", "--dns=9.9.9.9", "--workdir=/srv", state="other")
    btrfs.make("first/workdir", "--workdir=/srv")
    message = btrfs.make("second/two", "--hostname=other", "--dns=9.9.9.9", "--workdir=/srv")
    assert f"from {btrfs.path}/first/workdir (reflinked)" in message
    assert_same(btrfs.path / "second/two", btrfs.path / "inflated/two")


def test_it_runs(place: Path) -> None:
    options = starter("proot")
    with opened_shop(place, "xfs", "user") as shop:
        shop.make("first/box")
        assert "reflinked" in shop.make("second/box")
        shutil.rmtree(shop.path / "first")
        command = [str(shop.path / "second/box/start.sh"), "--runtime", "proot", "/bin/cat", "/usr/one"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        assert (done.returncode, done.stdout) == (0, "shared content"), done.stderr


def spoil(rootfs: Path, seed: int) -> None:
    """Do at random to files what programs and disks do to them, in a chroot: no link leads to files of this machine."""
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        return
    try:
        os.chroot(rootfs)
        os.chdir("/")
        spoil_here(random.Random(seed))
        os._exit(0)
    finally:
        os._exit(1)


def spoil_here(chance: random.Random) -> None:
    rootfs = Path("/")
    paths = [Path(above, name) for above, names, files in os.walk(rootfs) for name in names + files]
    for _ in range(chance.choice([1, 5, 20])):
        path, other = chance.choice(paths), chance.choice(paths)
        with contextlib.suppress(OSError):
            match chance.randrange(8):
                case 0:
                    path.unlink()
                case 1:
                    path.rename(other)
                case 2:
                    path.unlink()
                    path.symlink_to(other)
                case 3:
                    path.unlink()
                    os.link(other, path, follow_symlinks=False)
                case 4:
                    path.chmod(chance.choice([0, 0o777, 0o4755]))
                case 5:
                    os.truncate(path, chance.randrange(30))
                case 6 if path.is_file() and not path.is_symlink():
                    status = path.stat()
                    with path.open("r+b") as file:
                        file.seek(chance.randrange(max(1, status.st_size)))
                        file.write(b"\0")
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
                case 7 if path.is_dir():
                    path.rename(rootfs / "elsewhere")
                    path.symlink_to(rootfs / "elsewhere")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_whatever_is_done_to_the_first_one_the_second_one_is_the_image(btrfs: Shop) -> None:
    btrfs.make("inflated/box", state="other")
    for seed in range(20):
        btrfs.make("first/box")
        spoil(btrfs.path / "first/box/rootfs", seed)
        btrfs.make("second/box")
        assert_same(btrfs.path / "second/box", btrfs.path / "inflated/box")
        for name in ("first", "second"):
            shutil.rmtree(btrfs.path / name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_a_hundred_moments_the_first_one_is_as_it_was(place: Path) -> None:
    with opened_shop(place, "btrfs", "root") as shop, pytest.MonkeyPatch.context() as patch:
        shop.make("first/box")
        shop.make("inflated/box", state="other")
        for name, value in clean_environment(XDG_STATE_HOME=str(shop.path / "state")).items():
            patch.setenv(name, value)
        first, second = shop.path / "first/box", shop.path / "second/box"
        before, inflated = tree_of(first), files_of(shop.path / "inflated/box")
        words = [f"{shop.registry.host}/image", str(second), "--platform=linux/amd64", "--no-sync"]
        (place / "counter").mkdir()

        def prepare() -> list[str]:
            shutil.rmtree(second.parent, ignore_errors=True)
            return words

        for was_killed in kill_at_random(100, prepare, place / "counter"):
            assert tree_of(first) == before
            assert was_killed or second.exists()
            if was_killed:
                assert run_forked(words) == 0
            assert files_of(second) == inflated
            assert staging_below(second.parent) == []
