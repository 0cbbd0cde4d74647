"""A run that is killed between the two renames of --force: whatever comes next puts the old directory back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner import cli
from provisioner.container import staging
from provisioner.container.recovery import was_interrupted
from provisioner.filesystem.locks import try_lock
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need_root, provision

pytestmark = pytest.mark.slow
OLD_FILE = "rootfs/etc/of-the-old-one"


@pytest.fixture
def image() -> Iterator[str]:
    with ScriptedRegistry() as registry:
        registry.push("x", builders.small())
        yield f"{registry.host}/x"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"env": clean_environment(XDG_STATE_HOME=str(tmp_path / "state")), "cwd": tmp_path}


@pytest.fixture
def container(image: str, tmp_path: Path, options: dict[str, Any]) -> Iterator[Path]:
    provision("--platform=amd64", image, tmp_path / "c", cache=tmp_path / "cache", **options, status=0)
    (tmp_path / "c" / OLD_FILE).write_text("")
    yield tmp_path / "c"
    shutil.rmtree(tmp_path / ".c.provision", ignore_errors=True)


def interrupt(container: Path) -> None:
    """Leave what a kill between the two renames leaves."""
    folder = container.with_name(".c.provision")
    folder.mkdir(0o700, exist_ok=True)
    (folder / "new/rootfs").mkdir(parents=True, exist_ok=True)
    container.rename(folder / "old")


def force_until_the_second_rename(image: str, container: Path, cache: Path) -> int:
    """Run `provision --force` in a forked process that is killed there; return its exit status."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        moved = False

        def step(event: str, words: tuple[Any, ...]) -> None:
            nonlocal moved
            if event == "os.rename" and moved and words[0] == "new":
                os.kill(os.getpid(), signal.SIGKILL)
            moved = moved or (event == "os.rename" and words[1] == "old")

        sys.addaudithook(step)
        vars(staging)["exchange"] = lambda *words: False  # as on a file system that can't
        os.environ["PROVISION_CACHE"] = str(cache)
        cli.main(["--platform=amd64", "--quiet", "--force", image, str(container)])
    finally:
        os._exit(99)


WORDS: dict[str, Callable[[str, Path], list[str]]] = {
    "install": lambda image, path: ["--platform=amd64", image, str(path)],
    "list": lambda image, path: ["list"],
    "list --json": lambda image, path: ["list", "--json"],
    "inspect": lambda image, path: ["inspect", str(path)],
    "inspect by name": lambda image, path: ["inspect", path.name],
    "doctor": lambda image, path: ["doctor", "--offline", str(path)],
    "diff": lambda image, path: ["diff", str(path)],
    "owners": lambda image, path: ["owners", str(path)],
    "logs": lambda image, path: ["logs", str(path)],
    "start": lambda image, path: ["start", str(path), "--", "/none"],
    "start by name": lambda image, path: ["start", path.name, "--", "/none"],
    "stop": lambda image, path: ["stop", str(path)],
}


@pytest.mark.parametrize(("command", "elsewhere"), [*((name, False) for name in WORDS), ("start by name", True)])
def test_each_command_puts_it_back(
    image: str, container: Path, tmp_path: Path, options: dict[str, Any], command: str, elsewhere: bool
) -> None:
    interrupt(container)
    assert was_interrupted(container)
    if elsewhere:
        (tmp_path / "elsewhere").mkdir()
        options["cwd"] = tmp_path / "elsewhere"
    done = provision(*WORDS[command](image, container), cache=tmp_path / "cache", **options)
    assert (container / OLD_FILE).exists(), done.stderr
    assert "no directory" not in done.stderr
    if command == "list --json":
        assert [row["is_gone"] for row in json.loads(done.stdout)["directories"]] == [False]
    # The next run that changes it leaves nothing beside it.
    provision("--platform=amd64", "--force", image, container, cache=tmp_path / "cache", **options, status=0)
    assert not (container / OLD_FILE).exists()
    assert not container.with_name(".c.provision").exists()


def test_a_real_kill(image: str, container: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    assert force_until_the_second_rename(image, container, tmp_path / "cache") == -signal.SIGKILL
    assert not container.exists()
    provision("inspect", container, cache=tmp_path / "cache", **options, status=0)
    assert (container / OLD_FILE).exists()


def test_a_run_that_is_at_work_is_left_alone(
    image: str, container: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    interrupt(container)
    folder = os.open(container.with_name(".c.provision"), os.O_RDONLY)
    assert try_lock(folder)
    done = provision("inspect", container, cache=tmp_path / "cache", **options)
    os.close(folder)
    assert done.returncode != 0
    assert not container.exists()


def test_what_somebody_else_has_put_there_is_not_taken(
    image: str, container: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    need_root()
    interrupt(container)
    folder = container.with_name(".c.provision")
    for mode, owner in ((0o777, 0), (0o700, 1234)):
        folder.chmod(mode)
        os.chown(folder, owner, owner)
        assert provision("inspect", container, cache=tmp_path / "cache", **options).returncode != 0
        assert not container.exists()
    user = as_user(XDG_STATE_HOME=str(tmp_path / "state"))
    assert provision("inspect", container, cache=tmp_path / "cache", **user).returncode != 0


def test_a_removal_that_was_killed_is_no_replacement(
    image: str, container: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    interrupt(container)
    (container.with_name(".c.provision") / "new/rootfs").rmdir()
    (container.with_name(".c.provision") / "new").rmdir()
    done = provision("inspect", container, cache=tmp_path / "cache", **options)
    assert done.returncode != 0
    assert not container.exists()
