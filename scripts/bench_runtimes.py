"""What the runtimes of start.sh cost, side by side: find, git status, apt-get install and a compiler in each of them.

    bench_runtimes.py DIR [--rounds N] [--runtimes R,R] [--json]

DIR holds a Debian that provision made without root, with git and gcc installed. Root measures chroot as itself, in a
copy of DIR that is root's, and the other runtimes as the owner of DIR/rootfs. Each round runs every workload in every
runtime once, in turn, so that a machine which others use slows down all of them alike. Times are those of the whole
start.sh, in seconds; medians are shown, and the quartiles around them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

RUNTIMES = ("chroot", "userns", "proot")

PREPARE = r"""
set -e
mkdir -p /tmp/bench/repository && cd /tmp/bench
cat >program.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) { char *s = strdup(argc > 1 ? argv[1] : "hello"); puts(s); free(s); return 0; }
END
cd repository
[ -d .git ] && exit 0
for d in $(seq 50); do mkdir $d; for f in $(seq 40); do echo $d $f >$d/$f; done; done
git init -q . && git add . && git -c user.name=bench -c user.email=bench@localhost commit -q -m all
"""
"""A repository of 2000 files in 50 directories, and a C program."""

WORKLOADS = {
    "start and end": ":",
    "find /": "find / -xdev >/dev/null",
    "git status": "cd /tmp/bench/repository && git status --short",
    "compile": "cd /tmp/bench && gcc -O1 -o program program.c",
    "apt-get install": "apt-get install -y -o APT::Sandbox::User=root hello >/dev/null 2>&1",
}
"""Shell text by the name of what it does. The package is there already: none of it needs a network."""

AFTER = {"apt-get install": "apt-get purge -y -o APT::Sandbox::User=root hello >/dev/null 2>&1"}
"""What puts things back as they were, not measured."""

FETCH = "apt-get install -y --download-only -o APT::Sandbox::User=root hello >/dev/null 2>&1"


def main() -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runtimes", default=",".join(RUNTIMES if os.geteuid() == 0 else RUNTIMES[1:]))
    parser.add_argument("--json", action="store_true", help="print every time")
    arguments = parser.parse_args()
    runtimes = arguments.runtimes.split(",")
    times = measure(arguments.directory.resolve(), runtimes, arguments.rounds)
    if arguments.json:
        print(json.dumps({workload: times[workload] for workload in WORKLOADS}, indent=2))
    else:
        print("\n".join(table(times, runtimes)))
    return 0


Times = dict[str, dict[str, list[float]]]


def measure(directory: Path, runtimes: list[str], rounds: int) -> Times:
    """Seconds by workload and runtime, one a round. The first round warms up and doesn't count."""
    times: Times = defaultdict(lambda: defaultdict(list))
    for text in (PREPARE, FETCH):
        run(directory, runtimes[-1], text)
    with tempfile.TemporaryDirectory(dir=directory.parent) as place:
        if "chroot" in runtimes:  # root's new files there would be in the way of others
            command = ["cp", "-Rd", "--preserve=mode,timestamps,links", str(directory), f"{place}/chroot"]
            subprocess.run(command, check=True)
        homes = {runtime: Path(place, "chroot") if runtime == "chroot" else directory for runtime in runtimes}
        for number in range(rounds + 1):
            measure_round(homes, times if number else defaultdict(lambda: defaultdict(list)))
            print(f"round {number} of {rounds}", file=sys.stderr)
    return times


def measure_round(homes: dict[str, Path], times: Times) -> None:
    """Run each workload once in each runtime, which has a directory; add the seconds to `times`."""
    for workload, text in WORKLOADS.items():
        for runtime, directory in homes.items():
            started = time.perf_counter()
            run(directory, runtime, text)
            times[workload][runtime].append(time.perf_counter() - started)
            if workload in AFTER:
                run(directory, runtime, AFTER[workload])


def run(directory: Path, runtime: str, text: str) -> None:
    """Run a shell's text in the container; CalledProcessError where it fails."""
    start = [str(directory / "start.sh"), "--runtime", runtime, "--env", "DEBIAN_FRONTEND=noninteractive"]
    owner = (directory / "rootfs").stat()
    other: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    as_owner = other if os.geteuid() == 0 and runtime != "chroot" else {}
    subprocess.run([*start, "sh", "-c", text], check=True, stdin=subprocess.DEVNULL, **as_owner)


def table(times: Times, runtimes: list[str]) -> list[str]:
    """Medians with quartiles, and how many times as long as in the first runtime it takes in the last."""
    lines = [f"| | {' | '.join(runtimes)} | {runtimes[-1]} / {runtimes[0]} |", "|---|" + "---|" * (len(runtimes) + 1)]
    for workload in WORKLOADS:
        medians = [statistics.median(times[workload][runtime]) for runtime in runtimes]
        cells = []
        for runtime, median in zip(runtimes, medians, strict=True):
            low, _, high = statistics.quantiles(times[workload][runtime], n=4)
            cells.append(f"{median:.3f} s ({low:.3f}-{high:.3f})")
        lines.append(f"| {workload} | {' | '.join(cells)} | {medians[-1] / medians[0]:.1f} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
