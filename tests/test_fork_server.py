"""A fork of the server that runs `provision` in tests is like a process of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import tar
from tests.support.fork_server import run_by_server
from tests.support.tools import as_user, clean_environment, own, provision_command


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["help", "install"],
        ["--color=always", "--nonsense"],
        ["inspect", "./none/\udcff"],
        ["list", "--json"],
        ["cache", "--help"],
    ],
    ids=str,
)
def test_it_says_and_returns_the_same(words: list[str], tmp_path: Path) -> None:
    command, options = provision_command(*words, cache=tmp_path / "cache", env=clean_environment(COLUMNS="50"))
    run_new(command, options)  # what is told only once, as of directories that are gone
    done, forked = run_new(command, options), run_by_server(command, options)
    assert forked is not None
    assert (forked.returncode, forked.stdout, forked.stderr) == (done.returncode, done.stdout, done.stderr)


def run_new(command: list[str], options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, **options)


@pytest.mark.parametrize("role", ["user", "root"])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_it_has_the_user_the_mask_and_the_environment(place: Path, role: str, umask: int) -> None:
    options: dict[str, Any] = as_user() if role == "user" else {"env": clean_environment()}
    (place / "config.toml").write_text('default = "nonsense')
    environment = {**options["env"], "PROVISION_CONFIG": str(place / "config.toml")}
    (place / "x.tar").write_bytes(tar(("bin/sh", b"\x7fELF"), ("etc/x", b""), ("usr/x", b"")))
    own(place / "x.tar")
    before, found = os.umask(umask), []
    try:
        for run in (run_new, run_by_server):
            words = (f"rootfs:{place}/x.tar", place / run.__name__, "--platform=linux/amd64", "--cmd=/bin/sh")
            command, rest = provision_command(*words, cache=place / f"{run.__name__} cache", **options)
            done = run(command, rest)
            assert done is not None
            assert done.returncode == 0, done.stderr
            states = [path.stat() for path in (place / run.__name__, place / f"{run.__name__}/.provision/record.json")]
            found.append([(state.st_mode, state.st_uid, state.st_gid) for state in states])
            refused = run(command, {**rest, "env": environment | rest["env"]})
            assert refused is not None
            assert (refused.returncode, "config.toml" in refused.stderr) == (2, True), refused.stderr
    finally:
        os.umask(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("options", [{"stdout": subprocess.DEVNULL}, {"input": "x"}, {"timeout": 5}, {"text": False}])
def test_what_it_cannot_do_is_left_to_subprocess(options: dict[str, Any], tmp_path: Path) -> None:
    command, usual = provision_command("--version", cache=tmp_path)
    assert run_by_server(command, {**usual, **options}) is None
