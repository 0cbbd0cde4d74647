"""Lock files: what is written, how it differs, and what is said of ones that are wrong."""

from __future__ import annotations

import datetime
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import NotFound, UsageError
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.lockfile import Lock, format_locks, parse_locks
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform
from tests.support import builders

NOW = datetime.datetime(2026, 1, 31, 12, 0, 0, 999, tzinfo=datetime.UTC)
AMD, ARM = builders.small(on="linux/amd64"), builders.small(on="linux/arm64/v8", run={"User": "arm"})
INDEX = builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM), ("linux/amd64", ARM), ("", AMD)])
REFERENCE = "r.example/x:1"
TEXT = f"""\
# What an image was when it was locked; `provision --locked` gets exactly that.
format = 1
reference = "r.example/x:1"
locked = 2026-01-31T12:00:00Z
index = "{builders.digest_of(INDEX)}"

[manifests]
"linux/amd64" = "{builders.digest_of(AMD.manifest)}"
"linux/arm64/v8" = "{builders.digest_of(ARM.manifest)}"

[layers]
"linux/amd64" = [
    "{builders.digest_of(AMD.layers[0].blob)}",
    "{builders.digest_of(AMD.layers[1].blob)}",
]
"""


def image(made: builders.Image, index: bytes | None = INDEX) -> Image:
    return Image.from_documents(made.manifest, made.config, Digest.of(index) if index else None, None)


def locked(made: builders.Image = AMD, now: datetime.datetime = NOW) -> Lock:
    return Lock.of(REFERENCE, image(made), Index.from_json(INDEX), now)


def test_it_is_small_readable_and_read_again() -> None:
    assert format_locks([locked()]) == TEXT
    assert Lock.parse(TEXT, "f") == locked()
    assert locked().digest == Digest.of(INDEX)


def test_an_image_without_an_index() -> None:
    lock = Lock.of(REFERENCE, image(AMD, None), None, NOW)
    assert lock.manifests == {Platform("linux", "amd64"): Digest.of(AMD.manifest)}
    assert "index" not in format_locks([lock])
    assert lock.digest == Digest.of(AMD.manifest)
    assert Lock.parse(format_locks([lock]), "f") == lock


def test_what_is_new_is_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    locked().write(path)
    assert path.read_text() == TEXT
    later = NOW + datetime.timedelta(days=1)
    locked(now=later).write(path)
    assert path.read_text() == TEXT  # the same image: not even the time
    locked(ARM, later).write(path)  # another platform of the same image
    before, after = TEXT.splitlines(), path.read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 4  # its name, two layers, the end of the list
    Lock.of(REFERENCE, image(AMD, None), None, later).write(path)
    assert "2026-02-01T12:00:00Z" in path.read_text()
    assert os.listdir(tmp_path) == ["lock"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_no_lock_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff")
    locked().write(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == TEXT


def test_the_best_of_what_is_locked() -> None:
    digests = {platform: Digest.of(platform.encode()) for platform in ("linux/arm/v5", "linux/arm/v6", "linux/arm/v7")}
    manifests = {Platform(*platform.split("/")): digest for platform, digest in digests.items()}
    lock = replace(locked(), manifests=manifests)
    assert lock.manifest(Platform("linux", "arm", "v6"))[1] == digests["linux/arm/v6"]
    with pytest.raises(NotFound, match=r"the lock has nothing for linux/s390x; it has linux/arm/v5, "):
        lock.manifest(Platform("linux", "s390x"))


def test_the_lock_of_another_image(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(TEXT)
    assert Lock.read(tmp_path / "lock", REFERENCE) == locked()
    with pytest.raises(UsageError, match=r"lock is the lock of r\.example/x:1, not of r\.example/x:2"):
        Lock.read(tmp_path / "lock", "r.example/x:2")
    with pytest.raises(UsageError, match="none: No such file"):
        Lock.read(tmp_path / "none", REFERENCE)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 1", "format = 2", "f: format: another format than 1"),
        ("format = 1", "format = true", "f: format: another format"),
        ("format = 1\n", "", "f: format is missing"),
        ("index = ", "indx = ", "f has an unknown key 'indx'; did you mean index? (line 5)"),
        ('reference = "r.example/x:1"', "reference = 1", "f: reference: not a text (line 3)"),
        ('"r.example/x:1"', '"R Example"', "f: reference: 'R Example' is not an image reference"),
        ("2026-01-31T12:00:00Z", "2026-01-31", "f: locked: not a time such as 2026-01-31T12:00:00Z (line 4)"),
        ("2026-01-31T12:00:00Z", "'now'", "f: locked: not a time"),
        ("2026-01-31T12:00:00Z", "2026-13-31T12:00:00Z", "f is not TOML: "),
        ('index = "sha256:', 'index = "md5:', "f: index: 'md5:"),
        (f'"{builders.digest_of(ARM.manifest)}"', "5", "f: manifests: '5' is not a sha256 or sha512 digest (line 7)"),
        ('"linux/amd64" = "', '"linux" = "', "f: manifests: 'linux' is not a platform such as linux/arm64 (line 7)"),
        ('"linux/amd64" = "', '"linux/\\u001b" = "', r"f: manifests: 'linux/\x1b' is not a platform"),
        ("[manifests]\n", "[manifest]\n", "f has an unknown key 'manifest'; did you mean manifests? (line 7)"),
        ("[layers]\n", "[layers]\n'linux/386' = 'x'\n", "f: layers: not a list of texts (line 11)"),
        ("[manifests]\n", "<<<<<<< HEAD\n[manifests]\n", "f is not TOML: "),
    ],
)
def test_mistakes_are_named_with_line_and_key(old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(UsageError) as raised:
        Lock.parse(TEXT.replace(old, new, 1), "f")
    assert raised.value.message.startswith(says)
    assert raised.value.message.isprintable()
    assert raised.value.hint


@given(st.text() | st.tuples(st.integers(0, len(TEXT)), st.text(max_size=5)).map(lambda at: _spoilt(*at)))
def test_any_text_is_a_lock_or_a_usage_error(text: str) -> None:
    try:
        Lock.parse(text, "f").to_toml()
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017  most are wrong, some are not


def _spoilt(at: int, by: str) -> str:
    return TEXT[:at] + by + TEXT[at + len(by) :]


def other() -> Lock:
    return Lock.of("r.example/other:2", image(ARM, None), None, NOW)


def test_a_file_has_the_locks_of_several_images(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for lock in (locked(), other(), locked()):
        lock.write(path)
    assert parse_locks(path.read_text(), "f") == [locked(), other()]
    assert Lock.read(path, REFERENCE) == locked()
    assert Lock.read(path, "r.example/other:2") == other()
    tomllib.loads(path.read_text())
    with pytest.raises(UsageError, match=r"the locks of r[.]example/x:1, r[.]example/other:2, not of"):
        Lock.read(path, "r.example/x:2")
    with pytest.raises(UsageError, match=r"several images: r[.]example/x:1, r[.]example/other:2"):
        Lock.read(path, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("format = 1\nimage = 5\n", "image: not a list of tables"),
        ("format = 1\nimage = []\n", "image: not a list of tables"),
        ("format = 1\n[[image]]\n", "reference is missing"),
        ("[[image]]\n", "format is missing"),
        ('format = 1\nreference = "r.example/x:1"\n[[image]]\n', "reference is outside of"),
        ("format = 1\n[[image]]\nformat = 1\n", "unknown key 'format'"),
        ("format = 1\n[[image]]\n[[image.image]]\n", "unknown key 'image'"),
        ("format = 1\n[[image]]\nreference = 5\n", "reference: not a text"),
    ],
)
def test_a_file_of_several_that_is_wrong_is_told(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_locks(text, "f")
