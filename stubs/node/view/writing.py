"""WRITE: answered at once, sent in the order in which it came, gathered into large messages.

Only a write that continues the last one is joined to it: home sees several files change in the
order in which the body changed them. What was gathered leaves after MAX_DELAY_SECONDS, when it is
large, and before anything else that goes to home. Home answers every write with the attributes
after it, so that a process that asks for them waits for no more than what is still under way; and
while that is the case the attributes known here are not given out. Beyond MAX_UNANSWERED a writer
waits. A write that home refuses is told by the next call on the file, or by `take_failure`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from stubs.abi import fuse
from stubs.node.view.fuse import BODY
from stubs.node.view.responder import Responder
from stubs.node.view.uplink import errno_of
from stubs.wire.messages import WRITE_APPEND, Attrs, Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stubs.link.loop import Timer
    from stubs.node.view.inodes import Node
    from stubs.node.view.reading import Reading
    from stubs.node.view.responder import Core
    from stubs.wire.codec import Message

MAX_DELAY_SECONDS = 0.02
MAX_JOINED = 256 << 10
MAX_UNANSWERED = 4 << 20
MAX_CHANGES = 1024  # posted and not answered

_SET_ID = stat.S_ISUID | stat.S_ISGID
_DATA = BODY + fuse.fuse_write_in.size


class Chunk:
    """Consecutive bytes written to one file."""

    __slots__ = ("append", "end", "node", "offset", "parts", "pid")

    def __init__(self, node: Node, offset: int, data: bytes, append: bool, pid: int) -> None:
        """Begin with the data of one WRITE."""
        self.node = node
        self.offset = offset
        self.end = offset + len(data)
        self.append = append
        self.pid = pid
        self.parts = [data]


class Writing(Responder):
    """Takes WRITEs and passes them on."""

    def __init__(self, core: Core, reading: Reading) -> None:
        """Take over WRITE."""
        super().__init__(core)
        self._reading = reading
        self._queue: list[Chunk] = []
        self._queued = 0
        self._unanswered = 0
        self._sent = 0  # requests
        self._received = 0  # answers to them, which come in the same order
        self._awaiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._stalled: deque[tuple[int, int]] = deque()  # (unique, size) of WRITEs not answered
        self._timer: Timer | None = None
        self._failures: dict[Node, int] = {}  # errnos that nobody was told
        # Set by the view: sends what must go ahead of a posted change.
        self.before: Callable[[], None] = self.flush
        self._device.handlers[fuse.FUSE_WRITE] = self._write

    def _write(self, unique: int, nodeid: int, _: int) -> None:
        device = self._device
        _, offset, size, write_flags, _, flags, _ = fuse.fuse_write_in.unpack_from(
            device.buffer, BODY
        )
        node = self._inodes.nodes.get(nodeid)
        if node is None:
            device.error(unique, errno.ESTALE)
            return
        state = node.opened()
        if state.error:
            device.error(unique, self.told(node))
            return
        data = bytes(device.view[_DATA : _DATA + size])
        append = bool(flags & os.O_APPEND) and not write_flags & fuse.FUSE_WRITE_CACHE
        if node.local and self._temporaries.write(node, offset, data, append):
            device.reply(unique, fuse.fuse_write_out.pack(size, 0))
            return
        self.put(node, offset, data, append, device.pid)
        self._reading.drafts.write(node, offset, data)
        if state.ahead is not None:
            self._reading.discard(node)
        if node.attr.mode & _SET_ID:
            self._answer_without_set_id(unique, node, size)
        elif self._unanswered + self._queued > MAX_UNANSWERED:
            self._stalled.append((unique, size))
            self._uplink.wait(unique, (node,))
        else:
            device.reply(unique, fuse.fuse_write_out.pack(size, 0))

    def _answer_without_set_id(self, unique: int, node: Node, size: int) -> None:
        """Answer a write that takes set-ID bits away when the kernel here has heard of that.

        Home's kernel does it. After a WRITE this one asks for sizes and times again, but not for
        the mode.
        """

        def answer() -> None:
            self._uplink.waited(unique)
            self._device.reply(unique, fuse.fuse_write_out.pack(size, 0))

        def written() -> None:
            self._notifier.attributes(node)
            self._notifier.settled(answer)

        self._uplink.wait(unique)
        self.when_written(node, written)

    def put(self, node: Node, offset: int, data: bytes, append: bool, pid: int) -> None:
        """Take in a write: it is sent soon, and before anything else is."""
        queue = self._queue
        last = queue[-1] if queue else None
        if (
            last is not None
            and last.node is node
            and last.end == offset
            and last.append == append
            and last.end - last.offset + len(data) <= MAX_JOINED
        ):
            last.parts.append(data)
            last.end += len(data)
        else:
            queue.append(Chunk(node, offset, data, append, pid))
            self._begin(node)
        state = node.opened()
        # Where the end is after an append home knows.
        state.size = -1 if append or state.size < 0 else max(state.size, offset + len(data))
        self._queued += len(data)
        if self._queued >= MAX_JOINED:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(MAX_DELAY_SECONDS, self._overdue)

    def _begin(self, node: Node) -> None:
        """Note that a change of `node` is under way."""
        state = node.opened()
        if not state.pending:
            state.size = node.attr.size
        state.pending += 1

    def _end(self, node: Node) -> bool:
        """Note that home has answered one; True if its failure is told already."""
        state = node.opened()
        state.pending -= 1
        if state.excused > 0:
            state.excused -= 1
            return True
        return False

    def _overdue(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if not self._queue:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        queue, self._queue = self._queue, []
        self._unanswered += self._queued
        self._queued = 0
        for chunk in queue:
            self._send(chunk)

    def _send(self, chunk: Chunk) -> None:
        data = chunk.parts[0] if len(chunk.parts) == 1 else b"".join(chunk.parts)
        flags = WRITE_APPEND if chunk.append else 0
        self._uplink.traffic.went(chunk.pid, len(data))

        def done(reply: Message) -> None:
            self._answered(chunk, reply)

        self._sent += 1
        self._link.request(Write(chunk.node.id, chunk.offset, flags, chunk.pid, data), done)

    def _answered(self, chunk: Chunk, reply: Message) -> None:
        node = chunk.node
        self._unanswered -= chunk.end - chunk.offset
        self._take_in(node, reply, self._end(node))
        # Somebody at home appended too: what the kernel has cached is at the wrong place.
        if chunk.append and type(reply) is Attrs and reply.attrs[0].size != chunk.end:
            self._reading.drafts.end(node)
            self._notifier.contents(node)
        while self._stalled and self._unanswered + self._queued <= MAX_UNANSWERED:
            unique, size = self._stalled.popleft()
            self._uplink.waited(unique)
            self._device.reply(unique, fuse.fuse_write_out.pack(size, 0))
        self._settle((node,))

    def _take_in(self, node: Node, reply: Message, told: bool) -> None:
        if type(reply) is Attrs and reply.attrs:
            self._inodes.own(reply.attrs[0])
        else:
            self.failed(node, errno_of(reply), told)

    def _settle(self, nodes: Sequence[Node]) -> None:
        self._received += 1
        while self._awaiting and self._awaiting[0][0] <= self._received:
            self._awaiting.popleft()[1]()
        for node in nodes:
            state = node.opened()
            if not state.pending:
                waiters, state.waiters = state.waiters, []
                for call in waiters:
                    call()
                self._inodes.release(node)

    def has_room(self) -> bool:
        """Tell whether another change may be posted: home is not too far behind."""
        return self._sent - self._received < MAX_CHANGES and not self._stalled

    def post_change(self, node: Node, message: Message) -> None:
        """Send another change of a file without waiting; a refusal is told as that of a write."""
        self.post(message, (node,), lambda reply, told: self._take_in(node, reply, told))

    def post(
        self, message: Message, nodes: Sequence[Node], then: Callable[[Message, bool], None]
    ) -> None:
        """Send a change of `nodes` without waiting; `then` gets the answer.

        And it gets whether a failure of the first of the nodes has been told already.
        """
        self.before()
        for node in nodes:
            self._begin(node)

        def done(reply: Message) -> None:
            told = [self._end(node) for node in nodes]
            then(reply, told[0])
            self._settle(nodes)

        self._sent += 1
        self._link.request(message, done)

    def when_written(self, node: Node, then: Callable[[], None]) -> None:
        """Call `then` once all changes of `node` are answered."""
        self.flush()
        state = node.opened()
        if state.pending:
            state.waiters.append(then)
        else:
            then()

    def when_all_written(self, then: Callable[[], None]) -> None:
        """Call `then` once home has answered all that was written until now, to any file."""
        self.flush()
        if self._received == self._sent:
            then()
        else:
            self._awaiting.append((self._sent, then))

    # failures

    def failed(self, node: Node, code: int, told: bool = False) -> None:
        """Record that home refused a change: what the kernel has cached is not at home.

        If the program was `told` of an earlier refusal after this write, it knows.
        """
        node.until = 0.0
        if not told:
            state = node.opened()
            state.error = state.error or code
            self._failures.setdefault(node, code)
        self._reading.drafts.end(node)
        self._notifier.contents(node)

    def told(self, node: Node) -> int:
        """Return the errno of a failed write, 0 if there is none, and take it as told.

        So is what becomes of the writes that are still under way.
        """
        self._failures.pop(node, None)
        if node.file is None:
            return 0
        code, node.file.error = node.file.error, 0
        if code:
            # What is written from now on must not join what is excused.
            self.flush()
            node.file.excused = node.file.pending
        return code

    def take_failure(self) -> tuple[int, bytes] | None:
        """Return errno and path of a failure that nobody was told, once."""
        for node, code in self._failures.items():
            del self._failures[node]
            return code, node.path()
        return None
