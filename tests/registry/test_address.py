"""Where a registry may send us: spellings that parsers read differently, plain HTTP, and names below localhost."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from provisioner.cli import main
from provisioner.errors import NetworkError, ProvisionError
from provisioner.image.reference import Reference
from provisioner.registry.address import Address
from provisioner.registry.authfile import Login
from provisioner.registry.client import RegistryClient
from provisioner.registry.credentials import Credentials
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import Request, ScriptedRegistry, certificate_for, challenge

IMAGE = builders.small()
ME = Login("me", "hunter2")

REFUSED = (
    "http://{spy}\\@{home}/m",
    "http://{home}\\@{spy}/m",
    "http://{spy}\\.{home}/m",
    "http://{home}@{spy}/m",
    "http://user:word@{spy}/m",
    "http://@{spy}/m",
    "http://{home};@{spy}/m",
    "http://{home}%40{spy}/m",
    "http://{spy}%2f@{home}/m",
    "http://{spy}%5c@{home}/m",
    "http://127.0.0.1%00:{port}/m",
    "http:\\\\{spy}\\m",
    "\\\\{spy}\\m",
    "/\\{spy}/m",
    "\\/{spy}/m",
    "http://{home}\t@{spy}/m",
    "h\tttp://{spy}/m",
    "/\t/{spy}/m",
    "http://{spy}\x0b/m",
    "http://{home} @{spy}/m",
    "http://2130706433:{port}/m",
    "http://0x7f.1:{port}/m",
    "http://127.0.0.1.:{port}/m",
    "http://[::1%25lo]:{port}/m",
    "http://\uff11\uff12\uff17.0.0.1:{port}/m",
    "http://127\u30020.0.1:{port}/m",
    "http://{spy}:80/m",
    "http://127.0.0.1:0{port}0/m",
    "ftp://{spy}/m",
    "file:///etc/passwd",
)
"""Addresses that no server needs, and that lead to different places in different parsers, or nowhere."""

ELSEWHERE = ("http://{spy}/m", "//{spy}/m", "HTTP://{spy}/m", "http://localhost:{port}/m", "http://{spy}/../m?a=@b#c")
"""Addresses that lead from loopback to loopback."""

STAYING = ("http://{home}#@{spy}/m", "http://{home}?@{spy}/m", "http:{spy}/m", "/{spy}/m", "?@{spy}")
"""Addresses that only look as if they led elsewhere, and some parsers say so."""

ANYWHERE = ("///{spy}/m", "http:/{spy}/m", "http:///{spy}/m", "http://[::ffff:127.0.0.1]:{port}/m")
"""Addresses that versions of Python's parser read differently."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_for("127.0.0.1", tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=["http", "https"])
def home(request: pytest.FixtureRequest) -> Iterator[ScriptedRegistry]:
    """A registry that wants a password for the image `user/x`."""
    certificate = request.getfixturevalue("certificate") if request.param == "https" else None
    with ScriptedRegistry(certificate) as served:
        served.push("user/x", IMAGE)
        served.on("/v2/.*", _want_password)
        yield served


def _want_password(request: Request) -> Response | None:
    return None if request.headers.get("Authorization") == ME.basic else challenge('Basic realm="x"')


@pytest.fixture
def spy() -> Iterator[ScriptedRegistry]:
    """A server that takes what it gets, and answers everything as a registry would."""
    with ScriptedRegistry() as served:
        served.on(".*", Response(200, IMAGE.manifest, {"Content-Type": IMAGE.media_type}))
        yield served


def spell(template: str, home: ScriptedRegistry, spy: ScriptedRegistry) -> str:
    """An address as it is in a header: as bytes of UTF-8."""
    text = template.format(home=home.host, spy=spy.host, port=spy.host.rpartition(":")[2])
    return text.encode().decode("latin-1")


def assert_no_secret(spy: ScriptedRegistry) -> None:
    for request in spy.requests:
        assert "Authorization" not in request.headers
        assert ME.password not in str((request.path, request.query, request.form, request.headers))


@pytest.mark.parametrize("template", REFUSED + ELSEWHERE + STAYING + ANYWHERE)
def test_no_spelling_of_a_redirect_takes_a_password_elsewhere(
    home: ScriptedRegistry,
    spy: ScriptedRegistry,
    template: str,
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By `provision inspect`, with a login."""
    moved = Response(307, b"", {"Location": spell(template, home, spy)})
    home.on("/v2/user/x/manifests/.*", lambda request: _want_password(request) or moved)
    logins = tmp_path / "auth.json"
    logins.write_text(json.dumps({"auths": {home.host: {"username": "me", "password": ME.password}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(logins))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    status = main(["inspect", "--raw", f"{home.host}/user/x"])
    shown = capsys.readouterr()
    assert home.asked("/v2/user/x/manifests/.*")[-1].headers["Authorization"] == ME.basic
    assert_no_secret(spy)
    assert "word" not in shown.err.replace("password", "")
    if template in REFUSED or home.scheme == "https":
        assert spy.requests == []
    if template in REFUSED:
        assert (status, shown.out) == (5, "")
    if template in ELSEWHERE and home.scheme == "http":
        assert (status, {request.path for request in spy.requests}) == (0, {"/m"})
    if template in STAYING:
        assert spy.requests == []
        assert home.requests[-1].path != "/m"


@pytest.mark.parametrize("template", REFUSED)
def test_no_spelling_of_a_token_server_gets_a_password(
    home: ScriptedRegistry,
    spy: ScriptedRegistry,
    template: str,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    realm = spell(template, home, spy).replace("\\", "\\\\")
    home.on("/v2/.*", challenge(f'Bearer realm="{realm}"'))
    for login in (ME, Login("", "", ME.password)):
        with pytest.raises(NetworkError, match=r"names an address that can't be used|from plain http"):
            client(home.host, login).manifest("latest")
    assert spy.requests == []


def client(host: str, login: Login | None = None, *, insecure: bool = False) -> RegistryClient:
    return RegistryClient(Reference.parse(f"{host}/user/x"), credentials=Credentials((), login), insecure=insecure)


# The parser


def parsed(text: str) -> Address | None:
    with suppress(NetworkError):
        return Address.parse(text)
    return None


@given(
    st.text(alphabet="a.:@\\/?#%[]0127-_;, \t", max_size=20)
    | st.text(max_size=12)
    | st.from_regex(r"[a-z0-9.:@\[\]-]{1,15}(:[0-9]{1,6})?(/.*)?", fullmatch=True)
)
def test_all_parsers_agree_on_an_address_that_is_used(text: str) -> None:
    """With requests, which takes what it connects to from `urllib.parse`, and with http.client."""
    for scheme in ("http", "https"):
        address = parsed(f"{scheme}://{text}")
        if address is None:
            continue
        prepared = requests.Request("GET", address.url).prepare().url or ""
        parameters, _ = requests.adapters._urllib3_request_context(  # type: ignore[attr-defined]
            requests.Request("GET", address.url).prepare(), True, None, None
        )
        assert (parameters["scheme"], parameters["host"]) == (address.scheme, address.host.strip("[]"))
        assert (parameters["port"] or http.client.__dict__[f"{scheme.upper()}_PORT"]) == address.port
        assert Address.parse(prepared).has_origin_of(address)
        assert Address.parse(address.url) == address


@given(st.text(alphabet="h:tp/\\@?#.a1[]%", max_size=20) | st.text(max_size=12))
def test_a_location_leads_to_one_place_or_is_refused(location: str) -> None:
    with suppress(NetworkError):
        target = Address.parse("https://registry.example/v2/x").join(location)
        assert parsed(target.url) == target


def test_queries_are_kept_and_added_to() -> None:
    address = Address.parse("https://Tokens.example:443/token?a=b%2Fc")
    assert address.url == "https://tokens.example/token?a=b%2Fc"
    assert address.with_query({}) == address
    assert address.with_query({"scope": "repository:x:pull"}).url.endswith("?a=b%2Fc&scope=repository%3Ax%3Apull")
    assert Address.parse("http://[::1]").with_query({"a": "b c"}).url == "http://[::1]/?a=b+c"


@pytest.mark.parametrize(
    ("host", "domain", "is_in"),
    [
        ("docker.io", "docker.io", True),
        ("auth.docker.io", "docker.io", True),
        ("gitlab.com", "registry.gitlab.com", True),
        ("auth.gitlab.com", "registry.gitlab.com", False),
        ("com", "registry.gitlab.com", False),
        ("evildocker.io", "docker.io", False),
        ("docker.io.evil.example", "docker.io", False),
        ("tokens.evil.example", "registry.example", False),
        ("10.0.0.2", "10.0.0.1", False),
        ("0.1", "10.0.0.1", False),
    ],
)
def test_which_hosts_are_in_a_registrys_domain(host: str, domain: str, is_in: bool) -> None:
    assert Address.parse(f"https://{host}/").is_in_domain(domain) is is_in


# Plain HTTP

HTTP, HTTPS, LOCAL = "http://far.example:5000", "https://far.example", "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("origin", "target", "may"),
    [
        (HTTP, "https://storage.example/x", True),
        (HTTP, "http://far.example:5000/y", True),
        (HTTP, "http://far.example:9000/y", True),
        (HTTP, "http://storage.example/x", False),
        (HTTP, "http://127.0.0.1:8080/", False),
        (HTTP, "http://10.0.0.1/", False),
        (LOCAL, "http://localhost:9000/", True),
        (LOCAL, "http://[::1]/", True),
        (LOCAL, "http://10.0.0.1/", False),
        (LOCAL, "http://storage.example/x", False),
        (HTTPS, "https://127.0.0.1/", True),
        (HTTPS, "http://far.example/x", False),
    ],
)
def test_where_a_server_may_lead(origin: str, target: str, may: bool) -> None:
    assert Address.parse(origin).may_lead_to(Address.parse(target)) is may


def test_a_plain_registry_redirects_to_no_other_plain_host(names: dict[str, str], spy: ScriptedRegistry) -> None:
    names |= {"far.example": "127.0.0.1", "storage.example": "127.0.0.1"}
    with ScriptedRegistry() as registry:
        port = registry.host.rpartition(":")[2]
        for name in ("storage.example", "127.0.0.1", "localhost"):
            location = f"http://{name}:{spy.host.rpartition(':')[2]}/m"
            registry.on("/v2/user/x/.*", Response(307, b"", {"Location": location}))
            with pytest.raises(NetworkError, match="redirects to another host in plain http") as caught:
                client(f"far.example:{port}", insecure=True).manifest("latest")
            assert "https" in caught.value.hint
        registry.on("/v2/.*", challenge(f'Bearer realm="http://storage.example:{port}/token"'))
        with pytest.raises(NetworkError, match=r"wants a token from plain http of another host, storage\.example:"):
            client(f"far.example:{port}", insecure=True).manifest("latest")
    assert spy.requests == []


def test_a_plain_registry_leads_to_its_own_host_without_a_password_for_another_port(
    names: dict[str, str], spy: ScriptedRegistry
) -> None:
    names["far.example"] = "127.0.0.1"
    with ScriptedRegistry() as registry:
        registry.on("/v2/.*", _want_password)
        location = f"http://far.example:{spy.host.rpartition(':')[2]}/m"
        registry.on("/v2/user/x/.*", Response(307, b"", {"Location": location}))
        found = client(f"far.example:{registry.host.rpartition(':')[2]}", ME, insecure=True).manifest("latest")
        assert found.data == IMAGE.manifest
        assert registry.requests[-1].headers["Authorization"] == ME.basic
    assert_no_secret(spy)


def test_a_plain_registry_leads_to_https_without_a_password(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to https on its own host: the port alone is another server."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with ScriptedRegistry() as registry, ScriptedRegistry(certificate) as storage:
        registry.on("/v2/.*", _want_password)
        registry.on("/v2/user/x/.*", Response(307, b"", {"Location": f"{storage.url}/m"}))
        storage.on("/m", Response(200, IMAGE.manifest, {"Content-Type": IMAGE.media_type}))
        assert client(registry.host, ME).manifest("latest").data == IMAGE.manifest
        assert_no_secret(storage)
        assert len(storage.requests) == 1


def test_what_another_server_asks_for_is_not_the_registrys(spy: ScriptedRegistry) -> None:
    """A redirect's target could ask for a password in the registry's name."""
    with ScriptedRegistry() as registry:
        for path in ("/v2/user/x/.*", "/v2/.*"):
            registry.on(path, Response(307, b"", {"Location": f"{spy.url}/m"}))
            for kind in ('Basic realm="x"', f'Bearer realm="{spy.url}/token"'):
                spy.on(".*", challenge(kind))
                with pytest.raises(ProvisionError, match="not found, or it is private"):
                    client(registry.host, ME).manifest("latest")
    assert spy.asked("/token") == []
    assert_no_secret(spy)


# Names below localhost


@pytest.mark.parametrize("name", ["localhost", "registry.localhost"])
@pytest.mark.parametrize("insecure", [False, True])
def test_a_name_below_localhost_is_loopback_only_where_its_address_is(
    names: dict[str, str], name: str, insecure: bool
) -> None:
    """0.0.0.0 leads to this machine too, but isn't one of its loopback addresses."""
    with ScriptedRegistry() as registry:
        registry.push("user/x", IMAGE)
        host = f"{name}:{registry.host.rpartition(':')[2]}"
        names[name] = "127.0.0.1"
        assert client(host, insecure=insecure).manifest("latest").data == IMAGE.manifest
        asked = len(registry.requests)
        names[name] = "0.0.0.0"
        with pytest.raises(NetworkError, match=f"^{host} can't be reached: it is not on this machine$"):
            client(host, insecure=insecure).manifest("latest")
        assert len(registry.requests) == asked


def test_a_name_below_localhost_elsewhere_is_spoken_to_in_https(
    names: dict[str, str], certificate: tuple[Path, Path]
) -> None:
    names["registry.localhost"] = "0.0.0.0"
    with ScriptedRegistry(certificate) as registry:
        registry.push("user/x", IMAGE)
        host = f"registry.localhost:{registry.host.rpartition(':')[2]}"
        assert client(host, insecure=True).manifest("latest").data == IMAGE.manifest
