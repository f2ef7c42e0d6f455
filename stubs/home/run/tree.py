"""The tree: every process under one mrun, traced from its birth to its end.

Each stop of each of them is answered here: forks go on at once, signals are delivered, a program
that has just been exec'ed is handed to whoever decides where it runs, and stands still meanwhile.
A process that has become a deputy is its body's. Threads are traced because what they start would
escape otherwise.

One thread: mrun's. Nothing here waits, but for `let_go`.
"""

from __future__ import annotations

import math
import os
import time

from stubs.abi import ptrace
from stubs.abi.tracestops import NOTHING, STOP
from stubs.home.run.proc import read_stat
from stubs.home.run.tracer import WALL, Stop, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from resource import struct_rusage

    from stubs.abi.tracestops import TraceStops
    from stubs.home.run.body import Body
    from stubs.home.run.record import Record
    from stubs.home.run.records import Records

_BIRTHS = (ptrace.PTRACE_EVENT_FORK, ptrace.PTRACE_EVENT_VFORK, ptrace.PTRACE_EVENT_CLONE)
_SIGTRAP = 5

# How long processes that outlive the command may take to stand still, so that they can be let go.
_LET_GO_SECONDS = 2.0


class Task(Tracee):
    """A process of the tree, or a thread of one."""

    def __init__(self, pid: int, born: bool = True) -> None:
        """`born` of a tracee, or seized."""
        super().__init__(pid, born)
        self.parent: Task | None = None  # whoever started it, or, that being dead, its ancestor
        self.counted = False  # among the children of its ancestors
        self.body: Body | None = None  # of which it is the deputy
        self.deciding = False  # stands at its exec until it is decided where it runs
        self.together = False  # what it starts is where it is
        self.record: Record | None = None  # of its program, while that runs at home
        self.records: Records | None = None  # of it and of what it starts
        self.asked = False  # the daemon knows of its program
        self.began = 0.0  # when (monotonic) its program was decided to run here
        self.children = 0  # processes started by it, directly or not, since its exec
        self.children_cpu_s = 0.0  # that those used which have ended
        self.living = 0  # of these, how many there are now, and were at most at once
        self.peak = 0


class Tree:
    """All tasks, by pid."""

    def __init__(
        self,
        on_exec: Callable[[Task], None],
        on_end: Callable[[Task, int, struct_rusage], None],
        on_signal: Callable[[Task, int], None],
        on_stop: Callable[[Task, int], None],
        stops: TraceStops | None,
    ) -> None:
        """Begin empty; `stops` answers what needs no thought, where that can be.

        `on_exec` gets a task that has exec'ed, `deciding`: until `go_on` it stands still. `on_end`
        gets wait4(2)'s status and usage of each task, `on_signal` a signal that is being delivered
        to one that is no deputy, and `on_stop` one that stopped by a signal.
        """
        self.tasks: dict[int, Task] = {}
        self._on_exec = on_exec
        self._on_end = on_end
        self._on_signal = on_signal
        self._on_stop = on_stop
        self._stops = stops
        self._has_stopped = False  # somebody of whom `stops` knows

    def add(self, task: Task) -> None:
        """Take in a task that was seized, and waited for until now."""
        self.tasks[task.pid] = task

    def embody(self, task: Task, body: Body) -> None:
        """Make a task the deputy of a body."""
        task.body = body
        if self._stops is not None:
            self._stops.hand_out(task.pid)

    def forget(self, task: Task) -> None:
        """Let go of a task whose end somebody else has seen."""
        self.tasks.pop(task.pid, None)
        if self._stops is not None:
            self._stops.forget(task.pid)

    def wait(self, other: int, seconds: float | None) -> bool:
        """Wait for `other`, or at most so long; tell whether there is something to be polled."""
        assert self._stops is not None
        found = self._stops.wait(other, -1 if seconds is None else math.ceil(seconds * 1000))
        self._has_stopped = found == STOP
        self._take_noted()
        return found != NOTHING

    def poll(self) -> None:
        """Answer all stops there are."""
        while True:
            if self._stops is not None and not self._is_anything_left(self._stops):
                return
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | WALL)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._answer(pid, status)
            else:
                task = self._task(pid)
                task.status = status
                self._ended(task, status, usage)

    def _is_anything_left(self, stops: TraceStops) -> bool:
        """Answer stops; tell whether there are ends, or more stops."""
        found = STOP if self._has_stopped else stops.look()
        while found == STOP:
            self._has_stopped = False
            self._take_noted()
            self._answer(*stops.stop())
            found = stops.look()
        self._take_noted()
        return found != NOTHING

    def _take_noted(self) -> None:
        """Take in the events that have been answered already."""
        assert self._stops is not None
        for pid, event, about in self._stops.take_noted():
            task = self._task(pid)
            if event != ptrace.PTRACE_EVENT_STOP:
                self._born(task, event, about)

    def _task(self, pid: int) -> Task:
        """Return a task; the first stop of a new one may come before its parent's event."""
        task = self.tasks.get(pid)
        if task is None:
            task = self.tasks[pid] = Task(pid)
        return task

    def _answer(self, pid: int, status: int) -> None:
        try:
            self._stopped(self._task(pid), status)
        except ProcessLookupError:
            pass  # killed meanwhile: its end is told next

    def threads_of(self, task: Task) -> list[Task]:
        """Return the other threads of that task."""
        directory = f"/proc/{task.pid}/task"
        tids = [int(name) for name in os.listdir(directory)]
        return [self.tasks[tid] for tid in tids if tid != task.pid and tid in self.tasks]

    def has_children(self, task: Task) -> bool:
        """Tell whether processes live that the task has started, directly or not."""
        return any(
            other.counted and other.status is None and task in self.line(other)
            for other in self.tasks.values()
        )

    def go_on(self, task: Task, signo: int = 0) -> None:
        """Let a task that was `deciding` run at home."""
        task.deciding = False
        task.began = time.monotonic()
        try:
            ptrace.cont(task.pid, signo)
        except ProcessLookupError:
            pass  # killed meanwhile: its end is told next

    def detach(self, task: Task) -> None:
        """Trace it no longer, nor what it will start; it must stand still."""
        self.forget(task)
        try:
            ptrace.detach(task.pid)
        except ProcessLookupError:
            pass  # killed meanwhile

    # stops

    def _stopped(self, task: Task, status: int) -> None:
        stop = task.take(status)
        assert stop is not None
        if task.body is not None:
            task.body.deputy_stopped(stop)
        elif stop.event == 0:
            self._on_signal(task, stop.signo)
            ptrace.cont(task.pid, stop.signo)
        elif stop.event in _BIRTHS:
            self._born(task, stop.event, ptrace.geteventmsg(task.pid))
            ptrace.cont(task.pid)
        elif stop.event == ptrace.PTRACE_EVENT_EXEC:
            self._executed(task)
        elif stop == Stop(ptrace.PTRACE_EVENT_STOP, _SIGTRAP):
            # A new one's first stop, or one that goes on after SIGCONT.
            ptrace.cont(task.pid)
        else:
            ptrace.listen(task.pid)
            self._on_stop(task, stop.signo)

    def _born(self, parent: Task, event: int, pid: int) -> None:
        child = self._task(pid)
        if child.parent is None:
            self._adopt(parent, child, is_thread=event == ptrace.PTRACE_EVENT_CLONE)

    def _adopt(self, parent: Task, child: Task, is_thread: bool) -> None:
        child.parent = parent
        child.together = parent.together
        if is_thread:
            return
        child.counted = True
        for task in self.line(child):
            task.children += 1
            task.living += 1
            task.peak = max(task.peak, task.living)

    def line(self, task: Task) -> Iterator[Task]:
        """Yield the living ancestors of a task that are in the tree, the nearest first."""
        while True:
            parent = task.parent
            while parent is not None and parent.status is not None:
                # Dead ones are skipped for good, so that a long line of them is not kept.
                parent = task.parent = parent.parent
            if parent is None:
                return
            yield parent
            task = parent

    def _executed(self, task: Task) -> None:
        former = ptrace.geteventmsg(task.pid)
        if former != task.pid:
            # A thread exec'ed: it has the leader's pid now, and the others are gone.
            self.tasks.pop(former, None)
        if task.parent is None:
            self._find_parent(task)
        task.children = task.living = task.peak = 0
        task.children_cpu_s = 0.0
        task.deciding = True
        self._on_exec(task)

    def _find_parent(self, task: Task) -> None:
        """Do without the parent's event, which may be told after the exec of its child."""
        try:
            parent = self.tasks.get(read_stat(task.pid).ppid)
        except OSError:
            return  # killed meanwhile
        if parent is not None:
            self._adopt(parent, task, is_thread=False)

    def _ended(self, task: Task, status: int, usage: struct_rusage) -> None:
        if task.counted:
            for nearest, ancestor in enumerate(self.line(task)):
                ancestor.living -= 1
                if not nearest:
                    ancestor.children_cpu_s += usage.ru_utime + usage.ru_stime
        self.forget(task)
        self._on_end(task, status, usage)

    # the end of the command

    def let_go(self) -> None:
        """Trace nobody any more: what outlives the command goes on by itself.

        Deputies are killed: there is nobody to keep them in step with their bodies.
        """
        for task in list(self.tasks.values()):
            if task.body is None:
                try:
                    ptrace.interrupt(task.pid)
                except ProcessLookupError:
                    continue
        deadline = time.monotonic() + _LET_GO_SECONDS
        while any(task.body is None for task in self.tasks.values()):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | WALL)
            except ChildProcessError:
                return
            if pid == 0:
                # Not within this time: in a state of the kernel's; then it is killed with us.
                if time.monotonic() > deadline:
                    return
                time.sleep(0.001)
                continue
            self._let_go_of(pid, status)

    def _let_go_of(self, pid: int, status: int) -> None:
        task = self.tasks.get(pid) or Task(pid)
        if task.body is not None and os.WIFSTOPPED(status):
            return
        self.tasks.pop(pid, None)
        if os.WIFSTOPPED(status):
            signo = os.WSTOPSIG(status) if status >> 16 == 0 else 0
            if status >> 16 in _BIRTHS:
                new = ptrace.geteventmsg(pid)
                self.tasks.setdefault(new, Task(new))
            try:
                ptrace.detach(pid, signo)
            except ProcessLookupError:
                pass  # killed meanwhile
