"""`provision config NAME|DIR`: what start.sh goes by, shown and changed."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from provisioner.commands.container_names import add_container_argument, checked_container
from provisioner.commands.output import make_console, write_json, write_lines
from provisioner.commands.plan_options import (
    address_of,
    bind_of,
    hostname_of,
    script_shell,
    variable_of,
    warn_of_missing_binds,
)
from provisioner.commands.run_options import run_settings
from provisioner.commands.stamps import report_change
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.container.opened import opened_container
from provisioner.container.record import Record
from provisioner.container.staging import Staging
from provisioner.errors import UsageError
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.run_settings import AS_CONFIGURED, OPTIONS
from provisioner.launch.settings import RUNTIMES
from provisioner.terminal.escaping import printable, shell_word

HELP = "Show what a container's start.sh goes by, or change it"
EXAMPLE = "provision config ./debian --set env='A=1 B=2'"


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a list. Raises UsageError."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise UsageError(f"{printable(text)!r} can't be divided into words", "close its quotes") from None


def _runtime(text: str) -> str:
    if text not in ("", *RUNTIMES):
        raise UsageError(f"runtime {printable(text)!r} is none of {', '.join(RUNTIMES)}", "choose one of them")
    return text


_START_KEYS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "runtime": ("runtime", _runtime),
    "dns": ("dns", lambda text: tuple(map(address_of, _words(text)))),
    "hostname": ("hostname", lambda text: hostname_of(text) if text else ""),
    "bind": ("binds", lambda text: tuple(map(bind_of, _words(text)))),
    "env": ("env", lambda text: tuple(map(variable_of, _words(text)))),
    "proot-option": ("proot_options", _words),
}
"""The keys of StartOptions: the field, and what a text stands for."""
_RUN_KEYS = {name: field for field, name in OPTIONS.items()}
"""The keys of RunSettings, with their fields. They are options of `install`, too."""
_KEYS = (*_START_KEYS, *_RUN_KEYS)
_LISTS = ("dns", "bind", "env", "proot-option", "env-image")
"""The keys whose options of `install` may be repeated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `config`."""
    add_container_argument(parser)
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change {', '.join(_KEYS)}; lists are words as a shell divides them; an empty value "
        "is what the image or the profile has; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the settings as JSON")
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the settings, after changing them. Raises UsageError, TargetExists, NotFound, MachineError."""
    from provisioner.container.running import describe_processes, running_in
    from provisioner.start_files.completeness import complete_files, has_documents
    from provisioner.start_files.files import change_options

    directory, trust = checked_container(arguments.container, arguments), trusted_directories(arguments)
    console = make_console(arguments)
    changes = _changes(arguments.set)
    record = _record(directory, trust)
    if changes:
        with Staging(directory, trust, console.step, action="change the settings of"):  # no other run is at work on it
            record = _record(directory, trust)
            is_changed = has_documents(directory, record, trust) and complete_files(
                directory, record, script_shell(), trust, console
            )
            options, run_as = record.options, record.run
            for key, value in changes.items():
                if key in _START_KEYS:
                    options = replace(options, **{_START_KEYS[key][0]: value})
                else:
                    run_as = replace(run_as, **{_RUN_KEYS[key]: value})
            new = change_options(directory, record, options, run_as, trust, console)
            if is_changed or new != record:
                report_change(directory, trust)
            warn_of_missing_binds(set(new.options.binds) - set(record.options.binds), console)
            if new != record and (pids := running_in(directory)):
                console.step(f"this runs, and goes on as it was started: {describe_processes(pids)}")
            record = new
    values = settings_of(record)
    if arguments.json:
        write_json(values)
    else:
        write_lines(f"{key}={printable(setting_text(key, value))}" for key, value in values.items())
    return 0


def _record(directory: Path, trust: TrustedDirectories) -> Record:
    with opened_container(directory, trust) as container:
        return container.read_record()


def _changes(texts: Sequence[str]) -> dict[str, Any]:
    """Return the values of `--set` by their keys. Raises UsageError, also where a key is there twice."""
    changes: dict[str, Any] = {}
    for text in texts:
        key, value = _parse(text)
        if key in changes:
            same = [other.partition("=")[2] for other in texts if other.partition("=")[0] == key]
            joined = f"write all words into one: --set {key}={shell_word(' '.join(same))}"
            raise UsageError(f"--set {key} is there twice", joined if key in _LISTS else "leave out one of them")
        changes[key] = value
    return changes


def _parse(text: str) -> tuple[str, Any]:
    """Return the key and the value of KEY=VALUE. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not equals or key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, 1)
        hint = f"did you mean {near[0]}={printable(value)}?" if near else f"the keys are {', '.join(_KEYS)}"
        raise UsageError(f"--set {printable(text)!r} is not KEY=VALUE of a known key", hint)
    try:
        return key, _value(key, value)
    except UsageError as error:  # it names the option of install
        error.message = error.message.replace(f"--{key} ", f"--set {key}=", 1)
        error.hint = error.hint.replace(f"--{key} ", f"--set {key}=")
        raise


def _value(key: str, value: str) -> Any:
    """Return what the text of a setting stands for. Raises UsageError."""
    if key in _START_KEYS:
        return _START_KEYS[key][1](value)
    names = {name.replace("-", "_"): None for name in _RUN_KEYS}
    given = [*_words(value)] if key == "env-image" else value
    parsed = run_settings(argparse.Namespace(**{**names, key.replace("-", "_"): given})) if value else AS_CONFIGURED
    return getattr(parsed, _RUN_KEYS[key])


def settings_of(record: Record) -> dict[str, Any]:
    """Return the settings by their keys; what is empty, or None, is as the image or the profile has it."""
    start = {key: getattr(record.options, field) for key, (field, _) in _START_KEYS.items()}
    return {**start, **{key: getattr(record.run, field) for key, field in _RUN_KEYS.items()}}


def setting_text(key: str, value: str | Sequence[str] | None) -> str:
    """Return the value of a setting as `--set` takes it: empty where the image or the profile has it."""
    if isinstance(value, str):
        return value
    if key in _RUN_KEYS and value is not None and not value:
        return "[]"  # no words at all, in place of the image's
    return shlex.join(value or ())
