"""A layer that is unpacked by two processes gives what one process gives."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MachineError
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.layers import file_writer
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import ENTRY_SIZE, Budget
from provisioner.layers.file_writer import FileWriter
from provisioner.layers.layer_tree import UnpackedLayer, unpack_lowest_layer_with
from provisioner.layers.reader import StreamedLayer
from provisioner.layers.workers import WorkerKilled
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from tests.support import builders
from tests.support.archives import Member, hard, special, tar
from tests.support.layer_results import apart, in_order
from tests.support.leftovers import forks_noted, processes_left, staging_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import need, need_root, provision_command
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    files = set(os.listdir("/proc/self/fd"))
    with forks_noted():
        yield
    assert set(os.listdir("/proc/self/fd")) <= files


def some(*members: Member) -> list[Member]:
    """Return members of a directory whose first file opens it, so that those behind it are handed over."""
    return [special("d", tarfile.DIRTYPE, mode=0o755, mtime=5), ("d/first", b"1"), *members]


def _file(path: str, **fields: Any) -> tarfile.TarInfo:
    return special(path, tarfile.REGTYPE, **fields)


def _symlink(path: str, target: str) -> tarfile.TarInfo:
    return special(path, tarfile.SYMTYPE, target)


AT_ONCE: dict[str, list[Member]] = {
    "files": some(*((f"d/{number}", b"%d" % number * number) for number in range(300))),
    "owners and modes": some(_file("d/x", uid=7, gid=8, mode=0o4755), _file("d/y", mode=0, mtime=9)),
    "a hard link to a file": some(("d/x", b"x"), hard("d/h", "d/x"), ("d/y", b"y"), hard("h", "d/y")),
    "a file, then a symlink": some(("d/x", b"x"), hard("d/h", "d/x"), _symlink("d/x", "y"), ("d/y", b"1")),
    "a file, then a directory": some(
        ("d/x", b"x"), hard("d/h", "d/x"), special("d/x", tarfile.DIRTYPE), ("d/x/y", b"")
    ),
    "a directory, then a symlink": some(("d/x/y", b"x"), ("d/x/z", b"z"), _symlink("d/x", "/"), ("d/x/new", b"1")),
    "below a symlink": some(_symlink("s", "d"), ("s/x", b"x"), ("s/y", b"y"), ("d/z", b"z")),
    "whiteouts": some(("d/.wh.x", b""), ("d/x", b"1"), ("d/.wh..wh..opq", b""), ("d/y", b"1")),
    "AUFS": some((".wh..wh.plnk/1", b"1"), (".wh..wh.plnk/2", b"2"), hard("d/x", ".wh..wh.plnk/2")),
    "other spellings": some(("./d/x", b"x"), ("/d/y", b"y"), ("d//z", b"z"), ("d/./a", b"a"), ("d/../d/b", b"b")),
    "large files": some(("d/x", b"x" * 200_000), ("d/y", b"y" * 70_000), ("d/z", b"z" * 60_000)),
}
AGAIN: dict[str, list[Member]] = {
    "a directory, then a file": some(("d/x/y", b"x"), ("d/x/z", b"z"), _file("d/x"), ("d/y", b"1")),
    "twice": some(("d/x", b"1"), ("d/x", b"2")),
    "twice, much later": some(("d/x", b"1"), *((f"d/{number}", b"1") for number in range(500)), ("d/x", b"2")),
    "what is below a file": some(("d/x", b"1"), ("d/x/y", b"2")),
    "a file, then a directory that stays": some(("d/x", b"1"), special("d/x", tarfile.DIRTYPE), ("d/x/y", b"2")),
    "a file, then a symlink that stays": some(("d/x", b"1"), _symlink("d/x", "first")),
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", [*AT_ONCE, *AGAIN])
def test_it_is_as_in_order(name: str, exact: bool) -> None:
    if exact:
        need_root()
    layers = [tar(*(AT_ONCE | AGAIN)[name]), tar(("d/upper", b"1"))]
    expected = in_order(layers, exact)
    found, unpacked = apart(layers, exact, is_shared=True)
    assert found == expected
    assert unpacked == [True, True] or name in AGAIN


def _unpack(directory: Path, archive: bytes, budget: Budget | None = None) -> UnpackedLayer | None:
    ownership, budget = Ownership(exact=False), budget or Budget()
    with closing_descriptor(os.open(directory, DIRECTORY)) as root, FileWriter(root, ownership) as writer:
        layer = StreamedLayer([archive], ownership, budget)
        return unpack_lowest_layer_with(writer, layer, root, ownership, budget, Links())


def test_files_are_written_by_the_second_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are in a directory of which one was written before."""
    with monkeypatch.context() as patch:
        patch.setattr(StreamedLayer, "put_file", _put_first(StreamedLayer.put_file))
        assert _unpack(tmp_path, tar(*AT_ONCE["files"]))
    assert (tmp_path / "d/299").read_bytes() == b"299" * 299


def _put_first(put_file: Any) -> Any:
    process = os.getpid()

    def put(layer: StreamedLayer, tree: Any, entry: Any) -> Any:
        assert entry.path == b"d/first" or os.getpid() != process
        return put_file(layer, tree, entry)

    return put


def test_the_first_process_writes_what_the_second_has_no_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_writer, "_BATCH_SIZE", 1)
    monkeypatch.setattr(file_writer, "_BATCHES", 1)
    members = [(f"d/{number}", b"%d" % number) for number in range(1000)]
    assert _unpack(tmp_path, tar(*some(*members)))
    assert all((tmp_path / name).read_bytes() == content for name, content in members)


@pytest.mark.parametrize(
    "archive", [tar(*some(("d/x", b"x" * 5000)))[:4000], tar(*some(("d/x", b"1"), ("d/x/y", b"1")))]
)
def test_a_layer_with_an_error_is_applied_in_order(tmp_path: Path, archive: bytes) -> None:
    assert _unpack(tmp_path, archive) is None


def test_a_name_that_is_taken_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process writes the file between the first one's look at the name and its symlink of that name."""
    process, put_file, symlink = os.getpid(), StreamedLayer.put_file, os.symlink
    root, has_looked = tmp_path / "root", tmp_path / "has looked"
    root.mkdir()

    def put(layer: StreamedLayer, tree: Any, entry: Any) -> Any:
        if os.getpid() != process:
            wait_until(has_looked.exists)
        return put_file(layer, tree, entry)

    def link(*words: Any, **options: Any) -> None:
        has_looked.touch()
        wait_until((root / "d/x").exists)
        symlink(*words, **options)

    monkeypatch.setattr(file_writer, "_BATCH_SIZE", 1)
    monkeypatch.setattr(StreamedLayer, "put_file", put)
    monkeypatch.setattr(os, "symlink", link)
    assert _unpack(root, tar(*some(("d/x", b"1"), _symlink("d/x", "first")))) is None
    assert has_looked.exists()


def test_all_files_count(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="allowed"):
        _unpack(tmp_path, tar(*AT_ONCE["files"]), Budget(300 * ENTRY_SIZE))


def test_an_error_of_the_second_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    write = os.write
    process = os.getpid()
    monkeypatch.setattr(os, "write", lambda *words: (write if os.getpid() == process else fail)(*words))
    with pytest.raises(MachineError, match=r"^d/1: write: No space left on device"):
        _unpack(tmp_path, tar(*AT_ONCE["files"]))


def test_the_second_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayerApplier, "apply_reader", _killed_unless(os.getpid(), LayerApplier.apply_reader))
    with pytest.raises(WorkerKilled):
        _unpack(tmp_path, tar(*AT_ONCE["files"]))


def _killed_unless(process: int, function: Any) -> Any:
    def call(*arguments: Any) -> Any:
        if os.getpid() != process:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return call


DRIVER = """
import os, sys
from provisioner import cli
from provisioner.layers import file_writer, unpack

unpack.WORKER_LAYER_SIZE, unpack.PROCESSORS = 0, 2
which, number = sys.argv[1], int(sys.argv[2])
main, writer_class = os.getpid(), file_writer.FileWriter
batches = file_writer._batches


def interrupted(*arguments):
    for count, batch in enumerate(batches(*arguments)):
        if not count:
            os.kill({"main": main, "worker": os.getppid(), "writer": os.getpid()}[which], number)
        yield batch


file_writer._batches = interrupted
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("which", "number"),
    [
        ("main", signal.SIGINT),
        ("main", signal.SIGTERM),
        ("main", signal.SIGKILL),
        ("worker", signal.SIGKILL),
        ("writer", signal.SIGKILL),
    ],
)
def test_nothing_is_left_of_a_run_that_ends_meanwhile(tmp_path: Path, which: str, number: signal.Signals) -> None:
    need("env")
    with ScriptedRegistry() as registry:
        registry.push("x", builders.image(builders.layer(*AT_ONCE["files"])))
        image = ("--platform=linux/amd64", "--no-sync", f"{registry.host}/x")
        command, options = provision_command(*image, tmp_path / "parent/dir", cache=tmp_path / "cache")
        python, _, _, *arguments = command
        driver = ["env", "--default-signal=INT", python, "-c", DRIVER, which, str(int(number)), *arguments]
        done = subprocess.run(driver, check=False, timeout=120, **options)
        if which != "main":
            assert done.returncode == 0, done.stderr
            assert "a process that unpacks layers was killed: unpacking again, in a single process" in done.stderr
        elif number == signal.SIGKILL:
            assert done.returncode == -number
            assert subprocess.run(command, check=False, timeout=120, **options).returncode == 0
        else:
            assert done.returncode == (130 if number == signal.SIGINT else 128 + number), done.stderr
            assert not (tmp_path / "parent").exists()
    assert not processes_left(tmp_path)
    assert staging_below(tmp_path) == []
    if (tmp_path / "parent").exists():
        assert (tmp_path / "parent/dir/rootfs/d/299").read_bytes() == b"299" * 299
