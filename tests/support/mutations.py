"""Seeds for fuzz.py: valid and hostile archives; and mutations of them."""

from __future__ import annotations

import random
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support.archives import END, Member, pax, raw, special, tar
from tests.support.attacks import attacks

SEED_SIZE = 1 << 15
NAMES = (
    b"a", b"b", b"d", b"d/x", b"d/e/f", b"out", b"out/canary", b"out/directory", b"/etc/passwd", b"./a", b"a/", b"d/",
    b"l/x", b"l", b".wh.a", b".wh.d", b".wh.l", b".wh..wh..opq", b"d/.wh.x", b"d/.wh..wh..opq", b"l/.wh..wh..opq",
    b"out/.wh.canary", b"out/.wh..wh..opq", b".wh..wh.plnk/x", b"\xff\xfe", b"a\nb", b"n" * 255, b"d/" * 20 + b"f",
)  # fmt: skip
BAD_NAMES = (
    b"../outside/canary", b"./", b".", b"..", b"", b"d/../x", b".wh..", b".wh.", b"n" * 256, b"/", b"//", b"x/.wh.d/y",
    b"out/../../canary", b"a\0b", b"d/" * 9000,
)  # fmt: skip
NUMBERS = (
    b"", b"0", b"1", b"7", b"10", b"777", b"4755", b"-1", b"777777777777", b"99999999", b"\x80", b"\xff" * 12,
    b"\x80" + b"\xff" * 11, b"\x80\0\0\0\0\0\0\0\0\0\x10\0", b"512", b"1000", b"  12 ", b"0\0001", b"x", b"1e9",
    b"0.5", b"-1.5", b"9" * 18, b"9" * 30, b"2147483648", b"4294967294", b"4294967295", b"8589934592",
)  # fmt: skip
KEYS = (
    b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"atime", b"SCHILY.xattr.user.x",
    b"SCHILY.xattr.security.capability", b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name",
    b"GNU.sparse.realsize", b"GNU.sparse.size", b"GNU.sparse.map", b"GNU.sparse.offset", b"GNU.sparse.numbytes",
    b"GNU.sparse.numblocks", b"hdrcharset", b"comment", b"",
)  # fmt: skip
FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8),
          (337, 8), (345, 155), (386, 12), (398, 12), (410, 12), (482, 1), (483, 12))  # fmt: skip
"""The offset and length of each field of a header."""
TYPES = b"\x000123456777xXgLKVSDNMAZ"


def honest() -> list[bytes]:
    """Return archives that have to be accepted."""
    found = [_of_python(dialect) for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    sparse = pax(GNU_sparse_map=b"0,1,5,1", GNU_sparse_size=b"9", GNU_sparse_name=b"s") + raw(b"x", content=b"ab")
    found += _of_gnu_tar()
    found += [layer for attack in attacks("/outside") if attack.tree is not None for layer in attack.layers]
    found += [sparse + END, pax(SCHILY_xattr_user_x=b"\0\xff", mtime=b"1.5", uid=b"5") + raw(b"x") + END]
    return _quick(found)


def hostile(outside: str) -> list[bytes]:
    """Return the archives of attacks.py, aimed at the directory `outside`."""
    return _quick(layer for attack in attacks(outside) for layer in attack.layers)


def mutated(archive: bytes, choose: random.Random, others: list[bytes], *, structure: bool = True) -> bytes:
    """Return the archive with one to five changes; with `structure`, to whole headers and members too."""
    changes: tuple[Callable[[bytes, random.Random, list[bytes]], bytes], ...]
    changes = (
        (_header, _header, _header, _pax, _pax, _move, _move, _splice, _bytes, _cut) if structure else (_bytes, _cut)
    )
    for _ in range(choose.choice((1, 1, 1, 2, 2, 3, 5))):
        archive = choose.choice(changes)(archive, choose, others)
    return archive[: 4 * SEED_SIZE] + END * (structure and choose.random() < 0.8)


def _quick(found: Iterable[bytes]) -> list[bytes]:
    """Return those that unpack quickly: small ones without deep trees."""
    return [archive for archive in found if len(archive) <= SEED_SIZE and b"d/" * 200 not in archive]


def _of_python(dialect: int) -> bytes:
    kinds = (
        ("d/", tarfile.DIRTYPE, ""), ("l", tarfile.SYMTYPE, "d"), ("h", tarfile.LNKTYPE, "d/x"),
        ("f", tarfile.FIFOTYPE, ""), ("c", tarfile.CHRTYPE, ""), ("out", tarfile.SYMTYPE, "../outside"),
    )  # fmt: skip
    directory, *others = (special(*kind, mtime=1_700_000_000) for kind in kinds)
    members: list[Member] = [directory, ("d/x", b"x" * 700), *others, ("l/y", b"y")]
    if dialect != tarfile.USTAR_FORMAT:
        members.append(special("long/" * 30 + "name", tarfile.SYMTYPE, "target/" * 30))
    return tar(*members, dialect=dialect)


def _of_gnu_tar() -> list[bytes]:
    """Return archives by GNU tar in its dialects; an empty list without GNU tar."""
    archives = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "d")
        directory.mkdir()
        (directory / "link").symlink_to("sparse")
        (directory / ("n" * 90)).write_bytes(b"x" * 600)
        with (directory / "sparse").open("wb") as file:
            for offset in range(0, 1 << 20, 1 << 17):
                file.seek(offset)
                file.write(b"data")
            file.truncate(1 << 20)
        for options in (["v7"], ["oldgnu", "-S"], ["gnu", "-S"], ["pax", "-S"], ["pax", "-S", "--sparse-version=0.0"],
                        ["pax", "-S", "--sparse-version=0.1"], ["gnu", "-G"]):  # fmt: skip
            command = ["tar", f"--format={options[0]}", *options[1:], "-C", name, "-cf-", "d"]
            try:
                done = subprocess.run(command, capture_output=True, check=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            archives.append(done.stdout)
    return archives


def _members(archive: bytes) -> list[bytes]:
    """Cut an archive into members, each with its header first, without the end of the archive."""
    pieces, at = [], 0
    while at < len(archive):
        try:
            size = int(archive[at + 124 : at + 136].strip(b" \0") or b"0", 8)
        except ValueError:
            size = 0
        end = min(len(archive), at + 512 + (size + 511) // 512 * 512)
        pieces.append(archive[at:end])
        at = end
    while pieces and not pieces[-1].strip(b"\0"):
        pieces.pop()
    return pieces


def _summed(member: bytes) -> bytes:
    """Return a member with its checksum corrected."""
    if len(member) < 512:
        return member
    total = sum(member[:148]) + 8 * 32 + sum(member[156:512])
    return member[:148] + b"%06o\0 " % total + member[156:]


def _name(choose: random.Random) -> bytes:
    return choose.choice(NAMES if choose.random() < 0.85 else BAD_NAMES)


def _number(choose: random.Random) -> bytes:
    return choose.choice(NUMBERS) if choose.random() < 0.8 else b"%d" % choose.randrange(1 << choose.randrange(1, 66))


def _header(archive: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """Change the value of a header field."""
    members = _members(archive)
    number = choose.randrange(len(members)) if members else 0
    if not members or len(members[number]) < 512:
        return archive
    at, length = choose.choice(FIELDS)
    if at == 156:
        value = bytes([choose.choice(TYPES)])
    elif length >= 100:
        value = _name(choose)
    elif at == 257:
        value = choose.choice((b"ustar\x0000", b"ustar  \0", bytes(8), b"tar\0"))
    else:
        value = _number(choose)
        if value.isdigit() and choose.random() < 0.8:
            value = b"%o" % int(value)
            value = value.rjust(length - 1, b"0")
    member = members[number]
    members[number] = _summed(member[:at] + value[:length].ljust(length, b"\0") + member[at + length :])
    return b"".join(members)


def _pax(archive: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """Insert a pax extended header, or GNU's header for a long name."""
    if choose.random() < 0.2:
        new = raw(b"././@LongLink", choose.choice((b"L", b"K")), _name(choose) + choose.choice((b"\0", b"")))
    else:
        fields = {}
        for _ in range(choose.choice((1, 1, 2, 3, 6))):
            key = choose.choice(KEYS)
            value = _name(choose) if b"path" in key or b"name" in key else _number(choose)
            if key == b"GNU.sparse.map":
                value = b",".join(_number(choose) for _ in range(choose.choice((0, 1, 2, 4, 6))))
            if key == b"GNU.sparse.major":
                value = choose.choice((b"0", b"1", b"1"))
            fields[key.decode()] = value
        new = pax(choose.choices((tarfile.XHDTYPE, tarfile.XGLTYPE, b"X"), (8, 2, 1))[0], **fields)
    members = _members(archive)
    members.insert(choose.randrange(len(members) + 1), new)
    return b"".join(members)


def _move(archive: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """Move, repeat or remove a member."""
    members = _members(archive)
    if not members:
        return archive
    member = members.pop(choose.randrange(len(members)))
    for _ in range(choose.choice((0, 1, 1, 2))):
        members.insert(choose.randrange(len(members) + 1), member)
    return b"".join(members)


def _splice(archive: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """Insert members of another archive."""
    members, foreign = _members(archive), _members(choose.choice(others))
    at = choose.randrange(len(foreign) + 1)
    taken = foreign[at : at + choose.choice((1, 2, 5, 20))]
    place = choose.randrange(len(members) + 1)
    return b"".join(members[:place] + taken + members[place:])


def _bytes(archive: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """Overwrite or insert bytes; correct the checksums half of the time."""
    if not archive:
        return archive
    at = choose.randrange(len(archive))
    length = choose.choice((1, 1, 2, 4, 8, 100, 512))
    new = choose.choice(
        (choose.randbytes(length), bytes(length), bytes([archive[at] ^ 1 << choose.randrange(8)]), b"\xff" * length)
    )
    keep = choose.choice((0, len(new), len(new), length))
    changed = archive[:at] + new + archive[at + keep :]
    return b"".join(map(_summed, _members(changed))) if choose.random() < 0.5 else changed


def _cut(archive: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """Cut off the end, or append something."""
    if choose.random() < 0.5:
        return archive[: choose.randrange(len(archive) + 1)]
    return archive + choose.choice((END, END, bytes(100), b"rubbish", choose.choice(others)))
