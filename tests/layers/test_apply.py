"""Layers as image-spec's layer.md describes them. Hostile ones are in test_attacks.py."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MachineError, MalformedImage
from provisioner.filesystem.kind import Kind
from provisioner.layers.apply import LayerApplier
from provisioner.layers.budget import Budget
from provisioner.ownership.overrides import FileMetadata
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
from tests.support.apart import apply_apart
from tests.support.archives import END, Member, hard, pax, raw, special, tar
from tests.support.disks import tmpfs
from tests.support.tools import CHECKOUT, need, need_root
from tests.support.trees import set_times, tree_of


@pytest.fixture(params=["in order", "apart", "shared"], autouse=True)
def layer_readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are applied in order, or are unpacked apart and merged; then two processes may share the lowest one."""
    monkeypatch.setattr(f"{__name__}.WAY", request.param)


WAY = ""


def apply(root: Path, *layers: list[Member], exact: bool = False, max_size: int = 1 << 30) -> None:
    with Tree(root) as tree:
        ownership, budget = Ownership(exact), Budget(max_size, parts=1 + len(layers))
        applier = LayerApplier(tree, ownership, budget=budget)
        if WAY != "in order":
            archives, scratch = [partial(_archive, members) for members in layers], root.with_name("apart")
            apply_apart(tree, archives, ownership, budget, scratch, is_shared=WAY == "shared")
            layers = ()
        for members in layers:
            applier.apply([tar(*members)])
        applier.finish()
        set_times(tree)


def _archive(members: list[Member]) -> list[bytes]:
    return [tar(*members)]


def paths(root: Path) -> list[str]:
    """Return the paths of a tree; directories end in a slash."""
    return [f"{path}/" if entry.type == "d" else path for path, entry in tree_of(root).items() if path != "."]


SPARSE = pax(GNU_sparse_map=b"0,1,999999,1", GNU_sparse_size=b"1000000", GNU_sparse_name=b"s") + raw(
    b"x", content=b"ab"
)
BASE: list[Member] = [("d", None), ("d/one", b"1"), ("d/sub/two", b"2"), ("top", b"t")]


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([(".wh.top", b"")], ["d/", "d/one", "d/sub/", "d/sub/two"]),
        ([("d/.wh.one", b"")], ["d/", "d/sub/", "d/sub/two", "top"]),
        ([(".wh.d", b"")], ["top"]),
        ([("d/.wh..wh..opq", b"")], ["d/", "top"]),
        ([("d/.wh..wh..opq", b""), ("d/new", b"n")], ["d/", "d/new", "top"]),
        ([("d/new", b"n"), ("d/.wh..wh..opq", b"")], ["d/", "d/new", "top"]),
        ([("d/sub/new", b"n"), ("d/.wh..wh..opq", b"")], ["d/", "d/sub/", "d/sub/new", "top"]),
        ([("d/one", b"n"), ("d/.wh.one", b"")], ["d/", "d/one", "d/sub/", "d/sub/two", "top"]),
        ([("d/.wh.one", b""), ("d/one", b"n")], ["d/", "d/one", "d/sub/", "d/sub/two", "top"]),
        ([("d/sub/new", b"n"), (".wh.d", b"")], ["d/", "d/sub/", "d/sub/new", "top"]),
        ([("h", b"n"), hard("d/h", "h"), ("d/.wh..wh..opq", b"")], ["d/", "d/h", "h", "top"]),
        (
            [(".wh.never", b""), ("no/.wh.x", b""), ("no/.wh..wh..opq", b"")],
            ["d/", "d/one", "d/sub/", "d/sub/two", "top"],
        ),
        ([("d", b"n")], ["d", "top"]),
        ([("d", "top")], ["d", "top"]),
        ([("top", None)], ["d/", "d/one", "d/sub/", "d/sub/two", "top/"]),
        ([("top/x", None), (".wh.top", b"")], None),
    ],
)
def test_whiteouts_hide_what_is_below_and_nothing_else(root: Path, upper: list[Member], left: list[str] | None) -> None:
    if left is None:
        with pytest.raises(MalformedImage, match="no directory"):
            apply(root, BASE, upper)
        return
    apply(root, BASE, upper)
    assert paths(root) == left


def test_a_third_layer_hides_what_the_second_brought(root: Path) -> None:
    apply(root, BASE, [("d/two", b"2")], [("d/three", b"3"), ("d/.wh..wh..opq", b"")])
    assert paths(root) == ["d/", "d/three", "top"]


def test_a_cleared_directory_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a hundred thousand whiteouts of a hundred thousand names take a day."""
    seen: list[bytes] = []
    real = Tree.list_directory

    def counted(tree: Tree, path: bytes) -> Iterator[bytes]:
        for name in real(tree, path):
            seen.append(name)
            yield name

    monkeypatch.setattr(Tree, "list_directory", counted)
    names = [(f"d/sub/{number}", b"") for number in range(30)]
    hiding = [(name, b"") for name in ("d/.wh..wh..opq", ".wh.d", "d/.wh.sub", "d/sub/.wh..wh..opq") * 10]
    apply(root, BASE, [*names, *hiding, *names, *hiding])
    assert sorted(os.listdir(root / "d/sub")) == sorted(str(number) for number in range(30))
    assert os.listdir(root / "d") == ["sub"]
    assert len(seen) == len(names) + len(["one", "sub", "two"])


def test_upper_paths_are_free_of_symlinks(root: Path) -> None:
    """A file that a layer writes through a symlink belongs to the layer under every name."""
    lower = [*BASE, ("link", "d")]
    apply(root, lower, [("link/new", b"n"), ("d/.wh..wh..opq", b""), ("link/.wh.new", b"")])
    assert paths(root) == ["d/", "d/new", "link", "top"]


def test_whiteouts_of_the_lowest_layer_hide_nothing(root: Path) -> None:
    apply(root, [*BASE, (".wh.top", b""), ("d/.wh..wh..opq", b"")])
    assert paths(root) == ["d/", "d/one", "d/sub/", "d/sub/two", "top"]


def test_a_directory_of_an_upper_layer_keeps_what_is_in_it_and_changes_its_mode(root: Path) -> None:
    apply(root, BASE, [special("d", tarfile.DIRTYPE, mode=0o700, mtime=5)])
    assert (root / "d/one").read_bytes() == b"1"
    state = (root / "d").stat()
    assert (stat.S_IMODE(state.st_mode), state.st_mtime) == (0o700, 5)


def test_a_directory_takes_the_place_of_a_symlink(root: Path) -> None:
    """layer.md: only directories keep what they were; builders write just the directory after `rm link && mkdir`."""
    apply(root, [*BASE, ("link", "d")], [("link", None), ("link/x", b"x")])
    assert paths(root) == ["d/", "d/one", "d/sub/", "d/sub/two", "link/", "link/x", "top"]


def test_entries_may_come_before_their_parents(root: Path) -> None:
    late = special("d", tarfile.DIRTYPE, mode=0o711, mtime=7)
    apply(root, [("d/e/file", b"x"), late])
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "d/e")] == [0o711, 0o755]
    assert (root / "d").stat().st_mtime == 7


def test_times_are_exact_for_every_type(root: Path) -> None:
    kinds = {
        "dir": tarfile.DIRTYPE,
        "file": tarfile.REGTYPE,
        "dir/link": tarfile.SYMTYPE,
        "dir/fifo": tarfile.FIFOTYPE,
        ".": tarfile.DIRTYPE,
    }
    members: list[Member] = []
    for number, (name, kind) in enumerate(kinds.items()):
        header = special(name, kind, "gone" if kind == tarfile.SYMTYPE else "")
        header.pax_headers = {"mtime": f"{1_600_000_000 + number}.{number}23456789"}
        members.append(header)
    apply(root, [*members, ("dir/later", b"x"), ("later", b"x")])
    found = tree_of(root)
    for number, name in enumerate(kinds):
        assert found[name].mtime == (1_600_000_000 + number) * 10**9 + number * 10**8 + 23_456_789


def test_times_of_directories_that_were_replaced_are_forgotten(root: Path) -> None:
    """By a file, by a symlink to another directory, and below of both."""
    old = [special(name, tarfile.DIRTYPE, mtime=5) for name in ("a", "a/sub", "b", "b/sub", "c")]
    new: list[Member] = [special("other/sub", tarfile.DIRTYPE, mtime=9), special("a", tarfile.REGTYPE, mtime=8)]
    apply(root, [*new[:1], *old], [new[1], special("b", tarfile.SYMTYPE, "other", mtime=8), (".wh.c", b"")])
    found = tree_of(root)
    assert {name: entry.mtime // 10**9 for name, entry in found.items() if name not in (".", "other")} == {
        "a": 8,
        "b": 8,
        "other/sub": 9,
    }


def test_root_gets_owners_and_modes_of_the_image(root: Path) -> None:
    need_root()
    owned: dict[str, Any] = {"uid": 1234, "gid": 5678}
    apply(
        root,
        [
            special("d", tarfile.DIRTYPE, mode=0o1511, **owned),
            special("d/suid", tarfile.REGTYPE, mode=0o6755, **owned),
            special("d/closed", tarfile.REGTYPE, mode=0, **owned),
            special("d/link", tarfile.SYMTYPE, "x", **owned),
            special("d/fifo", tarfile.FIFOTYPE, mode=0o604, **owned),
            special("d/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3, **owned),
            special("d/disk", tarfile.BLKTYPE, mode=0o660, devmajor=8, devminor=300, **owned),
            hard("d/same", "d/suid"),
        ],
        exact=True,
    )
    found = tree_of(root)
    del found["."]
    assert {entry.owner for entry in found.values()} == {(1234, 5678)}
    assert {name: (entry.type, entry.mode) for name, entry in found.items()} == {
        "d": ("d", 0o1511),
        "d/suid": ("f", 0o6755),
        "d/same": ("f", 0o6755),
        "d/closed": ("f", 0),
        "d/link": ("l", 0),
        "d/fifo": ("p", 0o604),
        "d/null": ("f", 0o666),  # in place of devices
        "d/disk": ("f", 0o660),
    }
    assert (root / "d/same").samefile(root / "d/suid")


def test_without_root_all_files_are_readable_and_belong_to_the_user(root: Path) -> None:
    closed = [special("d", tarfile.DIRTYPE, mode=0, uid=9, gid=9), special("d/x", tarfile.REGTYPE, mode=0o4011, uid=9)]
    device = special("d/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3, uid=9)
    apply(root, [*closed, device])
    found = tree_of(root)
    assert {entry.owner for entry in found.values()} == {(os.geteuid(), os.getegid())}
    assert (found["d"].mode, found["d/x"].mode) == (0o700, 0o4611)
    assert (found["d/null"].type, found["d/null"].mode, (root / "d/null").read_bytes()) == ("f", 0o666, b"")


def overrides_of(root: Path, *layers: list[Member], exact: bool = False) -> dict[str, FileMetadata | None]:
    """Return the recorded metadata of each path, by its name."""
    with Tree(root) as tree:
        applier = LayerApplier(tree, Ownership(exact))
        for members in layers:
            applier.apply([tar(*members)])
        applier.finish()
        return {os.fsdecode(path.name): tree.overrides.get(path.lstat().st_ino) for path in root.rglob("*")}


def test_without_root_metadata_is_recorded_where_the_file_system_differs(root: Path) -> None:
    device: dict[str, Any] = {"devmajor": 1, "devminor": 3}
    kinds = {
        "plain": special("plain", tarfile.REGTYPE, mode=0o4755),
        "dir": special("dir", tarfile.DIRTYPE, mode=0o700),
        "link": special("link", tarfile.SYMTYPE, "x", mode=0o777),
        "fifo": special("fifo", tarfile.FIFOTYPE, mode=0o600),
    }
    recorded = {
        "owned": (special("owned", tarfile.REGTYPE, mode=0o644, uid=5), FileMetadata(5, 0, 0o644, None, ())),
        "group": (special("group", tarfile.SYMTYPE, "x", mode=0o777, gid=6), FileMetadata(0, 6, 0o777, None, ())),
        "ro": (special("ro", tarfile.REGTYPE, mode=0o444), FileMetadata(0, 0, 0o444, None, ())),
        "closed": (special("closed", tarfile.DIRTYPE, mode=0o555), FileMetadata(0, 0, 0o555, None, ())),
        "null": (
            special("null", tarfile.CHRTYPE, mode=0o666, **device),
            FileMetadata(0, 0, 0o666, (Kind.CHARACTER, 1, 3), ()),
        ),
        "disk": (
            special("disk", tarfile.BLKTYPE, mode=0o660, **device),
            FileMetadata(0, 0, 0o660, (Kind.BLOCK, 1, 3), ()),
        ),
    }
    members: list[Member] = [*kinds.values(), *(header for header, _ in recorded.values())]
    assert overrides_of(root, members) == {
        **dict.fromkeys(kinds),
        **{name: metadata for name, (_, metadata) in recorded.items()},
    }


def test_the_recorded_metadata_is_of_the_last_entry(root: Path) -> None:
    """A directory of a lower layer keeps its inode, and new files may get that of one that is gone."""
    lower = [special(name, tarfile.DIRTYPE, mode=0o755, uid=5) for name in ("kept", "reset")]
    lower += [special(f"gone{number}", tarfile.REGTYPE, mode=0o644, uid=6) for number in range(50)]
    upper: list[Member] = [special("reset", tarfile.DIRTYPE, mode=0o755)]
    upper += [(f".wh.gone{number}", b"") for number in range(50)]
    for number in range(50):
        upper += [(f"new{number}", b""), (f"link{number}", "x")]
    overrides = overrides_of(root, [*lower], upper)
    assert overrides.pop("kept") == FileMetadata(5, 0, 0o755, None, ())
    assert set(overrides.values()) == {None}


def attributes(name: str, kind: bytes, **values: str) -> tarfile.TarInfo:
    header = special(name, kind, mode=0o755, uid=0)
    header.pax_headers = {f"SCHILY.xattr.{key.replace('_', '.')}": value for key, value in values.items()}
    return header


@pytest.mark.parametrize("exact", [False, True])
def test_attributes_are_set_and_recorded(root: Path, exact: bool) -> None:
    if exact:
        need_root()
    capability = "\1\0\0\2\0\x20" + "\0" * 14
    upper = attributes("d", tarfile.DIRTYPE, user_new="2")
    overrides = overrides_of(
        root,
        [
            attributes("d", tarfile.DIRTYPE, user_old="1"),
            attributes("d/file", tarfile.REGTYPE, user_a="1", security_capability=capability, trusted_b="2"),
            attributes("fifo", tarfile.FIFOTYPE, user_a="1"),
        ],
        [upper],
        exact=exact,
    )
    assert sorted(os.listxattr(root / "d/file")) == ["security.capability"] * exact + ["user.a"]
    assert {name: found and dict(found.xattrs) for name, found in overrides.items()} == {
        "d": {b"user.new": b"2"},
        "file": {b"user.a": b"1", b"security.capability": capability.encode(), b"trusted.b": b"2"},
        "fifo": {b"user.a": b"1"},
    }
    assert os.listxattr(root / "d") == ["user.new"]


def test_owners_change_before_capabilities_and_setuid_are_set(root: Path) -> None:
    need_root()
    header = attributes("x", tarfile.REGTYPE, security_capability="\1\0\0\2\0\x20" + "\0" * 14)
    header.uid, header.mode = 5, 0o6755
    apply(root, [header], exact=True)
    assert os.getxattr(root / "x", "security.capability")
    assert stat.S_IMODE((root / "x").stat().st_mode) == 0o6755
    assert (root / "x").stat().st_uid == 5


WITH_RECORD = """
import sys
from pathlib import Path
from provisioner.filesystem.kind import Kind
from provisioner.layers.apply import LayerApplier
from provisioner.ownership.overrides import FileMetadata
from provisioner.ownership.record import write_owners
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.tree import Tree
root = Path(sys.argv[1])
with Tree(root) as tree:
    LayerApplier(tree, Ownership.in_directory(root)).apply([sys.stdin.buffer.read()])
    write_owners(root.parent, root, tree.overrides, Ownership.in_directory(root))
"""


def test_root_gets_devices_in_the_record_and_no_node_of_a_disk(root: Path) -> None:
    need_root()
    archive = tar(special("null", tarfile.CHRTYPE, mode=0o666, uid=5, devmajor=1, devminor=3))
    command = [sys.executable, "-c", WITH_RECORD, str(root)]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, input=archive, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert stat.S_ISREG((root / "null").stat().st_mode)
    assert (root / "null").stat().st_uid == 5
    record = (root.parent / "ownership.mtree").read_text()
    assert "null type=char mode=0666 uid=5 gid=0 time=0.000000000 device=native,1,3 optional\n" in record


def in_namespace(ids: int, *command: str, text: bytes) -> None:
    """Run a command as root of a user namespace that maps the first `ids` ids, with `text` as its standard input."""
    wait = ["unshare", "--user", "sh", "-c", 'read -r line && exec "$@"', "sh"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([*wait, *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        folder = Path(f"/proc/{process.pid}")
        while os.readlink(folder / "ns/user") == os.readlink("/proc/self/ns/user") and process.poll() is None:
            time.sleep(0.01)
        for name in ("uid_map", "gid_map"):
            (folder / name).write_text(f"0 0 {ids}")
        _, errors = process.communicate(b"go\n" + text)
    assert process.returncode == 0, errors


def test_owners_that_a_user_namespace_does_not_know_are_in_the_record(root: Path) -> None:
    """As in rootless containers: such files stay root's, and are not setuid."""
    need_root()
    need("unshare")
    unknown: dict[str, Any] = {"uid": 5000, "gid": 5, "mtime": 7}
    archive = tar(
        special("dir", tarfile.DIRTYPE, mode=0o2755, **unknown),
        special("dir/suid", tarfile.REGTYPE, mode=0o6755, **unknown),
        special("dir/link", tarfile.SYMTYPE, "suid", **unknown),
        special("dir/fifo", tarfile.FIFOTYPE, mode=0o4600, **unknown),
        special("known", tarfile.REGTYPE, mode=0o6755, uid=999, gid=5, mtime=7),
    )
    in_namespace(1000, sys.executable, "-c", WITH_RECORD, str(root), text=archive)
    found = {name: (entry.owner, entry.mode) for name, entry in tree_of(root).items() if name != "."}
    assert found == {
        "dir": ((0, 0), 0o755),
        "dir/suid": ((0, 0), 0o755),
        "dir/link": ((0, 0), 0),
        "dir/fifo": ((0, 0), 0o600),
        "known": ((999, 5), 0o6755),
    }
    lines = (root.parent / "ownership.mtree").read_text().splitlines()
    assert [line.split(" time=")[0] for line in lines if " type=" in line and not line.startswith(".")] == [
        "dir type=dir mode=2755 uid=5000 gid=5",
        "fifo type=fifo mode=4600 uid=5000 gid=5",
        "link type=link mode=0777 uid=5000 gid=5",
        "suid type=file mode=6755 uid=5000 gid=5",
        "known type=file mode=6755 uid=999 gid=5",
    ]


def test_errors_name_the_entry(root: Path) -> None:
    with pytest.raises(MalformedImage, match=r"^a/b\\n: write: it is below something that is no directory$"):
        apply(root, [("a", b"x"), ("a/b\n", b"x")])


def test_a_full_disk_is_a_machine_error(root: Path) -> None:
    """A real one: two files of 64 KiB don't fit into a tmpfs of 100 KiB."""
    with tmpfs(root.parent, "size=100k"):
        root.mkdir()
        with pytest.raises(MachineError, match=r"^b: write: No space left on device$") as raised:
            apply(root, [("a", bytes(65536)), ("b", bytes(65536))])
        assert "free some space" in raised.value.hint


SIZES: dict[str, tuple[int, list[list[Member] | bytes]]] = {
    "content": (10_240 + 4096, [[("f", bytes(5000))]]),
    "each layer": (2 * (10_240 + 4096), [[("f", bytes(5000))], [("f", bytes(5000))]]),
    "entries": (10_240 + 9 * 4096, [[(f"{number}", b"") for number in range(9)]]),
    "directories that nothing names": (10_240 + 9 * 4096, [[("1/2/3/4/5/6/7/8/f", b"")]]),
    "whiteouts": (10_240 + 9 * 4096, [[(f".wh.{number}", b"") for number in range(9)]]),
    "holes": (2048 + 4096 + 1_000_000 - 2, [SPARSE]),
    "headers that nothing follows on": (1024 * 100, [raw(b"label", b"V", b"1") * 100]),
    "zeros behind the end": (512 + 10_000_000, [bytes(512 + 10_000_000)]),
}
"""What counts as the size of an image: archives, 4096 bytes for each entry and directory, and holes."""


@pytest.mark.parametrize("what", SIZES)
def test_an_image_takes_no_more_than_it_may(root: Path, what: str) -> None:
    size, layers = SIZES[what]

    def unpack(max_size: int) -> None:
        with Tree(root) as tree:
            applier = LayerApplier(tree, Ownership(False), budget=Budget(max_size))
            for layer in layers:
                applier.apply([layer if isinstance(layer, bytes) else tar(*layer)])

    with pytest.raises(MachineError, match=f"more than the {size - 1:,} bytes that are allowed") as raised:
        unpack(size - 1)
    assert "--max-size" in raised.value.hint
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    unpack(size)


def test_a_file_of_nothing_but_holes_is_stopped_before_it_is_made(root: Path) -> None:
    huge = pax(GNU_sparse_map=b"", GNU_sparse_size=b"9000000000000000000", GNU_sparse_name=b"s") + raw(b"x") + END
    with pytest.raises(MachineError, match="more than"), Tree(root) as tree:
        LayerApplier(tree, Ownership(False), budget=Budget(1 << 30)).apply([huge])
    assert os.listdir(root) == []


def test_more_is_not_read_than_may_be_written(root: Path) -> None:
    """An archive without end is stopped on the way."""
    produced = 0

    def endless() -> Iterator[bytes]:
        nonlocal produced
        yield raw(b"f", size=b"\x80\0\0\x7f" + bytes(8))
        while True:
            produced += 1 << 16
            yield bytes(1 << 16)

    with pytest.raises(MachineError, match=r"f: the image takes more"), Tree(root) as tree:
        LayerApplier(tree, Ownership(False), budget=Budget(1 << 20)).apply(endless())
    assert produced <= 1 << 20
    assert (root / "f").stat().st_size < 1 << 20
