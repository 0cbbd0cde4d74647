"""`make bench`: how long images take to unpack, by ours and by the peers on this machine, and against the limit.

Images of real packages (bench_images.py) are served by docker-registry on loopback. Ours and the peers
(bench_entrants.py) unpack them in turn, each into a fresh directory with nothing cached, all of it on tmpfs; what it
costs to wait for a disk is measured on one. Medians, ratios and goals (bench_report.py) go to standard output as
Markdown. Images and environments are kept from one run
to the next in $PROVISION_BENCH_DIR, else in the user's cache directory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from .bench_entrants import ENTRANTS, Entrant, ours
from .bench_images import RECIPES, BenchImage
from .bench_machine import ROOT, Machine, environments, find, machine
from .bench_report import FAST, OURS, Sample, report

PATIENCE = 900
"""Seconds that one run may take."""

NOTE = """\
Images come from docker-registry on loopback; its storage, all caches and all results are on tmpfs. *user* and *system*
are the CPU seconds of all processes that the tool started and waited for, *peak MiB* is the memory of the largest one
of them. The limit is the CPU time of inflating all layers, of SHA-256 over them compressed and not, and of `tar -x` of
the uncompressed layers, divided by the number of cores."""

NOTE_OF_ROOT = "All run as root, but for proot-distro: it refuses root, and gets another user ID in a user namespace."


class Failed(Exception):
    """Why a run gave no figures."""


@dataclass(frozen=True)
class Workspace:
    """Where the runs of one image happen, and what the scripts find in their environment."""

    work: Path
    """A directory on tmpfs."""
    disk: Path
    """One on a disk."""
    variables: dict[str, str]


def main() -> int:
    """Measure what the command line asks for and print it; return the exit status."""
    arguments = parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _end)
    home = bench_directory()
    home.mkdir(parents=True, exist_ok=True)
    images = built(arguments.images, home)
    found = environments(home)
    chosen = [one for one in ENTRANTS if one.is_named(arguments.only)]
    absent = {one.name: missing for one in chosen if (missing := one.missing(found))}
    entrants = [one for one in chosen if one.name not in absent]
    known = machine(found)
    samples: list[Sample] = []
    with workplace(arguments.tmpfs) as work, workplace(arguments.disk or str(home)) as disk, serve(work) as host:
        for image in images:
            with served(image, Workspace(work, disk, {**found, "HOST": host})) as place:
                if arguments.profile:
                    profile(place)
                else:
                    measured, failures = rounds(image, place, entrants, arguments.rounds)
                    samples += measured
                    absent |= failures
    if not arguments.profile:
        tell(samples, images, known, absent, arguments)
    return 0


def tell(
    samples: Sequence[Sample],
    images: Sequence[BenchImage],
    known: Machine,
    absent: Mapping[str, str],
    arguments: argparse.Namespace,
) -> None:
    """Print the tables, and write all figures where the command line says."""
    peers = [one.name for one in ENTRANTS if one.kind == "cold" and one.name not in (OURS, FAST)]
    root = f"\n\n{NOTE_OF_ROOT}" if os.geteuid() == 0 else ""
    print(f"Medians of {arguments.rounds} rounds on {known}.\n\n{NOTE}{root}\n")
    titles = {image.name: str(image) for image in images}
    # What Linux reports of a child begins with what its parent had when it started the child.
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(report(samples, titles, peers, absent, known.cores, floor))
    if arguments.json:
        data = {"machine": asdict(known), "images": [asdict(image) for image in images], "absent": dict(absent)}
        data["samples"] = [asdict(sample) for sample in samples]
        Path(arguments.json).write_text(json.dumps(data, indent=1))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="make bench ARGS=…", description="Time ours and its peers; see bench.py.")
    names = ", ".join(RECIPES)
    made.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="turns for each; the median counts; default: 5"
    )
    made.add_argument("--images", type=_images, default=list(RECIPES), metavar="A,B", help=f"default: {names}")
    made.add_argument(
        "--only",
        type=_words,
        default=[],
        metavar="A,B",
        help="only these: cold, warm, disk, limit, or the beginnings of names (provision,curl)",
    )
    made.add_argument("--json", metavar="FILE", help="write all figures of all runs there")
    made.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="where to unpack; default: /dev/shm")
    made.add_argument("--disk", metavar="DIR", help="a disk, to measure what waiting for it costs; default: the cache")
    made.add_argument("--profile", action="store_true", help="show where ours spends its time, instead")
    return made


def _words(text: str) -> list[str]:
    return text.split(",")


def _images(text: str) -> list[str]:
    names = _words(text)
    if unknown := set(names) - set(RECIPES):
        raise argparse.ArgumentTypeError(f"no image {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    return names


def _end(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGALRM:
        raise TimeoutError
    raise SystemExit(128 + number)


def bench_directory() -> Path:
    """Where images and environments are kept."""
    if own := os.environ.get("PROVISION_BENCH_DIR"):
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "provision-bench"


def built(names: Sequence[str], home: Path) -> list[BenchImage]:
    """The images of these names, built if need be; by a process of its own, since a child's peak begins at ours."""
    command = [sys.executable, "-m", "scripts.bench_images", str(home), *names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return [BenchImage.from_json(found) for found in json.loads(done.stdout)]


@contextlib.contextmanager
def workplace(tmpfs: str) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    work = Path(tempfile.mkdtemp(prefix="provision-bench-", dir=tmpfs))
    try:
        yield work
    finally:
        remove(work)


@contextlib.contextmanager
def serve(work: Path) -> Iterator[str]:
    """Run docker-registry on a free loopback port, which is given with its host; its images are in `work/registry`."""
    for program in ("docker-registry", "skopeo"):
        if not find(program):
            raise SystemExit(f"bench: {program} is missing: apt-get install {program}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = work / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nhttp: {{addr: '{host}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{work}/registry'}}}}\n"
    )
    # Whatever ends us, it gets a signal too.
    command = ["setpriv", "--pdeathsig=TERM", find("docker-registry") or "", "serve", str(configuration)]
    with (work / "registry.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _await(f"http://{host}/v2/", process)
            yield host
        finally:
            process.terminate()


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise SystemExit(f"bench: docker-registry doesn't answer at {url}")


@contextlib.contextmanager
def served(image: BenchImage, place: Workspace) -> Iterator[Workspace]:
    """Push an image, and lay out its layers and a warm cache for those who need them."""
    own = place.work / image.name
    own.mkdir()
    policy = own / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    name = f"bench/{image.name}"
    target = f"docker://{place.variables['HOST']}/{name}"
    copy = ["skopeo", f"--policy={policy}", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
    subprocess.run([*copy, f"oci:{image.layout}:latest", target], check=True, stdin=subprocess.DEVNULL)
    blobs = [f"{place.work}/registry/{_stored(digest)}" for digest in image.layers]
    tars = [f"{own}/{number}.tar" for number in range(len(blobs))]
    for blob, tar in zip(blobs, tars, strict=True):
        with open(blob, "rb") as source, open(tar, "wb") as target_file:
            subprocess.run(["gzip", "-dc"], stdin=source, stdout=target_file, check=True)
    more = {"IMAGE": name, "DIGESTS": " ".join(image.layers), "BLOBS": " ".join(blobs), "TARS": " ".join(tars)}
    more |= {"WARM": f"{own}/warm", "POLICY": str(policy)}
    ready = Workspace(place.work, place.disk, {**place.variables, **more})
    try:
        # It fills the cache, and it is the run that finds nothing in the machine's own caches.
        run(ours("PLAIN", cache="$WARM"), ready)
        yield ready
    except Failed as failure:
        raise SystemExit(f"bench: ours fails: {failure}") from None
    finally:
        remove(own)


def _stored(digest: str) -> str:
    """Where docker-registry keeps a blob below its directory."""
    algorithm, _, value = digest.partition(":")
    return f"docker/registry/v2/blobs/{algorithm}/{value[:2]}/{value}/data"


def rounds(
    image: BenchImage, place: Workspace, entrants: Sequence[Entrant], count: int
) -> tuple[list[Sample], dict[str, str]]:
    """Let all entrants run in turn, `count` times; the figures, and why some have none."""
    samples: list[Sample] = []
    failures: dict[str, str] = {}
    for number in range(1, count + 1):
        for entrant in entrants:
            what = f"{image.name}: {entrant.name}"
            if what in failures:
                continue
            try:
                wall, usage, paths = run(entrant.script, _at(place, entrant), entrant.tree)
                # What hasn't unpacked nearly all has failed, whatever its exit status.
                if entrant.tree and paths < 0.95 * image.paths:
                    raise Failed(f"{paths} paths of {image.paths}")
            except Failed as failure:
                failures[what] = str(failure)
                print(f"bench: {what}: {failure}", file=sys.stderr, flush=True)
                continue
            print(f"bench: {number} of {count}: {what}: {wall:.2f} s", file=sys.stderr, flush=True)
            peak = usage.ru_maxrss * 1024
            samples.append(Sample(image.name, entrant.name, wall, usage.ru_utime, usage.ru_stime, peak))
    return samples, failures


def _at(place: Workspace, entrant: Entrant) -> Workspace:
    """Where an entrant runs. A disk has nothing left to write then of what others did."""
    if entrant.kind != "disk":
        return place
    subprocess.run(["sync", "-f", place.disk], check=True)
    return replace(place, work=place.disk)


def run(script: str, place: Workspace, tree: str = "") -> tuple[float, resource.struct_rusage, int]:
    """Run a script in a fresh directory: seconds, what its processes used, and how many paths are below `tree` then.

    The usage is wait4(2)'s: CPU time of all processes that were waited for, memory of the largest one at its peak.
    Raises Failed; the directory is gone and no process left in any case.
    """
    own = Path(tempfile.mkdtemp(prefix="run-", dir=place.work))
    (own / "tmp").mkdir()
    home = own / "home"
    home.mkdir()
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {"PATH": path, "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": f"{own}/tmp", **place.variables}
    try:
        with (own / "log").open("wb") as log:
            wall, status, usage = timed(["sh", "-euc", script], home, environment, log.fileno())
        if status:
            printed = (own / "log").read_text(errors="replace").strip().splitlines()
            raise Failed("; ".join([f"exit status {status}", *printed[-3:]])[:300])
        paths = max((entries_below(str(found)) for found in home.glob(tree)), default=0) if tree else 0
        return wall, usage, paths
    finally:
        remove(own)


def timed(
    command: list[str], cwd: Path, environment: dict[str, str], log: int
) -> tuple[float, int, resource.struct_rusage]:
    """Run a command in a session of its own and end what is left of it: seconds, exit status, usage."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        signal.alarm(PATIENCE)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        return wall, process.returncode, usage
    except TimeoutError:
        raise Failed(f"more than {PATIENCE} seconds") from None
    finally:
        signal.alarm(0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def entries_below(directory: str) -> int:
    """How many entries there are in a directory tree."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(directory))


def remove(directory: Path) -> None:
    """Delete a tree, also one that has directories without write permission."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", directory], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["rm", "-rf", directory], check=False)


def profile(place: Workspace) -> None:
    """Print which lines of ours use the CPU, thread by thread."""
    for environment in ("PLAIN", "FAST"):
        print(f"\n## {place.variables['IMAGE']}, {environment.lower()}\n", flush=True)
        script = ours(environment, module="scripts.bench_profile")
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(tempfile.TemporaryDirectory(dir=place.work))
            timed(["sh", "-euc", script], Path(own), {"PATH": os.defpath, "HOME": own, **place.variables}, 1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
