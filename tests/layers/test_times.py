"""Times that a time_t of 32 bits can't hold: Termux's 32-bit Python has one.

PROVISION_TEST_PYTHON32 may name such a Python, in which the same is tried for real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from provisioner.archives import fields
from provisioner.filesystem.times import time_limits
from provisioner.layers import apply
from provisioner.layers.apply import LayerApplier
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support.archives import pax, raw, special
from tests.support.archives import tar as make_tar
from tests.support.tools import CHECKOUT
from tests.support.trees import set_times

SECOND = 10**9
NARROW = (-(2**31) * SECOND, (2**31 - 1) * SECOND)
TIMES = {"late": 2**32 + 5, "early": -(2**33), "last": 2**31 - 1, "first": -(2**31), "usual": 1_700_000_000}
EXPECTED = {"late": 2**31 - 1, "early": -(2**31), "last": 2**31 - 1, "first": -(2**31), "usual": 1_700_000_000}


def archive() -> bytes:
    """An archive with a directory, a file, a symlink and a FIFO of each time."""
    members = []
    for name, seconds in TIMES.items():
        fields: dict[str, Any] = {"mtime": seconds, "mode": 0o755}
        members.append(special(f"d-{name}", tarfile.DIRTYPE, **fields))
        members.append(special(f"f-{name}", tarfile.REGTYPE, **fields))
        members.append(special(f"s-{name}", tarfile.SYMTYPE, "x", **fields))
        members.append(special(f"p-{name}", tarfile.FIFOTYPE, **fields))
    return pax(mtime=b"99999999999.5") + raw(b"in-pax") + make_tar(*members)


def applied(root: Path, data: bytes) -> tuple[int, dict[str, int]]:
    """Apply a layer, and return how many times were clamped, and the seconds of each file."""
    with Tree(root) as tree:
        applier = LayerApplier(tree, Ownership(exact=False))
        applier.apply([data])
        applier.finish()
        set_times(tree)
    return applier.clamped_times, {path.name: int(path.lstat().st_mtime) for path in root.iterdir()}


def check(clamped: int, seconds: dict[str, int]) -> None:
    expected = {f"{kind}-{name}": time for kind in "dfsp" for name, time in EXPECTED.items()}
    assert seconds == {**expected, "in-pax": 2**31 - 1}
    assert clamped == 4 * 4 + 1, "those that are exactly at the limit count as well"


def test_they_become_the_nearest_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "TIME_LIMITS", NARROW)
    monkeypatch.setattr(apply, "TIME_LIMITS", NARROW)
    fields.parse_mtime.cache_clear()
    try:
        check(*applied(root, archive()))
    finally:
        fields.parse_mtime.cache_clear()


def test_this_machine_holds_what_the_kernel_does(root: Path) -> None:
    if time_limits() == NARROW:
        pytest.skip("this Python has a time_t of 32 bits")
    clamped, seconds = applied(root, archive())
    assert clamped == 1, "that after 2262"
    assert seconds["f-usual"] == TIMES["usual"]
    assert seconds["f-late"] == TIMES["late"]


def test_so_it_is_in_a_python_of_32_bits(tmp_path: Path) -> None:
    python = os.environ.get("PROVISION_TEST_PYTHON32")
    if not python:
        pytest.skip("PROVISION_TEST_PYTHON32 doesn't name a Python with a time_t of 32 bits")
    (tmp_path / "layer.tar").write_bytes(archive())
    (tmp_path / "root").mkdir()
    packages = Path(pytest.__file__).parent.parent
    script = (
        "import json, sys; from pathlib import Path; from provisioner.filesystem.times import time_limits\n"
        "from provisioner.layers.apply import LayerApplier; from provisioner.ownership.policy import Ownership\n"
        "from provisioner.rootfs.tree import Tree; from tests.support.trees import set_times\n"
        "root = Path(sys.argv[1])\n"
        "with Tree(root) as tree:\n"
        "    applier = LayerApplier(tree, Ownership(exact=False))\n"
        "    applier.apply([Path(sys.argv[2]).read_bytes()]); applier.finish(); set_times(tree)\n"
        "files = {path.name: int(path.lstat().st_mtime) for path in root.iterdir()}\n"
        "print(json.dumps([time_limits(), applier.clamped_times, files]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", script, tmp_path / "root", tmp_path / "layer.tar"],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    limits, clamped, seconds = json.loads(done.stdout)
    assert tuple(limits) == NARROW
    check(clamped, seconds)


def test_the_limits_are_those_of_this_python(tmp_path: Path) -> None:
    for time in time_limits():
        os.utime(tmp_path, ns=(time, time))
    assert time_limits() == NARROW or sys.maxsize > 2**32 or time_limits()[1] > 2**62
