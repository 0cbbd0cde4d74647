"""Which checks matter to this user: a runtime that fails is harmless if start.sh uses another one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from provisioner.doctor.check import Check, State

_RUNTIMES = {
    "chroot": ("chroot",),
    "proot": ("proot",),
    "proot seccomp": ("proot",),
    "proot limits": ("proot",),
    "proot paths": ("proot",),
    "userns": ("userns",),
    "unshare": ("chroot", "userns"),
}
"""By the name of a check, the runtimes that need it."""
_MINOR = ("attributes", "ping", "subuid", "bwrap", "qemu", "gzip", "libmagic", "fakeroot")
"""Checks of features that few containers need, or without which provision is only slower."""
_ROOT_ONLY = ("devices", "owners")
"""Checks that only root can pass. start.sh works without them."""


def with_importance(checks: Sequence[Check], runtime: str) -> tuple[Check, ...]:
    """Return the checks, with `is_harmless` set for those that failed and need no action.

    `runtime` is the one that start.sh would choose. If it is empty, none works, and all failures matter.
    """
    return tuple(replace(check, is_harmless=_is_harmless(check, runtime)) for check in checks)


def _is_harmless(check: Check, runtime: str) -> bool:
    if check.state == State.OK or check.essential:
        return False
    if runtime and check.name in _RUNTIMES:
        return runtime not in _RUNTIMES[check.name]
    return check.name in _MINOR or (check.name in _ROOT_ONLY and os.geteuid() != 0)


def by_importance(checks: Sequence[Check]) -> list[Check]:
    """Return the checks in the order in which users need them.

    The order: failures of essential checks, other failures, unknown results, the runtime, successful checks, harmless
    failures.
    """
    return sorted(checks, key=_rank)


def _rank(check: Check) -> int:
    if check.is_harmless:
        return 5
    if check.state == State.NO:
        return 0 if check.essential else 1
    if check.state == State.UNKNOWN:
        return 2
    return 3 if check.name == "runtime" else 4
