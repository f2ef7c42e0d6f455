"""Pre-copy: most of a program's memory goes out while it still runs.

A userfaultfd of the program itself, taken by us so that the program has none, notes which pages
are written to (WP_ASYNC); nothing is asked of the program, which pays about 1 us for the first
write to a page in a round. Round by round what was written since is sent again, until a round is
so short, or the next so long, that the rest may as well go with the program stopped. Linux 6.7;
before that there are no rounds.

Only private anonymous memory of the first process is sent so, but for its stacks that grow. The
destination may keep what it has been sent where there still is such memory at the end.
"""

from __future__ import annotations

import os
import time

from stubs.abi import x86_64 as nr
from stubs.abi.mman import MAP_ANONYMOUS, MAP_PRIVATE
from stubs.abi.pagemap import (
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PAGE_IS_WRITTEN,
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    Scan,
)
from stubs.abi.pidfd import pidfd_getfd, pidfd_open
from stubs.abi.userfaultfd import UFFD_USER_MODE_ONLY, register, track
from stubs.migration.areas import advice_of, flags_of, is_anonymous, locked_of, protection_of
from stubs.migration.image import Area
from stubs.migration.injection import visit
from stubs.migration.intervals import merged, within, without
from stubs.migration.pages import blocks
from stubs.migration.proc import read_vmas
from stubs.migration.stream import Layout, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple

    from stubs.migration.proc import Vma
    from stubs.migration.stream import Write

    class Round(NamedTuple):
        """What was sent in one round, and how long that took."""

        bytes: int
        seconds: float

    # Sends these (start, bytes) of the first process; returns those of them that were there.
    SendPages = Callable[[list[tuple[int, int]]], list[tuple[int, int]]]
else:
    from collections import namedtuple

    Round = namedtuple("Round", "bytes seconds")

# A program that has less is sent as fast while it stands still.
LEAST_BYTES = 4 << 20

# The rest goes with the program stopped when a round was as short as this, when the next would not
# be much shorter than the last, or after so many.
_SHORT_BYTES = 2 << 20
_SHORT_SECONDS = 0.05
_SHRINKS = 0.9
_MOST_ROUNDS = 8

# How fast a link is taken to be until that is known, bytes a second.
_LINK = 120e6


class _Pace:
    """How fast memory goes out, from the beginning on."""

    def __init__(self) -> None:
        """Begin as if _LINK had been seen for a second."""
        self._begun = time.monotonic() - 1.0
        self._bytes = _LINK

    def note(self, size: int) -> None:
        """Note that so much more has gone."""
        self._bytes += size

    def seconds(self, size: int) -> float:
        """Return how long so much will take."""
        return size * (time.monotonic() - self._begun) / self._bytes


class Precopy:
    """The pre-copy of one process."""

    def __init__(self, pid: int) -> None:
        """Begin to note what it writes to. OSError where the kernel cannot, or it has ended."""
        self._pid = pid
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC
        anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
        self._scan = Scan(PAGE_IS_WRITTEN, PAGE_IS_PFNZERO, anyof, flags)
        self._tracked: list[tuple[int, int]] = []
        self.given: list[tuple[int, int]] = []  # (start, end) of all that the destination has
        self.sent: list[tuple[int, int]] = []  # of that, what is tracked since it was sent
        self.written: list[tuple[int, int]] = []  # of that, what it has not as it is now
        self._missing: list[tuple[int, int]] = []  # written to, but not sent since
        self._fd = -1
        try:
            self._fd = _take_userfaultfd(pid)
            track(self._fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Note no more; the program has nothing of it left. This takes 40 ms for 1 GB."""
        for fd in (self._fd, self._pagemap):
            if fd >= 0:
                os.close(fd)
        self._fd = self._pagemap = -1

    def run(self, write: Write, send_pages: SendPages, patience: float = 0.0) -> list[Round]:
        """Send the memory, round by round, until the rest can go within `patience`, seconds."""
        vmas = [vma for vma in read_vmas(self._pid) if self._track(vma)]
        self._tracked = [(vma.start, vma.end) for vma in vmas]
        send(write, Layout([_area(vma).encode() for vma in vmas]))
        rounds: list[Round] = []
        pace = _Pace()
        while len(rounds) < _MOST_ROUNDS:
            begun = time.monotonic()
            self._look()
            if rounds and _size(self._missing) > _SHRINKS * rounds[-1].bytes:
                break
            sent = self._send(send_pages, pace, patience)
            rounds.append(Round(sent, time.monotonic() - begun))
            if self._missing or sent < _SHORT_BYTES or rounds[-1].seconds < _SHORT_SECONDS:
                break
        return rounds

    def send_rest(self, send_pages: SendPages) -> None:
        """Send what is missing; the process has just been stopped, and may be looked into yet."""
        self._look()
        self._send(send_pages, _Pace(), 0.0)

    def finish(self) -> None:
        """Find out what was written to since; nobody does so any more."""
        self.written = merged(self._collect())

    def _look(self) -> None:
        """Find out what is missing now."""
        self._missing = merged(self._missing + self._collect())
        self.sent = without(self.sent, self._missing)

    def _send(self, send_pages: SendPages, pace: _Pace, patience: float) -> int:
        """Send what is missing, until the rest can go within `patience`; returns the bytes."""
        there: list[tuple[int, int]] = []
        tried: list[tuple[int, int]] = []
        left = _size(self._missing)
        for block in blocks((start, end - start) for start, end in self._missing):
            if pace.seconds(left) < patience:
                break
            # What is not there any more is not sent.
            there += [(start, start + size) for start, size in send_pages(block)]
            tried += [(start, start + size) for start, size in block]
            size = sum(size for _, size in block)
            pace.note(size)
            left -= size
        self._missing = without(self._missing, merged(tried))
        self.sent = merged(self.sent + there)
        self.given = merged(self.given + there)
        return _size(there)

    def _track(self, vma: Vma) -> bool:
        if not is_anonymous(vma):
            return False
        try:
            register(self._fd, vma.start, vma.end)
        except OSError:
            return False  # unmapped meanwhile, or of a kind that is not tracked
        return True

    def _collect(self) -> list[tuple[int, int]]:
        """Return what was written to since the last time; writes are noted anew."""
        now = [(vma.start, vma.end) for vma in read_vmas(self._pid, "maps") if is_anonymous(vma)]
        found = []
        for start, end in within(now, self._tracked):
            try:
                found += self._scan.run(self._pagemap, start, end)
            except OSError:
                # It has been mapped anew, and is not tracked: all of it goes in the end, for some
                # of it may have been noted anew without our being told.
                self._tracked = without(self._tracked, [(start, end)])
                self.sent = without(self.sent, [(start, end)])
        return found


def _size(ranges: list[tuple[int, int]]) -> int:
    return sum(end - start for start, end in ranges)


def _take_userfaultfd(pid: int) -> int:
    """Return a userfaultfd of the memory of a process; it has none itself afterwards."""
    with visit(pid) as leader:
        theirs = leader.call(nr.NR_userfaultfd, os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
        pidfd = pidfd_open(pid)
        try:
            return pidfd_getfd(pidfd, theirs)
        finally:
            os.close(pidfd)
            leader.call(nr.NR_close, theirs)


def _area(vma: Vma) -> Area:
    return Area(
        start=vma.start,
        end=vma.end,
        protection=protection_of(vma),
        flags=flags_of(vma) | MAP_PRIVATE | MAP_ANONYMOUS,
        advice=advice_of(vma),
        open=-1,
        shared=-1,
        offset=0,
        locked=locked_of(vma),
    )


def to_send(
    precopy: Precopy, vmas: list[Vma], own: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (what is to be sent, what is to be dropped) as (start, end) ranges.

    `own` are all own pages of the process now, `vmas` its mappings.
    """
    kept = [(vma.start, vma.end) for vma in vmas if is_anonymous(vma)]
    there = without(within(precopy.sent, kept), precopy.written)
    return without(own, there), within(without(precopy.given, own), kept)
