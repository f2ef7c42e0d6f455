"""The executor: a few bytes of machine code (x86-64) that make a table of system calls.

It is put into a process that we trace, so that hundreds of calls cost one stop. A table does not
know where it will lie: bytes and rooms among the arguments become addresses when it is laid out.
Nothing is pushed on the stack: a thread may run this before it has one.

    scratch + 0     the code; rbx counts, rbp is the row
    scratch + 64    rows of 64 bytes: number, six arguments, result
    behind them     what the arguments point to
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Argument: TypeAlias = "int | bytes | Room | list[Argument]"

# loop: mov rax,[rbp]; mov rdi,[rbp+8]; mov rsi,[rbp+16]; mov rdx,[rbp+24]; mov r10,[rbp+32];
# mov r8,[rbp+40]; mov r9,[rbp+48]; syscall; mov [rbp+56],rax; add rbp,64; dec rbx; jnz loop; int3
CODE = bytes.fromhex(
    "488b4500 488b7d08 488b7510 488b5518 4c8b5520 4c8b4528 4c8b4d30"
    "0f05 48894538 4883c540 48ffcb 75d5 cc"
)
SYSCALL = b"\x0f\x05"
SYSCALL_AT = CODE.index(SYSCALL)

ROWS_AT = 64
SCRATCH_BYTES = 256 << 10

_ROW = struct.Struct("=8Q")
_RESULT = struct.Struct("=56xq")
_MASK = 0xFFFFFFFFFFFFFFFF
_MOST_ERRNO = 4095


class Room:
    """Bytes that a call reads and may fill: `data` is what is there after it."""

    def __init__(self, data: bytes | int) -> None:
        """Give what is there before the call, or how many zero bytes."""
        self.data = data if isinstance(data, bytes) else bytes(data)


class Table:
    """System calls to be made one after another, whatever becomes of each.

    An argument is a number; bytes, a string that ends in NUL; a Room; or a list of such, an array
    of 64-bit words, as which most structures of the kernel can be written. All but numbers are
    passed by their address.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.rows: list[tuple[int, tuple[Argument, ...]]] = []
        self.optional: set[int] = set()
        self.results: list[int] = []
        self._rooms: list[tuple[Room, int]] = []

    def call(self, number: int, *arguments: Argument, optional: bool = False) -> int:
        """Add a call and return its row; one that is not `optional` must succeed."""
        if optional:
            self.optional.add(len(self.rows))
        self.rows.append((number, arguments))
        return len(self.rows) - 1

    def failure(self) -> tuple[int, int] | None:
        """Return (number of the call, errno) of the first that failed and should not have."""
        for row, result in enumerate(self.results):
            if -_MOST_ERRNO <= result < 0 and row not in self.optional:
                return self.rows[row][0], -result
        return None

    def parts(self) -> list[tuple[int, int]]:
        """Return from which to which row a scratch has room for at once."""
        found, first, size = [], 0, 0
        for row, (_, arguments) in enumerate(self.rows):
            needed = _ROW.size + sum(_room_of(value) for value in arguments)
            if size + needed > SCRATCH_BYTES - ROWS_AT:
                found.append((first, row))
                first, size = row, 0
            size += needed
        return [*found, (first, len(self.rows))]

    def lay_out(self, scratch: int, part: tuple[int, int]) -> bytes:
        """Return what is to be at `scratch` + ROWS_AT."""
        rows = self.rows[part[0] : part[1]]
        image = bytearray(_ROW.size * len(rows))
        self._rooms.clear()
        for row, (number, arguments) in enumerate(rows):
            values = [self._place(image, scratch + ROWS_AT, value) for value in arguments]
            _ROW.pack_into(image, _ROW.size * row, number, *values, *[0] * (7 - len(values)))
        return bytes(image)

    def _place(self, image: bytearray, base: int, value: Argument) -> int:
        """Return the word for an argument; what it points to is added to the image."""
        if isinstance(value, int):
            return value & _MASK
        at = len(image)
        image += bytes(_size_of(value))
        if isinstance(value, list):
            words = [self._place(image, base, each) for each in value]
            struct.pack_into(f"={len(words)}Q", image, at, *words)
        elif isinstance(value, Room):
            image[at : at + len(value.data)] = value.data
            self._rooms.append((value, at))
        else:
            image[at : at + len(value)] = value
        return base + at

    def take(self, part: tuple[int, int], image: bytes) -> None:
        """Take the results, and what the calls left in the rooms, from what `lay_out` became."""
        self.results += [
            _RESULT.unpack_from(image, _ROW.size * row)[0] for row in range(part[1] - part[0])
        ]
        for room, at in self._rooms:
            room.data = image[at : at + len(room.data)]


def _size_of(value: bytes | Room | list[Argument]) -> int:
    """Return the bytes that it takes itself, by 16."""
    if isinstance(value, list):
        size = 8 * len(value)
    else:
        size = len(value.data) if isinstance(value, Room) else len(value) + 1
    return size + -size % 16


def _room_of(value: Argument) -> int:
    """Return the bytes that it takes with all that it points to."""
    if isinstance(value, int):
        return 0
    below = sum(_room_of(each) for each in value) if isinstance(value, list) else 0
    return _size_of(value) + below
