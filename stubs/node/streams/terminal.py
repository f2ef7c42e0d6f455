"""A session's terminal on the node: a pseudo-terminal of the capsule, relayed to that of home.

The line discipline works here: programs see modes, size, foreground group and job control as of
any terminal. What they print goes to home; keys come from home once somebody waits for them. A
change of the modes is noticed by comparing them, before output that follows it is sent, and every
so often.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios

from stubs.abi.termbits import (
    TIOCGPGRP,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCSPTLCK,
    count,
    set_winsize,
    tcgets2,
    tcsets2,
)
from stubs.node.streams.streams import Inlet, Outlet
from stubs.node.streams.want import Want
from stubs.wire.messages import FD_TTY, Modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.link.endpoint import Endpoint
    from stubs.link.loop import Timer
    from stubs.node.streams.streams import Streams
    from stubs.wire.codec import Message
    from stubs.wire.messages import Spawn

# A change of modes that no output follows (a shell that reads a password without asking) is seen
# within this time.
MODES_SECONDS = 0.05

# A terminal with a higher number than this is not aimed for: each one below costs an open(2).
MOST_TRIES = 255


class Keys(Inlet):
    """What is typed: the writing half of the master."""

    IDLE = 0

    def __init__(self, terminal: Terminal, number: int, fd: int, want: Want) -> None:
        """Take over `fd`."""
        super().__init__(terminal.streams, number, fd, want)
        self._terminal = terminal

    def end(self) -> None:
        """Home's terminal has hung up: so does this one."""
        self._terminal.close()


class Output(Outlet):
    """What is printed: the reading half of the master."""

    def __init__(self, terminal: Terminal, number: int, fd: int) -> None:
        """Take over `fd`."""
        super().__init__(terminal.streams, number, fd)
        self._terminal = terminal

    def send(self, message: Message) -> None:
        """Send to home, after a change of the modes that came first."""
        self._terminal.check_modes()
        super().send(message)


class Terminal:
    """The agent's side of one pseudo-terminal."""

    def __init__(self, streams: Streams, pts: int, spawn: Spawn) -> None:
        """Make it for the session of `spawn`; `pts` is open on the /dev/pts it shall be in."""
        self.streams = streams
        self._number = spawn.terminal
        self._master = _open_master(pts, _wanted_index(spawn))
        os.set_blocking(self._master, False)
        index = count(self._master, TIOCGPTN)
        fcntl.ioctl(self._master, TIOCSPTLCK, bytes(4))
        # While this is open the terminal never hangs up, however often bodies close theirs.
        self._slave = self.open_peer()
        self._typed = b""  # taken from those who read here, see take_typed
        self._poll = select.poll()
        self._poll.register(self._slave, select.POLLIN)
        self._modes = tcgets2(self._slave)
        self.name = b"/dev/pts/%d" % index
        want = Want(streams.loop, streams.link, self._number, self.name, self._unread)
        self._output = Output(self, self._number, os.dup(self._master))
        self._keys = Keys(self, self._number, os.dup(self._master), want)
        streams.register(self._number, self._keys, self._output)
        self._timer: Timer | None = None
        self._watch_modes()

    def open_peer(self) -> int:
        """Return a new descriptor of the terminal, for a body or a ghost."""
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        return fcntl.ioctl(self._master, TIOCGPTPEER, flags)

    def prepare(self, spawn: Spawn) -> None:
        """Give it the modes and the size that home's has."""
        if self._master < 0:
            raise OSError(errno.EIO, "the terminal has hung up")
        # The kernel may set less than is asked for; what it has is what a change is seen by.
        self.set_modes(spawn.termios)
        self.resize(spawn.rows, spawn.columns)

    def set_modes(self, termios: bytes) -> None:
        """Take the modes that home's terminal has got there."""
        if self._master >= 0:
            tcsets2(self._slave, termios)
            self._modes = tcgets2(self._slave)

    def state(self) -> tuple[int, bytes]:
        """Return the process group in the foreground, and the modes."""
        try:
            group = count(self._master, TIOCGPGRP)
        except OSError:
            group = 0
        return _inside(group), tcgets2(self._slave)

    def take_typed(self) -> bytes:
        """Take what has been typed and not been read; `put_back` has it read here after all.

        Also what is not a whole line yet: whoever is to have it has the same line discipline.
        """
        modes = tcgets2(self._slave)
        tcsets2(self._slave, _raw(modes))
        os.set_blocking(self._slave, False)
        try:
            while self._unread() and (data := os.read(self._slave, 4096)):
                self._typed += data
        except BlockingIOError:
            pass  # that was all
        finally:
            os.set_blocking(self._slave, True)
            tcsets2(self._slave, modes)
        return self._typed + self._keys.waiting

    def put_back(self) -> None:
        """Type what was taken once more, without an echo: it has one on the screen."""
        typed, self._typed = self._typed, b""
        if typed and self._master >= 0:
            modes = tcgets2(self._slave)
            tcsets2(self._slave, _without_echo(modes))
            self._keys.put(typed)
            tcsets2(self._slave, modes)

    @property
    def number(self) -> int:
        """The number of its stream."""
        return self._number

    def resize(self, rows: int, columns: int) -> None:
        """Set the size; the foreground process group gets SIGWINCH."""
        set_winsize(self._master, rows, columns)

    def ask(self, ghost: Endpoint) -> None:
        """Ask `ghost`, that of the session, whether one of its descendants waits for keys."""
        self._keys.ask(ghost)

    def check_modes(self) -> None:
        """Tell home if a program has changed the modes."""
        if self._master < 0:
            return
        modes = tcgets2(self._slave)
        if modes != self._modes:
            self._modes = modes
            self.streams.send(Modes(self._number, modes))

    def close(self) -> None:
        """Hang up."""
        if self._master < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._keys.close()
        self._output.close()
        os.close(self._master)
        os.close(self._slave)
        self._master = -1

    def _unread(self) -> int:
        # poll(2) waits until what was written to the master has come through the line
        # discipline (n_tty_poll), which FIONREAD would not.
        return len(self._poll.poll(0))

    def _watch_modes(self) -> None:
        self.check_modes()
        self._timer = self.streams.loop.call_later(MODES_SECONDS, self._watch_modes)


def _raw(modes: bytes) -> bytes:
    """Return termios2 `modes` with a line discipline that gives away each byte at once."""
    return _with_local(modes, ~(termios.ICANON | termios.ECHO))


def _without_echo(modes: bytes) -> bytes:
    return _with_local(modes, ~(termios.ECHO | termios.ECHONL))


def _with_local(modes: bytes, mask: int) -> bytes:
    # c_lflag is the fourth 32-bit word (struct termios2, include/uapi/asm-generic/termbits.h).
    flags = int.from_bytes(modes[12:16], "little") & mask
    return modes[:12] + (flags & 0xFFFFFFFF).to_bytes(4, "little") + modes[16:]


def _wanted_index(spawn: Spawn) -> int:
    """Return the number of home's terminal, so that tty(1) says the same; 0 if it has none."""
    for item in spawn.descriptors:
        if item.kind == FD_TTY and item.path.startswith(b"/dev/pts/"):
            text = item.path[len(b"/dev/pts/") :]
            if text.isdigit() and int(text) <= MOST_TRIES:
                return int(text)
    return 0


def _open_master(pts: int, index: int) -> int:
    """Open a master, that of terminal `index` if it is to be had: the kernel gives the lowest."""
    tried: list[int] = []
    try:
        while True:
            fd = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=pts)
            tried.append(fd)
            if count(fd, TIOCGPTN) >= index:
                return tried.pop()
    finally:
        for fd in tried:
            os.close(fd)


def _inside(group: int) -> int:
    """Return a process group as its capsule numbers it; 0: its leader is gone."""
    try:
        with open(f"/proc/{group}/status") as file:
            rows = [line.split() for line in file if line.startswith("NSpid:")]
    except OSError:
        return 0
    return int(rows[0][-1]) if rows else 0
