"""Endpoints and links over socket pairs: order, descriptors, loss, a peer that never listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stubs.link.endpoint import BulkEndpoint, Endpoint, Link
from stubs.link.loop import Loop
from stubs.link.stream import PipeStream, SocketStream
from stubs.wire.codec import Message
from stubs.wire.frame import HEADER
from stubs.wire.messages import Attach, Data, Done, Error, Ping, Pong, Read, StreamData


class Peer:
    """Both ends of a connection in one loop, with a record of what arrived."""

    def __init__(self, loop: Loop, handlers: dict[type[Message], Any] | None = None) -> None:
        self.loop = loop
        self.lost: list[str] = []
        self.near_sock, self.far_sock = socket.socketpair()
        self.near = Endpoint(loop, SocketStream(self.near_sock), {}, self.lost.append, "far")
        self.far = Endpoint(
            loop, SocketStream(self.far_sock), handlers or {}, self.lost.append, "near"
        )


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def connect(loop: Loop) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(handlers: dict[type[Message], Any] | None = None) -> Peer:
        peers.append(Peer(loop, handlers))
        return peers[-1]

    yield make
    for peer in peers:
        peer.near.close("end of test")
        peer.far.close("end of test")


Connect = Callable[..., Peer]


def turn_until(loop: Loop, condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        loop.turn(0.05)
    raise AssertionError("it never happened")


def test_a_reply_reaches_who_asked(loop: Loop, connect: Connect) -> None:
    peer = connect()
    peer.far._handlers[Ping] = lambda m, tag, fds: peer.far.reply(tag, Pong(m.clock_ns + 1))
    answers: list[Message] = []
    for number in range(3):
        peer.near.request(Ping(number), answers.append)
    turn_until(loop, lambda: len(answers) == 3)
    assert answers == [Pong(1), Pong(2), Pong(3)]


def test_descriptors_travel_with_their_frame_and_are_closed_here(
    loop: Loop, connect: Connect
) -> None:
    got: list[tuple[int, list[int]]] = []
    peer = connect({Attach: lambda m, tag, fds: got.append((m.pid, fds))})
    for pid in (1, 2):
        read_end, write_end = os.pipe()
        os.write(write_end, str(pid).encode())
        os.close(write_end)
        peer.near.post(Attach(pid), fds=[read_end])
        peer.near.post(Attach(100 + pid))
    turn_until(loop, lambda: len(got) == 4)
    assert [(pid, len(fds)) for pid, fds in got] == [(1, 1), (101, 0), (2, 1), (102, 0)]
    for pid, fds in got:
        for fd in fds:
            assert os.read(fd, 10) == str(pid).encode()
            os.close(fd)


def test_whoever_waits_when_the_link_is_lost_gets_eio(loop: Loop, connect: Connect) -> None:
    peer = connect({Ping: lambda m, tag, fds: peer.far.close("gone")})
    answers: list[Message] = []
    peer.near.request(Ping(1), answers.append)
    turn_until(loop, lambda: bool(answers))
    assert isinstance(answers[0], Error)
    assert answers[0].errno == 5
    peer.near.request(Ping(2), answers.append)
    assert len(answers) == 2


def test_who_waits_is_answered_once_whichever_connection_is_lost_first(
    loop: Loop, connect: Connect
) -> None:
    peer = connect()
    near, far = socket.socketpair()
    bulk = BulkEndpoint(peer.near, loop, SocketStream(near), "far (bulk)")
    replies: list[Message] = []
    peer.near.request(Ping(1), replies.append)
    bulk.close("cable pulled")
    assert [type(reply) for reply in replies] == [Error]
    assert peer.near.lost == "cable pulled"
    far.close()


def test_a_message_that_is_not_for_this_end_closes_it(loop: Loop, connect: Connect) -> None:
    peer = connect()
    peer.near.post(Done())
    turn_until(loop, lambda: peer.far.lost is not None)
    assert "Done is not for this end" in (peer.far.lost or "")


def test_descriptors_announced_on_a_pipe_are_refused(loop: Loop) -> None:
    read_end, write_end = os.pipe()
    lost: list[str] = []
    Endpoint(loop, PipeStream(read_end, os.dup(write_end)), {}, lost.append, "node")
    os.write(write_end, HEADER.pack(0, Done.KIND, 1, 0, 0))
    turn_until(loop, lambda: bool(lost))
    assert "bad frame header" in lost[0]
    os.close(write_end)


def test_bulk_frames_wait_for_the_rpc_frames_sent_before_them(loop: Loop, connect: Connect) -> None:
    seen: list[str] = []
    handlers = {
        Ping: lambda m, tag, fds: seen.append(f"ping {m.clock_ns}"),
        StreamData: lambda m, tag, fds: seen.append(f"data {m.stream}"),
    }
    peer = connect(handlers)
    near_bulk, far_bulk = socket.socketpair()
    link = Link(peer.near)
    link.send_bulk_on(BulkEndpoint(peer.near, loop, SocketStream(near_bulk), "far"))
    link.post(Ping(1))
    link.post(StreamData(1, b""))
    link.post(Ping(2))
    link.post(StreamData(2, b""))
    # The bulk connection is heard first, and still handled last.
    loop.turn(0.05)
    BulkEndpoint(peer.far, loop, SocketStream(far_bulk), "near")
    turn_until(loop, lambda: len(seen) == 4)
    assert seen.index("ping 1") < seen.index("data 1")
    assert seen.index("ping 2") < seen.index("data 2")


def test_a_peer_that_asks_and_never_listens_does_not_fill_our_memory(
    loop: Loop, connect: Connect
) -> None:
    peer = connect()
    limit = 4 << 20
    peer.far.pause_above = limit
    peer.far._handlers[Read] = lambda m, tag, fds: peer.far.reply(tag, Data(bytes(m.size)))
    deaf, asker = peer.near, Read(1, 0, 1 << 20)
    loop.forget(peer.near_sock.fileno())
    for _ in range(200):
        deaf.request(asker, lambda _: None)
    deaf.flush()
    for _ in range(100):
        loop.turn(0)
    assert peer.far.backlog <= limit + (2 << 20)
