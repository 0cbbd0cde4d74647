"""The static helper, as this machine and qemu's other ones execute it."""

from __future__ import annotations

import os
import re
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.image.platform import Platform, host_platform
from provisioner.launch import helper_flags
from provisioner.launch.helper_flags import (
    CAPABILITIES,
    CLOSE,
    DEFAULT_SIGNALS,
    DIE,
    GROUP,
    HOSTNAME,
    KEEP,
    KEYRING,
    MOUNTS,
    NAMESPACES,
    NO_NEW_PRIVS,
    QUIT,
    ROOT,
    WAIT,
)
from provisioner.launch.script import body
from provisioner.launch.static_helper import ARCHITECTURES, static_helper
from tests.support.tools import find_program, need, need_root, run, unavailable

pytestmark = pytest.mark.slow

QEMU = {"amd64": "x86_64", "386": "i386", "arm": "arm", "arm64": "aarch64", "riscv64": "riscv64"}
EVERY = sum((CLOSE, KEYRING, NO_NEW_PRIVS, WAIT, GROUP))


class Helper:
    """The helper of one architecture, and how to execute it here."""

    def __init__(self, architecture: str, folder: Path, *, emulated: bool = True) -> None:
        self.path = folder / f"helper-{architecture}"
        self.path.write_bytes(static_helper(Platform("linux", architecture)))
        self.path.chmod(0o755)
        self.words = [str(self.path)]
        if emulated:
            need(f"qemu-{QEMU[architecture]}-static")
            self.words.insert(0, find_program(f"qemu-{QEMU[architecture]}-static") or "")

    def __call__(
        self, flags: int, *command: str, filter_: str = "-", pass_fds: tuple[int, ...] = ()
    ) -> tuple[int, str]:
        """Execute a command by it; the exit status, and what it prints."""
        words = [*self.words, filter_, str(flags), *command]
        done = subprocess.run(words, capture_output=True, text=True, pass_fds=pass_fds, check=False)
        return done.returncode, done.stdout


@pytest.fixture(params=ARCHITECTURES)
def helper(request: pytest.FixtureRequest, tmp_path: Path) -> Helper:
    """The helper of each architecture, in qemu-user."""
    return Helper(request.param, tmp_path)


@pytest.fixture
def native(tmp_path: Path) -> Helper:
    """This machine's own."""
    return Helper(host_platform().architecture, tmp_path, emulated=False)


@pytest.mark.parametrize("flags", [0, CLOSE, KEYRING, WAIT, CLOSE + KEYRING + WAIT])
def test_a_command_gets_its_arguments_and_environment(
    helper: Helper, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", "yes and no")
    assert helper(flags, "/bin/sh", "-c", 'echo "$0|$1|$SEEN"', "a b", "") == (0, "a b||yes and no\n")


@pytest.mark.parametrize("flags", [0, WAIT])
@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_the_status_is_the_command_s(helper: Helper, flags: int, status: int) -> None:
    assert helper(flags, "/bin/sh", "-c", f"exit {status}") == (status, "")


@pytest.mark.parametrize("number", [1, 2, 9, 11, 15])
def test_a_signal_is_reported_as_shells_do(helper: Helper, number: int) -> None:
    assert helper(WAIT, "/bin/sh", "-c", f"kill -{number} $$") == (128 + number, "")


def test_a_child_that_ends_later_changes_nothing(helper: Helper) -> None:
    assert helper(WAIT, "/bin/sh", "-c", "(sleep 0.1; exit 5) & exit 3") == (3, "")


@pytest.mark.parametrize(("program", "status"), [("/nowhere/program", 127), ("/etc/passwd", 126), ("/", 126)])
def test_what_can_t_be_executed(helper: Helper, program: str, status: int) -> None:
    assert helper(0, program) == (status, "")
    assert helper(WAIT, program) == (status, "")


def test_a_filter_that_isn_t_there_ends_it(helper: Helper, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for filter_ in ("/nowhere/filter", str(tmp_path / "empty"), str(tmp_path)):
        assert helper(EVERY, "/bin/echo", "ran", filter_=filter_) == (125, "")


def test_words_that_are_missing_end_it(native: Helper) -> None:
    done = subprocess.run([native.path, "-", "0"], check=False)
    assert done.returncode == 125


def test_descriptors_above_two_are_closed(native: Helper) -> None:
    with open("/etc/passwd") as one, open("/etc/group") as other:
        inherited = (one.fileno(), other.fileno())
        script = f"for fd in {inherited[0]} {inherited[1]}; do [ -e /proc/self/fd/$fd ] && echo open; done; exit 0"
        assert native(0, "/bin/sh", "-c", script, pass_fds=inherited) == (0, "open\nopen\n")
        assert native(CLOSE, "/bin/sh", "-c", script, pass_fds=inherited) == (0, "")


def test_descriptors_are_closed_without_close_range(helper: Helper) -> None:
    """qemu 7 knows no close_range(2) for its guests, so that they take the long way."""
    with open("/etc/passwd") as one:
        script = f"[ -e /proc/self/fd/{one.fileno()} ] && echo open; exit 0"
        assert helper(CLOSE, "/bin/sh", "-c", script, pass_fds=(one.fileno(),)) == (0, "")


def refuse_call(path: Path, number: int, error: int = 38) -> Path:
    """Write a filter that answers a system call with an error; 38 is ENOSYS."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 + error), (0x06, 0, 0, 0x7FFF0000)]
    path.write_bytes(b"".join(struct.pack("<HBBI", *instruction) for instruction in code))
    return path


@pytest.mark.parametrize("flags", [CLOSE, CLOSE + KEEP, CLOSE + WAIT])
def test_descriptors_above_a_limit_that_was_lowered_are_closed(
    helper: Helper, native: Helper, tmp_path: Path, flags: int
) -> None:
    """Before Linux 5.9, which has no close_range(2), and a kernel of today that refuses it."""
    no_range = refuse_call(tmp_path / "filter", 436)
    before = [[], [str(native.path), str(no_range), str(NO_NEW_PRIVS)]]
    kept = 6 if flags & KEEP else 3

    def lower_limit() -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # of a user the other one is often 1024
        most = 4096 if most == resource.RLIM_INFINITY else min(most, 4096)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for number in (3, 4, 5, 6, 7, 20, *range(60, 200), 700, 2000):
            if number < most:
                os.dup2(0, number, inheritable=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))

    for words, ours in zip(before, (helper, native), strict=True):
        done = subprocess.run(
            [*words, *ours.words, "-", str(flags), "/bin/sh", "-c", "echo /proc/self/fd/*"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            close_fds=False,
            preexec_fn=lower_limit,
            check=False,
        )
        found = sorted(int(name.rsplit("/", 1)[1]) for name in done.stdout.split())
        assert (done.returncode, done.stderr) == (0, "")
        assert found in (list(range(kept)), list(range(kept + 1)))  # the shell opens one to look


def test_a_filter_is_installed(native: Helper, tmp_path: Path) -> None:
    """One that answers getppid(2) with the error 1 to everybody: a shell's $PPID is made of it."""
    number = {"amd64": 110, "386": 64, "arm": 64}.get(host_platform().architecture, 173)
    filter_ = refuse_call(tmp_path / "filter", number, 1)
    status, output = native(NO_NEW_PRIVS, "/bin/sh", "-c", "grep ^Seccomp: /proc/self/status", filter_=str(filter_))
    assert (status, output.split()) == (0, ["Seccomp:", "2"])


def test_no_new_privs_is_set_only_when_asked_for(native: Helper) -> None:
    seen = [native(flags, "/bin/grep", "NoNewPrivs", "/proc/self/status")[1].split()[1] for flags in (0, NO_NEW_PRIVS)]
    assert seen == ["0", "1"]


INHERITABLE = ["setpriv", "--inh-caps", "-all,+sys_admin", "setpriv", "--bounding-set", "-all,+chown"]
SHOW_CAPABILITIES = ["0", "/bin/grep", "^Cap[IP]", "/proc/self/status"]


def test_inheritable_capabilities_are_cleared(helper: Helper) -> None:
    need_root()
    need("setpriv")
    before = run(*INHERITABLE, *helper.words, "-", *SHOW_CAPABILITIES)
    assert before.split()[1::2] == ["0000000000200000", "0000000000200001"]
    after = run(*INHERITABLE, *helper.words, "+-", *SHOW_CAPABILITIES)
    assert after.split()[1::2] == ["0000000000000000", "0000000000000001"]


def test_they_are_cleared_before_a_filter_is_installed(native: Helper, tmp_path: Path) -> None:
    """One that answers capset(2) itself, with success."""
    need_root()
    need("setpriv")
    number = {"amd64": 126, "386": 185, "arm": 185}.get(host_platform().architecture, 91)
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000), (0x06, 0, 0, 0x7FFF0000)]
    (tmp_path / "filter").write_bytes(b"".join(struct.pack("<HBBI", *instruction) for instruction in code))
    shown = run(*INHERITABLE, *native.words, f"+{tmp_path}/filter", *SHOW_CAPABILITIES)
    assert shown.split()[1::2] == ["0000000000000000", "0000000000000001"]


def test_a_session_keyring_of_its_own(native: Helper) -> None:
    need("keyctl")
    name = [native(flags, "/usr/bin/keyctl", "show", "@s")[1] for flags in (KEYRING, KEYRING)]
    assert name[0] != name[1]


def test_a_process_group_of_its_own(helper: Helper) -> None:
    shown = [
        helper(flags, "/bin/sh", "-c", 'read -r _ _ _ _ group _ </proc/self/stat; echo "$group $$"')
        for flags in (0, GROUP)
    ]
    groups = [output.split() for _, output in shown]
    assert groups[0][0] == str(os.getpgrp())
    assert groups[1][0] == groups[1][1]


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)


def test_signals_that_the_caller_ignores_are_reset(native: Helper) -> None:
    """qemu resets them by itself."""
    ignored = []
    for flags in (0, DEFAULT_SIGNALS):
        words = [*native.words, "-", str(flags), "/bin/grep", "SigIgn", "/proc/self/status"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=ignore_interrupts)
        ignored.append(int(done.stdout.split()[1], 16) & 0b110)
    assert ignored == [0b110, 0]


@pytest.mark.parametrize(("flag", "shown"), [(DIE, ""), (QUIT, "quit\n")])
def test_the_program_ends_together_with_the_parent(helper: Helper, flag: int, shown: str) -> None:
    guest = "trap 'echo quit; exit' QUIT; trap 'echo term; exit' TERM; echo ready; while :; do sleep 0.02; done"
    words = [*helper.words, "-", str(flag), "/bin/sh", "-c", guest]
    parent = subprocess.Popen(["sh", "-c", '"$@" & wait', "sh", *words], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        # The end of the output is that of the last process which has the pipe.
        assert parent.stdout.read() == shown


def test_namespaces_are_made(native: Helper) -> None:
    if run_status("unshare", "-U", "-m", "true"):
        unavailable("user namespaces don't work here")
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt")]
    status, shown = native(NAMESPACES, "/bin/readlink", "/proc/self/ns/user", "/proc/self/ns/mnt")
    assert status == 0
    assert set(shown.split()).isdisjoint(outside)


def test_namespaces_that_are_refused_end_it(native: Helper, tmp_path: Path) -> None:
    """As in a chroot, where the kernel makes no user namespace."""
    need_root()
    done = subprocess.run(
        ["/" + native.path.name, "-", str(NAMESPACES), "/nowhere"],
        capture_output=True,
        check=False,
        preexec_fn=lambda: os.chroot(tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode == 125
    assert done.stderr == b"start.sh: the static helper has failed: provision doctor says what works here\n"


@pytest.mark.parametrize("name", ["box", "a-name-of-63-letters".ljust(63, "x")])
def test_a_hostname_of_the_namespace_s_own(helper: Helper, name: str) -> None:
    need_root()
    need("unshare")
    words = ["-", str(HOSTNAME), name, "/bin/cat", "/proc/sys/kernel/hostname"]
    assert run("unshare", "-u", *helper.words, *words) == f"{name}\n"
    assert os.uname().nodename != name


@pytest.mark.parametrize(("digits", "kept"), [("", 0), ("1", 1), ("0" * 18 + "101", 0x140000), ("1" * 64, None)])
def test_capabilities_leave_the_bounding_set(helper: Helper, digits: str, kept: int | None) -> None:
    need_root()
    show = ["/bin/grep", "CapBnd", "/proc/self/status"]
    before = int(run(*show).split()[1], 16)
    after = run(*helper.words, "-", str(CAPABILITIES), digits, *show)
    assert int(after.split()[1], 16) == (before if kept is None else before & kept)


def test_capabilities_that_can_t_be_dropped_end_it(native: Helper) -> None:
    need_root()
    need("setpriv")
    # The permission to do so is the first that goes.
    words = ["setpriv", "--bounding-set", "-setpcap", "setpriv", "--inh-caps", "-all", *native.words]
    done = subprocess.run([*words, "-", str(CAPABILITIES), "", "/bin/true"], capture_output=True, check=False)
    assert done.returncode == 125


def test_mounts_are_made_in_order(helper: Helper, tmp_path: Path) -> None:
    need_root()
    need("unshare")
    made, shown = tmp_path / "made", tmp_path / "shown"
    shown.mkdir()
    mounts = [
        *("tmpfs", str(made), "tmpfs", str(2 | 4), "size=8k,mode=700"),  # nosuid, nodev
        *(str(made), str(shown), "none", "4096", ""),
        *(str(made), str(shown), "none", str(32 | 4096 | 1 | 2 | 4), ""),  # remount read-only
    ]
    words = [*helper.words, "-", str(MOUNTS), *mounts, "-", "/bin/grep", str(tmp_path), "/proc/self/mountinfo"]
    lines = [line.split() for line in run("unshare", "-m", *words).splitlines()]
    assert [(line[4], line[5], line[8]) for line in lines] == [
        (str(made), "rw,nosuid,nodev,relatime", "tmpfs"),
        (str(shown), "ro,nosuid,nodev,relatime", "tmpfs"),
    ]
    assert "size=8k,mode=700" in lines[0][-1]


LIST_ROOT = """
import ctypes, os
assert os.path.exists("/proc/self/ns/mnt")  # its own root is the old one still
assert ctypes.CDLL(None).setns(os.open("/proc/self/ns/mnt", os.O_RDONLY), 0) == 0
print(os.listdir("/"))
"""


@pytest.mark.parametrize("is_in_chroot", [False, True])
def test_the_root_is_moved_out_of_a_chroot_too(helper: Helper, tmp_path: Path, is_in_chroot: bool) -> None:
    """Whoever enters the mount namespace is in what the helper has moved."""
    need_root()
    need("unshare", "chroot")
    rootfs, machine = tmp_path / "rootfs", tmp_path / "machine"
    rootfs.mkdir()
    machine.mkdir()
    move = 'mount -t tmpfs none "$0" && touch "$0/marker" && cd "$0" && exec "$@"'
    words: list[str | Path] = ["sh", "-c", move, rootfs, *helper.words, "-", str(ROOT), sys.executable, "-c", LIST_ROOT]
    if is_in_chroot:
        words = ["sh", "-c", 'mount --rbind / "$0" && exec chroot "$0" "$@"', machine, *words]
    assert run("unshare", "-m", *words) == "['marker']\n"


def test_all_its_words_come_in_one_order(native: Helper, tmp_path: Path) -> None:
    need_root()
    need("unshare")
    flags = HOSTNAME | CAPABILITIES | MOUNTS | CLOSE | GROUP
    words = ["+-", str(flags), "box", "1", "tmpfs", str(tmp_path / "made"), "tmpfs", "0", "", "-"]
    show = ["/bin/sh", "-c", 'cat /proc/sys/kernel/hostname; grep CapEff /proc/self/status; cd "$0" && echo there']
    shown = run("unshare", "-m", "-u", *native.words, *words, *show, tmp_path / "made")
    assert shown.split() == ["box", "CapEff:", "0000000000000001", "there"]


def test_a_mount_that_fails_ends_it_with_a_line(helper: Helper, tmp_path: Path) -> None:
    need_root()
    words = ["-", str(MOUNTS), str(tmp_path / "nothing"), str(tmp_path), "none", "4096", "", "-", "/bin/echo", "ran"]
    done = subprocess.run(["unshare", "-m", *helper.words, *words], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"start.sh: the static helper has failed: provision doctor says what works here\n"


def test_it_needs_no_program(helper: Helper) -> None:
    assert run_status(*helper.words, "-", str(MOUNTS), "-") == 0


def run_status(*command: str) -> int:
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


def test_start_sh_knows_its_flags() -> None:
    found = re.findall(r"\bflag_(\w+)=(\d+)", body().decode())
    known = {name.upper(): int(number) for name, number in found}
    assert known == {name: value for name, value in vars(helper_flags).items() if name.isupper()}


def test_it_is_small_and_says_where_it_doesn_t_exist() -> None:
    for architecture in ARCHITECTURES:
        data = static_helper(Platform("linux", architecture))
        assert data.startswith(b"\x7fELF")
        assert len(data) < 9500
        # start.sh looks at its first line, and a shell reads one byte at a time.
        assert data.index(b"\n") < 16
    with pytest.raises(MachineError, match="no static helper for linux/s390x"):
        static_helper(Platform("linux", "s390x"))
