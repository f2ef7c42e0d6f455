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
from stubs.wire.messages import Computed, Ended, Error, Move, Place, Placed
from stubs.wire.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.run.body import Body
    from stubs.home.run.departure import Departure
    from stubs.home.run.tree import Task
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

    # Gets the daemon's order, the socket that came with it, and what to answer it by.
    OnMove = Callable[[Move, list[int], Callable[[Message], None]], None]
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

    def __init__(self, loop: Loop, on_move: OnMove) -> None:
        """Connect at the first question; `on_move` gets what the daemon wants to be moved."""
        self._loop = loop
        self._on_move = on_move
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
            daemon = self._daemon = Endpoint(
                self._loop,
                SocketStream(sock),
                {Move: lambda message, tag, fds: self._move(daemon, message, tag, fds)},
                lambda reason: None,
                "home daemon",
            )

    def _move(self, daemon: Endpoint, message: Move, tag: int, fds: list[int]) -> None:
        self._on_move(message, fds, lambda answer: daemon.reply(tag, answer))

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
            stay=wish.stay,
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

    def ended_at_home(self, task: Task, cpu_s: float, maxrss_kib: int) -> None:
        """Tell what a program took that ran at home; nothing, if it never did where it was sent."""
        task.asked = False
        wall_s = time.monotonic() - task.began if task.began else 0.0
        own_s = max(0.0, cpu_s - task.children_cpu_s)
        self.tell(
            Ended(
                pid=task.pid,
                away=0,
                cpu_us=int(cpu_s * 1e6),
                own_us=int(own_s * 1e6),
                wall_us=int(wall_s * 1e6),
                maxrss_kib=maxrss_kib,
                children=task.children,
                peak=task.peak,
                round_trips=0,
                bytes_to_node=0,
                bytes_to_home=0,
                reason=b"",
            )
        )

    def given_up(self, task: Task, reason: str) -> None:
        """Tell that a program runs at home after all, and why."""
        task.asked = False
        self.tell(Ended(task.pid, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, os.fsencode(reason)))

    def lost(self, body: Body) -> None:
        """Tell that a body is lost for good."""
        reason = os.fsencode(body.lost or "its deputy was killed")
        self.tell(Ended(body.pid, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, reason))

    def ended_away(self, body: Body) -> None:
        """Tell what a body took that has exited."""
        exited = body.exited
        assert exited is not None
        self.tell(
            Ended(
                pid=body.pid,
                away=1,
                cpu_us=exited.utime_us + exited.stime_us,
                own_us=exited.utime_us + exited.stime_us,
                wall_us=int(body.wall_s * 1e6),
                maxrss_kib=exited.maxrss_kib,
                children=0,
                peak=0,
                round_trips=exited.round_trips,
                bytes_to_node=exited.bytes_to_node,
                bytes_to_home=exited.bytes_to_home,
                reason=b"",
            )
        )

    def flush(self) -> None:
        """Send what has gathered."""
        if self._daemon is not None:
            self._daemon.flush()


def text_of(message: Message) -> str:
    """Return what an Error says."""
    assert isinstance(message, Error)
    return message.text.decode(errors="replace")
