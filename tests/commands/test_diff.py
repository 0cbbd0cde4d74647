"""`provision diff`: in pipes and as JSON, by directory, and for what is no provisioned directory."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.archives import Member
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.small_directories import make_directory
from tests.support.terminal import on_terminal
from tests.support.tools import as_user, provision

IMAGE: list[Member] = [("etc/conf", b"conf"), ("usr/lib/x/a", b"aa"), ("usr/lib/x/b", b"bbb"), ("link", "etc")]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A provisioned directory in which a file was added, one changed, one deleted."""
    directory = make_directory(tmp_path / "dir", IMAGE)
    (directory / "rootfs/etc/conf").write_bytes(b"longer than before")
    (directory / "rootfs/usr/lib/x/a").unlink()
    (directory / "rootfs/usr/lib/x/\x1b[2J\n").write_bytes(bytes(1500))
    return directory


def diff(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = provision("diff", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done


def test_in_a_pipe_it_is_what_docker_diff_prints(directory: Path) -> None:
    assert diff(directory).stdout.splitlines() == [
        "C /etc",
        "C /etc/conf",
        "C /usr",
        "C /usr/lib",
        "C /usr/lib/x",
        r"A /usr/lib/x/\x1b[2J\n",
        "D /usr/lib/x/a",
    ]


def test_letters_have_colours_on_a_terminal(directory: Path, tmp_path: Path) -> None:
    _, text = on_terminal("diff", directory, columns=80, cache=tmp_path)
    for letter, colour in (("A", 32), ("C", 33), ("D", 31)):
        assert f"\n\x1b[{colour}m{letter}\x1b[0m  /" in text
    assert "\x1b" not in on_terminal("diff", directory, "--color=never", columns=80, cache=tmp_path)[1]


def test_all_that_is_known(directory: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(diff(directory, "--json").stdout)["changes"]
    by_path = {row.pop("path"): row for row in rows}
    assert by_path["/etc/conf"] == {
        "change": "changed",
        "type": "file",
        "what": ["content"],
        "size": 18,
        "size_before": 4,
    }
    assert by_path["/usr/lib/x"] == {"change": "changed", "type": "dir", "what": [], "size": 0, "size_before": 0}
    added: dict[str, Any] = {"change": "added", "type": "file", "what": [], "size": 1500, "size_before": None}
    assert by_path["/usr/lib/x/\x1b[2J\n"] == added
    deleted: dict[str, Any] = {"change": "deleted", "type": "file", "what": [], "size": None, "size_before": 2}
    assert by_path["/usr/lib/x/a"] == deleted


def test_numbers_by_directory(directory: Path) -> None:
    assert diff(directory, "--stat").stdout == "/etc\t0\t1\t0\t14\n/usr/lib\t1\t0\t1\t1498\n"
    rows = json.loads(diff(directory, "--stat", "--json").stdout)["directories"]
    assert rows[1] == {"directory": "/usr/lib", "added": 1, "changed": 0, "deleted": 1, "bytes": 1498}


def test_it_needs_neither_cache_nor_network(directory: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")
    assert "C /etc/conf" in diff(directory).stdout


def test_without_a_record_it_says_so(directory: Path) -> None:
    (directory / ".provision/ownership.mtree").unlink()
    done = provision("diff", directory)
    assert (done.returncode, done.stdout) == (7, "")
    assert "has no ownership record" in done.stderr
    assert "to another directory" in done.stderr


def test_directories_that_nobody_may_read(place: Path) -> None:
    """Users can close their own directories, also to themselves."""
    with ScriptedRegistry() as registry:
        registry.push("image", builders.image(builders.layer(*IMAGE)))
        provision(f"{registry.host}/image", place / "dir", "--platform=linux/amd64", **as_user(), status=0)
        closed = place / "dir/rootfs/usr/lib/x"
        closed.chmod(0)
        done = provision("diff", place / "dir", **as_user())
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["C /usr", "C /usr/lib", "C /usr/lib/x"]
        assert closed.stat().st_mode & 0o7777 == 0
        registry.push("image", builders.image(builders.layer(*IMAGE, ("usr/new", b""))))
        provision("update", place / "dir", "--yes", "--no-keep", **as_user(), status=0)
        assert closed.stat().st_mode & 0o7777 == 0
        closed.chmod(0o700)
        assert sorted(path.name for path in closed.iterdir()) == ["a", "b"]
