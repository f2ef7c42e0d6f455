"""mrun as the user's shell sees it: it stops, goes on and is signalled as its program would be.

The program is mrun's child and of the same process group. It runs at home, traced, or it is the
deputy of a body. What is sent to mrun alone is meant for the program; what is sent to the group
has reached both, and counts once.
"""

from __future__ import annotations

import os
import signal

from stubs.abi import ptrace
from stubs.home.run.deputy import Arrival
from stubs.home.run.ending import stop_self
from stubs.home.run.launch import let_go_of
from stubs.home.run.proc import read_status
from stubs.home.run.signals import Forwarding
from stubs.wire.messages import SCOPE_GROUP, Resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.run.body import Body
    from stubs.home.run.capture import Terminal
    from stubs.home.run.tree import Task
    from stubs.link.loop import Loop

# Between the end of a program's standard error and that of the program itself.
LAST_WORDS_SECONDS = 0.2

# Once the program has stopped, others of its group may be about to, and bodies must hear of it.
STOPPING_SECONDS = 0.02


class Front:
    """Keeps mrun and its program in step."""

    def __init__(
        self,
        loop: Loop,
        task: Task,
        poll: Callable[[], None],
        before_stop: Callable[[], None],
        after_stop: Callable[[], None],
    ) -> None:
        """`poll` answers what tracees have to tell; `before_stop` sends what has gathered.

        `after_stop` has the bodies of the group go on.
        """
        self._loop = loop
        self._task = task
        self._poll = poll
        self._before_stop = before_stop
        self._after_stop = after_stop
        self._body: Body | None = None
        self._terminal: Terminal | None = None
        self._arrivals: list[Arrival] = []
        self._forwarding = Forwarding(loop, task.pid, poll, self._forward)

    def take_body(self, body: Body, terminal: Terminal | None, keeps_stderr: bool) -> None:
        """Take in that the program is a body from now on.

        mrun lets go of standard error as soon as that does, unless it `keeps_stderr`, to say more.
        """
        self._body = body
        self._terminal = terminal
        self._forwarding.is_deputy = True
        body.on_arrival = lambda arrival: self._arrivals.append(arrival)
        body.on_stopped = stop_self
        if not keeps_stderr:
            body.on_fd_closed = self._fd_closed

    def settle(self, infos: list[signalfd_siginfo]) -> None:
        """Deal with the signals that came to mrun, and with those that the program got before.

        The kernel signals the youngest of a group first, so what the program has got as one of the
        group, mrun has got, too.
        """
        arrivals, self._arrivals = self._arrivals, []
        for info in infos:
            self._forwarding.at_mrun(info)
        for arrival in arrivals:
            self._forwarding.at_program(arrival)

    def delivered(self, signo: int) -> None:
        """Take that the program, running at home, is being delivered a signal."""
        if signo != signal.SIGCHLD:
            self._arrivals.append(Arrival(*ptrace.getsiginfo(self._task.pid)))

    def stopped(self, signo: int) -> None:
        """Stop as the program did that runs at home."""
        self._loop.call_later(STOPPING_SECONDS, lambda: self._stop(signo))

    def restore_terminal(self) -> None:
        """Put back the modes that the link process did not live to put back."""
        if self._terminal is not None:
            self._terminal.restore()

    def _stop(self, signo: int) -> None:
        if self._is_stopped():
            self._before_stop()
            if stop_self(signo):
                # At once: what is still to be heard is that they have stopped, and to stop their
                # deputies for that would take back the SIGCONT that is on its way to these.
                self._after_stop()

    def _is_stopped(self) -> bool:
        """Tell whether the program at home still is: somebody may have continued it meanwhile."""
        # Who was continued stands still until that is answered.
        self._poll()
        try:
            return read_status(self._task.pid)["State"].startswith(("T", "t"))
        except OSError:
            return False  # it has ended

    def _forward(self, signo: int, scope: int, has_it: bool) -> None:
        body = self._body
        if body is None:
            if not has_it:
                self._send(signo)
            return
        if self._terminal is not None:
            if signo == signal.SIGWINCH and scope == SCOPE_GROUP:
                self._resize(body, self._terminal)
                return
            if signo == signal.SIGCONT:
                # Nobody tells a job in the background of a new size; it would have looked itself.
                self._resize(body, self._terminal)
        body.forward(signo, scope)

    def _send(self, signo: int) -> None:
        try:
            os.kill(self._task.pid, signo)
        except ProcessLookupError:
            pass  # it has just ended

    def _resize(self, body: Body, terminal: Terminal) -> None:
        try:
            terminal.update_size()
        except OSError:
            return  # hung up
        body.post(Resize(body.pid, terminal.rows, terminal.columns))

    def _fd_closed(self, fd: int) -> None:
        # When the node is lost there is still something to say, and so there may be when the
        # program has just ended: that closes it, too.
        if fd == 2:
            self._loop.call_later(LAST_WORDS_SECONDS, self._let_go_of_stderr)

    def _let_go_of_stderr(self) -> None:
        if self._body is not None and not self._body.ended:
            let_go_of([2])
