"""The content of shared memory at the source: each byte once, whoever has it mapped.

Memory that a process has a descriptor of is read by that, but for its holes. Otherwise it is
only seen where it is mapped: mincore(2) tells which of its pages there are, for to read the others
would make them.
"""

from __future__ import annotations

import errno
import os

from stubs.abi import x86_64 as nr
from stubs.abi.mman import PAGE_SIZE
from stubs.abi.pidfd import pidfd_getfd
from stubs.migration.executor import Room, Table
from stubs.migration.image import OPEN_MEMORY, Area, OpenFile
from stubs.migration.intervals import without
from stubs.migration.pages import MemoryReader
from stubs.migration.stream import BLOCK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NamedTuple

    from stubs.migration.image import Process
    from stubs.migration.proc import Vma
    from stubs.migration.tracee import Tracee

    class View(NamedTuple):
        """Shared memory as a process has it mapped; `ranges` (start, end) have pages."""

        shared: int
        pid: int
        start: int
        offset: int
        ranges: list[tuple[int, int]]
else:
    from collections import namedtuple

    View = namedtuple("View", "shared pid start offset ranges")

# What one mincore(2) is asked about: its answer has a byte for each page.
_PIECE = 128 << 20


def look(tracee: Tracee, vmas: list[Vma], areas: list[Area]) -> list[View]:
    """Return what shared memory a process has mapped, by calls that it makes."""
    swapped = {vma.start for vma in vmas if vma.swapped}
    found = []
    for area in areas:
        if area.shared < 0:
            continue
        # A page in swap space is not told of.
        ranges = [(area.start, area.end)]
        if area.start not in swapped:
            ranges = _resident(tracee, area.start, area.end)
        found.append(View(area.shared, tracee.pid, area.start, area.offset, ranges))
    return found


def _resident(tracee: Tracee, start: int, end: int) -> list[tuple[int, int]]:
    table, rooms = Table(), []
    for at in range(start, end, _PIECE):
        size = min(_PIECE, end - at)
        rooms.append(Room(size // PAGE_SIZE))
        table.call(nr.NR_mincore, at, size, rooms[-1])
    tracee.run(table)
    pages = b"".join([room.data for room in rooms])
    found: list[tuple[int, int]] = []
    at = 0
    while True:
        first = pages.find(1, at)
        if first < 0:
            return found
        at = pages.find(0, first)
        at = len(pages) if at < 0 else at
        found.append((start + first * PAGE_SIZE, start + at * PAGE_SIZE))


class Content:
    """Reads the shared memory of a frozen tree."""

    def __init__(self, processes: list[Process], opens: list[OpenFile], views: list[View]) -> None:
        """Take what was found out."""
        self._views = views
        self._holders: dict[int, tuple[int, int]] = {}
        for process in processes:
            for number, index in zip(process.descriptors[::3], process.descriptors[1::3]):
                if opens[index].kind == OPEN_MEMORY:
                    self._holders[opens[index].ref] = (process.pid, number)

    def read(self, shared: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of what is in one of them."""
        if shared in self._holders:
            yield from _read_file(*self._holders[shared])
            return
        done: list[tuple[int, int]] = []
        for view in self._views:
            if view.shared != shared:
                continue
            shift = view.offset - view.start
            ranges = [(start + shift, end + shift) for start, end in view.ranges]
            missing = without(ranges, done)
            done = sorted(done + missing)
            reader = MemoryReader(view.pid)
            for start, end in missing:
                for at in range(start, end, BLOCK_BYTES):
                    size = min(BLOCK_BYTES, end - at)
                    yield at, reader.read([(at - shift, size)])[1]
            reader.close()


def _read_file(pid: int, number: int) -> Iterator[tuple[int, bytes]]:
    pidfd = os.pidfd_open(pid)
    held = pidfd_getfd(pidfd, number)
    os.close(pidfd)
    # The program's own may be for writing only, and its offset is not ours to move.
    fd = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(held)
    try:
        at = 0
        while True:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(fd, at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(fd, min(BLOCK_BYTES, end - at), at)
                yield at, data
                at += len(data)
    finally:
        os.close(fd)
