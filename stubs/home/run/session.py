"""A session: one mrun from its start to its end.

Launch the program traced; ask the daemon where it shall run; capture it, start its body there,
make the process at home the deputy, and keep both in step until the body ends. Whatever speaks
against a node is found out before the program has run an instruction: it is then started at home
instead (stubs.home.run.athome), and the process that stood ready is killed, having done nothing.

One thread. mrun blocks all signals and reads them from a signalfd.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from stubs.abi.signalfd import read_signals, signalfd, sigset
from stubs.home.run import athome, launch
from stubs.home.run.asking import Question
from stubs.home.run.capture import Capture, Program, Terminal
from stubs.home.run.deputy import Deputy
from stubs.home.run.ending import STOP_SIGNALS, end_as, exit_status, stop_self
from stubs.home.run.errors import FAILED, MrunError, say
from stubs.home.run.inherited import ImmovableError
from stubs.home.run.options import HOME
from stubs.home.run.receipt import Receipt
from stubs.home.run.remote import Remote
from stubs.home.run.signals import is_fatal
from stubs.home.run.tracer import Tracee
from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Error, Spawned, Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import NoReturn

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.run.launch import Given
    from stubs.home.run.options import Options
    from stubs.wire.codec import Message

# A first daemon has paramiko to load, on a machine that may be busy.
DAEMON_SECONDS = 20.0

# How often a body that had not started goes elsewhere when its node is lost.
_OTHER_NODES = 2


class Stay(Exception):  # noqa: N818  # a decision, not an error
    """The program runs at home; the text says why."""

    def __init__(self, reason: str, wanted: bool = False) -> None:
        """`wanted`: as it was asked for, or as the daemon thinks best, not for want of a node."""
        super().__init__(reason)
        self.reason = reason
        self.wanted = wanted


class NodeLost(Stay):
    """The link was lost before the body had started: another node may do."""


class Interrupted(Exception):  # noqa: N818  # nothing went wrong
    """A signal came that ends the program, before it was decided where it runs."""

    def __init__(self, signo: int) -> None:
        """Keep the signal."""
        super().__init__(signo)
        self.signo = signo


class KilledEarly(Exception):  # noqa: N818  # somebody meant it
    """The program was killed while it stood before its first instruction."""


def run(options: Options) -> NoReturn:
    """Run the program to its end, and end as it did."""
    given = launch.Given()
    try:
        receipt = Receipt(options.stats)
    except MrunError as error:
        error.report()
        end_as(exit_status(error.status))
    try:
        status = Session(options, given, receipt).run()
    except MrunError as error:
        error.report()
        status = exit_status(error.status)
    except Exception:
        # A bug of ours: shown whole, and not to be taken for a status of the program.
        sys.excepthook(*sys.exc_info())
        status = exit_status(FAILED)
    receipt.write(status)
    end_as(status)


class Departure:
    """A program that is ready to leave, and where to."""

    def __init__(self, tracee: Tracee, program: Program, capture: Capture) -> None:
        """Begin without a node."""
        self.tracee = tracee
        self.program = program
        self.capture = capture
        self.node = ""
        self.reason = ""


class Session:
    """One mrun."""

    def __init__(self, options: Options, given: Given, receipt: Receipt) -> None:
        """Preconditions: all signals are blocked (see Given)."""
        self._options = options
        self._given = given
        self._receipt = receipt
        self._name = os.fsdecode(os.path.basename(options.argv[0]))
        self._remote: Remote | None = None
        self._starting = False
        self._early: list[signalfd_siginfo] = []  # signals for the program, once it runs
        self._loop: Loop
        self._signals: int

    def run(self) -> int:
        """Return the wait4(2) status of the program, or become it; MrunError when mrun fails."""
        try:
            return self._elsewhere()
        except launch.ExecError as error:
            raise MrunError(os.fsdecode(error.text), status=error.status) from None
        except Stay as stay:
            if not stay.wanted and not self._options.fallback:
                raise MrunError(f"{self._name} cannot run on a node: {stay.reason}") from None
            return self._at_home(stay.reason)

    def _tell(self, text: str) -> None:
        if self._options.verbose:
            say(text)

    def _at_home(self, reason: str) -> int:
        self._tell(f"{self._name} runs at home: {reason}")
        for info in self._early:
            # Blocked until the program's own mask is set: pending again.
            os.kill(os.getpid(), info.ssi_signo)
        try:
            if not self._receipt.wanted:
                athome.become(self._options.argv, self._given)
            pid, status, cpu_s = athome.run_child(self._options.argv, self._given)
        except launch.ExecError as error:
            raise MrunError(os.fsdecode(error.text), status=error.status) from None
        self._receipt.add_home(pid, self._options.argv, cpu_s, reason)
        return status

    # on a node

    def _elsewhere(self) -> int:
        if self._options.node == HOME:
            raise Stay("asked for", wanted=True)
        daemon = self._find_daemon()
        try:
            self._loop = Loop()
            self._signals = signalfd(signal.valid_signals())
            self._loop.watch(self._signals, READ, self._on_signals)
            tracee = self._launch()
        except OSError as error:
            raise Stay(f"it cannot be traced: {error.strerror}") from error
        try:
            return self._see_through(*self._depart(tracee, daemon))
        except Interrupted as interrupted:
            return interrupted.signo
        except KilledEarly:
            tracee.kill()
            return tracee.status or 0
        finally:
            tracee.kill()

    def _depart(self, tracee: Tracee, daemon: socket.socket) -> tuple[Remote, Departure]:
        """Start the body on the node that the daemon names, or on another if that one is lost."""
        for _ in range(_OTHER_NODES):
            departure, connection = self._prepare(tracee, daemon)
            try:
                return self._start(departure, connection), departure
            except NodeLost as lost:
                # The program is whole still, and the daemon hears of the loss as soon as we do.
                self._tell(lost.reason)
                daemon = self._find_daemon()
        departure, connection = self._prepare(tracee, daemon)
        return self._start(departure, connection), departure

    def _find_daemon(self) -> socket.socket:
        try:
            connection = runtime.try_connect()
            if connection is None:
                if launch.in_capsule():
                    raise Stay("this is a node already", wanted=True)
                connection = runtime.connect(DAEMON_SECONDS)
        except OSError as error:
            raise Stay(f"no home daemon: {error}") from error
        return connection

    def _launch(self) -> Tracee:
        """Return the program, stopped before its first instruction."""
        child = launch.Child(self._options.argv, self._given)
        try:
            tracee = Tracee(child.pid)
        except PermissionError as error:
            child.abandon()
            raise Stay("it cannot be traced: ptrace(2) is not permitted here") from error
        child.release(traced=True)
        exists = tracee.wait_exec()
        failed = child.failure()
        if not exists:
            raise failed or MrunError(f"{self._name} was killed before it began")
        return tracee

    def _prepare(self, tracee: Tracee, daemon: socket.socket) -> tuple[Departure, socket.socket]:
        """Return the program captured, with a node found for it, and its link process's socket."""
        try:
            departure, question = self._capture(tracee, daemon)
        except ImmovableError as error:
            raise Stay(f"it cannot be moved: {error}") from error
        except OSError as error:
            if tracee.is_dying():
                raise KilledEarly from error
            raise Stay(f"it cannot be captured: {error.strerror}") from error
        try:
            departure.node, departure.reason, connection = question.wait()
        except ConnectionError as error:
            raise Stay(f"no home daemon: {error}") from error
        if connection is None:
            raise Stay(departure.reason, wanted=True)
        self._tell(f"{self._name} runs on {departure.node}: {departure.reason}")
        return departure, connection

    def _capture(self, tracee: Tracee, daemon: socket.socket) -> tuple[Departure, Question]:
        """Ask the daemon, and capture the program while it thinks; OSError, ImmovableError."""
        if tracee.is_32bit():
            raise ImmovableError("it is not a 64-bit program")
        if tracee.gains_privileges():
            raise ImmovableError("it changes its user, its group or its capabilities")
        program = Program(tracee.pid)
        question = Question(self._loop, daemon, self._options, program)
        terminal = Terminal.controlling()
        try:
            capture = Capture(program, sigset(self._given.mask), terminal)
        except BaseException:
            question.close()
            raise
        return Departure(tracee, program, capture), question

    def _start(self, departure: Departure, connection: socket.socket) -> Remote:
        """Start the body; Stay when the node refuses it."""
        verbose = self._options.verbose
        remote = Remote(self._loop, self._read_signals, departure.node, self._name, verbose)
        stream = SocketStream(connection)
        link = Endpoint(self._loop, stream, remote.handlers(), remote.link_lost, "the link process")
        replies: list[Message] = []

        def started(reply: Message) -> None:
            # At once: the next message may say already that the body has stopped.
            if isinstance(reply, Spawned):
                remote.begin(link, Deputy(departure.tracee), departure.capture.terminal)
            replies.append(reply)

        self._starting = True
        capture = departure.capture
        link.request(Start(capture.spawn.encode()), started, capture.fds)
        try:
            while not replies:
                self._loop.turn()
        except ProcessLookupError as error:
            raise KilledEarly from error
        (reply,) = replies
        if isinstance(reply, Error):
            text = reply.text.decode(errors="replace")
            if reply.errno == errno.EIO:
                raise NodeLost(f"{departure.node} is lost: {text}")
            raise Stay(f"the node refuses it: {text}")
        return remote

    def _see_through(self, remote: Remote, departure: Departure) -> int:
        """Keep deputy and body in step to their end; return the status."""
        began = time.monotonic()
        self._remote = remote
        launch.let_go_of_streams()
        remote.on_signals()
        while not remote.ended:
            self._loop.turn()
        wall_s = time.monotonic() - began
        argv, node, why = departure.program.argv, departure.node, departure.reason
        if remote.exited is not None:
            self._receipt.add_body(argv, node, wall_s, why, remote.exited)
        else:
            self._receipt.add_lost(departure.program.pid, argv, node, wall_s, why)
        return remote.finish()

    # signals

    def _on_signals(self, _: int) -> None:
        if self._remote is not None:
            self._remote.on_signals()
            return
        for info in read_signals(self._signals):
            self._before_the_body(info)

    def _read_signals(self) -> list[signalfd_siginfo]:
        early, self._early = self._early, []
        return early + read_signals(self._signals)

    def _before_the_body(self, info: signalfd_siginfo) -> None:
        """Do to mrun what a signal would do to the program, which cannot act yet.

        Once its start is under way, or if it will find the signal blocked, it has it later.
        """
        signo = info.ssi_signo
        if signo == signal.SIGCHLD:
            return  # the tracee stopped, or ended: whoever waits for it sees that
        if self._starting or signo in self._given.mask:
            self._early.append(info)
        elif self._given.is_ignored(signo):
            return
        elif is_fatal(signo):
            raise Interrupted(signo)
        elif signo in STOP_SIGNALS:
            stop_self(signo)
