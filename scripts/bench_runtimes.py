"""Times find, git status, a compiler and apt-get install in each runtime of start.sh, side by side.

    bench_runtimes.py DIR [--rounds N] [--runtimes R,R] [--json]

DIR is a Debian provisioned without root, with git and gcc installed. As root, chroot is measured as root in a copy of
DIR that root owns, and the other runtimes as the owner of DIR/rootfs. Each round runs every workload in every runtime
once, in turn, so that other load on the machine slows down all of them alike. The table shows medians and quartiles of
the time of start.sh in seconds.
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
"""Shell scripts by name. The package is downloaded before, so none of them needs the network."""

AFTER = {"apt-get install": "apt-get purge -y -o APT::Sandbox::User=root hello >/dev/null 2>&1"}
"""Shell scripts that undo a workload; they are not measured."""

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
    """Return seconds by workload and runtime, one per round. A first round warms up and doesn't count."""
    times: Times = defaultdict(lambda: defaultdict(list))
    for text in (PREPARE, FETCH):
        run(directory, runtimes[-1], text)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        if "chroot" in runtimes:  # the user's runtimes can't change root's new files there
            command = ["cp", "-Rd", "--preserve=mode,timestamps,links", str(directory), f"{temporary}/chroot"]
            subprocess.run(command, check=True)
        homes = {runtime: Path(temporary, "chroot") if runtime == "chroot" else directory for runtime in runtimes}
        for number in range(rounds + 1):
            measure_round(homes, times if number else defaultdict(lambda: defaultdict(list)))
            print(f"round {number} of {rounds}", file=sys.stderr)
    return times


def measure_round(homes: dict[str, Path], times: Times) -> None:
    """Run each workload once in each runtime, in the runtime's directory, and add the seconds to `times`."""
    for workload, text in WORKLOADS.items():
        for runtime, directory in homes.items():
            started = time.perf_counter()
            run(directory, runtime, text)
            times[workload][runtime].append(time.perf_counter() - started)
            if workload in AFTER:
                run(directory, runtime, AFTER[workload])


def run(directory: Path, runtime: str, text: str) -> None:
    """Run a shell script in the container. Raise CalledProcessError when it fails."""
    start = [str(directory / "start.sh"), "--runtime", runtime, "--env", "DEBIAN_FRONTEND=noninteractive"]
    owner = (directory / "rootfs").stat()
    other: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    as_owner = other if os.geteuid() == 0 and runtime != "chroot" else {}
    subprocess.run([*start, "sh", "-c", text], check=True, stdin=subprocess.DEVNULL, **as_owner)


def table(times: Times, runtimes: list[str]) -> list[str]:
    """Return a Markdown table of medians with quartiles, and the ratio of the last runtime to the first."""
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
