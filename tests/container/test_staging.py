"""Staging: killed at every step, interrupted, several at once, on file systems that can't."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioner.container import staging_lock
from provisioner.container.recovery import put_back
from provisioner.container.staging import Staging
from provisioner.errors import MachineError, NotTrusted, TargetExists
from provisioner.filesystem.atomic import write_new
from provisioner.filesystem.descriptors import directory_descriptor
from provisioner.filesystem.mounts import mount_points_in
from provisioner.terminal.progress import Console
from tests.support.disks import tmpfs
from tests.support.leftovers import open_descriptors, staging_below
from tests.support.tools import CHECKOUT, as_user, need_root, own, run, user_python

# Makes a directory at argv[1] and is killed before its step argv[2]; commits if argv[3] says so.
# A step is an audit event of Python (sys.addaudithook) that changes the file system or looks at it.
SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from provisioner.container.recovery import put_back
from provisioner.container.staging import Staging

STEPS = "open fcntl.flock os.chmod os.listdir os.mkdir os.remove os.rename os.rmdir os.symlink".split()
left = int(sys.argv[2])

def step(event, args):
    global left
    if event in STEPS:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
with Staging(Path(sys.argv[1])) as staging:
    (staging.path / "sub").mkdir()
    (staging.path / "sub/file").write_text("new")
    if sys.argv[3] != "give up":
        staging.commit(keep_as="target.before" if sys.argv[3] == "keep" else "")
"""


def work(target: Path, step: int, end: str) -> int:
    """Run the script to its end, or to `step`; its exit status."""
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, str(target), str(step), end, str(CHECKOUT)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def content(target: Path) -> str:
    """What is at `target`: `absent`, `old`, `new`, `empty`, or what is wrong with it."""
    if not target.exists():
        return "absent"
    files = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    known = [({"sub/file": "new"}, "new"), ({"a/file": "old", "b": "old"}, "old"), ({}, "empty")]
    return next((name for tree, name in known if files == tree), f"broken: {files}")


def prepare(target: Path, before: str) -> None:
    if before == "old":
        (target / "a").mkdir(parents=True)
        (target / "a/file").write_text("old")
        (target / "b").write_text("old")
    elif before == "empty":
        target.mkdir(parents=True)


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "rename"])
@pytest.mark.parametrize("end", ["commit", "keep", "give up"])
@pytest.mark.parametrize("before", ["absent", "empty", "old"])
@pytest.mark.slow
def test_killed_before_every_step(
    tmp_path: Path, before: str, end: str, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:  # as on NFS
        monkeypatch.setattr("provisioner.container.staging.exchange", lambda *_: False)
    target = tmp_path / "base/parent/target"
    note = target.parent / ".target.provision/parents"
    found, parents_taken_away = [], False
    for step in range(1, 200):
        prepare(target, before)
        ended = work(target, step, end)
        # Between two renames there is neither.
        assert content(target) in (before, "new", *([] if can_exchange else ["absent"]))
        if target.parent.exists() and step % 2:  # as a command that only looks there
            with directory_descriptor(target.parent) as parent:
                put_back(parent, target.name)
            assert content(target) in (before, "new")
        has_note = note.exists() and note.read_text() == "2"
        with Staging(target):
            pass
        assert content(target) in (before, "new")
        is_kept = (end, before, content(target)) == ("keep", "old", "new")
        assert content(target.with_name("target.before")) == ("old" if is_kept else "absent")
        assert staging_below(tmp_path) == []
        if has_note and not target.exists():
            assert list(tmp_path.iterdir()) == []
            parents_taken_away = True
        found.append(content(target))
        shutil.rmtree(tmp_path / "base", ignore_errors=True)
        if ended == 0:
            break
    else:
        pytest.fail("it never comes to its end")
    assert len(found) > 10
    # The step that makes the difference is one.
    assert found == sorted(found, key=[before, "new"].index)
    assert found[-1] == (before if end == "give up" else "new")
    assert parents_taken_away == (before == "absent")


# In one process


def test_what_is_committed_is_in_place_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a/b/target"
    with Staging(target) as staging:
        (staging.path / "file").write_text("new")
        assert not target.exists()
        staging.commit()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "a",
        "a/b",
        "a/b/target",
        "a/b/target/file",
    ]


def test_what_is_not_committed_leaves_nothing_not_even_parents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with Staging(tmp_path / "a/b/c/target") as staging:
        (staging.path / "file").write_text("new")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_parents_that_somebody_uses_by_then_stay(tmp_path: Path) -> None:
    with Staging(tmp_path / "a/b/target"):
        (tmp_path / "a/theirs").touch()
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/theirs"]


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("before", ["absent", "empty", "old"])
def test_an_error_leaves_all_as_it_was(tmp_path: Path, before: str) -> None:
    target = tmp_path / "target"
    prepare(target, before)
    with pytest.raises(Interrupted), Staging(target):
        raise Interrupted
    assert content(target) == before
    assert staging_below(tmp_path) == []


def test_an_interrupt_between_the_two_renames_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C can come just then."""
    target = tmp_path / "target"
    prepare(target, "old")
    monkeypatch.setattr("provisioner.container.staging.exchange", lambda *_: False)
    rename = os.rename

    def interrupted(old: str, new: str, **where: int) -> None:
        rename(old, new, **where)
        if old == target.name:
            monkeypatch.undo()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Staging(target) as staging:  # noqa: PT012
        monkeypatch.setattr(os, "rename", interrupted)
        staging.commit()
    assert content(target) == "old"
    assert staging_below(tmp_path) == []


@pytest.mark.parametrize("failing", ["sync_below", "sync_directory", "sync_directories"])
@pytest.mark.parametrize("before", ["absent", "old"])
def test_a_disk_that_fails_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, failing: str
) -> None:
    """Before the rename and after it; a disk that really fails is in the tests of power cuts."""

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    target = tmp_path / "parent/target"
    prepare(target, before)
    monkeypatch.setattr(f"provisioner.container.staging.{failing}", fail)
    message = f"write {target} to the disk: Input/output error"
    with pytest.raises(MachineError, match=message) as raised, Staging(target) as staging:  # noqa: PT012
        (staging.path / "file").touch()
        staging.commit(sync=True)
    assert "another disk" in raised.value.hint
    assert content(target) == before
    assert os.listdir(tmp_path) == ([] if before == "absent" else ["parent"])
    assert staging_below(tmp_path) == []


def test_who_waits_for_a_slow_disk_reads_how_much_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(directory: int, waiting: Callable[[int | None], None]) -> None:
        waiting(427_000_000)
        waiting(None)

    monkeypatch.setattr("provisioner.container.staging.sync_below", slow)
    with Staging(tmp_path / "target") as staging:
        staging.commit(Console(), sync=True)
    assert capsys.readouterr().err == "writing 427.0 MB to the disk\nwriting files to the disk\n"


@pytest.mark.parametrize("name", ["n" * 243, "n" * 244, "n" * 255, "\u00fc" * 127, "sp ace", "new\nline", "\udcff"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    with Staging(tmp_path / name) as staging:
        staging.commit()
    assert os.listdir(tmp_path) == [name]


def test_what_a_killed_run_has_forked_may_take_a_moment_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock that it has inherited."""
    monkeypatch.setattr(staging_lock, "_SECONDS", 60)
    folder = tmp_path / ".target.provision"
    folder.mkdir(mode=0o700)
    locked_directory = os.open(folder, os.O_RDONLY)
    fcntl.flock(locked_directory, fcntl.LOCK_EX)
    threading.Timer(0.3, os.close, [locked_directory]).start()
    with Staging(tmp_path / "target") as staging:
        staging.commit()
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.slow
def test_one_run_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "a/target"
    with Staging(target) as first:
        (first.path / "file").write_text("x")
        with pytest.raises(TargetExists, match="another run is at work") as raised, Staging(target):
            pass
        assert "wait" in raised.value.hint
        with Staging(tmp_path / "a/other") as other:
            other.commit()
        first.commit()
    assert sorted(os.listdir(tmp_path / "a")) == ["other", "target"]


def test_a_lock_on_a_directory_that_was_just_removed_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flock = Staging(tmp_path / "target"), fcntl.flock
    locked: list[int] = []

    def late(folder: int, how: int) -> None:
        if not locked:
            first.__exit__(None, None, None)
        flock(folder, how)
        locked.append(folder)

    first.__enter__()
    monkeypatch.setattr(fcntl, "flock", late)
    with Staging(tmp_path / "target") as second:
        assert len(locked) == 2
        second.commit()
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.slow
def test_many_at_once_never_mix(tmp_path: Path) -> None:
    """Locks belong to open files, so threads stand for processes."""
    target, problems, commits = tmp_path / "target", [], []
    before = len(open_descriptors())

    def provision() -> None:
        for _ in range(60):
            try:
                with Staging(target) as staging:
                    (staging.path / "sub").mkdir()
                    (staging.path / "sub/file").write_text("new")
                    staging.commit()
                    commits.append(1)
            except TargetExists:
                pass
            except BaseException as problem:  # noqa: BLE001 - threads keep their errors to themselves
                problems.append(problem)

    threads = [threading.Thread(target=provision) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(open_descriptors()) == before
    assert commits
    assert content(target) == "new"
    assert os.listdir(tmp_path) == ["target"]


# In the way


def test_a_mount_point_is_not_replaced(tmp_path: Path) -> None:
    need_root()
    for name, mounted in (("target", "target"), ("other", "other/rootfs/dev")):
        (tmp_path / mounted).mkdir(parents=True)
        with tmpfs(tmp_path / mounted):
            (tmp_path / mounted / "dear").touch()
            assert mount_points_in(tmp_path / name) == [str(tmp_path / mounted)]
            with pytest.raises(TargetExists, match=f"{mounted} is a mount point"), Staging(tmp_path / name) as staging:
                staging.commit()
            assert (tmp_path / mounted / "dear").exists()
            assert staging_below(tmp_path) == []


@pytest.mark.parametrize("what", ["file", "link", "open", "theirs"])
def test_a_staging_directory_that_is_not_ours_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / ".target.provision"
    if what == "theirs":
        need_root()
    if what == "file":
        folder.touch()
    elif what == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to("elsewhere")
    else:
        folder.mkdir()
        if what == "open":
            folder.chmod(0o777)
        else:
            own(folder)
    with pytest.raises(TargetExists, match=r"\.target\.provision is no directory that only this user") as raised:
        Staging(tmp_path / "target").__enter__()
    assert raised.value.hint
    assert folder.exists()
    folder.rename(tmp_path / "seen")


# What the machine can't


def refused(target: Path) -> MachineError:
    with pytest.raises(MachineError) as raised, Staging(target):
        pass
    assert raised.value.hint
    return raised.value


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in ("file/target", "file/a/target"):
        with pytest.raises(TargetExists, match="a part of this path is a file"), Staging(tmp_path / target):
            pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "File name too long" in refused(tmp_path / "a" / ("n" * 256)).message
    assert os.listdir(tmp_path) == []


ENTER = """
import sys
from pathlib import Path
from provisioner.errors import MachineError
from provisioner.container.recovery import put_back
from provisioner.container.staging import Staging
try:
    with Staging(Path(sys.argv[1])) as staging:
        staging.commit()
except MachineError as error:
    print(error.message, error.hint, sep="\\n")
"""


def refused_to_user(target: Path) -> str:
    """Make `target` as the unprivileged user, and return the error and its hint."""
    python, found_by = user_python()
    return run(python, "-c", ENTER, target, **as_user(**found_by))


def test_a_parent_that_may_not_be_written_to(place: Path) -> None:
    (place / "closed").mkdir()
    own(place / "closed").chmod(0o555)
    for target in (place / "closed/target", place / "closed/a/target"):
        printed = refused_to_user(target)
        assert printed == f"make {target}: Permission denied\nchoose a directory that you may write to\n"


def test_replaced_files_that_belong_to_others_are_reported(place: Path) -> None:
    need_root()
    (place / "target/theirs/x").mkdir(parents=True)
    own(place / "target")
    folder = place / ".target.provision"
    for _ in ("this run", "the next one"):
        printed = refused_to_user(place / "target")
        assert printed == f"clean up {folder}: Permission denied\nremove {folder}, as the owner of what is in it\n"
        assert os.listdir(place / "target") == []
    shutil.rmtree(folder)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two files."""
    path = tmp_path / "small"
    with tmpfs(path, "size=4k,nr_inodes=4"):
        yield path


def test_a_full_file_system_is_not_called_one_without_symlinks(small: Path) -> None:
    error = refused(small / "target")
    assert error.message == f"make {small / 'target'}: No space left on device"
    assert os.listdir(small) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_a_file_system_without_symlinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As on shared storage of Android; a real one is mounted in the tests of bad input."""

    def symlink(*args: object, **options: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "symlink", symlink)
    error = refused(tmp_path / "target")
    assert error.message == f"{tmp_path} is on a file system without symlinks"
    assert os.listdir(tmp_path) == []


def test_the_new_directory_is_closed_to_others(tmp_path: Path) -> None:
    with Staging(tmp_path / "target") as staging:
        assert stat.S_IMODE(staging.path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(staging.path.stat().st_mode) == 0o700
        staging.commit()


# Others who can touch the directories above


def test_no_path_is_looked_up_twice(tmp_path: Path) -> None:
    """The user who became root may still move what is theirs: the work goes on where it began."""
    (tmp_path / "parent").mkdir()
    (tmp_path / "outside").mkdir()
    with Staging(tmp_path / "parent/target") as staging:
        (tmp_path / "parent").rename(tmp_path / "moved")
        (tmp_path / "parent").symlink_to("outside")
        write_new(staging.new, "file", b"new")
        staging.commit()
    assert (tmp_path / "moved/target/file").read_bytes() == b"new"
    assert os.listdir(tmp_path / "moved") == ["target"]
    assert os.listdir(tmp_path / "outside") == []


def test_a_link_that_comes_after_the_path_was_resolved_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "parent").symlink_to("outside")
    with pytest.raises(MachineError, match="Too many levels"):
        Staging(tmp_path / "parent/target").__enter__()
    assert os.listdir(tmp_path / "outside") == []


def test_parents_that_a_stranger_creates_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    mkdir = os.mkdir

    def late(name: str, mode: int = 0o777, **where: int) -> None:
        monkeypatch.undo()
        mkdir(tmp_path / "shared/a")
        os.chown(tmp_path / "shared/a", 1234, 1234)
        mkdir(name, mode, **where)

    monkeypatch.setattr(os, "mkdir", late)
    with pytest.raises(NotTrusted, match="shared/a belongs to the user 1234"):
        Staging(tmp_path / "shared/a/b/target").__enter__()
    assert os.listdir(tmp_path / "shared/a") == []


def test_parents_that_roots_umask_would_open_to_all(tmp_path: Path) -> None:
    need_root()
    before = os.umask(0)
    try:
        for _ in ("made", "replaced"):
            with Staging(tmp_path / "a/b/target") as staging:
                staging.commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755


def test_parents_are_removed_where_the_rest_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="File name too long"):
        Staging(tmp_path / "a/b" / ("n" * 256) / "target").__enter__()
    assert os.listdir(tmp_path) == []


SWAP = """
import os, sys
os.chdir(sys.argv[1])
print(flush=True)
while True:
    os.rename("parent", "away")
    os.symlink("outside", "parent")
    os.unlink("parent")
    os.rename("away", "parent")
"""


def test_swaps_by_the_user_who_became_root_lead_nowhere(place: Path) -> None:
    """As fast as can be, while root provisions: nothing is ever made where the link leads."""
    need_root()
    (place / "parent").mkdir()
    own(place / "parent")
    (place / "outside").mkdir(mode=0o755)
    python, found_by = user_python()
    before = len(open_descriptors())
    options = as_user(**found_by)
    with subprocess.Popen([python, "-c", SWAP, place], stdout=subprocess.PIPE, **options) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        commits = 0
        for _ in range(400):
            try:
                with Staging(place / "parent/target") as staging:
                    write_new(staging.new, "file", b"new")
                    staging.commit()
                    commits += 1
            except (MachineError, TargetExists):
                continue
        swapper.kill()
    assert commits
    assert os.listdir(place / "outside") == []
    assert len(open_descriptors()) == before
    for parent in ("parent", "away"):
        shutil.rmtree(place / parent, ignore_errors=True)


def test_a_stranger_s_record_above_does_not_keep_anybody_from_making_one(tmp_path: Path) -> None:
    need_root()
    (tmp_path / ".provision").mkdir()
    (tmp_path / ".provision/record.json").touch()
    with pytest.raises(TargetExists, match="inside of the container"), Staging(tmp_path / "new"):
        pass
    os.chown(tmp_path / ".provision", 4321, 4321)
    with Staging(tmp_path / "new"):
        pass
