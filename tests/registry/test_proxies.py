"""Pulls through proxies, and past them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.errors import NetworkError, UsageError
from provisioner.image.reference import Reference
from provisioner.registry.client import RegistryClient
from provisioner.registry.proxies import check_proxy
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
        "  pip install PySocks, or use another proxy",
    ]
    assert proxy.asked == []


def test_hosts_that_need_no_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{proxy.host}")
    monkeypatch.setenv("NO_PROXY", "other.invalid, registry.invalid")
    with pytest.raises(NetworkError, match=r"registry.invalid:5000 can't be reached"):
        manifest("registry.invalid:5000")
    assert proxy.asked == []


MALFORMED = {
    "127.0.0.1:99999": "host or port",
    "http://127.0.0.1:port": "host or port",
    "http://127.0.0.1:-1": "host or port",
    "http://127.0.0.1:0": "port",
    "http://host:1:2": "host or port",
    "http://user:secret": "host or port",
    "http://user:secret@host:port": "host or port",
    "http://user:secret@:80": "no host",
    "http://user:secret@": "host or port",
    "@": "no host",
    "http://[::1": "host or port",
    "[::1]:x": "host or port",
    "http://a..b:1": "host or port",
    "http://.:1": "host or port",
    f"http://{'a' * 300}:1": "host or port",
    "http://": "no host",
    "http:///path": "no host",
    "http:/127.0.0.1:1": "no host",
    "http:127.0.0.1:1": "no host",
    "socks5h://:1": "no host",
    "\\\\127.0.0.1": "no host",
    "http//127.0.0.1:1": "begins with",
    "ftp://127.0.0.1:1": "begins with",
    "httpp://127.0.0.1:1": "begins with",
    "socks9://127.0.0.1:1": "begins with",
    "socks://127.0.0.1:1": "begins with",
    " ": "space",
    "http://a b:1": "space",
    "http://127.0.0.1:1\n": "space",
    "http://\x1b[2J:1": "control",
    "http://\udcff:1": "control",
}


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=MALFORMED[value]) as caught:
        manifest("registry.invalid", insecure=False)
    assert caught.value.message.startswith(f"{name} is not the address of a proxy: ")
    assert caught.value.hint.endswith(f"unset {name}")
    assert "secret" not in caught.value.message + caught.value.hint


def test_the_variable_that_counts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower one wins, and so does the one of the scheme."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "nothing://")
    with pytest.raises(UsageError, match=r"^https_proxy is not"):
        manifest("registry.invalid", insecure=False)
    monkeypatch.setenv("HTTP_PROXY", "nothing://")
    with pytest.raises(UsageError, match=r"^HTTP_PROXY is not"):
        check_proxy("http://registry.invalid/")


def test_a_malformed_variable_is_no_matter_where_it_is_not_used(
    registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "nothing://")
    monkeypatch.setenv("NO_PROXY", ".invalid")
    assert manifest(registry.host) == IMAGE.manifest
    with pytest.raises(NetworkError, match="can't be reached"):
        manifest("registry.invalid")


@given(
    st.sampled_from(["", "http://", "https://", "socks5h://", "HTTP://", "x://", "//", ":"]),
    st.text(st.characters(exclude_characters="\0"), max_size=20),
    st.sampled_from(["", ":0", ":1", ":65535", ":65536", ":x", "/", "/x", "@127.0.0.1:1", "?", "#"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_spelling_is_accepted_or_named(monkeypatch: pytest.MonkeyPatch, scheme: str, text: str, end: str) -> None:
    """Nobody is asked: each address that is accepted is one that requests can use as well."""
    with monkeypatch.context() as patched:
        value = os.fsencode(f"{scheme}{text}{end}".encode(errors="replace").decode())
        patched.setenv("HTTPS_PROXY", os.fsdecode(value))
        try:
            check_proxy("https://registry.invalid/")
        except UsageError as error:
            assert error.message.startswith("HTTPS_PROXY is not")  # noqa: PT017  some are malformed, some are not
            assert error.message.isprintable()  # noqa: PT017
            return
        if os.fsdecode(value):
            adapter = requests.adapters.HTTPAdapter()
            request = requests.Request("GET", "https://registry.invalid/").prepare()
            adapter.get_connection_with_tls_context(request, True, {"https": os.fsdecode(value)})


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_list_of_hosts_without_a_proxy_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        patched.setenv("NO_PROXY", text)
        check_proxy("https://registry.invalid/")
        check_proxy("https://192.0.2.1:5000/")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5h://127.0.0.1:1"])
def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(NetworkError, match=r"^the proxy to registry\.invalid fails: Connection refused$") as caught:
        manifest("registry.invalid", insecure=False)
    assert "ALL_PROXY" in caught.value.hint
