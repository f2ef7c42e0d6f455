"""The worker: freezes a tree of processes here, or brings one to life.

Runs in a process of its own in the capsule (stubs.node.moving.workers), where it may wait for the
home view. The agent tells it what to do with what stands still: Resume, Depart. If the agent lets
go of it before, it ends, and the kernel kills what it traces.
"""

from __future__ import annotations

import os
import socket
import sys

from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.migration.errors import RestoreError
from stubs.migration.reasons import Unmovable
from stubs.migration.restore import Restored, receive_head
from stubs.migration.source import Source
from stubs.migration.tracee import CallFailedError, TraceeGoneError
from stubs.migration.unread import unread
from stubs.migration.whynot import why_not
from stubs.node.capsule.body import BY_ID, open_by_id
from stubs.wire.errors import ProtocolError
from stubs.wire.frame import encode_frame
from stubs.wire.messages import (
    HOW_LIVELY,
    HOW_PROMPTLY,
    HOW_ZSTD,
    Bequest,
    Depart,
    Done,
    Drain,
    Error,
    Outside,
    Reasons,
    Resume,
    Spawned,
    Stood,
    Stub,
    Unread,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from stubs.link.endpoint import Handler
    from stubs.wire.codec import Message

# What freezing does not come upon. The rest of why_not may be out of date by then: who has just
# been born is none of the processes that were asked about.
_UNSEEN_FROZEN = ("namespace", "seccomp", "shadow_stack")

# For how long a program may stand still to be away promptly: what runs on takes CPU time from who
# sends it, and has him send pages twice.
PATIENCE_SECONDS = 5.0

_EBUSY = 16
_EINVAL = 22


class Ended(Exception):  # noqa: N818  # nothing went wrong
    """The agent has let go."""


class Agent:
    """The agent, seen from a worker: what it says is waited for."""

    def __init__(self, sock: socket.socket, kinds: list[type[Message]]) -> None:
        """Expect messages of these kinds."""
        self._loop = Loop()
        self._came: list[tuple[Message, list[int]]] = []
        self._lost = False
        self.tag = 0  # of the last request
        handlers: dict[type[Message], Handler] = dict.fromkeys(kinds, self._take)
        self.endpoint = Endpoint(self._loop, SocketStream(sock), handlers, self._end, "agent")

    def _take(self, message: Message, tag: int, fds: list[int]) -> None:
        self.tag = tag or self.tag
        self._came.append((message, fds))

    def _end(self, reason: str) -> None:
        self._lost = True

    def next(self) -> tuple[Message, list[int]]:
        """Return the next message and what it carries; Ended when there will be none."""
        while not self._came:
            if self._lost:
                raise Ended
            self._loop.turn()
        return self._came.pop(0)

    def tell(self, message: Message) -> None:
        """Post a message, and see all of it sent: what is done next may wait for its effect."""
        self.endpoint.post(message)
        self._flush()

    def ask(self, message: Message, fds: list[int]) -> Message:
        """Return the reply to a request."""
        replies: list[Message] = []
        self.endpoint.request(message, replies.append, fds)
        while not replies:
            self._loop.turn()
        return replies[0]

    def done(self) -> None:
        """Answer the last request, and see it sent."""
        self.endpoint.reply(self.tag, Done())
        self._flush()

    def fail(self, number: int, text: str) -> NoReturn:
        """Say why it cannot be done, and end."""
        self.tell(Error(number, text.encode(errors="surrogateescape")))
        raise Ended

    def _flush(self) -> None:
        self.endpoint.flush()
        while self.endpoint.backlog and not self._lost:
            self._loop.turn()


def freeze(
    sock: socket.socket,
    image: socket.socket,
    pids: list[int],
    outside: dict[bytes, int],
    inherited: list[tuple[int, int, int]],
    how: int,
) -> None:
    """Freeze a tree and send its image; then wait for what is to become of it.

    `outside` and `inherited` as in stubs.migration.source, `how` as in Move.
    """
    agent = Agent(sock, [Drain, Depart, Resume])
    reasons = [each for each in why_not(pids, outside) if each.name in _UNSEEN_FROZEN]
    if reasons:
        agent.fail(_EBUSY, reasons[0].sentence)
    try:
        source = Source(pids, outside, inherited, zstd=bool(how & HOW_ZSTD))
        if how & HOW_LIVELY:
            source.precopy(image.sendall, PATIENCE_SECONDS if how & HOW_PROMPTLY else 0.0)
        source.freeze()
    except Unmovable as error:
        agent.fail(_EBUSY, str(error))
    except (OSError, TraceeGoneError, CallFailedError) as error:
        agent.fail(getattr(error, "errno", 0) or _EINVAL, f"it cannot be frozen: {error}")
    try:
        agent.tell(Stood(source.pids[0], source.frozen_us, source.cpu_us, source.orphans))
        message, _ = agent.next()
        if isinstance(message, Drain):
            left = _unread(agent, source, outside)
            agent.tell(Unread(list(left), list(left.values())))
            _send(source, image)
            message, _ = agent.next()
    except (Ended, OSError):
        # Nobody can say any more whether it has arrived elsewhere: it is not to run twice.
        source.kill()
        return
    if isinstance(message, Resume):
        source.thaw()
    else:
        source.kill()
    agent.done()


def _unread(agent: Agent, source: Source, outside: dict[bytes, int]) -> dict[int, bytes]:
    """Return what has come for the tree and was not read; if that fails it goes on here."""
    try:
        return unread(source.pids, outside)
    except OSError as error:
        source.thaw()
        agent.fail(error.errno or _EINVAL, f"what it has yet to read cannot be copied: {error}")


def _send(source: Source, image: socket.socket) -> None:
    try:
        source.send(image.sendall)
    except BrokenPipeError:
        pass  # the move was called off; what becomes of the tree is told next
    except Exception:
        # The image lacks its end, so it is refused and the tree goes on here.
        sys.excepthook(*sys.exc_info())
    image.close()


def restore(sock: socket.socket, image: socket.socket, body: int, pgrp: int) -> None:
    """Bring the tree to life that comes on `image`, as `body`, held until the agent says Resume."""
    agent = Agent(sock, [Outside, Depart, Resume])
    restored: Restored | None = None
    try:
        restored = _restore(agent, image, body, pgrp)
        agent.tell(Stood(restored.pids[0], 0, 0, []))
        message, _ = agent.next()
    except (RestoreError, ProtocolError) as error:
        agent.fail(_EINVAL, str(error))
    except OSError as error:
        agent.fail(error.errno or _EINVAL, f"it cannot be restored: {error}")
    except Ended:
        if restored is not None:
            restored.kill()
        return
    if isinstance(message, Resume):
        restored.go()
    else:
        restored.kill()
    agent.done()


def _restore(agent: Agent, image: socket.socket, body: int, pgrp: int) -> Restored:
    def read(count: int) -> bytes:
        data = image.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise RestoreError("the image ends too early")
        return data

    head = receive_head(read)
    ours, theirs = socket.socketpair()
    ghost, heirs = socket.socketpair()
    stub = Stub(body, head.pid, pgrp, head.control)
    reply = agent.ask(stub, [theirs.detach(), heirs.detach()])
    if not isinstance(reply, Spawned):
        text = reply.text if isinstance(reply, Error) else b""
        raise RestoreError(f"its process cannot be made: {text.decode(errors='replace')}")
    executable = head.path
    outside = _Outside(agent, body, ghost)
    if head.handle >= 0:
        executable = outside()[1][head.handle]
    restored = Restored(head, read, reply.pid, ours, executable, outside)
    restored.finish()
    return restored


class _Outside:
    """What leads out of the tree, by key, and the paths of handles: as the agent tells it, once."""

    def __init__(self, agent: Agent, body: int, ghost: socket.socket) -> None:
        """Wait for nothing yet; `ghost` is to get the files that the body has inherited."""
        self._agent = agent
        self._ghost = ghost
        self._body = body
        self._told: tuple[dict[int, int], list[bytes]] | None = None

    def __call__(self) -> tuple[dict[int, int], list[bytes]]:
        """Return it, waiting for it the first time."""
        if self._told is None:
            self._told = self._ask()
        return self._told

    def _ask(self) -> tuple[dict[int, int], list[bytes]]:
        message, fds = self._agent.next()
        if not isinstance(message, Outside):
            raise Ended
        outside = dict(zip(message.keys, fds))
        files = []
        rows = zip(message.file_keys, message.files, message.file_flags, message.file_offsets)
        for key, number, flags, offset in rows:
            outside[key] = open_by_id(number, flags, offset)
            files.append(os.dup(outside[key]))
        bequest = Bequest(self._body, message.file_keys)
        data = encode_frame(Bequest.KIND, bequest.encode(), fds=len(files))
        socket.send_fds(self._ghost, [data], files)
        for fd in files:
            os.close(fd)
        return outside, [BY_ID % number for number in message.handles]


def examine(sock: socket.socket, pids: list[int], outside: dict[bytes, int]) -> None:
    """Tell what keeps a tree from moving."""
    agent = Agent(sock, [])
    reasons = why_not(pids, outside)
    names = [reason.name.encode() for reason in reasons]
    sentences = [reason.sentence.encode(errors="replace") for reason in reasons]
    agent.tell(Reasons(names, sentences))
