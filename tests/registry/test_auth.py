from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import NetworkError
from provisioner.registry.auth import Challenge, Tokens

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            HUB,
            Challenge("bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:library/x:pull"),
        ),
        ('Basic realm="Registry Realm"', Challenge("basic", "Registry Realm")),
        ("bearer realm=https://a/token , service=s", Challenge("bearer", "https://a/token", "s")),
        ('Bearer REALM = "https://a/t" , Scope = "b"', Challenge("bearer", "https://a/t", "", "b")),
        (r'Bearer realm="a\"b\\c",service="s, t=u"', Challenge("bearer", r'a"b\c', "s, t=u")),
        ('Basic realm="b", Bearer realm="t",service="s"', Challenge("bearer", "t", "s")),
        ('Bearer realm="t",scope="",service="s", Basic realm="b"', Challenge("bearer", "t", "s")),
        ('Negotiate, Basic realm="b"', Challenge("basic", "b")),
        ('Negotiate YWJj==, Bearer realm="t"', Challenge("bearer", "t")),
        ('Bearer scope="a,b c:d",realm="t",error="invalid_token"', Challenge("bearer", "t", "", "a,b c:d")),
        ("Bearer", None),
        ('Bearer service="s"', None),
        ('realm="t"', None),
        ("", None),
        (",,,=,\"'", None),
    ],
)
def test_challenges(header: str, expected: Challenge | None) -> None:
    assert Challenge.parse(header) == expected


@given(st.text() | st.text(alphabet='aB=", \\:/'))
def test_no_header_breaks_the_parser(header: str) -> None:
    challenge = Challenge.parse(header)
    assert challenge is None or challenge.scheme == challenge.scheme.lower() != ""


@pytest.mark.parametrize("piece", ["a", 'a="', r'a="\"', "a=", 'a="b",', " ", "=", "a "])
def test_a_hostile_header_costs_no_time(piece: str) -> None:
    began = time.process_time()
    Challenge.parse("Bearer " + piece * 65536)
    assert time.process_time() - began < 1


ASKED = Challenge("bearer", "https://a/token", "s", "repository:x:pull")


class Server:
    """Gives `t1`, `t2`… and whatever else a test wants its answers to hold."""

    def __init__(self, **fields: Any) -> None:
        self.count = 0
        self.fields = fields

    def __call__(self, challenge: Challenge) -> dict[str, Any]:
        time.sleep(0.01)
        self.count += 1
        return {"token": f"t{self.count}", **self.fields}


def test_a_token_is_asked_for_once_whatever_the_number_of_threads() -> None:
    server = Server(expires_in=300)
    tokens, got = Tokens(server), []
    threads = [threading.Thread(target=lambda: got.append(tokens.get(ASKED))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["t1"] * 8


def test_each_scope_has_a_token_of_its_own() -> None:
    tokens = Tokens(Server())
    other = Challenge("bearer", "https://a/token", "s", "repository:y:pull")
    assert [tokens.get(ASKED), tokens.get(other), tokens.get(ASKED)] == ["t1", "t2", "t1"]


@pytest.mark.parametrize(
    ("expires_in", "lasts", "ended"),
    [
        (300, 269, 271),
        (None, 53, 55),
        ("300", 53, 55),
        (-5, 53, 55),
        (10**400, 77759, 77761),
    ],
)
def test_a_token_is_renewed_before_it_ends(
    monkeypatch: pytest.MonkeyPatch, expires_in: object, lasts: int, ended: int
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tokens = Tokens(Server(expires_in=expires_in))
    assert tokens.get(ASKED) == "t1"
    now += lasts
    assert tokens.get(ASKED) == "t1"
    now += ended - lasts
    assert tokens.get(ASKED) == "t2"


def test_a_refused_token_is_renewed_once() -> None:
    tokens = Tokens(Server(expires_in=300))
    assert tokens.get(ASKED) == "t1"
    assert [tokens.get(ASKED, refused="t1") for _ in range(3)] == ["t2"] * 3


def test_access_token_is_as_good() -> None:
    assert Tokens(lambda challenge: {"access_token": "a"}).get(ASKED) == "a"
    assert Tokens(lambda challenge: {"token": "", "access_token": "a"}).get(ASKED) == "a"


@pytest.mark.parametrize("token", [None, "", 5, ["x"], "a b", "a\r\nX-Evil: 1", "ü"])
def test_an_answer_without_a_usable_token(token: object) -> None:
    with pytest.raises(NetworkError, match="token server https://a/token gave no token"):
        Tokens(lambda challenge: {"token": token}).get(ASKED)
