"""Questions to the home daemon, where programs shall run: one connection for all of an mrun's.

What the daemon says stays home whatever its arguments (`Placed.sticky`) is not asked about again
for a while: make and the shell, mkdir and rm are exec'ed a thousand times in a build.
"""

from __future__ import annotations

import os
import socket
import time

from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.messages import Computed, Ended, Error, Place, Placed
from stubs.wire.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.run.departure import Departure
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

    # Gets Placed, Refused or Error, and a new socket to the node's link process, if one is needed.
    Answered = Callable[[Message, "socket.socket | None"], None]

# Placed.sticky
STICKY = 1
TOGETHER = 2

# A first daemon has paramiko to load, on a machine that may be busy.
DAEMON_SECONDS = 20.0

# After it could not be had it is done without for so long.
TRY_AGAIN_SECONDS = 30.0

# So long an executable is believed to stay home; and one that has computed for so long after all
# is asked about again.
STICKY_SECONDS = 30.0
STICKY_CPU_SECONDS = 0.25


class Placements:
    """Asks the daemon, and tells it how programs ended that it was asked about."""

    def __init__(self, loop: Loop) -> None:
        """Connect at the first question."""
        self._loop = loop
        self._daemon: Endpoint | None = None
        self._former: list[Endpoint] = []  # asked nothing more
        self._sticky: dict[bytes, float] = {}
        self._failure: tuple[float, OSError] | None = None

    def connect(self) -> None:
        """Have a connection; OSError when there is no daemon and none can be started."""
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise self._failure[1]
        if self._daemon is None or self._daemon.lost is not None:
            try:
                sock = runtime.try_connect() or runtime.connect(DAEMON_SECONDS)
            except OSError as error:
                # Not once more for each of a thousand compilers.
                self._failure = time.monotonic() + TRY_AGAIN_SECONDS, error
                raise
            self._daemon = Endpoint(
                self._loop, SocketStream(sock), {}, lambda reason: None, "home daemon"
            )

    def start_anew(self) -> None:
        """Ask on a new connection next: the daemon must not think that we have links."""
        if self._daemon is not None:
            # Others may still wait for their answers, and what it knows of us runs on.
            self._former.append(self._daemon)
            self._daemon = None

    def stays(self, exe: bytes) -> bool:
        """Tell whether an executable is known to stay home, whatever its arguments."""
        until = self._sticky.get(exe)
        return until is not None and time.monotonic() < until

    def computed(self, exe: bytes, cpu_s: float) -> None:
        """Note what one used that was believed to stay home."""
        if cpu_s > STICKY_CPU_SECONDS:
            self._sticky.pop(exe, None)

    def ask(self, departure: Departure, exe: bytes, answered: Answered) -> None:
        """Ask; OSError when there is nobody to be asked."""
        self.connect()
        daemon = self._daemon
        assert daemon is not None
        program, wish = departure.program, departure.wish
        place = Place(
            version=VERSION,
            pid=program.pid,
            exe=program.exe,
            cwd=program.cwd,
            node=os.fsencode(wish.node),
            only=[os.fsencode(name) for name in wish.only],
            strict=wish.strict,
            top=wish.top,
            argv=program.argv,
        )

        def done(message: Message) -> None:
            sock = None
            if isinstance(message, Placed):
                if message.sticky == STICKY:
                    self._sticky[exe] = time.monotonic() + STICKY_SECONDS
                if daemon.reply_fds:
                    sock = socket.socket(fileno=daemon.reply_fds[0])
            answered(message, sock)

        daemon.request(place, done)
        daemon.flush()

    def tell(self, message: Computed | Ended) -> None:
        """Tell what became of a program that was asked about."""
        if self._daemon is not None:
            self._daemon.post(message)

    def flush(self) -> None:
        """Send what has gathered."""
        if self._daemon is not None:
            self._daemon.flush()


def text_of(message: Message) -> str:
    """Return what an Error says."""
    assert isinstance(message, Error)
    return message.text.decode(errors="replace")
