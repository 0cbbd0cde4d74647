"""What this machine can do for provision, found out by trying: probes, each in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from provisioner.container.record import FOLDER
from provisioner.doctor import filesystem, kernel, network, runtimes, tools
from provisioner.doctor.check import Check, Finding, Site, State, no, unknown
from provisioner.doctor.children import Reply, in_children

_SECONDS = 6.0
"""What a probe may take. Those that wait for a network have limits of their own below it."""


@dataclass(frozen=True)
class Probe:
    """A question by its name, and the function that answers it.

    Without what is `essential` the main job can't work. What is `written` needs a directory to write to.
    """

    name: str
    find: Callable[[Site], Finding]
    essential: bool = False
    written: bool = False


PROBES = (
    Probe("directory", filesystem.directory, essential=True),
    Probe("file system", filesystem.file_system),
    Probe("symlinks", filesystem.symlinks, essential=True, written=True),
    Probe("execution", filesystem.execution, essential=True, written=True),
    Probe("hard links", filesystem.hard_links, written=True),
    Probe("attributes", filesystem.attributes, written=True),
    Probe("devices", filesystem.devices, written=True),
    Probe("owners", filesystem.owners, written=True),
    Probe("space", filesystem.space, essential=True),
    Probe("umask", filesystem.mask),
    Probe("chroot", kernel.mounting),
    Probe("proot", runtimes.proot),
    Probe("proot seccomp", runtimes.proot_seccomp),
    Probe("userns", kernel.user_namespaces),
    Probe("unshare", kernel.unshare),
    Probe("subuid", kernel.subordinate_ids),
    Probe("bwrap", kernel.bubblewrap),
    Probe("qemu", runtimes.emulators),
    Probe("phantom processes", kernel.phantom_processes),
    Probe("python", tools.python),
    Probe("gzip", tools.gzip),
    Probe("zstd", tools.zstd),
    Probe("libmagic", tools.libmagic),
    Probe("fakeroot", tools.fakeroot),
)
OF_A_CONTAINER = (Probe("platform", runtimes.platform), Probe("start.sh", runtimes.start_script, essential=True))
"""Asked of a directory that provision has made."""
OF_THE_NETWORK = (Probe("DNS", network.names), Probe("registry", network.registry))


@dataclass(frozen=True)
class Diagnosis:
    """All that was found out about a directory and the machine."""

    directory: Path
    checks: tuple[Check, ...]

    @property
    def hindrances(self) -> tuple[Check, ...]:
        """Why the main job can't work here. A network that is away now is none: there are caches, and other registries.

        What can't be told is not held against the machine.
        """
        return tuple(check for check in self.checks if check.essential and check.state == State.NO)

    def to_json(self) -> dict[str, object]:
        """The diagnosis as `--json` prints it."""
        return {
            "works": not self.hindrances,
            "directory": str(self.directory),
            "checks": [asdict(check) for check in self.checks],
        }


def diagnose(directory: Path, *, offline: bool = False) -> Diagnosis:
    """Find out what works in the file system of `directory`, which may be yet to be made, and on this machine.

    It takes a few seconds at most, and leaves nothing behind.
    """
    is_container = os.path.isdir(directory / FOLDER)
    existing = next(place for place in (directory, *directory.parents) if os.path.isdir(place))
    with _scratch(existing) as (scratch, why):
        probes = [*PROBES, *(OF_A_CONTAINER if is_container else ()), *(() if offline else OF_THE_NETWORK)]
        probes = [probe for probe in probes if scratch or not probe.written]
        # Those that wait for the network begin first, so that the others don't wait for them.
        eager = sorted(probes, key=lambda probe: probe not in OF_THE_NETWORK)
        site = Site(existing, scratch, why)
        replies = in_children([partial(_answer, probe, site) for probe in eager], _SECONDS)
    checks = {probe.name: _check(probe, reply) for probe, reply in zip(eager, replies, strict=True)}
    found = [checks[probe.name] for probe in probes]
    return Diagnosis(directory, tuple(found if is_container else [*found, _runtime(checks)]))


@contextmanager
def _scratch(place: Path) -> Iterator[tuple[Path | None, str]]:
    """An empty directory for probes in `place`, or why there can be none."""
    path = place / f".provision-doctor-{os.urandom(8).hex()}"
    try:  # from the first moment: a signal may come as soon as it is made
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            yield None, error.strerror or str(error)
            return
        yield path, ""
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _answer(probe: Probe, site: Site) -> dict[str, str]:
    return asdict(probe.find(site))


def _check(probe: Probe, reply: Reply) -> Check:
    """What a probe's process has found; a probe that broke tells nothing of the machine."""
    if not reply.worked:
        return Check.of(probe.name, unknown(f"can't be told: {reply.why}"), probe.essential)
    found = reply.value
    return Check.of(probe.name, Finding(State(found["state"]), found["detail"], found["mend"]), probe.essential)


def _runtime(checks: Mapping[str, Check]) -> Check:
    """What start.sh would take here, in its order."""
    works = {name for name, check in checks.items() if check.state == State.OK}
    needs = {"chroot": {"chroot", "unshare"}, "proot": {"proot"}, "userns": {"userns", "unshare"}}
    usable = [name for name, parts in needs.items() if parts <= works]
    if usable:
        return Check("runtime", State.OK, f"start.sh takes {usable[0]}; usable: {', '.join(usable)}", essential=True)
    return Check.of("runtime", no("nothing can start a container here", checks["proot"].mend), essential=True)
