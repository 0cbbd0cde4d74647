"""Times start.sh beside the same proot or chroot command without it.

    python3 -m scripts.bench_start [ROUNDS]

Creates a container with this machine's static busybox, and starts `true` in it by turns: by start.sh, and by the
command that `start.sh --print` prints for proot, or by a script with a container's mounts for chroot and user
namespaces. Prints medians and the difference of the minima, in milliseconds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.containers import make_container
from tests.support.tools import by_sudo

LIMITS = {"proot": 15.0, "chroot": 25.0, "userns": 25.0}
"""The most milliseconds that start.sh may add."""

# The same by hand: private mounts, a PID namespace, devices, root with few capabilities.
BY_HAND = """
PATH=$PATH:/usr/sbin:/sbin
cd "$1" && mount -t tmpfs tmpfs run && mount -t proc proc proc && mount -t sysfs -o ro sysfs sys &&
mount -t tmpfs tmpfs dev && cp -RP /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fd dev/ &&
mkdir dev/pts dev/shm && ln -s pts/ptmx dev/ptmx && mount -t devpts -o newinstance devpts dev/pts &&
mount -t tmpfs tmpfs dev/shm
setpriv --bounding-set -all,+chown,+sys_chroot --inh-caps -all chroot "$1" /usr/bin/env -i PATH=/bin true
"""

USERNS_BY_HAND = """
PATH=$PATH:/usr/sbin:/sbin
cd "$1" && mount -t proc proc proc && mount -o rbind /sys sys && mount -o rbind /dev dev && mount -t tmpfs tmpfs dev/shm
setpriv --bounding-set -all,+chown,+sys_chroot --inh-caps -all chroot "$1" /usr/bin/env -i PATH=/bin true
"""


def main(arguments: Sequence[str]) -> int:
    """Measure the runtimes of this machine, print a line for each, and return 1 if one exceeds the limit."""
    rounds = int(arguments[0]) if arguments else 101
    if not shutil.which("busybox"):
        print("bench_start: busybox is missing: apt install busybox-static", file=sys.stderr)
        return 1
    os.environ.update(by_sudo())  # the container belongs to another user where root measures
    with tempfile.TemporaryDirectory() as directory:
        start = make_start(Path(directory) / "container")
        return max(compare(runtime, start, rounds) for runtime in LIMITS)


def make_start(directory: Path) -> Path:
    """Create the container that the tests use, and return the path of its start.sh."""
    container = make_container(directory, image_command=("true",))
    # The first start would create them; the commands by hand need them too.
    for path in (*(container.rootfs / name for name in ("dev", "run", "sys")), directory / ".provision/run"):
        path.mkdir()
    (container.rootfs / "etc/group").unlink()  # so that start.sh sets no groups: the commands by hand set none either
    return container.script


def compare(runtime: str, start: Path, rounds: int) -> int:
    """Measure one runtime, print the medians, and return 1 if the limit is exceeded."""
    program = {"userns": "unshare"}.get(runtime, runtime)
    if not shutil.which(program) or (runtime == "chroot" and os.geteuid() != 0):
        print(f"{runtime:8} not here")
        return 0
    ours = [str(start), "--runtime", runtime]
    if runtime == "proot":
        shown = subprocess.run([*ours, "--print"], capture_output=True, text=True, check=True).stdout
        # It has redirections, and may have variables.
        theirs = ["sh", "-c", shown if shown.startswith("(") else f"exec {shown}"]
    else:
        user, by_hand = ([], BY_HAND) if runtime == "chroot" else (["-U", "-r"], USERNS_BY_HAND)
        theirs = ["unshare", *user, "-m", "-p", "-f", "sh", "-c", by_hand, "sh", str(start.parent / "rootfs")]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for command, found in zip((ours, theirs), times, strict=True):
            found.append(duration(command))
    ours_median, theirs_median = map(statistics.median, times)
    cost = ours_median - theirs_median
    least = min(times[0]) - min(times[1])
    shown = f"{runtime:8} start.sh {ours_median:5.1f} ms, by hand {theirs_median:5.1f} ms"
    print(f"{shown}: it costs {cost:4.1f} ms, or {least:.1f} ms by the minima", flush=True)
    return int(cost > LIMITS[runtime])


def duration(command: Sequence[str]) -> float:
    """Run a command and return its milliseconds. Raise CalledProcessError when it fails."""
    before = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - before) * 1000


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
