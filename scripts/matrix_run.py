"""Runs the cells of the matrix: each in a DIR that was provisioned for its column, and in namespaces of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from provisioner.image.platform import host_platform
from scripts.loopback_registry import OCI_MANIFEST, LoopbackRegistry
from scripts.matrix_columns import TERMUX_PROOT, Column
from scripts.matrix_rows import Row
from scripts.matrix_services import PACKAGES
from scripts.matrix_systems import Unavailable
from tests.support.tools import provision_command

FIRST_PORT = 18200

PRELUDE = """\
set -e
must() { "$@" || { echo "this fails: $*" && exit 1; }; }
"""

# A mount and a PID namespace for each cell: when its first process is killed, all others and all mounts are gone. That
# process stays root's shell, since the kernel forgets --kill-child for a process that becomes another user.
ALONE = [
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "sh",
    "-c",
    'mount -t proc proc /proc && "$@"; exit $?',
    "sh",
]

# The same with the root of sid, which is $1, and the boxes, which are $2.
INTO_SID = """\
mount --bind "$1" "$1" && mkdir -p "$1$2" && mount --bind "$2" "$1$2" && cd "$1" &&
mount -t proc proc proc && mount --rbind /dev dev && mount --rbind /sys sys && shift 2 && exec chroot . "$@"
"""

# A seccomp filter that refuses hard links would hide them from proot's own filter, other than Android's SELinux.
NO_HARD_LINKS = """\
#!/bin/sh
case $1 in -s) exec /bin/ln "$@" ;; esac
echo 'ln: Permission denied' >&2
exit 1
"""


@dataclass(frozen=True)
class Cell:
    """The result of a row in a column."""

    row: str
    system: str
    column: str
    works: bool
    reason: str
    """The last message of the guest or start.sh, if it doesn't work."""
    seconds: float


@dataclass(frozen=True)
class User:
    """The unprivileged user of a run."""

    name: str
    uid: int
    gid: int
    home: Path


@contextmanager
def temporary_user(boxes: Path) -> Iterator[User]:
    """Create a user with 65536 further ids, and remove them, their files and their processes at the end."""
    name = f"matrix{secrets.token_hex(3)}"
    home = boxes / "home"
    first = 1_000_000 + 65536 * (os.getpid() % 1000)
    subprocess.run(["useradd", "--create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    try:
        for kind in "ug":
            if f"\n{name}:" not in f"\n{Path(f'/etc/sub{kind}id').read_text()}":
                subprocess.run(["usermod", f"--add-sub{kind}ids={first}-{first + 65535}", name], check=True)
        owner = home.stat()
        yield User(name, owner.st_uid, owner.st_gid, home)
    finally:
        subprocess.run(["userdel", name], check=False, stderr=subprocess.DEVNULL)


class Runner:
    """Provisions DIRs below `boxes` and runs rows in them."""

    def __init__(self, boxes: Path, user: User, registry: LoopbackRegistry, sid: Path | None) -> None:
        self.boxes = boxes
        self.user = user
        self.registry = registry
        self.sid = sid
        self.stopped = False
        self.host_file = boxes / "a-file-of-the-host"
        self.host_file.write_text("a guest must not see this\n")
        for name in ("root", "user"):
            (boxes / name).mkdir()
        os.chown(boxes / "user", user.uid, user.gid)

    def provision(self, column: Column, system: str) -> Path:
        """Provision a system for a column and return its DIR. Raise Unavailable with what provision said."""
        parent = self.boxes / ("root" if column.by_root else "user")
        directory = parent / f"{column.name}-{system}"
        options = {} if column.by_root else self._as_user()
        source = f"{self.registry.host}/{system}:latest"
        command, popen = provision_command(
            source, directory, *column.provision_options, cache=parent / "cache", **options
        )
        done = subprocess.run(command, check=False, **popen)
        if done.returncode:
            raise Unavailable(f"provision ends with {done.returncode}: {last_line(done.stderr)}")
        for name in column.without:
            (directory / ".provision" / name).unlink(missing_ok=True)
        return directory

    def remove(self, directory: Path) -> None:
        """Remove a DIR, whatever owners its files have."""
        shutil.rmtree(directory, ignore_errors=True)

    def run(self, column: Column, row: Row, system: str, directory: Path, port: int) -> Cell:
        """Run one row and return its cell."""
        token = secrets.token_hex(4)
        started = time.monotonic()
        command, environment = self._command(column, row, directory, token, port)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        ended = True
        try:
            out, err = process.communicate(timeout=row.seconds)
        except subprocess.TimeoutExpired:
            ended = False
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
        text, error = out.decode(errors="replace"), err.decode(errors="replace")
        seconds = round(time.monotonic() - started, 1)
        reason = judge(row, process.returncode if ended else None, text, error, token)
        for part, name in ((token, "TOKEN"), (str(directory), "DIR"), (str(self.boxes), "…"), (str(port), "PORT")):
            reason = reason.replace(part, name)
        return Cell(row.name, system, column.name, not reason, reason, seconds)

    def _command(
        self, column: Column, row: Row, directory: Path, token: str, port: int
    ) -> tuple[list[str], dict[str, str]]:
        values = {"TOKEN": token, "PORT": str(port), "HOST_FILE": str(self.host_file), "PACKAGES": PACKAGES}
        words = [str(directory / "start.sh"), *column.options]
        if row.words:
            words += ["--entrypoint", row.words[0], "--", *row.words[1:]]
        else:
            words += [word for name, value in values.items() for word in ("--env", f"{name}={value}")]
            words += ["--entrypoint", "/bin/sh", "--", "-c", PRELUDE + speaking(row.script)]
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "HOME": "/root",
        }
        if column.by_root:
            return [*ALONE, *words], environment
        if column.proot == "termux":
            environment["PATH"] = f"{self._termux_path()}:{environment['PATH']}"
        environment["HOME"] = str(self.user.home)
        words = ["setpriv", f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--clear-groups", "--", *words]
        if column.proot == "sid":
            words = ["sh", "-c", INTO_SID, "sh", str(self.sid), str(self.boxes), *words]
        return [*ALONE, *words], environment

    def _termux_path(self) -> Path:
        """Return a directory with Termux's proot, and an ln by which start.sh finds that hard links are refused."""
        place = self.boxes / "termux"
        if not place.exists():
            place.mkdir()
            shutil.copy(os.environ[TERMUX_PROOT], place / "proot")
            (place / "ln").write_text(NO_HARD_LINKS)
            for name in ("proot", "ln"):
                (place / name).chmod(0o755)
        return place

    def _as_user(self) -> dict[str, object]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.user.home),
            "LANG": "C.UTF-8",
            "USER": self.user.name,
        }
        who = {"user": self.user.uid, "group": self.user.gid, "extra_groups": [], "cwd": "/"}
        return {**who, "env": environment}


def speaking(script: str) -> str:
    """Return the script with its plain tests (`[ … ]`) changed so that they print what they tested if they fail."""
    return re.sub(r"(?m)^(\s*)(\[ (?!.*\|\|).*)$", r"\1must \2", script)


def judge(row: Row, status: int | None, text: str, error: str, token: str) -> str:
    """Return why a cell doesn't work, or an empty text; `status` is None for a guest that didn't end in time."""
    lines = text.splitlines()
    proven = {line.replace("$TOKEN", token) for line in row.proof}
    own = (line for line in error.splitlines() if row.error or not line.startswith("start.sh: this proot shows"))
    said = last_line("\n".join(line for line in lines if line not in proven)) or last_line("\n".join(own))
    if status is None:
        return f"it doesn't end within {row.seconds} s" + (f"; it says: {said}" if said else "")
    if row.error and not re.search(row.error, error):
        return f"status {status}; {said or 'nothing is said'}"
    if status != row.status:
        return f"status {status}" + (f" in place of {row.status}" if row.status else "") + (f"; {said}" if said else "")
    return f"the output doesn't prove it: {said or 'it is empty'}" if not proven <= set(lines) else ""


def last_line(text: str) -> str:
    """Return the last line that isn't empty, without control characters."""
    lines = [re.sub(r"[\x00-\x1f\x7f]+", " ", line).strip() for line in text.splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "")


def publish(registry: LoopbackRegistry, name: str, archive: Path) -> None:
    """Serve an archive as an image with one uncompressed layer."""
    layer = archive.read_bytes()
    digest = registry.add_blob(name, layer)
    platform = host_platform()
    config = json.dumps(
        {
            "os": platform.os,
            "architecture": platform.architecture,
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["/bin/sh"],
            },
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": registry.add_blob(name, config),
            "size": len(config),
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(layer)}],
    }
    registry.add_manifest(name, json.dumps(manifest).encode(), tag="latest")


def unpack_sid(archive: Path, boxes: Path) -> Path:
    """Unpack the root file system of sid and return its directory."""
    root = boxes / "sid"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-xf", archive], check=True)
    return root


def as_json(cells: Sequence[Cell]) -> str:
    """Return cells as JSON."""
    return json.dumps([asdict(cell) for cell in cells], indent=1)


def from_json(text: str) -> list[Cell]:
    """Return the cells that `as_json` wrote."""
    return [Cell(**value) for value in json.loads(text)]
