"""`make bench-faults`: pulls from failing registries, killed pulls, parallel pulls and slow lines, in figures.

It does what tests/registry/test_faults.py does, for longer: ten minutes, with one core and 2 GB of memory.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.image.digest import CHUNK
from tests.support import faults, pulls

KILLS = 200
LAYERS, LAYER_SIZE = 10, 80_000_000
SPEED = 20e6
MOST = 1.05
"""The limit for the time of the whole job, as a multiple of that of the bare download."""


def main() -> int:
    """Run all measurements, or those that the arguments name; return 1 if a figure misses its limit, else 0."""
    names = sys.argv[1:] or list(MEASURES)
    return max([int(not MEASURES[name]()) for name in names])


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Create a directory for one measurement, and remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix="provision-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def cases() -> bool:
    """Check that every scripted case ends in the right bytes or in the right error."""
    failed = 0
    for case in faults.CASES:
        with temporary_directory() as path:
            try:
                faults.check(case, path)
            except AssertionError as error:
                failed += 1
                print(f"  {case.name}: {error}")
    print(f"scripted faults: {len(faults.CASES) - failed} of {len(faults.CASES)} end as they should")
    return not failed


def kills() -> bool:
    """Kill runs at random moments, let the next one finish, and check how much was downloaded twice."""
    with temporary_directory() as path:
        found = pulls.kill_pulls(KILLS, path, seed=int(time.time()))
    more = found.sent / found.size - 1
    print(f"{found.kills} runs killed, {found.rounds} left alone after them: these completed, all caches verified")
    print(f"  most lost of a blob by a kill: {found.most_lost} bytes (a chunk has {CHUNK}); {more:.1%} sent twice")
    return found.most_lost <= CHUNK


def company() -> bool:
    """Let eight processes pull the same image, and check that each blob is sent once."""
    with temporary_directory() as path:
        pulls.pull_at_once(8, path)
    print("8 processes, 8 directories, one image: each blob was sent once")
    return True


def line() -> bool:
    """Time the whole job and the bare download on a slow line."""
    with temporary_directory() as path:
        found = pulls.time_slow_line(LAYERS, LAYER_SIZE, SPEED, path)
    ratio = found.job / found.bare
    what = f"{found.size / 1e6:.0f} MB at {SPEED / 1e6:.0f} MB/s"
    print(f"{what}: bare download {found.bare:.2f} s, whole job {found.job:.2f} s, {ratio:.3f} times as long")
    return ratio <= MOST


def ranges() -> bool:
    """Time a blob in one range and in four at once, on a slow line and with slow connections."""
    for what, shared in (("a slow line", True), ("slow connections", False)):
        seconds = [pulls.time_ranges(count, 100_000_000, SPEED, shared=shared) for count in (1, 4)]
        print(f"100 MB over {what}: in one range {seconds[0]:.2f} s, in four at once {seconds[1]:.2f} s")
    return True


MEASURES: dict[str, Callable[[], bool]] = {
    "cases": cases,
    "kills": kills,
    "company": company,
    "line": line,
    "ranges": ranges,
}

if __name__ == "__main__":
    sys.exit(main())
