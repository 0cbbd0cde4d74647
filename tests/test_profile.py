"""Profiles: bundled ones and files, their keys, and how they are chosen by os-release."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import UsageError
from provisioner.profile import KEYS, Profile, load_profile, match_profile, profile_names


def test_every_field_has_a_key_and_every_key_a_help_line() -> None:
    assert {key.replace("-", "_") for key in KEYS} == {field.name for field in dataclasses.fields(Profile)} - {"name"}
    assert all(key.help for key in KEYS.values())


def test_the_common_distributions_have_profiles() -> None:
    assert set(profile_names()) >= {"debian", "ubuntu", "alpine", "arch", "fedora"}


@pytest.mark.parametrize("name", profile_names())
def test_every_bundled_profile_loads_and_matches_its_distribution(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.match
    for identity in profile.match:
        assert match_profile(f"ID={identity}\n".encode()) == profile


@pytest.mark.parametrize(
    ("os_release", "name"),
    [
        (b'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n', "debian"),
        (b'ID="ubuntu"\nID_LIKE=debian\n', "ubuntu"),
        (b"ID=raspbian\nID_LIKE=debian\n", "debian"),
        (b"ID='linuxmint'\nID_LIKE=\"ubuntu debian\"\n", "ubuntu"),
        (b"# a comment\n\n  ID=alpine  \nBROKEN='\nnothing\n", "alpine"),
        (b"#ID=alpine\nID=void\n", "default"),
        (b"ID=arch\nID=fedora\n", "fedora"),
        (b"", "default"),
        (b"ID=\nID_LIKE=\n", "default"),
        (b"\xff\xfe\0ID=debian", "default"),
    ],
)
def test_profiles_are_matched_by_os_release(os_release: bytes, name: str) -> None:
    assert match_profile(os_release).name == name


def test_all_keys() -> None:
    text = """
    match = ["x"]
    dns = ["9.9.9.9", "2620:FE::FE"]
    binds = ["/data:/mnt"]
    hostname = "box.example"
    proot-options = ["-k", "6.1"]
    [env]
    LANG = "C.UTF-8"
    EMPTY = ""
    [files]
    "/etc/motd" = "hello"
    """
    assert Profile.parse("mine", text) == Profile(
        name="mine",
        match=("x",),
        dns=("9.9.9.9", "2620:fe::fe"),
        env=("LANG=C.UTF-8", "EMPTY="),
        binds=("/data:/mnt",),
        hostname="box.example",
        proot_options=("-k", "6.1"),
        files=((b"/etc/motd", b"hello"),),
    )
    assert Profile.parse("mine", "") == Profile(name="mine")


def test_a_typo_lists_the_known_keys() -> None:
    with pytest.raises(
        UsageError, match=r"^profile mine has an unknown key 'hostnam'; did you mean hostname\? \(line 1\)$"
    ) as raised:
        Profile.parse("mine", "hostnam = 'x'")
    assert raised.value.hint == f"known keys: {', '.join(KEYS)}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("dns = '9.9.9.9'", "dns: not a list of texts"),
        ("dns = ['nine']", "dns: 'nine' does not appear to be an IPv4 or IPv6 address"),
        ("dns = [9]", "dns: not a list of texts"),
        ("match = {}", "match: not a list"),
        ('binds = ["a\\u0000b"]', "binds: not a list"),
        ("env = ['A=1']", "env: not a table"),
        ("env = { A = 1 }", "env: not a table"),
        ("env = { 'A=B' = '1' }", "'A=B' can't be the name of a variable"),
        ("env = { '' = '1' }", "'' can't be the name of a variable"),
        ("hostname = 'a b'", "hostname: not a host name"),
        ("hostname = ''", "hostname: not a host name"),
        ('hostname = "a\\n"', "hostname: not a host name"),
        ("hostname = 5", "hostname: not a host name"),
        ("files = 'x'", "files: not a table"),
        ("files = { '/x' = 1 }", "files: not a table"),
        *(
            (f'files = {{ "{path}" = "x" }}', "not the absolute path of a file")
            for path in ("etc/x", "/../x", "/a/..", "/", "/etc/", "/etc/.", "/a\\u0000b", "")
        ),
        ("= x", "profile mine is not TOML"),
        ("env = {}\nenv = {}", "profile mine is not TOML"),
    ],
)
def test_mistakes_are_reported_with_the_purpose_of_the_key(text: str, why: str) -> None:
    with pytest.raises(UsageError) as raised:
        Profile.parse("mine", text)
    assert why in raised.value.message
    assert raised.value.message.isprintable()
    assert raised.value.hint


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("hostname = 'x'")
    assert load_profile(str(file)) == Profile(name="mine", hostname="x")


def test_a_file_that_cannot_be_read_lists_the_bundled_profiles(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    (tmp_path / "directory.toml").mkdir()
    for name in ("missing.toml", "binary.toml", "directory.toml", "a\0b.toml"):
        with pytest.raises(UsageError, match="read the profile") as raised:
            load_profile(f"{tmp_path}/{name}")
        assert "there are alpine, " in raised.value.hint
        assert raised.value.message.isprintable()


@pytest.mark.parametrize("name", ["nonsense", "", "default", ".", ".."])
def test_an_unknown_name_lists_the_bundled_profiles(name: str) -> None:
    with pytest.raises(UsageError, match="there is no profile") as raised:
        load_profile(name)
    assert "there are alpine, " in raised.value.hint


VALUES = st.recursive(
    st.one_of(st.text(), st.integers(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)


@given(st.sampled_from(sorted(KEYS)), VALUES)
def test_any_value_is_parsed_or_refused(key: str, value: object) -> None:
    try:
        parsed = KEYS[key].parse(value)
    except ValueError:
        return
    if key == "hostname":
        assert parsed
        assert parsed == value
    elif key == "dns":
        assert [str(ipaddress.ip_address(address)) for address in parsed] == list(parsed)
    else:
        assert isinstance(parsed, tuple)
        assert len(parsed) == len(value)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_a_profile_or_a_usage_error(text: str) -> None:
    try:
        Profile.parse("mine", text)
    except UsageError as error:
        if not error.hint:
            raise


@given(st.binary())
def test_any_os_release_has_a_profile(data: bytes) -> None:
    assert match_profile(data).name
