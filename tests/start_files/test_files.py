"""Directories that are there already: made complete again, and as they are asked for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli import main
from provisioner.commands import install
from provisioner.commands.parser import Parser, add_common_options
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry

Output = pytest.CaptureFixture[str]


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    data = builders.layer(("etc", None), ("etc/os-release", b"ID=debian\n"), ("bin", None), ("bin/sh", b"#!\n", 0o755))
    run = {"Cmd": ["sh"], "Env": ["PATH=/bin", "A=image"], "WorkingDir": "/srv", "User": "1:2"}
    registry.push("image", builders.image(data, run=run))
    return registry


@pytest.fixture
def directory(registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> Path:
    """A directory that was made with options."""
    for name in ("PROVISION_CACHE_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    directory = tmp_path / "dir"
    options = ["--env", "A=1", "--bind", "/opt:/x", "--dns", "9.9.9.9", "--hostname", "web", "--cmd", "sh -c date"]
    assert provision(registry, directory, *options) == 0
    capsys.readouterr()
    return directory


def provision(registry: ScriptedRegistry, directory: Path, *options: str) -> int:
    return main([f"{registry.host}/image", str(directory), "--platform=amd64", *options])


def prelude(directory: Path) -> dict[str, str]:
    """Return the settings at the top of start.sh."""
    lines = (directory / "start.sh").read_text().partition("\n\n")[0].splitlines()
    return dict(line.partition("=")[::2] for line in lines if not line.startswith("#"))


def content(directory: Path) -> dict[str, bytes]:
    """Return the files that are generated for a directory."""
    names = ["start.sh", *(f".provision/generated/{name}" for name in ("hosts", "hostname", "resolv.conf"))]
    return {name: (directory / name).read_bytes() for name in names}


@pytest.mark.parametrize("removed", [["start.sh"], [".provision/generated"], ["start.sh", ".provision/generated"]])
def test_what_was_generated_is_written_anew_without_network(
    removed: list[str], registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    before = content(directory)
    for name in removed:
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    registry.on(".*", registry_is_down)
    assert provision(registry, directory, "--offline") == 0
    assert f"was incomplete: written anew: {', '.join(removed)}\n" in capsys.readouterr().err
    assert content(directory) == before
    assert os.access(directory / "start.sh", os.X_OK)
    assert provision(registry, directory, "--offline") == 0
    assert "incomplete" not in capsys.readouterr().err


def registry_is_down(request: object) -> Any:
    raise AssertionError("nothing may be asked for")


def test_a_rootfs_or_a_record_that_is_missing_is_refused(
    registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    (directory / "rootfs").rename(directory / "moved")
    assert provision(registry, directory) == 8
    assert "is incomplete: rootfs is missing\n  make it anew: add --force" in capsys.readouterr().err
    (directory / "moved").rename(directory / "rootfs")
    (directory / ".provision/record.json").unlink()
    assert provision(registry, directory, "--force") == 8
    assert "its record is missing" in capsys.readouterr().err
    assert (directory / "rootfs/etc").is_dir()


def test_other_options_change_start_sh_alone(registry: ScriptedRegistry, directory: Path, capsys: Output) -> None:
    inode = (directory / "rootfs").stat().st_ino
    assert provision(registry, directory, "--env", "B=2", "--runtime", "proot", "--user", "0") == 0
    assert "start.sh changed: runtime, env, user\n" in capsys.readouterr().err
    now = prelude(directory)
    assert (now["default_env"], now["default_runtime"], now["image_user"]) == ("B=2", "proot", "0")
    assert now["default_binds"] == "/opt:/x"
    assert now["image_command"] == "'sh -c date'"
    assert (directory / "rootfs").stat().st_ino == inode
    before = content(directory)
    assert provision(registry, directory, "--env", "B=2", "--runtime", "proot") == 0
    assert "start.sh changed" not in capsys.readouterr().err
    assert content(directory) == before
    (directory / "start.sh").unlink()
    assert provision(registry, directory) == 0
    assert content(directory) == before


APPLIED = {
    "--dns": ["1.1.1.1"],
    "--bind": ["/usr:/y"],
    "--env": ["B=2"],
    "--cmd": ["sh"],
    "--entrypoint": ["env"],
    "--env-image": ["C=3"],
    "--workdir": ["/tmp"],
    "--user": ["7"],
    "--proot-option": ["--kill-on-exit"],
    "--hostname": ["other"],
    "--runtime": ["proot"],
}
"""Options that change what start.sh goes by: start.sh is written anew."""
REFUSED = {"--platform": ["arm64"], "--profile": ["alpine"], "--ids": ["many"], "--hardlinks": ["symlink"]}
"""Options by which the files would be others."""
IRRELEVANT: dict[str, list[str]] = {
    "--mirror": ["localhost:1"],
    "--insecure": [],
    "--max-size": ["1G"],
    "--no-sync": [],
    "--offline": [],
    "--no-cache": [],
    "--no-catalogue": [],
    "--lock": ["lock"],
    "--jobs": ["1"],
    "--stop-running": [],
    "--no-wait": [],
    "--stamp": ["stamp"],
    "--stamp-if-changed": ["changed"],
    "--trust-dir": [],
    "--json": [],
    "--quiet": [],
    "--verbose": [],
    "--color": ["never"],
}
"""Options about this run alone."""
OTHER = {
    "--help": "prints, and does nothing",
    "--version": "prints, and does nothing",
    "--force": "replaces the directory",
    "--locked": "chooses the image, which is compared with that of the directory",
    "--sha256": "is for files, whose content is the image",
}


def options_of_install() -> set[str]:
    """Return the options of `install`, each by its first long name."""
    parser = Parser(prog="provision", allow_abbrev=False)
    install.add_arguments(parser)
    add_common_options(parser)
    names = [[name for name in action.option_strings if name.startswith("--")] for action in parser._actions]
    return {found[0] for found in names if found}


def test_each_option_has_a_rule_for_directories_that_are_there() -> None:
    assert options_of_install() == {*APPLIED, *REFUSED, *IRRELEVANT, *OTHER}


@pytest.mark.parametrize("option", APPLIED)
def test_an_option_of_start_sh_is_applied(
    option: str, registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    before = prelude(directory)
    assert provision(registry, directory, "=".join((option, *APPLIED[option]))) == 0
    assert "start.sh changed: " in capsys.readouterr().err
    changed = prelude(directory)
    assert changed != before
    assert provision(registry, directory, "=".join((option, *APPLIED[option]))) == 0
    assert "start.sh changed" not in capsys.readouterr().err
    assert prelude(directory) == changed


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_of_the_files_is_refused(
    option: str, registry: ScriptedRegistry, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1) if option == "--ids" else None
    before = content(directory)
    status = main(
        [
            f"{registry.host}/image",
            str(directory),
            *["--platform=amd64"] * (option != "--platform"),
            option,
            *REFUSED[option],
        ]
    )
    said = capsys.readouterr().err
    assert status in (3, 8), said
    assert "\n  " in said
    assert content(directory) == before


@pytest.mark.parametrize("option", IRRELEVANT)
def test_an_option_of_the_run_changes_nothing(
    option: str, registry: ScriptedRegistry, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(directory.parent)
    before = content(directory)
    assert provision(registry, directory, option, *IRRELEVANT[option]) == 0
    assert "start.sh changed" not in capsys.readouterr().err
    assert content(directory) == before


def test_the_kind_of_hard_links_is_that_of_the_directory(
    registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    assert provision(registry, directory, "--hardlinks", "auto") == 0
    assert provision(registry, directory, "--hardlinks", "copy") == 8
    said = capsys.readouterr().err
    assert "was made with --hardlinks auto, not copy\n  choose another directory, or replace this one" in said
    assert provision(registry, directory, "--hardlinks", "copy", "--force") == 0
    assert provision(registry, directory, "--hardlinks", "copy") == 0
    assert provision(registry, directory) == 0
    record = directory / ".provision/record.json"
    record.write_text(record.read_text().replace('  "hardlinks": "copy",\n', ""))
    assert provision(registry, directory, "--hardlinks", "symlink") == 0  # of an older version, nobody knows


def test_options_of_the_files_are_refused(registry: ScriptedRegistry, directory: Path, capsys: Output) -> None:
    assert provision(registry, directory, "--profile", "alpine") == 8
    assert "was made with the profile debian" in capsys.readouterr().err
    assert provision(registry, directory, "--profile", "debian") == 0


def test_a_start_sh_that_was_edited_stays(registry: ScriptedRegistry, directory: Path, capsys: Output) -> None:
    with open(directory / "start.sh", "a") as script:
        script.write("# mine\n")
    before = content(directory)
    assert provision(registry, directory, "--env", "B=2") == 8
    assert "start.sh was edited: env can't be changed" in capsys.readouterr().err
    assert content(directory) == before
    assert json.loads((directory / ".provision/record.json").read_text())["options"]["env"] == ["A=1"]


def config(directory: Path, capsys: Output, *changes: str) -> dict[str, Any]:
    """Return what `provision config --json` says, after changes."""
    words = [word for change in changes for word in ("--set", change)]
    assert main(["config", str(directory), "--json", *words]) == 0
    settings: dict[str, Any] = json.loads(capsys.readouterr().out)
    return settings


def test_config_shows_and_changes_the_settings(directory: Path, capsys: Output) -> None:
    shown = config(directory, capsys)
    assert shown["env"] == ["A=1"]
    assert shown["hostname"] == "web"
    assert shown["cmd"] == ["sh", "-c", "date"]
    assert shown["user"] is None
    changed = config(directory, capsys, "env=B=2 'C=a b'", "bind=/tmp", "runtime=userns", "cmd=", "user=5", "hostname=")
    assert changed["env"] == ["B=2", "C=a b"]
    now = prelude(directory)
    assert now["default_env"] == "'B=2 '\"'\"'C=a b'\"'\"''"
    assert (now["default_binds"], now["default_runtime"], now["default_hostname"]) == ("/tmp", "userns", "''")
    assert (now["image_command"], now["image_user"]) == ("sh", "5")
    assert main(["config", str(directory)]) == 0
    assert "env='B=2' 'C=a b'\n" not in capsys.readouterr().out.replace("B=2 'C=a b'", "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("env", "is not KEY=VALUE"),
        ("evn=A=1", "did you mean env=A=1?"),
        ("env='A", "can't be divided into words"),
        ("env=a b", "is not NAME=VALUE"),
        ("dns=one", "is not an IP address"),
        ("runtime=docker", "is none of auto, proot"),
        ("bind=:/x", "names nothing to bind"),
        ("workdir=x", "x"),
        ("hostname=-", "is no name"),
        ("user=\n", "user"),
    ],
)
def test_a_setting_that_cant_be_is_refused_and_nothing_changes(
    change: str, says: str, directory: Path, capsys: Output
) -> None:
    before = content(directory)
    assert main(["config", str(directory), "--set", change]) == 2
    assert says in capsys.readouterr().err
    assert content(directory) == before


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ("env=lower", ["--env", "lower"]),
        ("dns=x", ["--dns", "x"]),
        ("hostname=a_b", ["--hostname", "a_b"]),
        ("bind=:/x", ["--bind", ":/x"]),
        ("cmd='a", ["--cmd", "'a"]),
        ("entrypoint=[1]", ["--entrypoint", "[1]"]),
        ("env-image=A", ["--env-image", "A"]),
        ("workdir=a", ["--workdir", "a"]),
        ("user=a b", ["--user", "a b"]),
    ],
)
def test_settings_are_checked_as_the_options_are(
    change: str, option: list[str], registry: ScriptedRegistry, directory: Path, capsys: Output
) -> None:
    assert provision(registry, directory, *option) == 2
    by_option = capsys.readouterr().err
    assert main(["config", str(directory), "--set", change]) == 2
    by_change = capsys.readouterr().err
    key = change.partition("=")[0]
    assert by_change.splitlines()[0] == by_option.splitlines()[0].replace(f"--{key} ", f"--set {key}=")
    assert f"--{key}" not in by_change


def test_a_setting_that_is_there_twice_is_refused(directory: Path, capsys: Output) -> None:
    before = content(directory)
    for words, hint in (
        (["env=A=1", "env='B=2 3'"], "write all words into one: --set env='A=1 '\"'\"'B=2 3'\"'\"''"),
        (["hostname=a", "env=A=1", "hostname=b"], "leave out one of them"),
        (["cmd=a", "cmd=b"], "leave out one of them"),
    ):
        assert main(["config", str(directory), *(f"--set={word}" for word in words)]) == 2
        key = words[0].partition("=")[0]
        assert capsys.readouterr().err == f"provision: --set {key} is there twice\n  {hint}\n"
    assert content(directory) == before


def test_no_command_at_all_is_shown_as_it_is_set(registry: ScriptedRegistry, directory: Path, capsys: Output) -> None:
    assert provision(registry, directory, "--cmd", "") == 0
    capsys.readouterr()
    assert main(["config", str(directory)]) == 0
    shown = capsys.readouterr().out
    assert "\ncmd=[]\nentrypoint=\n" in shown
    assert main(["config", str(directory), "--set", "cmd="]) == 0
    assert "\ncmd=\n" in capsys.readouterr().out
    assert main(["config", str(directory), "--set", "cmd=[]"]) == 0
    assert capsys.readouterr().out == shown


def test_a_bind_of_what_isnt_there_is_told(directory: Path, capsys: Output) -> None:
    assert main(["config", str(directory), "-q", "--set", "bind=/none/x:/y /usr"]) == 0
    assert capsys.readouterr().err == "provision: --bind /none/x:/y: /none/x isn't there; starts go on without it\n"
    assert main(["config", str(directory), "--set", "env=A=2"]) == 0
    assert capsys.readouterr().err == "start.sh changed: env\n"


def test_each_directory_has_an_id_of_its_own(registry: ScriptedRegistry, directory: Path) -> None:
    other = directory.with_name("other")
    assert provision(registry, other) == 0
    ids = [json.loads((path / ".provision/record.json").read_text())["id"] for path in (directory, other)]
    assert len(set(ids)) == 2
    assert all(len(number) == 32 for number in ids)
