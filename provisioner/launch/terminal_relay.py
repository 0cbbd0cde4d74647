"""The terminal relay: a small executable that runs a command on a new terminal (pty(7)), as docker's -t does.

    terminal-relay ANSWER PROGRAM ARGUMENT ARGUMENT WORD [ARGUMENT...]

The relay runs PROGRAM on a new terminal with the modes and the size of this one, and with ANSWER instead of WORD. If no
terminal can be made (no devpts, none left, Linux before 4.13), it executes PROGRAM with WORD, on this terminal.

ANSWER `yes`: standard input, output and error are one terminal. They are the new terminal for PROGRAM, which has a
session of its own. In the foreground, the relay makes this terminal raw and passes all input to the new one, also
Ctrl-C and Ctrl-Z. In the background, the relay reads no input, and checks every fifth of a second whether it is in the
foreground. It sends SIGINT and SIGQUIT to the processes that Ctrl-C would reach. SIGTSTP stops only the relay.

ANSWER `1`, `2` or `12`: these descriptors are one terminal. They are the new terminal for PROGRAM, which can only write
to it. PROGRAM stays in the session and the process group, so that keys and signals of this terminal reach the relay and
PROGRAM.

The relay passes on a new size and signals from other processes, also while this terminal is stopped (Ctrl-S). When the
relay is killed, the kernel kills PROGRAM.

Exit status: PROGRAM's; 128 plus the number of the signal that ended it; 125 to 127 as the static helper's. At the end,
the relay restores the modes of this terminal. It shows at most 128 KiB of what other processes write to the new
terminal after PROGRAM has ended. It waits while this terminal is stopped, except after SIGHUP or SIGTERM.
"""

from __future__ import annotations

import signal

from provisioner.image.platform import Platform
from provisioner.launch.assembler import Assembler
from provisioner.launch.static_helper import assembler_for, execute, keep_status, read_code
from provisioner.launch.terminal_streams import (
    MASTER,
    POLLIN,
    POLLOUT,
    SIGNALS,
    TERMINAL,
    TIOCGPGRP,
    begin_streams,
    open_screen,
    pass_input,
    poll,
    receive,
    receive_output,
    set_timeout,
    show,
    unless_ready,
    wait,
    write_path,
)

_NUMBERS = """
             amd64  386  arm arm64 riscv64
clone           56  120  120   220     220
close            3    6    6    57      57
dup3           292  330  358    24      24
execve          59   11   11   221     221
exit_group     231  252  248    94      94
getpgid        121  132  132   155     155
getpid          39   20   20   172     172
getppid        110   64   64   173     173
ioctl           16   54   54    29      29
kill            62   37   37   129     129
openat         257  295  322    56      56
ppoll          271  309  336    73      73
prctl          157  172  172   167     167
read             0    3    3    63      63
rt_sigaction    13  174  174   134     134
rt_sigprocmask  14  175  175   135     135
setsid         112   66   66   157     157
signalfd4      289  327  355    74      74
wait4           61  114  114   260     260
write            1    4    4    64      64
"""
"""The kernel's syscall tables, as in `static_helper`."""

_AT_FDCWD, _O_RDWR, _O_NOCTTY, _O_NONBLOCK, _O_CLOEXEC = -100, 0o2, 0o400, 0o4000, 0o2000000
_PR_SET_PDEATHSIG = 1
_SIG_SETMASK, _MASK_SIZE = 2, 8
_WNOHANG = 1
_TCGETS, _TCSETS, _TIOCSCTTY, _TIOCGWINSZ, _TIOCSWINSZ = 0x5401, 0x5402, 0x540E, 0x5413, 0x5414
_TIOCSPTLCK, _TIOCSIG, _TIOCGPTPEER = 0x40045431, 0x40045436, 0x5441

_NOT_RAW = {
    0: 0o2753,  # c_iflag: IGNBRK BRKINT PARMRK ISTRIP INLCR IGNCR ICRNL IXON
    4: 0o1,  # c_oflag: OPOST
    12: 0o100113,  # c_lflag: ISIG ICANON ECHO ECHONL IEXTEN
}
"""The bits that cfmakeraw(3) clears, by their offset in the kernel's struct termios, except for those of CSIZE."""
_TIME_AND_MINIMUM, _ONE_BYTE = 22, 0x0100
"""The offset of c_cc[VTIME] and c_cc[VMIN], and their values: read(2) returns as soon as there is one byte."""
_OTHERS, _RAW, _UNSURE, _LEFT = 0, 1, 2, 3
"""States of this terminal's modes: not changed, raw, raw unless others have changed them, never to be changed."""
_SI_KERNEL = 0x80
"""The si_code (siginfo) of a signal that the terminal has sent to its whole process group."""

_STATUS, _NUMBER, _SIZE, _SAVED, _ALL_SIGNALS = 0, 8, 16, 24, 64
_RAW_MODES, _PATH, _OLD_MASK, _INFO, _INFO_SIZE = 224, 264, 280, 288, 128
"""Offsets in the frame, and a size. `keep_status` uses 96 to 160."""

_LAST_OUTPUT = 0x20000
"""The most bytes of output that are shown after PROGRAM has ended, since other processes may write endlessly."""
_LOOK, _LAST_WAIT = 200_000_000, 100_000_000
"""The interval of checks for the foreground, and the longest wait for the last output; in nanoseconds."""


def terminal_relay(platform: Platform) -> bytes:
    """Return the relay for machines of `platform`, an ELF executable. Raises MachineError for other machines."""
    program = assembler_for(platform, _NUMBERS)
    _make_terminal(program)
    _start_child(program)
    _run_child(program)
    _begin(program)
    _take_terminal(program)
    wait(program)
    _receive_signal(program)
    receive_output(program)
    pass_input(program)
    _end(program)
    execute(program)
    return program.executable()


def _make_terminal(p: Assembler) -> None:
    """Make the terminal with the descriptors `master` and `slave`. Jump to `execute` if that fails."""
    p.read("argc", "stack")
    p.jump_if("argc", "<", 6, "failed")
    p.copy("next", "stack")
    p.add("next", 3 * p.word)
    for name, place in {
        "status": _STATUS,
        "number": _NUMBER,
        "size": _SIZE,
        "saved": _SAVED,
        "raw modes": _RAW_MODES,
        "path": _PATH,
        "old mask": _OLD_MASK,
        "all signals": _ALL_SIGNALS,
        "info": _INFO,
    }.items():
        p.frame(name, place)
    write_path(p, "/dev/ptmx")
    p.call("openat", _AT_FDCWD, "path", _O_RDWR | _O_NOCTTY | _O_NONBLOCK | _O_CLOEXEC)
    p.copy("master", "result")
    p.jump_if("master", "<", 0, "execute")
    p.write("number", 0, 0)
    p.call("ioctl", "master", _TIOCSPTLCK, "number")
    p.call("ioctl", "master", _TIOCGPTPEER, _O_RDWR | _O_NOCTTY | _O_CLOEXEC)
    p.copy("slave", "result")
    p.jump_if("slave", "<", 0, "execute")
    p.read("answer", "stack", 2 * p.word)
    p.read("kind", "answer", size=1)
    p.copy("terminal", 0)  # the descriptor for size and modes
    p.copy("screen", 1)  # the descriptor for output
    p.jump_if("kind", "==", ord("y"), "is chosen")
    p.copy("terminal", "kind")
    p.add("terminal", -ord("0"))
    p.copy("screen", "terminal")
    p.label("is chosen")
    p.call("ioctl", "terminal", _TCGETS, "saved")
    p.jump_if("result", "<", 0, "execute")
    _make_raw(p)
    p.copy("first modes", "saved")
    p.jump_if("kind", "==", ord("y"), "modes are chosen")
    p.copy("first modes", "raw modes")  # this terminal processes the output
    p.label("modes are chosen")
    p.call("ioctl", "slave", _TCSETS, "first modes")
    _copy_size(p)


def _make_raw(p: Assembler) -> None:
    """Set `raw modes` to the raw form of this terminal's modes."""
    p.call("ioctl", "terminal", _TCGETS, "raw modes")
    for place, bits in _NOT_RAW.items():
        p.read("bits", "raw modes", place, 4)
        p.mask("bits", 0xFFFF & ~bits)
        p.write("raw modes", place, "bits", 2)
    p.write("raw modes", _TIME_AND_MINIMUM, _ONE_BYTE, 2)


def _copy_size(p: Assembler) -> None:
    """Set the size of the new terminal to this one's. The kernel sends SIGWINCH to its foreground processes."""
    p.call("ioctl", "terminal", _TIOCGWINSZ, "size")
    p.call("ioctl", "master", _TIOCSWINSZ, "size")


def _start_child(p: Assembler) -> None:
    """Block all signals, open `signals` (signalfd(2)) to read them, and fork. Continue in the parent."""
    for word in range(_MASK_SIZE // p.word):
        p.write("all signals", word * p.word, -1)
    p.call("rt_sigprocmask", _SIG_SETMASK, "all signals", "old mask", _MASK_SIZE)
    keep_status(p)
    p.call("getpid")
    p.copy("self", "result")
    p.call("clone", signal.SIGCHLD, 0, 0, 0, 0)
    p.copy("child", "result")
    p.jump_if("child", "!=", 0, "parent")


def _run_child(p: Assembler) -> None:
    """In the child, execute PROGRAM on the new terminal."""
    p.copy("at", "answer")
    p.jump_if("kind", "!=", ord("y"), "next")
    p.call("setsid")
    p.call("ioctl", "slave", _TIOCSCTTY, 0)
    for descriptor in range(3):
        p.call("dup3", "slave", descriptor, 0)
    p.jump("is open")
    p.label("next")
    p.call("dup3", "slave", "terminal", 0)
    p.add("at", 1)
    p.read("terminal", "at", size=1)
    p.add("terminal", -ord("0"))
    p.jump_if("terminal", ">=", 0, "next")
    p.label("is open")
    p.call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    p.call("getppid")
    p.jump_if("result", "!=", "self", "failed")
    p.call("rt_sigaction", signal.SIGCHLD, "old action", 0, _MASK_SIZE)
    p.call("rt_sigprocmask", _SIG_SETMASK, "old mask", 0, _MASK_SIZE)
    p.write("stack", 6 * p.word, "answer")
    p.jump("execute")


def _begin(p: Assembler) -> None:
    """Set the variables of the loop: `modes`, the state of this terminal's modes, and those of the streams."""
    p.label("parent")
    p.jump_if("child", "<", 0, "failed")
    p.call("close", "slave")
    p.call("signalfd4", -1, "all signals", _MASK_SIZE, _O_CLOEXEC)
    p.copy("signals", "result")
    begin_streams(p)
    open_screen(p)
    p.copy("shown", 0)
    p.copy("must end", 0)
    p.copy("modes", _OTHERS)
    p.jump_if("kind", "==", ord("y"), "loop")
    p.copy("modes", _LEFT)


def _take_terminal(p: Assembler) -> None:
    """If this process is in the foreground, make this terminal raw. Set `timeout` for the next wait."""
    p.label("loop")
    p.copy("timeout", 0)
    p.jump_if("modes", "==", _RAW, "wait")
    p.jump_if("modes", "==", _LEFT, "wait")
    _unless_foreground(p, "background")
    p.jump_if("modes", "==", _UNSURE, "raw")
    p.call("ioctl", 0, _TCGETS, "saved")
    _make_raw(p)
    p.label("raw")
    p.call("ioctl", 0, _TCSETS, "raw modes")
    _copy_size(p)
    p.copy("modes", _RAW)
    p.copy("types", 1)
    p.jump("wait")
    p.label("background")
    p.copy("modes", _OTHERS)
    p.copy("types", 0)
    set_timeout(p, _LOOK)


def _unless_foreground(p: Assembler, label: str) -> None:
    """Jump to `label` if this process is in the terminal's background. Without job control, it never is."""
    p.call("ioctl", 0, TIOCGPGRP, "number")
    p.jump_if("result", "<", 0, f"foreground, not {label}")
    p.read("group", "number", size=4)
    p.call("getpgid", 0)
    p.jump_if("result", "!=", "group", label)
    p.label(f"foreground, not {label}")


def _receive_signal(p: Assembler) -> None:
    """Read a signal and handle it."""
    unless_ready(p, SIGNALS, "output")
    p.call("read", "signals", "info", _INFO_SIZE)
    p.jump_if("result", "<", _INFO_SIZE, "output")
    p.read("signal", "info", size=4)
    _note_end(p, "need not end")
    for number, label in {
        signal.SIGCHLD: "child has changed",
        signal.SIGWINCH: "size has changed",
        signal.SIGCONT: "continued",
        signal.SIGTSTP: "stop",
        signal.SIGINT: "typed",
        signal.SIGQUIT: "typed",
        signal.SIGTTIN: "stop with all",
        signal.SIGTTOU: "stop with all",
        signal.SIGPIPE: "output",
        signal.SIGURG: "output",
    }.items():
        p.jump_if("signal", "==", number, label)
    p.jump("other")
    p.label("typed")
    p.jump_if("modes", "==", _LEFT, "other")
    p.call("ioctl", "master", _TIOCSIG, "signal")
    p.jump("output")
    p.label("other")
    p.jump_if("modes", "!=", _LEFT, "forward")
    p.read("origin", "info", 8, 4)
    p.jump_if("origin", "==", _SI_KERNEL, "output")
    p.label("forward")
    p.call("kill", "child", "signal")
    p.jump("output")
    p.label("child has changed")
    p.call("wait4", "child", "status", _WNOHANG, 0)
    p.jump_if("result", "==", "child", "ended")
    p.jump("output")
    p.label("size has changed")
    _copy_size(p)
    p.jump("output")
    p.label("stop with all")
    p.jump_if("modes", "!=", _LEFT, "output")
    p.label("stop")
    _restore(p, "stopped")
    p.call("kill", "self", signal.SIGSTOP)
    p.jump("output")
    p.label("continued")
    p.jump_if("modes", "!=", _RAW, "output")
    p.copy("modes", _UNSURE)


def _note_end(p: Assembler, label: str) -> None:
    """Set `must end` if the `signal` is SIGHUP or SIGTERM, then continue at `label`."""
    p.jump_if("signal", "==", signal.SIGTERM, f"ends, or {label}")
    p.jump_if("signal", "!=", signal.SIGHUP, label)
    p.label(f"ends, or {label}")
    p.copy("must end", 1)
    p.label(label)


def _restore(p: Assembler, label: str) -> None:
    """Restore this terminal's modes, if this process has changed them and is in the foreground."""
    p.jump_if("modes", "==", _OTHERS, label)
    p.jump_if("modes", "==", _LEFT, label)
    _unless_foreground(p, f"not {label}")
    p.call("ioctl", 0, _TCSETS, "saved")
    p.label(f"not {label}")
    p.copy("modes", _OTHERS)
    p.label(label)


def _end(p: Assembler) -> None:
    """Show the last output, and exit with PROGRAM's status."""
    p.label("ended")
    p.jump_if("unwritten", "==", 0, "more")
    _wait_for_screen(p)
    show(p, "ended", otherwise="ended")
    p.label("more")
    p.jump_if("shown", ">=", _LAST_OUTPUT, "all is shown")
    poll(p, TERMINAL, "master", POLLIN)
    set_timeout(p, _LAST_WAIT)
    p.call("ppoll", "polls", 1, "timeout", 0, _MASK_SIZE)
    p.jump_if("result", "<", 1, "all is shown")
    receive(p, "all is shown", otherwise="all is shown")
    p.add("shown", "count")
    p.jump("ended")
    p.label("all is shown")
    _restore(p, "restored")
    read_code(p)
    p.call("exit_group", "code")


def _wait_for_screen(p: Assembler) -> None:
    """Wait until this terminal accepts output. If this process must end, wait for a moment only, then jump to
    `ended`."""
    poll(p, TERMINAL, "screen", POLLOUT)
    poll(p, MASTER, "signals", POLLIN)
    p.copy("timeout", 0)
    p.jump_if("must end", "==", 0, "wait for screen")
    set_timeout(p, _LAST_WAIT)
    p.label("wait for screen")
    p.call("ppoll", "polls", 2, "timeout", 0, _MASK_SIZE)
    p.jump_if("result", "<", 1, "all is shown")
    unless_ready(p, MASTER, "no signal")
    p.call("read", "signals", "info", _INFO_SIZE)
    p.read("signal", "info", size=4)
    _note_end(p, "need not end meanwhile")
    p.label("no signal")
    unless_ready(p, TERMINAL, "ended")
