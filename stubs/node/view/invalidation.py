"""Telling the kernel that what it has cached is no longer so.

A notification can block in the kernel: on the lock of a directory while a process looks a name up
in it, on a page that is being read; and that process waits for a reply of ours. So notifications
are written by a thread of their own, in the order in which they come, and the loop goes on
replying. One about an inode that is `busy` (a request we have read and not answered may hold its
locks) is held back, for a while: a killed agent could otherwise not die, because its thread would
wait in the kernel for a lock that only the end of the agent, the last user of the device, releases.

Threads: the loop's, which owns everything here, and the notifier's, which sees only the two queues
and the device. Nothing in here is called by the notifier's thread except `_run`.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import deque

from stubs.abi import fuse
from stubs.abi.sched import take_short_slices
from stubs.link.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Loop
    from stubs.node.view.fuse import Device
    from stubs.node.view.inodes import Node

    # serial, code, body, and the node that the kernel should know
    Notice = tuple[int, int, bytes, Node]

# A notice is held back no longer than this for the sake of a busy inode.
PATIENCE_SECONDS = 0.05

# The kernel learns of an inode when the process that looked it up runs again after our reply; until
# then it answers ENOENT, and would keep what the reply said.
RETRIES = 6
RETRY_SECONDS = 0.0005


class Notifier:
    """Sends FUSE_NOTIFY_INVAL_* and knows which of them have been done."""

    def __init__(self, loop: Loop, device: Device) -> None:
        """Start no thread before there is something to tell."""
        self.sent = 0
        self._loop = loop
        self._device = device
        self._serial = 0
        self._open: dict[int, None] = {}  # begun and not done, in order
        self._contents: dict[Node, int] = {}  # the last of those about contents
        self._parked: dict[Node, list[Notice]] = {}
        self._after: deque[tuple[int, Callable[[], None]]] = deque()
        self._todo: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._done: deque[tuple[int, Node]] = deque()
        self._wake_read = self._wake_write = -1
        self._thread: threading.Thread | None = None

    # what to tell

    def entry(self, parent: Node, name: bytes) -> None:
        """Drop the name: what the kernel knows of it, positive or negative, is wrong."""
        body = fuse.fuse_notify_inval_entry_out.pack(parent.id, len(name), 0) + name + b"\0"
        self._push(fuse.FUSE_NOTIFY_INVAL_ENTRY, body, parent)

    def attributes(self, node: Node) -> None:
        """Drop the attributes of an inode."""
        if node.lookups:
            body = fuse.fuse_notify_inval_inode_out.pack(node.id, -1, 0)
            self._push(fuse.FUSE_NOTIFY_INVAL_INODE, body, node)

    def contents(self, node: Node) -> None:
        """Drop the attributes and all cached pages (data, link target or listing)."""
        if node.lookups:
            body = fuse.fuse_notify_inval_inode_out.pack(node.id, 0, 0)
            self._contents[node] = self._push(fuse.FUSE_NOTIFY_INVAL_INODE, body, node)

    def _push(self, code: int, body: bytes, node: Node) -> int:
        serial = self.begin()
        notice = (serial, code, body, node)
        self.sent += 1
        if node.busy:
            if not self._parked:
                self._loop.call_later(PATIENCE_SECONDS, self._unpark_all)
            self._parked.setdefault(node, []).append(notice)
        else:
            self._hand_over(notice)
        return serial

    def _hand_over(self, notice: Notice) -> None:
        if self._thread is None:
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            self._loop.watch(self._wake_read, READ, self._collect)
            self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
            self._thread.start()
        self._todo.put(notice)

    def unpark(self, node: Node) -> None:
        """Let go of what was held back for this node: it is not busy any more."""
        for notice in self._parked.pop(node, ()):
            self._hand_over(notice)

    def _unpark_all(self) -> None:
        parked, self._parked = self._parked, {}
        for notices in parked.values():
            for notice in notices:
                self._hand_over(notice)

    # what has been done

    def begin(self) -> int:
        """Note that something has to be done before the view is settled; returns its number."""
        self._serial += 1
        self._open[self._serial] = None
        return self._serial

    def finish(self, serial: int) -> None:
        """Note that it is done."""
        self._open.pop(serial, None)
        self._call_settled()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._open

    def settled(self, then: Callable[[], None]) -> None:
        """Call `then` when all that has begun until now is done."""
        if self._open:
            self._after.append((self._serial, then))
        else:
            then()

    def contents_dropped(self, node: Node, then: Callable[[], None]) -> None:
        """Call `then` when the kernel has no contents of the node that are known to be old.

        With newer attributes they would make a file that never was: cut off, or with zeros at
        its end.
        """
        serial = self._contents.get(node)
        if serial is None:
            then()
        else:
            self._after.append((serial, then))

    def _call_settled(self) -> None:
        while self._after:
            serial, then = self._after[0]
            if self._open and next(iter(self._open)) <= serial:
                return
            self._after.popleft()
            then()

    def _collect(self, _: int) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return
        while self._done:
            serial, node = self._done.popleft()
            self._open.pop(serial, None)
            if self._contents.get(node) == serial:
                del self._contents[node]
        self._call_settled()

    # the thread

    def _run(self) -> None:
        take_short_slices()
        while True:
            notice = self._todo.get()
            if notice is None:
                return
            serial, code, body, node = notice
            self._tell(code, body, node)
            self._done.append((serial, node))
            if self._todo.empty():
                os.write(self._wake_write, b"\0")

    def _tell(self, code: int, body: bytes, node: Node) -> None:
        for attempt in range(RETRIES):
            if self._device.notify(code, body) != errno.ENOENT:
                return
            if code != fuse.FUSE_NOTIFY_INVAL_INODE or not node.lookups:
                return
            time.sleep(RETRY_SECONDS * (1 << attempt))

    def close(self, answer: Callable[[], None]) -> None:
        """End the thread; `answer` is called until it has, to release the locks it may wait for."""
        self._unpark_all()
        self._after.clear()
        thread = self._thread
        if thread is None:
            return
        self._todo.put(None)
        while thread.is_alive():
            answer()
            thread.join(0.005)
        self._loop.forget(self._wake_read)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._thread = None
