"""Finds out what a file is by its content: its compression, and the members of the archive in it; never by its name."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from provisioner.errors import UsageError


class Format(Enum):
    """A form in which images are kept in files. The value is what users see."""

    OCI = "an OCI image layout"
    DOCKER = "a docker-archive"
    OLD_DOCKER = "an archive of Docker before 1.10"
    SKOPEO = "a directory of skopeo"
    ROOTFS = "a root file system"


def formats_of(names: Collection[str]) -> tuple[Format, ...]:
    """Return the formats that an archive or a directory with members of these names has, the best first.

    `names` are relative and normal, without `./` in front.
    """
    found: list[Format] = []
    if "index.json" in names and "oci-layout" in names:
        found.append(Format.OCI)
    if "manifest.json" in names:
        found.append(Format.SKOPEO if "version" in names and not found else Format.DOCKER)
    elif "repositories" in names and not found:
        found.append(Format.OLD_DOCKER)
    return tuple(found)


def unrecognised(shown: str) -> UsageError:
    """Return the error for a file or directory that is no image. `shown` is its name for messages."""
    return UsageError(
        f"{shown} is no image: neither an OCI layout, nor a docker-archive, nor a root file system",
        "say what it is: docker-archive:FILE, oci-archive:FILE, oci:DIR, dir:DIR or rootfs:FILE",
    )
