"""Descriptors kept open for inodes, so that a request costs one system call and not four.

A cache has a limit and closes what was used least; what is `kept` counts apart and stays until
it is dropped. `age` closes what nobody used since the age before: a descriptor left open
would keep a disk from being unmounted.

A descriptor got from a cache may be used until the next call that may put one into it.
"""

from __future__ import annotations

import os
from collections import OrderedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class FdCache:
    """Descriptors by inode id."""

    def __init__(
        self,
        limit: int,
        close: Callable[[int, int], None] | None = None,
        keep_limit: int | None = None,
    ) -> None:
        """Hold at most `limit`; `close(id, fd)` closes one that leaves (os.close by default).

        Of the kept ones the oldest is given up when there are more than `keep_limit`.
        """
        self._limit = limit
        self._keep_limit = keep_limit
        self._close = close or _close
        self._fds: OrderedDict[int, int] = OrderedDict()
        self._kept: dict[int, int] = {}
        self._used: set[int] = set()

    def __len__(self) -> int:
        """Count the descriptors that come and go (not the kept ones)."""
        return len(self._fds)

    @property
    def kept(self) -> int:
        """How many stay until they are dropped."""
        return len(self._kept)

    def get(self, number: int) -> int | None:
        """Return the descriptor of this inode, if there is one."""
        fd = self._fds.get(number)
        if fd is None:
            return self._kept.get(number)
        self._fds.move_to_end(number)
        self._used.add(number)
        return fd

    def put(self, number: int, fd: int) -> int:
        """Take over `fd`, and return it."""
        while len(self._fds) >= self._limit:
            self._close(*self._fds.popitem(last=False))
        self._fds[number] = fd
        self._used.add(number)
        return fd

    def keep(self, number: int, fd: int | None = None) -> None:
        """Keep the descriptor of this inode (or take over `fd` as that) until it is dropped."""
        if fd is None:
            fd = self._fds.pop(number, None)
        if fd is None:
            return
        former = self._kept.get(number)
        if former is not None and former != fd:
            self._close(number, former)
        self._kept[number] = fd
        if self._keep_limit is not None and len(self._kept) > self._keep_limit:
            self.drop_kept(next(iter(self._kept)))

    def release(self, number: int) -> None:
        """Let a kept descriptor come and go again as others do."""
        fd = self._kept.pop(number, None)
        if fd is None:
            return
        if number in self._fds:
            self._close(number, fd)
        else:
            self.put(number, fd)

    def drop(self, number: int) -> None:
        """Close what there is for this inode."""
        self.drop_passing(number)
        self.drop_kept(number)

    def drop_kept(self, number: int) -> None:
        """Close what is kept for this inode."""
        fd = self._kept.pop(number, None)
        if fd is not None:
            self._close(number, fd)

    def drop_passing(self, number: int) -> None:
        """Close what there is for this inode unless it is kept."""
        fd = self._fds.pop(number, None)
        if fd is not None:
            self._close(number, fd)

    def age(self) -> bool:
        """Close what was not used since the last call; tell whether any is left."""
        for number in [number for number in self._fds if number not in self._used]:
            self._close(number, self._fds.pop(number))
        self._used.clear()
        return bool(self._fds)

    def empty(self) -> None:
        """Close all that come and go."""
        while self._fds:
            self._close(*self._fds.popitem(last=False))

    def close(self) -> None:
        """Close everything."""
        self.empty()
        while self._kept:
            self._close(*self._kept.popitem())


def _close(number: int, fd: int) -> None:
    os.close(fd)
