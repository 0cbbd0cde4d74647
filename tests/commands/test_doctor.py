"""`provision doctor`: what it prints, its exit status, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from provisioner.doctor.diagnosis import NETWORK_PROBES, PROBES
from tests.support.doctor import checks_of, doctor, path_before, states_of, write_script
from tests.support.tools import as_user, need, need_root, open_terminal, own, provision, provision_command
from tests.support.waiting import wait_until


def test_root_can_do_all_that_this_machine_can(tmp_path: Path) -> None:
    need_root()
    need("proot", "bwrap", "fakeroot", "zstd", "qemu-aarch64-static")
    done = doctor("--json", tmp_path)
    found = checks_of(done)
    assert done.returncode == 0
    works = (
        "directory",
        "symlinks",
        "execution",
        "hard links",
        "devices",
        "owners",
        "space",
        "proot",
        "unshare",
        "zstd",
    )
    assert {name: found[name]["state"] for name in works} == dict.fromkeys(works, "ok")
    assert found["runtime"]["detail"].startswith(("start.sh uses chroot", "start.sh uses proot"))
    assert "aarch64" in found["qemu"]["detail"]
    assert [*found] == [probe.name for probe in PROBES] + ["runtime"]
    assert os.listdir(tmp_path) == []


def test_a_user_sees_what_only_root_can(place: Path) -> None:
    need_root()
    need("proot")
    done = doctor("--json", place, **as_user())
    found = checks_of(done)
    assert done.returncode == 0
    for name in ("owners", "devices", "chroot"):
        assert found[name]["state"] == "no"
        assert "Operation not permitted" in found[name]["detail"]
    assert found["runtime"]["detail"].startswith(("start.sh uses userns", "start.sh uses proot"))


def test_one_line_each_with_a_mark_that_needs_no_colour(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    *lines, result = done.stdout.splitlines()
    assert len(lines) == len(PROBES) + 1
    assert all(re.match(r"(ok|no|- |\? )  [a-zA-Z. ]+: .", line) for line in lines)
    assert result == f"provision works in {tmp_path}"


def test_what_matters_to_this_user_comes_first(place: Path) -> None:
    """A user needs no root: what only root can is neither an alarm nor in the way."""
    need_root()
    need("proot")
    lines = doctor(place, **as_user()).stdout.splitlines()
    marks = [line[:2].strip() for line in lines[:-1]]
    assert marks == sorted(marks, key=["no", "?", "ok", "-"].index)
    first = next(line for line in lines if line.startswith("ok"))
    assert first.startswith("ok  runtime: start.sh uses")
    for name in ("owners", "devices", "chroot"):
        assert any(line.startswith(f"-   {name}: ") for line in lines)
    found = checks_of(doctor("--json", place, **as_user()))
    assert (found["chroot"]["state"], found["chroot"]["is_harmless"]) == ("no", True)


def test_states_have_colours(tmp_path: Path) -> None:
    shown = doctor(tmp_path, "--color", "always").stdout.splitlines()
    assert "\x1b[32mok\x1b[0m  directory: can be written to" in shown
    assert shown[-1] == f"\x1b[32mprovision works in {tmp_path}\x1b[0m"


def test_it_fits_a_phone(tmp_path: Path) -> None:
    command, options = provision_command("doctor", "--offline", tmp_path, cache=tmp_path)
    ours, theirs = open_terminal()
    env = {**options["env"], "COLUMNS": "40", "TERM": "xterm"}
    done = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    assert done.wait() == 0
    lines = re.sub(r"\033\[\d*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 40
    assert "ok  directory: can be written to" in lines


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_a_directory_to_be_made_is_judged_by_where_it_will_be(tmp_path: Path) -> None:
    done = doctor("--json", tmp_path / "new/dir")
    assert json.loads(done.stdout)["directory"] == f"{tmp_path}/new/dir"
    assert states_of(done)["symlinks"] == "ok"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", ["theirs", "open", "link"])
def test_a_staging_directory_of_others_is_refused_as_install_does(tmp_path: Path, what: str) -> None:
    """Who may write there decides what gets the name of DIR."""
    if what == "theirs":
        need_root()
    folder = tmp_path / ".dir.provision"
    if what == "link":
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir()
    if what == "theirs":
        own(folder)
    elif what == "open":
        folder.chmod(0o777)
    done = doctor(tmp_path / "dir")
    assert done.returncode == 8
    assert done.stdout == ""
    assert f"{folder} is no directory that only this user may write to" in done.stderr
    assert os.listdir(tmp_path) == [folder.name]
    folder.rename(tmp_path / "seen")


def test_without_a_directory_it_is_the_current_one_or_that_for_temporary_files(place: Path) -> None:
    inside = doctor("--json", **{**as_user(), "cwd": place})
    assert json.loads(inside.stdout)["directory"] == str(place.resolve())
    need_root()
    options = as_user(TMPDIR=str(place))
    outside = doctor("--json", **{**options, "cwd": "/"})
    assert json.loads(outside.stdout)["directory"] == str(place.resolve())


def test_names_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    evil = tmp_path / "a\x1b[2J\nb"
    evil.mkdir()
    done = doctor(evil)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == rf"provision works in {tmp_path}/a\x1b[2J\nb"


def test_what_ends_it_early_leaves_nothing(tmp_path: Path) -> None:
    write_script(tmp_path / "proot", "sleep 60")
    env = path_before(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    command, options = provision_command("doctor", place, "--offline", cache=tmp_path, env=env)
    with subprocess.Popen(command, **options) as process:
        wait_until(lambda: os.listdir(place))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert os.listdir(place) == []


def test_offline_asks_no_network_and_a_lost_one_is_not_the_machine_s_fault(tmp_path: Path) -> None:
    assert not {probe.name for probe in NETWORK_PROBES} & states_of(doctor("--json", tmp_path)).keys()
    env = {**os.environ, "https_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    done = provision("doctor", tmp_path, "--json", env=env)
    assert states_of(done)["registry"] == "no"
    assert done.returncode == 0
