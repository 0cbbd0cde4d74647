"""The images of an archive or a directory whose format its members tell."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from provisioner.errors import UsageError, error_context
from provisioner.image.digest import Digest
from provisioner.image.platform import Platform
from provisioner.sources.detection import (
    Format,
    ambiguous_archive,
    formats_of,
    has_root_file_system,
    truncated_archive,
    unknown_format,
)
from provisioner.sources.docker_files import DockerFiles
from provisioner.sources.layout_files import LacksLayers, oci_files, skopeo_files
from provisioner.sources.local import FoundImage, ImageFiles
from provisioner.sources.members import Members
from provisioner.terminal.escaping import shell_word


class RecognisedFiles:
    """The images in `members`, which are in a directory or in an archive at `path`, its name for messages."""

    def __init__(self, members: Members, path: str, *, is_directory: bool) -> None:
        self._members = members
        self._path = path
        self._is_directory = is_directory

    def platforms(self) -> tuple[Platform, ...]:
        """Return all platforms that there is an image for. Raises as `image` does."""
        try:
            return self._files(self._formats[0]).platforms()
        except LacksLayers:
            return self._files(Format.DOCKER).platforms()

    def image(self, platform: Platform, manifest: Digest | None = None) -> FoundImage:
        """Return the image for `platform`. An archive of Docker 25 and later is one in two formats: OCI comes first.

        Raises NotFound, UsageError for what is no image or holds several ones, MalformedImage and MachineError.
        """
        first, *others = self._formats
        try:
            found = self._files(first).image(platform, manifest)
        except LacksLayers:
            if not others:
                raise
            found = self._files(others[0]).image(platform, manifest)
            return _explained(found, f"its OCI manifest has no layers: it is taken for {others[0].value}")
        if others:
            return _explained(found, f"it is {first.value} and {others[0].value}: it is taken for the former")
        return found

    @cached_property
    def _formats(self) -> tuple[Format, ...]:
        """Return the formats that fit, the best first. Raises UsageError where there is none, or a root file system."""
        found = formats_of(self._members.names())
        if self._is_directory and has_root_file_system(self._members.names()):
            archive = f"tar -C {shell_word(self._path)} -c . | provision rootfs:- DIR"
            if found:
                word = "dir" if found[0] is Format.SKOPEO else "oci"
                raise ambiguous_archive(
                    self._path, found[0], f"say which: {shell_word(f'{word}:{self._path}')}, or {archive}"
                )
            what = f"{self._path} is a directory with a root file system, and provision reads archives of them"
            raise UsageError(what, archive)
        if not found and not self._members.is_whole:
            with error_context(self._path):
                raise truncated_archive()
        if not found:
            raise unknown_format(self._path)
        return found

    def _files(self, kind: Format) -> ImageFiles:
        if kind is Format.OCI:
            return oci_files(self._members, f"{'oci' if self._is_directory else 'oci-archive'}:{self._path}", "")
        if kind is Format.SKOPEO:
            return skopeo_files(self._members, f"dir:{self._path}")
        return DockerFiles(self._members, f"docker-archive:{self._path}", "")


def _explained(found: FoundImage, line: str) -> FoundImage:
    return replace(found, assumptions=(*found.assumptions, line))
