"""The table of hostile archives, each with the tree or the error that unpacking it must end in.

`attack_runner.py` unpacks them. This module needs nothing but Python and `archives.py`.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.archives import END, Member, hard, pax, raw, special, tar

ZSTD = b"\x28\xb5\x2f\xfd"
"""The magic number of a zstd frame (RFC 8878)."""
DEPTH = 40
"""How many levels of a tree are compared."""


@dataclass(frozen=True)
class Attack:
    """Hostile layers, and what unpacking them must end in: exactly one of `refused`, `stopped` and `tree`."""

    name: str
    layers: tuple[bytes, ...]
    refused: str = ""
    """A regular expression for the message of the MalformedImage."""
    stopped: str = ""
    """A regular expression for the message of the MachineError: the layers exceed the size limit."""
    tree: dict[str, str] | None = None
    """Paths to `dir`, `file:CONTENT`, `link:TARGET` or `fifo`. Parent directories may be left out.

    Without root, devices are empty files.
    """


def attacks(outside: str) -> Iterator[Attack]:
    """Yield the table. `outside` is the absolute path of a directory beside the tree: `../outside` from the tree."""
    yield from _names(outside)
    yield from _symlinks(outside)
    yield from _hard_links(outside)
    yield from _whiteouts(outside)
    yield from _types(outside)
    yield from _broken()
    yield from _contradictions()
    yield from _sparse_lies()
    yield from _bombs()


def _refused(name: str, why: str, *members: Member) -> Attack:
    return Attack(name, (tar(*members),), refused=why)


def _tree(name: str, tree: dict[str, str], *layers: list[Member]) -> Attack:
    return Attack(name, tuple(tar(*members) for members in layers), tree=tree)


def _names(outside: str) -> Iterator[Attack]:
    evil = b"evil"
    for name in (
        "../outside/canary",
        "a/../../outside/canary",
        "/../outside/canary",
        "./../outside/new",
        "a/b/../../../c",
    ):
        yield _refused(f"file {name}", "climbs out", (name, evil))
    for name in ("..", "a/../..", "a/b/../../..", "/..", "./.././a"):
        yield _refused(f"directory {name}", "climbs out", (name, None))
    up: list[Member] = [("out", outside), ("out/../a/b/../c", evil), ("e/../d/", None), hard("x/../h", "d/../a/./c")]
    yield _tree(
        ".. inside of the root", {"a/c": "file:evil", "d": "dir", "h": "file:evil", "out": f"link:{outside}"}, up
    )
    yield _refused(".. that is the root", "root", ("a/..", evil))
    yield _refused("a link target that climbs", "climbs out", ("x", evil), hard("h", "d/../../x"))
    yield _refused("symlink below ..", "climbs out", ("../link", "x"))
    yield _refused("hard link below ..", "climbs out", ("x", evil), hard("../outside/hard", "x"))
    yield _refused("fifo below ..", "climbs out", special("../outside/fifo", tarfile.FIFOTYPE))
    yield _tree("absolute name", {f"{outside}/canary": "file:evil"}, [(f"{outside}/canary", evil)])
    yield _tree("slashes and dots", {"etc/x": "file:evil"}, [("//.//etc/.//x", evil)])
    yield _tree("dots that are names", {".../....": "file:evil", "..a": "dir"}, [(".../....", evil), ("..a", None)])
    odd = "a\nb\x1b[2J\u202e\\"
    yield _tree("odd characters", {odd: "file:evil"}, [(odd, evil)])
    yield Attack("a name that is not text", (raw(b"\xff\xfe", content=evil) + END,), tree={"\udcff\udcfe": "file:evil"})
    yield Attack("NUL in a name", (pax(path=b"a\0b") + raw(b"x") + END,), refused="NUL")
    yield Attack("NUL in a target", (pax(linkpath=b"a\0b") + raw(b"x", tarfile.SYMTYPE) + END,), refused="symlink to")
    yield _refused("a name of 5000 characters", "a name of 5000 bytes", ("n" * 5000, evil))
    yield _tree("a name of 255 characters", {"n" * 255: "file:evil"}, [("n" * 255, evil)])
    many = "/".join(["d" * 99] * 50)
    yield _refused("a path of 20000 characters", "a path of 19999 bytes", ("d/" * 10000, None))
    yield _tree("a path of 5000 characters", {"/".join(["d" * 99] * DEPTH): "dir"}, [(many, evil)])
    yield _tree("names that differ in case", {"A": "file:1", "a": "file:2"}, [("A", b"1"), ("a", b"2")])
    deep = "d/" * 3000
    yield _tree("a deep tree", {"d/" * DEPTH: "dir"}, [(deep + "file", evil)])
    yield _tree("a deep tree that is taken away", {"x": "dir"}, [(deep + "file", evil)], [(".wh.d", b""), ("x", None)])
    steps: list[Member] = [("d/" * depth, None) for depth in range(1, 1001)]
    yield _tree("a deep tree step by step", {"d/" * DEPTH: "dir"}, steps)
    globally = pax(tarfile.XGLTYPE, path=b"../outside/canary") + raw(b"x", content=evil) + END
    yield Attack("a global header that renames", (globally,), tree={"x": "file:evil"})
    yield Attack("pax and its entry disagree", (pax(path=b"../outside/canary") + raw(b"x") + END,), refused="climbs")


def _symlinks(outside: str) -> Iterator[Attack]:
    evil, inside = b"evil", {f"{outside}/canary": "file:evil"}
    link = {"out": f"link:{outside}"}
    yield _tree("through an absolute symlink", {**inside, **link}, [("out", outside), ("out/canary", evil)])
    yield _tree("through one of a lower layer", {**inside, **link}, [("out", outside)], [("out/canary", evil)])
    tree = {"out": "link:../outside", "outside/canary": "file:evil"}
    yield _tree("through ..", tree, [("out", "../outside"), ("out/canary", evil)])
    tree = {"a": "link:b", "b": "link:c/../../../outside", "c": "dir", "outside/canary": "file:evil"}
    yield _tree("through a chain", tree, [("c", None), ("b", "c/../../../outside"), ("a", "b"), ("a/canary", evil)])
    tree = {"up": "link:d/e/../../..", "d/e": "link:../f", "f": "dir", "outside/canary": "file:evil"}
    through: list[Member] = [("f", None), ("d/e", "../f"), ("up", "d/e/../../.."), ("up/outside/canary", evil)]
    yield _tree("through .. behind a symlink", tree, through)
    loop = "can't be followed"
    yield _refused("through a loop", loop, ("a", "b"), ("b", "a"), ("a/x", evil))
    yield _refused("through a link to itself", loop, ("a", "a"), ("a/x", None))
    chain: list[Member] = [(f"l{number}", f"l{number + 1}") for number in range(60)]
    yield _refused("through 60 symlinks", loop, *chain, ("l60", None), ("l0/x", evil))
    yield _refused("through a name that is too long", loop, ("a", "n" * 300), ("a/x", evil))
    yield _refused("a target of 5000 characters", "symlink to", ("a", "n/" * 2500))
    yield Attack("an empty target", (raw(b"x", tarfile.SYMTYPE) + END,), refused="symlink to")
    at_end = {"f": "file:evil"}
    yield _tree("a file onto a symlink", at_end, [("f", f"{outside}/canary"), ("f", evil)])
    yield _tree("a file onto one that dangles", at_end, [("f", "../outside/new")], [("f", evil)])
    open_to_all = special("out", tarfile.DIRTYPE, mode=0o777)
    yield _tree("a directory onto a symlink", {"out": "dir"}, [("out", outside), open_to_all])
    yield _tree("a directory onto a loop", {"out": "dir"}, [("out", "out"), open_to_all])
    tree = {"out/canary": "file:evil"}
    yield _tree("a directory onto a symlink, and in", tree, [("out", outside)], [open_to_all, ("out/canary", evil)])
    swapped: list[Member] = [("out/x", b"1"), ("out", outside), ("out/canary", evil)]
    yield _tree("a symlink in place of a directory", {**inside, **link}, swapped)
    swapped = [("e", None), ("out", "e"), ("out/x", b"1"), ("out", outside), ("out/canary", evil)]
    yield _tree("a symlink that is turned", {"e/x": "file:1", **inside, **link}, swapped)
    under: list[Member] = [("d/s", None), ("out", "d"), ("out/s/x", b"1"), ("d", outside), ("out/s/canary", evil)]
    tree = {"out": "link:d", "d": f"link:{outside}", f"{outside}/s/canary": "file:evil"}
    yield _tree("a symlink turned under another", tree, under)
    long: list[Member] = [("d", None), *((f"l{n}", "d/../" * 800 + (f"l{n - 1}" if n else "d")) for n in range(35))]
    pairs = [pair for n in range(50) for pair in ((f"m{n}", "l34"), (f"m{n}/x", evil))]
    yield _refused("a chain of long symlinks", "lead through more than 1024 names", *long, *pairs)
    yield _tree("a symlink to the root", {"r": "link:/", "x": "file:evil"}, [("r", "/"), ("r/r/./x", evil)])


def _hard_links(outside: str) -> Iterator[Attack]:
    evil, missing = b"evil", "isn't there"
    yield _refused("hard link to ..", "climbs out", hard("h", "../outside/canary"))
    yield _refused("hard link to an absolute name", missing, hard("h", f"{outside}/canary"))
    yield _refused("hard link through a symlink", missing, ("out", outside), hard("h", "out/canary"))
    yield _refused("hard link through ..", missing, ("out", "../outside"), hard("h", "out/canary"))
    through: list[Member] = [("l", f"{outside}/canary"), hard("h", "l"), ("h", evil)]
    yield _tree("written through a hard link to a symlink", {"l": f"link:{outside}/canary", "h": "file:evil"}, through)
    yield _tree(
        "hard link onto a symlink", {"l": "file:1", "x": "file:1"}, [("l", outside), ("x", b"1"), hard("l", "x")]
    )
    yield _tree(
        "written onto one of two names", {"a": "file:1", "b": "file:2"}, [("a", b"1"), hard("b", "a"), ("b", b"2")]
    )
    yield _tree("hard link to itself", {"x": "file:1"}, [("x", b"1"), hard("x", "x")])
    linked: list[Member] = [("d/x", b"1"), ("l", "d"), hard("l/x", "d/x")]
    yield _tree("hard link to itself through a symlink", {"d/x": "file:1", "l": "link:d"}, linked)
    yield _refused("hard link to itself, which is missing", missing, hard("x", "x"))
    yield _refused("hard link to a directory", "a directory", ("d", None), hard("h", "d"))
    yield _refused("hard link to the root", "a directory", hard("h", "."))
    yield _refused("hard link in place of the root", "root", ("x", evil), hard(".", "x"))
    yield _refused("hard link in place of its target's directory", "it would replace", ("d/x", evil), hard("d", "d/x"))
    yield _refused("hard link below its target", "no directory", ("x", evil), hard("x/y", "x"))
    yield _refused("hard link to below a file", "no directory", ("x", evil), hard("h", "x/y"))
    yield _refused("hard link to a loop's inside", "can't be followed", ("a", "a"), hard("h", "a/x"))


def _whiteouts(outside: str) -> Iterator[Attack]:
    lower: list[Member] = [("a", b"1"), ("d/x", b"2")]
    whole = {"a": "file:1", "d/x": "file:2"}
    for name in (".wh..", ".wh...", ".wh.", "d/.wh..", "d/.wh...", ".wh.d/../.wh.."):
        yield Attack(f"whiteout {name}", (tar(*lower), tar((name, b""))), refused="no valid whiteout")
    yield Attack("whiteout a/../.wh.d/x", (tar(*lower), tar(("a/../.wh.d/x", b""))), refused="below a whiteout")
    yield Attack("whiteout below ..", (tar(*lower), tar(("../.wh.outside", b""))), refused="climbs out")
    yield Attack("whiteout below a whiteout", (tar(*lower), tar((".wh.d/x", b""))), refused="below a whiteout")
    for target in (outside, "../outside"):
        links: list[Member] = [*lower, ("out", target)]
        tree = {**whole, "out": f"link:{target}"}
        yield _tree(f"whiteout through a symlink to {_short(target)}", tree, links, [("out/.wh.canary", b"")])
        yield _tree(f"opaque through a symlink to {_short(target)}", tree, links, [("out/.wh..wh..opq", b"")])
        yield _tree(f"whiteout of a symlink to {_short(target)}", whole, links, [(".wh.out", b"")])
    yield _tree("opaque root", {"new": "file:3"}, lower, [("new", b"3"), ("/.wh..wh..opq", b"")])
    tree = {"a": "file:1", "d": "dir", "l": "link:d"}
    yield _tree("opaque through a symlink", tree, [*lower, ("l", "d")], [("l/.wh..wh..opq", b"")])
    tree = {"a": "file:1", "d/y": "file:3", "l": "link:d"}
    yield _tree("opaque keeps its layer's own", tree, [*lower, ("l", "d")], [("l/y", b"3"), ("d/.wh..wh..opq", b"")])
    loop = {**whole, "l": "link:l"}
    yield _tree("whiteout through a loop", loop, [*lower, ("l", "l")], [("l/.wh.x", b""), ("l/.wh..wh..opq", b"")])
    yield _tree("whiteout below a file", whole, lower, [("a/.wh.x", b""), ("a/.wh..wh..opq", b"")])
    yield _tree("whiteout of what never was", whole, lower, [(".wh.never", b""), ("never/.wh.x", b"")])
    yield _tree("whiteout in the lowest layer", whole, [*lower, (".wh.a", b""), ("d/.wh..wh..opq", b"")])
    own = (
        ".wh..wh.plnk/1.2",
        ".wh..wh.aufs",
        ".wh..wh.a",
        ".wh..wh...",
        ".wh..wh..opq/x",
        "d/.wh..wh.plnk/y",
        ".wh..wh.",
    )
    yield _tree("AUFS's own", whole, lower, [(name, b"x") for name in own])
    yield _tree("AUFS's own as other kinds", whole, lower, [(name, kind) for name in own for kind in (None, outside)])
    linked: list[Member] = [(".wh..wh.plnk/1.2", b"evil"), hard("d/new", "./.wh..wh.plnk/1.2"), hard("b", "d/new")]
    tree = {**whole, "d/new": "file:evil", "b": "file:evil"}
    yield _tree("AUFS's hard links", tree, lower, linked)
    tree = {"d/new": "file:evil", "b": "file:evil"}
    yield _tree("AUFS's hard links and an opaque root", tree, lower, [linked[0], (".wh..wh..opq", b""), *linked[1:]])
    gone = (tar(*lower), tar(linked[0]), tar(hard("b", ".wh..wh.plnk/1.2")))
    yield Attack("AUFS's hard link to another layer's file", gone, refused="isn't there")
    turned: list[Member] = [("l", "."), (".wh..wh.plnk/1", b"1"), ("l/.wh..wh.plnk", outside), (".wh..wh.plnk/2", b"2")]
    tree = {**whole, "l": "link:.", "h": "file:2"}
    yield _tree("AUFS's directory can't be turned", tree, lower, [*turned, hard("h", "l/.wh..wh.plnk/2")])


def _short(target: str) -> str:
    return ".." if target.startswith("..") else "an absolute name"


def _types(outside: str) -> Iterator[Attack]:
    evil = b"evil"
    tree = {"a/x": "file:evil", "b": "file:evil", "c": "link:a", "d": "file:evil", "e": "fifo", "f": "dir"}
    lower: list[Member] = [("a", evil), ("b/x/y", evil), ("c/x", evil), ("d", outside), ("e", evil)]
    lower.append(special("f", tarfile.FIFOTYPE))
    fifo = special("e", tarfile.FIFOTYPE)
    upper: list[Member] = [("a", None), ("a/x", evil), ("b", evil), ("c", "a"), ("d", evil), fifo, ("f", None)]
    yield _tree("types that change between layers", tree, lower, upper)
    yield _tree("types that change within one", tree, lower + upper)
    yield _refused("a file below a file", "no directory", ("a", evil), ("a/b", evil))
    root = "root"
    yield _refused("a file in place of the root", root, (".", evil))
    yield _refused("a symlink in place of the root", root, ("./", outside))
    yield _refused("a fifo in place of the root", root, special("/", tarfile.FIFOTYPE))
    yield Attack("a name that is empty", (raw(b"") + END,), refused=root)
    onto = {"l": "fifo", "m": "file:"}
    null = special("m", tarfile.CHRTYPE, devmajor=1, devminor=3)
    nodes: list[Member] = [("l", f"{outside}/canary"), ("m", outside), special("l", tarfile.FIFOTYPE), null]
    yield _tree("nodes in place of symlinks", onto, nodes)
    tree = {"m": "file:", "n": "file:"}
    yield _tree("hard link to a device", tree, [null, hard("n", "m")])
    wide = raw(b"dev", tarfile.CHRTYPE, major=b"\x80\0\0\x7f\xff\xff\xff\xff")
    yield Attack("a device with a number too large", (wide + END,), refused="not a device")
    negative = raw(b"dev", tarfile.BLKTYPE, major=b"\xff" * 8)
    yield Attack("a device with a number below 0", (negative + END,), refused="not a device")
    closed = special("d", tarfile.DIRTYPE, mode=0)
    yield _tree("into a closed directory", {"d/x": "file:evil"}, [closed, ("d/x", evil)], [closed, ("d/x", evil)])
    deep = special("d/e", tarfile.DIRTYPE, mode=0)
    yield _tree("closed directories replaced", {"d": "file:1"}, [("d/e/f", evil), deep, closed, ("d", b"1")])
    yield Attack("a type that nobody knows", (raw(b"x", b"Z") + END,), refused="are unknown")


def _broken() -> Iterator[Attack]:
    fine, unreadable = raw(b"a", content=b"1"), "can't be read"
    yield Attack("an owner below 0", (raw(b"x", uid=b"\xff" * 8) + END,), refused="not an owner")
    yield Attack("an owner too large", (pax(uid=b"4294967295") + raw(b"x") + END,), refused="not an owner")
    # The last one by the megabyte would be kept, to be known again.
    for time_ in (
        b"nan", b"-inf", b"1e999999", b"1e99999999999999999999", b"-9e18", b"soon", b"9" * 19, b"1." + b"0" * 31
    ):  # fmt: skip
        yield Attack(f"the time {time_.decode()}", (pax(mtime=time_) + fine + END,), refused="not a time")
    yield Attack("a size below 0", (fine + raw(b"b", size=b"\xff" * 12) + END,), refused="not a size")
    yield Attack("a size beyond the end", (raw(b"a", content=b"1", size=b"00000077777\0"),), refused=unreadable)
    yield Attack("a pax size beyond the end", (pax(size=b"999999") + fine + END,), refused=unreadable)
    yield Attack("a pax size below 0", (pax(size=b"-999999") + fine + END,), refused=f"not a size|{unreadable}")
    digits = pax(GNU_sparse_size=b"9" * 5000, GNU_sparse_map=b"0,1") + fine + END
    yield Attack("a number of 5000 digits", (digits,), refused=unreadable)
    yield Attack("cut in the content", (raw(b"a", content=b"1" * 2000)[:1500],), refused=unreadable)
    yield Attack("cut in a header", ((fine + fine)[:1100],), refused=unreadable)
    yield Attack("cut in an extended header", (pax(path=b"x" * 2000)[:700],), refused=unreadable)
    yield Attack("cut behind an extended header", (pax(path=b"x"),), refused=unreadable)
    yield Attack(
        "a pax record without a length", (raw(b"pax", b"x", b"11 path=ab\nno-length") + fine,), refused=unreadable
    )
    huge = raw(b"s", content=b"1\n", size=b"\x80\0\0\0\x7f" + bytes(7))
    yield Attack("a sparse map that never ends", (pax(GNU_sparse_major=b"1") + huge,), refused=unreadable)
    named = pax(**{"SCHILY.xattr.user.a\0b": b"1"}) + fine + END
    yield Attack("an attribute with a NUL in its name", (named,), refused=unreadable)
    yield Attack("no header", (b"this is no archive " * 100,), refused="is no archive")
    yield Attack("rubbish behind an entry", (fine + b"rubbish " * 64 + fine + END,), refused=unreadable)
    yield Attack("an archive behind the end", (fine + END + raw(b"b") + END,), refused="more behind its end")
    yield Attack(
        "an archive behind one block of zeros", (fine + bytes(512) + raw(b"b"),), refused="more behind its end"
    )
    yield Attack("a directory with content", (raw(b"d/", content=raw(b"hidden")) + END,), refused="with content")
    yield Attack("no end", (fine,), tree={"a": "file:1"})
    yield Attack("nothing", (b"",), tree={})
    yield Attack("only an end", (END * 10,), tree={})
    chain = raw(b"././@LongLink", b"L", b"x\0") * 3000
    yield Attack("3000 long names for one entry", (chain + fine + END,), tree={"x": "file:1"})
    for what, numbers in (("no numbers", b"x\n"), ("too few numbers", b"9\n1\n"), ("too many", b"1\n8\n9999\n")):
        sparse = pax(GNU_sparse_major=b"1", GNU_sparse_minor=b"0", GNU_sparse_name=b"s", GNU_sparse_realsize=b"9")
        content = numbers.ljust(512, b"\0")
        yield Attack(f"a sparse map of {what}", (sparse + raw(b"s", content=content) + END,), refused=unreadable)


def _contradictions() -> Iterator[Attack]:
    """Headers that contradict each other."""
    fine = raw(b"a", content=b"1")
    longer = pax(size=b"512") + raw(b"a", content=raw(b"b")) + END
    yield Attack(
        "a pax size that is right where the header's is not", (longer,), tree={"a": f"file:{_text(raw(b'b'))}"}
    )
    short = pax(size=b"0") + raw(b"a", content=raw(b"b", content=b"2")) + END
    yield Attack("a pax size that lays content open", (short,), tree={"a": "file:", "b": "file:2"})
    lied = pax(size=b"1") + raw(b"d", tarfile.DIRTYPE) + fine + END
    yield Attack("a pax size for a directory", (lied,), tree={"d": "dir", "a": "file:1"})
    link = raw(b"h", tarfile.LNKTYPE, target=b"a", size=b"00000001000\0")
    yield Attack(
        "a hard link with a size", (fine + link + raw(b"b") + END,), tree={"a": "file:1", "h": "file:1", "b": "file:"}
    )
    both = pax(path=b"p") + raw(b"././@LongLink", b"L", b"l\0") + raw(b"x") + END
    yield Attack("pax and GNU names disagree", (both,), tree={"p": "file:"})
    both = raw(b"././@LongLink", b"L", b"l\0") + pax(path=b"p") + raw(b"x") + END
    yield Attack("GNU and pax names disagree", (both,), tree={"p": "file:"})
    both = pax(linkpath=b"p") + raw(b"././@LongLink", b"K", b"l\0") + raw(b"x", tarfile.SYMTYPE, target=b"h") + END
    yield Attack("three targets of one symlink", (both,), tree={"x": "link:p"})
    record = b"9 path=p\n9 path=q\n"
    yield Attack("a pax record twice", (raw(b"pax", b"x", record) + raw(b"x") + END,), tree={"q": "file:"})
    yield Attack("two pax headers", (pax(path=b"p") + pax(path=b"q") + raw(b"x") + END,), tree={"q": "file:"})
    for what, broken in (
        ("longer than its header", b"99 path=p\n"), ("shorter than its key", b"3 path=p\n"),
        ("of no length", b"0 path=p\n"), ("below 0", b"-9 path=p\n"), ("without an end", b"9 path=pp"),
        ("without a value", b"7 path\n"), ("of 30 digits", b"9" * 30 + b" path=p\n"),
    ):  # fmt: skip
        layer = raw(b"pax", b"x", broken) + raw(b"x") + END
        yield Attack(f"a pax record {what}", (layer,), refused="can't be read")
    yield _tree(
        "names that differ in case, as directories", {"A": "link:/", "a/x": "file:1"}, [("A", "/"), ("a/x", b"1")]
    )
    yield _tree("names that differ in their Unicode form", {"\xe9": "file:1", "e\u0301": "file:2"},
                [("\xe9", b"1"), ("e\u0301", b"2")])  # fmt: skip
    again: list[Member] = [("a", b"1"), ("a", b"2"), ("a", None), ("a/b", b"3"), ("a", "b"), ("a", b"4")]
    yield _tree("one name again and again", {"a": "file:4"}, again)
    size = raw(b"././@LongLink", b"L", b"x" * 600, size=b"%011o\0" % (1 << 30))
    yield Attack("a long name of 1 GiB", (size,), refused="is the most")
    size = raw(b"pax", b"x", size=b"\x80\0\0\0\x7f" + bytes(7))
    yield Attack("a pax header of many TiB", (size,), refused="is the most")


def _text(data: bytes) -> str:
    return data.decode("ascii")


def _sparse_lies() -> Iterator[Attack]:
    """Impossible maps of sparse files."""
    wrong = "map of holes|can't be read"
    for what, text, real in (
        ("beyond the file", b"0,1,9,1", b"9"), ("upon each other", b"0,2,1,2", b"9"), ("backwards", b"4,1,0,1", b"9"),
        ("of more than is stored", b"0,8", b"9"), ("of less than is stored", b"0,1", b"9"),
        ("of odd numbers", b"0,1,2", b"9"), ("below 0", b"-1,1", b"9"), ("of text", b"0,x", b"9"),
    ):  # fmt: skip
        layer = pax(GNU_sparse_map=text, GNU_sparse_size=real) + raw(b"s", content=b"ab") + END
        yield Attack(f"a sparse map {what}", (layer,), refused=wrong)
    large = b"9223372036854775807"
    for real in (b"1099511627776", large, b"99999999999999999999"):
        layer = pax(GNU_sparse_map=b"0,2", GNU_sparse_size=real) + raw(b"s", content=b"ab") + END
        yield Attack(f"a sparse file of {real.decode()} bytes", (layer,), stopped="takes more than")
        layer = pax(GNU_sparse_major=b"1", GNU_sparse_realsize=real) + raw(
            b"s", content=b"1\n0\n2\n".ljust(512, b"\0") + b"ab"
        )
        yield Attack(f"a sparse file of {real.decode()} bytes, in version 1.0", (layer,), stopped="takes more than")
    layer = pax(GNU_sparse_map=b"0,2", GNU_sparse_size=b"5", GNU_sparse_name=b"../outside/canary") + raw(
        b"s", content=b"ab"
    )
    yield Attack("a sparse name below ..", (layer,), refused="climbs out")
    chain = raw(b"s", b"S", isextended=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 3000 + bytes(512)
    yield Attack("a sparse map of GNU's that says nothing", (chain + END,), tree={"s": "file:"})
    yield Attack("a sparse map of GNU's that goes on to the end", (chain[:-512],), refused="middle of a header")
    chain = raw(b"s", b"S", isextended=b"\1") + (b"%011o\0" % 1 * 42 + b"\1" + bytes(7)) * 3000
    yield Attack("a sparse map of GNU's that is long", (chain + END,), refused="too long")
    layer = raw(b"s", b"S", b"ab", realsize=b"%011o\0" % 5, sparse=b"%011o\0" % 9 + b"%011o\0" % 2) + END
    yield Attack("a sparse map of GNU's beyond the file", (layer,), refused=wrong)
    layer = pax(GNU_sparse_map=b"0,1", GNU_sparse_size=b"2") + raw(b"l", tarfile.SYMTYPE, target=b"t") + END
    yield Attack("a sparse symlink", (layer,), tree={"l": "link:t"})


def _bombs() -> Iterator[Attack]:
    """Small archives that expand to huge ones."""
    size = b"\x80\0\0\0\0\0\0\1" + bytes(4)  # 4 GiB
    head, more = raw(b"bomb", size=size), bytes(1 << 20)
    stopped = "takes more than"
    yield Attack("a gzip bomb", (gzip.compress(head) + gzip.compress(more) * 4096,), stopped=stopped)
    yield Attack("a gzip bomb behind the end", (gzip.compress(END) + gzip.compress(more) * 4096,), stopped=stopped)
    # A zstd frame (RFC 8878) with a window of 1 MiB: one block of 512 zeros as they are, then those that repeat one.
    frame = ZSTD + b"\0\x50" + (512 << 3).to_bytes(3, "little") + head
    frame += (((1 << 17) << 3) | 2).to_bytes(3, "little").ljust(4, b"\0") * 32768 + b"\3\0\0\0"
    yield Attack("a zstd bomb", (frame,), stopped=stopped)
    skipped = raw(b"volume", b"V", size=size)
    yield Attack("a bomb in what is skipped", (gzip.compress(skipped) + gzip.compress(more) * 4096,), stopped=stopped)
    names = gzip.compress(raw(b"././@LongLink", b"L", b"x\0") * 1000)
    yield Attack("a bomb of headers", (names * 200,), stopped=stopped)
    directories = b"".join(raw(b"%d/" % number + b"d/" * 45, tarfile.DIRTYPE) for number in range(600))
    yield Attack("a bomb of directories", (directories + END,), stopped=stopped)
