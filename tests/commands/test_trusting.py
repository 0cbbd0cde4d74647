"""Directories that others own or may write to: refused by each command, and what has to go on working all the same."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.containers import need_user_namespaces
from tests.support.disks import bindfs
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import (
    as_user,
    clean_environment,
    need,
    need_root,
    own,
    provision,
    provision_command,
    run,
    user_id,
)

STRANGER = 1234


@pytest.fixture
def image() -> Iterator[str]:
    with ScriptedRegistry() as registry:
        registry.push("x", builders.small())
        yield f"{registry.host}/x"


def root_options(**environment: str) -> dict[str, Any]:
    """Root that nobody became: without the variables of sudo."""
    plain = {name: value for name, value in clean_environment().items() if name != "SUDO_UID"}
    return {"env": {**plain, **environment}}


def owned_by(uid: int, path: Path) -> None:
    os.chown(path, uid, uid)


def made(image: str, directory: Path, cache: Path, **options: Any) -> Path:
    provision("--platform=amd64", image, directory, cache=cache, **options, status=0)
    return directory


@pytest.fixture
def container(image: str, place: Path, cache_dir: Path) -> Path:
    """A directory of the unprivileged user."""
    return made(image, place / "container", cache_dir, **as_user())


def commands(image: str, directory: Path) -> dict[str, list[str]]:
    """Each command that takes a DIR."""
    return {
        "install": ["--platform=amd64", image, str(directory)],
        "force": ["--platform=amd64", "--force", image, str(directory)],
        "inspect": ["inspect", str(directory)],
        "doctor": ["doctor", "--offline", str(directory)],
        "owners": ["owners", str(directory)],
        "start": ["start", str(directory), "--", "true"],
    }


def give_to_group(path: Path) -> None:
    os.chown(path, -1, 100)
    path.chmod(0o770)


def give_by_list(path: Path) -> None:
    run("setfacl", "-m", f"u:{STRANGER}:rwx", path)


def link_the_record(path: Path) -> None:
    (path / ".provision/record.json").rename(path.parent / "record.json")
    (path / ".provision/record.json").symlink_to(path.parent / "record.json")


SPOILS: dict[str, Callable[[Path], None]] = {
    "another's directory": lambda path: owned_by(STRANGER, path),
    "another's folder": lambda path: owned_by(STRANGER, path / ".provision"),
    "a directory for all": lambda path: path.chmod(0o777),
    "a folder for all": lambda path: (path / ".provision").chmod(0o757),
    "a folder for all, sticky": lambda path: (path / ".provision").chmod(0o1777),
    "a group's directory": give_to_group,
    "a directory with a list": give_by_list,
    "another's start.sh": lambda path: owned_by(STRANGER, path / "start.sh"),
    "a start.sh for all": lambda path: (path / "start.sh").chmod(0o777),
    "a group's start.sh": lambda path: give_to_group(path / "start.sh"),
    "another's helper": lambda path: owned_by(STRANGER, path / ".provision/helper"),
    "a config for all": lambda path: (path / ".provision/config.json").chmod(0o666),
    "a link for the record": link_the_record,
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("command", ["install", "force", "inspect", "doctor", "owners", "start"])
def test_directories_of_others_are_refused(
    image: str, container: Path, cache_dir: Path, command: str, spoil: str
) -> None:
    need_root()
    need("setfacl")
    SPOILS[spoil](container)
    words = commands(image, container)[command]
    done = provision(*words, cache=cache_dir, **root_options(SUDO_UID=str(user_id())), status=8)
    assert str(container) in done.stderr
    assert "--trust-dir" in done.stderr
    assert any(f"where it is yours: {command}" in done.stderr for command in ("chown", "chmod", "rm"))
    assert (container / ".provision/record.json").exists()
    # In vain root looks for what it could say of it: nothing was read.
    assert "sha256:" not in done.stdout


@pytest.mark.parametrize("spoil", SPOILS)
def test_start_sh_and_the_commands_have_one_rule(container: Path, cache_dir: Path, spoil: str) -> None:
    """The command that either of them names helps both."""
    need_root()
    need("setfacl")
    options = root_options(SUDO_UID=str(user_id()))
    SPOILS[spoil](container)
    for _ in range(5):
        started = subprocess.run(
            [container / "start.sh", "--list"], check=False, capture_output=True, text=True, **options
        )
        shown = provision("inspect", container, cache=cache_dir, **options)
        assert (started.returncode, shown.returncode) in ((0, 0), (125, 8)), (started.stderr, shown.stderr)
        if not started.returncode:
            return
        command = shown.stderr.split("where it is yours: ")[1].split(";")[0]
        subprocess.run(command, shell=True, check=True)
        if command.startswith("rm"):
            return
    raise AssertionError(started.stderr)


@pytest.mark.parametrize("lift", ["option", "variable", "all", "config"])
@pytest.mark.parametrize("command", ["install", "inspect", "owners"])
def test_those_who_know_lift_it(
    image: str, container: Path, cache_dir: Path, command: str, lift: str, tmp_path: Path
) -> None:
    need_root()
    owned_by(STRANGER, container)
    config = tmp_path / "config.toml"
    config.write_text(f'trust-dir = ["{container.parent}"]\n' if lift == "config" else "")
    named = {"variable": f"/nowhere:{container.parent}", "all": "*"}.get(lift, "")
    words = [*commands(image, container)[command], *(["--trust-dir"] if lift == "option" else [])]
    options = root_options(PROVISION_TRUST_DIR=named, PROVISION_CONFIG=str(config))
    provision(*words, cache=cache_dir if lift == "none" else tmp_path / "cache", **options, status=0)


def test_the_owner_goes_on(image: str, container: Path, cache_dir: Path) -> None:
    for name, words in commands(image, container).items():
        done = provision(*words, cache=cache_dir, **as_user())
        assert done.returncode != 8, (name, done.stderr)


def test_a_user_does_not_take_a_directory_for_theirs_that_another_user_made(
    image: str, place: Path, cache_dir: Path
) -> None:
    """As one in /tmp that waits for somebody who runs `provision x /tmp/x`."""
    need_root()
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    container = made(image, place / "container", cache_dir, **as_user())
    container.chmod(0o755)
    shutil.move(container, shared / "x")
    for path in (shared / "x", *(shared / "x").rglob("*")):
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    for words in commands(image, shared / "x").values():
        done = provision(*words, cache=cache_dir, **as_user(), status=8)
        assert f"{shared}/x belongs to the user {STRANGER}" in done.stderr


def test_a_strangers_directory_that_is_closed_is_refused_as_such(image: str, container: Path, cache_dir: Path) -> None:
    need_root()
    owned_by(STRANGER, container)
    for name in ("inspect", "owners", "doctor"):
        provision(*commands(image, container)[name], cache=cache_dir, **as_user(), status=8)


def test_the_list_shows_the_others_and_says_so(image: str, place: Path, cache_dir: Path, tmp_path: Path) -> None:
    need_root()
    options = root_options(XDG_STATE_HOME=str(tmp_path), SUDO_UID=str(user_id()))
    for name in ("one", "two"):
        made(image, place / name, cache_dir, **options)
    owned_by(STRANGER, place / "one")
    done = provision("list", "--json", cache=cache_dir, **options, status=8)
    assert '"is_trusted": false' in done.stdout
    assert done.stdout.count('"platform": "linux/amd64"') == 1
    assert f"{place}/one belongs to the user {STRANGER}" in done.stderr
    provision("list", "--trust-dir", cache=cache_dir, **options, status=0)


# Root and the directories above


def test_root_makes_nothing_below_a_strangers_directory(image: str, place: Path, tmp_path: Path) -> None:
    need_root()
    (place / "theirs").mkdir()
    owned_by(STRANGER, place / "theirs")
    (place / "theirs/there").mkdir()
    for command, name in (("install", "x"), ("doctor", "x"), ("inspect", "there")):
        words = commands(image, place / "theirs" / name)[command]
        done = provision(*words, cache=tmp_path / "cache", **root_options(SUDO_UID=str(user_id())), status=8)
        assert f"{place}/theirs belongs to the user {STRANGER}" in done.stderr
        assert f"chown 0:0 {place}/theirs;" in done.stderr  # without -R, since all in it would become root's
    assert os.listdir(place / "theirs") == ["there"]


def test_root_follows_no_strangers_link_in_tmp(image: str, tmp_path: Path) -> None:
    need_root()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    (tmp_path / "etc").mkdir()
    (tmp_path / "tmp/x").symlink_to(tmp_path / "etc")
    os.chown(tmp_path / "tmp/x", STRANGER, STRANGER, follow_symlinks=False)
    for target in ("tmp/x", "tmp/x/y"):
        provision("--platform=amd64", image, tmp_path / target, cache=tmp_path / "cache", **root_options(), status=8)
    assert os.listdir(tmp_path / "etc") == []


@pytest.mark.parametrize("what", ["lock", "locked", "config", "login", "profile"])
def test_no_file_is_read_or_written_through_a_strangers_link(
    image: str, place: Path, cache_dir: Path, what: str
) -> None:
    need_root()
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    dear = place / "dear"
    dear.write_text("{}" if what == "login" else "")
    (shared / "file.toml").symlink_to(dear)
    os.chown(shared / "file.toml", STRANGER, STRANGER, follow_symlinks=False)
    file = str(shared / "file.toml")
    words = [f"--{what}", file] if what in ("lock", "locked", "profile") else []
    named = {"config": {"PROVISION_CONFIG": file}, "login": {"REGISTRY_AUTH_FILE": file}}.get(what, {})
    command = ["logout", "localhost"] if what == "login" else ["--platform=amd64", *words, image, str(place / "x")]
    for options in (as_user(**named), root_options(SUDO_UID=str(user_id()), **named)):
        done = provision(*command, cache=cache_dir, **options)
        assert done.returncode in (2, 7), done.stderr
        assert f"{file} belongs to the user {STRANGER}" in done.stderr
    assert dear.read_text() == ("{}" if what == "login" else "")


# What must go on working


def test_by_sudo_in_ones_own_home(image: str, place: Path, tmp_path: Path) -> None:
    """By sudo itself, which says who became root. It wants a user with a name."""
    need_root()
    need("sudo", "setpriv")
    user = pwd.getpwnam("games")
    owned_by(user.pw_uid, place)
    command, options = provision_command(
        "--platform=amd64", image, place / "x", cache=tmp_path / "cache", **root_options()
    )
    environment = [f"{name}={value}" for name, value in options.pop("env").items()]
    rule = Path("/etc/sudoers.d/provision-test")
    rule.write_text("games ALL=(ALL) NOPASSWD: ALL\n")
    rule.chmod(0o440)
    try:
        as_games = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        for _ in ("made", "up to date"):
            done = subprocess.run([*as_games, "sudo", "-n", "env", *environment, *command], check=False, **options)
            assert done.returncode == 0, done.stderr
        assert (place / "x").stat().st_uid == 0
    finally:
        rule.unlink()


@pytest.mark.parametrize("name", ["SUDO_UID", "PKEXEC_UID"])
def test_who_became_root_by_other_means(image: str, place: Path, cache_dir: Path, name: str) -> None:
    need_root()
    options = root_options(**{name: str(user_id())})
    container = made(image, place / "project/x", cache_dir, **options)
    made(image, container, cache_dir, **options)
    provision("--platform=amd64", image, container, cache=cache_dir, **root_options(), status=8)


def test_directories_of_ones_own_group(image: str, place: Path, cache_dir: Path) -> None:
    """umask 002, where each user has a group."""
    own(place).chmod(0o775)
    made(image, place / "x", cache_dir, **as_user())
    (place / "x").chmod(0o775)
    made(image, place / "x", cache_dir, **as_user())
    if os.geteuid() == 0:
        made(image, place / "x", cache_dir, **root_options(SUDO_UID=str(user_id())))


def test_in_a_user_namespace(image: str, place: Path, cache_dir: Path) -> None:
    """As in rootless containers."""
    need("unshare")
    need_user_namespaces(by_root=False)
    command, options = provision_command("--platform=amd64", image, place / "x", cache=cache_dir, **as_user())
    for _ in ("made", "up to date"):
        done = subprocess.run(["unshare", "-Ur", *command], check=False, **options)
        assert done.returncode == 0, done.stderr
    made(image, place / "x", cache_dir, **as_user())


def test_in_a_job_of_ci(image: str, place: Path, tmp_path: Path) -> None:
    need_root()
    need("unshare")
    (place / "checkout").mkdir()
    (place / "checkout").chmod(0o777)
    owned_by(1001, place / "checkout")
    command, options = provision_command(
        "--platform=amd64", image, place / "checkout/x", cache=tmp_path / "cache", **root_options(CI="true")
    )
    for _ in ("made", "up to date"):
        done = subprocess.run(["unshare", "--pid", "--fork", *command], check=False, **options)
        assert done.returncode == 0, done.stderr


def test_where_root_is_somebody_else(image: str, tmp_path: Path) -> None:
    """On NFS with root_squash, and on FUSE with one owner for all."""
    with bindfs(tmp_path, "--force-user=65534") as squashed:
        for _ in ("made", "up to date"):
            made(image, squashed / "a/x", tmp_path / "cache", **root_options())
        provision("inspect", squashed / "a/x", cache=tmp_path / "cache", **root_options(), status=0)


def test_a_file_system_on_which_all_may_write_is_refused_at_once(image: str, place: Path, cache_dir: Path) -> None:
    """As Windows' in WSL, and CIFS: a directory that is made there could not be used the next time."""
    with bindfs(place, "-o", "allow_other", "--perms=a+rwX") as shown:
        done = provision("--platform=amd64", image, shown / "x", cache=cache_dir, **as_user(), status=8)
        assert "may be written to by everybody" in done.stderr
        assert os.listdir(shown) == []
        provision("--platform=amd64", "--trust-dir", image, shown / "x", cache=cache_dir, **as_user(), status=0)


def test_under_fakeroot(image: str, place: Path, cache_dir: Path) -> None:
    need("fakeroot")
    for option in ([], ["-u"]):
        command, options = provision_command(
            "--platform=amd64", image, place / f"x{len(option)}", cache=cache_dir, **as_user()
        )
        for _ in ("made", "up to date"):
            done = subprocess.run(["fakeroot", *option, *command], check=False, **options)
            assert done.returncode == 0, done.stderr


def test_a_wrong_setting_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('trust-dir = ["here"]\n')
    done = provision(
        "inspect", tmp_path, cache=tmp_path, env={**clean_environment(), "PROVISION_CONFIG": str(config)}, status=2
    )
    assert "'here' is not an absolute path (line 1)" in done.stderr
