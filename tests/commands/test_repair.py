"""`provision repair`: finds what is damaged, shows it, and puts it back from the layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.archives import Member, hard, special
from tests.support.disks import disk
from tests.support.kills import kill_at_random, run_forked
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, need, provision, run
from tests.support.trees import tree_of

LOWER: list[Member] = [
    ("bin/tool", b"tool"),
    hard("bin/same", "bin/tool"),
    ("etc/conf", b"conf"),
    ("usr/lib/a/x", b"x"),
    ("usr/lib/a/y", b"y"),
    ("usr/lib/old", b"old"),
    ("link", "bin/tool"),
    special("usr/bin/su", tarfile.REGTYPE, mode=0o4755, uid=0),
    special("usr/lib/pipe", tarfile.FIFOTYPE, mode=0o600),
    special("usr/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    ("var/lib/dpkg/status", b"Package: a\n"),
]
UPPER: list[Member] = [("usr/lib/old", b"new"), ("home/user/file", b"file")]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as running:
        running.push("image", builders.image(builders.layer(*LOWER), builders.layer(*UPPER)))
        yield running


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))


@pytest.fixture
def directory(registry: ScriptedRegistry, tmp_path: Path, env: dict[str, str]) -> Path:
    provision(f"{registry.host}/image", tmp_path / "dir", "--platform=linux/amd64", env=env, status=0)
    return tmp_path / "dir"


def repair(directory: Path, env: dict[str, str], *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return provision("repair", directory, *words, env=env, status=status)


def described(directory: Path) -> dict[str, Any]:
    """The tree without the times of directories, in which something was put back."""
    return {
        path: (
            entry.type,
            entry.mode,
            entry.owner,
            entry.target,
            entry.sha256,
            entry.same_as,
            entry.type != "d" and entry.mtime,
        )
        for path, entry in tree_of(directory / "rootfs").items()
    }


def damage(rootfs: Path) -> None:
    """Damage files of all kinds."""
    (rootfs / "bin/tool").write_bytes(b"another")
    shutil.rmtree(rootfs / "usr/lib/a")
    (rootfs / "usr/lib/old").unlink()
    (rootfs / "usr/lib/old").mkdir()
    (rootfs / "link").unlink()
    (rootfs / "link").symlink_to("nowhere")
    (rootfs / "usr/bin/su").chmod(0o700)
    (rootfs / "usr/lib/pipe").unlink()
    (rootfs / "usr/null").unlink()


DAMAGE = [
    "content: /bin/same",
    "content: /bin/tool",
    "content: /link",
    "mode: /usr/bin/su",
    "missing: /usr/lib/a",
    "type: /usr/lib/old",
    "missing: /usr/lib/pipe",
    "missing: /usr/null",
]


def test_what_is_damaged_is_put_back(directory: Path, env: dict[str, str]) -> None:
    before = described(directory)
    damage(directory / "rootfs")
    (directory / "rootfs/usr/lib/mine").write_bytes(b"mine")
    assert repair(directory, env, "--check", status=6).stdout.splitlines() == DAMAGE
    done = repair(directory, env, "--yes")
    assert done.stdout.splitlines() == DAMAGE
    assert "put back 8 files" in done.stderr
    (directory / "rootfs/usr/lib/mine").unlink()
    assert described(directory) == before
    assert repair(directory, env, "--check").stdout == ""
    assert provision("diff", directory, env=env).stdout == ""


def test_check_changes_nothing(directory: Path, env: dict[str, str]) -> None:
    damage(directory / "rootfs")
    before = described(directory)
    repair(directory, env, "--check", status=6)
    assert described(directory) == before
    assert sorted(os.listdir(directory.parent)) == ["dir", "state"]


def test_nobody_can_be_asked_in_a_script(directory: Path, env: dict[str, str]) -> None:
    damage(directory / "rootfs")
    before = described(directory)
    assert "--yes" in repair(directory, env, status=8).stderr
    assert described(directory) == before


def test_only_what_is_needed_is_asked_for(directory: Path, env: dict[str, str]) -> None:
    """A mode is in the record."""
    (directory / "rootfs/usr/bin/su").chmod(0o700)
    assert repair(directory, env, "--yes", "--offline").stdout == "mode: /usr/bin/su\n"
    assert (directory / "rootfs/usr/bin/su").stat().st_mode & 0o7777 == 0o4755


def test_a_disk_that_changes_bytes(directory: Path, env: dict[str, str]) -> None:
    """Size and time are as they were, and the kernel knows of no change; also in the user's places."""
    for name in ("etc/conf", "home/user/file"):
        path = directory / "rootfs" / name
        state = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    record = directory / ".provision/ownership.mtree"
    text = record.read_text()
    first, _, rest = text.partition("# written=")
    record.write_text(f"{first}# written=9999999999.{rest.partition('.')[2]}")
    assert provision("diff", directory, env=env).stdout == ""
    assert repair(directory, env, "--yes").stdout == "content: /etc/conf\ncontent: /home/user/file\n"
    assert (directory / "rootfs/etc/conf").read_bytes() == b"conf"


def test_what_may_be_an_edit_stays(directory: Path, env: dict[str, str]) -> None:
    (directory / "rootfs/etc/conf").write_bytes(b"edited")
    (directory / "rootfs/home/user/file").unlink()
    done = repair(directory, env, "--yes")
    assert done.stdout == ""
    assert "2 more files" in done.stderr
    assert (directory / "rootfs/etc/conf").read_bytes() == b"edited"
    repair(directory, env, "--yes", "--all")
    assert (directory / "rootfs/etc/conf").read_bytes() == b"conf"
    assert (directory / "rootfs/home/user/file").read_bytes() == b"file"


def test_files_of_upgraded_packages_stay(directory: Path, env: dict[str, str]) -> None:
    (directory / "rootfs/var/lib/dpkg/status").write_bytes(b"Package: b\n")
    (directory / "rootfs/bin/tool").write_bytes(b"upgraded")
    (directory / "rootfs/usr/lib/a/x").unlink()
    assert repair(directory, env, "--yes").stdout == ""
    assert (directory / "rootfs/bin/tool").read_bytes() == b"upgraded"


def test_nothing_of_the_users_is_lost(directory: Path, env: dict[str, str]) -> None:
    rootfs = directory / "rootfs"
    (rootfs / "usr/lib/old").unlink()
    (rootfs / "usr/lib/old").mkdir()
    (rootfs / "usr/lib/old/mine").write_bytes(b"mine")
    shutil.rmtree(rootfs / "usr/lib/a")
    (rootfs / "usr/lib/a").symlink_to("/outside")
    done = repair(directory, env, "--yes", status=6)
    assert "left as they are" in done.stderr
    assert "/usr/lib/old" in done.stderr
    assert (rootfs / "usr/lib/old/mine").read_bytes() == b"mine"
    assert (rootfs / "usr/lib/a/x").read_bytes() == b"x"


def test_links_lead_nowhere_outside(directory: Path, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "outside/lib").mkdir(parents=True)
    shutil.rmtree(directory / "rootfs/usr")
    (directory / "rootfs/usr").symlink_to(tmp_path / "outside")
    repair(directory, env, "--yes")
    assert os.listdir(tmp_path / "outside/lib") == []
    assert (directory / "rootfs/usr/lib/a/x").read_bytes() == b"x"


@pytest.mark.parametrize("what", ["mode", "content", "all"])
def test_a_file_with_a_name_outside_is_replaced(
    directory: Path, env: dict[str, str], tmp_path: Path, what: str
) -> None:
    """Neither its mode nor its content changes there; names in the image are those of one file again."""
    rootfs, outside = directory / "rootfs", tmp_path / "outside"
    outside.mkdir()
    os.link(rootfs / "bin/tool", outside / "tool")
    os.link(rootfs / "usr/bin/su", outside / "su")
    os.link(rootfs / "usr/lib/pipe", outside / "pipe")
    if what != "content":
        for path in outside.iterdir():
            path.chmod(0o606)
    if what != "mode":
        (outside / "tool").write_bytes(b"outside")
    before = {path.name: path.stat() for path in outside.iterdir()}
    repair(directory, env, "--yes", "--all")
    for name, state in before.items():
        after = (outside / name).stat()
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (state.st_ino, state.st_mode, state.st_mtime_ns)
    assert (outside / "tool").read_bytes() == (b"tool" if what == "mode" else b"outside")
    assert not (rootfs / "bin/tool").samefile(outside / "tool")
    assert (rootfs / "bin/tool").samefile(rootfs / "bin/same")
    assert (rootfs / "bin/tool").stat().st_nlink == 2
    assert repair(directory, env, "--check").stdout == ""


def test_hard_links_of_termux_proot_are_repaired(directory: Path, env: dict[str, str]) -> None:
    """The file that a link stands for gets the mode."""
    rootfs = directory / "rootfs"
    (rootfs / ".l2s").mkdir()
    base = rootfs / ".l2s/.l2s.su0001"
    (rootfs / "usr/bin/su").rename(f"{base}.0002")
    base.symlink_to(f"{base}.0002")
    (rootfs / "usr/bin/su").symlink_to(base)
    (rootfs / "usr/bin/su").chmod(0o600)
    assert repair(directory, env, "--yes").stdout == "mode: /usr/bin/su\n"
    assert (rootfs / "usr/bin/su").is_symlink()
    assert (rootfs / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755


def test_an_immutable_file(place: Path, registry: ScriptedRegistry) -> None:
    need("chattr")
    with disk(place) as mounted:
        directory = mounted.path / "dir"
        env = clean_environment()
        provision(
            f"{registry.host}/image", directory, "--platform=linux/amd64", env=env, cache=place / "cache", status=0
        )
        for name in ("usr/lib/old", "usr/bin/su"):
            path = directory / "rootfs" / name
            state = path.stat()
            path.chmod(0o600) if name == "usr/bin/su" else path.write_bytes(b"other")
            run("chattr", "+i", path)
            done = provision("repair", directory, "--yes", env=env, cache=place / "cache", status=7)
            assert f"/{name}" in done.stderr
            assert f"chattr -i rootfs/{name}" in done.stderr
            run("chattr", "-i", path)
            done = provision("repair", directory, "--yes", env=env, cache=place / "cache", status=0)
            assert path.stat().st_mode == state.st_mode


@pytest.mark.slow
def test_killed_at_a_hundred_moments_every_file_is_damaged_or_whole(
    directory: Path, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is touched, and the next repair does the rest."""
    rootfs = directory / "rootfs"
    whole = described(directory)
    damage(rootfs)
    (rootfs / "usr/mine").write_bytes(b"mine")
    (rootfs / "usr/above").symlink_to(tmp_path)
    (tmp_path / "canary").write_text("alive")
    run("cp", "-a", directory, tmp_path / "copy")
    damaged = described(directory)
    for name, value in {**env, "PROVISION_CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)

    def prepare() -> list[str]:
        for name in ("dir", ".dir.provision"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        run("cp", "-a", tmp_path / "copy", directory)
        os.link(tmp_path / "canary", rootfs / "canary")
        return ["repair", "--yes", str(directory)]

    kills = 0
    for was_killed in kill_at_random(100, prepare, tmp_path):
        kills += was_killed
        for path, entry in described(directory).items():
            if path not in ("canary", "bin/same", "bin/tool"):
                assert entry in (whole.get(path), damaged.get(path))
        for path in ("bin/same", "bin/tool"):
            assert (rootfs / path).read_bytes() in (b"another", b"tool")
        if kills % 10 == 0:
            assert run_forked(["repair", "--yes", str(directory)]) == 0
            found = described(directory)
            for path in ("canary", "usr/mine", "usr/above"):
                found.pop(path)
            assert found == whole
            assert not (tmp_path / ".dir.provision").exists()
        assert (tmp_path / "canary").read_text() == "alive"
    assert kills > 80
    prepare()  # the last kill may have left something


def test_an_image_that_can_not_be_had(directory: Path, env: dict[str, str]) -> None:
    damage(directory / "rootfs")
    before = described(directory)
    repair(directory, env, "--yes", "--offline", status=5)
    assert described(directory) == before
    assert sorted(os.listdir(directory.parent)) == ["dir", "state"]


def test_all_that_is_damaged_as_json(directory: Path, env: dict[str, str]) -> None:
    (directory / "rootfs/bin/tool").write_bytes(b"another")
    shutil.rmtree(directory / "rootfs/usr/lib/a")
    assert json.loads(repair(directory, env, "--check", "--json", status=6).stdout)["damaged"] == [
        {"path": "/bin/same", "what": ["content"]},
        {"path": "/bin/tool", "what": ["content"]},
        {"path": "/usr/lib/a", "what": []},
    ]
