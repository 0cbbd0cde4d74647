"""Opens sources that are archives or directories of images, and files that are recognised by their content."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.input_files import STANDARD_INPUT, open_input, spooled, start_of
from provisioner.errors import MalformedImage, NotFound, UsageError, error_context, machine_errors
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
    from provisioner.commands.opening import Opening
    from provisioner.image.digest import Digest
    from provisioner.sources import Source
    from provisioner.sources.detection import Guess
    from provisioner.sources.file_start import FileStart
    from provisioner.sources.lazy import LocalImages
    from provisioner.sources.local import ImageFiles
    from provisioner.sources.members import Members
    from provisioner.store.url_files import UrlFile

_DIRECTORY_HINT = "name a directory of an image by its path alone"
_WHICH = "say which: rootfs:{0}, docker-archive:{0} or oci-archive:{0}"


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
    if os.path.isdir(name.path):
        members = _directory(name.path, "")
        return _local(str(name), members, RecognisedFiles(members, shown, is_directory=True), opening)
    return _lazy(
        str(name), lambda: recognise(open_input(name.path, opening.stack, _DIRECTORY_HINT), shown, str(name), opening)
    )


def open_standard_input(name: StandardInput, opening: Opening) -> Source:
    """Return what an archive on standard input has, which is read when the image is asked for. Raises UsageError."""
    file = open_input(STANDARD_INPUT, opening.stack, _DIRECTORY_HINT)
    return _lazy(str(name), lambda: recognise(file, "standard input", str(name), opening))


def recognise(
    file: io.FileIO, shown: str, reference: str, opening: Opening, fetched: UrlFile | None = None
) -> LocalImages:
    """Return what an open file has, by its content; the file stays open. `shown` names it for messages.

    `fetched` is where it was got from and how far that was verified, if it wasn't there already.

    Raises MalformedImage, UsageError for what is no image, and MachineError.
    """
    from provisioner.sources.detection import Guess, ambiguous_archive, formats_of, guess_content, has_root_file_system
    from provisioner.sources.recognised_files import RecognisedFiles

    start = start_of(file, shown)
    if not start.data and fetched:
        raise MalformedImage(f"{shown} is empty")
    if not start.data:
        raise UsageError(f"{shown} is empty", "name an archive or a directory of an image")
    guess = guess_content(start.data)
    if not start.is_seekable and guess in (Guess.ROOT, Guess.NOTHING):  # only a file can be read more than once
        return recognise(spooled(start, shown, opening), shown, reference, opening)
    if start.is_seekable:
        guess = _checked(guess, start, shown)
    if guess not in (Guess.IMAGES, Guess.PERHAPS_IMAGES):
        return _root_file_system(file, shown, reference, opening, fetched)
    if fetched is None and start.is_seekable:
        check_given_digest(file, shown, opening)
    members = _members(start, shown, opening)
    formats, has_root = formats_of(members.names()), has_root_file_system(members.names())
    if has_root and formats:
        raise ambiguous_archive(shown, formats[0], _WHICH.format("-" if reference == "-" else "FILE"))
    if has_root and start.is_seekable:
        return _root_file_system(file, shown, reference, opening, fetched)
    if has_root:
        what = f"{shown} is a root file system whose first files look like those of an image"
        raise UsageError(what, f"say what it is: rootfs:{printable(reference)}")
    path = reference if reference == "-" else shown
    return _local(reference, members, RecognisedFiles(members, path, is_directory=False), opening)


def _checked(guess: Guess, start: FileStart, shown: str) -> Guess:
    """Return a guess about a file, by all of its members where the first ones have told nothing for sure."""
    from provisioner.sources.detection import Guess, ambiguous_archive, formats_of, has_root_file_system, marker_names

    if guess in (Guess.IMAGES, Guess.ROOT) or not (start.is_tar or start.compression):
        return guess
    with error_context(shown), machine_errors("read it"):
        names = marker_names(start.members())
    formats = formats_of(names)
    if formats and has_root_file_system(names):
        raise ambiguous_archive(shown, formats[0], _WHICH.format("FILE"))
    return Guess.IMAGES if formats else Guess.ROOT


def _images(path: Path, reference: str, files: Callable[[Members], ImageFiles], opening: Opening) -> LocalImages:
    """Return the images that `files` finds in an archive."""
    shown = printable(str(path))
    start = start_of(open_input(path, opening.stack, f"name it as oci:{shown}, or by its path alone"), shown)
    if start.is_seekable:
        check_given_digest(start.file, shown, opening)
    members = _members(start, shown, opening)
    return _local(reference, members, files(members), opening)


def _members(start: FileStart, shown: str, opening: Opening) -> Members:
    """Return the members of an archive: in place where it can be read so, else from the cache, which they go into."""
    from provisioner.sources.members import TarMembers

    with error_context(shown), machine_errors("read it"):
        if not start.is_tar and not start.compression:
            raise MalformedImage("it is empty", "name a file that docker save or skopeo has written")
        if start.is_seekable and not start.compression:
            in_place = TarMembers(start.file.fileno())
            in_place.read_index()
            return in_place
        return _spooled_members(start, shown, opening)


def _spooled_members(start: FileStart, shown: str, opening: Opening) -> Members:
    """Return the members of an archive that can't be read in place, which are written to the cache as they come.

    The digest of what can be read only once is compared here. Raises MalformedImage, MachineError.
    """
    from provisioner.archives.compression import decompress
    from provisioner.sources.rootfs import check_digest, hashed
    from provisioner.sources.spool import SpooledMembers

    expected = None if start.is_seekable else opening.options.sha256
    spooled = opening.stack.enter_context(SpooledMembers(opening.cache()))
    with opening.console.progress(start.size) as progress:
        progress.describe(f"read {shown}")
        digests: list[Digest] = []
        chunks = start.chunks(progress.advance)
        chunks = hashed(chunks, digests) if expected else chunks
        spooled.read(decompress(chunks, "", "the archive"))
        if expected:
            for _ in chunks:  # what is behind the end counts, too
                pass
            check_digest(digests[0], expected, "the archive", "--sha256 says")
    return spooled


def _root_file_system(
    file: io.FileIO, shown: str, reference: str, opening: Opening, fetched: UrlFile | None
) -> LocalImages:
    """Return the root file system in an archive that can be sought in."""
    from provisioner.commands.file_sources import root_file_system
    from provisioner.sources.rootfs import RootfsSource

    if fetched:
        return RootfsSource(file, reference, shown, fetched.digest, fetched.verified)
    return root_file_system(file, shown, reference, opening, is_named=False)


def check_given_digest(file: io.FileIO, shown: str, opening: Opening) -> None:
    """Raise MalformedImage where a file hasn't the digest that --sha256 says."""
    from provisioner.sources.rootfs import check_digest, hash_file

    if opening.options.sha256:
        check_digest(hash_file(file, shown), opening.options.sha256, shown, "--sha256 says")


def _directory(path: Path, hint: str) -> Members:
    """Return the files of a directory. Raises NotFound, and UsageError for what is none."""
    from provisioner.sources.members import DirectoryMembers

    shown = printable(str(path))
    if not os.path.exists(path):
        raise NotFound(f"there is no directory {shown}", "check the path")
    if not os.path.isdir(path):
        raise UsageError(f"{shown} is no directory", hint)
    return DirectoryMembers(path)


def _lazy(reference: str, read: Callable[[], LocalImages]) -> Source:
    from provisioner.sources.lazy import LazySource

    return LazySource(reference, read)


def _local(reference: str, members: Members, files: ImageFiles, opening: Opening) -> LocalImages:
    from provisioner.sources.local import LocalSource

    return LocalSource(reference, members, files, opening.locks(reference))
