"""All or nothing: a directory is made under another name beside its place, and renamed when it is whole.

The staging directory of `DIR` is its sibling `.DIR.provision`. Whoever works there holds a lock on it that ends with
the process, so that what a killed run left is known as that, and cleaned up by the next run. It holds `new`, which is
being made; `old`, which is being replaced; and `parents`, the number of directories above that were made for it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.removal import DIRECTORY, remove_tree
from provisioner.terminal.escaping import printable

_NAME_MAX = 255
_LOCK_SECONDS = 1.0
"""How long the processes of a run that was killed may take to notice it: they hold its lock, too."""


class Staging:
    """A context in which `path` is a new, empty directory; `commit()` puts it in the place of `target`.

    `scratch` may be made for what is needed meanwhile only. Leaving the context takes that away; without a commit it
    takes all away again, and the parents that were made for it. What stands at
    `target` is touched by `commit()` only. Raises InTheWay when another run is at work there, MachineError.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._folder = _staging_directory(target)
        self._name = os.fsencode(self._folder.name)
        self.path = self._folder / "new"
        self.scratch = scratch_directory(target)
        self._old = self._folder / "old"
        self._made = 0
        self._what = f"make {printable(str(target))}"

    def __enter__(self) -> Staging:
        """Lock the staging directory, clean up after a killed run, and see that this file system will do."""
        with machine_errors(self._what):
            try:
                self._make_parents()
                self._parent = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    with suppress(FileNotFoundError):
                        os.lstat(self.target)  # no name that only commit() finds too long
                    self._lock = self._locked()
                except BaseException:
                    os.close(self._parent)
                    raise
            except BaseException:
                self._unmake_parents()
                raise
        try:
            with self._cleaning():
                self._recover()
            with machine_errors(self._what):
                self._note_parents()
                self.path.mkdir(mode=0o700)
                _probe(self.path)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take away what was not committed, and what was replaced."""
        try:
            with self._cleaning():
                self._clean_up()
        except MachineError:
            if error is None:  # else that is what matters, and the next run cleans up
                raise

    def commit(self) -> None:
        """Put the new directory in the place of `target`. Raises InTheWay where something is mounted there.

        Where something is replaced there is a moment without either; a run that ends just then leaves the old one
        in the staging directory, and whoever cleans up puts it back.
        """
        shown = printable(str(self.target))
        with machine_errors(f"put {shown} in place"):
            if mounts := mounts_in(self.target):
                mounted = printable(mounts[-1])
                raise TargetExists(
                    f"{mounted} is a mount point", f"unmount it, or choose another directory than {shown}"
                )
            try:
                os.rename(self.path, self.target)  # also over an empty directory
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                os.rename(self.target, self._old)
                os.rename(self.path, self.target)

    def _make_parents(self) -> None:
        for parent in reversed(self.target.parents):
            if not parent.exists():
                try:
                    parent.mkdir()
                    self._made += 1
                except FileExistsError:  # another run's, as are those above
                    self._made = 0

    def _note_parents(self) -> None:
        """Leave the number of parents that were made for the one who cleans up after us."""
        note = self._folder / "parents"
        with suppress(FileNotFoundError, ValueError):
            self._made = max(self._made, int(note.read_bytes()))
        note.write_bytes(b"%d" % self._made)

    def _unmake_parents(self) -> None:
        for parent in self.target.parents[: self._made]:
            try:
                parent.rmdir()
            except OSError:  # somebody uses it by now
                return

    def _locked(self) -> int:
        """The staging directory, made and locked."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
            except FileExistsError:
                self._check_ours()
            try:
                folder = os.open(self._name, DIRECTORY, dir_fd=self._parent)
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not os.path.samestat(os.fstat(folder), self._state()):
                        raise FileNotFoundError
                    return folder
                except BaseException:
                    os.close(folder)
                    raise
            except FileNotFoundError:  # its owner has finished between two of our steps
                continue
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_SECONDS / 100)
                    continue
                what = f"another run is at work on {printable(str(self.target))}"
                raise TargetExists(what, "wait until it has finished") from None

    def _check_ours(self) -> None:
        """Whoever may write to the staging directory decides what is put in place. Raises InTheWay."""
        with suppress(FileNotFoundError):
            state = self._state()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
                what = f"{printable(str(self._folder))} is no directory that only this user may write to"
                raise TargetExists(what, "move it away, or ask its owner to")

    def _state(self) -> os.stat_result:
        """`lstat` of the staging directory."""
        return os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)

    def _recover(self) -> None:
        """Finish or undo what a commit has begun, and take the rest away but for the number of parents."""
        names = set(os.listdir(self._lock)) - {"parents"}
        if {"old", "new"} <= names:
            os.rename(self._old, self.target)
            names.remove("old")
        for name in names:
            remove_tree(self._lock, os.fsencode(name))

    @contextmanager
    def _cleaning(self) -> Iterator[None]:
        shown = printable(str(self._folder))
        try:
            with machine_errors(f"clean up {shown}"):
                yield
        except MachineError as error:
            error.hint = f"remove {shown}, as the owner of what is in it"
            raise

    def _clean_up(self) -> None:
        self._recover()
        with suppress(FileNotFoundError):
            os.unlink("parents", dir_fd=self._lock)
        os.rmdir(self._name, dir_fd=self._parent)
        os.close(self._lock)
        if not os.path.lexists(self.target):
            self._unmake_parents()
        os.close(self._parent)


def mounts_in(directory: Path) -> list[str]:
    """The mount points at and below `directory` that this process sees, as proc_pid_mountinfo(5) lists them."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # no /proc; then rename() and remove_tree() notice
        return []
    points = [re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split()[4]) for line in lines]
    return [os.fsdecode(point) for point in points if Path(os.fsdecode(point)).is_relative_to(directory)]


def _probe(directory: Path) -> None:
    """See that a rootfs can live here. Raises MachineError."""
    hint = "choose a directory on another file system; on Android one in Termux's home, not shared storage"
    shown = printable(str(directory.parent.parent))
    link, file = directory / "probe-link", directory / "probe"
    try:
        link.symlink_to("target")
    except OSError as error:
        if error.errno not in _NO_SYMLINKS:
            raise
        raise MachineError(f"{shown} is on a file system without symlinks", hint) from error
    link.unlink()
    file.touch(0o600)
    file.chmod(0o700)
    if not file.stat().st_mode & stat.S_IXUSR:
        raise MachineError(f"{shown} is on a file system without execute permission", hint)
    file.unlink()


_NO_SYMLINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def scratch_directory(target: Path) -> Path:
    """Return where the staging of `target` has its `scratch`, whether that exists or not."""
    return _staging_directory(target) / "scratch"


def _staging_directory(target: Path) -> Path:
    """Return the sibling of `target` that it is made in. Its name is a hash where the usual one would be too long."""
    name = os.fsencode(target.name)
    if len(name) + len(b"..provision") > _NAME_MAX:
        name = hashlib.sha256(name).hexdigest().encode()
    return target.parent / os.fsdecode(b".%s.provision" % name)
