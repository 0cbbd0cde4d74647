"""`make bench`: time how long provision and its peers take to unpack images, and compare that with a lower bound.

Images of real packages (bench_images.py) are served by docker-registry on loopback. provision and its peers
(bench_entrants.py) unpack them in turn, each into a new directory with empty caches, on tmpfs. Only the cost of waiting
for a disk is measured on a disk. Medians, ratios and goals (bench_report.py) are printed as Markdown. Images and Python
environments are cached between runs in $PROVISION_BENCH_DIR, else in the user's cache directory.
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
from .bench_report import ARCHIVES, FAST, OURS, Sample, report

PATIENCE = 900
"""The time limit of one run, in seconds."""

NOTE = """\
Images come from docker-registry on loopback; its storage, all caches and all results are on tmpfs. *user* and *system*
are the CPU seconds of all processes that the tool started and waited for, *peak MiB* is the memory of the largest one
of them. The limit is the CPU time of inflating all layers, of SHA-256 over them compressed and not, and of `tar -x` of
the uncompressed layers, divided by the number of cores."""

NOTE_OF_ROOT = (
    "All run as root, except for proot-distro, which refuses root: it gets another user ID in a user namespace."
)


class RunFailed(Exception):
    """A run that gives no figures, with the reason."""


@dataclass(frozen=True)
class Workspace:
    """Directories for runs, and the environment variables of their scripts."""

    work: Path
    """A directory on tmpfs."""
    disk: Path
    """A directory on a disk."""
    variables: dict[str, str]
    """The variables that bench_entrants.py lists."""


def main() -> int:
    """Run the benchmark that the command line asks for, print the result and return the exit status."""
    arguments = parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _end)
    home = bench_directory()
    home.mkdir(parents=True, exist_ok=True)
    images = build_images(arguments.images, home)
    found = environments(home)
    chosen = [one for one in ENTRANTS if one.is_named(arguments.only)]
    absent = {one.name: missing for one in chosen if (missing := one.missing(found))}
    entrants = [one for one in chosen if one.name not in absent]
    known = machine(found)
    samples: list[Sample] = []
    with (
        temporary_directory(arguments.tmpfs) as work,
        temporary_directory(arguments.disk or str(home)) as disk,
        serve(work) as host,
    ):
        for image in images:
            with pushed(image, Workspace(work, disk, {**found, "HOST": host})) as workspace:
                if arguments.profile:
                    profile(workspace)
                else:
                    measured, failures = rounds(image, workspace, entrants, arguments.rounds)
                    samples += measured
                    absent |= failures
    if not arguments.profile:
        print_report(samples, images, known, absent, arguments)
    return 0


def print_report(
    samples: Sequence[Sample],
    images: Sequence[BenchImage],
    known: Machine,
    absent: Mapping[str, str],
    arguments: argparse.Namespace,
) -> None:
    """Print the tables, and write all figures to the file of --json."""
    peers = [one.name for one in ENTRANTS if one.kind == "cold" and one.name not in (OURS, FAST)]
    root = f"\n\n{NOTE_OF_ROOT}" if os.geteuid() == 0 else ""
    rounds = f"{arguments.rounds} rounds (1 to 3 for slow tools and for results without a goal)"
    print(f"Medians of {rounds} on {known}.\n\n{NOTE}{root}\n")
    titles = {image.name: str(image) for image in images}
    # Linux counts the memory of the parent at fork into the peak of a child.
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(report(samples, titles, peers, absent, known.cores, floor))
    if arguments.json:
        data = {"machine": asdict(known), "images": [asdict(image) for image in images], "absent": dict(absent)}
        data["samples"] = [asdict(sample) for sample in samples]
        Path(arguments.json).write_text(json.dumps(data, indent=1))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(prog="make bench ARGS=…", description="Time provision and its peers (bench.py).")
    names = ", ".join(RECIPES)
    result.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="how often the quick ones run; the median counts; default: 5"
    )
    result.add_argument("--images", type=_images, default=list(RECIPES), metavar="A,B", help=f"default: {names}")
    result.add_argument(
        "--only",
        type=_words,
        default=[],
        metavar="A,B",
        help="run only these: cold, warm, archive, rootfs, disk, other, limit, or prefixes of names (provision,curl)",
    )
    result.add_argument("--json", metavar="FILE", help="write the figures of all runs to FILE")
    result.add_argument(
        "--tmpfs", default="/dev/shm", metavar="DIR", help="directory to unpack into; default: /dev/shm"
    )
    result.add_argument(
        "--disk", metavar="DIR", help="directory on a disk, to measure the cost of waiting for it; default: the cache"
    )
    result.add_argument("--profile", action="store_true", help="print a CPU profile of provision instead")
    return result


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
    """Return the directory for images and environments."""
    if own := os.environ.get("PROVISION_BENCH_DIR"):
        return Path(own).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "provision-bench"


def build_images(names: Sequence[str], home: Path) -> list[BenchImage]:
    """Return the images of these names; build those that are missing.

    A separate process does it, so that this one stays small: its memory counts into the peak of the runs.
    """
    command = [sys.executable, "-m", "scripts.bench_images", str(home), *names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return [BenchImage.from_json(found) for found in json.loads(done.stdout)]


@contextlib.contextmanager
def temporary_directory(parent: str) -> Iterator[Path]:
    """Create a directory below `parent`, and remove it at the end."""
    work = Path(tempfile.mkdtemp(prefix="provision-bench-", dir=parent))
    try:
        yield work
    finally:
        remove(work)


@contextlib.contextmanager
def serve(work: Path) -> Iterator[str]:
    """Run docker-registry with its storage in `work/registry`, and yield its `HOST:PORT`."""
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
    # It gets a signal when this process ends, in whatever way.
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
def pushed(image: BenchImage, workspace: Workspace) -> Iterator[Workspace]:
    """Push an image, prepare its layers as files and a warm cache, and yield the workspace with their variables."""
    own = workspace.work / image.name
    own.mkdir()
    policy = own / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    name = f"bench/{image.name}"
    target = f"docker://{workspace.variables['HOST']}/{name}"
    copy = ["skopeo", f"--policy={policy}", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
    subprocess.run([*copy, f"oci:{image.layout}:latest", target], check=True, stdin=subprocess.DEVNULL)
    blobs = [f"{workspace.work}/registry/{_stored(digest)}" for digest in image.layers]
    tars = [f"{own}/{number}.tar" for number in range(len(blobs))]
    for blob, tar in zip(blobs, tars, strict=True):
        with open(blob, "rb") as source, open(tar, "wb") as target_file:
            subprocess.run(["gzip", "-dc"], stdin=source, stdout=target_file, check=True)
    more = {"IMAGE": name, "DIGESTS": " ".join(image.layers), "BLOBS": " ".join(blobs), "TARS": " ".join(tars)}
    more |= {"WARM": f"{own}/warm", "POLICY": str(policy), "ROOTFS": f"{own}/rootfs.tar"}
    for form in ARCHIVES:
        path = f"{own}/{form}.tar"
        more[form.replace("-", "_").upper()] = path
        command = [*copy[:4], f"oci:{image.layout}:latest", f"{form}:{path}:localhost/bench:1"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    ready = Workspace(workspace.work, workspace.disk, {**workspace.variables, **more})
    try:
        # This run fills the blob cache, and warms up the caches of the machine for all others.
        run(f'{ours("PLAIN", cache="$WARM")}\ntar -C container/rootfs -cf "$ROOTFS" .', ready)
        yield ready
    except RunFailed as failure:
        raise SystemExit(f"bench: provision fails: {failure}") from None
    finally:
        remove(own)


def _stored(digest: str) -> str:
    """Return the path of a blob below the storage of docker-registry."""
    algorithm, _, value = digest.partition(":")
    return f"docker/registry/v2/blobs/{algorithm}/{value[:2]}/{value}/data"


def rounds(
    image: BenchImage, workspace: Workspace, entrants: Sequence[Entrant], count: int
) -> tuple[list[Sample], dict[str, str]]:
    """Run all entrants in turn, `count` times; return the samples, and the failures by `image: entrant`."""
    samples: list[Sample] = []
    failures: dict[str, str] = {}
    for number in range(1, count + 1):
        for entrant in entrants:
            what = f"{image.name}: {entrant.name}"
            is_wanted = number <= entrant.rounds and (not entrant.images or image.name in entrant.images)
            if what in failures or not is_wanted:
                continue
            try:
                wall, usage, paths = run(entrant.script, _workspace_of(entrant, workspace), entrant.tree)
                # Less than nearly all paths is a failure, whatever the exit status.
                if entrant.tree and paths < 0.95 * image.paths:
                    raise RunFailed(f"{paths} paths of {image.paths}")
            except RunFailed as failure:
                failures[what] = str(failure)
                print(f"bench: {what}: {failure}", file=sys.stderr, flush=True)
                continue
            print(f"bench: {number} of {count}: {what}: {wall:.2f} s", file=sys.stderr, flush=True)
            peak = usage.ru_maxrss * 1024
            samples.append(Sample(image.name, entrant.name, wall, usage.ru_utime, usage.ru_stime, peak))
    return samples, failures


def _workspace_of(entrant: Entrant, workspace: Workspace) -> Workspace:
    """Return the workspace with the directory that an entrant runs in; a disk has nothing left to write by then."""
    if entrant.kind != "disk":
        return workspace
    subprocess.run(["sync", "-f", workspace.disk], check=True)
    return replace(workspace, work=workspace.disk)


def run(script: str, workspace: Workspace, tree: str = "") -> tuple[float, resource.struct_rusage, int]:
    """Run a script in a new directory; return its seconds, its resource usage and the number of paths below `tree`.

    The usage is that of wait4(2): CPU time of all processes that were waited for, peak memory of the largest one.
    Raise RunFailed when it fails. The directory is removed and all processes are ended in any case.
    """
    own = Path(tempfile.mkdtemp(prefix="run-", dir=workspace.work))
    (own / "tmp").mkdir()
    home = own / "home"
    home.mkdir()
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    environment = {"PATH": path, "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": f"{own}/tmp", **workspace.variables}
    try:
        with (own / "log").open("wb") as log:
            wall, status, usage = timed(["sh", "-euc", script], home, environment, log.fileno())
        if status:
            printed = (own / "log").read_text(errors="replace").strip().splitlines()
            raise RunFailed("; ".join([f"exit status {status}", *printed[-3:]])[:300])
        paths = max((entries_below(str(found)) for found in home.glob(tree)), default=0) if tree else 0
        return wall, usage, paths
    finally:
        remove(own)


def timed(
    command: list[str], cwd: Path, environment: dict[str, str], log: int
) -> tuple[float, int, resource.struct_rusage]:
    """Run a command in its own session; return its seconds, exit status and resource usage.

    Processes of the session that are left are killed. Raise RunFailed after PATIENCE seconds.
    """
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
        raise RunFailed(f"more than {PATIENCE} seconds") from None
    finally:
        signal.alarm(0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def entries_below(directory: str) -> int:
    """Return the number of entries in a directory tree."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(directory))


def remove(directory: Path) -> None:
    """Remove a tree, also one with directories that lack the write permission."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", directory], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["rm", "-rf", directory], check=False)


def profile(workspace: Workspace) -> None:
    """Print the lines of provision that use the CPU, by thread."""
    for environment in ("PLAIN", "FAST"):
        print(f"\n## {workspace.variables['IMAGE']}, {environment.lower()}\n", flush=True)
        script = ours(environment, module="scripts.bench_profile")
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(tempfile.TemporaryDirectory(dir=workspace.work))
            timed(["sh", "-euc", script], Path(own), {"PATH": os.defpath, "HOME": own, **workspace.variables}, 1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
