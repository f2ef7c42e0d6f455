"""A file service and the node at the other end of a socket pair, driven by one loop.

The node here is nothing but an endpoint: it asks, and keeps what is pushed to it. Files are real.
"""

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

from stubs.abi.libc import libc
from stubs.abi.mount import MS_PRIVATE, MS_REC
from stubs.abi.sched import CLONE_NEWNS
from stubs.home.files.policy import ExportPolicy
from stubs.home.files.service import FileService
from stubs.link.endpoint import Endpoint
from stubs.link.endpoint import Link as NodeLink
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.codec import Attr, Message
from stubs.wire.messages import (
    Acknowledge,
    Attrs,
    Coming,
    Contents,
    Create,
    Data,
    Error,
    Failed,
    Found,
    Getattr,
    Invalidate,
    InvalidateAll,
    Listing,
    Lookup,
    Names,
    Offered,
    Read,
    Snapshot,
    Trace,
    Write,
)

M = TypeVar("M", bound=Message)

# What home sends unasked.
_PUSHED = (
    *(Acknowledge, Failed, Invalidate, InvalidateAll),
    *(Names, Coming, Contents, Trace, Offered),
)

# No answer of a test takes this long; a test that waits for one fails then.
DEADLINE_SECONDS = 10.0


class Peer:
    """One link: home's file service, and what its node knows."""

    def __init__(
        self,
        root: str,
        hidden: Iterable[bytes] = (),
        readonly: Iterable[bytes] = (),
        learned: tuple[str, str] | None = None,
    ) -> None:
        self.loop = Loop()
        policy = ExportPolicy(hidden, readonly, empty=[os.fsencode(root) + b"/proc"])
        self.service = FileService(self.loop, policy, os.fsencode(root), learned)
        self.lost: list[str] = []
        self.pushed: list[Message] = []
        ends = socket.socketpair()
        self.home = Endpoint(
            self.loop, SocketStream(ends[0]), self.service.handlers(), self.lost.append, "node"
        )
        self.service.attach(NodeLink(self.home))
        pushes: dict[type[Message], Any] = {
            kind: lambda message, tag, fds: self.pushed.append(message) for kind in _PUSHED
        }
        self.node = Endpoint(self.loop, SocketStream(ends[1]), pushes, self.lost.append, "home")
        self.root = self.service.root_attr()

    def close(self) -> None:
        self.node.close("the test is over")
        self.home.close("the test is over")
        self.service.close()
        self.loop.close()

    # asking

    def begin(self, message: Message) -> tuple[int, list[Message]]:
        """Ask; the answer will be appended to the list. Also returns the tag."""
        answers: list[Message] = []
        return self.node.request(message, answers.append), answers

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until the condition holds."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            self.loop.turn(0.05)

    def ask(self, message: Message) -> Message:
        _, answers = self.begin(message)
        self.until(lambda: answers)
        return answers[0]

    def get(self, message: Message, kind: type[M]) -> M:
        reply = self.ask(message)
        assert isinstance(reply, kind), f"{message!r}: {reply!r}"
        return reply

    def errno(self, message: Message) -> int:
        return self.get(message, Error).errno

    # shorthands

    def lookup(self, path: str | bytes, base: int = 1) -> Attr:
        """Return the attributes of a path, found name by name."""
        attr = self.attr(base)
        for name in os.fsencode(path).split(b"/"):
            attr = self.get(Lookup(attr.id, name), Found).entry.attr
        return attr

    def attr(self, number: int) -> Attr:
        return self.get(Getattr(number), Attrs).attrs[0]

    def read(self, number: int, offset: int = 0, size: int = 1 << 20) -> bytes:
        return self.get(Read(number, offset, size), Data).data

    def create(
        self, directory: int, name: bytes, mode: int = 0o644, flags: int = os.O_WRONLY
    ) -> Attr:
        return self.get(Create(directory, name, mode, flags, 0, 0), Found).entry.attr

    def write(self, number: int, data: bytes, offset: int = 0, flags: int = 0) -> Attr:
        return self.get(Write(number, offset, flags, 1, data), Attrs).attrs[0]

    def names(self, directory: int) -> dict[bytes, Attr]:
        """Return a whole listing."""
        found: dict[bytes, Attr] = {}
        cookie = 0
        while True:
            part = self.get(Snapshot(directory, cookie), Listing)
            found.update((entry.name, entry.attr) for entry in part.entries)
            cookie = part.cookie
            if not cookie:
                return found

    def barrier(self) -> list[Message]:
        """Return what home pushes at a barrier now, and what came before it."""
        self.service.barrier()
        self.ask(Getattr(1))
        pushed, self.pushed = self.pushed, []
        return [message for message in pushed if not isinstance(message, Acknowledge)]

    def changes(self) -> Invalidate:
        """Return all that home tells of changes, as one message."""
        told = Invalidate([], [], [], [])
        for message in self.barrier():
            assert isinstance(message, Invalidate), message
            for field in message.FIELDS:
                getattr(told, field).extend(getattr(message, field))
        return told


def in_child(run: Callable[[], None], uid: int = 0) -> None:
    """Run in a forked child, as `uid` if that is not 0; its failure is the test's."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_fd)
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            run()
            status = 0
        except BaseException:
            os.write(write_fd, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(status)
    os.close(write_fd)
    with open(read_fd, "rb") as report:
        text = report.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"child ended with {status:#x}\n{text}"


def in_new_mount_namespace(run: Callable[[], None]) -> None:
    """Run in a forked child that may mount what it likes; skip where that is forbidden."""

    def inner() -> None:
        assert libc.unshare(CLONE_NEWNS) == 0
        assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        run()

    if os.geteuid():
        pytest.skip("mounting needs root")
    in_child(inner)
