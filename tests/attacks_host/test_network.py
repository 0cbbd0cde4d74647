"""The network: only its settings are protected, and docs/security.md says so."""

from __future__ import annotations

import pytest

from tests.attacks_host.protection import protects
from tests.support.containers import RUNTIMES
from tests.support.hostile import USERS, Host


@protects("userns", "chroot")
def test_settings_of_the_network_can_t_be_written(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "network_settings").got is None


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_abstract_sockets_of_the_host_can_be_reached(host: Host, runtime: str, user: str) -> None:
    """No row of the page may say "yes" for the network while this is so."""
    outcome = host.outcome(runtime, user, "abstract_socket")
    assert outcome.got is not None, outcome.why
