from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from stubs.wire.codec import Descriptor
from stubs.wire.messages import (
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    SCOPE_PROCESS,
    Exited,
    Gone,
    Position,
    Signal,
    Spawned,
    StreamBroken,
    StreamData,
    StreamEnd,
    StreamTaken,
    StreamWant,
)
from tests.kernel.nodebed import PID, Bed, bed, home, needs_root, shared_bed, stream

__all__ = ["bed", "home", "shared_bed"]

pytestmark = needs_root

WINDOW = 1 << 20


class Plumbing:
    """A body with a stream to read, one to write, and one for its diagnostics."""

    def __init__(
        self, bed: Bed, script: str, exclusive: bool = False, program: str = "bash"
    ) -> None:
        self.bed = bed
        self.input, self.output = bed.free_stream(), bed.free_stream()
        descriptors = [
            stream(0, FD_STREAM_IN, self.input),
            stream(1, FD_STREAM_OUT, self.output),
        ]
        flag = "-e" if program == "perl" else "-c"
        argv = (
            [program, flag, script] if program in ("bash", "perl") else [program, *script.split()]
        )
        answer = bed.spawn(
            *argv, descriptors=descriptors, exclusive=[self.input] if exclusive else []
        )
        assert answer == Spawned(PID)

    @property
    def printed(self) -> bytes:
        return bytes(self.bed.output.get(self.output, b""))

    def want(self) -> int:
        """Wait for the next StreamWant and return how many bytes are wanted."""
        message = self.bed.wait_for(StreamWant, stream=self.input)
        self.bed.got.remove(message)
        return message.bytes

    def put(self, data: bytes) -> None:
        self.bed.link.post(StreamData(self.input, data))

    def end(self) -> None:
        self.bed.link.post(StreamEnd(self.input))

    def finish(self) -> int:
        self.bed.wait_for(Gone)
        return self.bed.wait_for(Exited).status


# what a body writes


def test_output_arrives_whole_before_the_end_is_told(bed: Bed) -> None:
    body = Plumbing(bed, "head -c 5000000 /dev/zero; echo end")
    bed.wait_for(Exited)
    assert len(body.printed) == 5_000_004
    assert body.printed.endswith(b"end\n")
    assert body.finish() == 0


def test_a_reader_that_takes_nothing_holds_the_writer_up(bed: Bed) -> None:
    bed.takes = False
    body = Plumbing(bed, "yes")
    bed.until(lambda: len(body.printed) == WINDOW)
    for _ in range(20):
        bed.loop.turn(0.01)
    assert len(body.printed) == WINDOW
    bed.link.post(StreamTaken(body.output, 1000))
    bed.until(lambda: len(body.printed) == WINDOW + 1000)
    # Killed, it does not wait for its reader; its last output is sent when there is room.
    bed.link.post(Signal(PID, signal.SIGTERM, SCOPE_PROCESS))
    bed.wait_for(Exited)
    assert len(body.printed) == WINDOW + 1000
    bed.takes = True
    bed.link.post(StreamTaken(body.output, WINDOW))
    bed.wait_for(StreamEnd, stream=body.output)
    assert body.finish() == signal.SIGTERM


def test_an_end_waits_until_the_reader_has_made_room_for_the_last_output(bed: Bed) -> None:
    bed.takes = False
    body = Plumbing(bed, f"head -c {WINDOW + 5000} /dev/zero")
    bed.until(lambda: len(body.printed) == WINDOW)
    assert not bed.all(Exited)
    bed.takes = True
    bed.link.post(StreamTaken(body.output, WINDOW))
    assert body.finish() == 0
    assert len(body.printed) == WINDOW + 5000


def test_a_writer_whose_reader_is_gone_gets_sigpipe(bed: Bed) -> None:
    body = Plumbing(bed, "exec yes")
    bed.until(lambda: body.printed)
    bed.link.post(StreamBroken(body.output))
    assert body.finish() == signal.SIGPIPE


def test_home_hears_of_file_changes_before_the_output_that_follows_them(
    bed: Bed, home: Path
) -> None:
    path = home / "desk" / "order"
    path.write_bytes(b"")
    attr = bed.files.resolve(b"/desk/order")
    number = bed.free_stream()
    sizes: list[int] = []
    bed.on_data = lambda: sizes.append(path.stat().st_size)
    descriptors = [
        stream(1, FD_STREAM_OUT, number),
        Descriptor(5, FD_FILE, attr.id, os.O_WRONLY, 0, -1, b"/desk/order"),
    ]
    script = "for i in 1 2 3 4 5; do echo x >&5; echo done; sleep 0.02; done"
    try:
        bed.spawn("bash", "-c", script, descriptors=descriptors)
        bed.wait_for(Gone)
    finally:
        bed.on_data = None
    assert sizes == [2, 4, 6, 8, 10]
    assert bed.all(Position)[0].offset == 10


def test_closing_standard_output_early_is_told(bed: Bed) -> None:
    body = Plumbing(bed, "echo one; exec >&-; read x")
    bed.wait_for(StreamEnd, stream=body.output)
    assert not bed.all(Exited)
    body.put(b"\n")
    assert body.finish() == 0


# what a body reads


def test_an_exclusive_stream_is_read_ahead_and_told_how_far(bed: Bed) -> None:
    body = Plumbing(bed, "sleep 0.1; cat", exclusive=True)
    body.put(b"a" * 100_000)
    body.put(b"b" * 100_000)
    body.end()
    assert body.finish() == 0
    assert body.printed == b"a" * 100_000 + b"b" * 100_000
    taken = [each.bytes for each in bed.all(StreamTaken) if each.stream == body.input]
    assert sum(taken) == 200_000
    assert not bed.all(StreamWant)


def test_nothing_is_wanted_of_a_stream_that_is_not_read(bed: Bed) -> None:
    body = Plumbing(bed, "sleep 0.2; echo done")
    assert body.finish() == 0
    assert not bed.all(StreamWant)
    assert bed.all(StreamBroken) == [StreamBroken(body.input)]


def test_a_line_is_wanted_byte_by_byte_by_one_who_reads_so(bed: Bed) -> None:
    body = Plumbing(bed, "read x; echo got $x; sleep 0.1")
    for byte in b"hello\n":
        assert body.want() == 1
        body.put(bytes([byte]))
    assert body.finish() == 0
    assert body.printed == b"got hello\n"
    assert not bed.all(StreamWant)


def test_a_read_wants_what_it_asks_for(bed: Bed) -> None:
    body = Plumbing(bed, "sysread STDIN, $x, 777; print length $x", program="perl")
    assert body.want() == 777
    body.put(b"x" * 300)
    assert body.finish() == 0
    assert body.printed == b"300"


@pytest.mark.parametrize(
    "wait",
    [
        "vec($r, 0, 1) = 1; select $r, undef, undef, undef",
        # poll(2), of (fd 0, POLLIN)
        '$p = pack "iss", 0, 1, 0; syscall 7, $p, 1, -1',
        # epoll_create1(2), epoll_ctl(2) EPOLL_CTL_ADD, epoll_wait(2)
        '$e = syscall 291, 0; $v = pack "IQ", 1, 7; syscall 233, $e, 1, 0, $v; '
        '$o = "\\0" x 12; syscall 232, $e, $o, 1, -1',
    ],
)
def test_one_who_polls_wants_a_byte(bed: Bed, wait: str) -> None:
    script = wait + '; sysread STDIN, $x, 100; print "<$x>"'
    body = Plumbing(bed, script, program="perl")
    assert body.want() == 1
    body.put(b"x")
    assert body.finish() == 0
    assert body.printed == b"<x>"


def test_one_who_gives_up_wants_nothing_more(bed: Bed) -> None:
    body = Plumbing(bed, "read -t 0.2 x; echo $?; sleep 0.3")
    assert body.want() == 1
    assert body.want() == 0
    assert body.finish() == 0
    assert body.printed == b"142\n"


def test_a_child_that_reads_wants_as_well(bed: Bed) -> None:
    body = Plumbing(bed, "echo first; (cat); echo last")
    assert body.want() >= 4096
    body.put(b"middle\n")
    assert body.want() >= 4096
    body.end()
    assert body.finish() == 0
    assert body.printed == b"first\nmiddle\nlast\n"


def test_more_is_wanted_only_when_what_came_is_read(bed: Bed) -> None:
    body = Plumbing(bed, "head -c 3 >/dev/null; sleep 0.2; exec cat")
    first = body.want()
    assert first >= 1
    body.put(b"abc")
    assert body.want() >= 4096
    body.end()
    assert body.finish() == 0


def test_a_source_whose_readers_are_gone_is_told(bed: Bed) -> None:
    body = Plumbing(bed, "exec <&-; echo closed; sleep 100")
    bed.wait_for(StreamBroken, stream=body.input)
    bed.kill()


def test_a_socket_carries_both_ways_and_ends_one_way_at_a_time(bed: Bed) -> None:
    number = bed.free_stream()
    script = (
        'open S, "+<&=", 0; syswrite S, "hello"; sysread S, $x, 100; syswrite S, "[$x]"; '
        "syscall 48, 0, 1; sysread S, $y, 100; exit length $y"
    )
    socket = stream(0, FD_STREAM_BOTH, number, os.O_RDWR)
    bed.spawn("perl", "-e", script, descriptors=[socket])
    bed.until(lambda: bytes(bed.output.get(number, b"")) == b"hello")
    assert bed.wait_for(StreamWant, stream=number).bytes == 100
    bed.link.post(StreamData(number, b"abc"))
    bed.wait_for(StreamEnd, stream=number)
    assert bed.output[number] == b"hello[abc]"
    bed.link.post(StreamData(number, b"1234"))
    assert bed.wait_for(Exited).status == 4 << 8
    bed.wait_for(StreamBroken, stream=number)
    bed.wait_for(Gone)


def test_two_descriptors_on_one_stream(bed: Bed) -> None:
    number = bed.free_stream()
    both = [stream(1, FD_STREAM_OUT, number), stream(2, FD_STREAM_OUT, number)]
    bed.spawn("bash", "-c", "echo out; echo err >&2", descriptors=both)
    bed.wait_for(StreamEnd, stream=number)
    bed.wait_for(Gone)
    assert bed.output[number] == b"out\nerr\n"


def test_a_stream_that_does_not_block_does_not_on_the_node(bed: Bed) -> None:
    number, output = bed.free_stream(), bed.free_stream()
    script = 'print defined(sysread STDIN, $x, 10) ? "data" : $!+0'
    descriptors = [
        stream(0, FD_STREAM_IN, number, os.O_RDONLY | os.O_NONBLOCK),
        stream(1, FD_STREAM_OUT, output),
    ]
    bed.spawn("perl", "-e", script, descriptors=descriptors)
    bed.wait_for(Gone)
    assert bed.output[output] == str(errno.EAGAIN).encode()


def test_one_who_hides_from_the_agent_is_not_left_waiting(home: Path) -> None:
    bed = Bed(home, node_uid=1234, home_uid=1234)
    # prctl(2) PR_SET_DUMPABLE 0: what it waits for cannot be seen.
    body = Plumbing(bed, 'syscall 157, 4, 0; sysread STDIN, $x, 10; print "<$x>"', program="perl")
    assert body.want() == 1
    body.put(b"x")
    assert body.finish() == 0
    assert body.printed == b"<x>"
    bed.close()
