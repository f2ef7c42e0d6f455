"""Departures: where each program of the tree runs, from its exec to its end.

`consider` sees every exec. Most programs go on at once (they are known to stay home); of the others
the daemon is asked, and what goes is captured and sent to its node, while its process stands
still; the loop serves all the others meanwhile. Until the body runs the process is whole: whatever
speaks against the node lets it go on at home.
"""

from __future__ import annotations

import errno
import os
import signal

from stubs.abi import ptrace
from stubs.home.run.body import Body
from stubs.home.run.capture import Terminal
from stubs.home.run.departure import Departure, Wish, traces_others
from stubs.home.run.deputy import Deputy
from stubs.home.run.ending import exit_status
from stubs.home.run.errors import FAILED, MrunError, say
from stubs.home.run.inherited import ImmovableError
from stubs.home.run.links import Links, was_lost
from stubs.home.run.moving import Moving
from stubs.home.run.nesting import Nesting
from stubs.home.run.options import HOME
from stubs.home.run.placements import STICKY, TOGETHER, Placements, text_of
from stubs.home.run.proc import read_stat
from stubs.home.run.recording import Recording
from stubs.home.run.restarting import LOCAL, Restarting
from stubs.wire.messages import SCOPE_GROUP, Error, Kill, Placed, Refused, Resume, Spawned

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from stubs.home.run.links import Connection
    from stubs.home.run.options import Options
    from stubs.home.run.tree import Task, Tree
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message
    from stubs.wire.messages import Move

    # Called with the departure, and its body unless it stays home, or what is wrong.
    Decided = Callable[[Departure, "Body | None", "MrunError | None"], None]

# How often a body that had not started goes elsewhere when its node is lost, and one that had.
OTHER_NODES = 2
MOST_RESTARTS = 3

# What was to begin at home is told to the daemon once it has run for so long.
LONG_SECONDS = 1.0


class Departing:
    """All programs of one mrun."""

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        options: Options,
        decided: Decided,
        body_ended: Callable[[Body], None],
        is_groups: Callable[[int, int], bool],
    ) -> None:
        """`decided` is told of every departure, `body_ended` of every end of a body.

        `is_groups` tells of a signal and its sender whether it came to mrun's whole group.
        """
        self._loop = loop
        self.recording = Recording(tree)
        self._tree = tree
        self._options = options
        self._decided = decided
        self._body_ended = body_ended
        self._is_groups = is_groups
        self._tty = read_stat(os.getpid()).tty
        self._placements = Placements(loop, self._order)
        self._nesting = Nesting(loop)
        self._links = Links(loop, self._placements.start_anew)
        self._masks: dict[int, int] = {}  # by pid: what the program mrun was started for may block
        self._starting: set[int] = set()  # pids for which a node has been asked
        self._bodies: dict[int, Body] = {}
        self._exes: dict[int, bytes] = {}
        self.moving = Moving(loop, self._links, self._bodies, self._emigrate)
        self.moving.on_moved = self.recording.body_moved
        self._restarting = Restarting(loop, self._placements, self._links, self._over)

    def _order(self, move: Move, fds: list[int], answer: Callable[[Message], None]) -> None:
        self.moving.ordered(move, fds, answer)

    @property
    def busy(self) -> bool:
        """Whether there are bodies, or programs that may become some."""
        return bool(self._bodies or self._starting)

    def is_starting(self, task: Task) -> bool:
        """Tell whether a node has been asked to run the program: what comes now is for the body."""
        return task.pid in self._starting

    def flush(self) -> None:
        """Send what has gathered, before mrun itself stands still."""
        self._links.flush()
        self._placements.flush()

    def continue_group(self) -> None:
        """Have the bodies of mrun's process group go on: somebody has continued that."""
        for body in list(self._bodies.values()):
            try:
                if os.getpgid(body.pid) == os.getpgrp():
                    body.forward(signal.SIGCONT, SCOPE_GROUP)
            except ProcessLookupError:
                continue  # just killed

    def abandon(self) -> None:
        """Wait for no body any more: they end with mrun."""
        for body in self._bodies.values():
            self.recording.body_ended(body)
        self._bodies.clear()
        self._starting.clear()

    # an exec

    def consider(self, task: Task) -> None:
        """Let a program that has just been exec'ed go on, or see whether it should go elsewhere."""
        try:
            self.recording.replaced(task)
            exe = os.readlink(f"/proc/{task.pid}/exe".encode())
            if traces_others(exe):
                self._tree.detach(task)
                return
            if task.gains_privileges():
                self._tree.forget(task)
                task.exec_untraced()
                return
            self._exes[task.pid] = exe
            wish = self._nesting.take(task.pid)
            if wish is not None:
                task.together = False
                self.recording.attach(task, wish.records)
                self.begin(Departure(task, wish), None)
                return
            if task.together or self._placements.stays(exe):
                why = "what started it stays" if task.together else "it stays, whatever arguments"
                self.recording.begin_at_home(task, None, why)
                self._tree.go_on(task)
                return
            options = self._options
            wish = Wish(only=options.only, verbose=options.verbose, stay=options.stay)
            self.begin(Departure(task, wish), None)
        except (ImmovableError, OSError):
            # What has been killed, or cannot be looked into, is nobody's to move either.
            self._tree.go_on(task)

    def begin(self, departure: Departure, mask: int | None) -> None:
        """Ask where a program shall run; `mask` if it finds other signals blocked than now."""
        task = departure.task
        if mask is not None:
            self._masks[task.pid] = mask
        if departure.recovery is not None and departure.wish.node == HOME:
            # What it was before cannot become a process of home's kernel alone.
            departure.wish = departure.wish.on(LOCAL)
        if departure.wish.node == HOME:
            self._stay(departure, "asked for", wanted=True)
            self._loop.call_later(LONG_SECONDS, lambda: self._make_known(departure))
            return

        def answered(answer: Message, sock: socket.socket | None) -> None:
            self._placed(departure, answer, sock)

        exe = self._exes.get(task.pid, departure.program.exe)
        try:
            self._placements.ask(departure, exe, answered)
        except OSError as error:
            self._stay(departure, f"no home daemon: {error}")

    def _make_known(self, departure: Departure) -> None:
        """Tell the daemon of a program that was to begin at home, and may be worth moving now."""
        task = departure.task
        if task.status is not None or task.body is not None:
            return

        def answered(answer: Message, sock: socket.socket | None) -> None:
            task.asked = isinstance(answer, Placed)
            if task.asked and task.status is not None:
                self._placements.given_up(task, "it has ended")

        try:
            self._placements.ask(departure, departure.program.exe, answered)
        except OSError:
            return  # no daemon to be had: nobody will move it

    def _placed(self, departure: Departure, answer: Message, sock: socket.socket | None) -> None:
        if isinstance(answer, Refused):
            text, hint = (raw.decode(errors="replace") for raw in (answer.text, answer.hint))
            self._refuse(departure, MrunError(text, hint, answer.status))
            return
        if not isinstance(answer, Placed):
            self._stay(departure, f"no home daemon: {text_of(answer)}")
            return
        task = departure.task
        task.asked = True
        task.together = answer.sticky == TOGETHER
        departure.sticky = answer.sticky == STICKY
        departure.node = os.fsdecode(answer.node)
        departure.reason = answer.reason.decode(errors="replace")
        if sock is not None:
            self._links.adopt(departure.node, sock)
        if task.status is not None:
            departure.close()
            self._placements.given_up(task, "it was killed while it was thought about")
            return
        if departure.node == HOME and departure.recovery is not None:
            if departure.wish.node == LOCAL:
                self._stay(departure, departure.reason)
            else:
                departure.wish = departure.wish.on(LOCAL)
                self.begin(departure, None)
        elif departure.node == HOME:
            self._stay(departure, departure.reason, wanted=True)
        else:
            self._leave(departure)

    def _refuse(self, departure: Departure, error: MrunError) -> None:
        """Do not run what cannot run as it was asked for."""
        task = departure.task
        if departure.wish.top and task.parent is not None:
            # An inner mrun's: its process ends as that mrun would have.
            error.report()
            Deputy(task).end(exit_status(error.status))
            self._tree.forget(task)
        elif departure.wish.top:
            self._decided(departure, None, error)
        else:
            self._stay(departure, error.text)

    def _stay(self, departure: Departure, reason: str, wanted: bool = False) -> None:
        # Copies may be left of a node that was lost: at home a reader waits for their end.
        departure.close()
        departure.reason = reason
        departure.wanted_home = wanted
        wish = departure.wish
        if departure.recovery is not None:
            self._refuse(departure, MrunError(f"{departure.name} cannot be recovered: {reason}"))
            return
        if wish.strict and not wanted:
            self._refuse(departure, MrunError(f"{departure.name} cannot run on a node: {reason}"))
            return
        # What never goes is not worth a line for each time.
        if wish.verbose and (wish.top or not departure.sticky):
            say(f"{departure.name} runs at home: {reason}")
        self.recording.begin_at_home(departure.task, departure.program.argv, reason)
        self._decided(departure, None, None)

    def go_on(self, task: Task, mask: int) -> None:
        """Let the program that mrun was started for run at home, with these signals blocked."""
        try:
            ptrace.setsigmask(task.pid, mask)
        except ProcessLookupError:
            pass  # killed: its end is told next
        self._tree.go_on(task)

    # to a node

    def _leave(self, departure: Departure) -> None:
        """Capture the program and send it to its node."""
        task = departure.task
        try:
            capture = departure.take(self._masks.get(task.pid), self._terminal(departure))
            fds = departure.copies()
        except ImmovableError as error:
            self._give_up(departure, f"it cannot be moved: {error}")
            return
        except OSError as error:
            self._give_up(departure, f"it cannot be captured: {error.strerror}")
            return
        connection = self._links.to(departure.node)
        if connection is None:
            self._give_up(departure, f"{departure.node} is lost")
            return
        self._tell(departure, f"runs on {departure.node}: {departure.reason}")
        self._starting.add(task.pid)

        def started(reply: Message) -> None:
            self._started(departure, connection, reply)

        if departure.recovery is None:
            connection.start(capture.spawn, fds, started)
        else:
            departure.recovery.send(connection, capture.spawn, fds, started)

    def _terminal(self, departure: Departure) -> Terminal | None:
        """Return the program's terminal, which must be mrun's; ImmovableError if it is another."""
        tty = read_stat(departure.task.pid).tty
        if tty and tty != self._tty:
            raise ImmovableError("its terminal is not that of mrun")
        return Terminal.controlling() if tty else None

    def _give_up(self, departure: Departure, reason: str) -> None:
        """Note that a node was chosen in vain."""
        self._placements.given_up(departure.task, reason)
        self._stay(departure, reason)

    def _started(self, departure: Departure, connection: Connection, reply: Message) -> None:
        task = departure.task
        self._starting.discard(task.pid)
        if isinstance(reply, Spawned):
            self._convert(departure, connection)
            return
        assert isinstance(reply, Error)
        if was_lost(reply) and departure.losses < OTHER_NODES:
            # The program is whole still, and the daemon hears of the loss as soon as we do.
            departure.losses += 1
            if departure.wish.verbose:
                say(f"{departure.node} is lost: {text_of(reply)}")
            self._placements.start_anew()
            self.begin(departure, None)
        elif was_lost(reply):
            self._give_up(departure, f"{departure.node} is lost: {text_of(reply)}")
        else:
            self._give_up(departure, f"the node refuses it: {text_of(reply)}")

    def _convert(self, departure: Departure, connection: Connection) -> None:
        """Make the process the deputy of its body, which runs."""
        body = self._embody(departure, connection)
        if body is not None:
            if departure.recovery is not None:
                # It is held there: only now is it certain that it has a deputy.
                body.hold(lambda _: None)
                connection.request(Resume(body.pid), lambda _: body.resume(connection.post))
            body.drain()
            return
        # Killed just now: its end is told next.
        connection.post(Kill(departure.task.pid))
        departure.close()

    def _embody(self, departure: Departure, connection: Connection, page: int = 0) -> Body | None:
        """Return the body of which its process is the deputy now; None if that has been killed."""
        task = departure.task
        try:
            deputy = Deputy(task, page)
        except ProcessLookupError:
            return None
        body = Body(
            self._loop, connection.post, deputy, departure, self._over, self._is_groups_of(task.pid)
        )
        connection.bodies[task.pid] = self._bodies[task.pid] = body
        self._tree.embody(task, body)
        departure.connection = connection
        body.on_computed = self._placements.tell
        task.deciding = False
        self._decided(departure, body, None)
        return body

    def _emigrate(
        self,
        pid: int,
        destination: Connection,
        node: str,
        how: int,
        done: Callable[[Message], None],
    ) -> None:
        """Take a program that runs at home to a node; `how` as in Move."""
        from stubs.home.run.leaving import Emigration

        task = self._tree.tasks.get(pid)
        if task is None or task.deciding or task.status is not None:
            done(Error(errno.ESRCH, b"it does not run at home"))
            return
        options = self._options
        wish = Wish(only=options.only, verbose=options.verbose, stay=options.stay)
        wish.top = task.parent is None
        Emigration(
            self._loop,
            self._tree,
            task,
            destination,
            node,
            how,
            wish,
            self._terminal,
            self._left,
            done,
        )

    def _left(self, departure: Departure, page: int, connection: Connection) -> Body | None:
        """Make the deputy of a program that has been taken to a node."""
        body = self._embody(departure, connection, page)
        if body is not None:
            self.recording.left_home(departure.task, body)
        return body

    def _is_groups_of(self, pid: int) -> Callable[[int, int], bool]:
        """Return what tells whether a signal to a deputy is one to its group."""

        def is_groups(signo: int, sender: int) -> bool:
            try:
                ours = os.getpgid(pid) == os.getpgrp()
            except ProcessLookupError:
                return False  # just killed
            return ours and self._is_groups(signo, sender)

        return is_groups

    # the end

    def _over(self, body: Body) -> None:
        """End the deputy as its body ended, and tell of it."""
        departure = body.departure
        task = departure.task
        if departure.connection is not None:
            departure.connection.bodies.pop(task.pid, None)
        can = (body.unseen and departure.is_whole) or (body.grown is not None and departure.last)
        if can and departure.restarts < MOST_RESTARTS:
            self._restarting.begin(body)
            return
        self._bodies.pop(task.pid, None)
        departure.close()
        self.recording.body_ended(body)
        if body.exited is not None:
            self._placements.ended_away(body)
        else:
            self._placements.lost(body)
        if task.parent is not None:
            self._complain(body)
        body.end_deputy()
        self._tree.forget(task)
        if task.status is not None:
            self.recording.finish(task, task.status)
        self._body_ended(body)

    def _complain(self, body: Body) -> None:
        """Say what went wrong with a body of the tree, and have it fail."""
        departure = body.departure
        if body.lost is not None:
            say(f"node {departure.node} was lost ({body.lost}); {departure.name} was running there")
            body.fail(exit_status(FAILED))
        elif body.exited is not None and body.exited.errno:
            path, why = os.fsdecode(body.exited.path), os.strerror(body.exited.errno)
            say(f"{path}: {why}: a write of {departure.name} failed after it was done")
            body.fail(exit_status(FAILED))

    def ended(self, task: Task, status: int, cpu_s: float, maxrss_kib: int) -> None:
        """Note the end of a task at home: of a program there, or of a deputy that was killed."""
        exe = self._exes.pop(task.pid, None)
        self._nesting.forget(task.pid)
        if task.record is not None:
            self.recording.ended_at_home(task, status, cpu_s, maxrss_kib)
            self.recording.finish(task, status)
        self._masks.pop(task.pid, None)
        if task.body is not None:
            task.body.deputy_died()
        elif task.asked:
            self._placements.ended_at_home(task, cpu_s, maxrss_kib)
        elif exe is not None:
            self._placements.computed(exe, cpu_s)

    def _tell(self, departure: Departure, text: str) -> None:
        if departure.wish.verbose:
            say(f"{departure.name} {text}")
