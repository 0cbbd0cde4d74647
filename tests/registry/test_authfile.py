"""Files of credentials as podman and Docker write them, and as nobody should."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MachineError, UsageError
from provisioner.registry.authfile import AuthFile, Login, server_name


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def file(value: object, tmp_path: Path) -> AuthFile:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value, indent=1))
    return AuthFile.read(path)


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": auth("me:pass")}, Login("me", "pass")),
        ({"auth": auth("me:a:b:")}, Login("me", "a:b:")),
        ({"auth": auth("mé:pässwörd 🐎")}, Login("mé", "pässwörd 🐎")),
        ({"auth": auth("me:pass\0\0")}, Login("me", "pass")),
        ({"username": "me", "password": "pass"}, Login("me", "pass")),
        ({"auth": auth("me:pass"), "email": "a@b", "identitytoken": ""}, Login("me", "pass")),
        ({"auth": auth("me:"), "identitytoken": "refresh"}, Login("me", "", "refresh")),
        ({"identitytoken": "refresh"}, Login("", "", "refresh")),
        ({}, None),
        (None, None),
        ({"auth": ""}, None),
        ({"auth": auth("me:")}, None),
    ],
)
def test_entries(tmp_path: Path, entry: object, login: Login | None) -> None:
    assert file({"auths": {"r.example": entry}}, tmp_path).login("r.example") == login


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("docker.io/owner", "docker.io/owner"),
        ("https://R.example/v2/", "r.example"),
        ("http://r.example:5000", "r.example:5000"),
        ("r.example/owner/image", "r.example/owner/image"),
        ("r.example/v1/", "r.example"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_what_a_key_is_for(tmp_path: Path, key: str, name: str) -> None:
    found = file({"auths": {key: {"auth": auth("me:pass")}, "": {}, "no host/x": {}}}, tmp_path)
    assert list(found.keys(name)) == [key]
    assert found.login(name) == Login("me", "pass")
    assert found.login(f"{name}/more") is None


def test_helpers(tmp_path: Path) -> None:
    found = file({"credHelpers": {"https://index.docker.io/v1/": "a", "r.example": "b"}, "credsStore": "c"}, tmp_path)
    assert [found.helper("docker.io"), found.helper("r.example"), found.helper("x.example")] == ["a", "b", ""]
    assert found.store == "c"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n "auths": {,}}', r"config.json is not JSON: .* \(line 2\)"),
        ("[]", "not a JSON object"),
        ('"secret"', "not a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ('{"auths":\n []}'.replace("[]", "[1]"), r"config.json: auths: not an object \(line 1\)"),
        ('{"credHelpers": "secret"}', r"credHelpers: not an object \(line 1\)"),
        ('{"credsStore": {"a": 1}}', "credsStore: not a text"),
        ('{"credHelpers":\n {"r.example": 5}}', r"r.example: not the name of a helper program \(line 2\)"),
        ('{"auths": {\n\n"r.example": "secret"}}', r"r.example: not an object \(line 3\)"),
        ('{"auths": {"r.example": {"auth": "secret!"}}}', r"r.example: auth is not base64 of USER:PASSWORD \(line 1\)"),
        ('{"auths": {"r.example": {"auth": "c2VjcmV0"}}}', "auth is not base64 of USER:PASSWORD"),
        ('{"auths": {"r.example": {"auth": "/w=="}}}', "auth is not base64 of USER:PASSWORD"),
        ('{"auths": {"r.example": {"auth": 5}}}', "auth is not a text"),
        ('{"auths": {"r.example": {"identitytoken": ["secret"]}}}', "identitytoken is not a text"),
    ],
)
def test_malformed_files_are_named_with_line_and_key_and_show_no_secret(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=why) as raised:
        _looked_up(path)
    assert "secret" not in raised.value.message
    assert raised.value.message.isprintable()
    assert raised.value.hint


def _looked_up(path: Path) -> None:
    found = AuthFile.read(path)
    found.helper("r.example")
    found.login("r.example")


def test_what_is_wrong_for_others_does_not_matter(tmp_path: Path) -> None:
    found = file({"auths": {"x.example": {"auth": 5}, "r.example": {"auth": auth("me:pass")}}}, tmp_path)
    assert found.login("r.example") == Login("me", "pass")


@pytest.mark.parametrize("content", [None, b"", b" \n", b"{}", b"\xef\xbb\xbf{}", b'{"auths": null}'])
def test_nothing_in_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    assert AuthFile.read(path).login("r.example") is None
    assert AuthFile.read(path / "below a file").login("r.example") is None


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="read the credentials in"):
        AuthFile.read(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(auths=json_values, entry=json_values, helpers=json_values, store=json_values)
def test_hostile_files(
    tmp_path_factory: pytest.TempPathFactory, auths: object, entry: object, helpers: object, store: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    if isinstance(auths, dict):
        auths = {**auths, "r.example": entry}
    path.write_text(json.dumps({"auths": auths, "credHelpers": helpers, "credsStore": store}))
    try:
        found = AuthFile.read(path)
        found.login("r.example")
        found.helper("r.example")
        assert isinstance(found.store, str)
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017  most are wrong, some are not


@given(st.binary(max_size=200))
def test_files_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(data)
    try:
        AuthFile.read(path).login("r.example")
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017  most are wrong, some are not


def test_other_entries_are_kept(tmp_path: Path) -> None:
    value = {"auths": {"x": {"auth": "eA=="}, "R.example": {"auth": "b2xk"}}, "HttpHeaders": {"a": "b"}, "é": 1}
    found = file(value, tmp_path)
    found.with_entry("r.example", {"auth": auth("me:pass")}).save()
    written = json.loads(found.path.read_text())
    assert written == {**value, "auths": {"x": {"auth": "eA=="}, "r.example": {"auth": auth("me:pass")}}}
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o600
    AuthFile.read(found.path).with_entry("r.example", None).save()
    assert json.loads(found.path.read_text()) == {**value, "auths": {"x": {"auth": "eA=="}}}


def test_a_login_shows_no_secret() -> None:
    login = Login("me", "hunter2", "refresh")
    assert "hunter2" not in repr(login)
    assert "refresh" not in repr(login)
    assert login.redact(f"hunter2 {login.basic} refresh me") == "… Basic … … me"


def test_docker_hub_has_a_name_of_its_own() -> None:
    assert server_name("docker.io") == "https://index.docker.io/v1/"
    assert server_name("r.example") == "r.example"
