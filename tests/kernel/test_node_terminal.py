from __future__ import annotations

import os
import signal
import struct
import termios
from typing import Any

from stubs.wire.codec import Descriptor
from stubs.wire.messages import (
    FD_TTY,
    SCOPE_PROCESS,
    Exited,
    Gone,
    Modes,
    Resize,
    Signal,
    Spawned,
    Stopped,
    StreamData,
    StreamEnd,
    StreamWant,
)
from tests.kernel.nodebed import PARENT, PID, Bed, bed, home, needs_root, shared_bed

__all__ = ["bed", "home", "shared_bed"]

pytestmark = needs_root

# What a terminal has when it is opened (tty_std_termios, drivers/tty/tty_io.c).
IFLAG = termios.ICRNL | termios.IXON
OFLAG = termios.OPOST | termios.ONLCR
LFLAG = (
    termios.ISIG
    | termios.ICANON
    | termios.ECHO
    | termios.ECHOE
    | termios.ECHOK
    | termios.ECHOCTL
    | termios.ECHOKE
    | termios.IEXTEN
)
CC = bytes([3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0])
TERMIOS2 = struct.pack("=4IB19s2I", IFLAG, OFLAG, 0xBF, LFLAG, 0, CC, 38400, 38400)
LINE = 65536


class Screen:
    """A body in a terminal, and what a person sees and types there."""

    def __init__(self, bed: Bed, *argv: str, number: int | None = None, **fields: Any) -> None:
        self.bed = bed
        self.number = bed.free_stream() if number is None else number
        self.body = fields.get("body", PID)
        tty = Descriptor(0, FD_TTY, self.number, os.O_RDWR, 0, -1, b"/dev/pts/3")
        fields = {
            "descriptors": [tty, tty._replace(fd=1, share=0), tty._replace(fd=2, share=0)],
            "termios": TERMIOS2,
            "terminal": self.number,
            "rows": 30,
            "columns": 100,
            "foreground": PARENT,
        } | fields
        assert bed.spawn(*argv, **fields) == Spawned(self.body)

    @property
    def text(self) -> str:
        return bytes(self.bed.output.get(self.number, b"")).decode()

    def see(self, text: str) -> None:
        """Wait until `text` is on the screen."""
        self.bed.until(lambda: text in self.text, f"{text!r} not in {self.text!r}")

    def want(self) -> int:
        message = self.bed.wait_for(StreamWant, stream=self.number)
        self.bed.got.remove(message)
        return message.bytes

    def type(self, keys: bytes) -> None:
        self.bed.link.post(StreamData(self.number, keys))

    def finish(self) -> int:
        status = self.bed.wait_for(Exited, body=self.body).status
        self.bed.wait_for(Gone, body=self.body)
        return status


def test_a_body_finds_the_terminal_that_it_has_at_home(bed: Bed) -> None:
    screen = Screen(bed, "bash", "-c", "tty; stty size; stty -a; : </dev/tty && echo controlling")
    screen.see("controlling")
    assert screen.finish() == 0
    lines = screen.text.split("\r\n")
    assert lines[:2] == ["/dev/pts/3", "30 100"]
    assert "onlcr" in screen.text
    assert "-onlcr" not in screen.text


def test_the_terminal_ends_with_its_session(bed: Bed) -> None:
    screen = Screen(bed, "true")
    assert screen.finish() == 0
    again = Screen(bed, "tty")
    assert again.finish() == 0
    assert again.text == "/dev/pts/3\r\n"


def test_a_line_is_wanted_when_one_is_read(bed: Bed) -> None:
    screen = Screen(bed, "bash", "-c", "sleep 0.1; read x; echo got $x")
    # Bash asks a terminal byte by byte or by lines, as it pleases.
    assert screen.want() > 0
    screen.type(b"hel")
    assert screen.want() > 0
    screen.type(b"lo\n")
    assert screen.finish() == 0
    assert screen.text == "hello\r\ngot hello\r\n"


def test_nobody_reads_nobody_wants(bed: Bed) -> None:
    screen = Screen(bed, "sleep", "0.3")
    assert screen.finish() == 0
    assert not bed.all(StreamWant)


def test_one_who_stops_waiting_wants_nothing_more(bed: Bed) -> None:
    screen = Screen(bed, "bash", "-c", "read -t 0.2 x; sleep 0.4")
    assert screen.want() > 0
    assert screen.want() == 0
    screen.finish()


def test_polling_the_terminal_wants_a_line(bed: Bed) -> None:
    script = "vec($r, 0, 1) = 1; select $r, undef, undef, undef; print scalar <STDIN>"
    screen = Screen(bed, "perl", "-e", script)
    assert screen.want() == LINE
    screen.type(b"x\n")
    assert screen.finish() == 0
    assert screen.text == "x\r\nx\r\n"


def test_a_change_of_modes_is_told_before_the_output_that_follows_it(bed: Bed) -> None:
    order: list[str] = []
    bed.on_data = lambda: order.append("data")
    try:
        screen = Screen(bed, "bash", "-c", "stty -echo; echo Password:; read x; stty echo")
        screen.see("Password:")
        modes = bed.wait_for(Modes, stream=screen.number)
        position = bed.got.index(modes)
        first = next(at for at, each in enumerate(bed.got) if isinstance(each, StreamData))
        assert position < first
        assert not struct.unpack_from("=4I", modes.termios)[3] & termios.ECHO
        screen.want()
        screen.type(b"secret\n")
        assert screen.finish() == 0
        assert "secret" not in screen.text
        last = bed.all(Modes)[-1]
        assert struct.unpack_from("=4I", last.termios)[3] & termios.ECHO
    finally:
        bed.on_data = None


def test_a_change_of_modes_without_output_is_told(bed: Bed) -> None:
    Screen(bed, "bash", "-c", "stty raw; sleep 100")
    bed.wait_for(Modes)
    bed.kill()


def test_keys_make_signals(bed: Bed) -> None:
    screen = Screen(
        bed, "bash", "-c", "trap 'echo int; exit 7' INT; echo ready; while :; do :; done"
    )
    screen.see("ready")
    screen.type(b"\x03")
    assert screen.finish() == 7 << 8
    assert "^Cint" in screen.text
    screen = Screen(bed, "sleep", "100")
    screen.type(b"\x1a")
    assert bed.wait_for(Stopped, body=PID).signo == signal.SIGTSTP
    bed.link.post(Signal(PID, signal.SIGCONT, SCOPE_PROCESS))
    screen.type(b"\x03")
    assert screen.finish() == signal.SIGINT


def test_resize_is_seen(bed: Bed) -> None:
    screen = Screen(
        bed, "bash", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done"
    )
    screen.see("ready")
    bed.link.post(Resize(PID, 11, 22))
    screen.see("11 22")
    assert screen.finish() == 0


def test_a_second_body_of_the_session_has_the_same_terminal(bed: Bed) -> None:
    first = Screen(bed, "cat")
    first.want()
    second = Screen(
        bed,
        "bash",
        "-c",
        "echo two; tty",
        number=first.number,
        body=PID + 50,
        ppid=PARENT + 50,
        pgrp=PARENT + 50,
    )
    first.see("two\r\n/dev/pts/3\r\n")
    assert second.finish() == 0
    bed.kill()


def test_a_background_body_that_reads_is_stopped_while_another_has_the_foreground(
    bed: Bed,
) -> None:
    first = Screen(bed, "cat")
    first.want()
    second = Screen(
        bed, "cat", number=first.number, body=PID + 50, ppid=PARENT + 50, pgrp=PARENT + 50
    )
    assert bed.wait_for(Stopped, body=PID + 50).signo == signal.SIGTTIN
    first.type(b"\x04")
    assert first.finish() == 0
    # The shell brings it to the foreground.
    bed.link.post(Signal(PID + 50, signal.SIGCONT, SCOPE_PROCESS))
    assert second.want() > 0
    second.type(b"\x04")
    assert second.finish() == 0


def test_an_interactive_shell_controls_its_jobs(bed: Bed) -> None:
    screen = Screen(bed, "bash", "--norc", "-i", env=[b"PATH=/bin", b"PS1=> ", b"HOME=/"])
    screen.see("> ")
    screen.want()
    screen.type(b"bash -c 'echo up; exec sleep 100'\n")
    screen.see("\r\nup")
    # For the job bash gives the terminal the modes back that it had.
    assert bed.all(Modes)[-1].termios == TERMIOS2
    screen.type(b"\x1a")
    screen.see("Stopped")
    screen.type(b"kill -9 %1; sleep 0.1\n")
    screen.see("Killed")
    screen.type(b"exit 3\n")
    assert screen.finish() == 3 << 8
    assert "no job control" not in screen.text


def test_a_terminal_that_hangs_up_at_home_hangs_up_here(bed: Bed) -> None:
    screen = Screen(bed, "cat")
    screen.want()
    bed.link.post(StreamEnd(screen.number))
    assert screen.finish() in (0, 1 << 8)
