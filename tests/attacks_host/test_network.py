"""The network: only its settings are protected."""

from __future__ import annotations

from tests.attacks_host.protection import protects
from tests.support.hostile import Host


@protects("userns", "chroot")
def test_settings_of_the_network_can_t_be_written(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "network_settings").got is None
