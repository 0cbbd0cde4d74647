"""`provision inspect IMAGE|DIR`: shows platforms, layers and configuration of an image without its layers."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.config import setting_text, settings_of
from provisioner.commands.container_names import no_directory, say_similar_container
from provisioner.commands.open_source import is_no_file, open_source
from provisioner.commands.output import make_console, output_errors, screen_of, write_json, write_lines
from provisioner.commands.registry_sources import caching_registry
from provisioner.commands.source_options import (
    SourceOptions,
    add_file_arguments,
    add_registry_arguments,
    usual_platform,
)
from provisioner.commands.source_words import check_source_word, suggest_file
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.config import Config
from provisioner.container.access import find_directory
from provisioner.container.recovery import was_interrupted
from provisioner.container_files import looks_provisioned
from provisioner.errors import UsageError
from provisioner.filesystem.times import utc_time
from provisioner.image.platform import Platform
from provisioner.image.source_name import RegistryName, SourceName, is_path, parse_source
from provisioner.sizes import counted, size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console
from provisioner.terminal.tables import Column, Screen, cell_text, folded, table, width_of
from provisioner.terminal.wrapping import fill

if TYPE_CHECKING:
    from provisioner.inspection import Inspection

HELP = "Show what is in an image without downloading it, or in a directory"
EXAMPLE = "provision inspect ubuntu"

_KEY_WIDTH = 13
_LONGEST_COMMAND = 200
"""Characters of what made a layer that are shown on terminals."""
_FULL_WIDTH = 125
"""Columns of a line with a layer, its bar and its whole digest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `inspect`."""
    parser.add_argument(
        "target", metavar="SOURCE|DIR", help="an image, as `provision` takes it, or a directory that was provisioned"
    )
    add_registry_arguments(parser)
    add_file_arguments(parser)
    add_trust_argument(parser)
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="print the bytes of the index or manifest as they were served; with --platform, that platform's manifest",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show an image or a directory. Raises NotFound, NetworkError, NotAllowed, MalformedImage, MachineError."""
    if arguments.json and arguments.raw:
        raise UsageError("--json and --raw are different outputs", "choose one of them")
    directory = _find_directory(arguments.target)
    if not directory:
        check_source_word(arguments.target)
    console = make_console(arguments)
    name = None if directory else parse_source(arguments.target)
    if name:
        say_similar_container(arguments.target, "inspect", console)
    if isinstance(name, RegistryName) and arguments.raw and not arguments.platform:
        return _write_raw(_fetch_document(name, arguments, console))
    if directory:
        inspection = _inspect_directory(directory, arguments, console)
    else:
        inspection = _inspect_image(name or parse_source(arguments.target), arguments, console)
    if arguments.raw:
        return _write_raw(inspection.image.manifest_bytes)
    if arguments.json:
        write_json(inspection.to_json())
    else:
        write_lines(_lines(inspection, screen_of(arguments)))
    return 0


def _find_directory(target: str) -> Path | None:
    """Return the directory that `target` names, or None where it names an image. Raises NotFound.

    It is a directory where a provisioned one has that name, or where it is a path that leads to no file and no image.
    """
    path = Path(os.path.expanduser(target) if target.startswith("~") else target)
    if looks_provisioned(path) or was_interrupted(path):
        return path
    if not is_path(target):
        return None
    is_image = os.path.isfile(path / "manifest.json") or os.path.isfile(path / "index.json")
    if not os.path.lexists(path):
        raise no_directory(target)
    return None if is_image or (os.path.exists(path) and not os.path.isdir(path)) else path


def _inspect_directory(directory: Path, arguments: argparse.Namespace, console: Console) -> Inspection:
    """Return the inspection of a provisioned directory."""
    from provisioner.inspection import inspect_directory

    if arguments.sha256:
        raise is_no_file(arguments.target)
    if arguments.platform:
        raise UsageError("a directory has only one platform", "leave out --platform")
    if not arguments.target.startswith((".", "/")):
        console.step(f"this is the directory {printable(arguments.target)}; an image is also named docker.io/…")
    trust = trusted_directories(arguments)
    return inspect_directory(find_directory(directory, trust), trust)


def _inspect_image(name: SourceName, arguments: argparse.Namespace, console: Console) -> Inspection:
    """Return the inspection of an image in a registry, an archive or a directory."""
    from provisioner.inspection import inspect_files, inspect_image
    from provisioner.registry.hub import suggest_similar_names

    config = Config.load()
    requested = Platform.parse(arguments.platform) if arguments.platform else None
    host, options = usual_platform(arguments, config), SourceOptions.of(arguments, config)
    if isinstance(name, RegistryName) and not (options.offline or options.sha256):
        with suggest_file(name.reference), suggest_similar_names(name.reference):
            inspection = inspect_image(caching_registry(name.reference, options, console), host, requested)
    else:
        with open_source(name, options, console) as source:
            inspection = inspect_files(source, host, requested)
    for line in inspection.assumptions:
        console.step(line)
    shown = inspection.image.config.platform
    if not shown.satisfies(host):
        console.step(f"there is nothing for {host}; this is the image for {shown}")
    return inspection


def _fetch_document(name: RegistryName, arguments: argparse.Namespace, console: Console) -> bytes:
    """Return the bytes of the index or manifest that the image's tag or digest names."""
    from provisioner.registry.hub import suggest_similar_names
    from provisioner.sources.offline import OfflineRegistry
    from provisioner.store.blobs import BlobCache
    from provisioner.store.known_tags import KnownTags
    from provisioner.store.prune import cache_directory

    options = SourceOptions.of(arguments, Config.load())
    if options.sha256:
        raise is_no_file(str(name))
    if options.offline:
        cache = BlobCache(cache_directory(), console.step)
        offline = OfflineRegistry(name.reference, cache, KnownTags(cache.files))
        return offline.manifest(name.reference.selector).data
    registry = caching_registry(name.reference, options, console)
    with suggest_similar_names(registry.reference):
        return registry.manifest(registry.reference.selector).data


def _write_raw(data: bytes) -> int:
    """Write bytes to standard output unchanged, or escaped where that is a terminal."""
    if sys.stdout.isatty():
        write_lines(printable(line) for line in data.decode(errors="surrogateescape").split("\n"))
    else:
        with output_errors():
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
    return 0


def _lines(inspection: Inspection, screen: Screen) -> Iterator[str]:
    """Return the facts, and then a table of the layers with a bar for the size of each in relation to the largest."""
    for line in folded(cell_text(inspection.reference), screen.width or sys.maxsize):
        yield screen.bold(line)
    for key, values in _facts(inspection):
        yield from _fact(key, [printable(value) for value in values], screen)
    layers = inspection.image.layers
    if not layers:
        return
    yield ""
    width = screen.width or _FULL_WIDTH
    largest = max(layer.blob.size for layer in layers)
    commands = [
        command if screen.width is None else command[:_LONGEST_COMMAND] for command in inspection.layer_commands
    ]
    bar_width = 10 if any(commands) and screen.width else max(8, min(30, width - 40))
    rows = []
    for number, (layer, command) in enumerate(zip(layers, commands, strict=True), 1):
        bar = screen.bar(layer.blob.size, largest, bar_width)
        digest = layer.blob.digest.short if width < _FULL_WIDTH else str(layer.blob.digest)
        rows.append((str(number), size_text(layer.blob.size), bar, digest, command))
    columns = (
        Column("LAYER", "layer {}", right=True),
        Column("SIZE", right=True),
        Column(""),
        Column("DIGEST"),
        Column("MADE BY", flexible=True),
    )
    yield from table(columns, rows, screen)


def _facts(inspection: Inspection) -> Iterator[tuple[str, list[str]]]:
    """Return each fact's name and values; no values where the image doesn't have it."""
    image, config = inspection.image, inspection.image.config
    yield "platform", [str(config.platform)]
    yield "platforms", [str(platform) for platform in inspection.platforms if len(inspection.platforms) > 1]
    is_compressed = any(not layer.blob.media_type.endswith("tar") for layer in image.layers)
    yield "size", [f"{size_text(image.download_size)} {'compressed' if is_compressed else 'uncompressed'}"]
    yield "created", [config.created[:19].replace("T", " ")] if config.created else []
    yield from _facts_of_directory(inspection)
    yield "entrypoint", [shlex.join(config.entrypoint)] if config.entrypoint else []
    yield "command", [shlex.join(config.command)] if config.command else []
    yield "user", [config.user or "root"]
    yield "workdir", [config.working_dir or "/"]
    yield "env", list(config.env)
    yield "ports", list(config.ports)
    yield "volumes", list(config.volumes)
    yield "labels", [f"{name}={value}" for name, value in config.labels]
    yield "stop signal", [config.stop_signal] if config.stop_signal else []
    yield "verified", [inspection.verified] if inspection.verified else []
    yield "index", [str(image.index_digest)] if image.index_digest else []
    yield "manifest", [str(image.digest)]
    yield "config", [str(image.manifest.config.digest)]


def _facts_of_directory(inspection: Inspection) -> Iterator[tuple[str, list[str]]]:
    """Return the facts of a directory; none for an image."""
    record = inspection.record
    if record is None:
        return
    if inspection.provisioned is not None:
        by = f" by provision {record.version}"
        yield "provisioned", [utc_time(inspection.provisioned)[:16].replace("T", " ") + by]
    if unpacked := inspection.unpacked:
        files = counted(unpacked.files - unpacked.directories, "file")
        yield "unpacked", [f"{size_text(unpacked.size)} in {files}"]
    yield "profile", [record.profile] if record.profile else []
    yield "options", [f"{key}={setting_text(value)}" for key, value in settings_of(record).items() if value]
    yield "id", [record.id] if record.id else []


def _fact(key: str, values: Sequence[str], screen: Screen) -> Iterator[str]:
    """Return the lines of one fact: its values beside its name, or below it on a narrow terminal."""
    room = (screen.width or sys.maxsize) - _KEY_WIDTH
    if all(width_of(value) <= room for value in values):
        for number, value in enumerate(values):
            # Each line in a pipe has the name, so that it can be filtered.
            name = key if number == 0 or screen.width is None else ""
            yield screen.dim(name.ljust(_KEY_WIDTH)) + value
        return
    yield screen.dim(key)
    for value in values:
        width = room + _KEY_WIDTH - 4
        first, *others = (part for line in fill(value, width, "").split("\n") for part in folded(line, width))
        yield f"  {first}"
        yield from (f"    {other}" for other in others)
