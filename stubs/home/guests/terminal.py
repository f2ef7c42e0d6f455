"""The user's terminal, shared by the guests of one session on one node.

The node has a pseudo-terminal for the session, with the line discipline at work there. Home's
terminal passes keys on as they are (stubs.home.guests.modes) only while the body's process group
is in the foreground and a body waits for input, or a program on the node has changed the modes.
Otherwise it stays as it was found, so that keys typed ahead are edited, echoed and kept at home,
for whoever reads next.

Keys are read only when a body waits for them. Home's modes are put back before mrun hears that
its body stopped or ended, when mrun is killed, and when the link process ends. The link process
has no controlling terminal, so job control never stops it for touching this one.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import time

from stubs.abi.termbits import FIONREAD, count, get_device, tcgets2, tcsetsw2
from stubs.home.guests import modes
from stubs.home.run.proc import read_stat
from stubs.link.loop import READ
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    SCOPE_GROUP,
    SCOPE_PROCESS,
    Modes,
    Signal,
    StreamData,
    StreamEnd,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.guests.ends import End
    from stubs.home.guests.screen import Screen
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message
    from stubs.wire.messages import Spawn

# How often the foreground is looked at while it matters: nothing tells of a change.
POLL_SECONDS = 0.05

# How long home's terminal goes on passing keys after a body has stopped waiting for them: longer
# than a line-reading program needs to ask again, shorter than a person notices a missing echo.
LINGER_SECONDS = 0.25

# The longest line a terminal takes (N_TTY_BUF_SIZE, drivers/tty/n_tty.c).
LINE = 4096

# The same key reaches each guest of the foreground group, as one signal each, within this time.
SAME_KEY_SECONDS = 1.0

KEYS: dict[int, int] = {
    signal.SIGINT: termios.VINTR,
    signal.SIGQUIT: termios.VQUIT,
    signal.SIGTSTP: termios.VSUSP,
}


class Member:
    """A guest of the terminal's session."""

    def __init__(self, pid: int, tell: Callable[[Message], None]) -> None:
        """`tell` posts to its mrun."""
        self.pid = pid
        self.tell = tell
        self.stopped = False


class Terminal:
    """One terminal of home and its stream; an Inlet for the keys, while a Screen is the Outlet."""

    def __init__(
        self,
        loop: Loop,
        deliver: Callable[[Message], None],
        number: int,
        end: End,
        screen: Screen,
        device: int,
    ) -> None:
        """Take over `end`, open for reading and writing on the terminal with that number.

        `deliver` posts to the node.
        """
        self.number = number
        self.screen = screen
        self.users: set[int] = set()  # pids of bodies of which something is left on the node
        self._loop = loop
        self._deliver = deliver
        self._end = end
        self._fd = end.fileno()
        self._device = device
        self._members: dict[int, Member] = {}
        self._base = modes.parse(tcgets2(self._fd))  # what the node's began with
        self._node = self._base  # what the node's has now
        self._found = self._base  # what home's had before we changed it
        self._applied: bytes | None = None  # what home's has by our doing
        self._wanted = 0
        self._hung_up = False
        self._linger: Timer | None = None
        self._poll: Timer | None = None
        self._background_polls = 0
        self._unechoed = 0  # bytes at the head of home's queue which were typed without echo
        self._echoed = 0  # and after them, which home has echoed
        self._same_key: dict[tuple[int, int], float] = {}

    # guests come and go

    def is_open_on(self, fd: int) -> bool:
        """Whether `fd` is open on this very terminal (also by way of /dev/tty)."""
        return os.isatty(fd) and get_device(fd) == self._device

    def join(self, spawn: Spawn, tell: Callable[[Message], None]) -> None:
        """Take in a body that starts; the node's terminal gets the modes in `spawn`."""
        self.users.add(spawn.body)
        self._members[spawn.body] = Member(spawn.body, tell)
        if self._applied is None:
            self._base = modes.parse(tcgets2(self._fd))
            self._set_node_modes(self._base)
        # What mrun saw may be our doing, or what the shell's prompt needs.
        spawn.termios = modes.pack(self._node)
        self._settle()

    def show_status(self, text: Callable[[int], bytes]) -> None:
        """Show a status line, which `text` makes for a width, if that disturbs nobody.

        No body may be reading or have changed the modes, as what fills the screen does; and one at
        least must be in the foreground.
        """
        busy = self._hung_up or self._wanted or self._changed() or self._applied is not None
        if busy or not self._in_front():
            self.screen.hide_status()
            return
        try:
            width = os.get_terminal_size(self._fd).columns
        except OSError:
            return  # it hangs up just now
        self.screen.show_status(text(width))

    def pause(self, pid: int) -> None:
        """Note that a body has stopped: its mrun will, and the shell takes the terminal."""
        self.screen.hide_status()
        if pid in self._members:
            self._members[pid].stopped = True
            self._settle()

    def before_resume(self) -> None:
        """Give the node's terminal the modes that a body will find on it when it goes on."""
        if self._applied is None and not self._hung_up:
            self._adopt_modes()

    def _adopt_modes(self) -> None:
        """Tell the node when somebody at home has changed the modes, as a shell does for itself."""
        try:
            found = modes.parse(tcgets2(self._fd))
        except OSError:
            self._hang_up()
            return
        if modes.differ(found, self._base) and not self._changed():
            self._base = found
            self._set_node_modes(found)
            self._deliver(Modes(self.number, modes.pack(found)))

    def resume(self, pid: int) -> None:
        """Note that a body goes on, perhaps in the foreground now."""
        if pid in self._members:
            self._members[pid].stopped = False
            self._background_polls = 0
            self._settle()

    def leave(self, pid: int, status: int | None) -> None:
        """Let go of a body that ended with that wait status; None: it was, or will be, killed."""
        self.screen.hide_status()
        if pid not in self._members:
            return
        in_front = self._in_front()
        del self._members[pid]
        if status is not None and os.WIFEXITED(status) and in_front:
            self._keep_changes()
        self._settle()

    def close(self) -> None:
        """Put the modes back and let go of the terminal."""
        self._members.clear()
        self._settle()
        self._loop.forget(self._fd)
        self._end.close()

    def _all_stopped(self) -> bool:
        return all(member.stopped for member in self._members.values())

    def _keep_changes(self) -> None:
        """Leave on home's terminal what an ended program set on the node's, as stty(1) does."""
        if modes.differ(self._base, self._node):
            self._take_over()
            self._found = modes.left_behind(self._found, self._base, self._node)
            self._applied = self._set(self._found)
            self._base = self._node

    # what the node says

    def set_modes(self, raw: bytes) -> None:
        """Take in that a program on the node has changed the modes there."""
        try:
            node = modes.parse(raw)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error
        self._set_node_modes(node)
        self._settle()

    def _set_node_modes(self, node: modes.Modes) -> None:
        self._node = node
        self.screen.node = node
        self.screen.hide_status()

    def want(self, count: int) -> None:
        """Note that a body waits for up to `count` bytes; 0: it does not any more."""
        self._wanted = count
        self.screen.hide_status()
        self._background_polls = 0
        if not count:
            self._loop.forget(self._fd)
            self._begin_linger()
        self._settle()

    def taken(self, count: int) -> None:
        """Nothing: keys have no window, since each was asked for."""

    # signals made by keys

    def typed(self, pid: int, message: Signal) -> bool:
        """Type the key that made this signal on the node's terminal instead; False if it cannot be.

        There it does all it should: signals the group in the foreground of that terminal, throws
        away what was typed before it, and is echoed.
        """
        index = KEYS.get(message.signo)
        if message.scope != SCOPE_GROUP or index is None:
            return False
        key = self._node.cc[index : index + 1]
        if not self._node.lflag & termios.ISIG or key == b"\0" or not _in_foreground(pid):
            return False
        now = time.monotonic()
        if now < self._same_key.pop((pid, message.signo), 0.0):
            return True
        group = _group(pid)
        for member in self._members.values():
            if member.pid != pid and not member.stopped and _group(member.pid) == group:
                self._same_key[member.pid, message.signo] = now + SAME_KEY_SECONDS
        if self._applied is None:
            self.screen.expect(modes.echo_of(self._node, key))
        self._deliver(StreamData(self.number, key))
        return True

    # the modes of home's terminal

    def _changed(self) -> bool:
        return modes.differ(self._base, self._node)

    def _settle(self) -> None:
        """Bring home's terminal into the state that everything known calls for."""
        if self._hung_up:
            return
        if self._all_stopped():
            self._give_back()
            return
        if not (self._wanted or self._changed() or self._applied is not None):
            return
        self._begin_poll()
        if not self._in_front():
            self._give_back()
            self._stay_behind()
        else:
            self._serve()
        if self._wanted and self._applied is not None:
            self._loop.watch(self._fd, READ, self._readable)

    def _serve(self) -> None:
        """Do what the bodies in the foreground need of home's terminal."""
        if self._applied is None:
            self._adopt_modes()
        if self._changed():
            self._pass_keys()
        elif self._wanted:
            if self._applied is not None or not self._read_line():
                self._pass_keys()
        elif self._linger is None:
            self._give_back()

    def _stay_behind(self) -> None:
        # Twice, since a shell moves a new job to the foreground only after it has started it.
        self._background_polls += 1
        if self._wanted and self._background_polls == 2:
            for member in list(self._members.values()):
                if not member.stopped:
                    member.tell(Signal(member.pid, signal.SIGTTIN, SCOPE_PROCESS))

    def _in_front(self) -> bool:
        return any(
            _in_foreground(member.pid) for member in self._members.values() if not member.stopped
        )

    def _begin_poll(self) -> None:
        if self._poll is None:
            self._poll = self._loop.call_later(POLL_SECONDS, self._polled)

    def _polled(self) -> None:
        self._poll = None
        self._settle()

    def _begin_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._loop.call_later(LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
        self._linger = None
        self._settle()

    def _take_over(self) -> None:
        """Remember home's modes before the first change of them."""
        if self._applied is None:
            self._found = modes.parse(tcgets2(self._fd))

    def _pass_keys(self) -> None:
        """Let home's terminal pass keys on as they are typed."""
        try:
            self._take_over()
            target = modes.relayed(self._found, self._node)
            if self._applied is None:
                self._applied = self._set(target)
                self._echoed = max(0, count(self._fd, FIONREAD) - self._unechoed)
                if not self._found.lflag & termios.ECHO:
                    self._echoed = 0
            elif modes.differ(modes.parse(self._applied), target):
                self._applied = self._set(target)
        except OSError:
            self._hang_up()

    def _give_back(self) -> None:
        """Put home's terminal back as it was found, unless somebody else has changed it since."""
        self._loop.forget(self._fd)
        applied, self._applied = self._applied, None
        if applied is None:
            return
        try:
            # Keys typed until now were not echoed.
            self._unechoed = count(self._fd, FIONREAD)
            if tcgets2(self._fd) == applied:
                self._set(self._found)
        except OSError:
            self._hang_up()

    def _set(self, target: modes.Modes) -> bytes:
        tcsetsw2(self._fd, modes.pack(target))
        # The kernel may have set less than was asked for.
        return tcgets2(self._fd)

    def _hang_up(self) -> None:
        """Note that the terminal is gone (EIO): whoever reads from the node's sees its end."""
        self._hung_up = True
        self._loop.forget(self._fd)
        self._deliver(StreamEnd(self.number))

    # keys

    def _readable(self, _: int) -> None:
        try:
            data = self._read_keys()
        except OSError:
            data = b""
        if data == b"":
            self._hang_up()
        elif data is not None:
            echoed = data[self._unechoed : self._unechoed + self._echoed]
            self._unechoed = max(0, self._unechoed - len(data))
            self._echoed -= len(echoed)
            self._send(data, echoed)

    def _read_keys(self) -> bytes | None:
        """Read once, but not beyond the end of a line that a body reads as such."""
        limit = min(self._wanted, LINE)
        if not modes.canonical(self._node):
            return self._end.read(limit)
        line = b""
        while len(line) < limit and not line.endswith((b"\n", b"\r")):
            byte = self._end.read(1)
            if not byte:
                return line or byte
            line += byte
        return line

    def _read_line(self) -> bool:
        """Pass on one line that was typed ahead and edited at home; False if there is none."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        ready = poll.poll(0)
        if not ready or ready[0][1] & (select.POLLHUP | select.POLLERR):
            return False
        found = modes.parse(tcgets2(self._fd))
        data = self._end.read(min(self._wanted, LINE))
        if data is None:
            return False
        echoed = data[self._unechoed :] if found.lflag & termios.ECHO else b""
        ended_by_key = not data.endswith(b"\n") and len(data) < min(self._wanted, LINE)
        if ended_by_key and modes.canonical(found) and not self._unechoed:
            # Ended by Ctrl-D (VEOF), which is not among the bytes that read(2) gives.
            data += self._node.cc[termios.VEOF : termios.VEOF + 1]
        self._unechoed = max(0, self._unechoed - len(data))
        if not data:
            return False
        self._send(data, echoed)
        return True

    def _send(self, data: bytes, echoed: bytes) -> None:
        self._wanted = 0
        self._loop.forget(self._fd)
        self.screen.expect(modes.echo_of(self._node, echoed))
        self._deliver(StreamData(self.number, data))
        self._begin_linger()


def _group(pid: int) -> int:
    try:
        return read_stat(pid).pgrp
    except OSError:
        # Ended a moment ago.
        return 0


def _in_foreground(pid: int) -> bool:
    try:
        stat = read_stat(pid)
    except OSError:
        # Ended a moment ago.
        return False
    return stat.pgrp == stat.tpgid
