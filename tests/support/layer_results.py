"""What layers give: applied in order, and unpacked apart and merged."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from provisioner.container_files import FAKEROOT_STATE, OWNERSHIP_RECORD
from provisioner.errors import MalformedImage
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_owners
from provisioner.rootfs.links import Links, Substitute, Substitutes
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.tools import fast_directory
from tests.support.trees import Entry, tree_of

NOW = (int(time.time()) - 60) * 10**9


@dataclass(frozen=True)
class Result:
    """What layers give."""

    error: str
    tree: dict[str, Entry]
    record: str
    state: list[str]
    spent: int
    substitutes: Substitutes = field(default_factory=Substitutes)


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        yield Path(name)


def in_order(layers: list[bytes], exact: bool, substitute: Substitute = "auto") -> Result:
    """Apply archives to one tree, one after the other."""
    links = Links(substitute)

    def apply(tree: Tree, ownership: Ownership, budget: Budget, scratch: Path) -> None:
        applier = LayerApplier(tree, ownership, budget=budget, links=links)
        for archive in layers:
            applier.apply([archive])
        applier.finish()

    return replace(_result(apply, exact), substitutes=links.substitutes)


def apart(
    layers: list[bytes], exact: bool, substitute: Substitute = "auto", *, is_shared: bool = False
) -> tuple[Result, list[bool]]:
    """Unpack archives apart and merge them, the lowest in two processes if `is_shared`.

    Returns also which of them were merged, or not unpacked again.
    """
    merged: list[bool] = []
    links = Links(substitute)

    def apply(tree: Tree, ownership: Ownership, budget: Budget, scratch: Path) -> None:
        archives = [partial(iter, [archive]) for archive in layers]
        merged.extend(apply_apart(tree, archives, ownership, budget, scratch, substitute, links, is_shared=is_shared))

    return replace(_result(apply, exact), substitutes=links.substitutes), merged


def _result(apply: Any, exact: bool) -> Result:
    with place() as directory:
        (directory / "rootfs").mkdir()
        (directory / "owners").mkdir()
        ownership, budget, error = Ownership(exact), Budget(parts=9), ""
        with Tree(directory / "rootfs") as tree:
            try:
                apply(tree, ownership, budget, directory / "apart")
            except MalformedImage as raised:
                return Result(raised.message, {}, "", [], 0)
            _change(tree)
            write_owners(directory / "owners", directory / "rootfs", tree.overrides, ownership, tree.record_parts)
        record = re.sub("# written=.*\n", "", (directory / "owners" / OWNERSHIP_RECORD).read_text())
        state = (directory / "owners" / FAKEROOT_STATE).read_text()
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


def _change(tree: Tree) -> None:
    """Change the tree as the fixups do."""
    for path in (b"b/c", b"a/b/c"):
        with suppress(MalformedImage, OSError):
            tree.write(path, b"fixed", 0o640)
    with suppress(MalformedImage, OSError):
        tree.make_directory(b"a/c/new")
