"""The processors that the assembler knows: the instructions for each of its operations."""

from __future__ import annotations

import struct
from typing import ClassVar

from provisioner.launch.assembler import FRAME, Assembler, Operand


class _Intel(Assembler):
    """x86: rax and rcx are scratch, rbp is the frame. 64 bits put a REX prefix in front."""

    _rex: ClassVar[bytes] = b""
    _scratch = (0, 1)

    def _start(self) -> None:
        self._code += self._rex + b"\x89\xe0"  # mov eax, esp
        self._code += self._rex + b"\x81\xec" + struct.pack("<i", FRAME)  # sub esp, FRAME
        self._code += self._rex + b"\x89\xe5"  # mov ebp, esp

    def _load_register(self, register: int, value: Operand) -> None:
        low, prefix = register & 7, self._prefix(register, value)
        if isinstance(value, int):  # mov r, imm32, its sign extended
            self._code += prefix + bytes([0xC7, 0xC0 | low]) + struct.pack("<i", value)
        else:  # mov r, [ebp + slot]
            self._code += prefix + bytes([0x8B, 0x85 | low << 3]) + struct.pack("<i", self._slot(value))

    def _prefix(self, register: int, value: Operand) -> bytes:
        if not self._rex:
            return b""
        extended = (1 if isinstance(value, int) else 4) if register > 7 else 0  # REX.B, REX.R
        return bytes([0x48 | extended])

    def _save(self, variable: str) -> None:
        self._code += self._rex + b"\x89\x85" + struct.pack("<i", self._slot(variable))

    def _base(self) -> None:
        self._code += self._rex + b"\x89\xe8"

    def _fetch(self, offset: int, size: int) -> None:
        operation = {1: b"\x0f\xb6\x80", 4: b"\x8b\x80", 8: b"\x48\x8b\x80"}[size]  # movzx, mov, mov
        self._code += operation + struct.pack("<i", offset)

    def _put(self, offset: int, size: int) -> None:
        operation = {2: b"\x66\x89\x81", 4: b"\x89\x81", 8: b"\x48\x89\x81"}[size]
        self._code += operation + struct.pack("<i", offset)

    def _operate(self, operation: str) -> None:
        self._code += self._rex + {"add": b"\x01\xc8", "and": b"\x21\xc8", "subtract": b"\x29\xc8"}[operation]

    def _shift(self, bits: int) -> None:
        self._code += self._rex + b"\xc1\xe8" + bytes([bits])

    def _compare(self) -> None:
        self._code += self._rex + b"\x39\xc8"

    def _jump_size(self, condition: str) -> int:
        return 5 if condition == "always" else 6

    def _patch(self, code: bytearray, at: int, condition: str, distance: int) -> None:
        operation = {"always": b"\xe9", "==": b"\x0f\x84", "!=": b"\x0f\x85", "<": b"\x0f\x8c", ">=": b"\x0f\x8d"}
        size = self._jump_size(condition)
        code[at : at + size] = operation[condition] + struct.pack("<i", distance - size)


class Amd64(_Intel):
    """x86-64 (System V ABI, AMD64 supplement)."""

    machine, word, _rex = 62, 8, b"\x48"
    _arguments = (7, 6, 2, 10, 8)  # rdi rsi rdx r10 r8

    def _system_call(self, number: int) -> None:
        self._load_register(0, number)
        self._code += b"\x0f\x05"


class I386(_Intel):
    """32-bit x86."""

    machine, word = 3, 4
    _arguments = (3, 1, 2, 6, 7)  # ebx ecx edx esi edi

    def _system_call(self, number: int) -> None:
        self._load_register(0, number)
        self._code += b"\xcd\x80"


class _Fixed(Assembler):
    """A processor whose instructions have 32 bits."""

    def _emit(self, *instructions: int) -> None:
        self._code += struct.pack(f"<{len(instructions)}I", *instructions)

    def _jump_size(self, condition: str) -> int:
        return 4


class Arm64(_Fixed):
    """AArch64: x0 and x9 are scratch, x19 is the frame."""

    machine, word = 183, 8
    _scratch, _arguments = (0, 9), (0, 1, 2, 3, 4)

    def _start(self) -> None:
        self._emit(0x910003E0)  # mov x0, sp
        self._emit(0xD14003FF | (FRAME >> 12) << 10)  # sub sp, sp, FRAME
        self._emit(0x910003F3)  # mov x19, sp

    def _load_register(self, register: int, value: Operand) -> None:
        if isinstance(value, int):  # movz or movn, movk
            low, high = value & 0xFFFF, value >> 16 & 0xFFFF
            self._emit((0x92800000 | (~low & 0xFFFF) << 5 if value < 0 else 0xD2800000 | low << 5) | register)
            self._emit(0xF2A00000 | high << 5 | register)
        else:
            self._emit(0xF9400000 | self._slot(value) // 8 << 10 | 19 << 5 | register)

    def _save(self, variable: str) -> None:
        self._emit(0xF9000000 | self._slot(variable) // 8 << 10 | 19 << 5)

    def _base(self) -> None:
        self._emit(0xAA1303E0)  # mov x0, x19

    def _fetch(self, offset: int, size: int) -> None:
        self._emit({1: 0x39400000, 4: 0xB9400000, 8: 0xF9400000}[size] | offset // size << 10)

    def _put(self, offset: int, size: int) -> None:
        self._emit({2: 0x79000000, 8: 0xF9000000}[size] | offset // size << 10 | 9 << 5)

    def _operate(self, operation: str) -> None:
        self._emit({"add": 0x8B000000, "and": 0x8A000000, "subtract": 0xCB000000}[operation] | 9 << 16)

    def _shift(self, bits: int) -> None:
        self._emit(0xD340FC00 | bits << 16)

    def _compare(self) -> None:
        self._emit(0xEB00001F | 9 << 16)

    def _system_call(self, number: int) -> None:
        self._load_register(8, number)
        self._emit(0xD4000001)

    def _patch(self, code: bytearray, at: int, condition: str, distance: int) -> None:
        if condition == "always":
            jump = 0x14000000 | distance // 4 & 0x3FFFFFF
        else:
            jump = 0x54000000 | (distance // 4 & 0x7FFFF) << 5 | {"==": 0, "!=": 1, "<": 11, ">=": 10}[condition]
        struct.pack_into("<I", code, at, jump)


class Arm(_Fixed):
    """32-bit ARM from version 4 on (EABI): r0 and r9 are scratch, r11 is the frame."""

    machine, word, flags = 40, 4, 0x05000000
    _scratch, _arguments = (0, 9), (0, 1, 2, 3, 4)

    def _start(self) -> None:
        self._load_register(9, FRAME)
        self._emit(0xE1A0000D, 0xE04DD009, 0xE1A0B00D)  # mov r0, sp; sub sp, sp, r9; mov r11, sp

    def _load_register(self, register: int, value: Operand) -> None:
        if isinstance(value, int):  # ldr r, [pc]; b over the number
            self._emit(0xE59F0000 | register << 12, 0xEA000000, value & 0xFFFFFFFF)
        else:
            self._emit(0xE59B0000 | register << 12 | self._slot(value))

    def _save(self, variable: str) -> None:
        self._emit(0xE58B0000 | self._slot(variable))

    def _base(self) -> None:
        self._emit(0xE1A0000B)

    def _fetch(self, offset: int, size: int) -> None:
        self._emit({1: 0xE5D00000, 4: 0xE5900000}[size] | offset)

    def _put(self, offset: int, size: int) -> None:
        self._emit(0xE5890000 | offset if size == 4 else 0xE1C900B0 | (offset >> 4) << 8 | offset & 15)

    def _operate(self, operation: str) -> None:
        self._emit({"add": 0xE0800009, "and": 0xE0000009, "subtract": 0xE0400009}[operation])

    def _shift(self, bits: int) -> None:
        self._emit(0xE1A00020 | bits << 7)

    def _compare(self) -> None:
        self._emit(0xE1500009)

    def _system_call(self, number: int) -> None:
        self._load_register(7, number)
        self._emit(0xEF000000)

    def _patch(self, code: bytearray, at: int, condition: str, distance: int) -> None:
        when = {"always": 14, "==": 0, "!=": 1, "<": 11, ">=": 10}[condition]
        struct.pack_into("<I", code, at, when << 28 | 0x0A000000 | (distance - 8) // 4 & 0xFFFFFF)


class Riscv64(_Fixed):
    """RV64I: a0 and t0 are scratch, s0 is the frame."""

    machine, word = 243, 8
    _scratch, _arguments = (10, 5), (10, 11, 12, 13, 14)

    def _start(self) -> None:
        self._load_register(5, FRAME)
        self._emit(0x00010513, 0x40510133, 0x00010413)  # mv a0, sp; sub sp, sp, t0; mv s0, sp

    def _load_register(self, register: int, value: Operand) -> None:
        if isinstance(value, int):  # lui, addiw
            high = value + 0x800 >> 12 & 0xFFFFF
            self._emit(high << 12 | register << 7 | 0x37)
            self._emit((value & 0xFFF) << 20 | register << 15 | register << 7 | 0x1B)
        else:
            self._emit(self._slot(value) << 20 | 8 << 15 | 3 << 12 | register << 7 | 0x03)

    def _store(self, base: int, offset: int, width: int) -> None:
        self._emit((offset >> 5) << 25 | 10 << 20 | base << 15 | width << 12 | (offset & 31) << 7 | 0x23)

    def _save(self, variable: str) -> None:
        self._store(8, self._slot(variable), 3)

    def _base(self) -> None:
        self._emit(0x00040513)  # mv a0, s0

    def _fetch(self, offset: int, size: int) -> None:
        self._emit(offset << 20 | 10 << 15 | {1: 4, 4: 6, 8: 3}[size] << 12 | 10 << 7 | 0x03)

    def _put(self, offset: int, size: int) -> None:
        self._store(5, offset, {2: 1, 8: 3}[size])

    def _operate(self, operation: str) -> None:
        code = {"add": 0, "and": 7 << 12, "subtract": 32 << 25}[operation]
        self._emit(code | 5 << 20 | 10 << 15 | 10 << 7 | 0x33)

    def _shift(self, bits: int) -> None:
        self._emit(bits << 20 | 10 << 15 | 5 << 12 | 10 << 7 | 0x13)

    def _compare(self) -> None:
        """Nothing: jumps compare."""

    def _system_call(self, number: int) -> None:
        self._load_register(17, number)
        self._emit(0x00000073)

    def _jump_size(self, condition: str) -> int:
        return 4 if condition == "always" else 8

    def _patch(self, code: bytearray, at: int, condition: str, distance: int) -> None:
        if condition != "always":  # a branch reaches 4 KiB only: the opposite one goes past a jump
            opposite = {"==": 1, "!=": 0, "<": 5, ">=": 4}[condition]
            struct.pack_into("<I", code, at, 5 << 20 | 10 << 15 | opposite << 12 | 8 << 7 | 0x63)
            at, distance = at + 4, distance - 4
        bits = (distance >> 20 & 1) << 31 | (distance >> 1 & 0x3FF) << 21
        bits |= (distance >> 11 & 1) << 20 | (distance >> 12 & 0xFF) << 12
        struct.pack_into("<I", code, at, bits | 0x6F)
