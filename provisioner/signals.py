"""Signals as exceptions: SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP raise Terminated.

None is raised while a module is being imported: Python runs callbacks then, and ignores what is raised in them, so that
the run would go on. Such a signal is raised a moment later.
"""

from __future__ import annotations

import signal
from types import FrameType

_AGAIN_SECONDS = 0.003
"""How long a signal waits that has arrived during an import, before it is looked at again."""


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


def forget_waiting() -> None:
    """Leave out a signal that still waits: the run is over."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _receive(number: int, frame: FrameType | None) -> None:
    """Raise the exception of a signal, or try again later. While one waits, another one is raised at once."""
    if _is_importing(frame) and not any(signal.getitimer(signal.ITIMER_REAL)):
        signal.signal(signal.SIGALRM, lambda _, later: _receive(number, later))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        return
    forget_waiting()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a frame belongs to the import system, or was called by it."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
