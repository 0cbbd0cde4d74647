"""Unpacks the hostile archives of attacks.py, in a process of its own, so that tests can run it as any user.

`python -m tests.support.attack_runner DIRECTORY` unpacks each archive into DIRECTORY/rootfs and prints the outcomes as
JSON. DIRECTORY/outside must not change meanwhile. With the argument `apart`, each layer is unpacked to a tree of its
own, and these are merged; with `shared`, two processes unpack the lowest of them; with `many`, 200,000 entries are
unpacked instead.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from provisioner.archives.compression import decompress
from provisioner.errors import MachineError, MalformedImage
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.removal import remove_tree
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.archives import raw, tar
from tests.support.attacks import DEPTH, ZSTD, Attack, attacks
from tests.support.trees import set_times

CANARY = b"sings"
"""The content of the file outside that must not change."""
GZIP = b"\x1f\x8b"
"""The magic number of gzip (RFC 1952)."""
SECONDS = 60
"""The time limit of one attack."""
MAX_SIZE = 30_000_000
"""The size limit of what one attack unpacks, in bytes."""


def main(directory: Path, way: str) -> None:
    """Unpack all attacks below `directory` and print the outcomes. The way is `apart`, `shared` or empty."""
    signal.signal(signal.SIGALRM, _too_long)
    outside = directory / "outside"
    outside.mkdir()
    canary = outside / "canary"
    canary.write_bytes(CANARY)
    canary.chmod(0o640)
    for path in (canary, outside):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    before = look(directory)
    outcomes = {}
    for attack in attacks(str(outside)):
        started = time.monotonic()
        signal.alarm(SECONDS)
        outcome = _outcome(attack, directory / "rootfs", way)
        signal.alarm(0)
        outcomes[attack.name] = {**outcome, "safe": look(directory) == before, "took": time.monotonic() - started}
    json.dump(outcomes, sys.stdout)


def many(directory: Path) -> None:
    """Unpack 200,000 entries; print the number of names in the tree and the peaks of memory in kB, half-way and then.

    They have only about a thousand names, so that the tree stays small.
    """
    kinds = [tarfile.REGTYPE] * 8 + [tarfile.LNKTYPE, tarfile.DIRTYPE]
    block = b"".join(
        raw(b"%d/%s%d" % (number % 100, b"d" if kind == tarfile.DIRTYPE else b"f", number), kind, target=b"0/f0")
        for number, kind in enumerate(kinds * 100)
    )
    peaks = []

    def blocks() -> Iterator[bytes]:
        for _ in range(2):
            yield from (block for _ in range(100))
            peaks.append(_peak())

    root = directory / "rootfs"
    root.mkdir()
    with Tree(root) as tree:
        applier = LayerApplier(tree, Ownership.in_directory(root))
        applier.apply(blocks())
        applier.finish()
        set_times(tree)
    names = sum(len(files) + len(directories) for _, directories, files in os.walk(root))
    print(json.dumps([names, *peaks]))


def _peak() -> int:
    # ru_maxrss of getrusage(2) would include the memory of the parent before exec; VmHWM does not.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"takes longer than {SECONDS} seconds")


def _outcome(attack: Attack, root: Path, way: str) -> dict[str, Any]:
    root.mkdir()
    error = ""
    try:
        with Tree(root) as tree:
            ownership, budget = Ownership.in_directory(root), Budget(MAX_SIZE, parts=2 + len(attack.layers))
            applier = LayerApplier(tree, ownership, budget=budget)
            for layer in attack.layers if not way else ():
                applier.apply(_archive(layer))
            applier.finish()
            if way:
                # The first layer has none below it; behind an empty one, each is unpacked apart.
                layers = [tar(), *attack.layers] if way == "apart" else attack.layers
                archives = [partial(_archive, layer) for layer in layers]
                ahead = root.with_name("ahead")
                apply_apart(tree, archives, ownership, budget, ahead, is_shared=way == "shared")
            set_times(tree)
    except MalformedImage as refusal:
        error = f"refused: {refusal.message}"
    except MachineError as stop:
        error = f"stopped: {stop.message}"
    except Exception as other:  # noqa: BLE001 - all of them are failures to report
        error = f"{type(other).__name__}: {other}"
    found = dict(_listed(root, PurePosixPath()))
    parent = os.open(root.parent, DIRECTORY)
    remove_tree(parent, os.fsencode(root.name))
    os.close(parent)
    return {"error": error, "tree": found}


def _archive(layer: bytes) -> Iterator[bytes]:
    kind = "+gzip" if layer.startswith(GZIP) else "+zstd" if layer.startswith(ZSTD) else ""
    return decompress(iter([layer]), f"layer.tar{kind}")


def look(directory: Path) -> list[tuple[object, ...]]:
    """Return names, contents, modes, owners and times of all files in `directory`, and its own mode and owner."""
    state = directory.stat()
    found: list[tuple[object, ...]] = [(state.st_mode, state.st_uid, state.st_gid)]
    for path in sorted(directory.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(state.st_mode) else b""
        found.append((str(path), content, state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, state.st_nlink))
    return found


def _listed(directory: Path, name: PurePosixPath) -> Iterator[tuple[str, str]]:
    """Yield the paths below `directory` and their types as in `Attack.tree`, DEPTH levels deep."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        path = name / entry.name
        state = entry.stat(follow_symlinks=False)
        kind = {stat.S_IFDIR: "dir", stat.S_IFIFO: "fifo"}.get(stat.S_IFMT(state.st_mode), "")
        if stat.S_ISREG(state.st_mode):
            kind = f"file:{Path(entry.path).read_bytes().decode()}"
        elif stat.S_ISLNK(state.st_mode):
            kind = f"link:{os.readlink(entry.path)}"
        elif stat.S_ISCHR(state.st_mode):
            kind = f"char:{os.major(state.st_rdev)},{os.minor(state.st_rdev)}"
        yield str(path), kind
        if kind == "dir" and len(path.parts) < DEPTH:
            yield from _listed(Path(entry.path), path)


def whole(tree: dict[str, str]) -> dict[str, str]:
    """Return a tree of the table with the parent directories that it leaves out, and relative paths."""
    found: dict[str, str] = {}
    for path, kind in tree.items():
        pure = PurePosixPath(path.strip("/"))
        found |= {str(parent): "dir" for parent in pure.parents if parent.parts}
        found[str(pure)] = kind
    return found


if __name__ == "__main__":
    if sys.argv[2:] == ["many"]:
        many(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), "".join(sys.argv[2:]))
