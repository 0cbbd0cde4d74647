"""Pulls through proxies, and past them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import NetworkError
from provisioner.image.reference import Reference
from provisioner.registry.client import RegistryClient
from tests.support import builders
from tests.support.proxies import Proxy
from tests.support.scripted_registry import ScriptedRegistry, certificate_for
from tests.support.tools import CHECKOUT, clean_environment, provision_command

IMAGE = builders.small()
VARIABLES = [f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("user/x", IMAGE)
    return registry


@pytest.fixture
def proxy(registry: ScriptedRegistry) -> Iterator[Proxy]:
    with Proxy(registry.host) as running:
        yield running


def manifest(host: str = "registry.example:5000", *, insecure: bool = True) -> bytes:
    return RegistryClient(Reference.parse(f"{host}/user/x"), insecure=insecure).manifest("latest").data


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_plain_http_through_a_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, f"http://{proxy.host}")
    if name != "ALL_PROXY":  # https is tried first; it has none
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert manifest() == IMAGE.manifest
    assert "GET http://registry.example:5000/v2/user/x/manifests/latest" in proxy.asked


def test_https_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certificate_for("192.0.2.1", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with ScriptedRegistry(certificate) as registry, Proxy(registry.host) as proxy:
        registry.push("user/x", IMAGE)
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        assert manifest("192.0.2.1:5000", insecure=False) == IMAGE.manifest
        assert set(proxy.asked) == {"CONNECT 192.0.2.1:5000"}


def test_a_proxy_with_socks_looks_up_names(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.host}")
    assert manifest() == IMAGE.manifest
    assert set(proxy.asked) == {"socks registry.example:5000"}


def test_socks_without_its_package(proxy: Proxy, tmp_path: Path) -> None:
    """In a process where it can't be imported: requests looks for it when it is imported itself."""
    (tmp_path / "socks.py").write_text("raise ImportError('not here')")
    env = clean_environment(ALL_PROXY=f"socks5://me:secret@{proxy.host}")
    command, options = provision_command("registry.example/x", tmp_path / "d", cache=tmp_path / "cache", env=env)
    options["env"]["PYTHONPATH"] = f"{tmp_path}:{CHECKOUT}"
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [
        "provision: the proxy to registry.example speaks SOCKS, which needs the package PySocks",
        "  pip install 'provisioner[socks]', or take another proxy",
    ]
    assert proxy.asked == []


def test_hosts_that_need_no_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("NO_PROXY", "other.invalid, registry.invalid")
    with pytest.raises(NetworkError, match=r"registry.invalid:5000 can't be reached"):
        manifest("registry.invalid:5000")
    assert proxy.asked == []


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5h://127.0.0.1:1"])
def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(NetworkError, match=r"^the proxy to registry\.invalid fails: Connection refused$") as caught:
        manifest("registry.invalid", insecure=False)
    assert "ALL_PROXY" in caught.value.hint
