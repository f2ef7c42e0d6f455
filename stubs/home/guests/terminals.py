"""The terminals of all sessions that have guests on a link, and how they are opened.

The link process has no controlling terminal, and must not get one: it opens the user's by a
descriptor that a body was given, or by its device number, as an open file of its own.
"""

from __future__ import annotations

import errno
import os

from stubs.abi.termbits import get_device
from stubs.home.guests.ends import OwnEnd, SharedEnd, reopen
from stubs.home.guests.screen import Screen
from stubs.home.guests.terminal import Terminal
from stubs.home.run.proc import read_stat
from stubs.wire.messages import Modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.guests.ends import End
    from stubs.home.guests.streams import Streams
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message
    from stubs.wire.messages import Spawn


class Terminals:
    """The terminals of all sessions that have guests on a link."""

    def __init__(self, loop: Loop, link: Link, streams: Streams) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._streams = streams
        self._by_session: dict[tuple[int, int], Terminal] = {}

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what this end does with the messages about terminals."""
        return {Modes: self._modes}

    def join(
        self, spawn: Spawn, candidates: list[int], tell: Callable[[Message], None]
    ) -> Terminal | None:
        """Return the terminal of `spawn`'s session, its body taken in; None if out of reach.

        `candidates` are descriptors of terminals that the body has.
        """
        device = read_stat(spawn.body).tty
        key = (spawn.sid, device)
        terminal = self._by_session.get(key)
        if terminal is None:
            ends = _open_terminal(device, candidates)
            if ends is None:
                return None
            terminal = self._make(device, *ends)
            self._by_session[key] = terminal
        terminal.join(spawn, tell)
        return terminal

    def _make(self, device: int, keys: End, shown: End) -> Terminal:
        number = self._streams.number()
        screen = Screen(self._loop, self._link, number, shown)
        deliver = self._streams.deliver
        terminal = Terminal(self._loop, deliver, number, keys, screen, device)
        self._streams.register(number, terminal, screen)
        return terminal

    def release(self, terminal: Terminal, pid: int) -> None:
        """Nothing is left of that body: let go of a terminal without users.

        Somebody may wait for its last descriptor to be closed, as script(1) and sshd(8) do.
        """
        terminal.users.discard(pid)
        if terminal.users:
            return
        for key, known in list(self._by_session.items()):
            if known is terminal:
                del self._by_session[key]
                self._streams.close(terminal.number)

    def close(self) -> None:
        """Put all terminals back and let go of them."""
        for terminal in self._by_session.values():
            self._streams.close(terminal.number)
        self._by_session.clear()

    def _modes(self, message: Modes, tag: int, fds: list[int]) -> None:
        for terminal in self._by_session.values():
            if terminal.number == message.stream:
                terminal.set_modes(message.termios)


def _open_terminal(device: int, candidates: list[int]) -> tuple[End, End] | None:
    """Open the terminal with that number, once for keys and once for output; None: cannot be."""
    here = [fd for fd in candidates if os.isatty(fd) and get_device(fd) == device]
    for fd in here:
        try:
            return _own_ends(reopen(fd, os.O_RDWR), device)
        except OSError:
            # /dev/tty, opened again, would be our own terminal, and we have none.
            continue
    try:
        mode = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return _own_ends(os.open(_device_path(device), mode), device)
    except OSError:
        # Another user's, as after su(1): share the open file that the body was given.
        if not here:
            return None
        return (
            SharedEnd(os.dup(here[0]), tells_of_loss=False),
            SharedEnd(os.dup(here[0]), tells_of_loss=False),
        )


def _own_ends(fd: int, device: int) -> tuple[End, End]:
    if get_device(fd) != device:
        os.close(fd)
        raise OSError(errno.ENXIO, "another terminal")
    # Two descriptors, since the loop has one watch for each.
    return OwnEnd(fd, tells_of_loss=False), OwnEnd(os.dup(fd), tells_of_loss=False)


def _device_path(device: int) -> str:
    """Return where the terminal with that device number is; empty if nowhere."""
    major, minor = os.major(device), os.minor(device)
    if 136 <= major < 144:
        return f"/dev/pts/{(major - 136 << 20) + minor}"
    try:
        with open(f"/sys/dev/char/{major}:{minor}/uevent") as lines:
            for line in lines:
                if line.startswith("DEVNAME="):
                    return "/dev/" + line[8:].rstrip("\n")
    except OSError:
        # No such device, or no sysfs here.
        pass
    return ""
