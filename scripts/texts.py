"""Writes scripts/share/: completions for shells and man pages, from the texts of the help (`make texts`).

python -m scripts.texts           write them
python -m scripts.texts --check   exit with status 1 if one is not up to date
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from provisioner import __version__
from provisioner.cli import COMMANDS, EXIT_STATUSES, SUMMARY
from provisioner.commands.completion import FILES
from provisioner.commands.parser import add_common_options
from provisioner.image.platform import Platform
from provisioner.launch.launcher import launcher
from provisioner.launch.settings import LaunchSettings

SHARE = Path(__file__).resolve().parent / "share"
_DATE = "2026-11-26"
"""The date of the man pages. It is fixed, so that they change only with their text."""


_NAMES = "provision list --quiet 2>/dev/null"
CONTAINERS = {
    "bash": "_provision_containers",
    "zsh": "_provision_containers",
    "fish": f"(__fish_complete_directories; {_NAMES} | string replace -r '.*/' '')",
    "preamble": {
        "bash": f"""\
_provision_containers() {{
  compgen -d -- "$1"
  {_NAMES} | while IFS= read -r directory; do
    case "${{directory##*/}}" in "$1"*) printf '%s\\n' "${{directory##*/}}" ;; esac
  done
}}""",
        "zsh": f"""\
_provision_containers() {{
  local -a names
  names=(${{${{(f)"$({_NAMES})"}}:t}})
  compadd -a names
  _files -/
}}""",
    },
}
"""Completes NAME|DIR: directories, and the names that `provision list` prints. No shell expands the names."""


def main(arguments: list[str]) -> int:
    """Write or check the files; return the exit status."""
    status = 0
    for name, text in texts():
        path = SHARE / name
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is not up to date: make texts", file=sys.stderr)
            status = 1
    return status


def texts() -> Iterator[tuple[str, str]]:
    """Yield name and content of each file."""
    for shell, name in FILES.items():
        yield name, _lines(shtab.complete(whole_parser(with_paths=True), shell))
    yield "provision.1", provision_page()
    yield "start.sh.1", start_page()


def whole_parser(*, with_paths: bool = False) -> argparse.ArgumentParser:
    """Return one parser with all subcommands. `with_paths` marks arguments that are files or directories, for shtab."""
    parser = argparse.ArgumentParser("provision", description=SUMMARY, epilog=EXIT_STATUSES, allow_abbrev=False)
    add_common_options(parser)
    subparsers = parser.add_subparsers(metavar="SUBCOMMAND")
    for name, command in COMMANDS.items():
        part = subparsers.add_parser(name, help=command.HELP, description=f"{command.HELP}: {command.EXAMPLE}")
        command.add_arguments(part)
        add_common_options(part, getattr(command, "QUIET", "show errors only"))
        if with_paths:
            _mark_paths(part)
    return parser


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    """Let shells complete paths for arguments whose metavar is a path."""
    for action in parser._actions:
        words = set(re.split(r"[^A-Z]+", str(action.metavar)))
        if {"NAME", "DIR"} <= words:
            action.complete = CONTAINERS  # type: ignore[attr-defined]
        elif words & {"FILE", "SRC", "SOURCE"}:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif words & {"DIR", "NEW"}:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def provision_page() -> str:
    """Return provision(1)."""
    data = {
        "date": _DATE,
        "project_name": "provision",
        "version": __version__,
        "manual_title": "User Commands",
        "description": "turn container images into directories that run",
    }
    page = str(Manpage(whole_parser(), data))
    page = re.sub(r"^\./", r"\\&./", page, flags=re.MULTILINE)  # a leading period is a request of roff
    page = re.sub(r"^usage: (provision \S+) (.+?)\n\n", _usage, page, flags=re.MULTILINE | re.DOTALL)
    return _lines(re.sub(r"\.SH COMMENTS", ".SH EXIT STATUS", page))


def _usage(found: re.Match[str]) -> str:
    """Return the usage of a subcommand as roff that a page breaks between options, and nowhere in one."""
    words = re.sub(
        r"\[(?:[^][]|\[[^][]*(?:\[[^][]*\])*\])*\]", lambda option: re.sub(r"\s+", r"\ ", option[0]), found[2]
    )
    return f".nh\n.na\n.B {found[1]}\n{' '.join(words.split())}\n.ad\n.hy\n\n"


def start_page() -> str:
    """Return start.sh(1), made from the output of `start.sh --help`."""
    usage, _, rest = start_help().partition("\n")
    intro, options, notes = re.split(r"\n\n", rest.strip(), maxsplit=2)
    lines = [
        f'.TH START.SH 1 "{_DATE}" "provision {__version__}" "User Commands"',
        ".SH NAME",
        "start.sh \\- start a directory that provision has made",
        ".SH SYNOPSIS",
        f".B {_escaped(usage.removeprefix('Usage: ').replace('start.sh', 'DIR/start.sh'))}",
        ".SH DESCRIPTION",
        _escaped(_joined(intro.splitlines())),
        ".SH OPTIONS",
    ]
    for option, text in _entries(options.splitlines()):
        lines += [".TP", f".B {_escaped(option)}", _escaped(text)]
    lines += [".SH NOTES", _escaped(_joined(notes.splitlines())), ".SH SEE ALSO", ".BR provision (1)"]
    return "\n".join(lines) + "\n"


def start_help() -> str:
    """Return the output of `start.sh --help`."""
    values = dict.fromkeys(LaunchSettings.__dataclass_fields__, ())
    settings = LaunchSettings(**{**values, **_texts_of_settings()})  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "start.sh")
        script.write_bytes(launcher(settings))
        Path(folder, "rootfs").mkdir()
        return subprocess.run(["sh", script, "--help"], check=True, capture_output=True, text=True).stdout


def _texts_of_settings() -> dict[str, str]:
    """Return the settings that are words, not lists."""
    words = {name: "" for name, field in LaunchSettings.__dataclass_fields__.items() if field.type == "str"}
    return {**words, "image_platform": str(Platform.parse("linux/amd64")), "default_runtime": "auto"}


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each option of the help with its description."""
    option, text = "", list[str]()
    for line in lines:
        if line.startswith("-"):
            if option:
                yield option, _joined(text)
            option, _, first = re.sub(r"^(\S+(?: \S+)*?)(?:  +)", r"\1\0", line).partition("\0")
            text = [first]
        else:
            text.append(line.strip())
    yield option, _joined(text)


def _joined(lines: list[str]) -> str:
    """Return lines as one paragraph, with hyphenated words joined."""
    return re.sub(r"([a-z])- ([a-z])", r"\1\2", " ".join(lines))


def _escaped(text: str) -> str:
    """Return text escaped for roff."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("\n.", "\n\\&.")


def _lines(text: str) -> str:
    """Return text without trailing spaces, and with one newline at its end."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
