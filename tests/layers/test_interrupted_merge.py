"""A run that ends while the tree of a layer is merged, or while its lines are written, leaves nothing that counts."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.archives import Member, special
from tests.support.leftovers import staging_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import need, provision_command
from tests.support.trees import tree_of

DRIVER = """
import os, sys
from provisioner.layers import merge, unpack
from provisioner.ownership import record
from provisioner import cli, provision

unpack.WORKER_LAYER_SIZE, unpack.PROCESSORS = 0, 2
where, number = sys.argv[1], int(sys.argv[2])


def interrupted(function):
    def call(*arguments, **options):
        result = function(*arguments, **options)
        os.kill(os.getpid(), number)
        return result

    return call


if where == "move":
    merge._Merge._move = interrupted(merge._Merge._move)
elif where == "hide":
    merge.LayerMerger._hide = interrupted(merge.LayerMerger._hide)
elif where == "part":  # in a worker, which leaves signals to the main process
    unpack.write_part = interrupted(unpack.write_part)
elif where == "record":
    record._write_file = interrupted(record._write_file)
sys.exit(cli.main(sys.argv[3:]))
"""
LOWER: list[Member] = [("a/x", b"1"), ("a/y", b"2"), ("b/gone/z", b"3"), special("b", b"5", mode=0o700)]
UPPER: list[Member] = [("a/new", b"4"), ("b/.wh.gone", b""), ("b/new/x", b"5"), ("c", b"6")]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as served:
        served.push("x", builders.image(builders.layer(*LOWER), builders.layer(*UPPER)))
        yield served


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("where", ["move", "hide", "part", "record"])
def test_nothing_is_left(registry: ScriptedRegistry, tmp_path: Path, where: str, number: signal.Signals) -> None:
    if where == "part" and number != signal.SIGKILL:
        pytest.skip("workers leave signals to the main process")
    need("env")
    image = ("--platform=linux/amd64", "--no-sync", f"{registry.host}/x")
    command, options = provision_command(*image, tmp_path / "parent/new/dir", cache=tmp_path / "cache")
    python, _, _, *arguments = command
    driver = ["env", "--default-signal=INT", python, "-c", DRIVER, where, str(int(number)), *arguments]
    done = subprocess.run(driver, check=False, timeout=120, **options)
    if where == "part":
        assert done.returncode == 0, done.stderr
        assert "a process that unpacks layers was killed: unpacking again, in a single process" in done.stderr
    elif number == signal.SIGKILL:
        assert done.returncode == -number
        assert not (tmp_path / "parent/new/dir").exists()
        again = subprocess.run(command, check=False, timeout=120, **options)
        assert again.returncode == 0, again.stderr
    else:
        assert done.returncode == (130 if number == signal.SIGINT else 128 + number), done.stderr
        assert not (tmp_path / "parent").exists()
    assert staging_below(tmp_path) == []
    if (tmp_path / "parent").exists():
        command, options = provision_command(*image, tmp_path / "other", cache=tmp_path / "cache")
        assert subprocess.run(command, check=False, timeout=120, **options).returncode == 0
        found, expected = (tree_of(path / "rootfs") for path in (tmp_path / "parent/new/dir", tmp_path / "other"))
        assert found.keys() == expected.keys()
        assert "b/gone" not in found
