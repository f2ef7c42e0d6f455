from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.wire.codec import Message, Usage
from stubs.wire.messages import (
    FD_DEVICE,
    FD_FILE,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    SCOPE_PROCESS,
    Continued,
    Error,
    Exited,
    FdClosed,
    Gone,
    Invalidate,
    Kill,
    Lost,
    Measure,
    Measured,
    Position,
    Resize,
    Signal,
    Snapshot,
    Spawn,
    Spawned,
    Start,
    Stopped,
    StreamData,
    StreamEnd,
    StreamTaken,
)
from tests.kernel.links import BODY, Bench, make_spawn


def exited(status: int = 0, body: int = BODY) -> Exited:
    return Exited(body, status, 0, 0, 0, 0, 0, 0, 0, b"")


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "hidden").mkdir()
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_a_body_starts_and_its_end_comes_back(bench: Bench) -> None:
    mrun, reply = bench.start([])
    assert reply == Spawned(BODY)
    assert bench.guests.count == 1
    assert bench.spawn.cwd_id == bench.files.resolve(os.fsencode(bench.directory)).id
    bench.node.post(Stopped(BODY, signal.SIGTSTP))
    bench.node.post(Continued(BODY))
    bench.node.post(exited(0x2A00))
    bench.until(lambda: mrun.all(Exited))
    assert mrun.got == [Stopped(BODY, signal.SIGTSTP), Continued(BODY), exited(0x2A00)]
    bench.node.post(Gone(BODY))
    bench.until(lambda: bench.guests.count == 0)


def test_a_node_tells_only_of_what_its_own_guests_use(bench: Bench) -> None:
    told: list[list[Usage]] = []
    bench.guests.measure(told.append)
    assert told == [[]]  # nobody is there: it is not even asked
    assert not bench.node.all(Measure)
    bench.start([])
    usage = Usage(BODY, ord("R"), 5, 6, 1, 1, 2, 3, 4)
    bench.node.answers[Measure] = lambda _: Measured(0, 0, [usage, usage._replace(body=BODY + 1)])
    bench.guests.measure(told.append)
    bench.until(lambda: len(told) > 1)
    assert told[1] == [usage]


def test_each_descriptor_gets_what_it_refers_to(bench: Bench) -> None:
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    file = os.open(bench.directory / "file", os.O_RDWR | os.O_CREAT)
    null = os.open("/dev/null", os.O_RDWR)
    again = os.open(f"/proc/self/fd/{out_writer}", os.O_WRONLY)
    identity = bench.files.adopt(file).id
    bench.start(
        [
            (0, FD_STREAM_IN, in_reader),
            (1, FD_STREAM_OUT, out_writer),
            (2, FD_STREAM_OUT, again),
            (5, FD_FILE, file),
            (6, FD_DEVICE, null),
        ],
        exclusive=(0,),
    )
    refs = bench.refs()
    assert refs[5] == identity
    assert refs[1] == refs[2] != refs[0]
    assert [item.share for item in bench.spawn.descriptors] == [-1, -1, 1, -1, -1]
    assert bench.spawn.exclusive == [refs[0]]
    bench.node.post(StreamData(refs[1], b"out "))
    bench.node.post(StreamData(refs[2], b"err"))
    bench.until(lambda: sum(m.bytes for m in bench.node.all(StreamTaken)) == 7)
    assert os.read(out_reader, 100) == b"out err"
    os.write(in_writer, b"ahead")
    assert bench.wait(StreamData).data == b"ahead"
    for fd in (in_writer, out_reader):
        os.close(fd)


def test_a_refused_body_leaves_nothing_behind(bench: Bench) -> None:
    bench.node.answers[Spawn] = lambda spawn: Error(errno.ENOENT, b"no such interpreter")
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    _, reply = bench.start([(0, FD_STREAM_IN, in_reader), (1, FD_STREAM_OUT, out_writer)])
    assert reply == Error(errno.ENOENT, b"no such interpreter")
    assert bench.guests.count == 0
    assert os.read(out_reader, 1) == b""
    with pytest.raises(BrokenPipeError):
        os.write(in_writer, b"x")
    os.close(out_reader)
    os.close(in_writer)


def test_a_hidden_file_is_refused_with_its_reason(bench: Bench) -> None:
    path = bench.directory / "hidden" / "key"
    path.write_text("secret")
    reader, writer = os.pipe()
    _, reply = bench.start([(0, FD_STREAM_IN, reader), (3, FD_FILE, os.open(path, os.O_RDONLY))])
    assert isinstance(reply, Error)
    assert reply.errno in (errno.EACCES, errno.ENOENT)
    assert reply.text
    assert not bench.node.all(Spawn)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"the other descriptors were closed")
    os.close(writer)


def test_a_removed_working_directory_is_still_one(bench: Bench) -> None:
    (bench.directory / "gone").mkdir()
    child = os.fork()
    if child == 0:
        os.chdir(bench.directory / "gone")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    try:
        (bench.directory / "gone").rmdir()
        _, reply = bench.start([], body=child, cwd=os.fsencode(bench.directory / "gone"))
        assert reply == Spawned(child)
        assert bench.spawn.cwd_id
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_signals_and_sizes_reach_the_node_in_order(bench: Bench) -> None:
    mrun, _ = bench.start([])
    sent = [
        Signal(BODY, signal.SIGTERM, SCOPE_PROCESS),
        Resize(BODY, 50, 132),
        Signal(BODY, signal.SIGCONT, SCOPE_PROCESS),
        Kill(BODY),
    ]
    for message in sent:
        mrun.post(message)
    bench.wait(Kill)
    assert bench.node.got[-4:] == sent


def test_what_changed_at_home_is_sent_before_a_signal(bench: Bench) -> None:
    mrun, _ = bench.start([])
    listed: list[Message] = []
    bench.node.endpoint.request(Snapshot(bench.spawn.cwd_id, 0), listed.append)
    bench.until(lambda: listed)
    (bench.directory / "new").write_text("x")
    mrun.post(Signal(BODY, signal.SIGUSR1, SCOPE_PROCESS))
    bench.wait(Signal)
    assert [type(message) for message in bench.node.got[-2:]] == [Invalidate, Signal]


def test_an_mrun_may_not_touch_the_body_of_another(bench: Bench) -> None:
    bench.start([])
    other = bench.mrun()
    other.post(Kill(BODY))
    bench.until(lambda: other.lost)
    assert not bench.node.all(Kill)


def test_an_mrun_that_dies_takes_its_body_along(bench: Bench) -> None:
    mrun, _ = bench.start([])
    mrun.endpoint.close("killed")
    assert bench.wait(Kill) == Kill(BODY)
    bench.node.post(exited(signal.SIGKILL))
    bench.node.post(Gone(BODY))
    bench.until(lambda: bench.guests.count == 0)


def test_an_mrun_that_dies_before_its_body_runs_takes_it_along(bench: Bench) -> None:
    mrun = bench.mrun()
    bench.node.answers.clear()
    bench.node.hooks[Spawn] = lambda spawn: mrun.endpoint.close("killed")
    mrun.endpoint.request(Start(make_spawn().encode()), lambda reply: None)
    assert bench.wait(Kill) == Kill(BODY)


def test_an_end_waits_for_the_output_before_it(bench: Bench) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    mrun, _ = bench.start([(1, FD_STREAM_OUT, writer)])
    text = os.urandom(500_000)
    stream = bench.refs()[1]
    for start in range(0, len(text), 100_000):
        bench.node.post(StreamData(stream, text[start : start + 100_000]))
    bench.node.post(StreamEnd(stream))
    bench.node.post(exited())
    bench.node.post(Gone(BODY))
    bench.until(lambda: bench.node.all(StreamTaken))
    bench.settle()
    assert not mrun.all(Exited)
    got = bytearray()

    def drain() -> list[Exited]:
        try:
            got.extend(os.read(reader, 65536))
        except BlockingIOError:
            pass
        return mrun.all(Exited)

    bench.until(drain)
    while data := os.read(reader, 65536):
        got += data
    assert bytes(got) == text
    bench.until(lambda: bench.guests.count == 0)
    os.close(reader)


def test_the_offset_of_an_inherited_file_comes_home(bench: Bench) -> None:
    path = bench.directory / "list"
    path.write_bytes(b"one\ntwo\n")
    reading = os.open(path, os.O_RDONLY)
    log = os.open(path, os.O_WRONLY | os.O_APPEND)
    bench.start([(0, FD_FILE, os.dup(reading)), (1, FD_FILE, os.dup(log))])
    bench.node.post(Position(BODY, 0, 4))
    bench.node.post(Position(BODY, 1, 8))
    bench.node.post(exited())
    bench.until(lambda: bench.mruns[0].all(Exited))
    assert os.read(reading, 100) == b"two\n"
    assert os.lseek(log, 0, os.SEEK_CUR) == 8
    os.close(reading)
    os.close(log)


def test_an_impossible_offset_closes_the_link(bench: Bench) -> None:
    bench.start([])
    bench.node.post(Position(BODY, 0, 4))
    bench.until(lambda: bench.home_lost)


def test_mrun_hears_when_standard_error_is_closed(bench: Bench) -> None:
    reader, writer = os.pipe()
    mrun, _ = bench.start([(2, FD_STREAM_OUT, writer)])
    usages: list[Usage] = []
    bench.node.answers[Measure] = lambda _: Measured(0, 0, usages)
    bench.node.post(StreamEnd(bench.refs()[2]))
    # The node does not say that it lives: it may have closed it by ending.
    bench.wait(Measure, 2)
    assert not mrun.all(FdClosed)
    usages.append(Usage(BODY, ord("S"), 0, 0, 1, 1, 0, 0, 0))
    bench.until(lambda: mrun.all(FdClosed))
    assert mrun.all(FdClosed) == [FdClosed(BODY, 2)]
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_streams_live_as_long_as_anything_that_descends_from_the_body(bench: Bench) -> None:
    reader, writer = os.pipe()
    mrun, _ = bench.start([(1, FD_STREAM_OUT, writer)])
    stream = bench.refs()[1]
    bench.node.post(exited())
    bench.until(lambda: mrun.all(Exited))
    mrun.endpoint.close("mrun has ended")
    bench.node.post(StreamData(stream, b"from a child"))
    bench.until(lambda: bench.node.all(StreamTaken))
    assert os.read(reader, 100) == b"from a child"
    assert not bench.node.all(Kill)
    bench.node.post(Gone(BODY))
    bench.node.post(StreamData(stream, b", killed"))
    bench.node.post(StreamEnd(stream))
    bench.until(lambda: bench.guests.count == 0)
    assert os.read(reader, 100) == b", killed"
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_every_mrun_hears_of_a_lost_node(bench: Bench) -> None:
    reader, writer = os.pipe()
    mrun, _ = bench.start([(1, FD_STREAM_OUT, writer)])
    bench.node.post(StreamData(bench.refs()[1], b"arrived"))
    bench.until(lambda: bench.node.all(StreamTaken))
    bench.guests.lost("node: cut off")
    bench.until(lambda: mrun.all(Lost))
    assert mrun.all(Lost) == [Lost(BODY, 0, b"node: cut off")]
    assert os.read(reader, 100) == b"arrived"
    assert os.read(reader, 1) == b""
    assert bench.guests.count == 0
    os.close(reader)


def test_a_lost_body_that_has_said_nothing_is_told_to_be_unseen(bench: Bench) -> None:
    reader, writer = os.pipe()
    mrun, _ = bench.start([(1, FD_STREAM_OUT, writer)])
    bench.guests.lost("node: cut off")
    bench.until(lambda: mrun.all(Lost))
    assert mrun.all(Lost) == [Lost(BODY, 1, b"node: cut off")]
    os.close(reader)


def test_a_node_that_speaks_of_unknown_bodies_is_cut_off(bench: Bench) -> None:
    bench.node.post(exited(body=99))
    bench.until(lambda: bench.home_lost)


def test_descriptors_that_do_not_match_close_the_mrun(bench: Bench) -> None:
    before = open_fds()
    mrun = bench.mrun()
    reader, writer = os.pipe()
    replies: list[Message] = []
    mrun.endpoint.request(Start(make_spawn().encode()), replies.append, [reader])
    bench.until(lambda: mrun.lost)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    assert open_fds() <= before
