"""Layers that worker processes unpack give the same tree as without them."""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import signal
import stat
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import pytest

from provisioner.archives.tar import Entry
from provisioner.errors import MachineError, MalformedImage, NetworkError, ProvisionError
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.layers import unpack as unpacking
from provisioner.layers.job import UnpackOptions
from provisioner.layers.reader import StreamedLayer
from provisioner.ownership import record
from provisioner.ownership.policy import Ownership
from provisioner.provision import Plan, provision
from provisioner.rootfs.tree import Place, Tree
from provisioner.sizes import size_text
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache, TemporaryBlobCache
from provisioner.terminal.progress import Console
from tests.support import builders
from tests.support.archives import END, Member, hard, pax, raw, special, tar
from tests.support.leftovers import forks_noted
from tests.support.scripted_registry import Broken, ScriptedRegistry, mirrored
from tests.support.tools import need_root
from tests.support.trees import tree_of

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

NOW = (int(time.time()) - 60) * 10**9
AMD64 = Platform("linux", "amd64")


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert [name for name in os.listdir(tmp_path) if name.endswith(".provision")] == []


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two worker processes unpack all layers; the list gets their process ids."""
    with forks_noted() as pids:
        monkeypatch.setattr(unpacking, "may_fork", lambda: True)
        monkeypatch.setattr(unpacking, "PROCESSORS", 2)
        monkeypatch.setattr(unpacking, "WORKER_LAYER_SIZE", 0)
        yield pids


def job(
    registry: ScriptedRegistry,
    directory: Path,
    *,
    exact: bool = False,
    max_size: int | None = None,
    output: TextIO | None = None,
    has_cache: bool = True,
) -> Path:
    reference = Reference.parse(f"{registry.host}/image:latest")
    cache_type = BlobCache if has_cache else TemporaryBlobCache
    source = RegistrySource(reference, mirrored(reference), cache_type(directory.with_name("cache")), 2)
    plan = Plan(directory, AMD64, UnpackOptions(max_size), ownership=Ownership(exact))
    provision(plan, source, Console(stream=output, quiet=output is None))
    return directory


def described(directory: Path) -> tuple[object, ...]:
    """Return the tree and its ownership record, both without the times that the image doesn't set."""
    tree = {path: replace(entry, mtime=min(entry.mtime, NOW)) for path, entry in tree_of(directory / "rootfs").items()}
    record = re.sub("# written=.*\n", "", (directory / ".provision/ownership.mtree").read_text())
    return tree, re.sub(r"time=(\d+)\.\d+", lambda time: f"time={min(int(time[1]) * 10**9, NOW)}", record)


LAYERS: list[list[Member]] = [
    [("etc/conf", b"1"), ("usr/lib/a", b"a" * 5000), ("lib", "usr/lib"), ("gone/x", b"x"), ("kind", b"a file")],
    [("lib/b", b"through a link"), ("etc/.wh.conf", b""), ("kind", None), ("kind/now", b"1"), ("fifo/x", b"")],
    [hard("hard", "usr/lib/a"), ("gone/.wh..wh..opq", b""), ("gone/y", b"y" * 700_000), hard("twice", "gone/y")],
    [("kind", "gone"), ("usr/lib/a", b"new"), special("fifo", tarfile.FIFOTYPE), ("etc/conf", b"again")],
    [("same", b"1"), ("same", b"2"), ("same", "kind"), ("same", b"3"), (".wh.twice", b""), ("lib/c/d", b"")],
    [],
]


SPARSE = pax(GNU_sparse_map=b"0,1,999999,1", GNU_sparse_size=b"1000000", GNU_sparse_name=b"s") + raw(
    b"x", content=b"ab"
)
OWNED = (
    raw(b"owned", content=b"1", uid=b"0000007\0", gid=b"0000010\0", mode=b"0004755\0")
    + raw(b"read-only", content=b"1", mode=b"0000400\0", mtime=b"00000012345\0")
    + pax(SCHILY_xattr_user_note=b"x", mtime=b"1234.5")
    + raw(b"dated", content=b"1")
)


def packed(entries: bytes) -> builders.Layer:
    archive = entries + END
    return builders.Layer(gzip.compress(archive), f"{builders.OCI_LAYER}+gzip", builders.digest_of(archive))


def image(*layers: list[Member]) -> builders.Image:
    return builders.image(*(builders.layer(*members) for members in layers))


@pytest.mark.parametrize("exact", [False, True])
def test_the_tree_and_the_record_are_the_same(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    if exact:
        need_root()
    layers = [*(builders.layer(*members) for members in LAYERS), packed(OWNED)]
    registry.push("image", builders.image(*layers, packed(SPARSE), *layers[2:4]))
    parallel = job(registry, tmp_path / "parallel/dir", exact=exact)
    assert len(forks) == 2
    monkeypatch.setattr(unpacking, "may_fork", lambda: False)
    sequential = job(registry, tmp_path / "sequential/dir", exact=exact)
    assert len(forks) == 2
    result, expected = described(parallel), described(sequential)
    assert result == expected


def test_the_main_process_writes_no_file_of_a_layer_and_few_lines_of_the_record(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lower: list[Member] = [(f"usr/share/{number}", b"x") for number in range(100)]
    upper: list[Member] = [(f"opt/{number}", b"x") for number in range(100)]
    registry.push("image", image(lower, [*upper, ("etc/hostname", b"x")]))
    main, put_file, write_file = os.getpid(), StreamedLayer.put_file, record._write_file
    written: list[bytes] = []

    def put(layer: StreamedLayer, tree: Tree, entry: Entry) -> tuple[Place, bool]:
        assert os.getpid() != main
        return put_file(layer, tree, entry)

    def note(*arguments: Any) -> bool:
        written.append(arguments[2].name)
        return write_file(*arguments)

    monkeypatch.setattr(StreamedLayer, "put_file", put)
    monkeypatch.setattr(record, "_write_file", note)
    directory = job(registry, tmp_path / "dir")
    assert len(forks) == 2
    assert {b"usr", b"opt", b"etc", b"hostname"} <= set(written)
    assert not any(name.isdigit() for name in written)
    lines = (directory / ".provision/ownership.mtree").read_text()
    assert lines.count("\n99 ") == 2


GOOD = builders.layer(("good", b"1"))
LONG = builders.layer(("long", builders.incompressible(3 << 20)))
FAULTS: dict[str, tuple[builders.Layer, type[ProvisionError], str]] = {
    "its archive is another": (replace(GOOD, diff_id=builders.digest_of(b"")), MalformedImage, "does not match its"),
    "it can't be decompressed": (
        builders.Layer(LONG.blob[:100_000] + bytes(1000), LONG.media_type, LONG.diff_id),
        MalformedImage,
        "can't be decompressed",
    ),
    "it climbs out": (builders.layer(("a", b"1"), ("../x", b"1")), MalformedImage, r"\.\./x: .*climbs out"),
    "a whiteout is none": (builders.layer(("d/.wh..", b"")), MalformedImage, r"d/\.wh\.\.: .*no valid whiteout"),
    "a link leads nowhere": (builders.layer(hard("h", "nowhere")), MalformedImage, "h: .*isn't there"),
    "it is too large": (builders.layer(("long", bytes(3 << 20))), MachineError, "more than the 2,000,000 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("turn", [2, 4])
def test_errors_name_the_layer(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int], fault: str, turn: int
) -> None:
    layer, kind, message = FAULTS[fault]
    layers = [builders.layer((f"file{number}", b"1")) for number in range(5)]
    layers[turn - 1] = layer
    registry.push("image", builders.image(*layers))
    # All layers count together: whichever process writes next is stopped.
    where = r"\d" if kind is MachineError else turn
    with pytest.raises(kind, match=f"^layer {where} of 5: .*{message}"):
        job(registry, tmp_path / "dir", max_size=2_000_000 if kind is MachineError else None)
    assert forks
    assert not (tmp_path / "dir").exists()


def test_the_size_limit_holds_for_all_layers_together(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int]
) -> None:
    """Each one alone has room, and so have all but the last together."""
    layers: list[list[Member]] = [[(f"{number}", bytes(200_000))] for number in range(6)]
    registry.push("image", image(*layers))
    size = 6 * (len(tar(("0", bytes(200_000)))) + 4096)
    with pytest.raises(MachineError, match="more than"):
        job(registry, tmp_path / "dir", max_size=size - 1)
    job(registry, tmp_path / "dir", max_size=size)
    assert len(forks) == 4


def test_a_broken_connection_is_a_network_error(registry: ScriptedRegistry, tmp_path: Path, forks: list[int]) -> None:
    registry.push("image", builders.image(GOOD, LONG, GOOD))
    registry.on(f"/v2/image/blobs/{builders.digest_of(LONG.blob)}", Broken(200, LONG.blob, sent=1 << 20))
    with pytest.raises(NetworkError, match=r"^layer 2 of 3: "):
        job(registry, tmp_path / "dir")
    assert len(forks) == 2


def test_without_workers_layers_are_unpacked_one_after_the_other(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push("image", image(*LAYERS))

    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    refusing = described(job(registry, tmp_path / "refusing/dir"))
    monkeypatch.undo()
    assert refusing == described(job(registry, tmp_path / "sequential/dir"))
    assert forks == []


@pytest.mark.parametrize("change", [("PROCESSORS", 1), ("WORKER_LAYER_SIZE", 1 << 20)])
def test_small_layers_and_one_processor_use_no_workers(
    registry: ScriptedRegistry,
    tmp_path: Path,
    forks: list[int],
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, int],
) -> None:
    registry.push("image", image(*LAYERS))
    monkeypatch.setattr(unpacking, *change)
    job(registry, tmp_path / "dir")
    assert forks == []


def test_after_a_killed_worker_unpacking_starts_again_in_one_process(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the kernel for lack of memory, or by Android."""
    registry.push("image", image(*LAYERS))

    def killed(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(unpacking, "unpack_layer", killed)
    output = io.StringIO()
    result = described(job(registry, tmp_path / "dir", output=output))
    assert (
        "layer 2 of 6: a process that unpacks layers was killed: unpacking again, in a single process"
        in output.getvalue()
    )
    assert len(forks) == 2
    monkeypatch.undo()
    assert result == described(job(registry, tmp_path / "sequential/dir"))


def test_where_directories_cannot_be_moved_layers_are_unpacked_in_a_single_process(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by file systems that are made of several others, such as mergerfs."""
    registry.push("image", image(*LAYERS))
    rename = os.rename

    def refused(source: bytes | str, target: bytes | str, **places: int) -> None:
        is_of_layers = isinstance(target, bytes) and (source == target or target.isdigit())
        if is_of_layers and stat.S_ISDIR(os.stat(source, dir_fd=places["src_dir_fd"], follow_symlinks=False).st_mode):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, **places)

    output = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        result = described(job(registry, tmp_path / "dir", output=output))
    assert "directories can't be moved here: unpacking again, in a single process" in output.getvalue()
    assert result == described(job(registry, tmp_path / "parallel/dir"))


def test_without_a_cache_layers_are_read_more_than_once(
    registry: ScriptedRegistry, tmp_path: Path, forks: list[int]
) -> None:
    """A layer that has to be applied in order comes from the file that its worker has read."""
    below_its_own_link: list[Member] = [("kind/link", "/usr"), ("kind/link/b", b"1")]
    registry.push("image", image(*LAYERS[:3], below_its_own_link))
    result = described(job(registry, tmp_path / "temporary/dir", has_cache=False))
    assert len(forks) == 2
    assert "usr/b" in result[0]  # type: ignore[operator]
    assert result == described(job(registry, tmp_path / "cached/dir"))
    assert len(registry.asked("/v2/image/blobs/.*")) == 2 * 5  # with the config, for each of both runs


def test_layers_that_the_cache_has_are_named_and_not_asked_for(registry: ScriptedRegistry, tmp_path: Path) -> None:
    lower, upper = LAYERS[:2]
    registry.push("image", image(lower))
    output = io.StringIO()
    job(registry, tmp_path / "first/dir", output=output)
    assert "cache" not in output.getvalue()
    both = image(lower, upper)
    registry.push("image", both)
    (tmp_path / "second").mkdir()
    (tmp_path / "first/cache").rename(tmp_path / "second/cache")
    registry.requests.clear()
    job(registry, tmp_path / "second/dir", output=output)
    sizes = [len(layer.blob) for layer in both.layers]
    line = f"the cache has {size_text(sizes[0])} of {size_text(sum(sizes))}\n"
    assert line in output.getvalue()
    asked = [request.path.rpartition("/")[2] for request in registry.asked(".*/blobs/.*")]
    assert builders.digest_of(both.layers[0].blob) not in asked
    assert builders.digest_of(both.layers[1].blob) in asked


def test_a_download_that_broke_off_counts_as_well(registry: ScriptedRegistry, tmp_path: Path) -> None:
    pushed = image(LAYERS[0], LAYERS[2])
    registry.push("image", pushed)
    digest = builders.digest_of(pushed.layers[1].blob)
    partial = tmp_path / "x/cache/partial"
    partial.mkdir(parents=True)
    (partial / digest.partition(":")[2]).write_bytes(pushed.layers[1].blob[:500])
    output = io.StringIO()
    job(registry, tmp_path / "x/dir", output=output)
    assert "the cache has 500 B of " in output.getvalue()
