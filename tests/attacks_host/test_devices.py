"""Devices of the host."""

from __future__ import annotations

from tests.attacks_host.protection import protects
from tests.support.containers import ROOTS_USERNS
from tests.support.hostile import Host


@protects("userns", "chroot")
def test_no_disk_can_be_reached_by_mknod(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "device_made_inside").got is None


@protects("userns", "chroot")
def test_a_disk_s_node_of_an_image_can_t_be_opened(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "device_of_the_image").got is None


@protects("chroot", ROOTS_USERNS)
def test_dev_has_no_device_of_the_host(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "devices_in_dev").got is None
