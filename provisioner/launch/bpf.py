"""A compiler for seccomp filters (seccomp(2)): from rules about system calls to a classic BPF program."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    private: int | None = None
    """The lowest number of the processor's private calls (ARM's cacheflush), if it has any."""
    newest: int | None = None
    """The highest known number; calls with higher ones are refused. None for no limit."""

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
    """The values with which its low 32 bits, masked, are compared."""
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
    newer_than: str | None = None
    """A call that all ABIs have: calls with a higher number match too, except private ones."""


def program(rules: Sequence[Rule], abis: Sequence[Abi]) -> bytes:
    """Compile `rules` for all `abis`, which are of one byte order, to an array of struct sock_filter (linux/filter.h).

    Calls with higher numbers than the newest one of an ABI fail with ENOSYS, as in older kernels. All other calls
    without a rule, and those of other ABIs, are allowed. Raises ValueError if the byte orders differ, and struct.error
    if the rules of one ABI need a jump over more than 255 instructions.
    """
    (little_endian,) = {abi.little_endian for abi in abis}
    block = [_load(_ARCH_AT)]
    for abi in abis:
        calls = [_load(_NUMBER_AT), *(instruction for rule in rules for instruction in _rule(rule, abi))]
        if abi.newest is not None:
            calls += _refuse_newer(abi.newest)
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

_OWN_NUMBERS = 0x10000
"""A power of two above the numbers of all calls, and below 0xF0000, where arm's private calls begin."""


def _load(offset: int) -> _Instruction:
    return (0x20, 0, 0, offset)  # BPF_LD | BPF_W | BPF_ABS


def _mask(bits: int) -> _Instruction:
    return (0x54, 0, 0, bits)  # BPF_ALU | BPF_AND | BPF_K


def _answer(value: int) -> _Instruction:
    return (0x06, 0, 0, value)  # BPF_RET | BPF_K


def _jump_if_equal(value: int, yes: int, no: int) -> _Instruction:
    return (0x15, yes, no, value)  # BPF_JMP | BPF_JEQ | BPF_K, skipping that many instructions


def _jump_if_above(value: int, yes: int, no: int) -> _Instruction:
    return (0x25, yes, no, value)  # BPF_JMP | BPF_JGT | BPF_K


def _when(values: Sequence[int], then: _Block) -> _Block:
    """Return a block that runs `then` if the accumulator is one of `values`, and else skips it."""
    last = len(values) - 1
    tests = [_jump_if_equal(value, last - i, 0 if i < last else len(then)) for i, value in enumerate(values)]
    return [*tests, *then] if tests else []


def _unless(values: Sequence[int], then: _Block) -> _Block:
    """Return a block that runs `then` if the accumulator is none of `values`, and else skips it."""
    last = len(values) - 1
    return [*(_jump_if_equal(value, last - i + len(then), 0) for i, value in enumerate(values)), *then]


def _refuse_newer(newest: int) -> _Block:
    """Return a block that answers ENOSYS to the numbers above `newest`, but not to arm's private ones and x32's."""
    end = (newest | _OWN_NUMBERS - 1) + 1
    # BPF_JMP | BPF_JGT | BPF_K, and BPF_JMP | BPF_JGE | BPF_K
    return [(0x25, 0, 2, newest), (0x35, 1, 0, end), _answer(refuse(errno.ENOSYS))]


def _rule(rule: Rule, abi: Abi) -> _Block:
    then = [_answer(rule.answer)]
    if argument := rule.argument:
        # Arguments have 64 bits, of which the kernel uses the low 32 for these calls.
        low = _ARGUMENTS_AT + 8 * argument.position + (0 if abi.little_endian else 4)
        fits = _when if argument.among else _unless
        then = [_load(low), _mask(argument.mask), *fits(argument.values, then), _load(_NUMBER_AT)]
    block = _when([abi.numbers[call] for call in rule.calls if call in abi.numbers], then)
    if rule.newer_than:
        public = then if abi.private is None else [_jump_if_above(abi.private - 1, len(then), 0), *then]
        block += [_jump_if_above(abi.numbers[rule.newer_than], 0, len(public)), *public]
    return block
