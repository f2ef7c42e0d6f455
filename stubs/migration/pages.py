"""Memory in blocks: which pages of a process are its own, read, packed, unpacked and written.

Own are the pages that no file has: anonymous ones, and those of private mappings that were written
to. A block is at most BLOCK_BYTES, of many ranges; each is compressed if a sample of it says that
this pays.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from array import array

from stubs.abi.mman import PAGE_SIZE
from stubs.abi.pagemap import (
    PAGE_IS_FILE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PM_FILE,
    PM_PRESENT,
    PM_SWAP,
    Scan,
)
from stubs.abi.uio import process_vm_readv, process_vm_writev
from stubs.migration import zstd
from stubs.migration.errors import RestoreError
from stubs.migration.stream import BLOCK_BYTES, RAW, ZLIB, ZSTD, Pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Range = tuple[int, int]  # start and bytes

# Below what process_vm_readv takes at once, and fewer than pages in a block.
_MOST_RANGES = 512

# How much of a block is compressed to see whether it pays.
_SAMPLE_BYTES = 8 << 10

# Bytes that go into each a second, on a common machine; what a link takes before it is measured
# (1 Gbit/s), and how much of what was measured is kept from one block to the next.
_ZLIB_SPEED, _ZSTD_SPEED = 150e6, 450e6
_LINK = 120e6
_MEMORY = 0.8

# How many entries of a pagemap are read at once where it cannot be scanned.
_ENTRIES = 1 << 16


class OwnPages:
    """Finds the pages that are a process's own."""

    def __init__(self, pid: int) -> None:
        """Open its pagemap."""
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
        self._scan = Scan(0, PAGE_IS_FILE | PAGE_IS_PFNZERO, anyof)
        # To tell a page of a file the kernel must look at each: four times as long.
        self._scan_anonymous = Scan(0, PAGE_IS_PFNZERO, anyof)
        self._scans = True

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def find(self, start: int, end: int, anonymous: bool = False) -> list[tuple[int, int]]:
        """Return (start, end) of the ranges of own pages between two addresses.

        `anonymous`: no page there can be of a file.
        """
        if self._scans:
            try:
                scan = self._scan_anonymous if anonymous else self._scan
                return scan.run(self._fd, start, end)
            except OSError:
                self._scans = False  # before Linux 6.7
        return list(self.read(start, end))

    def read(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the same from the pagemap itself, and zero pages too, which it does not tell."""
        first = 0
        for piece in range(start, end, _ENTRIES * PAGE_SIZE):
            count = min(_ENTRIES, (end - piece) // PAGE_SIZE)
            entries = array("Q", os.pread(self._fd, 8 * count, piece // PAGE_SIZE * 8))
            for number, entry in enumerate(entries):
                at = piece + number * PAGE_SIZE
                own = entry & (PM_PRESENT | PM_SWAP) and not entry & PM_FILE
                if own and not first:
                    first = at
                elif not own and first:
                    yield first, at
                    first = 0
        if first:
            yield first, end


def blocks(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    """Cut and gather ranges, so that each list is one block."""
    block: list[Range] = []
    room = BLOCK_BYTES
    for start, left in ranges:
        while left:
            size = min(left, room)
            block.append((start, size))
            start, left, room = start + size, left - size, room - size
            if not room or len(block) == _MOST_RANGES:
                yield block
                block, room = [], BLOCK_BYTES
    if block:
        yield block


class Packer:
    """Compresses blocks where that makes them arrive sooner."""

    def __init__(self, use_zstd: bool) -> None:
        """Use zstd if the other side has it, and we do."""
        self._zstd = zstd.load() if use_zstd else None
        self._bytes, self._seconds = _LINK, 1.0

    def note(self, size: int, seconds: float) -> None:
        """Note how long it took to hand over so many bytes."""
        self._bytes = self._bytes * _MEMORY + size
        self._seconds = self._seconds * _MEMORY + seconds

    def pack(self, data: bytes) -> tuple[int, bytes]:
        """Return (encoding, bytes)."""
        sample = data[:_SAMPLE_BYTES]
        ratio = len(zlib.compress(sample, 1)) / len(sample)
        speed = _ZLIB_SPEED if self._zstd is None else _ZSTD_SPEED
        if self._bytes / self._seconds > speed * (1 - ratio):
            return RAW, data
        if self._zstd is not None:
            return ZSTD, self._zstd.compress(data)
        return ZLIB, zlib.compress(data, 1)


class Unpacker:
    """The other end of a Packer."""

    def __init__(self) -> None:
        """Be ready for every encoding that this machine knows."""
        self._zstd = zstd.load()

    def unpack(self, encoding: int, size: int, data: bytes) -> bytes:
        """Return the `size` bytes of a block. RestoreError when it is broken."""
        if not 0 < size <= BLOCK_BYTES:
            raise RestoreError(f"a block of {size} bytes")
        try:
            if encoding == ZLIB:
                # No more than is wanted, whatever it would become.
                data = zlib.decompressobj().decompress(data, size)
            elif encoding == ZSTD and self._zstd is not None:
                data = self._zstd.decompress(data, size)
            elif encoding != RAW:
                raise RestoreError(f"a block in encoding {encoding}, which is not known here")
        except (zlib.error, ValueError) as error:
            raise RestoreError(f"a block is broken: {error}") from error
        if len(data) != size:
            raise RestoreError("a block is shorter than it says")
        return data


class MemoryReader:
    """Reads blocks of a stopped process, those pages too that it may not read itself."""

    def __init__(self, pid: int) -> None:
        """Take a buffer for one block."""
        self._pid = pid
        self._buffer = ctypes.create_string_buffer(BLOCK_BYTES)
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._memory)

    def read(self, block: list[Range]) -> tuple[list[Range], bytes]:
        """Return those ranges of a block that are there, and what is in them.

        Of a stopped process all are; one that runs may have unmapped some.
        """
        total = sum(size for _, size in block)
        try:
            done = process_vm_readv(self._pid, ctypes.addressof(self._buffer), block)
        except OSError:
            done = 0
        if done == total:
            return block, ctypes.string_at(self._buffer, total)
        found, parts = [], []
        for start, size in block:
            try:
                data = os.pread(self._memory, size, start)
            except OSError:
                continue
            # A file may end before its mapping does.
            whole = len(data) // PAGE_SIZE * PAGE_SIZE
            if whole:
                found.append((start, whole))
                parts.append(data[:whole])
        return found, b"".join(parts)


def write_pages(pid: int, message: Pages, data: bytes) -> None:
    """Put a block into a process. RestoreError when it does not fit there."""
    ranges = list(zip(message.ranges[::2], message.ranges[1::2]))
    if len(ranges) > _MOST_RANGES or sum(size for _, size in ranges) != len(data):
        raise RestoreError("the ranges of a block do not fit it")
    buffer = ctypes.create_string_buffer(data, len(data))
    try:
        done = process_vm_writev(pid, ctypes.addressof(buffer), ranges)
    except OSError:
        done = 0
    if done != len(data):
        _write_by_file(pid, ranges, data)


def _write_by_file(pid: int, ranges: list[Range], data: bytes) -> None:
    """Write what the process may not write itself."""
    fd = os.open(f"/proc/{pid}/mem", os.O_WRONLY | os.O_CLOEXEC)
    at = 0
    try:
        for start, size in ranges:
            if os.pwrite(fd, data[at : at + size], start) != size:
                raise RestoreError("a block is for memory that is not there")
            at += size
    except OSError as error:
        raise RestoreError(f"memory cannot be written: {error.strerror}") from error
    finally:
        os.close(fd)
