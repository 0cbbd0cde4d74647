"""Options of start.sh, and of docker's that it understands, before SOURCE or NAME: as `provision run -it IMAGE`."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from provisioner.commands.unexpanded import check_unexpanded_paths
from provisioner.errors import UsageError, machine_errors
from provisioner.terminal.escaping import printable

_SHOWN: Sequence[tuple[tuple[str, ...], str, str]] = (
    (("--interactive", "-i"), "", "as in docker: standard input is always there"),
    (("--tty", "-t"), "", "as in docker: the terminal is always there"),
    (("--env", "-e"), "K=V", "set a variable, or K for the value that it has here; repeatable"),
    (("--env-file",), "FILE", "the same for each line of a file"),
    (("--bind", "--volume"), "SRC[:DST[:ro]]", "show SRC inside; repeatable; also -v SRC:DST, as docker has it"),
    (("--here",), "", "show this directory at its own path, and start in it"),
    (("--workdir", "-w"), "DIR", "start in DIR"),
    (("--user", "-u"), "USER[:GROUP]", "names or numbers"),
    (("--root",), "", "as root: --user 0:0"),
    (("--entrypoint",), "E", "run E, not the image's"),
    (("--hostname",), "NAME", "the container's name"),
    (("--umask",), "MODE", "that of the command: 022 without it"),
    (("--dns",), "IP", "ask this name server; repeatable"),
    (("--runtime",), "R", "auto, proot, chroot or userns"),
    (("--ids",), "N", "many: userns with all ids of /etc/subuid"),
    (("--x11",), "", "show this machine's X server"),
    (("--sound",), "", "show this machine's sound server"),
    (("--gpu",), "virgl", "draw by virgl, outside"),
    (("--device",), "PATH[:DST]", "show a device of this machine in /dev; repeatable"),
    (("--detach", "-d"), "", "in the background, with a log"),
    (("--publish", "-p"), "PORT:PORT", "as in docker: ports are this machine's, so both have to be the same"),
)
"""Names, value and help of the options that the help shows. `DIR/start.sh --help` has all."""

FLAGS = (
    *("--shell", "--print", "--termux", "--privileged", "--no-namespace", "--no-new-privs", "--read-only"),
    *("--ephemeral", "--no-proxy-env"),
    # docker's
    *("--rm", "--init", "--sig-proxy", "--publish-all", "-P", "--no-healthcheck", "--oom-kill-disable"),
    *("--disable-content-trust", "--use-api-socket"),
)
"""More of them, without a value."""

VALUED = (
    *("--unsetenv", "--dev", "--cap-add", "--proot-option"),
    # docker's
    *("--mount", "--network", "--net", "--security-opt", "--name", "--label", "-l", "--label-file", "--annotation"),
    *("--pull", "--cidfile", "--log-driver", "--log-opt", "--attach", "-a", "--detach-keys", "--expose", "--shm-size"),
    *("--stop-signal", "--stop-timeout", "--health-cmd", "--health-interval", "--health-retries", "--health-timeout"),
    *("--health-start-period", "--blkio-weight", "--cpus", "--cpu-shares", "-c", "--cpu-period", "--cpu-quota"),
    *("--cpuset-cpus", "--cpuset-mems", "--memory", "-m", "--memory-swap", "--memory-reservation"),
    *("--memory-swappiness", "--kernel-memory", "--device-cgroup-rule", "--device-read-bps", "--device-write-bps"),
    *("--oom-score-adj", "--pids-limit", "--ulimit", "--storage-opt", "--add-host", "--cap-drop", "--cgroup-parent"),
    *("--cgroupns", "--dns-opt", "--dns-option", "--dns-search", "--domainname", "--gpus", "--group-add", "--ip"),
    *("--ip6", "--ipc", "--isolation", "--link", "--link-local-ip", "--mac-address", "--network-alias", "--net-alias"),
    *("--pid", "--restart", "--sysctl", "--tmpfs", "--userns", "--uts", "--volume-driver", "--volumes-from", "--pod"),
    *("--secret", "--tz", "--systemd"),
)
"""More of them, each with a value."""

TAKES_VALUE = frozenset([*VALUED, *(name for names, value, _ in _SHOWN if value for name in names)])
START_OPTIONS = frozenset([*FLAGS, *VALUED, *(name for names, *_ in _SHOWN for name in names)])
"""All of them."""

_VOLUME = re.compile(
    "(?!(?:docker-archive|oci|oci-archive|dir|rootfs|lxc|containers-storage):)[^:]*:/(?!/).*", re.DOTALL
)
"""What is taken for SRC:DST behind -v: a source of an image isn't."""


class ForStart(argparse.Action):
    """Adds an option as it was typed to the list of words for start.sh."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add it. Raises UsageError for a path that begins with `~`."""
        check_unexpanded_paths(self, values)
        words = [option_string or "", *([values] if isinstance(values, str) else [])]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), *words])


def add_start_arguments(parser: argparse.ArgumentParser, but: Sequence[str] = ()) -> None:
    """Add the options, except for those that `but` names; `start_words` of the arguments has those that were typed."""
    parser.set_defaults(start_words=[])
    rows = [*_SHOWN, *(((name,), "", argparse.SUPPRESS) for name in FLAGS)]
    rows += (((name,), "VALUE", argparse.SUPPRESS) for name in VALUED)
    for names, value, text in rows:
        if not set(but) & set(names):
            more: dict[str, Any] = {"metavar": value} if value else {"nargs": 0}
            parser.add_argument(
                *names, action=ForStart, dest="start_words", default=argparse.SUPPRESS, help=text, **more
            )


def with_volume_options(words: Sequence[str]) -> list[str]:
    """Return the command line with docker's `-v SRC:DST` written as `--volume SRC:DST`; any other -v is --verbose."""
    result: list[str] = []
    for word in words:
        if result and result[-1] == "-v" and _VOLUME.fullmatch(word):
            result[-1:] = ["--volume", word]
        elif word.startswith("-v") and _VOLUME.fullmatch(word[2:]):
            result += ["--volume", word[2:]]
        else:
            result.append(word)
    return result


def check_start_words(words: Sequence[str]) -> None:
    """Raise UsageError for options that start.sh would refuse, by the part of it that reads them."""
    from provisioner.launch.script import options_reader

    words = [word for word in words if word != "--here"]  # that depends on the rootfs, which isn't there yet
    if not words:
        return
    command = [shutil.which("sh") or "/bin/sh", "-s", "--", *words]
    with machine_errors("read the options"):
        done = subprocess.run(command, input=options_reader(), capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().removeprefix("start.sh: ")
        what, missing, path = message.removesuffix(": start.sh --help").partition(": mkdir ")
        hint = f"make it first: mkdir {path}" if missing else "all options: provision help run"
        raise UsageError(printable(what), printable(hint))
