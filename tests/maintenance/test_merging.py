"""Three trees, merged on the disk, and a model of what becomes of each path."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.layers.apply import LayerApplier
from provisioner.maintenance.merging import Merge, merge_files
from provisioner.maintenance.plan import plan_update
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import write_owners
from provisioner.rootfs.tree import Tree
from tests.support.archives import Member, special, tar

USER = Ownership(exact=False)
TOPS = ("etc", "home", "usr")
NAMES = ("a", "b")
Files = dict[str, str | None]
"""By path: `=TARGET` for a symlink, None for a directory, else the text of a file."""

_CONTENTS = st.sampled_from(["1", "2", "3", "=x", None])


@st.composite
def trees(draw: st.DrawFn) -> Files:
    """A tree with TOPS, and below each of them up to two levels of NAMES."""
    files: Files = dict.fromkeys(TOPS)
    for top in TOPS:
        for name in NAMES:
            if not draw(st.booleans()):
                continue
            path = f"{top}/{name}"
            files[path] = draw(_CONTENTS)
            if files[path] is None:
                files.update({f"{path}/{below}": draw(_CONTENTS) for below in NAMES if draw(st.booleans())})
    return files


def member(path: str, content: str | None) -> Member:
    if content is None:
        return special(path, tarfile.DIRTYPE, mode=0o755, mtime=5)
    return (path, content.removeprefix("=")) if content.startswith("=") else (path, content.encode())


def unpack(directory: Path, files: Files) -> None:
    """Make a directory as provision does."""
    (directory / "rootfs").mkdir(parents=True)
    (directory / ".provision").mkdir()
    with Tree(directory / "rootfs") as tree:
        LayerApplier(tree, USER).apply([tar(*(member(path, content) for path, content in files.items()))])
        write_owners(directory / ".provision", directory / "rootfs", tree.overrides, USER)


def edit(rootfs: Path, before: Files, after: Files) -> None:
    """Change a tree into another one, and touch nothing else."""
    for path in sorted(before, reverse=True):
        if path not in after or (before[path] is None) != (after[path] is None):
            place = rootfs / path
            if before[path] is None:
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
    for path, content in after.items():
        place = rootfs / path
        if os.path.lexists(place) and before.get(path) == content:
            continue
        if content is None:
            place.mkdir(exist_ok=True)
            continue
        place.unlink(missing_ok=True)
        if content.startswith("="):
            place.symlink_to(content[1:])
        else:
            place.write_text(content)


def described(rootfs: Path) -> Files:
    found: Files = {}
    for path in rootfs.rglob("*"):
        name = str(path.relative_to(rootfs))
        found[name] = f"={os.readlink(path)}" if path.is_symlink() else None if path.is_dir() else path.read_text()
    return found


def merge(old: Path, new: Path) -> Merge:
    with (
        closing_descriptor(os.open(old / ".provision", DIRECTORY)) as old_folder,
        closing_descriptor(os.open(new / ".provision", DIRECTORY)) as new_folder,
    ):
        plan = plan_update(old_folder, new_folder, "dir")
    with Tree(old / "rootfs") as old_tree, Tree(new / "rootfs") as new_tree:
        return merge_files(plan, old_tree, new_tree, lambda name: None, USER)


MISSING = "missing"


def keeps(path: str, base: Files, disk: Files, new: Files) -> bool:
    """Whether the user's file stays."""
    was, now, will = (side.get(path, MISSING) for side in (base, disk, new))
    return now not in (was, will) and (was == will or now == MISSING or not path.startswith("usr/"))


def is_below_replaced(path: str, base: Files, disk: Files, new: Files) -> bool:
    """Whether the user has deleted or replaced a directory above, so that nothing of the image comes below it."""
    parents = [path[:at] for at, letter in enumerate(path) if letter == "/"]
    return any(
        base.get(above, "") is None and disk.get(above, "") is not None and keeps(above, base, disk, new)
        for above in parents
    )


def model(base: Files, disk: Files, new: Files) -> Files:
    """What the table says, path by path; written without a look at the code."""
    result: Files = dict(new)
    for path in sorted(base.keys() | disk.keys() | new.keys()):
        if is_below_replaced(path, base, disk, new):
            result.pop(path, None)
        elif keeps(path, base, disk, new):
            now, will = (side.get(path, MISSING) for side in (disk, new))
            is_beside = path.startswith("etc/") and MISSING not in (now, will) and will != base.get(path, MISSING)
            for name in [name for name in result if is_beside and (name == path or name.startswith(path + "/"))]:
                result[path + ".provision-new" + name.removeprefix(path)] = result.pop(name)
            _put(result, path, now)
    return result


def _put(result: Files, path: str, content: str | None) -> None:
    parents = [path[:at] for at, letter in enumerate(path) if letter == "/"]
    if content == MISSING:
        for name in [name for name in result if name == path or name.startswith(path + "/")]:
            del result[name]
        return
    if any(result.get(parent) is not None for parent in parents):
        return  # something of the image is in the way
    for parent in parents:
        result.setdefault(parent, None)
    if content is not None:
        for name in [name for name in result if name.startswith(path + "/")]:
            del result[name]
    elif result.get(path) is not None:
        del result[path]
    result[path] = content


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(trees(), trees(), trees())
@example({"usr": None, "usr/a": None, "usr/a/a": "1"}, {"usr": None}, {"usr": None, "usr/a": None, "usr/a/b": "2"})
@example({"usr": None, "usr/a": "1"}, {"usr": None, "usr/a": None, "usr/a/a": "1"}, {"usr": None, "usr/a": "2"})
def test_a_merge_is_what_the_table_says(base: Files, disk: Files, new: Files) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        directory = Path(name)
        unpack(directory / "old", base)
        edit(directory / "old/rootfs", base, disk)
        assert described(directory / "old/rootfs") == disk
        unpack(directory / "new", new)
        merged = merge(directory / "old", directory / "new")
        expected = model(base, disk, new)
        assert described(directory / "new/rootfs") == expected, merged
        assert described(directory / "old/rootfs") == disk
