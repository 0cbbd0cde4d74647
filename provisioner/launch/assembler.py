"""A small assembler: writes one program of a few operations as machine code for one of five processors.

Variables live in a frame on the stack and every operation loads and stores them, so that no processor needs more than
two scratch registers. The result is a static ELF executable (elf(5)) with one segment that is read and executed.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

FRAME = 0x9000
"""The size of the frame in bytes. Variables have its first 512 bytes; the program uses the rest."""
_VARIABLES = 512
_ADDRESS = 0x400000
_PAGE = 0x10000
"""The largest page size of the kernels for these processors."""

Operand = str | int
"""The name of a variable, or a number that fits into 31 bits with its sign."""


class Assembler(ABC):
    """Collects a program. Each method appends one operation; labels may be used before they are placed.

    A word has 4 or 8 bytes. Comparisons are signed.
    """

    machine: ClassVar[int]
    """The ELF header's e_machine."""
    word: ClassVar[int]
    """The size of a pointer in bytes."""
    flags: ClassVar[int] = 0
    """The ELF header's e_flags."""

    def __init__(self, calls: Mapping[str, int]) -> None:
        self._calls = calls
        """Numbers of system calls by name."""
        self._code = bytearray()
        self._slots: dict[str, int] = {}
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str, str]] = []
        self._start()
        self._save("stack")

    # Operations

    def copy(self, variable: str, value: Operand) -> None:
        """Set a variable to a number or to another variable."""
        self._load(0, value)
        self._save(variable)

    def add(self, variable: str, value: Operand) -> None:
        """Add to a variable."""
        self._binary("add", variable, value)

    def subtract(self, variable: str, value: Operand) -> None:
        """Subtract from a variable."""
        self._binary("subtract", variable, value)

    def mask(self, variable: str, bits: int) -> None:
        """Set a variable to its bitwise AND with `bits`."""
        self._binary("and", variable, bits)

    def shift_right(self, variable: str, bits: int) -> None:
        """Shift a variable to the right, filling with zeros."""
        self._load(0, variable)
        self._shift(bits)
        self._save(variable)

    def read(self, variable: str, pointer: str, offset: int = 0, size: int = 0) -> None:
        """Set a variable to a word in memory at `pointer + offset`, or to `size` bytes (1 or 4)."""
        self._load(0, pointer)
        self._fetch(offset, size or self.word)
        self._save(variable)

    def write(self, pointer: str, offset: int, value: Operand, size: int = 0) -> None:
        """Write a word, or `size` bytes (2), to memory at `pointer + offset`."""
        self._load(0, value)
        self._load(1, pointer)
        self._put(offset, size or self.word)

    def frame(self, variable: str, offset: int) -> None:
        """Set a variable to an address in the frame, `offset` bytes after the variables."""
        self._base()
        self._save(variable)
        self.add(variable, _VARIABLES + offset)

    def call(self, name: str, *arguments: Operand) -> None:
        """Make a system call and set the variable `result` to its result, a negative errno after an error."""
        for position, argument in enumerate(arguments):
            self._argument(position, argument)
        self._system_call(self._calls[name])
        self._save("result")

    def label(self, name: str) -> None:
        """Place a label here."""
        self._labels[name] = len(self._code)

    def jump(self, label: str) -> None:
        """Jump to a label."""
        self._jump("always", label)

    def jump_if(self, variable: str, condition: str, value: Operand, label: str) -> None:
        """Jump to a label if the variable is `==`, `!=`, `<` or `>=` the value."""
        self._load(0, variable)
        self._load(1, value)
        self._compare()
        self._jump(condition, label)

    def executable(self) -> bytes:
        """Return the ELF file."""
        code = bytearray(self._code)
        for at, condition, label in self._jumps:
            self._patch(code, at, condition, self._labels[label] - at)
        wide = self.word == 8
        header = struct.Struct("<16sHHIQQQIHHHHHH" if wide else "<16sHHIIIIIHHHHHH")
        segment = struct.Struct("<IIQQQQQQ" if wide else "<IIIIIIII")
        size = header.size + 2 * segment.size
        # Its last byte (EI_PAD) is unused. As a newline, it ends the first line for start.sh, which reads that line.
        identity = bytes([0x7F, *b"ELF", 2 if wide else 1, 1, 1]).ljust(15, b"\0") + b"\n"
        sizes = (header.size, segment.size, 2, 0, 0, 0)
        total = size + len(code)
        load, stack = (1, 5, total, _PAGE, _ADDRESS), (0x6474E551, 6, 0, 16, 0)  # PT_LOAD r-x, PT_GNU_STACK rw-

        def packed(kind: int, rights: int, length: int, alignment: int, address: int) -> bytes:
            if wide:
                return segment.pack(kind, rights, 0, address, address, length, length, alignment)
            return segment.pack(kind, 0, address, address, length, length, rights, alignment)

        entry = _ADDRESS + size
        top = header.pack(identity, 2, self.machine, 1, entry, header.size, 0, self.flags, *sizes)
        return top + packed(*load) + packed(*stack) + bytes(code)

    # For the processors

    def _slot(self, variable: str) -> int:
        return self._slots.setdefault(variable, len(self._slots) * 8)

    def _jump(self, condition: str, label: str) -> None:
        self._jumps.append((len(self._code), condition, label))
        self._code += bytes(self._jump_size(condition))

    def _binary(self, operation: str, variable: str, value: Operand) -> None:
        self._load(0, variable)
        self._load(1, value)
        self._operate(operation)
        self._save(variable)

    def _load(self, register: int, value: Operand) -> None:
        """Load a number or a variable into scratch register 0 or 1."""
        self._load_register(self._scratch[register], value)

    def _argument(self, position: int, value: Operand) -> None:
        self._load_register(self._arguments[position], value)

    _scratch: ClassVar[tuple[int, int]]
    _arguments: ClassVar[tuple[int, ...]]

    @abstractmethod
    def _start(self) -> None:
        """Reserve the frame, and set scratch register 0 to the initial stack pointer."""

    @abstractmethod
    def _load_register(self, register: int, value: Operand) -> None: ...

    @abstractmethod
    def _save(self, variable: str) -> None:
        """Store scratch register 0, which is also the register of system calls' results, in a variable."""

    @abstractmethod
    def _base(self) -> None:
        """Set scratch register 0 to the address of the frame."""

    @abstractmethod
    def _fetch(self, offset: int, size: int) -> None: ...

    @abstractmethod
    def _put(self, offset: int, size: int) -> None: ...

    @abstractmethod
    def _operate(self, operation: str) -> None: ...

    @abstractmethod
    def _shift(self, bits: int) -> None: ...

    @abstractmethod
    def _compare(self) -> None: ...

    @abstractmethod
    def _system_call(self, number: int) -> None: ...

    @abstractmethod
    def _jump_size(self, condition: str) -> int: ...

    @abstractmethod
    def _patch(self, code: bytearray, at: int, condition: str, distance: int) -> None:
        """Write the jump at `at`, whose target is `distance` bytes from there."""
