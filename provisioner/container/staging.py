"""All or nothing: a directory is made under another name beside its place, and renamed when it is complete.

The staging directory of `DIR` is its sibling `.DIR.provision`. The run that works there holds a lock on it. The lock
ends with the process, so the next run recognises and removes what a killed run has left. The staging directory holds
`new`, which is being made; `old`, which is being replaced; and `parents`, a file with the number of directories above
that were created for it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.descriptors import DIRECTORY
from provisioner.filesystem.locks import lock
from provisioner.filesystem.mounts import mount_points_in
from provisioner.filesystem.removal import remove_tree
from provisioner.terminal.escaping import printable

_NAME_MAX = 255
_LOCK_SECONDS = 1.0
"""How long the child processes of a killed run may take to end: they hold its lock, too."""


class Staging:
    """A context in which `path` is a new, empty directory; `commit()` puts it in the place of `target`.

    The directory `scratch` may be created for temporary files. Leaving the context removes it; without a commit it also
    removes `path` and the parents that were created for it. Only `commit()` touches what is at `target`. Entering
    raises TargetExists when another run is at work there, and MachineError.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._folder = _staging_directory(target)
        self._name = os.fsencode(self._folder.name)
        self.path = self._folder / "new"
        self.scratch = scratch_directory(target)
        self._old = self._folder / "old"
        self._created_parents = 0
        self._action = f"make {printable(str(target))}"

    def __enter__(self) -> Staging:
        """Lock the staging directory, clean up after a killed run, and check what the file system can do."""
        with machine_errors(self._action):
            try:
                self._create_parents()
                self._parent = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    with suppress(FileNotFoundError):
                        os.lstat(self.target)  # raises for a name that is too long, before any work is done
                    self._lock = self._create_and_lock()
                except BaseException:
                    os.close(self._parent)
                    raise
            except BaseException:
                self._remove_parents()
                raise
        try:
            with self._cleanup_errors():
                self._recover()
            with machine_errors(self._action):
                self._record_parents()
                self.path.mkdir(mode=0o700)
                _check_file_system(self.path)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed, and what was replaced."""
        try:
            with self._cleanup_errors():
                self._clean_up()
        except MachineError:
            if error is None:  # an earlier error matters more, and the next run cleans up
                raise

    def commit(self) -> None:
        """Put the new directory in the place of `target`. Raises TargetExists where something is mounted there.

        A directory that is replaced is first moved into the staging directory, so for a moment neither is in place.
        Where a run ends at that moment, the next one puts the old directory back.
        """
        shown = printable(str(self.target))
        with machine_errors(f"put {shown} in place"):
            if mounts := mount_points_in(self.target):
                mounted = printable(mounts[-1])
                raise TargetExists(
                    f"{mounted} is a mount point", f"unmount it, or choose another directory than {shown}"
                )
            try:
                os.rename(self.path, self.target)  # this also replaces an empty directory
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                os.rename(self.target, self._old)
                os.rename(self.path, self.target)

    def _create_parents(self) -> None:
        for parent in reversed(self.target.parents):
            if not parent.exists():
                try:
                    parent.mkdir()
                    self._created_parents += 1
                except FileExistsError:  # another run created it, so those above aren't ours to remove either
                    self._created_parents = 0

    def _record_parents(self) -> None:
        """Write down how many parents were created, for the run that cleans up if this one is killed."""
        file = self._folder / "parents"
        with suppress(FileNotFoundError, ValueError):
            self._created_parents = max(self._created_parents, int(file.read_bytes()))
        file.write_bytes(b"%d" % self._created_parents)

    def _remove_parents(self) -> None:
        """Remove the parents that were created, as far as they are empty."""
        for parent in self.target.parents[: self._created_parents]:
            try:
                parent.rmdir()
            except OSError:  # somebody uses it by now
                return

    def _create_and_lock(self) -> int:
        """Create the staging directory, lock it and return it open.

        Raises TargetExists when another run still holds the lock after _LOCK_SECONDS.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
            except FileExistsError:
                self._check_owner()
            try:
                return self._open_and_lock()
            except FileNotFoundError:  # another run has finished, and removed it, between two of our steps
                continue
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_SECONDS / 100)
                    continue
                message = f"another run is at work on {printable(str(self.target))}"
                raise TargetExists(message, "wait until it has finished") from None

    def _open_and_lock(self) -> int:
        """Open and lock the staging directory. Raises FileNotFoundError where it is gone, BlockingIOError if locked."""
        folder = os.open(self._name, DIRECTORY, dir_fd=self._parent)
        try:
            lock(folder, seconds=0)
            if not os.path.samestat(os.fstat(folder), self._lstat()):
                raise FileNotFoundError
            return folder
        except BaseException:
            os.close(folder)
            raise

    def _check_owner(self) -> None:
        """Raise TargetExists if others may write to the staging directory: they would decide what is put in place."""
        with suppress(FileNotFoundError):
            state = self._lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
                message = f"{printable(str(self._folder))} is no directory that only this user may write to"
                raise TargetExists(message, "move it away, or ask its owner to")

    def _lstat(self) -> os.stat_result:
        return os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)

    def _recover(self) -> None:
        """Put back what an interrupted commit was replacing, and empty the staging directory except for `parents`."""
        names = set(os.listdir(self._lock)) - {"parents"}
        if {"old", "new"} <= names:
            os.rename(self._old, self.target)
            names.remove("old")
        for name in names:
            remove_tree(self._lock, os.fsencode(name))

    @contextmanager
    def _cleanup_errors(self) -> Iterator[None]:
        """Turn an OSError into a MachineError that says what is left and who can remove it."""
        shown = printable(str(self._folder))
        try:
            with machine_errors(f"clean up {shown}"):
                yield
        except MachineError as error:
            error.hint = f"remove {shown}, as the owner of what is in it"
            raise

    def _clean_up(self) -> None:
        """Remove the staging directory and, where nothing is at `target`, the parents that were created."""
        self._recover()
        with suppress(FileNotFoundError):
            os.unlink("parents", dir_fd=self._lock)
        os.rmdir(self._name, dir_fd=self._parent)
        os.close(self._lock)
        if not os.path.lexists(self.target):
            self._remove_parents()
        os.close(self._parent)


def _check_file_system(directory: Path) -> None:
    """Raise MachineError unless the file system has symlinks and execute permission, which a rootfs needs."""
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
