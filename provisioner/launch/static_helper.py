"""The static helper: a small executable by which start.sh runs a command, for the steps that shells can't do.

    helper FILTER FLAGS [HOSTNAME] [CAPABILITIES] [MOUNT... -] [PROGRAM [ARGUMENT...]]

FILTER is a file with a seccomp filter (an array of struct sock_filter), or `-`. A `+` before it clears the inheritable
set of capabilities, so that PROGRAM has none that its bounding set lacks (see scripts/start/join.sh). FLAGS is the sum
of flags of `helper_flags`, in decimal. The helper reads no other files and no environment variables. Its steps, in this
order: read the filter, fork (WAIT), set actions of signals (DEFAULT_SIGNALS, DIE, QUIT), make namespaces (NAMESPACES),
set the hostname (HOSTNAME), drop capabilities (CAPABILITIES), mount (MOUNTS), move the rootfs to `/` (ROOT), start a
process group (GROUP), join a new session keyring (KEYRING), close descriptors (CLOSE, KEEP), set no_new_privs
(NO_NEW_PRIVS), clear the inheritable set, install the filter, and execute PROGRAM, a path. A process with CAP_SYS_ADMIN
can install filters without NO_NEW_PRIVS, so that sudo and su still work.

Exit status: PROGRAM's, or 0 without PROGRAM; 125 if a step failed, with a line on standard error; 126 if PROGRAM can't
be executed; 127 if it doesn't exist. With WAIT also 128 plus the number of the signal that ended PROGRAM.
"""

from __future__ import annotations

import signal
from functools import cache

from provisioner.errors import MachineError
from provisioner.image.platform import Platform
from provisioner.launch.assembler import Assembler
from provisioner.launch.helper_descriptors import FIRST_CLOSED, close_descriptors
from provisioner.launch.helper_flags import (
    DEFAULT_SIGNALS,
    DIE,
    GROUP,
    KEYRING,
    NO_NEW_PRIVS,
    QUIT,
    REPORT,
    WAIT,
    read_number,
    unless,
)
from provisioner.launch.helper_namespaces import drop_capabilities, make_namespaces, mount, move_root, set_hostname
from provisioner.launch.processors import I386, Amd64, Arm, Arm64, Riscv64

_ASSEMBLERS: dict[str, type[Assembler]] = {
    "amd64": Amd64,
    "386": I386,
    "arm": Arm,
    "arm64": Arm64,
    "riscv64": Riscv64,
}
ARCHITECTURES = tuple(_ASSEMBLERS)
"""The architectures for which the helper exists, by their names in the OCI image-spec."""

_NUMBERS = """
             amd64  386  arm arm64 riscv64
capget         125  184  184    90      90
capset         126  185  185    91      91
chdir           80   12   12    49      49
chroot         161   61   61    51      51
clone           56  120  120   220     220
close            3    6    6    57      57
close_range    436  436  436   436     436
execve          59   11   11   221     221
exit_group     231  252  248    94      94
fchdir          81  133  133    50      50
getdents64     217  220  217    61      61
getpid          39   20   20   172     172
getppid        110   64   64   173     173
keyctl         250  288  311   219     219
kill            62   37   37   129     129
mkdirat        258  296  323    34      34
mount          165   21   21    40      40
openat         257  295  322    56      56
prctl          157  172  172   167     167
prlimit64      302  340  369   261     261
read             0    3    3    63      63
rt_sigaction    13  174  174   134     134
rt_sigprocmask  14  175  175   135     135
seccomp        317  354  383   277     277
sethostname    170   74   74   161     161
setpgid        109   57   57   154     154
unshare        272  310  337    97      97
wait4           61  114  114   260     260
write            1    4    4    64      64
"""
"""The kernel's syscall tables (arch/*/entry/syscalls, include/uapi/asm-generic/unistd.h)."""

_AT_FDCWD, _O_CLOEXEC = -100, 0o2000000
_EINTR, _ENOENT = -4, -2
_KEYCTL_JOIN_SESSION_KEYRING = 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SIG_SETMASK, _MASK_SIZE = 2, 8
_SECCOMP_SET_MODE_FILTER, _SECCOMP_MODE_FILTER = 1, 2
_CAPABILITY_VERSION = 0x20080522

_FAILURE = b"start.sh: the static helper has failed: provision doctor says what works here\n"

_FILTER_SIZE = 0x8000
"""The size in bytes of the largest filter that the kernel accepts (BPF_MAXINSNS)."""
_REPORT_TO = 3
"""The descriptor of REPORT."""
_SOCK_FPROG, _STATUS, _CAPABILITIES, _FILTER = 0, 64, 192, 256
_ALL_SIGNALS, _DEFAULT_ACTION, _OLD_ACTION = 72, 96, 128
"""Offsets in the frame."""


@cache
def static_helper(platform: Platform) -> bytes:
    """Return the helper for machines of `platform`, an ELF executable. Raises MachineError for other machines."""
    program = assembler_for(platform, _NUMBERS)
    _read_filter(program)
    _fork_and_wait(program)
    _set_signals(program)
    make_namespaces(program)
    set_hostname(program)
    drop_capabilities(program)
    mount(program)
    move_root(program)
    _prepare(program)
    _clear_inheritable(program)
    _install_filter(program)
    execute(program)
    return program.executable()


def assembler_for(platform: Platform, numbers: str) -> Assembler:
    """Return an assembler for machines of `platform`, with the numbers of system calls in a table like `_NUMBERS`.

    Raises MachineError for other machines.
    """
    assembler = _ASSEMBLERS.get(platform.architecture)
    if assembler is None:
        raise MachineError(
            f"there is no static helper for {platform}",
            f"it exists for {', '.join(ARCHITECTURES)}: see docs/security.md",
        )
    (*names,), *rows = (line.split() for line in numbers.strip().splitlines())
    column = names.index(platform.architecture) + 1
    return assembler({row[0]: int(row[column]) for row in rows})


def _read_filter(p: Assembler) -> None:
    """Read FILTER into the frame; `size` is its length in bytes, 0 for `-`."""
    # The kernel's stack: argc, argv[0], ... (System V ABI, "Initial Stack").
    p.read("argc", "stack")
    p.jump_if("argc", "<", 4, "failed")
    p.read("path", "stack", 2 * p.word)
    p.read("at", "stack", 3 * p.word)
    p.copy("next", "stack")
    p.add("next", 4 * p.word)
    read_number(p, "flags")
    p.frame("filter", _FILTER)
    p.copy("size", 0)
    p.read("first", "path", size=1)
    p.copy("clears", 0)
    p.jump_if("first", "==", ord("+"), "plus")
    p.jump("open")
    p.label("plus")
    p.copy("clears", 1)
    p.add("path", 1)
    p.read("first", "path", size=1)
    p.label("open")
    p.jump_if("first", "==", ord("-"), "fork")
    p.call("openat", _AT_FDCWD, "path", _O_CLOEXEC)
    p.copy("file", "result")
    p.jump_if("file", "<", 0, "failed")
    p.call("read", "file", "filter", _FILTER_SIZE)
    p.copy("size", "result")
    p.call("close", "file")
    p.jump_if("size", "<", 8, "failed")


def _fork_and_wait(p: Assembler) -> None:
    """With WAIT, fork and continue in the child; the parent waits for it and exits with its status."""
    p.label("fork")
    unless(p, WAIT, "signals")
    p.call("getppid")
    p.copy("parent", "result")
    p.call("getpid")
    p.copy("self", "result")
    keep_status(p)
    p.call("clone", signal.SIGCHLD, 0, 0, 0, 0)
    p.jump_if("result", "==", 0, "child")
    p.jump_if("result", "<", 0, "failed")
    p.copy("child", "result")
    p.frame("status", _STATUS)
    _block_signals(p)
    _die_with(p, "parent", otherwise="wait")
    p.label("wait")
    p.call("wait4", "child", "status", 0, 0)
    p.jump_if("result", "==", _EINTR, "wait")
    p.jump_if("result", "<", 0, "failed")
    read_code(p)
    _report(p)
    p.label("child")
    p.call("rt_sigaction", signal.SIGCHLD, "old action", 0, _MASK_SIZE)
    _die_with(p, "self", otherwise="signals")
    for descriptor in range(_REPORT_TO, FIRST_CLOSED):
        p.call("close", descriptor)


def read_code(p: Assembler) -> None:
    """Set `code`, the exit status, from `status`, the result of wait4(2): 128 plus the number for a signal."""
    p.read("code", "status", size=4)
    p.copy("signal", "code")
    p.mask("signal", 0x7F)
    p.jump_if("signal", "==", 0, "exited")
    p.copy("code", "signal")
    p.add("code", 128)
    p.jump("code is read")
    p.label("exited")
    p.shift_right("code", 8)
    p.mask("code", 0xFF)
    p.label("code is read")


def keep_status(p: Assembler) -> None:
    """Set SIGCHLD to its default, since a kernel discards children's statuses if it is ignored. Set `old action`."""
    _default_action(p)
    p.frame("old action", _OLD_ACTION)
    p.call("rt_sigaction", signal.SIGCHLD, "default action", "old action", _MASK_SIZE)


def _block_signals(p: Assembler) -> None:
    """Block all signals, which are for PROGRAM."""
    p.frame("all signals", _ALL_SIGNALS)
    for word in range(_MASK_SIZE // p.word):
        p.write("all signals", word * p.word, -1)
    p.call("rt_sigprocmask", _SIG_SETMASK, "all signals", 0, _MASK_SIZE)


def _die_with(p: Assembler, parent: str, *, otherwise: str) -> None:
    """With REPORT, let the kernel kill this process when `parent` ends; fail if it has ended. Else jump to
    `otherwise`."""
    unless(p, REPORT, otherwise)
    p.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    p.call("getppid")
    p.jump_if("result", "!=", parent, "failed")


def _report(p: Assembler) -> None:
    """With REPORT, write the status `code` and end the parent. Then exit with it."""
    unless(p, REPORT, "end")
    p.copy("rest", "code")
    p.copy("digits", int.from_bytes(b"000\n", "little"))
    for position, value in enumerate((100, 10, 1)):
        p.label(f"count {value}")
        p.jump_if("rest", "<", value, f"less than {value}")
        p.add("rest", -value)
        p.add("digits", 1 << 8 * position)
        p.jump(f"count {value}")
        p.label(f"less than {value}")
    p.frame("text", _STATUS)
    p.write("text", 0, "digits")
    p.call("write", _REPORT_TO, "text", 4)
    p.call("getppid")
    p.jump_if("result", "!=", "parent", "end")
    p.call("kill", "parent", signal.SIGQUIT)
    p.label("end")
    p.call("exit_group", "code")


def _default_action(p: Assembler) -> None:
    """Set `default action` to a struct sigaction of zeros."""
    p.frame("default action", _DEFAULT_ACTION)
    for word in range(32 // p.word):
        p.write("default action", word * p.word, 0)


def _set_signals(p: Assembler) -> None:
    """Reset signals with DEFAULT_SIGNALS, and set the signal for the parent's end with DIE and QUIT."""
    p.label("signals")
    unless(p, DEFAULT_SIGNALS, "signals are left")
    _default_action(p)
    for number in (signal.SIGINT, signal.SIGQUIT):
        p.call("rt_sigaction", number, "default action", 0, _MASK_SIZE)
    p.label("signals are left")
    for flag, number in ((DIE, signal.SIGKILL), (QUIT, signal.SIGQUIT)):
        unless(p, flag, f"after {flag}")
        p.call("prctl", _PR_SET_PDEATHSIG, number, 0, 0, 0)
        p.label(f"after {flag}")


def _prepare(p: Assembler) -> None:
    """Start a process group, join a keyring, close descriptors and set no_new_privs, as the flags say."""
    p.label("prepare")
    unless(p, GROUP, "group is left")
    p.call("setpgid", 0, 0)
    p.label("group is left")
    unless(p, KEYRING, "keyring is left")
    p.call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
    p.label("keyring is left")
    close_descriptors(p, place=_FILTER + _FILTER_SIZE)
    unless(p, NO_NEW_PRIVS, "prepared")
    p.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _install_filter(p: Assembler) -> None:
    """Install the filter by seccomp(2), or by prctl(2) on kernels before 3.17."""
    p.label("install")
    p.jump_if("size", "==", 0, "execute")
    p.shift_right("size", 3)  # bytes to instructions
    p.frame("program", _SOCK_FPROG)
    p.write("program", 0, "size", 2)
    p.write("program", p.word, "filter")
    p.call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, "program")
    p.jump_if("result", ">=", 0, "execute")
    p.call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, "program", 0, 0)
    p.jump_if("result", "<", 0, "failed")


def _clear_inheritable(p: Assembler) -> None:
    """With a `+` before FILTER, clear the inheritable set of capabilities, so that PROGRAM doesn't get them.

    This comes before the filter is installed, since a filter that emulates root answers capset(2) itself.
    """
    p.label("prepared")
    p.jump_if("clears", "==", 0, "install")
    p.frame("header", _CAPABILITIES)
    p.write("header", 0, _CAPABILITY_VERSION & 0xFFFF, 2)
    p.write("header", 2, _CAPABILITY_VERSION >> 16, 2)
    for offset in (4, 6):
        p.write("header", offset, 0, 2)  # this process
    p.frame("sets", _CAPABILITIES + 8)
    p.call("capget", "header", "sets")
    p.jump_if("result", "<", 0, "failed")
    # Two times three words of 32 bits: effective, permitted, inheritable.
    for offset in (8, 10, 20, 22):
        p.write("sets", offset, 0, 2)
    p.call("capset", "header", "sets")
    p.jump_if("result", "<", 0, "failed")


def execute(p: Assembler) -> None:
    """Execute the program at `next` in argv, with the following words and the environment, which follows argv.

    It places the labels `execute`, and `failed`, which exits with 125.
    """
    p.label("execute")
    p.read("path", "next")
    p.jump_if("path", "==", 0, "done")
    p.copy("envp", "stack")
    for _ in range(p.word):
        p.add("envp", "argc")
    p.add("envp", 2 * p.word)
    p.call("execve", "path", "next", "envp")
    p.jump_if("result", "==", _ENOENT, "missing")
    p.call("exit_group", 126)
    p.label("missing")
    p.call("exit_group", 127)
    p.label("done")
    p.call("exit_group", 0)
    p.label("failed")
    p.frame("text", _FILTER)
    for at in range(0, len(_FAILURE), 2):
        p.write("text", at, int.from_bytes(_FAILURE[at : at + 2], "little"), 2)
    p.call("write", 2, "text", len(_FAILURE))
    p.call("exit_group", 125)
