"""Runs `provision` and prints the CPU time of its lines, by thread.

Every few milliseconds a sampler charges the CPU time that each thread has used since the last sample
(/proc/self/task/*/schedstat) to the line of the package that the thread is in. Time in C code is charged to the line
that calls it, or to the next one if the interpreter's lock is released only there. Waiting counts as nothing.
"""

from __future__ import annotations

import collections
import linecache
import resource
import sys
import threading
import time
from types import FrameType

from provisioner.cli import main

INTERVAL = 0.003
Line = tuple[str, int, str]
"""File name, line number, function."""


class Sampler(threading.Thread):
    """Charges CPU nanoseconds to lines, by thread, until `stop` is called."""

    def __init__(self) -> None:
        super().__init__(name="sampler", daemon=True)
        self.charged: dict[str, collections.Counter[Line]] = collections.defaultdict(collections.Counter)
        self._seen: dict[int, int] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        """Take samples of all threads until the end."""
        while not self._ended.wait(INTERVAL):
            frames = sys._current_frames()
            for thread in threading.enumerate():
                frame = frames.get(thread.ident or 0)
                if frame and thread.native_id and thread is not self:
                    self._charge(thread.name, thread.native_id, frame)

    def stop(self) -> None:
        """Stop, and wait for the thread to end."""
        self._ended.set()
        self.join()

    def _charge(self, name: str, native_id: int, frame: FrameType) -> None:
        used = cpu_time(native_id)
        self.charged[name][line_of(frame)] += used - self._seen.get(native_id, 0)
        self._seen[native_id] = used


def cpu_time(native_id: int) -> int:
    """Return the nanoseconds of CPU time that a thread has used, 0 for one that has ended."""
    try:
        with open(f"/proc/self/task/{native_id}/schedstat") as file:
            return int(file.read().split()[0])
    except OSError:
        return 0


def line_of(frame: FrameType | None) -> Line:
    """Return the innermost line of the package on the stack of a frame, else the frame's own line."""
    assert frame is not None
    inner = frame
    while frame and "/provisioner/" not in frame.f_code.co_filename:
        frame = frame.f_back
    found = frame or inner
    return found.f_code.co_filename, found.f_lineno, found.f_code.co_name


def show(charged: dict[str, collections.Counter[Line]], wall: float) -> None:
    """Print for each thread its share of a core and the lines that use the most CPU time."""
    for name, lines in sorted(charged.items(), key=lambda item: -item[1].total()):
        total = lines.total() / 1e9
        if total < 0.01 * wall:
            continue
        print(f"{name}: {total:.2f} s of CPU, {total / wall:.0%} of the time")
        for (file, number, function), used in lines.most_common(12):
            where = f"{file.rpartition('/provisioner/')[2]}:{number} {function}"
            text = linecache.getline(file, number).strip()[:60]
            print(f"  {used / 1e9:6.2f} s {used / 1e9 / total:4.0%}  {where:44} {text}")


def profile(arguments: list[str]) -> int:
    """Run `provision` with these arguments, print the profile, and return the exit status."""
    sampler = Sampler()
    start = time.perf_counter()
    sampler.start()
    status = main(arguments)
    wall = time.perf_counter() - start
    sampler.stop()
    children, own = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    print(f"{wall:.2f} s; {own.ru_utime + own.ru_stime:.2f} s of CPU", end="")
    print(f", and {children.ru_utime + children.ru_stime:.2f} s in other programs; {own.ru_maxrss >> 10} MiB")
    show(sampler.charged, wall)
    return status


if __name__ == "__main__":
    sys.exit(profile(sys.argv[1:]))
