"""A search for layers that break the unpacking: `python -m tests.support.fuzz --seconds 3600 --seed 1`.

Valid archives and those of attacks.py are mutated, as bytes and as headers with corrected checksums, and go through
decompress, Archive and LayerApplier. An input that reaches new code is mutated further. Findings are written to
files, which `python -m tests.support.fuzz FILE…` tries again. As root, half of the inputs are unpacked with exact
ownership.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import resource
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from provisioner import filesystem, layers, ownership, rootfs
from provisioner.archives.compression import decompress
from provisioner.archives.tar import Archive, Entry
from provisioner.errors import MachineError, MalformedImage
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.removal import remove_tree
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.paths import split_path
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.builders import compressed
from tests.support.mutations import honest, hostile, mutated
from tests.support.trees import set_times

SECONDS = 10
"""The time limit of one input."""
MEMORY = 200 << 20
"""The limit of this process's data, in bytes."""
MAX_SIZE = 8 << 20
"""The size limit of what one input unpacks, in bytes."""
TRACED = 3
"""Coverage is measured for one input in three, since tracing is slow."""
PACKAGES = tuple(
    str(Path(package.__file__).parent) for package in (filesystem, layers, ownership, rootfs) if package.__file__
)
"""The directories of the packages whose coverage is measured."""


@dataclass(frozen=True)
class Input:
    """Layers to unpack, and how."""

    layers: tuple[tuple[str, bytes], ...]
    """For each layer the suffix of its media type (`+gzip`, `+zstd` or nothing) and its blob."""
    chunk: int
    """How many bytes of a blob are passed on at a time."""
    exact: bool
    """Whether owners are set as in the archive, which needs root."""
    is_apart: bool = False
    """Whether the files of a layer are written first, as by a worker process."""

    def to_json(self) -> str:
        """Return the content of a finding's file."""
        layers = [[kind, base64.b64encode(blob).decode()] for kind, blob in self.layers]
        return json.dumps({"layers": layers, "chunk": self.chunk, "exact": self.exact, "is_apart": self.is_apart})

    @classmethod
    def from_json(cls, text: str) -> Input:
        """Read the content of a finding's file."""
        fields = json.loads(text)
        fields["layers"] = tuple((kind, base64.b64decode(blob)) for kind, blob in fields["layers"])
        return cls(**fields)


class Hang(BaseException):
    """An input takes too long. A BaseException, so that no handler of OSError or Exception catches it."""


class WrongOutcome(Exception):
    """An input was handled, but the tree, the message or something outside is not as it should be."""


class Arena:
    """A directory to unpack into, beside files that must not change."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "rootfs"
        self.outside = directory / "outside"
        self.outside.mkdir()
        for name in ("canary", "directory/canary"):
            canary = self.outside / name
            canary.parent.mkdir(exist_ok=True)
            canary.write_bytes(b"sings")
            canary.chmod(0o640)
        for path in (*self.outside.rglob("*"), self.outside):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        self._before = self._snapshot()
        self._parent = os.open(directory, DIRECTORY)

    def attempt(self, tried: Input) -> str:
        """Unpack an input and return the message of its refusal, empty where it was accepted; raise for a finding."""
        files = os.listdir("/proc/self/fd")
        self.root.mkdir()
        signal.alarm(SECONDS)
        try:
            message = ""
            try:
                self._unpack(tried)
            except (MalformedImage, MachineError) as error:
                message = error.message
                if not message.isprintable():
                    raise WrongOutcome("the message can't be printed") from error
            if self._snapshot() != self._before:
                raise WrongOutcome("something outside has changed")
            if os.listdir("/proc/self/fd") != files:
                raise WrongOutcome("files are left open")
            return message
        finally:
            signal.alarm(SECONDS)
            remove_tree(self._parent, os.fsencode(self.root.name))
            signal.alarm(0)

    def _unpack(self, tried: Input) -> None:
        last: Entry | None = None
        with Tree(self.root) as tree:
            ownership, budget = Ownership(tried.exact), Budget(MAX_SIZE, parts=1 + len(tried.layers))
            applier = LayerApplier(tree, ownership, budget=budget)
            if tried.is_apart:
                layers = [partial(chunks, kind, blob, tried.chunk) for kind, blob in tried.layers]
                apart = self.root.with_name("apart")
                apply_apart(tree, layers, ownership, budget, apart, is_shared=len(layers) == 1)
            for kind, blob in tried.layers:
                if not tried.is_apart:
                    applier.apply(chunks(kind, blob, tried.chunk))
                for entry in Archive(chunks(kind, blob, 1 << 16)):
                    last = entry
            applier.finish()
            set_times(tree)
            if last is not None and b".wh." not in last.path and not self._through_symlink(last):
                _check(tree, last, tried.exact)

    def _through_symlink(self, entry: Entry) -> bool:
        """Return whether a component of an entry's path is a symlink: then the entry is in another place."""
        names = [os.fsdecode(name) for name in split_path(entry.path)]
        try:
            return any(self.root.joinpath(*names[:depth]).is_symlink() for depth in range(1, len(names)))
        except OSError:  # the path is too long to look it up at once
            return True

    def _snapshot(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for directory in (self.outside, self.outside / "directory"):
            found.append(tuple(sorted(os.listdir(directory))))
            for path in (directory, directory / "canary"):
                state = path.lstat()
                found.append((state.st_mode, state.st_uid, state.st_gid, state.st_mtime_ns, state.st_nlink))
            found.append(((directory / "canary").read_bytes(),))
        return found


def chunks(kind: str, blob: bytes, size: int) -> Iterator[bytes]:
    """The archive of a layer that comes in pieces."""
    return decompress((blob[at : at + size] for at in range(0, len(blob), size)), f"layer.tar{kind}")


def _check(tree: Tree, entry: Entry, exact: bool) -> None:
    """The last entry of the last layer is there as it says."""
    if not split_path(entry.path):
        return
    place = tree.locate(entry.path, create=False)
    state = tree.lstat(place)
    kinds = {
        Kind.FILE: stat.S_IFREG,
        Kind.DIRECTORY: stat.S_IFDIR,
        Kind.SYMLINK: stat.S_IFLNK,
        Kind.FIFO: stat.S_IFIFO,
    }
    if entry.kind in kinds and stat.S_IFMT(state.st_mode) != kinds[entry.kind]:
        raise WrongOutcome(f"the last entry is of the mode {state.st_mode:o}")
    if entry.kind is Kind.FILE and state.st_size != entry.size:
        raise WrongOutcome(f"the last entry has {state.st_size} bytes, not {entry.size}")
    if (
        entry.kind is not Kind.HARDLINK
        and abs(state.st_mtime_ns - entry.mtime) > 0
        and abs(entry.mtime) < 2**33 * 10**9
    ):
        raise WrongOutcome(f"the last entry has the time {state.st_mtime_ns}")
    if exact and entry.kind is not Kind.HARDLINK:
        if (state.st_uid, state.st_gid) != (entry.uid, entry.gid):
            raise WrongOutcome("the last entry has other owners")
        if entry.kind is not Kind.SYMLINK and stat.S_IMODE(state.st_mode) != entry.mode:
            raise WrongOutcome(f"the last entry has the mode {state.st_mode:o}")


class Coverage:
    """The steps from line to line in PACKAGES that have been seen."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int, int]] = set()
        self._last = 0

    def run(self, attempt: Callable[[], str]) -> tuple[str, bool]:
        """Return the result of `attempt`, and whether it took a step that none took before."""
        before = len(self._seen)
        sys.settrace(self._enter)
        try:
            message = attempt()
        finally:
            sys.settrace(None)
        return message, len(self._seen) > before

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._step if frame.f_code.co_filename.startswith(PACKAGES) else None

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self._seen.add((frame.f_code.co_name, self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._step

    def __len__(self) -> int:
        return len(self._seen)


def candidate(choose: random.Random, good: list[bytes], bad: list[bytes]) -> tuple[Input, bytes]:
    """Return a new input, and the archive in its last layer; most are mutations of valid archives."""
    archive = mutated(choose.choice(good if choose.random() < 0.8 else bad), choose, good)
    layers = [("", choose.choice(good))] if choose.random() < 0.4 else []
    kind = choose.choices(("", "+gzip", "+zstd"), (6, 2, 2))[0]
    blob = archive
    if kind:
        parts = [archive]
        if choose.random() < 0.3:
            at = choose.randrange(len(archive) + 1)
            parts = [archive[:at], archive[at:]]
        blob = b"".join(compressed(part, kind[1:]) for part in parts)
        if choose.random() < 0.3:
            blob = mutated(blob, choose, [blob], structure=False)
    layers.append((kind, blob))
    exact, is_apart = os.geteuid() == 0 and choose.random() < 0.5, choose.random() < 0.5
    return Input(tuple(layers), choose.choice((1 << 16, 1 << 16, 1000, 512, 100)), exact, is_apart), archive


def search(arena: Arena, seconds: float, seed: int, findings: Path) -> int:
    """Try inputs for `seconds` and return the number of findings."""
    choose, coverage = random.Random(seed), Coverage()
    good, bad = honest(), hostile(str(arena.outside))
    for archive in good:
        if message := arena.attempt(Input((("", archive),), 1 << 16, False)):
            raise WrongOutcome(f"a good archive is refused: {message}")
    count = found = right = 0
    reported = started = time.monotonic()
    while reported < started + seconds:
        tried, archive = candidate(choose, good, bad)
        count += 1
        try:
            attempt = partial(arena.attempt, tried)
            message, new = coverage.run(attempt) if count % TRACED == 0 else (attempt(), False)
        except (Exception, Hang):  # noqa: BLE001 - all of them are findings
            found += 1
            _write_finding(findings, f"{seed}-{count}", tried)
            continue
        right += not message
        now = time.monotonic()
        if new and len(archive) < 1 << 16:
            (bad if message else good).append(archive)
        if now > reported + 60 or now > started + seconds:
            reported = now
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 1_000_000
            print(
                f"{now - started:.0f} s: {count} inputs of seed {seed}, {right} right trees, {len(coverage)} steps, "
                f"{len(good)} + {len(bad)} archives, at most {peak} MB, {found} findings",
                flush=True,
            )
    return found


def _write_finding(findings: Path, name: str, tried: Input) -> None:
    findings.mkdir(exist_ok=True)
    (findings / f"{name}.json").write_text(tried.to_json())
    print(f"FINDING {name}", flush=True)
    traceback.print_exc(limit=-6, file=sys.stdout)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Hang(f"takes longer than {SECONDS} seconds")


def main() -> int:
    """Search for findings, or try the given ones again, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="the directory that findings are written to"
    )
    parser.add_argument("again", metavar="FILE", nargs="*", type=Path, help="a finding to try again")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        arena = Arena(Path(directory))
        for path in arguments.again:
            print(f"{path}: {arena.attempt(Input.from_json(path.read_text())) or 'a right tree'}")
        if not arguments.again:
            return min(1, search(arena, arguments.seconds, arguments.seed, arguments.findings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
