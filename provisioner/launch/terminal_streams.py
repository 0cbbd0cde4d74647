"""The streams of the terminal relay: the steps that wait for them and copy them, and their offsets in its frame.

Their variables: `rest` is the number of bytes of input that have not been passed on, at the address `at`. `reads` says
whether this terminal can be read, `receives` whether a process has the new terminal open, `types` whether input is
passed to it. `screen` is the descriptor for output, `master` the new terminal's, and `signals` that of signalfd(2).
`unwritten` is the number of bytes of output that this terminal has not accepted yet, at the address `from`: it may be
stopped by Ctrl-S or by a hanging connection, while signals must still be handled.
"""

from __future__ import annotations

from provisioner.launch.assembler import Assembler, Operand

TERMINAL, MASTER, SIGNALS, _SCREEN = 0, 8, 16, 24
"""The offsets of the structs pollfd. The first ones are also used alone."""
POLLIN, POLLOUT = 1, 4
TIOCGPGRP = 0x540F
"""Fails for a terminal that isn't the session's."""
_EAGAIN = -11
_AT_FDCWD, _O_WRONLY, _O_NOCTTY, _O_NONBLOCK, _O_CLOEXEC = -100, 0o1, 0o400, 0o4000, 0o2000000
_MASK_SIZE = 8

_TIME, _POLLS, _INPUT, _INPUT_SIZE, _OUTPUT, _OUTPUT_SIZE = 512, 528, 1024, 4096, 8192, 16384
"""Offsets in the frame, after those of the relay, and sizes."""


def begin_streams(p: Assembler) -> None:
    """Set the variables of the other functions."""
    for name, place in {"time": _TIME, "polls": _POLLS, "input": _INPUT, "output": _OUTPUT}.items():
        p.frame(name, place)
    for name, value in {"reads": 1, "receives": 1, "types": 0, "rest": 0, "unwritten": 0}.items():
        p.copy(name, value)


def open_screen(p: Assembler) -> None:
    """Open this terminal again as `screen`, non-blocking. Other processes share the old descriptor, which isn't
    changed.

    If another user owns the terminal, it can be opened only as the session's /dev/tty. If it isn't that either, writes
    to it block.
    """
    flags = _O_WRONLY | _O_NOCTTY | _O_NONBLOCK | _O_CLOEXEC
    write_path(p, "/proc/self/fd/?")
    p.copy("digit", "screen")
    p.add("digit", ord("0"))
    p.write("path", len("/proc/self/fd/"), "digit", 2)
    p.call("openat", _AT_FDCWD, "path", flags)
    p.jump_if("result", ">=", 0, "screen is open")
    p.call("ioctl", "screen", TIOCGPGRP, "number")
    p.jump_if("result", "<", 0, "screen is as it was")
    write_path(p, "/dev/tty")
    p.call("openat", _AT_FDCWD, "path", flags)
    p.jump_if("result", "<", 0, "screen is as it was")
    p.label("screen is open")
    p.copy("screen", "result")
    p.label("screen is as it was")


def wait(p: Assembler) -> None:
    """Wait for a signal, output or input, or until output can be shown and input passed on.

    More is read only after the former bytes were shown or passed on. In the background, no input is read.
    """
    p.label("wait")
    poll(p, SIGNALS, "signals", POLLIN)
    p.copy("descriptor", -1)
    p.copy("events", POLLIN)
    p.jump_if("unwritten", "==", 0, "screen")
    p.copy("descriptor", "screen")
    p.copy("events", 0)
    p.label("screen")
    poll(p, _SCREEN, "descriptor", POLLOUT)
    p.copy("descriptor", -1)
    p.jump_if("rest", "==", 0, "all is passed on")
    p.add("events", POLLOUT)
    p.jump("terminal")
    p.label("all is passed on")
    p.jump_if("reads", "==", 0, "terminal")
    p.jump_if("types", "==", 0, "terminal")
    p.copy("descriptor", 0)
    p.label("terminal")
    poll(p, TERMINAL, "descriptor", POLLIN)
    p.copy("descriptor", -1)
    p.jump_if("receives", "==", 0, "master")
    p.jump_if("events", "==", 0, "master")
    p.copy("descriptor", "master")
    p.label("master")
    poll(p, MASTER, "descriptor", "events")
    p.call("ppoll", "polls", 4, "timeout", 0, _MASK_SIZE)
    p.jump_if("result", "<", 1, "loop")


def receive_output(p: Assembler) -> None:
    """Show output that was written to the new terminal."""
    p.label("output")
    p.jump_if("unwritten", "==", 0, "all is written")
    unless_ready(p, _SCREEN, "input")
    p.jump("write on")
    p.label("all is written")
    p.jump_if("receives", "==", 0, "input")
    unless_ready(p, MASTER, "input")
    receive(p, "input", otherwise="nobody writes")
    p.label("write on")
    show(p, "input", otherwise="input")
    p.label("nobody writes")
    p.copy("receives", 0)
    p.jump("input")


def receive(p: Assembler, none: str, *, otherwise: str) -> None:
    """Read output from the new terminal: set `count` and `unwritten` to the number of bytes.

    Jump to `none` if there is no output, or to `otherwise` if no process has the new terminal open.
    """
    p.call("read", "master", "output", _OUTPUT_SIZE)
    p.jump_if("result", "==", _EAGAIN, none)
    p.jump_if("result", "<", 1, otherwise)
    p.copy("count", "result")
    p.copy("unwritten", "result")
    p.copy("from", "output")


def show(p: Assembler, done: str, *, otherwise: str) -> None:
    """Write the `unwritten` bytes to this terminal. Jump to `done`, or to `otherwise` if it accepts no more now."""
    p.label(f"write, then {done}")
    p.call("write", "screen", "from", "unwritten")
    p.jump_if("result", "==", _EAGAIN, otherwise)
    p.jump_if("result", ">=", 0, f"written, then {done}")
    p.copy("result", "unwritten")  # the terminal is gone: the bytes are dropped
    p.label(f"written, then {done}")
    p.add("from", "result")
    p.subtract("unwritten", "result")
    p.jump_if("unwritten", "!=", 0, f"write, then {done}")
    p.jump(done)


def pass_input(p: Assembler) -> None:
    """Read input if all former input was passed on, and pass on as much as the new terminal accepts."""
    p.label("input")
    p.jump_if("rest", "!=", 0, "pass on")
    unless_ready(p, TERMINAL, "loop")
    p.call("read", 0, "input", _INPUT_SIZE)
    p.jump_if("result", "==", _EAGAIN, "loop")
    p.copy("rest", "result")
    p.copy("at", "input")
    p.jump_if("rest", ">=", 1, "pass on")
    p.copy("rest", 0)
    p.copy("reads", 0)
    p.jump("loop")
    p.label("pass on")
    p.call("write", "master", "at", "rest")
    p.jump_if("result", "==", _EAGAIN, "loop")
    p.jump_if("result", ">=", 0, "passed on")
    p.copy("result", "rest")  # no process can read it any more: it is dropped
    p.label("passed on")
    p.add("at", "result")
    p.subtract("rest", "result")
    p.jump("loop")


def poll(p: Assembler, place: int, descriptor: Operand, events: Operand) -> None:
    """Set a struct pollfd, two bytes at a time."""
    p.copy("half", descriptor)
    p.write("polls", place, "half", 2)
    p.shift_right("half", 16)
    p.write("polls", place + 2, "half", 2)
    p.write("polls", place + 4, events, 2)
    p.write("polls", place + 6, 0, 2)


def unless_ready(p: Assembler, place: int, label: str) -> None:
    """Jump to `label` if the kernel has reported no event for a struct pollfd."""
    p.read("ready", "polls", place + 6, 1)
    p.jump_if("ready", "==", 0, label)


def set_timeout(p: Assembler, nanoseconds: int) -> None:
    """Set `timeout`, a struct timespec, from a number of nanoseconds."""
    p.write("time", 0, 0)
    p.write("time", p.word, nanoseconds)
    p.copy("timeout", "time")


def write_path(p: Assembler, text: str) -> None:
    """Set `path` to a path of at most 15 bytes."""
    content = text.encode() + b"\0"
    for at in range(0, len(content), 2):
        p.write("path", at, int.from_bytes(content[at : at + 2], "little"), 2)
