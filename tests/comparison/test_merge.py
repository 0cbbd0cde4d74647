"""The table by which an update decides: every cell, and a model of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.comparison.merge import Decision, Side, State, decide
from provisioner.filesystem.kind import Kind

IMAGE, USER, BESIDE, LINES = Side.IMAGE, Side.USER, Side.BESIDE, Side.LINES
PLACES = {"elsewhere": b"usr/lib/x", "etc": b"etc/x", "user": b"home/x/y", "account": b"etc/passwd"}
USERS_PLACES = [b"home/x", b"root/x", b"srv/x", b"opt/x", b"usr/local/x", b"var/lib/x", b"var/www/x"]

# What the base, the disk and the new image have: a letter for each content, - for nothing.
# For each place: whose content is taken, and ! where the user should know.
TABLE = {
    # base disk new: elsewhere, etc, user, account
    "aaa": ("image", "image", "image", "image"),
    "aab": ("image", "image", "image", "image"),
    "aa-": ("image", "image", "image", "image"),
    "aba": ("user", "user", "user", "user"),
    "abb": ("image", "image", "image", "image"),
    "abc": ("image!", "beside!", "user!", "lines"),
    "ab-": ("image!", "user!", "user!", "user!"),
    "a-a": ("user", "user", "user", "user"),
    "a-b": ("user!", "user!", "user!", "user!"),
    "a--": ("image", "image", "image", "image"),
    "-a-": ("user", "user", "user", "user"),
    "-aa": ("image", "image", "image", "image"),
    "-ab": ("image!", "beside!", "user!", "lines"),
    "--a": ("image", "image", "image", "image"),
    "---": ("image", "image", "image", "image"),
}


def state(letter: str, kind: Kind = Kind.FILE, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> State | None:
    return None if letter == "-" else State(kind, "abc".index(letter), mode, owner)


def test_the_table_has_every_cell() -> None:
    """Letters are named in the order in which they appear: other ones mean the same."""
    cells = set()
    for cell in itertools.product("abc-", repeat=3):
        names = dict(zip(dict.fromkeys(letter for letter in cell if letter != "-"), "abc", strict=False))
        cells.add("".join(names.get(letter, "-") for letter in cell))
    assert set(TABLE) == cells


@pytest.mark.parametrize("number", range(len(PLACES)), ids=list(PLACES))
@pytest.mark.parametrize("cell", TABLE)
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK])
def test_content(cell: str, number: int, kind: Kind) -> None:
    path = list(PLACES.values())[number]
    expected = TABLE[cell][number]
    if kind is Kind.SYMLINK and expected == "lines":
        expected = "beside!"
    decision = decide(path, *(state(letter, kind) for letter in cell))
    assert (decision.content.value, decision.is_conflict) == (expected.rstrip("!"), expected.endswith("!"))


@pytest.mark.parametrize("path", USERS_PLACES)
def test_places_of_the_user(path: bytes) -> None:
    assert decide(path, state("a"), state("b"), state("c")).content is USER
    other = path.rpartition(b"/")[0] + b"-other"
    assert decide(other, state("a"), state("b"), state("c")).content is IMAGE


# The kinds of base, disk and new: f for a file, d for a directory, l for a symlink.
TYPES = {
    "ffd": (IMAGE, False),
    "fdf": (USER, False),
    "fdd": (IMAGE, False),
    "fdl": (IMAGE, True),
    "ddd": (IMAGE, False),
    "ddl": (IMAGE, False),
    "dld": (USER, False),
    "dll": (IMAGE, False),
    "dfl": (IMAGE, True),
    "-df": (IMAGE, True),
    "-dd": (IMAGE, False),
    "d-d": (USER, False),
    "d-f": (USER, True),
    "df-": (IMAGE, True),
}


@pytest.mark.parametrize("cell", TYPES)
def test_types(cell: str) -> None:
    """Another type is another content. All directories have the same content."""
    kinds = {"f": Kind.FILE, "d": Kind.DIRECTORY, "l": Kind.SYMLINK}
    sides = [None if letter == "-" else State(kinds[letter], 0, 0o755, (0, 0)) for letter in cell]
    decision = decide(b"usr/x", *sides)
    assert (decision.content, decision.is_conflict) == TYPES[cell]


@pytest.mark.parametrize("place", ["elsewhere", "etc", "user"])
def test_every_cell_of_types_is_one_of_the_table(place: str) -> None:
    """A file, directory, symlink, FIFO, device or socket (which no image has): each is another content."""
    kinds = {"f": Kind.FILE, "d": Kind.DIRECTORY, "l": Kind.SYMLINK, "p": Kind.FIFO, "c": Kind.CHARACTER, "s": None}
    for cell in itertools.product("fdlpcs-", repeat=3):
        sides = [None if letter == "-" else State(kinds[letter], 0, 0o755, (0, 0)) for letter in cell]
        names = dict(zip(dict.fromkeys(letter for letter in cell if letter != "-"), "abc", strict=False))
        expected = TABLE["".join(names.get(letter, "-") for letter in cell)][list(PLACES).index(place)]
        decision = decide(PLACES[place], *sides)
        assert (decision.content.value, decision.is_conflict) == (expected.rstrip("!"), expected.endswith("!")), cell
        if len({*cell}) > 1:
            assert decision.mode is decision.owner is (IMAGE if decision.content is IMAGE else USER), cell


# Numbers for the modes of base, disk and new.
MODES = {"111": (IMAGE, False), "112": (IMAGE, False), "121": (USER, False), "122": (IMAGE, False)}


@pytest.mark.parametrize("path", [b"usr/x", b"etc/x", b"home/x"])
@pytest.mark.parametrize("kind", [Kind.DIRECTORY, Kind.FIFO, Kind.BLOCK, None])
@pytest.mark.parametrize("cell", [*MODES, "123"])
def test_modes_and_owners_of_all_kinds(cell: str, kind: Kind | None, path: bytes) -> None:
    both = USER if path != b"usr/x" else IMAGE
    expected = MODES.get(cell, (both, True))
    decision = decide(path, *(State(kind, 0, int(number), (0, int(number))) for number in cell))
    assert (decision.content, decision.mode, decision.is_conflict) == (IMAGE, *expected)
    assert decision.owner is expected[0]


@pytest.mark.parametrize("content", ["aaa", "aab", "aba"])
@pytest.mark.parametrize("cell", MODES)
def test_mode_and_owner_merge_apart_from_content(cell: str, content: str) -> None:
    modes = [0o600 + int(number) for number in cell]
    sides = [state(letter, mode=mode) for letter, mode in zip(content, modes, strict=True)]
    decision = decide(b"usr/x", *sides)
    assert (decision.mode, decision.is_conflict) == MODES[cell]
    assert decision.owner is IMAGE
    owners = [(int(number), 0) for number in cell]
    sides = [state(letter, owner=owner) for letter, owner in zip(content, owners, strict=True)]
    decision = decide(b"usr/x", *sides)
    assert (decision.owner, decision.is_conflict) == MODES[cell]
    assert decision.content is (USER if content == "aba" else IMAGE)


@pytest.mark.parametrize(("path", "side"), [(b"usr/x", IMAGE), (b"etc/x", USER), (b"home/x", USER)])
def test_modes_that_both_have_changed(path: bytes, side: Side) -> None:
    sides = [state("a", mode=mode, owner=(mode, 0)) for mode in (1, 2, 3)]
    assert decide(path, *sides) == Decision(IMAGE, side, side, is_conflict=True)


STATES = st.none() | st.builds(
    State,
    st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.FIFO]),
    st.integers(0, 2),
    st.sampled_from([0o644, 0o600]),
    st.sampled_from([(0, 0), (1, 1)]),
)


@given(st.sampled_from([*PLACES.values(), *USERS_PLACES]), STATES, STATES, STATES)
def test_what_holds_for_all(path: bytes, base: State | None, disk: State | None, new: State | None) -> None:
    decision = decide(path, base, disk, new)
    was, now, will = (side and side.data for side in (base, disk, new))
    if now == was:  # the user has done nothing
        assert decision.content is IMAGE
    if was == will and now != was:  # the image has done nothing
        assert decision.content is USER
    if decision.content is BESIDE:
        assert path.startswith(b"etc/")
        assert disk is not None
        assert new is not None
    if decision.content is LINES:
        assert path == b"etc/passwd"
    if now != was and will not in (was, now) and decision.content is not LINES:
        assert decision.is_conflict  # nothing of the user's or the image's is left out without a word
    if base == disk:
        assert decision == Decision(IMAGE, IMAGE, IMAGE, is_conflict=False)
    assert decide(path, base, disk, disk).content is IMAGE
