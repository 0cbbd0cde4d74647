"""Errors: exit statuses, messages and hints."""

from __future__ import annotations

import errno
import os

import pytest

from provisioner import errors
from provisioner.errors import (
    MachineError,
    MalformedImage,
    NetworkError,
    NotAllowed,
    NotFound,
    NotTrusted,
    ProvisionError,
    TargetExists,
    UsageError,
    error_context,
    machine_errors,
)


def test_each_error_has_the_exit_status_that_the_documentation_gives() -> None:
    statuses = {
        ProvisionError: 1,
        UsageError: 2,
        NotFound: 3,
        NotAllowed: 4,
        NetworkError: 5,
        MalformedImage: 6,
        MachineError: 7,
        TargetExists: 8,
        NotTrusted: 8,
    }
    assert {error: error.status for error in statuses} == statuses


def test_error_context_is_put_in_front_of_the_message() -> None:
    with pytest.raises(MalformedImage) as raised, error_context("layer 1"), error_context("etc/x"):
        raise MalformedImage("it is broken", "fix it")
    assert (raised.value.message, raised.value.hint) == ("layer 1: etc/x: it is broken", "fix it")


def test_error_context_lets_other_errors_pass() -> None:
    with pytest.raises(KeyError), error_context("x"):
        raise KeyError("y")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR])
def test_machine_errors_have_a_hint(number: int) -> None:
    with pytest.raises(MachineError) as raised, machine_errors("write x"):
        raise OSError(number, "no")
    assert raised.value.message == f"write x: {os.strerror(number)}"
    assert raised.value.hint
    assert isinstance(raised.value.__cause__, OSError)


def test_an_os_error_without_a_number_keeps_its_text() -> None:
    with pytest.raises(MachineError) as raised, machine_errors("write x"):
        raise OSError("odd")
    assert (raised.value.message, raised.value.hint) == ("write x: odd", "")


def test_machine_errors_lets_ours_pass() -> None:
    with pytest.raises(MalformedImage, match=r"^broken$"), machine_errors("write x"):
        raise MalformedImage("broken")


def test_every_error_is_exported_with_a_status_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProvisionError)]
    kinds.remove(NotTrusted)  # the directory is in the way, too
    assert len({kind.status for kind in kinds}) == len(kinds)
