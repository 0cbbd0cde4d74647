"""Registries that answer or don't, and proxies."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.doctor import network
from provisioner.doctor.check import Finding, Site, State
from provisioner.doctor.network import check_dns, check_registry
from scripts.loopback_registry import Response
from tests.support.scripted_registry import ScriptedRegistry


def test_a_registry_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_SECONDS", 60.0)
    site = Site(Path("/"), None)
    with ScriptedRegistry() as registry:
        url = f"http://{registry.host}/v2/"
        assert check_registry(site, url) == Finding(State.OK, f"{registry.host} answers")
        assert check_dns(site, url).state == State.OK
        registry.on("/v2/", Response(502))
        assert check_registry(site, url).detail == f"{registry.host} answers with status 502"
    assert check_registry(site, url).state == State.NO


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://joe:secret@127.0.0.1:1/")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for finding in (
        check_registry(Site(Path("/"), None)),
        check_dns(Site(Path("/"), None), "https://x.invalid/"),
    ):
        assert finding.state != State.OK
        assert "127.0.0.1:1" in finding.detail
        assert "secret" not in finding.detail + finding.fix
