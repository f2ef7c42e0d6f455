"""The link process between doubles of its daemon and of a node."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlaunch import link, pulse
from mlaunch.config import Config, Node
from stubs.home.files.service import FileService
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.codec import Message
from stubs.wire.messages import MESSAGES, Hello, Ping, Pong, Report, Welcome
from stubs.wire.version import VERSION
from tests.kernel.viewbed import wait_or_kill
from tests.kernel.viewservers import spawn

if TYPE_CHECKING:
    from stubs.link.stream import Stream

DEADLINE_S = 20.0


class Transport:
    """A node that is reached over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def open(self, token: bytes) -> Stream:
        return SocketStream(self._sock)

    def open_bulk(self, address: bytes) -> Stream | None:
        return None

    def heard(self) -> float | None:
        return None

    def abort(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        pass

    def last_words(self) -> str:
        return ""


class Bed:
    """A link process, and what it says to either side."""

    def __init__(self, root: Path) -> None:
        control, theirs = socket.socketpair()
        node, far = socket.socketpair()
        self.pid = spawn(lambda: _be_link(theirs, far, root), control.fileno(), node.fileno())
        theirs.close()
        far.close()
        self.loop = Loop()
        self.states: list[str] = []
        self.hello = 0  # its tag
        self.pings = 0
        taken: dict[type[Message], Any] = dict.fromkeys(MESSAGES.values(), lambda *_: None)
        self.daemon = Endpoint(
            self.loop, SocketStream(control), {Report: self._report}, lambda _: None, "link"
        )
        taken.update({Hello: self._hello, Ping: self._ping})
        self.node = Endpoint(self.loop, SocketStream(node), taken, lambda _: None, "link")

    def _report(self, message: Report, tag: int, fds: list[int]) -> None:
        self.states.append(json.loads(message.text)["state"])

    def _hello(self, message: Hello, tag: int, fds: list[int]) -> None:
        self.hello = tag

    def _ping(self, message: Ping, tag: int, fds: list[int]) -> None:
        self.pings += 1
        self.node.reply(tag, Pong(message.clock_ns))

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, (self.states, self.pings)
            self.loop.turn(0.02)

    def close(self) -> None:
        """Leave it alone: it ends."""
        self.daemon.close("done")
        try:
            self.until(lambda: self.node.lost is not None)
        finally:
            status = wait_or_kill(self.pid)
            self.loop.close()
        assert status == 0


def _be_link(control: socket.socket, far: socket.socket, root: Path) -> None:
    link._transport = lambda node: Transport(far)
    # Not this machine's.
    link.FileService = partial(FileService, root=os.fsencode(root))
    link.main(control, Node("n1", "n1"), Config())


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bed]:
    monkeypatch.setattr(pulse, "LOOK_S", 0.02)
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    bed = Bed(tmp_path)
    yield bed
    bed.close()


def test_a_node_that_answers_is_not_ready_before_it_says_so(bed: Bed) -> None:
    # The third question comes after the answers to two.
    bed.until(lambda: bed.hello and bed.pings >= 3)
    bed.loop.turn(0)
    assert set(bed.states) == {"connecting"}
    welcome = Welcome(
        VERSION, os.getuid(), 1, 1000, 1000, b"n1", b"6.1", b"3.11", b"", problem=b"", zstd=0
    )
    bed.node.reply(bed.hello, welcome)
    bed.until(lambda: bed.states[-1] == "ready")
