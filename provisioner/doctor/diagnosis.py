"""The list of probes, and `diagnose`, which runs each one in a child process with a time limit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from provisioner.container_files import SCRIPT, looks_provisioned
from provisioner.doctor import filesystem, kernel, network, proot, runtimes, termux, tools
from provisioner.doctor.check import Check, Finding, Site, State, no, unknown
from provisioner.doctor.children import Reply, in_children
from provisioner.doctor.importance import with_importance
from provisioner.filesystem.trust import ALL, NOBODY, TrustedDirectories

_SECONDS = 6.0
"""The time limit of a probe, in seconds. Probes of the network have shorter limits of their own."""


@dataclass(frozen=True)
class Probe:
    """A question about this machine."""

    name: str
    check: Callable[[Site], Finding]
    """The function that tries it."""
    essential: bool = False
    """Whether the main job can't work without it."""
    needs_scratch: bool = False
    """Whether it needs a directory to write to."""


PROBES = (
    Probe("directory", filesystem.check_directory, essential=True),
    Probe("file system", filesystem.check_type),
    Probe("symlinks", filesystem.check_symlinks, essential=True, needs_scratch=True),
    Probe("execution", filesystem.check_execution, essential=True, needs_scratch=True),
    Probe("hard links", filesystem.check_hard_links, needs_scratch=True),
    Probe("attributes", filesystem.check_attributes, needs_scratch=True),
    Probe("devices", filesystem.check_devices, needs_scratch=True),
    Probe("owners", filesystem.check_owners, needs_scratch=True),
    Probe("space", filesystem.check_space, essential=True),
    Probe("umask", filesystem.check_umask),
    Probe("chroot", kernel.check_chroot),
    Probe("proot", runtimes.check_proot),
    Probe("proot seccomp", runtimes.check_proot_seccomp),
    Probe("proot limits", termux.check_proot_limits),
    Probe("proot paths", proot.check_proot_paths),
    Probe("ping", proot.check_ping),
    Probe("userns", kernel.check_user_namespaces),
    Probe("unshare", kernel.check_unshare),
    Probe("subuid", kernel.check_subordinate_ids),
    Probe("bwrap", kernel.check_bubblewrap),
    Probe("qemu", runtimes.check_emulators),
    Probe("phantom processes", kernel.check_phantom_processes),
    Probe("python", tools.check_python),
    Probe("gzip", tools.check_gzip),
    Probe("zstd", tools.check_zstd),
    Probe("libmagic", tools.check_libmagic),
    Probe("fakeroot", tools.check_fakeroot),
)
CONTAINER_PROBES = (
    Probe("platform", runtimes.check_platform),
    Probe("proot links", termux.check_proot_links),
    Probe(SCRIPT, runtimes.check_start_script, essential=True),
)
"""Further probes for a directory that provision has made."""
NETWORK_PROBES = (Probe("DNS", network.check_dns), Probe("registry", network.check_registry))


@dataclass(frozen=True)
class Diagnosis:
    """The results of all probes for a directory and the machine."""

    directory: Path
    checks: tuple[Check, ...]

    @property
    def problems(self) -> tuple[Check, ...]:
        """The essential checks that failed, for which the main job can't work here.

        A check without a result doesn't count, nor do those of the network, because there are caches and other
        registries.
        """
        return tuple(check for check in self.checks if check.essential and check.state == State.NO)

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            "works": not self.problems,
            "directory": str(self.directory),
            "checks": [asdict(check) for check in self.checks],
        }


def diagnose(directory: Path, *, offline: bool = False, trust: TrustedDirectories = NOBODY) -> Diagnosis:
    """Find out what works on this machine and in the file system of `directory`, which need not exist yet.

    Takes some seconds at most, and leaves nothing behind. With `offline`, the network probes are left out.
    """
    is_container = looks_provisioned(directory)
    existing = next(path for path in (directory, *directory.parents) if os.path.isdir(path))
    with _scratch_directory(existing) as (scratch, scratch_error):
        probes = [*PROBES, *(CONTAINER_PROBES if is_container else ()), *(() if offline else NETWORK_PROBES)]
        probes = [probe for probe in probes if scratch or not probe.needs_scratch]
        # Those that wait for the network start first, so that the others don't wait for them.
        ordered = sorted(probes, key=lambda probe: probe not in NETWORK_PROBES)
        # The scratch directory is in `existing`, not in `directory`: if `directory` is trusted, it has to be trusted,
        # too.
        site = Site(existing, scratch, scratch_error, ALL if trust.covers(directory) else trust)
        replies = in_children([partial(_run, probe, site) for probe in ordered], _SECONDS)
    checks = {probe.name: _check(probe, reply) for probe, reply in zip(ordered, replies, strict=True)}
    shown = [checks[probe.name] for probe in probes]
    usable = _usable_runtimes(checks)
    if not is_container:
        shown.append(_check_runtime(usable, checks["proot"].fix))
    return Diagnosis(directory, with_importance(shown, usable[0] if usable else ""))


@contextmanager
def _scratch_directory(parent: Path) -> Iterator[tuple[Path | None, str]]:
    """Create an empty directory in `parent`, yield it, and remove it. Yield None and the reason if that is
    impossible."""
    path = parent / f".provision-doctor-{os.urandom(8).hex()}"
    try:  # around mkdir too: a signal may arrive as soon as the directory exists
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            yield None, error.strerror or str(error)
            return
        yield path, ""
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _run(probe: Probe, site: Site) -> dict[str, str]:
    return asdict(probe.check(site))


def _check(probe: Probe, reply: Reply) -> Check:
    """Return the check of a probe's reply. If the probe itself failed, its state is unknown."""
    if not reply.worked:
        return Check.of(probe.name, unknown(f"the probe failed: {reply.reason}"), probe.essential)
    value = reply.value
    return Check.of(probe.name, Finding(State(value["state"]), value["detail"], value["fix"]), probe.essential)


def _usable_runtimes(checks: Mapping[str, Check]) -> list[str]:
    """Return the runtimes for which all necessary checks are ok, in start.sh's order."""
    works = {name for name, check in checks.items() if check.state == State.OK}
    needs = {"chroot": {"chroot", "unshare"}, "proot": {"proot"}, "userns": {"userns", "unshare"}}
    order = runtimes.runtime_order(shows_host=checks["proot paths"].state == State.NO)
    return [name for name in order if needs[name] <= works]


def _check_runtime(usable: Sequence[str], fix: str) -> Check:
    """Return the check that names the runtime which start.sh would choose. If there is none, its fix is `fix`."""
    if usable:
        return Check("runtime", State.OK, f"start.sh uses {usable[0]}; usable: {', '.join(usable)}", essential=True)
    return Check.of("runtime", no("nothing can start a container here", fix), essential=True)
