"""Stamps for make: when they get a new time, when they go, and what can't be one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.cli import main
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry

Output = pytest.CaptureFixture[str]

OLD = 10**18
"""A time long ago, in nanoseconds since 1970."""


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("image", builders.small())
    return registry


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PROVISION_CACHE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


STAMPS = ("--stamp", "right", "--stamp-if-changed", "changed")


def provision(registry: ScriptedRegistry, *options: str) -> int:
    return main([f"{registry.host}/image", "dir", "--platform=amd64", "--quiet", *options])


def make_old() -> None:
    """Give the stamps, and the directory's last change, an old time, in this order."""
    for number, path in enumerate(("dir/.provision/record.json", "dir/.provision/changed", "right", "changed")):
        os.utime(path, ns=(OLD + number, OLD + number))


def touched() -> set[str]:
    return {name for name in ("right", "changed") if os.path.exists(name) and os.stat(name).st_mtime_ns > OLD + 9}


def test_a_run_without_the_options_touches_the_stamps_that_the_directory_knows(
    registry: ScriptedRegistry, place: Path
) -> None:
    assert provision(registry, *STAMPS) == 0
    make_old()
    assert provision(registry) == 0
    assert touched() == set()
    assert provision(registry, "--env", "A=1") == 0
    assert touched() == {"right", "changed"}
    make_old()
    assert provision(registry, "--force") == 0
    assert touched() == {"right", "changed"}


def test_a_change_that_the_stamp_doesnt_know_of_counts(registry: ScriptedRegistry, place: Path) -> None:
    """As where another machine, or another view of the file system, has made it."""
    assert provision(registry, *STAMPS) == 0
    make_old()
    for name in ("right", "changed"):
        (place / name).rename(place / f"{name}.away")
    assert provision(registry, "--env", "A=1") == 0
    for name in ("right", "changed"):
        (place / f"{name}.away").rename(place / name)
    assert touched() == set()
    assert provision(registry, *STAMPS) == 0
    assert touched() == {"right", "changed"}
    make_old()
    assert provision(registry, *STAMPS) == 0
    assert touched() == {"right"}


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        (lambda: None, ["config", "--set", "env=A=1", "dir"]),
        (lambda: os.unlink("dir/start.sh"), ["repair", "--yes", "dir"]),
        (lambda: shutil.rmtree("dir/rootfs/bin"), ["repair", "--yes", "--all", "dir"]),
    ],
)
def test_commands_that_change_the_directory_touch_its_stamps(
    damage: Callable[[], None], command: list[str], registry: ScriptedRegistry, place: Path
) -> None:
    assert provision(registry, *STAMPS) == 0
    make_old()
    damage()
    assert main(command) == 0
    assert touched() == {"right", "changed"}
    make_old()
    assert main(command) == 0  # this time it changes nothing
    assert touched() == set()
    os.unlink("right")
    assert main(["config", "dir", "--set", "env=B=2"]) == 0
    assert touched() == {"changed"}  # one that somebody has removed stays so


def test_an_update_touches_the_stamps(registry: ScriptedRegistry, place: Path) -> None:
    assert provision(registry, *STAMPS) == 0
    make_old()
    registry.push("image", builders.image(builders.layer(("bin", None), ("bin/new", b"x", 0o755))))
    assert main(["update", "dir", "--yes"]) == 0
    assert touched() == {"right", "changed"}
    make_old()
    kept = next(path for path in place.iterdir() if path.name.startswith("dir.before-"))
    assert main(["remove", kept.name]) == 0
    assert (place / "right").exists()


def test_stamps_go_with_the_directory(registry: ScriptedRegistry, place: Path, capsys: Output) -> None:
    assert provision(registry, *STAMPS) == 0
    (place / "changed").write_text("mine now")
    assert main(["copy", "dir", "copy"]) == 0
    assert main(["remove", "copy"]) == 0
    assert (place / "right").exists()
    assert main(["remove", "dir"]) == 0
    assert f"removed {place}/right, its stamp" in capsys.readouterr().err
    assert not (place / "right").exists()
    assert (place / "changed").read_text() == "mine now"


def test_stamps_go_when_the_directory_is_moved(registry: ScriptedRegistry, place: Path) -> None:
    assert provision(registry, *STAMPS) == 0
    assert main(["move", "dir", "other"]) == 0
    assert not (place / "right").exists()
    assert not (place / "changed").exists()


def test_a_copy_in_the_place_of_a_directory_is_a_change(registry: ScriptedRegistry, place: Path) -> None:
    assert provision(registry, *STAMPS) == 0
    make_old()
    (place / "dir").rename(place / "other")
    assert main(["copy", "other", "dir"]) == 0
    assert provision(registry, *STAMPS) == 0
    assert touched() == {"right", "changed"}


def test_a_restored_directory_is_a_change(registry: ScriptedRegistry, place: Path) -> None:
    assert provision(registry, *STAMPS) == 0
    assert main(["backup", "dir", "backup.tar"]) == 0
    shutil.rmtree("dir")
    os.utime("right", ns=(OLD, OLD))
    os.utime("changed", ns=(OLD, OLD))
    assert main(["restore", "backup.tar", "dir"]) == 0
    assert provision(registry, *STAMPS) == 0
    assert touched() == {"right", "changed"}


@pytest.mark.parametrize("option", STAMPS[::2])
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("none/stamp", "there is no directory none\n  make it first: mkdir -p none"),
        ("a b/stamp", "there is no directory 'a b'\n  make it first: mkdir -p 'a b'"),
        ("dir", "is in DIR"),
        ("dir/stamp", "is in DIR"),
        ("dir/rootfs/stamp", "is in DIR"),
        ("link/rootfs/stamp", "is in DIR"),
        ("", "needs the name of a file"),
        ("file/stamp", "there is no directory file"),
        ("lock", "--lock names the same file"),
    ],
)
def test_what_cant_be_a_stamp_is_refused_before_anything_is_asked_for(
    option: str, file: str, says: str, registry: ScriptedRegistry, place: Path, capsys: Output
) -> None:
    (place / "link").symlink_to("dir")
    (place / "file").write_text("x")
    assert provision(registry, option, file, "--lock", "lock") == 2
    assert says in capsys.readouterr().err
    assert not registry.asked(".*")
    assert not (place / "dir").exists()


def test_both_stamps_cant_be_one(registry: ScriptedRegistry, place: Path, capsys: Output) -> None:
    assert provision(registry, "--stamp", "a", "--stamp-if-changed", "./a") == 2
    assert "name the same file" in capsys.readouterr().err


def test_a_list_of_stamps_that_somebody_has_damaged_is_no_error(registry: ScriptedRegistry, place: Path) -> None:
    assert provision(registry, *STAMPS) == 0
    for text in ("", "[", "[]", '{"directory": 1}', f'{{"directory": "{place}/dir", "stamps": [1, "x", "/\\u0000"]}}'):
        (place / "dir/.provision/stamps").write_text(text)
        assert provision(registry, *STAMPS) == 0, text
