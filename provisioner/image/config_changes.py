"""Changes of an image's config, written as instructions of a Dockerfile, as `docker commit --change` takes them."""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from provisioner.errors import UsageError
from provisioner.terminal.escaping import printable

_WORD = re.compile(r"""(?:\$\{[^{}'"\\]*\}|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\])+""", re.DOTALL)
_PIECE = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
_VARIABLE = re.compile(r"\\(.)|\$(?:\{(\w+)(?::([-+])([^{}]*))?\}|(\w+))", re.DOTALL)
_REAL_TIME = re.compile(r"RTMIN(\+\d{1,2})?|RTMAX(-\d{1,2})?")
_LAST_SIGNAL, _LAST_PORT = 64, 65535
_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True)
class ConfigChange:
    """One instruction."""

    name: str
    """The instruction in capitals, such as CMD."""
    value: str

    @classmethod
    def parse(cls, text: str) -> ConfigChange:
        """Return the instruction in a text such as `CMD ["nginx"]`. Raises UsageError for any other text."""
        name, _, value = text.strip().partition(" ")
        change = cls(name.upper(), value.strip())
        if change.name not in _INSTRUCTIONS:
            raise UsageError(
                f"--change {printable(text)[:100]!r} begins with no known instruction",
                f"known: {', '.join(INSTRUCTIONS)}",
            )
        change.apply({}, has_command=False)
        return change

    def apply(self, run: dict[str, Any], *, has_command: bool) -> None:
        """Apply the instruction to `run`, the object `config` of an image's config. Raises UsageError.

        `has_command` says whether an earlier change has set CMD. If none has, ENTRYPOINT removes the image's CMD.
        """
        if not self.value and self.name not in ("CMD", "ENTRYPOINT"):
            raise self.error("it has no value")
        _INSTRUCTIONS[self.name](self, run)
        if self.name == "ENTRYPOINT" and not has_command:
            run.pop("Cmd", None)

    def words(self, run: Mapping[str, Any]) -> list[str]:
        """Return the words of the value, with quotes removed and the image's variables expanded. Raises UsageError."""
        if "".join(_WORD.split(self.value)).strip():
            raise self.error("a quote isn't closed")
        env = dict(text.split("=", 1) for text in run.get("Env") or () if "=" in text)
        return [
            "".join(_unquote(piece.groups(), env) for piece in _PIECE.finditer(word))
            for word in _WORD.findall(self.value)
        ]

    def pairs(self, run: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return names and values: `NAME=VALUE…`, or `NAME VALUE`. Raises UsageError."""
        words = self.words(run)
        if "=" not in words[0] and len(words) > 1:
            return [(words[0], " ".join(words[1:]))]
        found = [word.partition("=") for word in words]
        if any(not name or not equals for name, equals, _ in found):
            raise self.error("it has to be NAME=VALUE")
        return [(name, value) for name, _, value in found]

    def json_words(self) -> list[str] | None:
        """Return the words of a value that is a list in JSON; None for other values. Raises UsageError."""
        try:
            words = json.loads(self.value) if self.value.startswith("[") else None
        except (ValueError, RecursionError):
            return None
        if isinstance(words, list) and not all(isinstance(word, str) for word in words):
            raise self.error("its list may only have texts")
        return words

    def error(self, why: str) -> UsageError:
        """Return the error for an invalid value, with the reason `why`."""
        shown = printable(f"{self.name} {self.value}")[:100]
        return UsageError(f"--change {shown!r}: {why}", "it is written as in a Dockerfile: --change 'CMD [\"nginx\"]'")


def apply_changes(run: Mapping[str, Any], changes: Sequence[ConfigChange]) -> dict[str, Any]:
    """Return `run`, the object `config` of an image's config, with the changes applied. Raises UsageError."""
    changed = dict(run)
    has_command = False
    for change in changes:
        change.apply(changed, has_command=has_command)
        has_command = has_command or change.name == "CMD"
    return changed


def _unquote(piece: Sequence[str | None], env: Mapping[str, str]) -> str:
    """Return the text of a piece of a word: single-quoted, double-quoted, escaped, or plain."""
    single, double, escaped, plain = piece
    if single is not None:
        return single
    if escaped is not None:
        return escaped
    text = double if double is not None else plain or ""
    return _VARIABLE.sub(lambda found: found[1] or _value(found, env), text)


def _value(found: re.Match[str], env: Mapping[str, str]) -> str:
    """Return the value of `$NAME`, `${NAME}`, `${NAME:-WORD}` or `${NAME:+WORD}`."""
    value, operator, word = env.get(found[2] or found[5], ""), found[3], found[4]
    if operator == "-":
        return value or word
    return word if operator and value else "" if operator else value


def _set_command(key: str) -> Callable[[ConfigChange, dict[str, Any]], None]:
    """Return a function that sets CMD or ENTRYPOINT from a JSON list or from a command line for the shell."""

    def set_command(change: ConfigChange, run: dict[str, Any]) -> None:
        words, shell = change.json_words(), run.get("Shell")
        if words is not None:
            run[key] = words
        elif change.value:
            run[key] = [*(shell if isinstance(shell, list) and shell else _SHELL), change.value]
        else:
            run[key] = []

    return set_command


def _set_env(change: ConfigChange, run: dict[str, Any]) -> None:
    variables = {text.partition("=")[0]: text for text in run.get("Env") or ()}
    variables |= {name: f"{name}={value}" for name, value in change.pairs(run)}
    run["Env"] = list(variables.values())


def _set_labels(change: ConfigChange, run: dict[str, Any]) -> None:
    run["Labels"] = {**(run.get("Labels") or {}), **dict(change.pairs(run))}


def _add_ports(change: ConfigChange, run: dict[str, Any]) -> None:
    ports = []
    for word in change.words(run):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", word.lower())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if found is None or not 0 < first <= last <= _LAST_PORT:
            raise change.error("a port is written as 80, 53/udp or 8000-8010")
        ports += [f"{port}/{found[3] or 'tcp'}" for port in range(first, last + 1)]
    run["ExposedPorts"] = {**(run.get("ExposedPorts") or {}), **{port: {} for port in ports}}


def _add_volumes(change: ConfigChange, run: dict[str, Any]) -> None:
    paths = change.json_words() or change.words(run)
    if not all(paths):
        raise change.error("a volume is a path")
    run["Volumes"] = {**(run.get("Volumes") or {}), **{path: {} for path in paths}}


def _add_trigger(change: ConfigChange, run: dict[str, Any]) -> None:
    if change.value.split()[0].upper() in ("ONBUILD", "FROM", "MAINTAINER"):
        raise change.error(f"{change.value.split()[0].upper()} can't be a trigger")
    former = run.get("OnBuild")
    run["OnBuild"] = [*(former if isinstance(former, list) else []), change.value]


def _set_text(key: str) -> Callable[[ConfigChange, dict[str, Any]], None]:
    def set_text(change: ConfigChange, run: dict[str, Any]) -> None:
        words = change.words(run)
        if len(words) != 1:
            raise change.error("it has to be one word")
        run[key] = words[0]

    return set_text


def _set_directory(change: ConfigChange, run: dict[str, Any]) -> None:
    """Set the working directory; a relative one is relative to the former one."""
    path = " ".join(change.words(run))
    above = run.get("WorkingDir") or "/"
    run["WorkingDir"] = posixpath.normpath(posixpath.join("/", above, path)).replace("//", "/")


def _set_stop_signal(change: ConfigChange, run: dict[str, Any]) -> None:
    _set_text("StopSignal")(change, run)
    name = run["StopSignal"].upper().removeprefix("SIG")
    is_number = name.isdecimal() and 0 < int(name) <= _LAST_SIGNAL
    if not is_number and f"SIG{name}" not in signal.Signals.__members__ and not _REAL_TIME.fullmatch(name):
        raise change.error("it is not a signal")


def _set_shell(change: ConfigChange, run: dict[str, Any]) -> None:
    words = change.json_words()
    if not words:
        raise change.error('it has to be a list in JSON, such as ["/bin/bash", "-c"]')
    run["Shell"] = words


def _set_health_check(change: ConfigChange, run: dict[str, Any]) -> None:
    """Set the object `Healthcheck` of Docker's config; its times are in nanoseconds."""
    rest, check = change.value, dict[str, Any]()
    while option := _OPTION.match(rest):
        key = _HEALTH_OPTIONS.get(option[1])
        if key is None:
            raise change.error(f"--{option[1]} is none of --{', --'.join(_HEALTH_OPTIONS)}")
        value = int(option[2]) if key == "Retries" and option[2].isdecimal() else _nanoseconds(option[2])
        if value is None or (key == "Retries" and not option[2].isdecimal()) or (key != "Retries" and 0 < value < _MS):
            raise change.error(f"--{option[1]} can't be {option[2]}")
        check[key] = value
        rest = rest[option.end() :]
    kind, _, command = rest.partition(" ")
    if kind.upper() == "NONE" and not command and not check:
        run["Healthcheck"] = {"Test": ["NONE"]}
        return
    command = command.strip()
    words = ConfigChange(change.name, command).json_words()
    if kind.upper() != "CMD" or not command or words == []:
        raise change.error("it is NONE, or options and CMD with a command")
    test = ["CMD-SHELL", command] if words is None else ["CMD", *words]
    run["Healthcheck"] = {"Test": test, **{key: value for key, value in check.items() if value}}


def _nanoseconds(text: str) -> int | None:
    """Return a duration in Go's notation, such as `1m30s`, in nanoseconds; None if the text is none."""
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return int(sum(Decimal(number) * _UNITS[unit] for number, unit in parts))


_OPTION = re.compile(r"--([\w-]+)=(\S*)\s+")
_HEALTH_OPTIONS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
    "retries": "Retries",
}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)")
_MS = 10**6
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": _MS, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

_INSTRUCTIONS: Mapping[str, Callable[[ConfigChange, dict[str, Any]], None]] = {
    "CMD": _set_command("Cmd"),
    "ENTRYPOINT": _set_command("Entrypoint"),
    "ENV": _set_env,
    "EXPOSE": _add_ports,
    "HEALTHCHECK": _set_health_check,
    "LABEL": _set_labels,
    "ONBUILD": _add_trigger,
    "SHELL": _set_shell,
    "STOPSIGNAL": _set_stop_signal,
    "USER": _set_text("User"),
    "VOLUME": _add_volumes,
    "WORKDIR": _set_directory,
}
INSTRUCTIONS = tuple(_INSTRUCTIONS)
"""The names of all instructions."""
