"""A small container that is really started: what tests of start.sh share."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.image.platform import host_platform
from provisioner.launch.launcher import launcher
from provisioner.launch.runtime_files import runtime_files, write_files
from provisioner.launch.settings import LaunchSettings
from tests.support.tools import (
    as_user,
    clean_environment,
    find_program,
    heed_signals,
    need,
    need_root,
    own_all,
    unavailable,
)

RUNTIMES = ["proot", "userns", "chroot"]
ROOTS_USERNS = "userns by root"
"""The runtime userns, where root starts it."""
SHELLS = {"dash": ["dash"], "bash": ["bash"], "mksh": ["mksh"], "ash": ["busybox", "ash"]}
# Commands that print their arguments, and their environment, each with a NUL behind it.
SAY = ("sh", "-c", 'for word; do printf "%s\\0" "$word"; done', "say")
ENVIRONMENT = ("cat", "/proc/self/environ")
APPLETS = ("ash", "cat", "false", "head", "id", "mkdir", "printf", "pwd", "sh", "sleep", "touch", "true", "tty", "wc")

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
joe:x:1000:1001:Joe:/home/joe:/bin/ash
web:x:33:34::/srv:/bin/false
last:x:77:78::/home/last:"""

GROUP = """\
root:x:0:
adm:x:4:root
audio:x:29:web,joe
joe:x:1001:
video:x:44:joe,other
joes:x:45:joey"""

SETTINGS = LaunchSettings(
    provision_version="0.1.0",
    image_reference="docker.io/library/busybox:1",
    image_platform="",
    image_entrypoint=(),
    image_command=(),
    image_env=("PATH=/bin",),
    image_user="",
    image_workdir="",
    image_localtime="",
    image_stop_signal="",
    image_ports=(),
    default_runtime="auto",
    default_dns=(),
    default_hostname="",
    default_binds=(),
    default_env=(),
)


@dataclass(frozen=True)
class Container:
    """A provisioned directory."""

    directory: Path

    @property
    def script(self) -> Path:
        return self.directory / "start.sh"

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    def set(self, **changed: Any) -> Container:
        """Write start.sh anew with other settings."""
        self.script.write_bytes(launcher(dataclasses.replace(SETTINGS, **changed)))
        self.script.chmod(0o755)
        return self

    def run(
        self, runtime: str, *args: str | bytes | Path, shell: Iterable[str] = (), by: str = "", **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Start it to its end: in a runtime, or in what it chooses where that is empty and started as for `by`."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 200}
        command = [*shell, self.script, *choosing(runtime), *args]
        return subprocess.run(command, check=False, **{**pipes, **starter(by or runtime), **options})

    def output(self, runtime: str, *args: str | bytes | Path, **options: Any) -> bytes:
        """The standard output of a start that has to succeed without a word on standard error."""
        done = self.run(runtime, *args, **options)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout

    def words(self, runtime: str, *args: str | bytes | Path, **options: Any) -> list[bytes]:
        """What a guest like SAY or ENVIRONMENT prints."""
        return self.output(runtime, *args, **options).split(b"\0")[:-1]

    @contextmanager
    def running(
        self, runtime: str, *args: str, shell: Iterable[str] = (), **options: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start it without a terminal."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "start_new_session": True}
        command: list[str | Path] = [*shell, self.script, *choosing(runtime), *args]
        popen_options = {"preexec_fn": heed_signals, **pipes, **starter(runtime), **options}
        with subprocess.Popen(command, **popen_options) as process:
            try:
                yield process
            except BaseException:  # a test that fails must not wait for the guest
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise


def choosing(runtime: str) -> list[str]:
    return ["--runtime", runtime.split()[0]] if runtime else []


def is_roots(runtime: str) -> bool:
    """Whether root starts a runtime."""
    return runtime in ("chroot", ROOTS_USERNS)


def starter(runtime: str) -> dict[str, Any]:
    """Options for subprocess: who starts a runtime, from where. The test is skipped where that can't be."""
    if is_roots(runtime):
        need_root()
        need("unshare", "mount")
        if runtime == ROOTS_USERNS:
            need_user_namespaces(by_root=True)
        return {"env": clean_environment(), "cwd": "/"}
    user = {"cwd": "/", **as_user()}
    if runtime == "userns":
        need("unshare")
        need_user_namespaces(by_root=False)
    elif runtime == "proot":
        need("proot")
    return user


def user_of(runtime: str) -> dict[str, Any]:
    """Options for subprocess, for the user of that runtime, in place of others."""
    return {"user": None, "group": None, "extra_groups": None, **starter(runtime)}


def without_helper(container: Container) -> Container:
    """Leave a container as on a machine that there is no helper for."""
    (container.directory / ".provision/machine").unlink()
    return container


def need_user_namespaces(*, by_root: bool) -> None:
    """Skip or fail the running test unless this machine lets root, or the unprivileged user, make them."""
    if not _can_unshare(by_root):
        unavailable("user namespaces don't work here")


@cache
def _can_unshare(by_root: bool) -> bool:
    options = {} if by_root else {"cwd": "/", **as_user()}
    return subprocess.run(["unshare", "-U", "-r", "true"], check=False, **options).returncode == 0


def make_container(directory: Path, **changed: Any) -> Container:
    """A container of the unprivileged user that holds nothing but busybox."""
    busybox = static_busybox()  # where it is missing, the test is skipped before anything is made
    target = Container(directory)
    for name in ("bin", "usr/bin", "etc", "tmp", "root", "home/joe", "proc"):
        (target.rootfs / name).mkdir(parents=True)
    (directory / ".provision").mkdir()
    for path in (directory, directory / ".provision"):
        path.chmod(0o755)  # whatever the umask is
    (directory / ".provision/shm").mkdir()
    (directory / ".provision/shm").chmod(0o1777)
    with closing_descriptor(os.open(directory / ".provision", DIRECTORY)) as folder:
        write_files(folder, runtime_files(host_platform()))
    shutil.copy(busybox, target.rootfs / "bin/busybox")
    for applet in APPLETS:
        (target.rootfs / "bin" / applet).symlink_to("busybox")
    (target.rootfs / "usr/bin/env").symlink_to("/bin/busybox")
    (target.rootfs / "etc/passwd").write_text(PASSWD)
    (target.rootfs / "etc/group").write_text(GROUP)
    (target.rootfs / "etc/resolv.conf").write_text("nameserver 9.9.9.9\n")
    return hand_over(target.set(**changed))


def static_busybox() -> Path:
    need("busybox")
    path = Path(find_program("busybox") or "")
    if b"/ld-" in path.read_bytes()[:4096]:
        unavailable("busybox is not the static one: apt-get install busybox-static")
    return path


def hand_over(target: Container) -> Container:
    """Make all of it the unprivileged user's."""
    own_all(target.directory)
    return target


def make_scratch(directory: Path, **changed: Any) -> Container:
    """A container without env, shell, passwd or any directory but those of three programs."""
    target = make_container(directory, **{"image_env": ("PATH=/sbin:/app",), **changed})
    shutil.rmtree(target.rootfs)
    (target.rootfs / "app").mkdir(parents=True)
    for applet in ("cat", "id", "pwd"):
        shutil.copy(static_busybox(), target.rootfs / "app" / applet)
    (target.rootfs / "app/data").write_text("no program")
    return hand_over(target)
