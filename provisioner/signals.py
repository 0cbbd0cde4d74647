"""Signals as exceptions: SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP raise Terminated.

They are raised only in a function that `interruptible` calls, so that a `try` around that call catches them all.

Python raises them between any two steps of the program. After two kinds of steps that would do harm, and they wait:

- In an import, a callback of a weak reference or a `__del__`: Python ignores what is raised there, and the run would
  go on.
- In the rooms that make files and processes: a directory that has just been made isn't known to the code yet that
  would remove it, and a descriptor that has just been closed would be closed once more.

If something hides the exception of a signal, as an error in cleaning up does, it is raised again.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

_Result = TypeVar("_Result")

_AGAIN_SECONDS = 0.003
"""How long a signal waits before its exception is tried again."""
_PATIENCE_SECONDS = 1.0
"""How long a signal waits for rooms of files and of processes: they may be at work on many, or wait for another run."""
_HIDDEN_SECONDS = 0.05
"""How long after its exception was raised a signal is looked at again: is the program handling it?"""
_TOGETHER_SECONDS = 0.3
"""Within this time, two signals are one."""
_WEAK_REFERENCES = ("/weakref.py", "/_weakrefset.py")
_PACKAGE = os.path.join(os.path.dirname(__file__), "")
_ROOMS_OF_FILES = ("container/", "exports/", "filesystem/", "maintenance/", "ownership/", "rootfs/", "store/")
"""Where a signal waits, since a step may have made a file that the code doesn't know of yet."""
_MODULES_OF_PROCESSES = ("layers/file_writer", "layers/workers")
"""The same for a process."""
_HELPING_ROOMS = ("archives/", "image/", "terminal/")
"""The rooms that count as the room which has called them."""

_last_arrived = 0.0
"""When the last signal arrived that wasn't left out, by time.monotonic()."""
_is_waiting = False
"""Whether a signal waits, or was raised and may be raised again. The timer doesn't tell: it may have rung just now."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""

    status: int
    """The exit status of a process that such a signal ends, as shells give it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def raise_on(*numbers: signal.Signals) -> None:
    """Raise an exception for each of these signals from now on, but for those that are ignored, as by nohup."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)


def interruptible(function: Callable[[], _Result]) -> _Result:
    """Call a function in which signals raise exceptions, and return its result.

    A signal that arrives before the call waits for it. One that arrives after the call, while the process prints its
    result, ends the process if that takes more than a second longer.
    """
    return function()


@atexit.register
def forget_waiting() -> None:
    """Leave out a signal that still waits: the run is over.

    While Python cleans up at its end, the timer's signal would end the process, since it has no handler any more.
    """
    global _is_waiting
    signal.setitimer(signal.ITIMER_REAL, 0)
    _is_waiting = False


def raise_waiting() -> None:
    """Raise the exception of a signal that still waits, before another program takes this one's place."""
    while _is_waiting:
        time.sleep(_AGAIN_SECONDS)


def _receive(number: int, frame: FrameType | None) -> None:
    """Raise the exception of a signal, now or later.

    While one waits or is being handled, another one is raised at once, unless it comes together with the first, as from
    a terminal that is closed and from the shell there. Outside of `interruptible`, a second one ends the process.
    """
    global _last_arrived
    arrived, is_second = time.monotonic(), _is_waiting
    if is_second and arrived - _last_arrived < _TOGETHER_SECONDS:
        return
    _last_arrived, deadline, was_raised = arrived, arrived + _PATIENCE_SECONDS, False
    end: float | None = None  # when it ends the process, counted from when it first waits outside of `interruptible`

    def raise_when_due(frame: FrameType | None) -> None:
        nonlocal deadline, was_raised, end
        now = time.monotonic()
        if not _is_interruptible(frame):
            if was_raised:
                forget_waiting()  # the run has ended by it
                return
            end = now + _PATIENCE_SECONDS if end is None else end
            if is_second or now >= end:
                os._exit(128 + number)
            _call_later(_AGAIN_SECONDS, raise_when_due)
        elif was_raised and _is_being_handled():
            deadline = now + _PATIENCE_SECONDS
            _call_later(_HIDDEN_SECONDS, raise_when_due)
        elif not is_second and (_is_ignored_in(frame) or (_is_delicate(frame) and now < deadline)):
            _call_later(_AGAIN_SECONDS, raise_when_due)
        else:
            was_raised = True
            _call_later(_HIDDEN_SECONDS, raise_when_due)
            # Nothing may refer to it: what it has interrupted is cleaned up when it is gone, at the latest.
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    raise_when_due(frame)


def _call_later(seconds: float, function: Callable[[FrameType | None], None]) -> None:
    """Call a function in the main thread, with its frame then."""
    global _is_waiting
    _is_waiting = True
    signal.signal(signal.SIGALRM, lambda _, frame: function(frame))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_interruptible(frame: FrameType | None) -> bool:
    """Return whether a frame is of what `interruptible` has called."""
    while frame is not None and frame.f_code is not interruptible.__code__:
        frame = frame.f_back
    return frame is not None


def _is_ignored_in(frame: FrameType | None) -> bool:
    """Return whether Python ignores what is raised in a frame: in an import, a callback of weakref or a `__del__`."""
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code.co_name == "__del__" or name.startswith("<frozen importlib") or name.endswith(_WEAK_REFERENCES):
            return True
        frame = frame.f_back
    return False


def _is_delicate(frame: FrameType | None) -> bool:
    """Return whether a frame is of a room for which signals wait, or of what has no room and was called by one."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            name = frame.f_code.co_filename.removeprefix(_PACKAGE)
            if "/" in name and not name.startswith(_HELPING_ROOMS):
                return name.startswith((*_ROOMS_OF_FILES, *_MODULES_OF_PROCESSES))
        frame = frame.f_back
    return False


def _is_being_handled() -> bool:
    """Return whether the program is in an `except`, a `finally` or an `__exit__` that a signal has led to.

    Or in that of a generator that is being closed, whose exception doesn't say why.
    """
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt | Terminated | GeneratorExit):
        error = error.__context__
    return error is not None
