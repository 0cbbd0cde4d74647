"""The results of `make bench`: medians, ratios, the lower bound and the goals, as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OURS = "provision"
FAST = "provision[fast]"
TAR = "curl piped to tar"
WARM = ("provision, warm", "provision[fast], warm")
NO_DIGESTS = "provision[fast] without digests, warm"
"""The same as WARM[1], without digests of files in the ownership record."""
NO_SYNC = "provision --no-sync, warm"
ON_DISK = ("provision, warm, on a disk", "provision --no-sync, warm, on a disk")
WARM_TAR = "tar -x of the same blobs"
ROOTFS = ("provision rootfs:FILE", "provision[fast] rootfs:FILE")
ROOTFS_TAR = "tar -x of the same file"
ROOTFS_PEER = "proot-distro install FILE"
UMOCI = "skopeo, umoci"
ARCHIVES = {"docker-archive": "provision docker-archive:", "oci-archive": "provision oci-archive:"}
"""provision on archives of an image, by their formats."""
ARCHIVES_BY_UMOCI = {form: f"skopeo, umoci, {form}" for form in ARCHIVES}
"""Its peers on the same archives."""
PIPED = "provision -, docker-archive"
ONE_CORE = ("provision[fast], one core", "curl piped to tar, one core")
USER = "provision[fast], without root"
LINK = ("provision[fast], 20 MB/s", "the download alone, 20 MB/s")
INFLATE = {OURS: "inflate with zlib", FAST: "inflate with isal"}
HASH = "hash"
WRITE = "write"

MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The figures of one run."""

    image: str
    entrant: str
    wall: float
    """Seconds on the clock."""
    user: float
    """CPU seconds of all processes in user mode."""
    system: float
    """CPU seconds of all processes in the kernel."""
    peak: int
    """Bytes of the largest process."""

    @property
    def cpu(self) -> float:
        """CPU seconds in user mode and in the kernel."""
        return self.user + self.system


Medians = dict[str, Sample]
"""The medians of one image by entrant."""


@dataclass(frozen=True)
class Goal:
    """A goal of the project, and what was measured."""

    what: str
    wanted: float
    measured: float | None
    """None if a run that it needs has failed or was not requested."""
    less_is_better: bool = False

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached, None when it wasn't measured."""
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.less_is_better else self.measured >= self.wanted


def medians(samples: Iterable[Sample], image: str) -> Medians:
    """Return the median of each figure for each entrant that ran on the image, in the order of their first runs."""
    runs: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.image == image:
            runs.setdefault(sample.entrant, []).append(sample)
    return {
        entrant: Sample(
            image,
            entrant,
            statistics.median(one.wall for one in found),
            statistics.median(one.user for one in found),
            statistics.median(one.system for one in found),
            int(statistics.median(one.peak for one in found)),
        )
        for entrant, found in runs.items()
    }


def ratio(found: Medians, slower: str, faster: str) -> float | None:
    """Return the ratio of the seconds of two entrants; None if one of them is missing."""
    if slower not in found or faster not in found:
        return None
    return found[slower].wall / found[faster].wall


def limit(found: Medians, ours: str, cores: int) -> float | None:
    """Return the lower bound in seconds for an unpacker: the CPU time of its parts, divided by the number of cores."""
    parts = (INFLATE[ours], HASH, WRITE)
    if any(part not in found for part in parts):
        return None
    return sum(found[part].cpu for part in parts) / cores


def above_limit(found: Medians, ours: str, cores: int) -> float | None:
    """Return the time of an entrant as a multiple of the lower bound; None when either is missing."""
    least = limit(found, ours, cores)
    return found[ours].wall / least if least and ours in found else None


def goals(by_image: dict[str, Medians], peers: Sequence[str], cores: int) -> list[Goal]:
    """Return the goals of the project (for two cores), each with what was measured."""
    application = by_image.get("application", {})
    small = by_image.get("small-files", {})
    rivals = [application[peer] for peer in peers if peer in application and peer != TAR]
    fastest = min(rivals, key=lambda one: one.wall).entrant if rivals else "the fastest peer that checks anything"
    peaks = [
        found[ours].peak / MIB
        for found in by_image.values()
        for ours in (OURS, FAST, *WARM, *ROOTFS, *ARCHIVES.values(), PIPED)
        if ours in found
    ]
    wanted = [Goal(f"application: {TAR} to {FAST}", 2.3, ratio(application, TAR, FAST))]
    wanted += [Goal(f"application: {TAR} to {OURS}", 1.8, ratio(application, TAR, OURS))]
    wanted += [Goal(f"application: {fastest} to {FAST}", 2.5, ratio(application, fastest, FAST))]
    wanted += [Goal(f"small-files: {TAR} to {FAST}", 0.7, ratio(small, TAR, FAST))]
    wanted += [Goal(f"application: {WARM_TAR} to {WARM[1]}", 2.5, ratio(application, WARM_TAR, WARM[1]))]
    for image, ours in (("application", OURS), ("application", FAST), ("twenty-layers", FAST)):
        least = above_limit(by_image.get(image, {}), ours, cores)
        wanted.append(Goal(f"{image}: {ours} to the limit", 1.4, least, less_is_better=True))
    wanted.append(Goal(f"application: {LINK[0]} to {LINK[1]}", 1.02, ratio(application, *LINK), less_is_better=True))
    wanted.append(Goal("largest peak, MiB", 64, max(peaks, default=None), less_is_better=True))
    for ours, registry in zip(ROOTFS, (OURS, FAST), strict=True):
        wanted.append(Goal(f"application: {registry} to {ours}", 1.0, ratio(application, registry, ours)))
        wanted.append(Goal(f"application: {UMOCI} to {ours}", 2.0, ratio(application, UMOCI, ours)))
    for form, ours in ARCHIVES.items():
        wanted.append(Goal(f"application: {OURS} from the registry to {ours}", 1.0, ratio(application, OURS, ours)))
        peer = ARCHIVES_BY_UMOCI[form]
        wanted.append(Goal(f"application: {peer} to {ours}", 2.0, ratio(application, peer, ours)))
    return wanted


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with text in the first column and numbers in the others."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def times(value: float | None) -> str:
    """Return the text of a ratio, or a dash for None."""
    return "-" if value is None else f"{value:.2f}"


def runs_table(found: Medians, entrants: Sequence[str], ours: str, fast: str, title: str, floor: int) -> str:
    """Return a row for each entrant that ran, with ratios to `ours` and `fast`; peaks up to `floor` are hidden."""
    head = (title, "seconds", f"to {ours}", f"to {fast}", "user", "system", "peak MiB")
    rows = [
        (
            name,
            f"{one.wall:.2f}",
            times(ratio(found, name, ours)),
            times(ratio(found, name, fast)),
            f"{one.user:.2f}",
            f"{one.system:.2f}",
            f"{one.peak / MIB:.0f}" if one.peak > floor else f"< {floor / MIB:.0f}",
        )
        for name in entrants
        if (one := found.get(name))
    ]
    return table(head, rows) if rows else ""


def limit_table(found: Medians, cores: int) -> str:
    """Return the parts of the lower bound in CPU seconds, and the times of provision as multiples of it."""
    head = ("limit", "inflate", "hash", "write", f"sum / {cores} cores", "seconds", "to the limit")
    rows = []
    for ours in (OURS, FAST):
        least = limit(found, ours, cores)
        if least is not None:
            parts = [f"{found[part].cpu:.2f}" for part in (INFLATE[ours], HASH, WRITE)]
            taken = f"{found[ours].wall:.2f}" if ours in found else "-"
            rows.append((ours, *parts, f"{least:.2f}", taken, times(above_limit(found, ours, cores))))
    return table(head, rows) if rows else ""


def sync_table(found: Medians) -> str:
    """Return the costs of syncing a directory before it is renamed to DIR, on tmpfs and on a disk."""
    head = ("waiting for the disk", "seconds", "with --no-sync", "cost")
    rows = [
        (where, f"{found[one].wall:.2f}", f"{found[other].wall:.2f}", f"{found[one].wall - found[other].wall:+.2f}")
        for where, one, other in (("tmpfs", WARM[0], NO_SYNC), ("a disk", *ON_DISK))
        if one in found and other in found
    ]
    return table(head, rows) if rows else ""


def digests_table(found: Medians) -> str:
    """Return the costs of the digests of files in the ownership record."""
    with_digests, without = found.get(WARM[1]), found.get(NO_DIGESTS)
    if with_digests is None or without is None:
        return ""
    head = ("digests of files", "seconds", "CPU", "more CPU")
    more = f"{with_digests.cpu / without.cpu - 1:+.0%}"
    rows = [("with", f"{with_digests.wall:.2f}", f"{with_digests.cpu:.2f}", more)]
    return table(head, [*rows, ("without", f"{without.wall:.2f}", f"{without.cpu:.2f}", "")])


def goals_table(wanted: Iterable[Goal]) -> str:
    """Return the table of goals, measurements and verdicts."""
    verdicts = {True: "yes", False: "no", None: "not measured"}
    rows = []
    for goal in wanted:
        bound = f"{'at most' if goal.less_is_better else 'at least'} {goal.wanted:g}"
        rows.append((goal.what, bound, times(goal.measured), verdicts[goal.is_reached]))
    return table(("goal", "wanted", "measured", "reached"), rows)


def report(
    samples: Sequence[Sample],
    titles: Mapping[str, str],
    peers: Sequence[str],
    absent: Mapping[str, str],
    cores: int,
    floor: int,
) -> str:
    """Return all tables: runs and lower bound of each image, the goals, and the reasons for missing figures.

    `titles` has the images by name, `peers` the entrants that the goals compare with. Peaks up to `floor` bytes
    can't be measured and are shown as `< floor`.
    """
    by_image = {image: medians(samples, image) for image in titles}
    parts = []
    for image, title in titles.items():
        found = by_image[image]
        cold = [name for name in found if name in (OURS, FAST, *peers)]
        parts += [
            f"### {title}",
            runs_table(found, cold, OURS, FAST, "cold cache", floor),
            runs_table(found, [*WARM, WARM_TAR], *WARM, "warm cache", floor),
            runs_table(found, [*ROOTFS, ROOTFS_TAR, ROOTFS_PEER], *ROOTFS, "root file system in a tar", floor),
            runs_table(found, [*ARCHIVES.values(), *ARCHIVES_BY_UMOCI.values(), PIPED], OURS, FAST, "archive", floor),
            limit_table(found, cores),
            runs_table(found, [*ONE_CORE, USER, *LINK], FAST, TAR, "other conditions", floor),
            digests_table(found),
            sync_table(found),
        ]
    parts += ["### Goals", goals_table(goals(by_image, peers, cores))]
    parts += ["\n".join(f"- {name}: {reason}" for name, reason in absent.items())]
    return "\n\n".join(part for part in parts if part)
