"""Every file of a provisioned directory, damaged in every way: made anew from the record, or refused in words."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.cli import main
from provisioner.container_files import GENERATED_NAMES
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry

Output = pytest.CaptureFixture[str]

ANEW = [
    "start.sh",
    *(f".provision/{name}" for name in ("config.json", "manifest.json", "fakeroot.state", "generated", "shm")),
    *(f".provision/generated/{name}" for name in GENERATED_NAMES),
    *(f".provision/{name}.bpf" for name in ("seccomp", "container", "background", "proot")),
    *(f".provision/{name}" for name in ("proot-probe", "terminal-relay", "helper", "machine")),
]
"""What is made anew, of the record and the image's documents, which the cache has."""
REFUSED = ["rootfs", ".provision/ownership.mtree", ".provision/record.json"]
LATER = [".provision/changed"]
"""What tells the last change; without it the record's time does."""
OF_UPDATES = [".provision/accounts", ".provision/accounts/passwd", ".provision/packages"]
"""What only updates read, which do without it."""


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    tops = [(name, None) for name in ("etc", "bin", "usr", "var", "tmp")]
    home = tarfile.TarInfo("home")
    home.type, home.mode, home.uid, home.gid = tarfile.DIRTYPE, 0o700, 5, 6
    data = builders.layer(
        *tops,
        home,
        ("etc/os-release", b"ID=debian\n"),
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        ("bin/sh", b"#!\n", 0o755),
        ("var/lib", None),
        ("var/lib/dpkg", None),
        ("var/lib/dpkg/status", b"Package: a\nStatus: install ok installed\n"),
    )
    registry.push("image", builders.image(data, run={"Cmd": ["sh"]}))
    return registry


@pytest.fixture
def directory(registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> Path:
    for name in ("PROVISION_CACHE_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "dir"
    assert provision(registry, directory) == 0
    registry.on(".*", refuse)
    capsys.readouterr()
    return directory


def refuse(request: object) -> None:
    raise AssertionError("nothing may be asked for")


def provision(registry: ScriptedRegistry, directory: Path, *options: str) -> int:
    return main([f"{registry.host}/image", str(directory), "--platform=amd64", *options])


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of all files but those of the rootfs, and of start.sh.old."""
    paths = [directory / "start.sh", *(directory / ".provision").rglob("*")]
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) and os.access(path, os.R_OK) else b"",
        )
        for path in paths
        if path.name not in ("start.sh.old", "fakeroot.state") and os.path.lexists(path)
    }


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    if path.is_dir():
        remove(path)
        path.mkdir()
        path.chmod(0o755)  # whatever the umask is
    else:
        path.write_bytes(b"")


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def replace_by_symlink(path: Path) -> None:
    moved = Path(f"moved-{path.name}-{os.urandom(4).hex()}").absolute()
    path.rename(moved)
    path.symlink_to(moved)


def replace_by_fifo(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def replace_by_directory(path: Path) -> None:
    remove(path)
    path.mkdir()


def replace_by_file(path: Path) -> None:
    remove(path)
    path.write_bytes(b"x")


def close(path: Path) -> None:
    path.chmod(0)


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: list[Callable[[Path], None]] = [
    *(remove, empty, cut_short, replace_by_symlink, replace_by_fifo, replace_by_directory, replace_by_file),
    *(close, fill_with_zeros),
]
OF_DIRECTORIES = [remove, empty, replace_by_symlink, replace_by_fifo, replace_by_file, close]
HARMLESS = [
    ("shm", empty),
    ("machine", cut_short),
    *(
        (f"generated/{name}", damage)
        for name in GENERATED_NAMES
        for damage in (cut_short, replace_by_file, fill_with_zeros)
    ),
]
"""What leaves a file as it may be: start.sh writes other copies of what it generates at other times."""


def damages_of(path: Path, name: str) -> list[Callable[[Path], None]]:
    """Return how a file, or directory, can be damaged."""
    damages = OF_DIRECTORIES if path.is_dir() else DAMAGES
    return [damage for damage in damages if (name.removeprefix(".provision/"), damage) not in HARMLESS]


def test_each_file_of_a_directory_has_its_rule(directory: Path) -> None:
    made = {name for name in snapshot(directory) if not name.startswith(".provision/accounts/")}
    assert made | {"rootfs", ".provision/accounts/passwd", ".provision/fakeroot.state"} == {
        *ANEW,
        *REFUSED,
        *OF_UPDATES,
        *LATER,
    }


@pytest.mark.parametrize("name", ANEW)
def test_what_is_generated_is_made_anew(name: str, registry: ScriptedRegistry, directory: Path, capsys: Output) -> None:
    path = directory / name
    before = snapshot(directory)
    is_directory = path.is_dir()
    for damage in damages_of(path, name):
        damage(path)
        is_damaged = snapshot(directory) != before or name == ".provision/fakeroot.state"
        if damage is replace_by_symlink and "/generated/" not in name:  # somebody else may have put it there
            assert provision(registry, directory, "--offline") == 8
            assert f"{path} is a symlink\n  where it is yours: rm {path}" in capsys.readouterr().err
            path.unlink()
        assert provision(registry, directory, "--offline") == 0, damage
        said = capsys.readouterr().err
        assert snapshot(directory) == before, damage
        assert path.is_dir() is is_directory
        assert not path.is_symlink()
        if is_damaged:
            done = "(?:permissions given back|written anew): " if damage is close else "written anew: "
            assert re.search(rf"(?:{done}|renewed, as this version writes them: ).*{name}", said), damage
        assert provision(registry, directory, "--offline") == 0
        said = capsys.readouterr().err
        assert "is up to date" in said
        assert "anew" not in said
        assert "renewed" not in said


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_be_made_anew_is_refused(
    name: str, registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    path = directory / name
    spare = directory.parent / "spare"
    path.rename(spare)
    for damage in (remove, empty, cut_short, replace_by_symlink, replace_by_fifo, replace_by_file):
        if damage is cut_short and spare.is_dir():
            continue
        shutil.copytree(spare, path, symlinks=True) if spare.is_dir() else shutil.copy2(spare, path)
        damage(path)
        status = provision(registry, directory, "--offline")
        said = capsys.readouterr().err
        assert status in (7, 8), damage
        assert (name in said) != ("its record is missing" in said), (damage, said)
        assert "\n  " in said, damage
        if path.is_symlink():
            path.unlink()
        elif os.path.lexists(path):
            remove(path)


def test_a_rootfs_that_lost_most_of_its_top_is_refused(
    registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    for name in ("bin", "usr"):
        shutil.rmtree(directory / "rootfs" / name)
    assert provision(registry, directory, "--offline") == 0  # a user may have removed these
    capsys.readouterr()
    for name in ("etc", "var"):
        shutil.rmtree(directory / "rootfs" / name)
    assert provision(registry, directory, "--offline") == 8
    said = capsys.readouterr().err
    assert "4 of 6 files and directories at the top of its rootfs are missing (bin, etc, usr, …)" in said
    assert f"provision repair {directory}" in said


def test_repair_puts_an_emptied_rootfs_back(registry: ScriptedRegistry, directory: Path, capsys: Output) -> None:
    empty(directory / "rootfs")
    assert main(["repair", str(directory), "--yes", "--all", "--offline"]) == 0
    assert provision(registry, directory, "--offline") == 0
    assert (directory / "rootfs/var/lib/dpkg/status").exists()


@pytest.mark.parametrize("command", [["repair", "--yes"], ["config", "--set", "env=A=1"]])
def test_other_commands_make_start_sh_anew(command: list[str], directory: Path, capsys: Output) -> None:
    (directory / "start.sh").write_bytes(b"")
    (directory / ".provision/helper").unlink()
    assert main([*command, str(directory)]) == 0
    said = capsys.readouterr().err
    assert "written anew: start.sh" in said
    assert "renewed, as this version writes them: .provision/helper" in said
    assert os.access(directory / ".provision/helper", os.X_OK)
    assert ("\ndefault_env=A=1\n" in (directory / "start.sh").read_text()) is (command[0] == "config")


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        (b"", False),
        (b"\0" * 100, False),
        (b"#!/bin/sh\n# mine\nexec true\n", True),
        (b"#!/bin/sh -\n# Written by provision. Variables that begin\n", False),
    ],
)
def test_a_start_sh_of_others_stays_and_a_broken_one_doesnt(
    text: bytes, is_kept: bool, registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    script = directory / "start.sh"
    before = script.read_bytes()
    script.write_bytes(text)
    script.chmod(0o644)
    assert provision(registry, directory, "--offline") == 0
    assert script.read_bytes() == (text if is_kept else before)
    assert os.access(script, os.X_OK)
    if text and not is_kept:
        assert (directory / ".provision/start.sh.old").read_bytes() == text
    said = capsys.readouterr().err
    assert ("start.sh was edited" in said) is is_kept
    assert ("was incomplete: permissions given back: start.sh\n" in said) is is_kept


def test_a_setting_that_a_user_has_written_into_start_sh_outlives_a_change(
    registry: ScriptedRegistry, directory: Path
) -> None:
    script = directory / "start.sh"
    script.write_text(script.read_text().replace("\ndefault_binds=''\n", "\ndefault_binds=/opt\n"))
    assert main(["config", str(directory), "--set", "env=A=1"]) == 0
    text = script.read_text()
    assert "\ndefault_binds=/opt\n" in text
    assert "\ndefault_env=A=1\n" in text
