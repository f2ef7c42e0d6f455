"""Which body a process belongs to: told to home before the first request that it makes.

Home knows the bodies alone; what they start has pids of the node's. Looked up once for each
process, while it waits for the answer to its request, in the capsule's /proc.
"""

from __future__ import annotations

import os

from stubs.wire.messages import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.wire.codec import Message

# Processes remembered; beyond, all are met anew.
_MOST = 1 << 13
# No family is so deep; a loop in what we read would be endless.
_DEEPEST = 1000


class Families:
    """The processes that have made requests."""

    def __init__(
        self, proc: int, is_body: Callable[[int], bool], post: Callable[[Message], None]
    ) -> None:
        """Look in the directory open as `proc`."""
        self._proc = proc
        self._is_body = is_body
        self._post = post
        self.bodies: dict[int, int] = {}  # by process, 0: of none

    def meet(self, pid: int) -> None:
        """Tell home of a process that is new."""
        if len(self.bodies) >= _MOST:
            self.bodies.clear()
        if self._is_body(pid):
            self.bodies[pid] = pid
        else:
            body = self.bodies[pid] = self._body_of(pid)
            self._post(Family(pid, body))

    def _body_of(self, pid: int) -> int:
        for _ in range(_DEEPEST):
            pid = self._parent(pid)
            if pid <= 1:
                return 0
            if self._is_body(pid):
                return pid
        return 0

    def _parent(self, pid: int) -> int:
        """Return the parent of a process, 0 if it has gone.

        /proc/PID/stat would tell it, too, but waits for the end of an execve(2), which may be
        waiting for our answer.
        """
        try:
            fd = os.open(f"{pid}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except OSError:
            return 0
        try:
            text = os.read(fd, 4096)
        except ProcessLookupError:
            return 0
        finally:
            os.close(fd)
        found = text.partition(b"\nPPid:")[2].split(None, 1)
        return int(found[0]) if found else 0
