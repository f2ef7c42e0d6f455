from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from stubs.home.guests.sink import WRITE_WINDOW
from stubs.home.guests.source import READ_AHEAD
from stubs.home.guests.streams import Streams
from stubs.wire.messages import (
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    StreamBroken,
    StreamData,
    StreamEnd,
    StreamTaken,
    StreamWant,
)
from tests.kernel.links import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def streams(world: World) -> Iterator[Streams]:
    streams = Streams(world.loop, world.link, lambda: None, lambda: None)
    world.handlers.update(streams.handlers())
    yield streams
    streams.close_all()


def received(world: World) -> bytes:
    return b"".join(message.data for message in world.node.all(StreamData))


def test_a_pipe_is_read_only_when_a_body_waits(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    number = streams.open(os.dup(reader), FD_STREAM_IN, exclusive=False)
    os.write(writer, b"one\ntwo\n")
    world.settle()
    assert received(world) == b""
    world.node.post(StreamWant(number, 4))
    world.until(lambda: received(world) == b"one\n")
    world.settle()
    assert os.read(reader, 100) == b"two\n"


def test_a_want_that_is_taken_back_reads_nothing(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    number = streams.open(os.dup(reader), FD_STREAM_IN, exclusive=False)
    world.node.post(StreamWant(number, 100))
    world.node.post(StreamWant(number, 0))
    world.settle()
    os.write(writer, b"for the next")
    world.settle()
    assert received(world) == b""
    assert os.read(reader, 100) == b"for the next"


def test_a_want_waits_for_bytes_and_is_answered_once(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    number = streams.open(reader, FD_STREAM_IN, exclusive=False)
    world.node.post(StreamWant(number, 100))
    world.settle()
    os.write(writer, b"a")
    world.until(lambda: received(world) == b"a")
    os.write(writer, b"b")
    world.settle()
    assert received(world) == b"a"
    world.node.post(StreamWant(number, 100))
    world.until(lambda: received(world) == b"ab")
    world.node.post(StreamWant(number, 100))
    os.close(writer)
    world.wait(StreamEnd)


def test_the_open_file_of_the_user_stays_blocking(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    streams.open(os.dup(reader), FD_STREAM_IN, exclusive=True)
    streams.open(os.dup(writer), FD_STREAM_OUT, exclusive=False)
    streams.open(os.dup(ours.fileno()), FD_STREAM_BOTH, exclusive=False)
    world.settle()
    assert os.get_blocking(reader)
    assert os.get_blocking(writer)
    assert os.get_blocking(ours.fileno())
    ours.close()
    theirs.close()


def test_an_exclusive_pipe_is_read_ahead_by_the_window_only(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    number = streams.open(reader, FD_STREAM_IN, exclusive=True)
    os.set_blocking(writer, False)
    sent = 0

    def fill() -> int:
        nonlocal sent
        try:
            sent += os.write(writer, b"x" * 65536)
        except BlockingIOError:
            pass
        return len(received(world))

    world.until(lambda: fill() == READ_AHEAD)
    for _ in range(5):
        fill()
        world.settle()
    assert len(received(world)) == READ_AHEAD
    world.node.post(StreamTaken(number, 1000))
    world.until(lambda: fill() == READ_AHEAD + 1000)


def test_a_node_that_takes_what_was_never_sent_is_cut_off(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    number = streams.open(reader, FD_STREAM_IN, exclusive=True)
    world.node.post(StreamTaken(number, 1))
    world.until(lambda: world.home_lost)
    os.close(writer)


def test_output_arrives_and_is_told_back(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    number = streams.open(writer, FD_STREAM_OUT, exclusive=False)
    world.node.post(StreamData(number, b"hello\0\xff\n"))
    world.until(lambda: sum(m.bytes for m in world.node.all(StreamTaken)) == 8)
    assert os.read(reader, 100) == b"hello\0\xff\n"
    world.node.post(StreamEnd(number))
    world.settle()
    assert os.read(reader, 100) == b""


def test_a_slow_reader_holds_up_nobody_else(world: World, streams: Streams) -> None:
    slow_reader, slow_writer = os.pipe()
    fast_reader, fast_writer = os.pipe()
    slow = streams.open(slow_writer, FD_STREAM_OUT, exclusive=False)
    fast = streams.open(fast_writer, FD_STREAM_OUT, exclusive=False)
    big = os.urandom(WRITE_WINDOW)
    for start in range(0, len(big), 65536):
        world.node.post(StreamData(slow, big[start : start + 65536]))
    world.node.post(StreamEnd(slow))
    world.node.post(StreamData(fast, b"quick"))
    world.until(lambda: any(m.stream == fast for m in world.node.all(StreamTaken)))
    assert os.read(fast_reader, 100) == b"quick"
    taken_early = sum(m.bytes for m in world.node.all(StreamTaken) if m.stream == slow)
    assert taken_early < len(big)
    collected = bytearray()
    os.set_blocking(slow_reader, False)

    def drain() -> bool:
        try:
            collected.extend(os.read(slow_reader, 65536))
        except BlockingIOError:
            pass
        return len(collected) == len(big)

    world.until(drain)
    assert bytes(collected) == big
    world.until(
        lambda: sum(m.bytes for m in world.node.all(StreamTaken) if m.stream == slow) == len(big)
    )
    os.set_blocking(slow_reader, True)
    assert os.read(slow_reader, 1) == b""


def test_more_than_the_window_closes_the_link(world: World, streams: Streams) -> None:
    _reader, writer = os.pipe()
    number = streams.open(writer, FD_STREAM_OUT, exclusive=False)
    for _ in range(WRITE_WINDOW // 65536 + 2):
        world.node.post(StreamData(number, bytes(65536)))
    world.until(lambda: world.home_lost)


def test_an_unknown_stream_closes_the_link(world: World, streams: Streams) -> None:
    world.node.post(StreamData(7, b"x"))
    world.until(lambda: world.home_lost)


def test_a_reader_that_left_is_told_while_nothing_is_written(
    world: World, streams: Streams
) -> None:
    reader, writer = os.pipe()
    number = streams.open(writer, FD_STREAM_OUT, exclusive=False)
    world.settle()
    os.close(reader)
    assert world.wait(StreamBroken).stream == number


def test_a_reader_that_leaves_in_the_middle_is_told_and_the_rest_dropped(
    world: World, streams: Streams
) -> None:
    reader, writer = os.pipe()
    number = streams.open(writer, FD_STREAM_OUT, exclusive=False)
    world.node.post(StreamData(number, bytes(300000)))
    world.wait(StreamTaken)
    os.close(reader)
    world.wait(StreamBroken)
    world.node.post(StreamData(number, b"late"))
    written: list[bool] = []
    world.settle()
    streams.when_written(number, lambda: written.append(True))
    assert written
    assert not world.home_lost


def test_a_body_that_closes_its_input_breaks_the_pipe_at_home(
    world: World, streams: Streams
) -> None:
    reader, writer = os.pipe()
    number = streams.open(reader, FD_STREAM_IN, exclusive=True)
    world.node.post(StreamBroken(number))
    world.settle()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")


def test_a_pipe_whose_writer_is_gone_ends(world: World, streams: Streams) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"rest")
    os.close(writer)
    streams.open(reader, FD_STREAM_IN, exclusive=True)
    world.wait(StreamEnd)
    assert received(world) == b"rest"


def test_a_socket_goes_both_ways_and_is_shut_down_by_its_body(
    world: World, streams: Streams
) -> None:
    ours, theirs = socket.socketpair()
    number = streams.open(ours.detach(), FD_STREAM_BOTH, exclusive=False)
    world.node.post(StreamData(number, b"ask"))
    world.node.post(StreamWant(number, 100))
    world.until(lambda: world.node.all(StreamTaken))
    assert theirs.recv(100) == b"ask"
    theirs.send(b"answer")
    world.until(lambda: received(world) == b"answer")
    world.node.post(StreamEnd(number))
    theirs.setblocking(False)
    seen: list[bytes] = []

    def at_end() -> bool:
        try:
            seen.append(theirs.recv(100))
        except BlockingIOError:
            return False
        return True

    world.until(at_end)
    assert seen == [b""]
    theirs.close()


def test_a_socket_that_its_body_closed_lives_on_for_others(world: World, streams: Streams) -> None:
    ours, theirs = socket.socketpair()
    number = streams.open(os.dup(ours.fileno()), FD_STREAM_BOTH, exclusive=False)
    world.node.post(StreamEnd(number))
    world.node.post(StreamBroken(number))
    over: list[bool] = []
    world.loop.call_later(0.2, lambda: over.append(True))
    world.until(lambda: over)
    ours.send(b"still here")
    assert theirs.recv(100) == b"still here"
    ours.close()
    theirs.close()


def test_named_fifos_are_streams_too(
    world: World, streams: Streams, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fifo") / "f"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    number = streams.open(writer, FD_STREAM_OUT, exclusive=False)
    world.node.post(StreamData(number, b"through"))
    world.wait(StreamTaken)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    world.wait(StreamBroken)


def measure(total: int, world: World, streams: Streams) -> tuple[float, float]:
    """Return MB/s into and out of the node; the other side is two threads of this process."""
    source, feeder = os.pipe()
    drainer, target = os.pipe()
    inward = streams.open(source, FD_STREAM_IN, exclusive=True)
    outward = streams.open(target, FD_STREAM_OUT, exclusive=False)
    block = bytes(128 << 10)

    def feed() -> None:
        for _ in range(total // len(block)):
            os.write(feeder, block)
        os.close(feeder)

    got = 0

    def take(message: StreamData) -> None:
        nonlocal got
        got += len(message.data)
        world.node.post(StreamTaken(inward, len(message.data)))

    world.node.hooks[StreamData] = take
    started = time.monotonic()
    thread = threading.Thread(target=feed)
    thread.start()
    world.until(lambda: world.node.all(StreamEnd))
    thread.join()
    assert got == total
    seconds_in = time.monotonic() - started

    drained = 0

    def drain() -> None:
        nonlocal drained
        while data := os.read(drainer, 1 << 20):
            drained += len(data)

    sent = 0

    def send() -> None:
        nonlocal sent
        while sent < total and sent + len(block) - taken <= WRITE_WINDOW:
            world.node.post(StreamData(outward, block))
            sent += len(block)

    taken = 0

    def told(message: StreamTaken) -> None:
        nonlocal taken
        taken += message.bytes
        send()

    world.node.hooks[StreamTaken] = told
    started = time.monotonic()
    thread = threading.Thread(target=drain)
    thread.start()
    send()
    world.until(lambda: taken == total)
    world.node.post(StreamEnd(outward))
    world.settle()
    thread.join()
    assert drained == total
    return total / 1e6 / seconds_in, total / 1e6 / (time.monotonic() - started)


def test_a_hundred_megabytes_go_both_ways(world: World, streams: Streams) -> None:
    into, out = measure(100 << 20, world, streams)
    print(f"into the node {into:.0f} MB/s, out of it {out:.0f} MB/s")
