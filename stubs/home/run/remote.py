"""A body on a node as mrun sees it: the deputy, the link, and mrun itself kept in step.

From `Spawned` to the body's end. What the body does, deputy and mrun do: stop, go on, end. What
home does to mrun or to the deputy reaches the body: signals once each, the terminal's size, death.
"""

from __future__ import annotations

import os
import signal

from stubs.home.run.ending import STOP_SIGNALS, stop_self
from stubs.home.run.errors import MrunError, say
from stubs.home.run.launch import let_go_of
from stubs.home.run.signals import Forwarding
from stubs.wire.messages import (
    SCOPE_GROUP,
    Continued,
    Exited,
    FdClosed,
    Kill,
    Lost,
    Resize,
    Signal,
    Stopped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.run.capture import Terminal
    from stubs.home.run.deputy import Deputy
    from stubs.link.endpoint import Endpoint, Handler
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message

# How long to wait for the end of a body that has been killed, before mrun goes all the same.
KILLED_SECONDS = 5.0
# Between the end of a program's standard error and that of the program itself.
LAST_WORDS_SECONDS = 0.2

# A stop that crossed a SIGCONT on its way: so long the news that the body goes on may take.
CROSSING_SECONDS = 0.5


class Remote:
    """One body that runs on a node, until `ended`."""

    def __init__(
        self,
        loop: Loop,
        read_signals: Callable[[], list[signalfd_siginfo]],
        node: str,
        name: str,
        verbose: bool,
    ) -> None:
        """`read_signals` returns those that came to mrun; `name` is the program's."""
        self.exited: Exited | None = None
        self.failure: MrunError | None = None
        self.abandoned = False  # the deputy was killed, and nothing was heard of the body since
        self._loop = loop
        self._read_signals = read_signals
        self._node = node
        self._name = name
        self._terminal: Terminal | None = None
        self._link: Endpoint | None = None
        self._deputy: Deputy | None = None
        self._forwarding: Forwarding | None = None
        self._continuing = False
        self._stopping: Timer | None = None
        self._killed = False
        self._verbose = verbose

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.exited is not None or self.failure is not None or self.abandoned

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what is done with messages of the link process."""
        return {
            Stopped: lambda message, tag, fds: self._stopped(message),
            Continued: lambda message, tag, fds: self._continued(),
            Exited: lambda message, tag, fds: self._exited(message),
            Lost: lambda message, tag, fds: self._lost(message),
            FdClosed: lambda message, tag, fds: self._fd_closed(message),
            Signal: lambda message, tag, fds: self._signal_group(message),
        }

    def begin(self, link: Endpoint, deputy: Deputy, terminal: Terminal | None) -> None:
        """Forward signals from now on: the body runs."""
        self._link = link
        self._deputy = deputy
        self._terminal = terminal
        self._forwarding = Forwarding(self._loop, deputy.pid, self.on_signals, self._forward)

    def on_signals(self) -> None:
        """Handle signals to mrun, and to the deputy, which SIGCHLD tells of.

        The deputy is asked first: the kernel signals the youngest of a group first, so what the
        deputy has got as one of the group, mrun has got, too, by then. And it is asked again
        after a SIGCHLD has been read, which may be for a stop since.
        """
        assert self._deputy is not None
        assert self._forwarding is not None
        arrivals, infos, latest = [], [], None
        while latest is None or any(info.ssi_signo == signal.SIGCHLD for info in latest):
            arrivals += self._deputy.poll()
            latest = self._read_signals()
            infos += latest
        for info in infos:
            if info.ssi_signo != signal.SIGCHLD:
                self._forwarding.at_mrun(info)
        for arrival in arrivals:
            self._forwarding.at_deputy(arrival)
        if self._deputy.status is not None and not self._killed and not self.ended:
            self._killed = True
            self._post(Kill(self._deputy.pid))
            self._loop.call_later(KILLED_SECONDS, self._give_up)

    def link_lost(self, reason: str) -> None:
        """Give up: the link process is gone."""
        if not self.ended:
            if self._terminal is not None:
                self._terminal.restore()
            self._fail(reason)

    def finish(self) -> int:
        """Have the deputy end as the body did; return the status. MrunError when there is none."""
        assert self._deputy is not None
        exited = self.exited
        if self.failure is not None:
            self._deputy.kill()
            raise self.failure
        if exited is None:
            self._deputy.kill()
            return self._deputy.status or signal.SIGKILL
        self._deputy.end(exited.status)
        if exited.errno:
            path = os.fsdecode(exited.path)
            why = os.strerror(exited.errno)
            raise MrunError(f"{path}: {why}: a write of {self._name} failed after it was done")
        return exited.status

    # to the body

    def _post(self, message: Message) -> None:
        assert self._link is not None
        self._link.post(message)

    def _forward(self, signo: int, scope: int) -> None:
        assert self._deputy is not None
        if signo == signal.SIGWINCH and scope == SCOPE_GROUP and self._terminal is not None:
            self._resize(self._terminal)
            return
        if signo == signal.SIGCONT:
            if self._terminal is not None:
                # Nobody tells a job in the background of a new size; it would have looked itself.
                self._resize(self._terminal)
            self._continuing = True
            # If it was sent to mrun alone, the deputy has not heard of it.
            self._deputy.go_on()
        self._post(Signal(self._deputy.pid, signo, scope))

    def _resize(self, terminal: Terminal) -> None:
        assert self._deputy is not None
        try:
            terminal.update_size()
        except OSError:
            return  # hung up
        self._post(Resize(self._deputy.pid, terminal.rows, terminal.columns))

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
        assert self._deputy is not None
        self._continuing = False
        self._stopping = None
        self._deputy.stop(signo)
        if not stop_self(signo):
            self._forward(signal.SIGCONT, SCOPE_GROUP)

    def _continued(self) -> None:
        assert self._deputy is not None
        self._continuing = False
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None
        self._deputy.go_on()

    def _exited(self, message: Exited) -> None:
        self.exited = message

    def _lost(self, message: Lost) -> None:
        self._fail(message.reason.decode(errors="replace"))

    def _fd_closed(self, message: FdClosed) -> None:
        # When the node is lost there is still something to say, and so there may be when the
        # program has just ended: that closes it, too.
        if message.fd == 2 and not self._verbose:
            self._loop.call_later(LAST_WORDS_SECONDS, self._let_go_of_stderr)

    def _let_go_of_stderr(self) -> None:
        if not self.ended:
            let_go_of([2])

    def _signal_group(self, message: Signal) -> None:
        # What a terminal does to a process group that reads it from the background.
        if message.signo in STOP_SIGNALS:
            os.kill(0, message.signo)
        else:
            say(f"the link process asks for signal {message.signo}: ignored")

    def _fail(self, reason: str) -> None:
        self.failure = MrunError(
            f"node {self._node} was lost ({reason}); {self._name} was running there"
        )

    def _give_up(self) -> None:
        self.abandoned = True
