"""fsync(2) without standing still: a disk takes its time, and the link must go on beating.

One thread of its own, started with the first request; it only waits in the kernel. Everything else
happens in the thread of the loop, woken through an eventfd.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque

from stubs.link.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Loop

    Result = Callable[[OSError | None], None]
    Job = tuple[int, bool, Result]


class Syncing:
    """Files on their way to the disk, one after the other."""

    def __init__(self, loop: Loop) -> None:
        """Start nothing yet."""
        self._loop = loop
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: deque[tuple[Result, OSError | None]] = deque()
        self._event = -1
        self._thread: threading.Thread | None = None

    def sync(self, fd: int, datasync: bool, done: Result) -> None:
        """Take over `fd`, sync and close it, then call `done` in the loop's thread."""
        if self._thread is None:
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._loop.watch(self._event, READ, self._finished)
            self._thread = threading.Thread(target=self._work, name="fsync", daemon=True)
            self._thread.start()
        self._jobs.put((fd, datasync, done))

    def close(self) -> None:
        """End after what was asked for already; nobody is told any more."""
        if self._thread is None:
            return
        self._jobs.put(None)
        self._loop.forget(self._event)
        self._thread = None

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                os.close(self._event)
                return
            fd, datasync, done = job
            failure = None
            try:
                if datasync:
                    os.fdatasync(fd)
                else:
                    os.fsync(fd)
            except OSError as error:
                failure = error
            os.close(fd)
            self._results.append((done, failure))
            os.eventfd_write(self._event, 1)

    def _finished(self, _: int) -> None:
        os.eventfd_read(self._event)
        while self._results:
            done, failure = self._results.popleft()
            done(failure)
