"""Both ends of a link in one process, driven by one loop; the test is the node."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stubs.home.files.policy import ExportPolicy
from stubs.home.files.service import FileService
from stubs.home.guests.guests import Guests
from stubs.link.endpoint import Endpoint, Link
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.codec import Descriptor, Message
from stubs.wire.messages import MESSAGES, Spawn, Spawned, Start

M = TypeVar("M", bound=Message)

DEADLINE_SECONDS = 10.0

BODY = 4711


class Peer:
    """An end that notes every message it gets, and answers what it was told to answer."""

    def __init__(self, loop: Loop, sock: socket.socket, name: str) -> None:
        self.got: list[Message] = []
        self.lost: list[str] = []
        self.hooks: dict[type[Message], Callable[[Any], None]] = {}
        self.answers: dict[type[Message], Callable[[Any], Message]] = {}
        handlers = dict.fromkeys(MESSAGES.values(), self._note)
        self.endpoint = Endpoint(loop, SocketStream(sock), handlers, self.lost.append, name)
        self.post = self.endpoint.post

    def _note(self, message: Message, tag: int, fds: list[int]) -> None:
        hook = self.hooks.get(type(message))
        if hook is not None:
            hook(message)
            return
        self.got.append(message)
        answer = self.answers.get(type(message))
        if answer is not None:
            self.endpoint.reply(tag, answer(message))

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


def make_spawn(body: int = BODY, cwd: bytes = b"/") -> Spawn:
    return Spawn(
        body=body, ppid=1, pgrp=body, sid=1, umask=0o22, nice=0, blocked=0, ignored=0, cwd_id=0,
        rows=0, columns=0, terminal=0, foreground=0, exe=b"/bin/true", cwd=cwd, termios=b"",
        argv=[b"true"], env=[], limits=[], exclusive=[], descriptors=[],
    )  # fmt: skip


class Bench(World):
    """A world in which mruns start bodies below one directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        hidden = os.fsencode(directory / "hidden")
        self.files = FileService(self.loop, ExportPolicy([hidden], []))
        self.files.attach(self.link)
        self.guests = Guests(self.loop, self.link, self.files)
        self.handlers.update(self.files.handlers())
        self.handlers.update(self.guests.handlers())
        self.node.answers[Spawn] = lambda spawn: Spawned(spawn.body)
        self.mruns: list[Peer] = []

    def close(self) -> None:
        self.guests.close()
        for mrun in self.mruns:
            mrun.endpoint.close("done")
        self.files.close()
        super().close()

    def mrun(self) -> Peer:
        ours, theirs = socket.socketpair()
        self.guests.adopt_mrun(ours)
        self.mruns.append(Peer(self.loop, theirs, "link"))
        return self.mruns[-1]

    def start(
        self,
        descriptors: list[tuple[int, int, int]],
        exclusive: tuple[int, ...] = (),
        body: int = BODY,
        mrun: Peer | None = None,
        cwd: bytes = b"",
    ) -> tuple[Peer, Message]:
        """Start a body whose (number, kind, descriptor) are these; return mrun and the reply.

        The descriptors are given away.
        """
        mrun = mrun or self.mrun()
        spawn = make_spawn(body, cwd or os.fsencode(self.directory))
        spawn.descriptors = [
            Descriptor(number, kind, 0, os.O_RDWR, 0, -1, b"") for number, kind, _ in descriptors
        ]
        spawn.exclusive = list(exclusive)
        fds = [fd for _, _, fd in descriptors]
        return mrun, self.request_start(mrun, spawn, fds)

    def request_start(self, mrun: Peer, spawn: Spawn, fds: list[int]) -> Message:
        """Have `mrun` start this body; return the reply."""
        replies: list[Message] = []
        mrun.endpoint.request(Start(spawn.encode()), replies.append, fds)
        self.until(lambda: replies)
        return replies[0]

    @property
    def spawn(self) -> Spawn:
        """Return the last Spawn that came to the node."""
        return self.node.all(Spawn)[-1]

    def refs(self) -> dict[int, int]:
        return {item.fd: item.ref for item in self.spawn.descriptors}
