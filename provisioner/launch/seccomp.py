"""Seccomp filters (seccomp(2)): classic BPF programs that decide how system calls are answered.

`program` compiles rules to bytes; `root_emulation` is the filter that start.sh uses in user namespaces.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from provisioner.errors import MachineError
from provisioner.image.platform import Platform

ALLOW = 0x7FFF0000
"""SECCOMP_RET_ALLOW: the kernel executes the call."""
TRAP = 0x00030000
"""SECCOMP_RET_TRAP: the caller gets SIGSYS, which ends it unless it has a handler. Android uses this."""
SUCCESS = 0x00050000
"""SECCOMP_RET_ERRNO with the error 0: the call returns 0 and does nothing."""


def refuse(error: int) -> int:
    """Return the answer SECCOMP_RET_ERRNO: the call fails with the error number `error`."""
    return SUCCESS | error


@dataclass(frozen=True)
class Abi:
    """One set of system call numbers, such as that of x86_64 or of i386."""

    arch: int
    """The AUDIT_ARCH (linux/audit.h) by which a filter recognizes it."""
    numbers: Mapping[str, int]
    """The number of each call by its name."""

    @property
    def little_endian(self) -> bool:
        """Return whether its machines are little-endian (__AUDIT_ARCH_LE)."""
        return bool(self.arch & 0x40000000)


@dataclass(frozen=True)
class Argument:
    """A condition on one argument of a call."""

    position: int
    """The argument's index, from 0."""
    values: tuple[int, ...]
    """Values that its low 32 bits, masked, are compared with."""
    mask: int = 0xFFFFFFFF
    """The bits that are compared."""
    among: bool = True
    """True if the argument must be one of the values, False if it must be none of them."""


@dataclass(frozen=True)
class Rule:
    """An answer to some system calls. The first rule that matches a call applies."""

    answer: int
    """ALLOW, TRAP, SUCCESS, or what `refuse` returns."""
    calls: tuple[str, ...]
    """Names of system calls; those that an ABI lacks are skipped."""
    argument: Argument | None = None
    """A condition for the rule to match."""


def program(rules: Sequence[Rule], abis: Sequence[Abi]) -> bytes:
    """Compile `rules` for all `abis`, which are of one byte order, to an array of struct sock_filter (linux/filter.h).

    All other calls, and those of other ABIs, are allowed. Raises ValueError if the byte orders differ, and struct.error
    if a jump over the rules of one ABI is too long: it can skip 255 instructions.
    """
    (little_endian,) = {abi.little_endian for abi in abis}
    block = [_load(_ARCH_AT)]
    for abi in abis:
        calls = [_load(_NUMBER_AT), *(instruction for rule in rules for instruction in _rule(rule, abi))]
        # Another ABI may follow under the same arch.
        block += _when([abi.arch], [*calls, _load(_ARCH_AT)])
    block.append(_answer(ALLOW))
    layout = struct.Struct("<HBBI" if little_endian else ">HBBI")
    return b"".join(layout.pack(*instruction) for instruction in block)


# The assembler. A block is a sequence of instructions that starts at its first one and, unless it returns an answer,
# ends after its last one. At the start and the end of a rule's block the accumulator holds the call's number.

_Instruction = tuple[int, int, int, int]
"""code, jt, jf, k"""
_Block = list[_Instruction]

# Offsets in struct seccomp_data (linux/seccomp.h).
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16


def _load(offset: int) -> _Instruction:
    return (0x20, 0, 0, offset)  # BPF_LD | BPF_W | BPF_ABS


def _mask(bits: int) -> _Instruction:
    return (0x54, 0, 0, bits)  # BPF_ALU | BPF_AND | BPF_K


def _answer(value: int) -> _Instruction:
    return (0x06, 0, 0, value)  # BPF_RET | BPF_K


def _jump_if_equal(value: int, yes: int, no: int) -> _Instruction:
    return (0x15, yes, no, value)  # BPF_JMP | BPF_JEQ | BPF_K, skipping that many instructions


def _when(values: Sequence[int], then: _Block) -> _Block:
    """Return a block that runs `then` if the accumulator is one of `values`, and else skips it."""
    last = len(values) - 1
    tests = [_jump_if_equal(value, last - i, 0 if i < last else len(then)) for i, value in enumerate(values)]
    return [*tests, *then] if tests else []


def _unless(values: Sequence[int], then: _Block) -> _Block:
    """Return a block that runs `then` if the accumulator is none of `values`, and else skips it."""
    last = len(values) - 1
    return [*(_jump_if_equal(value, last - i + len(then), 0) for i, value in enumerate(values)), *then]


def _rule(rule: Rule, abi: Abi) -> _Block:
    then = [_answer(rule.answer)]
    if argument := rule.argument:
        # Arguments have 64 bits, of which the kernel uses the low 32 for these calls.
        low = _ARGUMENTS_AT + 8 * argument.position + (0 if abi.little_endian else 4)
        fits = _when if argument.among else _unless
        then = [_load(low), _mask(argument.mask), *fits(argument.values, then), _load(_NUMBER_AT)]
    return _when([abi.numbers[call] for call in rule.calls if call in abi.numbers], then)


# Root emulation

_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_ROOT_EMULATION = (
    Rule(
        SUCCESS,
        (
            *("chown", "fchown", "lchown", "chown32", "fchown32", "lchown32", "fchownat"),
            *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"),
            *("setuid32", "setgid32", "setreuid32", "setregid32", "setresuid32", "setresgid32"),
            *("setfsuid32", "setfsgid32", "setgroups", "setgroups32", "capset"),
        ),
    ),
    Rule(SUCCESS, ("mknod",), Argument(1, _DEVICES, mask=stat.S_IFMT(0xFFFF))),
    Rule(SUCCESS, ("mknodat",), Argument(2, _DEVICES, mask=stat.S_IFMT(0xFFFF))),
)


def root_emulation(platform: Platform) -> bytes:
    """Return the filter that emulates root in a user namespace with a single id, for `bwrap --seccomp FD`.

    Calls that change owners, user and group ids or capabilities, and calls that make device nodes, return 0 and do
    nothing. Nothing is remembered: a program that checks afterwards sees that it is still root and that root owns the
    file. The kernel executes all other calls, so the filter is no protection.

    `platform` is that of the machine, not of the image: qemu-user makes the machine's system calls. The same bytes
    work on all machines with its byte order, also for their 32-bit ABIs. Raises MachineError for an unknown
    architecture.
    """
    if platform.architecture not in _LITTLE_ENDIAN + _BIG_ENDIAN:
        raise MachineError(f"no filter is known that emulates root on {platform}", "use another runtime: proot")
    little_endian = platform.architecture in _LITTLE_ENDIAN
    return program(_ROOT_EMULATION, [abi for abi in abis() if abi.little_endian == little_endian])


_LITTLE_ENDIAN = ("amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "loong64")
_BIG_ENDIAN = ("s390x",)

_ARCHES = {
    0xC000003E: "x86_64",
    0x40000003: "i386",
    0xC00000B7: "generic",  # aarch64
    0x40000028: "arm",
    0xC00000F3: "generic",  # riscv64
    0xC0000102: "generic",  # loongarch64
    0xC0000015: "ppc64",  # ppc64le
    0x80000016: "s390x",
    0x00000016: "s390",
}
"""The column of the table below for each AUDIT_ARCH."""

_NUMBERS = """
            x86_64 i386  arm generic ppc64 s390x s390
chown           92  182  182       -   181   212  182
fchown          93   95   95      55    95   207   95
lchown          94   16   16       -    16   198   16
chown32          -  212  212       -     -     -  212
fchown32         -  207  207       -     -     -  207
lchown32         -  198  198       -     -     -  198
fchownat       260  298  325      54   289   291  291
mknod          133   14   14       -    14    14   14
mknodat        259  297  324      33   288   290  290
setgroups      116   81   81     159    81   206   81
setgroups32      -  206  206       -     -     -  206
setuid         105   23   23     146    23   213   23
setuid32         -  213  213       -     -     -  213
setgid         106   46   46     144    46   214   46
setgid32         -  214  214       -     -     -  214
setreuid       113   70   70     145    70   203   70
setreuid32       -  203  203       -     -     -  203
setregid       114   71   71     143    71   204   71
setregid32       -  204  204       -     -     -  204
setresuid      117  164  164     147   164   208  164
setresuid32      -  208  208       -     -     -  208
setresgid      119  170  170     149   169   210  170
setresgid32      -  210  210       -     -     -  210
setfsuid       122  138  138     151   138   215  138
setfsuid32       -  215  215       -     -     -  215
setfsgid       123  139  139     152   139   216  139
setfsgid32       -  216  216       -     -     -  216
capset         126  185  185      91   184   185  185
"""
"""The kernel's syscall tables: `generic` is include/uapi/asm-generic/unistd.h, others are their arch's syscall.tbl."""

_X32 = 0x40000000
"""Set in the numbers of x32 calls, which have the AUDIT_ARCH of x86_64."""


@cache
def abis() -> tuple[Abi, ...]:
    """Return all ABIs of the table."""
    (_, *names), *rows = (line.split() for line in (f"call {_NUMBERS.strip()}").splitlines())
    columns = {name: {row[0]: int(row[i]) for row in rows if row[i] != "-"} for i, name in enumerate(names, start=1)}
    x32 = Abi(0xC000003E, {call: number | _X32 for call, number in columns["x86_64"].items()})
    return (*(Abi(arch, columns[name]) for arch, name in _ARCHES.items()), x32)
