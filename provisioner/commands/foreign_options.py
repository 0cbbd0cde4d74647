"""Options that other tools have for the same job, and what to type instead of them."""

from __future__ import annotations

from collections.abc import Mapping

_DIR_IS_SECOND = "DIR is the second word: provision IMAGE DIR"
_FILE_IS_SECOND = "FILE is the second word: provision {} NAME FILE"
_TAG_FOLLOWS = "a tag follows the name: provision ubuntu:24.04 DIR"
_JSON = dict.fromkeys(("--format",), "did you mean --json?")
_INTERACTIVE = dict.fromkeys(("--it", "--ti"), "did you mean -it?")
_MOST_RECENT = "provision logs NAME | tail -n 20"

EVERYWHERE: Mapping[str, str] = {
    **dict.fromkeys(("--arch", "--architecture", "--os"), "did you mean --platform? As --platform linux/arm64"),
    **dict.fromkeys(("--net", "--network"), "containers use this machine's network: leave it out"),
    **dict.fromkeys(("--registry-mirror",), "did you mean --mirror?"),
    **dict.fromkeys(("--tls-verify", "--insecure-registry"), "did you mean --insecure?"),
    **dict.fromkeys(("--no-color", "--no-colour"), "did you mean --color never?"),
}
"""What to type for an option, whatever the subcommand is."""

_INSTALL = {
    **dict.fromkeys(("--output", "-o", "--dir", "--rootfs"), _DIR_IS_SECOND),
    **dict.fromkeys(("--overwrite", "--replace", "--reinstall", "-f"), "did you mean --force?"),
    **dict.fromkeys(("-n", "--dry-run", "--check"), "provision inspect IMAGE shows an image without downloading it"),
    "--tag": _TAG_FOLLOWS,
    "-j": "did you mean --jobs?",
    **dict.fromkeys(("-U", "--upgrade", "--update"), "provision update NAME updates a container"),
    "--override-alias": _DIR_IS_SECOND,
    **dict.fromkeys(("-y", "--yes"), "nothing is asked: leave it out"),
    **dict.fromkeys(("--port", "--publish", "-p", "-P"), "ports are this machine's: leave it out"),
}
BY_SUBCOMMAND: Mapping[str, Mapping[str, str]] = {
    "install": _INSTALL,
    **dict.fromkeys(("run", "start", "shell", "exec"), _INTERACTIVE),
    "list": {
        **dict.fromkeys(("-a", "--all", "-l", "--installed"), "all directories are listed without it: provision list"),
        **_JSON,
        **dict.fromkeys(("-o", "--outdated"), "provision update --all --check says which have newer images"),
    },
    "remove": dict.fromkeys(("-f", "--force", "-r", "-rf", "--purge"), "did you mean --yes?"),
    "logs": dict.fromkeys(("--tail", "-n", "--lines", "--since", "-t", "--timestamps"), _MOST_RECENT),
    "inspect": dict.fromkeys(("-f", "--format"), "did you mean --json?"),
    "search": {**dict.fromkeys(("-f", "--filter"), "all words are looked for: provision search QUERY..."), **_JSON},
    "tags": _JSON,
    "doctor": _JSON,
    "login": dict.fromkeys(("-p", "--password"), "did you mean --password-stdin? Else the password is asked for"),
    "stop": dict.fromkeys(("-a", "--all"), "name each; provision list shows what runs"),
    "diff": {
        **dict.fromkeys(("--name-only", "--name-status"), "a pipe gets a name a line: provision diff NAME | cat"),
        **_JSON,
    },
    "config": {
        **dict.fromkeys(("-l", "--list", "--get", "--show"), "provision config NAME shows all of them"),
        **dict.fromkeys(("--unset", "--delete"), "an empty value takes it back: --set env="),
    },
    "cache": {
        **dict.fromkeys(("-y", "--yes", "-f", "--force"), "nothing is asked: leave it out"),
        **dict.fromkeys(("--older-than", "--filter"), "did you mean --days? As provision cache prune --days 7"),
        **dict.fromkeys(("-a", "--all"), "provision cache clear removes all that no run uses"),
        **_JSON,
    },
    "export": dict.fromkeys(("-o", "--output"), _FILE_IS_SECOND.format("export")),
    "backup": dict.fromkeys(("-o", "--output", "-f", "--file"), _FILE_IS_SECOND.format("backup")),
    "update": dict.fromkeys(("-n", "--no-act"), "did you mean --dry-run?"),
}
"""What to type for an option of one subcommand."""
