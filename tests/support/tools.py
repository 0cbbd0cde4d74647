"""Tools for tests of the whole program: programs of the system, an unprivileged user, the command line."""

from __future__ import annotations

import atexit
import errno
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.fork_server import PIPES, run_by_server

CHECKOUT = Path(__file__).resolve().parent.parent.parent

# The Debian packages of programs whose names differ.
PACKAGES = {
    "bsdcpio": "libarchive-tools",
    "bsdtar": "libarchive-tools",
    "btrfs": "btrfs-progs",
    "busybox": "busybox-static",
    "bwrap": "bubblewrap",
    "chattr": "e2fsprogs",
    "chroot": "coreutils",
    "createrepo_c": "createrepo-c",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "env": "coreutils",
    "find": "findutils",
    "flock": "util-linux",
    "fusermount": "fuse3",
    "getcap": "libcap2-bin",
    "getfacl": "acl",
    "getfattr": "attr",
    "groff": "groff-base",
    "keyctl": "keyutils",
    "ldd": "libc-bin",
    "localedef": "libc-bin",
    "losetup": "mount",
    "lowntfs-3g": "ntfs-3g",
    "man": "man-db",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.exfat": "exfatprogs",
    "mkfs.ext2": "e2fsprogs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.ntfs": "ntfs-3g",
    "mkfs.vfat": "dosfstools",
    "mkfs.xfs": "xfsprogs",
    "mksquashfs": "squashfs-tools",
    "mount.exfat-fuse": "exfat-fuse",
    "mtree": "mtree-netbsd",
    "newuidmap": "uidmap",
    "pacman": "pacman-package-manager",
    "ps": "procps",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-arm-static": "qemu-user-static",
    "qemu-i386-static": "qemu-user-static",
    "qemu-img": "qemu-utils",
    "qemu-riscv64-static": "qemu-user-static",
    "qemu-x86_64-static": "qemu-user-static",
    "repo-add": "pacman-package-manager",
    "rpmbuild": "rpm",
    "setcap": "libcap2-bin",
    "setfacl": "acl",
    "setfattr": "attr",
    "setpriv": "util-linux",
    "setsid": "util-linux",
    "sh": "dash",
    "sync": "coreutils",
    "tini-static": "tini",
    "umount": "mount",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
    "xz": "xz-utils",
}

# Environment variables that mark the processes of this test session and of each test, unless they clear theirs.
TEST_MARK = "PYTEST_CURRENT_TEST"  # set by pytest
SESSION_MARK = "PROVISION_TEST_SESSION"
os.environ[SESSION_MARK] = f"{os.getpid()}-{os.urandom(8).hex()}"


def unavailable(reason: str) -> NoReturn:
    """Skip the running test for `reason`, or fail it with PROVISION_TEST_COMPLETE=1."""
    if os.environ.get("PROVISION_TEST_COMPLETE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Skip or fail the running test unless all `programs` are on PATH or in the sbin directories."""
    for program in programs:
        if find_program(program) is None:
            unavailable(f"{program} is missing: apt-get install {PACKAGES.get(program, program)}")


def need_bwrap() -> None:
    """Skip or fail the running test unless bubblewrap works here: in a chroot the kernel refuses its namespaces."""
    need("bwrap")
    if subprocess.run(["bwrap", "--dev-bind", "/", "/", "true"], check=False, capture_output=True).returncode:
        unavailable("bubblewrap can't make namespaces here")


def need_root() -> None:
    """Skip or fail the running test unless root runs it."""
    if os.geteuid() != 0:
        unavailable("only root can do this: sudo make test")


def need_libmagic() -> None:
    """Skip or fail the running test where python-magic doesn't find libmagic, which is not Python's."""
    try:
        import magic  # noqa: F401
    except ImportError:
        unavailable("libmagic is missing: apt-get install libmagic1")


def open_terminal() -> tuple[int, int]:
    """Return both ends of a new pseudoterminal, as os.openpty does; skip or fail the running test without any."""
    try:
        return os.openpty()
    except OSError as error:
        unavailable(f"there are no pseudoterminals ({error.strerror}): mount -t devpts devpts /dev/pts")


def find_program(name: str) -> str | None:
    """Return the path of a program on PATH or in the sbin directories, None if it is missing."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def run(*command: str | Path, **options: Any) -> str:
    """Run a command and return its standard output. AssertionError with its standard error when it fails."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}: {done.stderr}"
    return done.stdout


def podman_in(place: Path) -> tuple[str, ...]:
    """Return the beginning of podman's command lines whose images and state are below `place`, a short path."""
    directories = (f"--root={place}/storage", f"--runroot={place}/run", f"--tmpdir={place}/state")
    return ("podman", *directories, "--storage-driver=vfs", "--events-backend=none")


def heed_signals() -> None:
    """Set the default actions of signals that nohup or a script's background ignores."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


# The unprivileged user


@cache
def user_id() -> int:
    """Return a user ID that is free on this machine; for a user other than root, their own."""
    if os.geteuid() != 0:
        return os.geteuid()
    used = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(64321, 65000) if uid not in used)


def as_user(**environment: str) -> dict[str, Any]:
    """Return options of subprocess.run and Popen that run a command as the unprivileged user, with a separate HOME.

    Unless root runs the tests, these are only the `env`.
    """
    if os.geteuid() != 0:
        return {"env": clean_environment(**environment)}
    env = clean_environment(USER=str(user_id()), LOGNAME=str(user_id()), **environment)
    return {"user": user_id(), "group": user_id(), "extra_groups": [], "cwd": "/", "env": env}


def clean_environment(**added: str) -> dict[str, str]:
    """Return an environment without settings of provision, with a separate HOME, and with the `added` variables.

    For root it names the unprivileged user as sudo does: root trusts that user, who owns the directories of tests.
    """
    kept = (SESSION_MARK, TEST_MARK, "PATH", "LANG", "LC_ALL", "TERM")
    ours = {name: value for name, value in os.environ.items() if name in kept}
    return {**ours, **by_sudo(), "HOME": str(_home()), **added}


def by_sudo() -> dict[str, str]:
    """Return what sudo sets if root runs the tests: root trusts the unprivileged user then, who owns the places."""
    return {"SUDO_UID": str(user_id())} if os.geteuid() == 0 else {}


def own(path: Path) -> Path:
    """Change the owner of `path` to the unprivileged user and return it."""
    if os.geteuid() == 0:
        os.chown(path, user_id(), user_id())
    return path


def own_all(path: Path) -> Path:
    """Give a directory and all that is in it to the unprivileged user, if root runs the tests; return it."""
    if os.geteuid() == 0:
        run("chown", "-hR", f"{user_id()}:{user_id()}", path)
    return path


def open_directory(prefix: str) -> Path:
    """Create a temporary directory of the unprivileged user (only root can enter pytest's tmp_path)."""
    path = Path(tempfile.mkdtemp(prefix=f"provision-{prefix}-", dir=fast_directory()))
    path.chmod(0o755)
    return own(path)


@cache
def fast_directory() -> str | None:
    """Return the directory for large temporary trees: one in memory if possible, None for the default or with TMPDIR.

    A disk that has just deleted thousands of files is slow to create new ones.
    """
    memory = "/dev/shm"
    if "TMPDIR" in os.environ or not os.path.ismount(memory):
        return None
    found = os.statvfs(memory)
    fit = not found.f_flag & (os.ST_NOEXEC | os.ST_NOSUID | os.ST_NODEV) and os.access(memory, os.W_OK)
    return memory if fit and found.f_bavail * found.f_frsize > 6 * 10**9 else None


@cache
def _home() -> Path:
    path = open_directory("home")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _reachable(path: Path) -> bool:
    """Return whether everyone may read `path` and enter all directories above it."""
    path = path.resolve()
    return bool(path.stat().st_mode & stat.S_IROTH) and all(p.stat().st_mode & stat.S_IXOTH for p in path.parents)


@cache
def user_python() -> tuple[str, dict[str, str]]:
    """Return a Python that the unprivileged user can run, and the environment in which it imports this checkout.

    What is below a closed directory (a Python in /root, a checkout in a private /tmp) is copied once per session.
    """
    python, packages = Path(sys.executable).resolve(), Path(sysconfig.get_path("purelib"))
    copies, environment, checkout = _home() / "python", {}, CHECKOUT
    if not _reachable(python):
        python = _copied_python(python, copies)
        environment["LD_LIBRARY_PATH"] = str(copies / "lib")  # some Pythons load libpython from their prefix
    if not _reachable(packages):
        packages = shutil.copytree(packages, copies / "packages", symlinks=True)
    if not _reachable(checkout):
        checkout = copies / "checkout"
        for part in ("provisioner", "profiles", "scripts"):
            shutil.copytree(CHECKOUT / part, checkout / part)
    return str(python), {**environment, "PYTHONPATH": f"{checkout}:{packages}"}


def _copied_python(python: Path, prefix: Path) -> Path:
    standard = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(standard, prefix / "lib" / standard.name, ignore=shutil.ignore_patterns("test", "site-packages"))
    for library in standard.parent.glob("libpython*.so*"):
        shutil.copy2(library, prefix / "lib")
    (prefix / "bin").mkdir()
    return Path(shutil.copy2(python, prefix / "bin"))


# A kernel that refuses some system calls: seccomp(2) answers with an error

_REFUSE = """
import ctypes, os, struct, sys
refused, error = eval(sys.argv[1])[os.uname().machine], int(sys.argv[2])
load, equal, answer = 0x20, 0x15, 0x06
steps = [(load, 0, 0, 0), *((equal, len(refused) - n, 0, number) for n, number in enumerate(refused))]
steps += [(answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x00050000 | error)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
header = struct.pack("@HP", len(steps), ctypes.addressof(program))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
assert prctl(22, 2, header, 0, 0) == 0, f"seccomp: {os.strerror(ctypes.get_errno())}"
os.execvp(sys.argv[3], sys.argv[3:])
"""

_LINKS = {"x86_64": [86, 265], "aarch64": [37]}
_UNSHARE = {"x86_64": [272], "aarch64": [97]}


def without_links(*command: str) -> list[str]:
    """Return a command line that runs `command` where link(2) fails with EACCES, as Android's kernel does to apps."""
    return _refusing(_LINKS, errno.EACCES, command)


def without_namespaces(*command: str) -> list[str]:
    """Return a command line that runs `command` where unshare(2) fails with EPERM, as in containers and on Ubuntu."""
    return _refusing(_UNSHARE, errno.EPERM, command)


def _refusing(calls: dict[str, list[int]], error: int, command: Sequence[str]) -> list[str]:
    python = command[0] if command and "python" in command[0] else sys.executable
    return [python, "-c", _REFUSE, repr(calls), str(error), *command]


# The command line


def provision_command(*args: str | Path, cache: Path, **options: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the command line of `provision ARGS` from this checkout, and its options for subprocess.run or Popen.

    `cache` is its blob cache; with `**as_user()` as options it runs as the unprivileged user.
    """
    python, found_by = user_python() if "user" in options else (sys.executable, {"PYTHONPATH": str(CHECKOUT)})
    ours = {"PROVISION_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1", **found_by}
    env = {**options.pop("env", clean_environment()), **ours}
    return [python, "-m", "provisioner", *map(str, args)], {**PIPES, **options, "env": env}


def provision(
    *args: str | Path, cache: Path | None = None, status: int | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `provision ARGS`, with a new blob cache unless `cache` names one, and return the result.

    Asserts that no traceback is printed, and that it ends with the exit status `status` if that is given.
    """
    private = None if cache else open_directory("cache")
    try:
        command, options = provision_command(*args, cache=cache or private or Path(), **options)
        done = run_by_server(command, options) or subprocess.run(command, check=False, **{"timeout": 240, **options})
    finally:
        if private:
            shutil.rmtree(private)
    assert status is None or done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in (done.stderr or ""), done.stderr
    return done


def messages_of(*args: str | Path, status: int = 0, **options: Any) -> str:
    """Run `provision ARGS`, which has to end with `status` and an empty standard output; return its standard error."""
    done = provision(*args, status=status, **options)
    assert done.stdout == ""
    return done.stderr


def memory_taken(imports: str, program: str) -> int:
    """Return the bytes by which a Python process grows while it runs a program after the imports."""
    count = 'int(Path("/proc/self/statm").read_text().split()[1]) * 4096'
    code = f"from pathlib import Path\n{imports}\nbefore = {count}\n{program}\nprint({count} - before)"
    return int(run(sys.executable, "-c", code, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}))
