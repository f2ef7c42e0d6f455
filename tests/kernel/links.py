"""Both ends of a link in one process, driven by one loop; the test is the node."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from stubs.link.endpoint import Endpoint, Link
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.codec import Message
from stubs.wire.messages import MESSAGES

M = TypeVar("M", bound=Message)

DEADLINE_SECONDS = 10.0


class Peer:
    """An end that notes every message it gets, and answers nothing by itself."""

    def __init__(self, loop: Loop, sock: socket.socket, name: str) -> None:
        self.got: list[Message] = []
        self.tags: list[int] = []
        self.lost: list[str] = []
        self.hooks: dict[type[Message], Callable[[Any], None]] = {}
        handlers = dict.fromkeys(MESSAGES.values(), self._note)
        self.endpoint = Endpoint(loop, SocketStream(sock), handlers, self.lost.append, name)
        self.post = self.endpoint.post

    def _note(self, message: Message, tag: int, fds: list[int]) -> None:
        hook = self.hooks.get(type(message))
        if hook is not None:
            hook(message)
            return
        self.got.append(message)
        self.tags.append(tag)

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in self.got if isinstance(message, kind)]


class World:
    """A loop, home's Link, and the node at its other end."""

    def __init__(self) -> None:
        self.loop = Loop()
        home, node = socket.socketpair()
        self.home_lost: list[str] = []
        self.handlers: dict[type[Message], Any] = {}
        rpc = Endpoint(self.loop, SocketStream(home), self.handlers, self.home_lost.append, "node")
        self.link = Link(rpc)
        self.node = Peer(self.loop, node, "home")

    def close(self) -> None:
        """Close both ends."""
        self.link.rpc.close("done")
        self.node.endpoint.close("done")
        self.loop.close()

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until `condition`; AssertionError after a deadline."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"never true; node got {self.node.got}"
            self.loop.turn(0.05)

    def wait(self, kind: type[M], count: int = 1) -> M:
        """Return the `count`th message of `kind` that the node gets."""
        self.until(lambda: len(self.node.all(kind)) >= count)
        return self.node.all(kind)[count - 1]

    def settle(self) -> None:
        """Let everything that was sent until now arrive, both ways."""
        for _ in range(5):
            self.loop.turn(0.0)
