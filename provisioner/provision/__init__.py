"""The main job: create a directory that runs from the image of a source, or use the one that is there.

`plan` is what is asked for, and what is returned; `creation` makes a new directory, `reuse` uses the one that is there.
Neither is imported before it is needed: the registry is asked first, and answers while `creation` is imported.
May import all rooms above maintenance.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from provisioner.container.existing import existing_record, record_in
from provisioner.container.ids import read_ids_of
from provisioner.container.running import stop_or_refuse
from provisioner.container.staging import MAKE, Staging
from provisioner.errors import TargetExists, machine_errors
from provisioner.profile import load_profile
from provisioner.provision.plan import Completion, Outcome, Plan
from provisioner.sources import Source
from provisioner.sources.lazy import LocalImages
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.progress import Console
from provisioner.threads import importing_in_background

__all__ = ["Completion", "Outcome", "Plan", "provision"]


def provision(plan: Plan, source: Source, console: Console, complete: Completion = lambda new: "") -> Outcome:
    """Create `plan.directory` from the image of `source`, unless it contains this image already.

    Raises ProvisionError, and what `complete` raises. The directory then doesn't exist, or is as it was before.
    """
    if plan.profile:
        load_profile(plan.profile)  # a mistake in it is reported before anything is asked for
    found = existing_record(plan.directory, plan.trust)  # this refuses a foreign one before Staging creates anything
    action = "replace" if found and plan.force else MAKE
    with Staging(plan.directory, plan.trust, console.step if plan.waits else None, action=action) as staging:
        existing = record_in(staging.parent, plan.directory, plan.trust)  # once more: now no other run can change it
        if existing and not plan.force:
            from provisioner.provision.reuse import reuse

            return reuse(plan, existing, source, console)
        if existing:
            _check_replaceable(plan)
            complete = _stopping(plan, complete)
        with _imported_while_asking(source):
            resolved_image = source.image(plan.platform)
        from provisioner.provision.creation import create

        for line in resolved_image.remarks:
            console.step(line)
        return create(plan, source, resolved_image, staging, console, complete)


def _imported_while_asking(source: Source) -> AbstractContextManager[None]:
    """Import `creation` while a registry answers. What reads files is busy itself, and imports what that needs."""
    if isinstance(source, LocalImages):
        return nullcontext()
    return importing_in_background("provisioner.provision.creation")


def _check_replaceable(plan: Plan) -> None:
    """Raise TargetExists where the directory can't be replaced, as while something runs from it that is not to end."""
    _check_removable(plan.directory)
    if not plan.stop_running:
        stop_or_refuse(plan.directory, stop=False)


def _stopping(plan: Plan, complete: Completion) -> Completion:
    """Return a function that calls `complete`, and then stops what runs from the directory, if that is asked for.

    That happens late, since the image may turn out to be missing. If it isn't asked for, TargetExists is raised where a
    program was started meanwhile.
    """

    def stop(new: int) -> str:
        name = complete(new)
        stop_or_refuse(plan.directory, stop=plan.stop_running)
        return name

    return stop


def _check_removable(directory: Path) -> None:
    """Raise TargetExists where files of a directory belong to subordinate ids, so that only those can remove it."""
    with machine_errors(f"look at {printable(str(directory))}"):
        is_started_with_many = read_ids_of(directory).first is not None
    if is_started_with_many and os.geteuid() != 0:
        shown = shell_word(str(directory))
        what = f"files in {printable(str(directory))} belong to subordinate ids"
        raise TargetExists(what, f"remove it first: provision remove {shown}")
