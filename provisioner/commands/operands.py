"""IMAGE and DIR on the command line: mistakes that can be seen before anything is asked for."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from provisioner.commands.source_words import check_source_word
from provisioner.container_files import SCRIPT, looks_provisioned
from provisioner.errors import UsageError
from provisioner.image.reference import Reference
from provisioner.image.source_name import (
    DockerArchive,
    FileName,
    Lxc,
    OciArchive,
    OciLayout,
    RegistryName,
    Rootfs,
    SkopeoDirectory,
    SourceName,
    Url,
)
from provisioner.terminal.escaping import printable, shell_line, shell_word

_WEB_PAGES = (
    re.compile(r"(?:https?://)?(?:registry\.)?hub\.docker\.com/_/(?P<name>[^/?#]+).*"),
    re.compile(r"(?:https?://)?hub\.docker\.com/layers/(?:library/)?(?P<name>[^?#]+?)/(?P<tag>[^/?#]+)(?:/images/.*)?"),
    re.compile(r"(?:https?://)?(?:registry\.)?hub\.docker\.com/(?:r|repository/docker)/(?P<name>[^/?#]+/[^/?#]+).*"),
    re.compile(r"https?://(?P<name>quay\.io)/repository/(?P<path>[^?#]+?)/?(?:[?#].*)?"),
    re.compile(
        r"https?://github\.com/(?:orgs/)?(?P<owner>[^/?#]+)/(?:[^/?#]+/)?(?:pkgs|packages)/container/(?:package/)?(?P<path>[^/?#]+).*"
    ),
    re.compile(
        r"https?://(?P<name>(?:docker|ghcr|quay|registry\.[^/?#]+|mcr\.[^/?#]+|public\.ecr\.aws)(?:\.io)?/[^?#]+?)/?(?:[?#].*)?"
    ),
)
"""Addresses of web pages about images, and of registries."""


_REGISTRY = re.compile(r"(?:(?:[a-z0-9-]+\.)+(?:io|com|org|net|dev|aws)|localhost|[0-9]+(?:\.[0-9]+){3})(?::[0-9]+)?/?")
"""Names of registries without an image; no official image of Docker Hub is called so."""
_TAG = re.compile(r"latest|[0-9]+(?:\.[0-9]+)*")
_TAGGED = re.compile(r"[a-z0-9][a-z0-9._/-]*:[A-Za-z0-9][A-Za-z0-9._-]*|[^@]+@sha(?:256|512):[0-9a-f]+")
"""Words in the place of DIR that are names of images with a tag or a digest."""
_ADDRESS = re.compile("[a-z]+://")


def check_operands(image: str, directory: str | None) -> None:
    """Raise UsageError where IMAGE is a web page, a provisioned directory, or was swapped with DIR.

    `directory` is None where none was named.
    """
    if directory == "":
        raise UsageError("DIR is empty", "name a directory: provision IMAGE ./container")
    if not image:
        raise UsageError("IMAGE is empty", "name an image: provision ubuntu ./container")
    if name := image_of_page(image):
        words = ["provision", name, *([directory] if directory else [])]
        raise UsageError("this is the address of a web page", f"type {shell_line(words)}")
    check_source_word(image)
    if (is_path(image) or image.endswith("/")) and looks_provisioned(image):
        start = shell_word(os.path.join(image, SCRIPT))
        raise UsageError(f"{printable(image)} is a provisioned directory, not an image", f"start it: {start}")
    if os.path.basename(image) == SCRIPT and looks_provisioned(os.path.dirname(image)):
        start = shell_word(image if is_path(image) else f"./{image}")
        raise UsageError(f"{printable(image)} is no image: it starts a container", f"type {start}")
    if _REGISTRY.fullmatch(image):
        raise UsageError(f"{image} is a registry", f"name an image of it: {image.rstrip('/')}/OWNER/NAME")
    if directory and _TAG.fullmatch(directory) and ":" not in image and not os.path.lexists(directory):
        tagged, named = f"provision {image}:{directory} DIR", f"provision {image} ./{directory}"
        raise UsageError(
            f"{directory} looks like a tag, and is in the place of DIR",
            f"type {printable(tagged)}; a directory of that name: {printable(named)}",
        )
    if directory and (_ADDRESS.match(directory) or (_TAGGED.fullmatch(directory) and not os.path.lexists(directory))):
        what = "an address" if _ADDRESS.match(directory) else "an image"
        named = f"provision {shell_word(image)} {shell_word(f'./{directory}')}"
        raise UsageError(
            f"{printable(directory)} is {what}, and in the place of DIR",
            f"each run takes one source: provision {shell_word(directory)} DIR; a directory of that name: {named}",
        )
    if directory and not is_path(directory) and _is_swapped(image, directory):
        swapped = shell_line(["provision", directory, image])
        raise UsageError("IMAGE comes first, then DIR", f"type {swapped}")


def _is_swapped(image: str, directory: str) -> bool:
    """Return whether IMAGE can only be a directory, and DIR can be an image and nothing that is there."""
    if not is_path(image) or os.path.lexists(image) or os.path.lexists(directory):
        return False
    if _without_suffixes(image) != image:  # the name of an archive
        return False
    try:
        Reference.parse(directory)
    except UsageError:
        return False
    return True


def image_of_page(text: str) -> str:
    """Return the image that the web page at an address is about; empty where it is no page of a registry."""
    for pattern in _WEB_PAGES:
        if found := pattern.fullmatch(text):
            groups = found.groupdict()
            if "owner" in groups:
                return f"ghcr.io/{groups['owner'].lower()}/{groups['path']}"
            if "tag" in groups:
                return f"{groups['name']}:{groups['tag']}"
            return "/".join(groups[key] for key in ("name", "path") if groups.get(key))
    return ""


def is_path(text: str) -> bool:
    """Return whether a word is written as a path."""
    return text in (".", "..") or text.startswith(("/", "./", "../", "~"))


def default_directory(name: SourceName) -> str:
    """Return the DIR where none is named: the image's or file's name, in the current directory.

    Raises UsageError where there is none to take.
    """
    match name:
        case RegistryName(reference):
            found = reference.repository.rpartition("/")[2]
        case Lxc(distribution):
            found = distribution
        case DockerArchive(path) | OciLayout(path) | OciArchive(path) | SkopeoDirectory(path) | FileName(path):
            found = _without_suffixes(path.name)
        case Rootfs(location) | Url(location):
            found = _without_suffixes(unquote(location.partition("?")[0].rpartition("/")[2]))
        case _:
            found = ""
    if found in ("", ".", ".."):
        raise UsageError("DIR is missing", f"name a directory: provision {printable(str(name))} ./container")
    return f"./{found}"


def _without_suffixes(name: str) -> str:
    """Return the name of a file without what says that it is an archive; a directory's has none of that."""
    return re.sub(r"(?<=.)(?:\.(?:tar|tgz|txz|tbz2?|tzst|gz|xz|zst|bz2|lz4|squashfs|sqfs|oci))+$", "", name)
