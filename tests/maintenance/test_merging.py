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
from tests.support.archives import Member, hard, special, tar

USER = Ownership(exact=False)
TOPS = ("etc", "home", "usr")
NAMES = ("a", "b")
Files = dict[str, str | None]
"""By path: `=TARGET` for a symlink, None for a directory, else the text of a file."""

_TEXTS = st.sampled_from(["1", "2", "3"])
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
    _unpack(directory, [member(path, content) for path, content in files.items()])


def _unpack(directory: Path, members: list[Member]) -> None:
    (directory / "rootfs").mkdir(parents=True)
    (directory / ".provision").mkdir()
    with Tree(directory / "rootfs") as tree:
        LayerApplier(tree, USER).apply([tar(*members)])
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


# Hard links: the same word in a tree is the same file.

_LINKED = st.dictionaries(
    st.sampled_from([f"{top}/{name}" for top in TOPS for name in "abc"]), st.sampled_from(["1", "h1", "h2"])
)


def unpack_linked(directory: Path, files: dict[str, str]) -> None:
    """Make a directory as `unpack` does; files with the same word are hard links."""
    first: dict[str, str] = {}
    members: list[Member] = [member(top, None) for top in TOPS]
    for path, word in sorted(files.items()):
        is_linked = word.startswith("h") and first.setdefault(word, path) != path
        members.append(hard(path, first[word]) if is_linked else (path, word.encode()))
    _unpack(directory, members)


def edit_linked(rootfs: Path, before: dict[str, str], after: dict[str, str]) -> None:
    """Replace, remove and add files; those of the same word become hard links of each other."""
    for path in before:
        if after.get(path) != before[path]:
            (rootfs / path).unlink()
    for path, word in after.items():
        if before.get(path) == word:
            continue
        others = [other for other in after if after[other] == word and (rootfs / other).exists()]
        if word.startswith("h") and others:
            os.link(rootfs / others[0], rootfs / path)
        else:
            (rootfs / path).write_text(word)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(_LINKED, _LINKED, _LINKED)
@example({"usr/a": "h1", "usr/b": "h1"}, {"usr/a": "h1", "usr/b": "1"}, {"usr/a": "h2", "usr/b": "h2"})
@example({}, {"etc/a": "h1", "home/a": "h1"}, {"etc/a": "h2", "usr/b": "h2"})
def test_hard_links_stay_those_of_their_side(base: dict[str, str], disk: dict[str, str], new: dict[str, str]) -> None:
    """Two names are one file afterwards if they come from one side, and are one file there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        directory = Path(name)
        unpack_linked(directory / "old", base)
        old, rootfs = directory / "old/rootfs", directory / "new/rootfs"
        edit_linked(old, base, disk)
        unpack_linked(directory / "new", new)
        of_image = {path: (rootfs / path).stat().st_ino for path in new}
        merge(directory / "old", directory / "new")
        tops: Files = dict.fromkeys(TOPS)
        expected = model({**tops, **base}, {**tops, **disk}, {**tops, **new})
        assert described(rootfs) == expected
        sides = {}
        for path in filter(lambda path: expected[path] is not None, expected):
            is_users = keeps(path, {**tops, **base}, {**tops, **disk}, {**tops, **new})
            origin = old / path if is_users else None
            sides[path] = origin.stat().st_ino if origin else -of_image[path.removesuffix(".provision-new")]
        for one in sides:
            for other in sides:
                assert (rootfs / one).samefile(rootfs / other) == (sides[one] == sides[other]), (one, other)


# Modes: of files and directories that all three sides have.

_MODES = st.dictionaries(
    st.sampled_from([f"{top}/{name}" for top in TOPS for name in ("a", "d/")]),
    st.tuples(st.sampled_from("12"), st.sampled_from([0o755, 0o700, 0o711, 0o4755])),
)
Modes = dict[str, tuple[str, int]]


def unpack_modes(directory: Path, files: Modes) -> None:
    members: list[Member] = [member(top, None) for top in TOPS]
    for path, (content, mode) in sorted(files.items()):
        if path.endswith("/"):
            members.append(special(path, tarfile.DIRTYPE, mode=mode, mtime=5))
            continue
        members.append((path, content.encode(), mode))
    _unpack(directory, members)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(_MODES, _MODES, _MODES)
def test_modes_are_merged_apart_from_content(base: Modes, disk: Modes, new: Modes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        directory = Path(name)
        unpack_modes(directory / "old", base)
        old, rootfs = directory / "old/rootfs", directory / "new/rootfs"
        for path in base.keys() - disk.keys():
            (old / path).rmdir() if path.endswith("/") else (old / path).unlink()
        for path, (content, mode) in disk.items():
            if path.endswith("/"):
                (old / path).mkdir(exist_ok=True)
            elif path not in base or base[path][0] != content:
                (old / path).write_text(content)
            (old / path).chmod(mode)
        unpack_modes(directory / "new", new)
        merge(directory / "old", directory / "new")
        for path in base.keys() | disk.keys() | new.keys():
            expected = mode_of_the_model(path, base, disk, new)
            found = (rootfs / path).stat().st_mode & 0o7777 if (rootfs / path).exists() else None
            assert found == expected, path


def mode_of_the_model(path: str, base: Modes, disk: Modes, new: Modes) -> int | None:
    """The mode that a path has in the end, None where there is none; written without a look at the code."""

    def content(side: Modes) -> str:
        return MISSING if path not in side else "" if path.endswith("/") else side[path][0]

    was, now, will = content(base), content(disk), content(new)
    is_users = now not in (was, will) and (was == will or now == MISSING or not path.startswith("usr/"))
    side = disk if is_users else new
    if path not in side:
        return None
    if MISSING in (was, now, will):
        return side[path][1]
    old, ours, theirs = (tree[path][1] for tree in (base, disk, new))
    if ours in (old, theirs):
        return theirs
    if old == theirs:
        return ours
    return theirs if path.startswith("usr/") else ours


# A directory that is a symlink to another one in the new image.

_MERGED = st.dictionaries(
    st.sampled_from(["lib/a", "lib/b", "lib/d/a", "usr/lib/a", "usr/lib/b", "usr/lib/d/a"]), _TEXTS
)
_IMAGE = st.dictionaries(st.sampled_from(["usr/lib/a", "usr/lib/b", "usr/lib/d/a"]), _TEXTS)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(_MERGED, _MERGED, _IMAGE)
@example({"lib/a": "1"}, {"lib/a": "2", "usr/lib/a": "3"}, {"usr/lib/a": "1"})
@example({}, {"lib/a": "2", "usr/lib/a": "3"}, {})
@example({"lib/d/a": "1"}, {"usr/lib/d/a": "1"}, {"usr/lib/d/a": "2"})
@example({"lib/d/a": "1"}, {"usr/lib/d/a": "1"}, {"usr/lib/d/a": "1"})
def test_after_the_merge_of_usr(base: dict[str, str], disk: dict[str, str], new: dict[str, str]) -> None:
    """What is below /lib is compared with what is below /usr/lib, and comes there."""
    tops: Files = {"lib": None, "usr": None, "usr/lib": None}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        directory = Path(name)
        old_files, disk_files = with_parents({**tops, **base}), with_parents({**tops, **disk})
        unpack(directory / "old", old_files)
        edit(directory / "old/rootfs", old_files, disk_files)
        unpack(directory / "new", with_parents({"usr": None, "usr/lib": None, "lib": "=usr/lib", **new}))
        merged = merge(directory / "old", directory / "new")
        found = {path: text for path, text in described(directory / "new/rootfs").items() if text is not None}
    expected: dict[str, str] = {"lib": "=usr/lib", **new}
    for path in sorted(base.keys() | disk.keys()):
        place = path if path.startswith("usr/") else f"usr/{path}"
        if place != path and (place in base or place in disk):
            continue  # one place for two files: that of /usr comes
        was, now, will = base.get(path), disk.get(path), new.get(place)
        if now not in (was, will) and (was == will or now is None):
            expected.pop(place, None)
            if now is not None:
                expected[place] = now
    assert found == expected, merged


def with_parents(files: Files) -> Files:
    """The same with the directories above each path."""
    above = {path[:at]: None for path in files for at, letter in enumerate(path) if letter == "/"}
    return dict(sorted({**above, **files}.items()))
