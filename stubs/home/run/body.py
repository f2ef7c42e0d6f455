"""A body on a node as mrun sees it, and the deputy that stands for it at home, kept in step.

From `Spawned` to the body's end. What the body does, the deputy does: stop, go on, end. What home
does to the deputy reaches the body: signals, once each, and death. If it is the program that mrun
was started for, mrun itself is in step, too (stubs.home.run.front).
"""

from __future__ import annotations

import os
import signal
import time

from stubs.abi.signalfd import SI_KERNEL
from stubs.home.run.ending import STOP_SIGNALS
from stubs.home.run.errors import say
from stubs.home.run.record import LOST, MOVED
from stubs.home.run.signals import TWIN_SECONDS
from stubs.wire.messages import (
    SCOPE_GROUP,
    SCOPE_PROCESS,
    Computed,
    Continued,
    Exited,
    FdClosed,
    Grown,
    Kill,
    Lost,
    Signal,
    Stopped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.run.departure import Departure
    from stubs.home.run.deputy import Arrival, Deputy
    from stubs.home.run.record import Migration
    from stubs.home.run.tracer import Stop
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message

# How long to wait for the end of a body that has been killed, before mrun goes all the same.
KILLED_SECONDS = 5.0

# A stop that crossed a SIGCONT on its way: so long the news that the body goes on may take.
CROSSING_SECONDS = 0.5


class Body:
    """One body that runs on a node, until `ended`."""

    def __init__(
        self,
        loop: Loop,
        post: Callable[[Message], None],
        deputy: Deputy,
        departure: Departure,
        on_end: Callable[[Body], None],
        is_groups: Callable[[int, int], bool],
    ) -> None:
        """`post` sends to the link process; `on_end` is called once, when `ended`.

        `is_groups` tells whether a signal of that sender has come to the whole process group.
        """
        self.pid = deputy.pid
        self.deputy = deputy
        self.departure = departure
        self.began = self.arrived = time.monotonic()  # the latter: on its node of now; 0: on none
        self.stays: list[tuple[str, float, float, str]] = []  # see stubs.home.run.record
        self.migrations: list[Migration] = []
        self.exited: Exited | None = None
        self.lost: str | None = None  # why its node was lost
        self.unseen = False  # then: nothing of what it did can have been noticed
        self.grown: set[tuple[int, int]] | None = None  # as Grown says; None: it says nothing
        self.abandoned = False  # the deputy was killed, and nothing was heard of the body since
        # What to do instead when the deputy gets a signal, when the body is stopped (return whether
        # somebody will continue it), and when it has closed a descriptor.
        self.on_arrival: Callable[[Arrival], None] = self._arrived
        self.on_stopped: Callable[[int], bool] = lambda signo: True
        self.on_fd_closed: Callable[[int], None] = lambda fd: None
        self.on_computed: Callable[[Computed], None] = lambda message: None
        self._loop = loop
        self._post = post
        self._on_end = on_end
        self._is_groups = is_groups
        self._continuing = False
        self._stopping: Timer | None = None
        self._killed = False
        self._failure: int | None = None
        self._held: list[Message] = []  # for it
        self._heard: list[Message] = []  # of it, while it stands still
        self._standing = False
        self._handlers: dict[type[Message], Callable[..., None]] = {
            Stopped: self._stopped,
            Continued: self._continued,
            Computed: self._computed,
            Exited: self._exited,
            Grown: self._grown,
            Lost: self._lost,
            FdClosed: self._fd_closed,
            Signal: self._signal_group,
        }

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.exited is not None or self.lost is not None or self.abandoned

    @property
    def wall_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def take(self, message: Message) -> None:
        """Handle what the link process says of it."""
        if self._standing:
            self._heard.append(message)
        else:
            self._handlers[type(message)](message)

    def link_lost(self, reason: str, unseen: bool = False) -> None:
        """Note that the node, or the link process, is gone."""
        if self._standing:
            why = reason.encode(errors="surrogateescape")
            self._heard.append(Lost(self.pid, int(unseen), why))
        elif not self.ended:
            self.lost = reason
            self.unseen = unseen
            self._on_end(self)

    def suspend(self) -> None:
        """Keep what is for the body until it has been started again."""
        self.stays.append((self.departure.node, self.arrived, time.monotonic(), LOST))
        self.arrived = 0.0
        self.lost, self.unseen, self.grown = None, False, None
        self._continuing = False
        self._post = self._held.append

    def hold(self, noticed: Callable[[Message], None]) -> None:
        """Keep what is for the body, which stands still to go elsewhere; `noticed` hears of it.

        Also what its node says of it meanwhile, until `moved` or `resume`: it may live elsewhere.
        """

        def keep(message: Message) -> None:
            self._held.append(message)
            noticed(message)

        self._post = keep
        self._standing = True

    def moved(self, node: str) -> None:
        """Note that it runs on another node now; what the former one said does not matter."""
        self._heard.clear()
        self._standing = False
        now = time.monotonic()
        self.stays.append((self.departure.node, self.arrived, now, MOVED))
        self.arrived = now
        self.departure.node = node

    def restarted(self, post: Callable[[Message], None]) -> None:
        """Note that it has been started again."""
        self.arrived = time.monotonic()
        self.resume(post)

    def resume(self, post: Callable[[Message], None]) -> None:
        """Send it what was kept, and heed what was heard of it."""
        held, self._held = self._held, []
        self._post = post
        for message in held:
            post(message)
        self._heed()

    def vanished(self, reason: str, unseen: bool) -> None:
        """Note that it stands still nowhere any more: as was heard, or else lost for `reason`."""
        told = any(isinstance(message, (Exited, Lost)) for message in self._heard)
        self._heed()
        if not told:
            self.link_lost(reason, unseen)

    def _heed(self) -> None:
        heard, self._heard = self._heard, []
        self._standing = False
        for message in heard:
            self.take(message)

    # the deputy

    def deputy_stopped(self, stop: Stop) -> None:
        """Handle a ptrace stop of the deputy."""
        for arrival in self.deputy.take(stop):
            self.on_arrival(arrival)

    def drain(self) -> None:
        """Handle what the deputy was seen to get while something else was waited for."""
        for arrival in self.deputy.drain():
            self.on_arrival(arrival)

    def deputy_died(self) -> None:
        """Kill the body: somebody has killed its deputy."""
        if not self._killed and not self.ended:
            self._killed = True
            self._post(Kill(self.pid))
            self._loop.call_later(KILLED_SECONDS, self.abandon)

    def fail(self, status: int) -> None:
        """Have the deputy end with that wait4(2) status, whatever the body did."""
        self._failure = status

    def end_deputy(self) -> None:
        """Have the deputy end as the body did; killed, if that is not known."""
        if self._failure is not None:
            self.deputy.end(self._failure)
        elif self.exited is not None:
            self.deputy.end(self.exited.status)
        else:
            self.deputy.kill()

    # to the body

    def forward(self, signo: int, scope: int) -> None:
        """Send it a signal that came at home."""
        if signo == signal.SIGCONT:
            self._continuing = True
            # If it was sent to mrun alone, the deputy has not heard of it.
            self.deputy.go_on()
        self._post(Signal(self.pid, signo, scope))

    def post(self, message: Message) -> None:
        """Send something else about it to the link process."""
        self._post(message)

    def _arrived(self, arrival: Arrival) -> None:
        # What has stopped by a key has stopped as a group, and goes on as one.
        if arrival.code == SI_KERNEL or arrival.signo == signal.SIGCONT:
            self.forward(arrival.signo, SCOPE_GROUP)
        else:
            # Others of the group may be signalled a moment later.
            self._loop.call_later(TWIN_SECONDS, lambda: self._decide_scope(arrival))

    def _decide_scope(self, arrival: Arrival) -> None:
        groups = self._is_groups(arrival.signo, arrival.sender)
        self.forward(arrival.signo, SCOPE_GROUP if groups else SCOPE_PROCESS)

    # from the body

    def _stopped(self, message: Stopped) -> None:
        if self._continuing:
            # Had we stopped now, nobody would continue us: that was done before.
            self._stopping = self._loop.call_later(
                CROSSING_SECONDS, lambda: self._stop(message.signo)
            )
        else:
            self._stop(message.signo)

    def _stop(self, signo: int) -> None:
        self._continuing = False
        self._stopping = None
        self.deputy.stop(signo)
        self.drain()
        if not self.on_stopped(signo):
            self.forward(signal.SIGCONT, SCOPE_GROUP)

    def _continued(self, _: Continued) -> None:
        self._continuing = False
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None
        self.deputy.go_on()

    def _computed(self, message: Computed) -> None:
        self.on_computed(message)

    def _exited(self, message: Exited) -> None:
        if not self.ended:
            self.exited = message
            self._on_end(self)

    def _grown(self, message: Grown) -> None:
        self.grown = set(zip(message.files[::2], message.files[1::2]))

    def _lost(self, message: Lost) -> None:
        self.link_lost(message.reason.decode(errors="replace"), bool(message.unseen))

    def _fd_closed(self, message: FdClosed) -> None:
        self.departure.let_go_of(message.fd)
        self.on_fd_closed(message.fd)

    def _signal_group(self, message: Signal) -> None:
        # What a terminal does to a process group that reads it from the background.
        if message.signo in STOP_SIGNALS:
            try:
                os.killpg(os.getpgid(self.pid), message.signo)
            except ProcessLookupError:
                pass  # the deputy has just been killed
        else:
            say(f"the link process asks for signal {message.signo}: ignored")

    def abandon(self) -> None:
        """Wait for nothing any more: the deputy was killed, and the body is dead or will be."""
        if not self.ended:
            self.abandoned = True
            self._on_end(self)
