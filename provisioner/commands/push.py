"""`provision push DIR REFERENCE`: an image of a container, or of an archive, into a registry."""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from provisioner.commands.container_names import check_order
from provisioner.commands.image_options import add_image_arguments
from provisioner.commands.output import make_console
from provisioner.commands.trusting import add_trust_argument
from provisioner.config import Config
from provisioner.errors import UsageError, machine_errors
from provisioner.image.reference import Reference
from provisioner.sizes import counted, size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.container.opened import OpenedContainer
    from provisioner.image.manifest import Descriptor
    from provisioner.image.stored_blob import StoredBlob
    from provisioner.registry.push import Push

HELP = "Push the image of a container, or of an archive, to a registry"
EXAMPLE = "provision push ./container ghcr.io/me/image:tag"
_DIRECTORY_OPTIONS = ("squash", "change", "comment", "mirror", "offline", "exclude")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `push`."""
    parser.add_argument(
        "directory",
        metavar="NAME|DIR|FILE",
        help="a provisioned directory, its name, or an archive of provision export",
    )
    parser.add_argument("reference", metavar="REFERENCE", help="where to: ghcr.io/me/image:tag; default tag: latest")
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="leave out paths of the container that match, as var/cache/*; repeatable",
    )
    add_image_arguments(parser)
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Push the image. Raises ProvisionError; blobs that have arrived until then needn't be sent again."""
    check_order(["push"], arguments.directory, arguments.reference)
    target = Reference.parse(arguments.reference)
    if target.digest:
        raise UsageError(f"{target.familiar} has a digest, which follows from the content", "name a tag")
    console = make_console(arguments)
    if os.path.isdir(arguments.directory) or not os.path.exists(arguments.directory):
        return _push_directory(arguments, target, console)
    if used := next((name for name in _DIRECTORY_OPTIONS if getattr(arguments, name)), ""):
        raise UsageError(f"--{used} is for directories, and {printable(arguments.directory)} is a file", "leave it out")
    return _push_file(arguments, target, console)


def _push_directory(arguments: argparse.Namespace, target: Reference, console: Console) -> int:
    from provisioner.commands.archiving import call, describe_files, use_directory
    from provisioner.commands.image_making import NewImage, fetch_base_layers, new_image

    def push_image(new: NewImage, stack: ExitStack) -> None:
        image = new.image
        origin = new.base_reference
        mounts = origin.repository if origin and origin.registry == target.registry else ""
        with _pushing(arguments, target, mounts, console) as push:
            if _is_there(push, target, image.descriptor, console):
                return
            own = [new.added_layer] if new.added_layer else []
            known = {blob.descriptor.digest for blob in own}
            base = dict.fromkeys(layer for layer in image.layers if layer.digest not in known)
            lacking = {layer.digest for layer in base if not push.has_blob(layer, may_mount=True)}
            if count := len(base) - len(lacking):
                console.step(f"the registry has {count} of {counted(len(base), 'layer')} of the image")
            layers = fetch_base_layers(arguments, new, lacking, console, stack)
            config = stack.enter_context(_in_memory(image.config, image.config_descriptor))
            _push_all(push, [*layers, *own, config], console)
            push.push_manifest(target.tag or "latest", image.manifest, image.media_type)
            _report(target, image.descriptor, console)

    def use(container: OpenedContainer) -> int:
        def job() -> NewImage:
            return stack.enter_context(new_image(arguments, container, console, only_oci=False, space=None))

        with ExitStack() as stack:
            new = call(job, container.path.name)
            for line in describe_files(new.report, new.owners):
                console.step(line)
            if new.added_layer:
                console.step(f"one layer of {counted(new.report.files, 'file')}, {size_text(new.added_layer.size)}")
            push_image(new, stack)
        return 0

    return use_directory("push", arguments, console, use)


def _push_file(arguments: argparse.Namespace, target: Reference, console: Console) -> int:
    from provisioner.exports.image_file import read_image_file
    from provisioner.filesystem.descriptors import closing_descriptor
    from provisioner.image.digest import Digest
    from provisioner.image.manifest import Descriptor

    shown = printable(arguments.directory)
    with (
        machine_errors(f"read {shown}"),
        closing_descriptor(os.open(arguments.directory, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as file,
    ):
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UsageError(f"{shown} is no regular file", "write it to a file first")
        image = read_image_file(file)
        described = Descriptor(image.media_type, Digest.of(image.manifest), len(image.manifest))
        with _pushing(arguments, target, _base_repository(image.manifest, target), console) as push:
            if not _is_there(push, target, described, console):
                _push_all(push, [*image.layers, image.config], console)
                push.push_manifest(target.tag or "latest", image.manifest, image.media_type)
                _report(target, described, console)
    return 0


def _base_repository(manifest: bytes, target: Reference) -> str:
    """Return the repository that a manifest names as that of its base; empty where it isn't in the same registry."""
    from provisioner.image.derivation import BASE_NAME

    annotations = json.loads(manifest).get("annotations")
    name = annotations.get(BASE_NAME) if isinstance(annotations, dict) else None
    if not isinstance(name, str):
        return ""
    try:
        base = Reference.parse(name)
    except UsageError:
        return ""
    return base.repository if base.registry == target.registry else ""


@contextmanager
def _pushing(arguments: argparse.Namespace, target: Reference, mounts: str, console: Console) -> Iterator[Push]:
    """Give what pushes to `target`. Blobs may be taken from its registry's repository `mounts`."""
    from provisioner.registry.credentials import Credentials
    from provisioner.registry.push import Push
    from provisioner.registry.push_client import PushClient

    insecure = arguments.insecure or Config.load().is_insecure(target.registry)
    client = PushClient(
        target,
        insecure=insecure,
        credentials=Credentials.of_environment(),
        warn=console.warn,
        mounts="" if mounts == target.repository else mounts,
    )
    yield Push(client, console.step)


def _is_there(push: Push, target: Reference, described: Descriptor, console: Console) -> bool:
    """Return whether the tag names the image already, and say so."""
    if not push.has_tag(target.tag or "latest", described.digest):
        return False
    console.step(f"{target.familiar} is {described.digest} already")
    return True


def _push_all(push: Push, blobs: Sequence[StoredBlob], console: Console) -> None:
    """Send what the repository lacks of these blobs."""
    with console.progress(sum(blob.size for blob in blobs)) as progress:
        push.progress = progress.advance
        for number, blob in enumerate(blobs, 1):
            progress.describe(f"blob {number} of {len(blobs)}, {size_text(blob.size)}")
            if not push.push_blob(blob):
                progress.advance(blob.size)


def _report(target: Reference, described: Descriptor, console: Console) -> None:
    console.step(f"pushed {target.familiar}")
    console.step(f"  digest: {described.digest}")


@contextmanager
def _in_memory(data: bytes, descriptor: Descriptor) -> Iterator[StoredBlob]:
    """Give a document as a blob in a file without a name."""
    import tempfile

    from provisioner.image.stored_blob import StoredBlob

    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield StoredBlob(descriptor, file.fileno())
