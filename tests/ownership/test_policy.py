from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.filesystem.kind import Kind
from provisioner.ownership.policy import Ownership
from tests.support.tools import CHECKOUT, as_user, need, need_root, run, user_python

SCRIPT = "from provisioner.ownership.policy import Ownership; print(Ownership.of_this_process().exact)"


def test_root_owns_as_the_image_says() -> None:
    need_root()
    assert Ownership.of_this_process().exact


def test_a_user_does_not() -> None:
    python, found_by = user_python()
    assert run(python, "-c", SCRIPT, **as_user(**found_by)) == "False\n"


def test_a_user_under_fakeroot_does() -> None:
    need("fakeroot")
    python, found_by = user_python()
    assert run("fakeroot", "--", python, "-c", SCRIPT, **as_user(**found_by)) == "True\n"


def test_root_who_is_alone_in_a_namespace_does_not() -> None:
    need("unshare")
    command = ["unshare", "-r", sys.executable, "-c", SCRIPT]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    assert done.stdout == "False\n", done.stderr


@given(st.sampled_from(Kind), st.integers(0, 0o7777))
def test_modes(kind: Kind, mode: int) -> None:
    assert Ownership(exact=True).mode(kind, mode) == mode
    kept = Ownership(exact=False).mode(kind, mode)
    assert kept & mode == mode
    assert kept & ~mode & ~(0o700 if kind is Kind.DIRECTORY else 0o600) == 0
    assert kept & (0o700 if kind is Kind.DIRECTORY else 0o600) == (0o700 if kind is Kind.DIRECTORY else 0o600)
