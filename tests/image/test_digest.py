from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.image.digest import Digest, verified_chunks, verify

HELLO = Digest("sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")


def test_of_bytes() -> None:
    assert Digest.of(b"hello") == HELLO
    assert HELLO.short == "2cf24dba5fb0"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_both_registered_algorithms_parse_and_hash(algorithm: str) -> None:
    text = f"{algorithm}:{hashlib.new(algorithm, b'hello').hexdigest()}"
    digest = Digest.parse(text)
    assert str(digest) == text
    verify(b"hello", digest, 5, "it")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha512:" + "a" * 64,
        "sha1:" + "a" * 40,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        " sha256:" + "a" * 64,
        "sha256:" + "٣" * 64,
        "sha256:../../" + "a" * 58,
    ],
)
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(MalformedImage) as caught:
        Digest.parse(text)
    assert repr(text) in caught.value.message


def test_a_long_text_is_not_repeated_whole_nor_raw() -> None:
    with pytest.raises(MalformedImage) as caught:
        Digest.parse("\x1b[31m" + "a" * 10**6)
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("data", "size", "why"),
    [(b"hello", 4, "5 bytes"), (b"hell", 5, "4 bytes"), (b"jello", 5, "digest"), (b"jello", None, "digest")],
)
def test_verify_names_what_is_wrong(data: bytes, size: int | None, why: str) -> None:
    with pytest.raises(MalformedImage, match=f"^the thing .*{why}"):
        verify(data, HELLO, size, "the thing")


def test_chunks_of_unknown_size_are_verified_at_their_end() -> None:
    assert list(verified_chunks([b"he", b"llo"], HELLO, None, "the archive")) == [b"he", b"llo"]
    with pytest.raises(MalformedImage, match="the archive does not match its digest sha256:2cf24dba"):
        list(verified_chunks([b"hello", bytes(10**6)], HELLO, None, "the archive"))


@given(st.binary(max_size=300).flatmap(lambda data: st.tuples(st.just(data), st.integers(0, 302), st.integers(1, 50))))
def test_chunks_pass_only_where_size_and_digest_are_right(case: tuple[bytes, int, int]) -> None:
    data, size, step = case
    chunks = [data[at : at + step] for at in range(0, len(data), step)]
    got: list[bytes] = []
    try:
        got.extend(verified_chunks(chunks, Digest.of(data), size, "blob"))
    except MalformedImage:
        assert size != len(data)
    else:
        assert (size, b"".join(got)) == (len(data), data)
    assert sum(map(len, got)) <= size


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"hell", "ends after 4 of 5"), (b"hello!", "has more than the 5"), (b"jello", "does not match")],
)
def test_chunks_that_lie_are_named(data: bytes, why: str) -> None:
    with pytest.raises(MalformedImage, match=f"^blob {why}"):
        list(verified_chunks([data], HELLO, 5, "blob"))
