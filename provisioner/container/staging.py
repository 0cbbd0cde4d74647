"""All or nothing: a directory is made under another name beside its place, and renamed when it is complete.

The staging directory of `DIR` is its sibling `.DIR.provision`. The run that works there holds a lock on it. The lock
ends with the process, so the next run recognises and removes what a killed run has left. The staging directory holds
`new`, which is being made; `old`, which is being replaced; and `parents`, a file with the number of directories above
that were created for it.

All of it is relative to two directories that are opened once: the target's parent, whose path is walked name by name
(`filesystem.resolution`), and the staging directory itself. No other path is looked up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType

from provisioner.container.access import read_file, trust_errors
from provisioner.container.parents import open_parent, remove_empty
from provisioner.container.place import check_new, check_outside
from provisioner.container.recovery import (
    KEEP,
    NEW,
    OLD,
    recover,
    scratch_directory,
    staging_directory,
)
from provisioner.container.staging_lock import lock_staging
from provisioner.errors import MachineError, ProvisionError, TargetExists, machine_errors
from provisioner.filesystem.atomic import make_directory, write_new
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.exchange import exchange
from provisioner.filesystem.mounts import mount_points_in
from provisioner.filesystem.removal import names_in, remove_name
from provisioner.filesystem.sync import sync_below, sync_directories, sync_directory
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.progress import Console

_PARENTS = "parents"
MAKE = "make"
"""The action by which a directory comes to be that wasn't there."""
_HINTS_THERE = {
    errno.EROFS: "the file system has to be mounted writable; as root: mount -o remount,rw …",
    errno.EACCES: "only who may write to the directory that it is in can do that: be its owner, or root",
}
"""The hint for each errno of another action: DIR is there, so that another directory won't do."""


@contextmanager
def _hints(action: str) -> Iterator[None]:
    """Give a MachineError the hint for what is done with DIR."""
    try:
        yield
    except MachineError as error:
        if action == MAKE:
            error.hint = error.hint or "choose another directory"  # a file system such as /proc takes none
        else:
            error.hint = _HINTS_THERE.get(getattr(error.__cause__, "errno", 0), error.hint)
        raise


class Staging:
    """A context in which `new` is a new, empty directory; `commit()` puts it in the place of `target`.

    `target` is an absolute path without symlinks. The directory `scratch` is for temporary files. Leaving the
    context removes it; without a commit it also removes `new` and the parents that were created for it. Only
    `commit()` touches what is at `target`. Entering raises TargetExists when another run is at work there, or
    `target` is inside of a container, NotTrusted where a stranger could change what is put in place, and
    MachineError. With `report_waiting` it waits for the other run instead, and calls that once with a line about
    it. `action` is what is done with the target, for messages.
    """

    new: int
    """The descriptor of the new directory."""
    parent: int
    """The descriptor of the directory that the target is in, or will be."""

    def __init__(
        self,
        target: Path,
        trust: TrustedDirectories = NOBODY,
        report_waiting: Callable[[str], None] | None = None,
        *,
        action: str = MAKE,
    ) -> None:
        self.target = target
        self._trust = trust
        self._report_waiting = report_waiting
        self._folder = staging_directory(target)
        self._name = os.fsencode(self._folder.name)
        self.path = self._folder / NEW
        """The path of the new directory, for messages."""
        self.scratch = scratch_directory(target)
        self.new = -1
        self._created_parents = 0
        self._console: Console | None = None
        self._action, self._what = action, f"{action} {printable(str(target))}"

    def __enter__(self) -> Staging:
        """Lock the staging directory, clean up after a killed run, and check what the file system can do."""
        if self._action == MAKE:
            check_outside(self.target)
        with _hints(self._action), trust_errors(self._what):
            self.parent, self._created_parents = open_parent(self.target, self._trust)
            try:
                with suppress(FileNotFoundError):
                    self._lstat(self.target.name)  # raises for a name that is too long, before any work is done
                self._lock = lock_staging(self.parent, self.target, self._report_waiting)
            except BaseException:
                self._remove_parents()
                os.close(self.parent)
                raise
        try:
            with self._cleanup_errors():
                self._recover()
            self._make_new()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _make_new(self) -> None:
        """Create the new directory. Raises NotTrusted, and MachineError where the file system won't do."""
        with trust_errors(self._what):
            self._record_parents()
            os.mkdir(NEW, 0o700, dir_fd=self._lock)
            self.new = os.open(NEW, DIRECTORY, dir_fd=self._lock)
            check_new(self.new, self.target, self._trust)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed, and what was replaced."""
        try:
            with self._cleanup_errors(), self._activity("removing temporary files"):
                self._clean_up()
        except MachineError:
            if error is None:  # an earlier error matters more, and the next run cleans up
                raise

    def commit(
        self, console: Console | None = None, *, sync: bool = False, replace: bool = True, keep_as: str = ""
    ) -> None:
        """Put the new directory in the place of `target`. Raises TargetExists where something is mounted there.

        Without `replace` TargetExists is raised, too, where there is anything but an empty directory. What is replaced
        is removed, unless it gets the name `keep_as` beside `target`.

        With `sync` it is on the disk before, and its name when this returns, so that no power cut can take parts of it;
        where that fails MachineError is raised, and all is as it was. `console` gets a step where that takes long.

        A directory that is replaced changes places with the new one. Where the file system can't do that in one step,
        it is first moved into the staging directory, so for a moment neither is in place. Where a run ends at that
        moment, the next command that looks there puts the old directory back (`recovery`).
        """
        shown = printable(str(self.target))
        self._console = console
        with machine_errors(f"put {shown} in place"):
            if mounts := mount_points_in(self.target):
                mounted = printable(mounts[-1])
                raise TargetExists(
                    f"{mounted} is a mount point", f"unmount it, or choose another directory than {shown}"
                )
            if keep_as:  # for the next run, where this one is killed
                number = os.fstat(self.new).st_ino
                write_new(self._lock, KEEP, b"%d/%s" % (number, os.fsencode(keep_as)))
        if sync:
            with machine_errors(f"write {shown} to the disk"), self._activity("writing to the disk"):
                sync_below(self._lock, lambda count: _report_unwritten(console, count))
        with machine_errors(f"put {shown} in place"):
            try:
                self._put_in_place()  # this also replaces an empty directory
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EPERM):  # SFTP has only the last of them
                    raise
                if not replace:
                    raise TargetExists(f"{shown} was made meanwhile", "choose another directory") from None
                self._replace_target()
        if sync:
            with machine_errors(f"write {shown} to the disk"):
                self._sync_names()
        if keep_as:
            with machine_errors(f"keep the old {shown}"), suppress(FileNotFoundError):  # where nothing was replaced
                os.rename(OLD, keep_as, src_dir_fd=self._lock, dst_dir_fd=self.parent)
                if sync:
                    sync_directory(self.parent)

    def _activity(self, what: str) -> AbstractContextManager[None]:
        """Show what is being done, where there is a console by now."""
        return self._console.activity(what) if self._console else nullcontext()

    def _sync_names(self) -> None:
        """Have the name of `target` on the disk, and those of the parents that were created; undo the commit else."""
        try:
            sync_directory(self.parent)
            sync_directories(("/".join([".."] * level) for level in range(1, self._created_parents + 1)), self.parent)
        except OSError:
            with suppress(OSError):  # a disk that fails may allow no more changes; the first error matters
                os.rename(self.target.name, NEW, src_dir_fd=self.parent, dst_dir_fd=self._lock)
            raise

    def _replace_target(self) -> None:
        """Put the new directory in place of the old one, which becomes OLD in the staging directory."""
        if exchange(self._lock, NEW, self.parent, self.target.name):
            os.rename(NEW, OLD, src_dir_fd=self._lock, dst_dir_fd=self._lock)
            return
        os.rename(self.target.name, OLD, src_dir_fd=self.parent, dst_dir_fd=self._lock)
        self._put_in_place()

    def _put_in_place(self) -> None:
        os.rename(NEW, self.target.name, src_dir_fd=self._lock, dst_dir_fd=self.parent)

    def _record_parents(self) -> None:
        """Write down how many parents were created, for the run that cleans up if this one is killed."""
        text = read_file(self._lock, _PARENTS, str(self._folder / _PARENTS)) or b""
        with suppress(ValueError):
            self._created_parents = max(self._created_parents, int(text))
        with suppress(FileNotFoundError):
            os.unlink(_PARENTS, dir_fd=self._lock)
        # Without a mode: file systems without permissions are recognised later.
        write_new(self._lock, _PARENTS, b"%d" % self._created_parents, mode=None)

    def _remove_parents(self) -> None:
        """Remove the parents that were created, as far as they are empty."""
        remove_empty(self.parent, (parent.name for parent in self.target.parents[: self._created_parents]))

    def open_scratch(self, name: str) -> int:
        """Create the directory `name` for temporary files, and return it open. Raises OSError."""
        with suppress(FileExistsError):
            os.mkdir(self.scratch.name, 0o700, dir_fd=self._lock)
        with closing_descriptor(os.open(self.scratch.name, DIRECTORY, dir_fd=self._lock)) as scratch:
            return make_directory(scratch, name, 0o700)

    def _lstat(self, name: bytes | str = b"") -> os.stat_result:
        return os.stat(name or self._name, dir_fd=self.parent, follow_symlinks=False)

    def _recover(self) -> None:
        """Put back what an interrupted commit was replacing, and empty the staging directory except for `parents`."""
        recover(self._lock, self.parent, self.target.name, read_file(self._lock, KEEP, KEEP) or b"")
        for name in set(names_in(self._lock)) - {_PARENTS.encode()}:
            remove_name(self._lock, name)

    @contextmanager
    def _cleanup_errors(self) -> Iterator[None]:
        """Turn an OSError into a MachineError that says what is left and who can remove it."""
        shown = printable(str(self._folder))
        try:
            with machine_errors(f"clean up {shown}"):
                yield
        except MachineError as error:
            error.hint = f"remove {shown}, as the owner of what is in it"
            if getattr(error.__cause__, "errno", 0) == errno.EPERM:  # as root removes files of anybody
                error.hint += f"; where files are immutable, first: chattr -R -i {shell_word(str(self._folder))}"
            raise

    def _clean_up(self) -> None:
        """Remove the staging directory and, where nothing is at `target`, the parents that were created."""
        if self.new >= 0:
            os.close(self.new)
            self.new = -1
        self._recover()
        with suppress(FileNotFoundError):
            os.unlink(_PARENTS, dir_fd=self._lock)
        os.rmdir(self._name, dir_fd=self.parent)
        os.close(self._lock)
        try:
            self._lstat(self.target.name)
        except OSError:
            self._remove_parents()
        os.close(self.parent)


def finish_interrupted(target: Path, trust: TrustedDirectories = NOBODY) -> None:
    """Clean up after a run that was killed: `target` is whole again, or as it was. Does nothing where none was killed.

    Raises TargetExists while another run is at work, and what entering a Staging raises.
    """
    if os.path.isdir(staging_directory(target)):
        with Staging(target, trust, action="clean up after"):
            pass


def _report_unwritten(console: Console | None, count: int | None) -> None:
    """Write a step with the number of bytes that have yet to be written to the disk, if it is known."""
    if console:
        console.step(f"writing {'files' if count is None else size_text(count)} to the disk")


@contextmanager
def scratch_before_staging(target: Path, trust: TrustedDirectories = NOBODY) -> Iterator[Path]:
    """Yield the directory `scratch` of the staging of `target`, for who needs it before there is a staging.

    At the end it is gone, with all that was created for it, also where the block fails before there is a staging.
    """
    missing = [parent for parent in target.parents if not os.path.lexists(parent)]
    scratch = scratch_directory(target)
    try:
        yield scratch
    finally:
        if os.path.lexists(scratch):
            with suppress(ProvisionError), Staging(target, trust):  # which cleans up; another run may be at work
                pass
        for parent in missing:
            with suppress(OSError):
                os.rmdir(parent)
