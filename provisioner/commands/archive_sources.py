"""Opens sources that are archives or directories of images, and files that are recognised by their content."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.errors import MachineError, MalformedImage, NotFound, UsageError, error_context, machine_errors
from provisioner.filesystem.resolution import open_file
from provisioner.filesystem.trust import Untrusted
from provisioner.image.source_name import (
    DockerArchive,
    FileName,
    OciArchive,
    OciLayout,
    SkopeoDirectory,
    StandardInput,
)
from provisioner.terminal.escaping import printable

if TYPE_CHECKING:
    from provisioner.commands.source_options import Opening
    from provisioner.sources import Source
    from provisioner.sources.detection import FileStart
    from provisioner.sources.lazy import LocalImages
    from provisioner.sources.local import ImageFiles
    from provisioner.sources.members import Members
    from provisioner.store.url_files import UrlFile

_INPUTS = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def open_docker_archive(name: DockerArchive, opening: Opening) -> Source:
    """Return an image of a docker-archive, which is read when the image is asked for."""
    from provisioner.sources.docker_files import DockerFiles

    def files(members: Members) -> ImageFiles:
        return DockerFiles(members, f"docker-archive:{printable(str(name.path))}", name.choice)

    return _lazy(str(name), lambda: _images(name.path, str(name), files, opening))


def open_oci_archive(name: OciArchive, opening: Opening) -> Source:
    """Return an image of an OCI image layout in an archive, which is read when the image is asked for."""
    from provisioner.sources.layout_files import oci_files

    def files(members: Members) -> ImageFiles:
        return oci_files(members, f"oci-archive:{printable(str(name.path))}", name.choice)

    return _lazy(str(name), lambda: _images(name.path, str(name), files, opening))


def open_oci_layout(name: OciLayout, opening: Opening) -> Source:
    """Return an image of an OCI image layout in a directory. Raises NotFound, UsageError."""
    from provisioner.sources.layout_files import oci_files

    members = _directory(name.path, "oci-archive:FILE is an OCI image layout in an archive")
    return _local(str(name), members, oci_files(members, f"oci:{printable(str(name.path))}", name.choice), opening)


def open_skopeo_directory(name: SkopeoDirectory, opening: Opening) -> Source:
    """Return the image of a directory that skopeo has written. Raises NotFound, UsageError."""
    from provisioner.sources.layout_files import skopeo_files

    members = _directory(name.path, "name an archive by its path alone: ./FILE")
    return _local(str(name), members, skopeo_files(members, f"dir:{printable(str(name.path))}"), opening)


def open_file_name(name: FileName, opening: Opening) -> Source:
    """Return what a path leads to, by its content: an archive or a directory of images, or a root file system."""
    from provisioner.sources.recognised_files import RecognisedFiles

    shown = printable(str(name.path))
    if name.path.is_dir():
        members = _directory(name.path, "")
        return _local(str(name), members, RecognisedFiles(members, shown, is_directory=True), opening)
    return _lazy(str(name), lambda: recognise(_open(name.path, opening), shown, str(name), opening))


def open_standard_input(name: StandardInput, opening: Opening) -> Source:
    """Return what an archive on standard input has, which is read when the image is asked for. Raises UsageError."""
    if os.isatty(0):
        hint = "pipe an archive into it: docker save IMAGE | provision - DIR"
        raise UsageError("standard input is a terminal, not an archive", hint)
    return _lazy(str(name), lambda: recognise(_open(Path(_INPUTS[0]), opening), "standard input", str(name), opening))


def recognise(
    file: io.FileIO, shown: str, reference: str, opening: Opening, fetched: UrlFile | None = None
) -> LocalImages:
    """Return what an open file has, by its content; the file stays open. `shown` names it for messages.

    `fetched` is where it was got from and how far that was verified, if it wasn't there already.

    Raises MalformedImage, UsageError for what is no image, and MachineError.
    """
    from provisioner.sources.detection import formats_of, has_root_file_system, is_archive_of_images, peek
    from provisioner.sources.recognised_files import RecognisedFiles

    with machine_errors(f"read {shown}"):
        start = peek(file)
    if not start.data and fetched:
        raise MalformedImage(f"{shown} is empty")
    if not start.data:
        raise UsageError(f"{shown} is empty", "name an archive or a directory of an image")
    has_images = is_archive_of_images(start.data)
    if not start.is_seekable and (opening.options.sha256 or not has_images):
        # Its digest is checked before anything counts; and only a file can be read more than once.
        return recognise(_spooled(start, shown, opening), shown, reference, opening)
    if has_images or (has_images is None and start.is_tar):
        if fetched is None:
            _check_digest(file, shown, opening)
        members = _members(start, shown, opening)
        formats = formats_of(members.names())
        if formats and has_root_file_system(members.names()):
            what = f"{shown} is both {formats[0].value} and a root file system"
            raise UsageError(what, "say which: rootfs:FILE, docker-archive:FILE or oci-archive:FILE")
        if has_images or formats:
            path = reference if reference == "-" else shown
            return _local(reference, members, RecognisedFiles(members, path, is_directory=False), opening)
    return _root_file_system(file, shown, reference, opening, fetched)


def _images(path: Path, reference: str, files: Callable[[Members], ImageFiles], opening: Opening) -> LocalImages:
    """Return the images that `files` finds in an archive."""
    from provisioner.sources.detection import peek

    shown = printable(str(path))
    file = _open(path, opening)
    with machine_errors(f"read {shown}"):
        start = peek(file)
        if opening.options.sha256 and not start.is_seekable:
            start = peek(_spooled(start, shown, opening))
    _check_digest(start.file, shown, opening)
    members = _members(start, shown, opening)
    return _local(reference, members, files(members), opening)


def _members(start: FileStart, shown: str, opening: Opening) -> Members:
    """Return the members of an archive: in place where it can be read so, else from the cache, which they go into."""
    from provisioner.archives.compression import describe_content
    from provisioner.sources.members import TarMembers
    from provisioner.sources.spool import SpooledMembers

    with error_context(shown), machine_errors("read it"):
        if not start.is_tar and not start.compression:
            what = describe_content(start.data) if start.data else "empty"
            raise MalformedImage(f"it is no archive but {what}", "name a file that docker save or skopeo has written")
        if start.is_seekable and not start.compression:
            in_place = TarMembers(start.file.fileno())
            in_place.read_index()
            return in_place
        spooled = opening.stack.enter_context(SpooledMembers(opening.cache()))
        with opening.console.progress(start.size) as progress:
            progress.describe(f"read {shown}")
            spooled.read(start.archive(progress.advance))
        return spooled


def _spooled(start: FileStart, shown: str, opening: Opening) -> io.FileIO:
    """Return a copy in the cache of what can be read only once. Its name there is gone already."""
    from provisioner.sources.spool import spool_file

    with error_context(shown), machine_errors("read it"), opening.console.progress(None) as progress:
        progress.describe(f"read {shown}")
        return opening.stack.enter_context(spool_file(opening.cache(), start.chunks(progress.advance)))


def _root_file_system(
    file: io.FileIO, shown: str, reference: str, opening: Opening, fetched: UrlFile | None
) -> LocalImages:
    """Return the root file system in an archive that can be sought in."""
    from provisioner.sources import NOT_VERIFIED
    from provisioner.sources.rootfs import RootfsSource, check_digest, hash_file

    expected, who = opening.expected_digest(None, is_rootfs=True)
    if fetched:
        return RootfsSource(file, reference, shown, fetched.digest, fetched.verified)
    if expected is None:
        return RootfsSource(file, reference, shown, None, NOT_VERIFIED)
    check_digest(hash_file(file, shown), expected, shown, f"{who} says")
    return RootfsSource(file, reference, shown, expected, f"by {who}")


def _check_digest(file: io.FileIO, shown: str, opening: Opening) -> None:
    """Raise MalformedImage where a file hasn't the digest that --sha256 says."""
    from provisioner.sources.rootfs import check_digest, hash_file

    if opening.options.sha256:
        check_digest(hash_file(file, shown), opening.options.sha256, shown, "--sha256 says")


def _directory(path: Path, hint: str) -> Members:
    """Return the files of a directory. Raises NotFound, and UsageError for what is none."""
    from provisioner.sources.members import DirectoryMembers

    shown = printable(str(path))
    if not path.exists():
        raise NotFound(f"there is no directory {shown}", "check the path")
    if not path.is_dir():
        raise UsageError(f"{shown} is no directory", hint)
    return DirectoryMembers(path)


def _open(path: Path, opening: Opening) -> io.FileIO:
    """Open a file, a pipe or standard input for reading, until the end of the run.

    Raises NotFound, UsageError for other kinds of files, and MachineError.
    """
    shown = printable(str(path))
    try:
        with machine_errors(f"open {shown}"):
            file = io.FileIO(os.dup(0) if str(path) in _INPUTS else open_file(path))
    except MachineError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise NotFound(f"there is no file {shown}", "check the path") from None
        if isinstance(error.__cause__, IsADirectoryError):
            raise UsageError(f"{shown} is a directory", f"name it as oci:{shown}, or by its path alone") from None
        if isinstance(error.__cause__, Untrusted):
            error.hint = "name the file itself, without the symlink"
        raise
    opening.stack.enter_context(file)
    kind = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)) and not os.path.samefile(
        f"/dev/fd/{file.fileno()}", os.devnull
    ):
        raise UsageError(f"{shown} is no file and no pipe", "name an archive or a directory of an image")
    return file


def _lazy(reference: str, read: Callable[[], LocalImages]) -> Source:
    from provisioner.sources.lazy import LazySource

    return LazySource(reference, read)


def _local(reference: str, members: Members, files: ImageFiles, opening: Opening) -> LocalImages:
    from provisioner.sources.local import LocalSource

    return LocalSource(reference, members, files, opening.lock(None))
