"""Which body a process belongs to: told to home before the first request that it makes.

Home knows the bodies alone; what they start has pids of the node's. Looked up once for each
process, while it waits for the answer to its request, in the capsule's /proc.
"""

from __future__ import annotations

from stubs.node.capsule.processes import read_process
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
            process = read_process(pid, self._proc)
            if process is None or process.ppid <= 1:
                return 0
            pid = process.ppid
            if self._is_body(pid):
                return pid
        return 0
