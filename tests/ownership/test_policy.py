from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.filesystem.kind import Kind
from provisioner.ownership.policy import Ownership
from tests.support.disks import bindfs
from tests.support.tools import (
    CHECKOUT,
    as_user,
    clean_environment,
    need,
    need_root,
    open_directory,
    run,
    unavailable,
    user_python,
)

SCRIPT = """
import os, sys
from provisioner.ownership.policy import Ownership
print(Ownership.in_directory(int(sys.argv[1])).exact, os.listdir(int(sys.argv[1])))
"""


def policy(directory: Path, *prefix: str) -> str:
    """Return whether root is exact in `directory`, and what is left there, when run by the command `prefix`."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        command = [*prefix, sys.executable, "-c", SCRIPT, str(opened)]
        env = clean_environment(PYTHONPATH=str(CHECKOUT))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, pass_fds=[opened])
    finally:
        os.close(opened)
    if done.returncode and "unshare" in done.stderr:
        unavailable(f"no user namespaces here: {done.stderr}")
    assert not done.stderr
    return done.stdout.strip()


def test_root_owns_as_the_image_says(tmp_path: Path) -> None:
    need_root()
    assert policy(tmp_path) == "True []"


@pytest.mark.parametrize("capability", ["chown", "fowner", "dac_override", "fsetid"])
def test_root_without_a_capability_does_not(tmp_path: Path, capability: str) -> None:
    """Pods that drop all capabilities still run as uid 0."""
    need_root()
    need("setpriv")
    assert policy(tmp_path, "setpriv", f"--bounding-set=-{capability}") == "False []"


def test_root_without_other_capabilities_does(tmp_path: Path) -> None:
    need_root()
    need("setpriv")
    bounding = "--bounding-set=-all,+chown,+fowner,+dac_override,+fsetid"
    assert policy(tmp_path, "setpriv", bounding) == "True []"


def test_a_setgid_directory_and_a_closed_one(tmp_path: Path) -> None:
    need_root()
    tmp_path.chmod(0o2000)
    assert policy(tmp_path) == "True []"


def test_a_user_does_not() -> None:
    place, (python, found_by) = open_directory("policy"), user_python()
    command = 'exec "$0" -c "$1" 3 3< "$2"'
    assert run("sh", "-c", command, python, SCRIPT, place, **as_user(**found_by)) == "False []\n"
    place.rmdir()


def test_a_user_under_fakeroot_does() -> None:
    need("fakeroot")
    place, (python, found_by) = open_directory("policy"), user_python()
    command = 'exec fakeroot -- "$0" -c "$1" 3 3< "$2"'
    assert run("sh", "-c", command, python, SCRIPT, place, **as_user(**found_by)) == "True []\n"
    place.rmdir()


def test_root_who_is_alone_in_a_namespace_does_not(tmp_path: Path) -> None:
    need("unshare")
    assert policy(tmp_path, "unshare", "-r") == "False []"


@pytest.mark.parametrize("table", ["0 0 1\n1 100000 1\n", "0 0 1\n1000 100000 5\n"], ids=["two", "six"])
def test_root_of_a_namespace_with_few_users_does(tmp_path: Path, table: str) -> None:
    need_root()
    opened = os.open(tmp_path, os.O_RDONLY)
    # The program is executed when its user is mapped: only so it has root's capabilities.
    command = ["sh", "-c", 'read _; exec "$@"', "sh", sys.executable, "-c", SCRIPT, str(opened)]
    env = clean_environment(PYTHONPATH=str(CHECKOUT))
    process = subprocess.Popen(
        ["unshare", "--user", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        text=True,
        pass_fds=[opened],
    )
    own = os.readlink("/proc/self/ns/user")
    while os.readlink(f"/proc/{process.pid}/ns/user") == own:
        time.sleep(0.01)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}", name).write_text(table)
    assert process.communicate("\n")[0] == "True []\n"
    os.close(opened)


@pytest.mark.parametrize("ignored", [(), ("--chown-ignore", "--chgrp-ignore")], ids=["refuses", "ignores"])
def test_a_file_system_that_gives_nothing_away(tmp_path: Path, ignored: tuple[str, ...]) -> None:
    with bindfs(tmp_path, *(ignored or ("--chown-deny", "--chgrp-deny"))) as shown:
        assert policy(shown) == "False []"


@given(st.sampled_from(Kind), st.integers(0, 0o7777))
def test_modes(kind: Kind, mode: int) -> None:
    assert Ownership(exact=True).mode(kind, mode) == mode
    kept = Ownership(exact=False).mode(kind, mode)
    assert kept & mode == mode
    assert kept & ~mode & ~(0o700 if kind is Kind.DIRECTORY else 0o600) == 0
    assert kept & (0o700 if kind is Kind.DIRECTORY else 0o600) == (0o700 if kind is Kind.DIRECTORY else 0o600)
