"""The limit for an image's size, where the kernel refuses the memory that processes would share."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from provisioner.doctor.children import attempt
from provisioner.errors import MachineError
from provisioner.launch.bpf import Abi, Argument, Rule, program, refuse
from provisioner.layers.budget import ENTRY_SIZE, Budget
from tests.support import builders, libseccomp
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.seccomp_filters import install
from tests.support.tools import provision_command

SHARED_ANONYMOUS = 0x21


def refusing_shared_memory() -> None:
    """Put this process under a filter that refuses anonymous memory which processes share."""
    arch = libseccomp.native_arch()
    numbers = {name: number for name in ("mmap", "mmap2") if (number := libseccomp.number(name, arch)) is not None}
    shared = Argument(3, (SHARED_ANONYMOUS,), SHARED_ANONYMOUS)
    install(program([Rule(refuse(errno.EPERM), ("mmap", "mmap2"), shared)], [Abi(arch, numbers)]))


def test_processes_share_the_counters_where_they_can() -> None:
    budget = Budget(10, parts=2)
    assert budget.is_shared
    assert attempt(lambda: budget.part(1).spend(8)).worked
    with pytest.raises(MachineError):
        budget.spend(3)


def test_what_another_part_has_counted_can_be_taken_back() -> None:
    """A directory that no entry names is counted by a worker, and is found below by the main process."""
    budget = Budget(10, parts=2)
    budget.part(1).spend(8)
    budget.spend(-4)
    budget.part(1).spend(6)
    with pytest.raises(MachineError):
        budget.spend(1)


def test_what_was_unpacked_is_bytes_and_entries_of_all_parts() -> None:
    """What the limit counts for each entry is not in the bytes, which people are shown."""
    budget = Budget(5 * ENTRY_SIZE, parts=2)
    budget.spend(10, entries=2)
    budget.part(1).spend(5, entries=1)
    assert budget.unpacked() == (15, 3)
    budget.spend(0, entries=-1)
    assert budget.unpacked() == (15, 2)
    budget.part(1).reset()
    assert budget.unpacked() == (10, 1)
    with pytest.raises(MachineError):
        budget.spend(0, entries=4)


def test_a_size_that_no_number_holds_is_too_large() -> None:
    budget = Budget()
    budget.spend(2**63 - 2)
    for size in (2, 2**64):
        with pytest.raises(MachineError):
            budget.spend(size)


def test_without_shared_memory_one_process_counts() -> None:
    def count() -> list[object]:
        refusing_shared_memory()
        budget = Budget(10, parts=3)
        budget.spend(8)
        try:
            budget.part(2).spend(3)
        except MachineError as error:
            return [budget.is_shared, error.message]
        return [budget.is_shared, ""]

    assert attempt(count).value == [False, "the image takes more than the 10 bytes that are allowed"]


def test_an_image_is_provisioned_without_shared_memory(place: Path) -> None:
    with ScriptedRegistry() as registry:
        registry.push("image", builders.small())
        command, options = provision_command(f"{registry.host}/image", place / "dir", cache=place / "cache")
        done = subprocess.run(command, **options, preexec_fn=refusing_shared_memory, check=False)
    assert done.returncode == 0, done
    assert (place / "dir/rootfs/bin/sh").exists()
