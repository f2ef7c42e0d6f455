from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.abi import termbits
from stubs.home.guests import modes
from stubs.wire.codec import Descriptor
from stubs.wire.messages import (
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
    SCOPE_GROUP,
    SCOPE_PROCESS,
    Continued,
    Exited,
    Gone,
    Modes,
    Signal,
    Spawned,
    Stopped,
    StreamData,
    StreamEnd,
    StreamTaken,
    StreamWant,
)
from tests.kernel.links import Bench, Peer, make_spawn

# A session leader with the terminal as its own, and a job of it that a deputy would be. Told
# "fg" or "bg" it moves the job, and answers when that is done.
SHELL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
ready, tell = os.pipe()
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    os.write(tell, b"x")
    signal.pause()
    os._exit(0)
os.setpgid(job, job)
os.read(ready, 1)
print(job, flush=True)
for line in sys.stdin:
    os.tcsetpgrp(int(sys.argv[1]), job if line == "fg\\n" else os.getpgrp())
    print("done", flush=True)
os.kill(job, signal.SIGKILL)
"""


class Screen:
    """A terminal as its user has it: keys go in, text comes out; and a shell with a job."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self.found = termbits.tcgets2(self.slave)
        self.shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(self.slave)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.slave],
            text=True,
        )
        assert self.shell.stdout is not None
        self.job = int(self.shell.stdout.readline())
        self.move("fg")

    def move(self, where: str) -> None:
        """Move the job into the foreground or the background."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(where + "\n")
        self.shell.stdin.flush()
        assert self.shell.stdout.readline() == "done\n"

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def shown(self) -> bytes:
        """Return what has been shown since the last time."""
        text = b""
        try:
            while data := os.read(self.master, 65536):
                text += data
        except BlockingIOError:
            pass
        return text

    @property
    def modes(self) -> modes.Modes:
        return modes.parse(termbits.tcgets2(self.slave))

    @property
    def cooked(self) -> bool:
        return termbits.tcgets2(self.slave) == self.found

    def close(self) -> None:
        self.shell.communicate()
        os.close(self.master)
        os.close(self.slave)


class Seat(Bench):
    """A bench with a screen, at which one body may be started."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.screen = Screen()
        self.user: Peer = self.mrun()
        self.tty = 0

    def close(self) -> None:
        super().close()
        self.screen.close()

    def sit(self, fds: int = 1) -> Peer:
        """Start a body on the terminal, which it has as 0 (`fds` 1) or only as its own (0)."""
        spawn = make_spawn(self.screen.job, os.fsencode(self.directory))
        spawn.sid = self.screen.shell.pid
        spawn.rows, spawn.columns, spawn.termios = 24, 80, termbits.tcgets2(self.screen.slave)
        copies = [os.dup(self.screen.slave) for _ in range(fds)]
        spawn.descriptors = [descriptor(number, FD_TTY) for number in range(fds)]
        assert self.request_start(self.user, spawn, copies) == Spawned(spawn.body)
        self.tty = self.spawn.terminal
        return self.user

    def want(self, count: int = 65536) -> None:
        self.node.post(StreamWant(self.tty, count))

    def print(self, data: bytes) -> None:
        """Have the node's terminal put this out."""
        self.node.post(StreamData(self.tty, data))

    def show(self, data: bytes) -> bytes:
        """Have the node's terminal put this out, and return what the user sees."""
        before = self.taken()
        self.print(data)
        self.until(lambda: self.taken() - before == len(data))
        return self.screen.shown()

    def until_shown(self, text: bytes) -> None:
        """Wait until the user has seen `text`, and nothing else before it."""
        seen = b""

        def complete() -> bool:
            nonlocal seen
            seen += self.screen.shown()
            assert text.startswith(seen)
            return seen == text

        self.until(complete)

    def taken(self) -> int:
        return sum(message.bytes for message in self.node.all(StreamTaken))

    def keys(self) -> bytes:
        """Return all that the node got."""
        return b"".join(message.data for message in self.node.all(StreamData))

    def set_modes(self, changed: modes.Modes) -> None:
        self.node.post(Modes(self.tty, modes.pack(changed)))

    def pass_time(self, seconds: float) -> None:
        """Let timers of the loop run for that long."""
        over: list[bool] = []
        self.loop.call_later(seconds, lambda: over.append(True))
        self.until(lambda: over)


def descriptor(number: int, kind: int) -> Descriptor:
    return Descriptor(number, kind, 0, os.O_RDWR, 0, -1, b"")


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    seat = Seat(tmp_path)
    yield seat
    seat.close()


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def without(found: modes.Modes, flags: int) -> modes.Modes:
    return found._replace(lflag=found.lflag & ~flags)


def test_keys_are_passed_only_while_a_body_waits(seat: Seat) -> None:
    seat.sit()
    seat.settle()
    assert seat.screen.cooked
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    assert not seat.screen.modes.lflag & (termios.ICANON | termios.ECHO)
    seat.screen.type(b"a")
    seat.until(lambda: seat.keys() == b"a")
    assert seat.screen.shown() == b""
    seat.until(lambda: seat.screen.cooked)
    seat.screen.type(b"for the shell\n")
    seat.settle()
    assert seat.keys() == b"a"
    assert os.read(seat.screen.slave, 100) == b"for the shell\n"


def test_a_reader_that_asks_again_soon_finds_the_keys_still_passed(seat: Seat) -> None:
    seat.sit()
    for count in range(1, 6):
        seat.want()
        seat.until(lambda: not seat.screen.cooked)
        seat.screen.type(b"k")
        seat.until(lambda count=count: seat.keys() == b"k" * count)
        assert not seat.screen.cooked
    assert seat.screen.shown() == b""


def test_only_a_line_is_read_for_a_reader_of_lines(seat: Seat) -> None:
    seat.sit()
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    seat.screen.type(b"one\rtwo\r")
    seat.until(lambda: seat.keys() == b"one\n")
    seat.until(lambda: seat.screen.cooked)
    assert os.read(seat.screen.slave, 100) == b"two\n"


def test_a_program_that_takes_all_keys_gets_them_all(seat: Seat) -> None:
    seat.sit()
    found = modes.parse(seat.screen.found)
    raw = without(found, termios.ICANON | termios.ECHO | termios.ISIG)
    seat.set_modes(raw._replace(iflag=0, oflag=0))
    seat.until(lambda: not seat.screen.cooked)
    assert not seat.screen.modes.lflag & termios.ISIG
    assert not seat.screen.modes.oflag & termios.OPOST
    seat.screen.type(b"\x03\r\x1b[A\x11")
    seat.settle()
    assert seat.keys() == b""
    seat.want()
    seat.until(lambda: seat.keys() == b"\x03\r\x1b[A\x11")
    assert seat.show(b"a\nb") == b"a\nb"
    seat.set_modes(found)
    seat.until(lambda: seat.screen.cooked)


def test_a_password_is_not_shown(seat: Seat) -> None:
    seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ECHO))
    seat.until(lambda: not seat.screen.cooked)
    seat.screen.type(b"early")
    seat.want()
    seat.until(lambda: seat.keys() == b"early")
    assert seat.screen.shown() == b""


def test_keys_that_make_signals_still_do_for_the_whole_job(seat: Seat) -> None:
    seat.sit()
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    assert seat.screen.modes.lflag & termios.ISIG
    seat.screen.type(b"\x03")
    seat.until(lambda: state_of(seat.screen.job) == "Z")
    assert seat.keys() == b""


def test_a_line_typed_ahead_is_edited_and_shown_once(seat: Seat) -> None:
    seat.sit()
    seat.screen.type(b"onx\x7fe\ntw")
    seat.until_shown(b"onx\b \be\r\ntw")
    seat.want()
    seat.until(lambda: seat.keys() == b"one\n")
    assert seat.screen.cooked
    assert seat.show(b"one\r\ngot one\r\n") == b"got one\r\n"
    seat.want()
    seat.until(lambda: seat.keys() == b"one\ntw")
    assert not seat.screen.cooked
    assert seat.show(b"tw") == b""
    seat.want()
    seat.screen.type(b"o\r")
    seat.until(lambda: seat.keys() == b"one\ntwo\n")
    assert seat.show(b"o\r\n") == b"o\r\n"


def test_an_end_of_file_typed_ahead_is_one(seat: Seat) -> None:
    seat.sit()
    seat.screen.type(b"part\x04\x04")
    seat.want()
    seat.until(lambda: seat.keys() == b"part\x04")
    seat.want()
    seat.until(lambda: seat.keys() == b"part\x04\x04")
    assert not seat.node.all(StreamEnd)


def test_lines_end_as_natively_whatever_the_modes_and_the_cut(seat: Seat) -> None:
    seat.sit()
    assert seat.show(b"a\r\nb\r\n") == b"a\r\nb\r\n"
    assert seat.show(b"\r\r\n50%\r") == b"\r\r\n50%\r"
    seat.print(b"cut\r")
    seat.print(b"\nhere\r\n")
    seat.until_shown(b"cut\r\nhere\r\n")
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    assert seat.show(b"c\r\n") == b"c\r\n"


def test_other_writers_at_home_are_not_disturbed(seat: Seat) -> None:
    seat.sit()
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    os.write(seat.screen.slave, b"from home\n")
    seat.until_shown(b"from home\r\n")


def test_a_background_reader_is_stopped_and_reads_nothing(seat: Seat) -> None:
    seat.screen.move("bg")
    user = seat.sit()
    seat.want()
    seat.until(lambda: user.all(Signal))
    assert user.all(Signal) == [Signal(seat.screen.job, signal.SIGTTIN, SCOPE_PROCESS)]
    seat.screen.type(b"shell\n")
    seat.pass_time(0.3)
    assert len(user.all(Signal)) == 1
    assert seat.screen.cooked
    assert seat.keys() == b""
    seat.node.post(Stopped(seat.screen.job, signal.SIGTTIN))
    seat.until(lambda: user.all(Stopped))
    assert os.read(seat.screen.slave, 100) == b"shell\n"
    seat.screen.move("fg")
    user.post(Signal(seat.screen.job, signal.SIGCONT, SCOPE_GROUP))
    seat.until(lambda: not seat.screen.cooked)
    seat.screen.type(b"job\r")
    seat.until(lambda: seat.keys() == b"job\n")


def test_modes_are_back_before_mrun_hears_of_a_stop(seat: Seat) -> None:
    user = seat.sit()
    found = modes.parse(seat.screen.found)
    changed = without(found, termios.ICANON | termios.ECHO)
    seat.set_modes(changed)
    seat.until(lambda: not seat.screen.cooked)
    cooked_at_stop: list[bool] = []
    user.hooks[Stopped] = lambda message: cooked_at_stop.append(seat.screen.cooked)
    seat.node.post(Stopped(seat.screen.job, signal.SIGTSTP))
    seat.until(lambda: cooked_at_stop)
    assert cooked_at_stop == [True]
    user.post(Signal(seat.screen.job, signal.SIGCONT, SCOPE_GROUP))
    seat.node.post(Continued(seat.screen.job))
    seat.until(lambda: not seat.screen.cooked)


@pytest.mark.parametrize("status", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_program_leaves_the_modes_as_they_were(seat: Seat, status: int) -> None:
    user = seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ICANON | termios.ECHO))
    seat.until(lambda: not seat.screen.cooked)
    cooked: list[bool] = []
    user.hooks[Exited] = lambda message: cooked.append(seat.screen.cooked)
    seat.node.post(exited(seat, status))
    seat.until(lambda: cooked)
    assert cooked == [True]


def test_a_program_that_exits_leaves_the_modes_that_it_set(seat: Seat) -> None:
    user = seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ECHO))
    seat.node.post(exited(seat, 0))
    seat.until(lambda: user.all(Exited))
    left = seat.screen.modes
    assert left == without(modes.parse(seat.screen.found), termios.ECHO)


def test_a_killed_mrun_leaves_the_modes_as_they_were(seat: Seat) -> None:
    user = seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ICANON))
    seat.until(lambda: not seat.screen.cooked)
    user.endpoint.close("killed")
    seat.until(lambda: seat.screen.cooked)


def test_a_lost_node_leaves_the_modes_as_they_were(seat: Seat) -> None:
    seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ICANON))
    seat.until(lambda: not seat.screen.cooked)
    seat.guests.lost("gone")
    assert seat.screen.cooked


def test_the_end_of_the_link_process_leaves_the_modes_as_they_were(seat: Seat) -> None:
    seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ICANON))
    seat.until(lambda: not seat.screen.cooked)
    seat.guests.close()
    assert seat.screen.cooked


def test_modes_that_the_shell_has_set_meanwhile_are_kept(seat: Seat) -> None:
    seat.sit()
    seat.set_modes(without(modes.parse(seat.screen.found), termios.ICANON))
    seat.until(lambda: not seat.screen.cooked)
    seat.screen.move("bg")
    own = without(modes.parse(seat.screen.found), termios.ECHOK)
    termbits.tcsets2(seat.screen.slave, modes.pack(own))
    seat.pass_time(0.2)
    assert seat.screen.modes == own


def test_a_job_that_comes_to_the_front_finds_the_modes_of_home(seat: Seat) -> None:
    own = without(modes.parse(seat.screen.found), termios.ICANON | termios.ECHO)
    termbits.tcsets2(seat.screen.slave, modes.pack(own))
    seat.screen.move("bg")
    user = seat.sit()
    assert modes.parse(seat.spawn.termios) == own
    termbits.tcsets2(seat.screen.slave, seat.screen.found)
    seat.node.post(Stopped(seat.screen.job, signal.SIGTTIN))
    seat.until(lambda: user.all(Stopped))
    seat.screen.move("fg")
    user.post(Signal(seat.screen.job, signal.SIGCONT, SCOPE_GROUP))
    seat.wait(Signal)
    assert seat.node.got[-2:] == [
        Modes(seat.tty, seat.screen.found),
        Signal(seat.screen.job, signal.SIGCONT, SCOPE_GROUP),
    ]
    seat.screen.type(b"line\n")
    seat.want()
    seat.until(lambda: seat.keys() == b"line\n")


def test_a_key_that_made_a_signal_is_typed_on_the_node(seat: Seat) -> None:
    user = seat.sit()
    seat.screen.type(b"\x1c")
    user.post(Signal(seat.screen.job, signal.SIGQUIT, SCOPE_GROUP))
    seat.until(lambda: seat.keys() == b"\x1c")
    seat.until_shown(b"^\\")
    assert seat.show(b"^\\") == b""
    user.post(Signal(seat.screen.job, signal.SIGINT, SCOPE_PROCESS))
    assert seat.wait(Signal).signo == signal.SIGINT


def test_a_key_is_there_before_the_end_of_a_neighbour_that_it_killed(seat: Seat) -> None:
    reader, writer = os.pipe()
    spawn = make_spawn(seat.screen.job, os.fsencode(seat.directory))
    spawn.sid = seat.screen.shell.pid
    spawn.rows, spawn.columns, spawn.termios = 24, 80, seat.screen.found
    spawn.descriptors = [descriptor(0, FD_STREAM_IN), descriptor(1, FD_TTY)]
    spawn.exclusive = [0]
    seat.request_start(seat.user, spawn, [reader, os.dup(seat.screen.slave)])
    os.close(writer)
    seat.settle()
    seat.user.post(Signal(seat.screen.job, signal.SIGINT, SCOPE_GROUP))
    seat.wait(StreamEnd)
    assert [type(message) for message in seat.node.got[-2:]] == [StreamData, StreamEnd]
    assert seat.keys() == b"\x03"


def test_a_terminal_that_no_descriptor_leads_to_is_there_all_the_same(seat: Seat) -> None:
    seat.sit(fds=0)
    assert seat.tty
    assert seat.show(b"Password: ") == b"Password: "
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    seat.screen.type(b"x\r")
    seat.until(lambda: seat.keys() == b"x\n")


def test_the_terminal_is_let_go_with_the_last_guest(seat: Seat) -> None:
    user = seat.sit()
    name = os.ttyname(seat.screen.slave)
    assert name in opened()
    before = opened().count(name)
    seat.node.post(exited(seat, 0))
    seat.until(lambda: user.all(Exited))
    seat.node.post(Gone(seat.screen.job))
    seat.until(lambda: seat.guests.count == 0)
    assert opened().count(name) == before - 2


def opened() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the directory itself
    return names


def test_output_that_the_terminal_has_not_taken_yet_survives_the_body(seat: Seat) -> None:
    user = seat.sit()
    lines = b"".join(b"%d\r\n" % number for number in range(20000))
    seat.print(lines)
    seat.node.post(exited(seat, 0))
    seat.node.post(Gone(seat.screen.job))
    seat.settle()
    assert not user.all(Exited)
    seat.until_shown(lines)
    seat.until(lambda: user.all(Exited))
    seat.until(lambda: seat.guests.count == 0)


def test_a_terminal_that_hangs_up_ends_the_input(seat: Seat) -> None:
    seat.sit()
    seat.want()
    seat.until(lambda: not seat.screen.cooked)
    os.close(seat.screen.master)
    seat.wait(StreamEnd)
    seat.screen.master = os.open("/dev/null", os.O_RDONLY)


def test_another_terminal_is_a_stream(seat: Seat) -> None:
    master, slave = os.openpty()
    spawn = make_spawn(seat.screen.job, os.fsencode(seat.directory))
    spawn.sid = seat.screen.shell.pid
    spawn.rows, spawn.columns, spawn.termios = 24, 80, seat.screen.found
    spawn.descriptors = [
        descriptor(0, FD_TTY),
        descriptor(1, FD_TTY)._replace(flags=os.O_WRONLY),
        descriptor(2, FD_TTY),
    ]
    fds = [os.dup(seat.screen.slave), os.dup(slave), os.dup(slave)]
    seat.request_start(seat.user, spawn, fds)
    kinds = [item.kind for item in seat.spawn.descriptors]
    assert kinds == [FD_TTY, FD_STREAM_OUT, FD_STREAM_BOTH]
    seat.node.post(StreamData(seat.spawn.descriptors[1].ref, b"over there"))
    seat.until(lambda: select.select([master], [], [], 0)[0])
    assert os.read(master, 100) == b"over there"
    os.close(master)
    os.close(slave)


def exited(seat: Seat, status: int) -> Exited:
    return Exited(seat.screen.job, status, 0, 0, 0, 0, 0, 0, 0, b"")
