"""A session: one mrun from its start to its end.

Launch the program traced, and with it all that it starts (stubs.home.run.tree). Whatever is
exec'ed stands before its first instruction until it is decided where it runs
(stubs.home.run.departing): it goes on at home, or becomes the deputy of a body on a node. The
program that mrun was started for is mrun's face to the user (stubs.home.run.front): mrun stops,
goes on and ends as it does.

A program that cannot be traced at all is exec'ed by mrun itself (stubs.home.run.athome).

One thread. mrun blocks all signals and reads them from two signalfds.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from stubs.abi.sched import take_short_slices
from stubs.abi.signalfd import read_signals, signalfd, sigset
from stubs.abi.tracestops import trace_stops
from stubs.home.run import athome, launch
from stubs.home.run.departing import Departing
from stubs.home.run.departure import Departure, Wish, traces_others
from stubs.home.run.ending import STOP_SIGNALS, end_as, exit_status, stop_self
from stubs.home.run.errors import FAILED, MrunError, say
from stubs.home.run.front import Front
from stubs.home.run.inherited import ImmovableError
from stubs.home.run.nesting import hand_over
from stubs.home.run.records import Records
from stubs.home.run.signals import is_fatal
from stubs.home.run.tree import Task, Tree
from stubs.link.loop import READ, Loop
from stubs.wire.messages import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage
    from typing import NoReturn

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.home.run.body import Body
    from stubs.home.run.launch import Given
    from stubs.home.run.options import Options
    from stubs.home.run.periodic import Periodic
    from stubs.home.run.recovery import Recovery


# How often a status line is made anew.
PROGRESS_SECONDS = 0.5

# A signal to a process group reaches all of it within this time.
SAME_SIGNAL_SECONDS = 0.1


class Untraced(Exception):  # noqa: N818  # a decision, not an error
    """The program runs at home, not traced, as if there were no mrun; the text says why."""

    def __init__(self, reason: str, wanted: bool = False) -> None:
        """`wanted`: there is no other way for this program, rather than no node for it."""
        super().__init__(reason)
        self.reason = reason
        self.wanted = wanted


class Interrupted(Exception):  # noqa: N818  # nothing went wrong
    """A signal came that ends the program, before it was decided where it runs."""

    def __init__(self, signo: int) -> None:
        """Keep the signal."""
        super().__init__(signo)
        self.signo = signo


def run(options: Options) -> NoReturn:
    """Run the program to its end, and end as it did."""
    given = launch.Given()
    recovery: Recovery | None = None
    try:
        if options.recover is not None:
            recovery = _recover(options, given)
        elif hand_over(options):
            athome.become(options.argv, given)
        records = Records(options.argv, options.stats, options.trace)
    except launch.ExecError as error:
        MrunError(os.fsdecode(error.text)).report()
        end_as(exit_status(error.status))
    except MrunError as error:
        error.report()
        end_as(exit_status(error.status))
    try:
        status = Session(options, given, records, recovery).run()
    except MrunError as error:
        error.report()
        status = exit_status(error.status)
    except Exception:
        # A bug of ours: shown whole, and not to be taken for a status of the program.
        sys.excepthook(*sys.exc_info())
        status = exit_status(FAILED)
    records.write(status)
    end_as(status)


def _recover(options: Options, given: Given) -> Recovery:
    """Have mrun run the program of a checkpoint, as it was run; MrunError."""
    from stubs.home.run.checkpoint import CheckpointError
    from stubs.home.run.recovery import Recovery

    assert options.recover is not None
    try:
        recovery = Recovery(options.recover)
        spawn = recovery.spawn
        os.chdir(spawn.cwd)
    except CheckpointError as error:
        raise MrunError(str(error)) from None
    except OSError as error:
        raise MrunError(f"{os.fsdecode(spawn.cwd)}: {error.strerror}") from error
    os.umask(spawn.umask)
    options.argv, given.environment = spawn.argv, spawn.env
    return recovery


def _is_own(info: signalfd_siginfo) -> bool:
    """Tell whether a signal is for mrun alone: it wrote to who is gone.

    Python ignores SIGPIPE, but what is blocked is kept all the same (signal(7)).
    """
    return info.ssi_signo == signal.SIGPIPE and info.ssi_pid == os.getpid()


class Session:
    """One mrun."""

    def __init__(
        self,
        options: Options,
        given: Given,
        records: Records,
        recovery: Recovery | None = None,
    ) -> None:
        """Preconditions: all signals are blocked (see Given)."""
        self._options = options
        self._recovery = recovery
        self._given = given
        self._records = records
        self._name = os.fsdecode(os.path.basename(options.argv[0]))
        self._began = time.monotonic()
        self._early: list[signalfd_siginfo] = []  # signals for the program, once it runs
        self._latest: dict[tuple[int, int], float] = {}  # when a signal came, by it and its sender
        self._running = False  # the program, at home or on a node
        self._status: int | None = None  # of the program, as wait4(2) has it
        self._error: MrunError | None = None  # what mrun has to say in the end
        self._loop: Loop
        self._signals: int
        self._children: int  # the signalfd for SIGCHLD
        self._tree: Tree
        self._top: Task
        self._front: Front
        self._periodic: Periodic | None = None
        self._departing: Departing

    def run(self) -> int:
        """Return the wait4(2) status of the program, or become it; MrunError when mrun fails."""
        try:
            return self._traced()
        except launch.ExecError as error:
            raise MrunError(os.fsdecode(error.text), status=error.status) from None
        except Untraced as untraced:
            if self._recovery is not None:
                reason = f"{self._name} cannot be recovered: {untraced.reason}"
                raise MrunError(reason) from None
            if not untraced.wanted and not self._options.fallback:
                reason = f"{self._name} cannot run on a node: {untraced.reason}"
                raise MrunError(reason) from None
            return self._untraced(untraced.reason)

    def _untraced(self, reason: str) -> int:
        if self._options.verbose:
            say(f"{self._name} runs at home: {reason}")
        # Once more, which drops what our own words may have brought (sigaction(2)): see _is_own.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for info in self._early:
            # Blocked until the program's own mask is set: pending again.
            os.kill(os.getpid(), info.ssi_signo)
        try:
            if not self._records.wanted:
                athome.become(self._options.argv, self._given)
            pid, status, cpu_s = athome.run_child(self._options.argv, self._given)
        except launch.ExecError as error:
            raise MrunError(os.fsdecode(error.text), status=error.status) from None
        self._records.add_only(pid, self._options.argv, reason, status, cpu_s)
        return status

    # traced

    def _traced(self) -> int:
        if launch.in_capsule():
            raise Untraced("this is a node already", wanted=True)
        try:
            self._loop = Loop()
            self._signals = signalfd(signal.valid_signals() - {signal.SIGCHLD})
            self._children = signalfd([signal.SIGCHLD])
            for fd in (self._signals, self._children):
                self._loop.watch(fd, READ, self._on_signals)
            self._top = self._launch()
        except OSError as error:
            raise Untraced(f"it cannot be traced: {error.strerror}") from error
        try:
            self._begin()
            take_short_slices()
            while not self._over:
                self._loop.turn()
            self._tree.let_go()
            if self._periodic is not None and self._error is None:
                self._periodic.remove()
        except Interrupted as interrupted:
            return interrupted.signo
        finally:
            self._top.kill()
        if self._error is not None:
            raise self._error
        assert self._status is not None
        return self._status

    @property
    def _over(self) -> bool:
        """Whether there is nothing more to wait for: the program has ended, and so have bodies."""
        if self._error is not None and not self._running:
            return True
        return self._status is not None and not self._departing.busy

    def _launch(self) -> Task:
        """Return the program, stopped before its first instruction."""
        path = self._recovery.spawn.exe if self._recovery is not None else b""
        child = launch.Child(self._options.argv, self._given, path)
        try:
            task = Task(child.pid, born=False)
        except PermissionError as error:
            child.abandon()
            raise Untraced("it cannot be traced: ptrace(2) is not permitted here") from error
        child.release(traced=True)
        exists = task.wait_exec()
        failed = child.failure()
        if not exists:
            raise failed or MrunError(f"{self._name} was killed before it began")
        return task

    def _begin(self) -> None:
        """Have it decided where the program runs."""
        top, options = self._top, self._options
        stops = trace_stops(self._children)
        self._tree = Tree(self._executed, self._ended, self._delivered, self._stopped, stops)
        if stops is not None:
            self._loop.wait = self._wait
        self._departing = Departing(
            self._loop,
            self._tree,
            options,
            self._decided,
            self._body_ended,
            self._came_to_group,
        )
        self._departing.recording.attach(top, self._records)
        departing = self._departing
        self._front = Front(self._loop, top, self._look, departing.flush, departing.continue_group)
        top.deciding = True
        self._tree.add(top)
        try:
            if traces_others(os.readlink(f"/proc/{top.pid}/exe".encode())):
                raise Untraced("it cannot be moved: it traces others", wanted=True)
            if top.gains_privileges():
                raise Untraced("it cannot be moved: it changes its user, group or capabilities")
            wish = Wish(
                options.node,
                options.only,
                strict=not options.fallback,
                top=True,
                verbose=options.verbose,
                stay=options.stay,
            )
            departure = Departure(top, wish, self._recovery)
        except ImmovableError as error:
            raise Untraced(f"it cannot be moved: {error}") from error
        except OSError as error:
            if top.is_dying():
                self._status = top.status
                return
            raise Untraced(f"it cannot be captured: {error.strerror}") from error
        self._departing.begin(departure, sigset(self._given.mask))

    # what becomes of the program

    def _decided(self, departure: Departure, body: Body | None, error: MrunError | None) -> None:
        """Hear where a program runs: as that body, else at home, else not at all."""
        task = departure.task
        if error is not None:
            self._error = error
        elif task is not self._top:
            if body is None:
                self._tree.go_on(task)
        elif body is None:
            self._run_at_home()
        else:
            assert departure.capture is not None
            self._running = True
            options = self._options
            self._front.take_body(body, departure.capture.terminal, options.verbose)
            if options.progress and os.isatty(2):
                self._show_progress(body)
            launch.let_go_of_streams()
            if options.checkpoint_s and self._periodic is None:
                self._make_checkpoints(options.checkpoint_s)
            self._look()

    def _make_checkpoints(self, seconds: float) -> None:
        from stubs.home.run.periodic import Periodic

        take = self._departing.moving.checkpoint
        verbose = self._options.verbose
        self._periodic = Periodic(self._loop, self._top.pid, seconds, take, verbose)

    def _show_progress(self, body: Body) -> None:
        """Have the link process show it, which also shows what the body writes."""
        if not body.ended:
            body.post(Progress(body.pid, os.fsencode(body.departure.node)))
            self._loop.call_later(PROGRESS_SECONDS, lambda: self._show_progress(body))

    def _run_at_home(self) -> None:
        """Have the program run at home, traced, so that what it starts can be placed."""
        self._running = True
        launch.let_go_of_streams()
        for info in self._early:
            os.kill(self._top.pid, info.ssi_signo)
        self._early.clear()
        self._departing.go_on(self._top, sigset(self._given.mask))

    def _body_ended(self, body: Body) -> None:
        """Have the program end as its body did."""
        if body.departure.task is not self._top:
            return
        if body.lost is not None:
            self._front.restore_terminal()
            hint = ""
            if self._periodic is not None and self._periodic.exists:
                hint = f"to go on from its last checkpoint: mrun --recover {self._periodic.path}"
            node = body.departure.node
            text = f"node {node} was lost ({body.lost}); {self._name} was running there"
            self._error = MrunError(text, hint)
            self._running = False
        self._status = self._top.status
        exited = body.exited
        if exited is not None:
            self._status = exited.status
            if exited.errno:
                path, why = os.fsdecode(exited.path), os.strerror(exited.errno)
                self._error = MrunError(
                    f"{path}: {why}: a write of {self._name} failed after it was done"
                )
        elif self._status is None:
            self._status = signal.SIGKILL

    # tracees

    def _executed(self, task: Task) -> None:
        self._departing.consider(task)

    def _delivered(self, task: Task, signo: int) -> None:
        if task is self._top:
            self._front.delivered(signo)

    def _stopped(self, task: Task, signo: int) -> None:
        if task is self._top:
            self._front.stopped(signo)

    def _ended(self, task: Task, status: int, usage: struct_rusage) -> None:
        cpu_s = usage.ru_utime + usage.ru_stime
        self._departing.ended(task, status, cpu_s, usage.ru_maxrss)
        if task is self._top and task.body is None:
            self._status = status

    # signals

    def _on_signals(self, _: int) -> None:
        self._look()

    def _wait(self, other: int, seconds: float | None) -> None:
        if self._tree.wait(other, seconds):
            self._look()

    def _look(self) -> None:
        """Deal with what signals and tracees have to tell.

        Signals are read first: what happens to a tracee after that brings another SIGCHLD.
        """
        infos = [info for info in read_signals(self._signals) if not _is_own(info)]
        read_signals(self._children)
        for info in infos:
            self._latest[info.ssi_signo, info.ssi_pid] = time.monotonic()
        self._tree.poll()
        if self._running:
            early, self._early = self._early, []
            self._front.settle(early + infos)
        else:
            for info in infos:
                self._before_it_runs(info)
        if self._status is not None and infos:
            self._after_its_end(infos)

    def _came_to_group(self, signo: int, sender: int) -> bool:
        """Tell whether mrun has just been sent the same: then it was meant for the group."""
        self._look()
        return time.monotonic() - self._latest.get((signo, sender), 0.0) < SAME_SIGNAL_SECONDS

    def _after_its_end(self, infos: list[signalfd_siginfo]) -> None:
        """End at once by a signal that comes while only bodies in the background are left."""
        if any(
            is_fatal(info.ssi_signo) and not self._given.is_ignored(info.ssi_signo)
            for info in infos
        ):
            self._departing.abandon()

    def _before_it_runs(self, info: signalfd_siginfo) -> None:
        """Do to mrun what a signal would do to the program, which cannot act yet.

        Once its start is under way, or if it will find the signal blocked, it has it later.
        """
        signo = info.ssi_signo
        if signo in self._given.mask or self._departing.is_starting(self._top):
            self._early.append(info)
        elif self._given.is_ignored(signo):
            return
        elif is_fatal(signo):
            raise Interrupted(signo)
        elif signo in STOP_SIGNALS:
            stop_self(signo)
