"""Merges files with a line for each user or group, such as passwd(5), group(5), shadow(5) and subuid(5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_MEMBERS = {"group": 4, "gshadow": 4}
"""Files whose lines have so many fields, the last of which are the members of a group, separated by commas."""


def merge_accounts(name: str, base: bytes | None, disk: bytes, new: bytes) -> tuple[bytes, list[bytes]]:
    """Return the file `name` of /etc with the changes of both sides, and the names of lines that both have changed.

    Of such a line the user's stays, but for the members of a group: those that either side has added or removed. The
    `base` may be unknown: then nothing counts as removed. Lines of the user come first, in their order.
    """
    before = _lines(base or b"")
    ours, theirs = _lines(disk), _lines(new)
    merged: dict[bytes, bytes] = {}
    conflicts = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        was, now, will = before.get(key), ours.get(key), theirs.get(key)
        if now in (was, will):
            line = will
        elif was == will:
            line = now
        elif name in _MEMBERS and (line := _merge_members(_MEMBERS[name], was, now, will)):
            pass
        else:
            line = now
            conflicts.append(key)
        if line is not None:
            merged[key] = line
    return b"".join(line + b"\n" for line in merged.values()), conflicts


COMPANIONS = {"passwd": "shadow", "group": "gshadow"}
"""Files whose users or groups have a line in another one, too."""


def missing_lines(main: bytes, companion: bytes, former: bytes) -> list[bytes]:
    """Return the lines of `former` that `companion` lacks for names which `main` has.

    Such a line goes where only one side has removed a user, and the other side has changed them in one of the files.
    """
    names, there = _lines(main), _lines(companion)
    return [line for key, line in _lines(former).items() if key in names and key not in there]


def find_shared_ids(name: str, text: bytes, known: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the pairs of names that have one number, or common subordinate ids, unless one of both files had it so.

    `text` is the file `name` of /etc after the merge, `known` are the texts that were merged.
    """
    find = {"passwd": _pairs, "group": _pairs, "subuid": _overlaps, "subgid": _overlaps}.get(name)
    if find is None:
        return []
    former = {pair for one in known for pair in find(one)}
    return [pair for pair in find(text) if pair not in former]


def _pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the pairs of names that have one number."""
    found: dict[bytes, bytes] = {}
    pairs = []
    for key, line in _lines(text).items():
        fields = line.split(b":")
        if len(fields) > 2 and (first := found.setdefault(fields[2].lstrip(b"0"), key)) != key:
            pairs.append((first, key))
    return pairs


def _overlaps(text: bytes) -> list[tuple[bytes, bytes]]:
    """Return the pairs of names that have ids in common."""
    ranges = sorted(
        (int(fields[1]), int(fields[1]) + int(fields[2]), fields[0])
        for line in text.splitlines()
        if len(fields := line.split(b":")) == 3 and fields[1].isdigit() and fields[2].isdigit()
    )
    pairs = []
    end, last = 0, b""
    for start, stop, key in ranges:
        if start < end and key != last:
            pairs.append((last, key))
        if stop > end:
            end, last = stop, key
    return pairs


def _lines(text: bytes) -> dict[bytes, bytes]:
    """Return the lines by their first field; of several lines with the same one, the further ones by the whole line."""
    lines: dict[bytes, bytes] = {}
    for line in text.splitlines():
        key = line.split(b":")[0]
        lines[line if key in lines else key] = line
    return lines


def _merge_members(count: int, was: bytes | None, now: bytes | None, will: bytes | None) -> bytes | None:
    """Return the line of a group with the members of both sides; None where more than the members differs."""
    if now is None or will is None:
        return None
    before, ours, theirs = ((line or now).split(b":") for line in (was, now, will))
    if not len(before) == len(ours) == len(theirs) == count or not before[:-1] == ours[:-1] == theirs[:-1]:
        return None
    old, mine, new = (_members(fields[-1]) for fields in ((before if was else [b""]), ours, theirs))
    removed = [member for member in old if member not in mine or member not in new]
    members = [member for member in dict.fromkeys([*mine, *new]) if member not in removed]
    return b":".join([*ours[:-1], b",".join(members)])


def _members(field: bytes) -> Mapping[bytes, None]:
    return dict.fromkeys(filter(None, field.split(b",")))
