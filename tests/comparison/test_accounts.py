"""Files with a line for each user or group, merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from provisioner.comparison.accounts import find_shared_ids, merge_accounts, missing_lines

BASE = b"root:x:0:\nadm:x:4:\naudio:x:29:\ngone:x:40:\nold:x:50:\n"

NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
FILES = st.dictionaries(NAMES, st.integers(0, 3)).map(
    lambda lines: b"".join(b"%s:x:%d:/:\n" % line for line in lines.items())
)


def test_lines_of_both_sides() -> None:
    disk = BASE.replace(b"old:x:50:\n", b"") + b"mine:x:1000:\n"
    new = BASE.replace(b"gone:x:40:\n", b"") + b"daemon:x:60:\n"
    merged, conflicts = merge_accounts("group", BASE, disk, new)
    assert merged == b"root:x:0:\nadm:x:4:\naudio:x:29:\nmine:x:1000:\ndaemon:x:60:\n"
    assert conflicts == []


def test_members_of_a_group_are_those_of_both() -> None:
    base = b"audio:x:29:a,b,c\n"
    merged, conflicts = merge_accounts("group", base, b"audio:x:29:a,c,me\n", b"audio:x:29:a,b,pulse\n")
    assert merged == b"audio:x:29:a,me,pulse\n"
    assert conflicts == []


def test_a_line_that_both_have_changed_is_the_users() -> None:
    merged, conflicts = merge_accounts(
        "passwd", b"web:x:33:33::/:/bin/sh\n", b"web:x:33:33::/home/web:/bin/sh\n", b"web:x:33:33::/srv:/bin/false\n"
    )
    assert merged == b"web:x:33:33::/home/web:/bin/sh\n"
    assert conflicts == [b"web"]


def test_without_a_base_nothing_was_removed() -> None:
    merged, conflicts = merge_accounts("passwd", None, b"a:1\nmine:2\n", b"a:1\nnew:3\n")
    assert merged == b"a:1\nmine:2\nnew:3\n"
    assert conflicts == []


def test_odd_lines_stay() -> None:
    odd = b"# comment\n\n+::::::\nuser:100000:65536\nuser:300000:65536\nno newline"
    merged, conflicts = merge_accounts("subuid", odd, odd + b"\n\xff:1:2", odd)
    assert merged == odd + b"\n\xff:1:2\n"
    assert conflicts == []


def test_numbers_that_two_names_have() -> None:
    disk, new = b"a:x:1:\nmine:x:999:\n", b"a:x:1:\nb:x:999:\nc:x:1:\n"
    merged, _ = merge_accounts("group", b"a:x:1:\n", disk, new)
    assert find_shared_ids("group", merged, (disk, new)) == [(b"mine", b"b")]
    assert find_shared_ids("shadow", merged, (disk, new)) == []


def test_subordinate_ids_that_two_names_have() -> None:
    disk, new = b"mine:100000:65536\nold:1:5\nolder:3:1\n", b"new:165535:10\nother:165545:1\nold:1:5\nolder:3:1\n"
    merged, _ = merge_accounts("subuid", b"old:1:5\nolder:3:1\n", disk, new)
    assert find_shared_ids("subuid", merged, (disk, new)) == [(b"mine", b"new")]
    assert find_shared_ids("subgid", b"odd\na:1:x\na:1:2\na:1:2\n", ()) == []


def test_lines_that_a_name_needs_in_two_files() -> None:
    assert missing_lines(b"a:x:1:\nb:x:2:\n", b"a:!:\n", b"a:*:\nb:*:\nc:*:\n") == [b"b:*:"]


@given(FILES, FILES, FILES)
def test_it_is_a_three_way_merge(base: bytes, disk: bytes, new: bytes) -> None:
    assert merge_accounts("passwd", base, base, new)[0].splitlines() == sorted(
        new.splitlines(), key=lambda line: merge_accounts("passwd", base, base, new)[0].index(line)
    )
    assert set(merge_accounts("passwd", base, disk, base)[0].splitlines()) == set(disk.splitlines())
    merged, conflicts = merge_accounts("passwd", base, disk, new)
    assert {line.split(b":")[0] for line in merged.splitlines()} <= {b"a", b"b", b"c", b"d"}
    for line in merged.splitlines():
        assert line in disk.splitlines() + new.splitlines()
    assert set(conflicts) <= {line.split(b":")[0] for line in base.splitlines() + disk.splitlines() + new.splitlines()}
