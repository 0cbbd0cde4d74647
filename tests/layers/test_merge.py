"""Layers that were unpacked apart and merged give what applying them in order gives."""

from __future__ import annotations

import errno
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import RECORD, STATE, write_owners
from provisioner.rootfs.links import Links, Substitute
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.archives import hard, special, tar
from tests.support.tools import fast_directory, need_root
from tests.support.trees import Entry, tree_of

NOW = (int(time.time()) - 60) * 10**9
LAYER_COUNT = 3


@dataclass(frozen=True)
class Result:
    """What layers give."""

    error: str
    tree: dict[str, Entry]
    record: str
    state: list[str]
    spent: int


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        yield Path(name)


def in_order(layers: list[bytes], exact: bool, substitute: Substitute = "auto") -> Result:
    """Apply archives to one tree, one after the other."""

    def apply(tree: Tree, ownership: Ownership, budget: Budget, scratch: Path) -> None:
        applier = LayerApplier(tree, ownership, budget=budget, links=Links(substitute))
        for archive in layers:
            applier.apply([archive])
        applier.finish()

    return _result(apply, exact)


def apart(layers: list[bytes], exact: bool, substitute: Substitute = "auto") -> tuple[Result, list[bool]]:
    """Unpack archives apart and merge them. Returns also which of them were merged."""
    merged: list[bool] = []

    def apply(tree: Tree, ownership: Ownership, budget: Budget, scratch: Path) -> None:
        archives = [partial(iter, [archive]) for archive in layers]
        merged.extend(apply_apart(tree, archives, ownership, budget, scratch, substitute))

    return _result(apply, exact), merged


def _result(apply: Any, exact: bool) -> Result:
    with place() as directory:
        (directory / "rootfs").mkdir()
        (directory / "owners").mkdir()
        ownership, budget, error = Ownership(exact), Budget(parts=2), ""
        with Tree(directory / "rootfs") as tree:
            try:
                apply(tree, ownership, budget, directory / "apart")
                tree.set_times()
            except MalformedImage as raised:
                return Result(raised.message, {}, "", [], 0)
        write_owners(directory / "owners", directory / "rootfs", tree.overrides, ownership)
        record = (directory / "owners" / RECORD).read_text()
        state = (directory / "owners" / STATE).read_text()
        names = {str(path.lstat().st_ino): path.name for path in sorted((directory / "rootfs").rglob("*"))}
        names[str((directory / "rootfs").stat().st_ino)] = "."
        return Result(
            error,
            {
                path: replace(entry, mtime=min(entry.mtime, NOW))
                for path, entry in tree_of(directory / "rootfs").items()
            },
            re.sub(r"time=(\d+)\.\d+", lambda found: f"time={min(int(found[1]) * 10**9, NOW)}", record),
            [re.sub(r"dev=.*?,ino=(\d+)", lambda found: names[found[1]], line) for line in state.splitlines()],
            sum(budget._spent),
        )


NAMES = ["a", "b", "c"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
TARGETS = ["a", "b", "../a", "/a/b", "../../b", "/c", "nowhere", "c/c", "."]


def _with_fields(member: tarfile.TarInfo, mode: int, owner: int, mtime: int, note: str) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.mtime = mode, owner, owner, mtime
    if note:
        member.pax_headers = {"SCHILY.xattr.user.note": note}
    return member


def _opaque(path: str) -> tarfile.TarInfo:
    return special(f"{path}/.wh..wh..opq".lstrip("/"), tarfile.REGTYPE)


def _whiteout(path: str) -> tarfile.TarInfo:
    directory, _, name = path.rpartition("/")
    return special(f"{directory}/.wh.{name}".lstrip("/"), tarfile.REGTYPE)


MEMBERS = st.one_of(
    st.builds(special, PATHS, st.sampled_from([tarfile.DIRTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])),
    st.builds(special, PATHS, st.just(tarfile.REGTYPE)),
    st.builds(special, PATHS, st.just(tarfile.REGTYPE)),
    st.builds(special, PATHS, st.just(tarfile.SYMTYPE), st.sampled_from(TARGETS)),
    st.builds(hard, PATHS, PATHS),
)
FIELDS = (
    st.sampled_from([0o755, 0o755, 0, 0o555, 0o4755, 0o2775]),
    st.sampled_from([0, 0, 7]),
    st.integers(1, 1000),
    st.sampled_from(["", "", "", "x", "y"]),
)
ENTRIES = st.one_of(
    st.builds(_with_fields, MEMBERS, *FIELDS),
    st.builds(_with_fields, MEMBERS, *FIELDS),
    st.builds(_with_fields, MEMBERS, *FIELDS),
    PATHS.map(_whiteout),
    (PATHS | st.just("")).map(_opaque),
)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """An archive of a layer: whatever entries in whatever order, or with the directories above each before it."""
    members = draw(st.lists(ENTRIES, max_size=7))
    if draw(st.booleans()):
        named: dict[str, tarfile.TarInfo] = {}
        for member in members:
            for parent in reversed(Path(member.name).parents[:-1]):
                named.setdefault(str(parent), special(str(parent), tarfile.DIRTYPE, mode=0o755))
            named[member.name] = member
        members = list(named.values())
    return tar(*members)


@contextmanager
def hard_links(are_refused: bool) -> Iterator[None]:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        if are_refused:
            patch.setattr(os, "link", refused)
        yield


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("substitute", ["hard link", "auto", "symlink"])
@settings(
    max_examples=int(os.environ.get("MERGE_EXAMPLES", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(layers=st.lists(archives(), min_size=2, max_size=4))
@pytest.mark.slow
def test_merged_layers_are_what_they_are_in_order(exact: bool, substitute: str, layers: list[bytes]) -> None:
    if exact:
        need_root()
    how: Substitute = "symlink" if substitute == "symlink" else "auto"
    with hard_links(are_refused=substitute != "hard link"):
        expected = in_order(layers, exact, how)
        found, merged = apart(layers, exact, how)
    event("error" if expected.error else "merged" if all(merged[1:]) else "in order")
    assert found == replace(expected, spent=found.spent)
