"""Who this process is and who started it: by files of /proc and the environment, then in real namespaces."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.filesystem import users
from provisioner.filesystem.users import (
    has_android_ids,
    is_job_in_container,
    is_whole_machine,
    kernel_user,
    overflow_of,
    private_groups,
    unmapped_user,
    users_before_root,
)
from tests.support.tools import CHECKOUT, clean_environment, need, need_root, run, unavailable, user_id, user_python

WHOLE = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("uid_map", "overflow", "found"),
    [
        (WHOLE, "65534\n", set()),
        ("0 1000 1\n", "65534\n", {65534}),
        ("1000 1000 1\n", "65534\n", {65534}),
        ("0 1000 1\n1 100000 65536\n", "65534\n", set()),
        ("0 1000 1\n1 100000 1000\n", "65534\n", {65534}),
        ("0 1000 1\n", "99\n", {99}),
        ("0 1000 1\n", "", {65534}),
        ("", "65534", set()),
        ("nonsense\n", "65534", set()),
    ],
)
def test_the_id_of_users_whom_a_namespace_cannot_name(uid_map: str, overflow: str, found: set[int]) -> None:
    assert overflow_of(uid_map, overflow) == found


def test_a_map_of_all_users() -> None:
    assert is_whole_machine(WHOLE)
    assert not is_whole_machine("0 1000 1\n")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, set()),
        ({"SUDO_UID": "1000"}, {1000}),
        ({"PKEXEC_UID": "1001"}, {1001}),
        ({"SUDO_UID": "1000", "PKEXEC_UID": "1001"}, {1000, 1001}),
        ({"DOAS_USER": "daemon"}, {pwd.getpwnam("daemon").pw_uid}),
        ({"DOAS_USER": "nobody of this name"}, set()),
        ({"SUDO_UID": "-1"}, set()),
        ({"SUDO_UID": "1000 1001"}, set()),
        ({"SUDO_UID": "\u0663"}, set()),
        ({"SUDO_UID": ""}, set()),
        ({"PREFIX": "/usr/local"}, set()),
        ({"PREFIX": "/data/data/com.termux/files/usr"}, set()),
    ],
)
def test_who_became_root(environment: dict[str, str], found: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_PROC", Path("/nowhere"))
    assert users_before_root(environment) == found


@pytest.mark.parametrize(("login", "found"), [("1000", {1000}), ("4294967295", set()), ("0", {0}), ("", set())])
def test_who_has_logged_in(login: str, found: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loginuid").write_text(login)
    monkeypatch.setattr(users, "_PROC", tmp_path)
    assert users_before_root({}) == found


def test_a_real_login(tmp_path: Path) -> None:
    """pam_loginuid(8) writes it for each login."""
    need_root()
    script = "import os, sys; open('/proc/self/loginuid', 'w').write('1234')\n"
    script += "from provisioner.filesystem.users import users_before_root; print(users_before_root({}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr or "FileNotFoundError" in done.stderr:
        unavailable("the kernel keeps no logins here")
    assert done.stdout == "{1234}\n"


def test_tsu_leaves_the_prefix_of_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_PROC", Path("/nowhere"))
    prefix = "/data/data/com.termux/files/usr"
    stat = os.stat
    state = os.stat_result((0o40700, 1, 1, 1, 10123, 10123, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path, **options: state if path == prefix else stat(path, **options))
    assert users_before_root({"PREFIX": prefix}) == {10123}


def test_the_kernel_knows_who_this_is() -> None:
    assert kernel_user() == {os.geteuid()}


def test_fakeroot_only_pretends() -> None:
    need_root()
    need("fakeroot", "setpriv")
    python, found_by = user_python()
    code = "import os; from provisioner.filesystem.users import kernel_user; print(os.geteuid(), kernel_user())"
    as_user = ["setpriv", f"--reuid={user_id()}", f"--regid={user_id()}", "--clear-groups"]
    printed = run(*as_user, "fakeroot", python, "-c", code, env=clean_environment(**found_by), cwd="/")
    assert printed == f"0 {{{user_id()}}}\n"


def test_groups_that_are_called_like_their_only_member() -> None:
    need_root()
    assert 0 in private_groups({0})
    assert private_groups({64999}) == {64999}  # neither user nor group has a name
    games = pwd.getpwnam("games")
    assert (60 in private_groups({games.pw_uid})) == (games.pw_gid == 60)
    assert private_groups({pwd.getpwnam("sync").pw_uid}) == set()  # nogroup is everybody's


def test_user_namespaces(tmp_path: Path) -> None:
    need_root()
    need("unshare")
    assert unmapped_user() == set()
    code = "from provisioner.filesystem.users import unmapped_user; print(unmapped_user())"
    printed = run("unshare", "-U", "-r", sys.executable, "-c", code, cwd=CHECKOUT)
    assert printed == "{65534}\n"


def test_android_is_told_by_its_prefix() -> None:
    assert has_android_ids({"PREFIX": "/data/data/com.termux/files/usr"})
    assert not has_android_ids({"PREFIX": "/usr"})


@pytest.mark.parametrize("value", ["", "false", "0", None])
def test_no_job_of_ci(value: str | None) -> None:
    assert not is_job_in_container({} if value is None else {"CI": value})


def test_a_job_of_ci_counts_in_a_container_alone() -> None:
    need_root()
    need("unshare")
    code = "import os; from provisioner.filesystem.users import is_job_in_container as job; print(job({'CI': 'true'}))"
    is_container = os.stat("/proc/self/ns/pid").st_ino != 0xEFFFFFFC
    assert run(sys.executable, "-c", code, cwd=CHECKOUT) == f"{is_container}\n"
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    assert run(*namespace, sys.executable, "-c", code, cwd=CHECKOUT) == "True\n"
