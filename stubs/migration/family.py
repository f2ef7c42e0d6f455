"""The processes of a tree at the destination: born in an order that gives each its place.

A process is born of its parent's stub, an orphan of the first one's as its sibling. Sessions
are inherited, so those born before their parent began a session of its own must be so again.
Groups are joined when all are there.
"""

from __future__ import annotations

import os
import signal

from stubs.abi import ptrace
from stubs.abi import x86_64 as nr
from stubs.abi.sched import CLONE_PARENT
from stubs.migration.errors import RestoreError
from stubs.migration.proc import read_stat
from stubs.migration.rebuild import Stub
from stubs.migration.tracee import CallFailedError, Tracee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.migration.image import Process

    # Have a new stub execute the program of a process, if it is another than its parent's.
    Execute = Callable[[Stub, Process, Process], None]


class Family:
    """The stubs of a tree by pid, the first of which is there."""

    def __init__(self, processes: list[Process], first: Stub, execute: Execute) -> None:
        """Check who is whose child."""
        self.stubs = {first.pid: first}
        self._execute = execute
        self._processes = {process.pid: process for process in processes}
        self._first = processes[0]
        self._children: dict[int, list[Process]] = {}
        seen: set[int] = set()
        for process in processes:
            if process.pid in seen or process.ppid not in seen | {0}:
                raise RestoreError(f"process {process.pid} has no parent in the image")
            seen.add(process.pid)
            if process is not self._first:
                self._children.setdefault(process.ppid, []).append(process)
        if self._first.pid != first.pid or self._first.ppid:
            raise RestoreError("the first process is not the one that was announced")

    def make(self) -> None:
        """Make all others, and put each into its session and group."""
        self._raise(self._first)
        for orphan in self._children.get(0, []):
            self._bear(orphan, self._first, CLONE_PARENT)
            self._raise(orphan)
        self._group()

    def _raise(self, process: Process) -> None:
        """Make what descends from a process that is there."""
        children = self._children.get(process.pid, [])
        leads = process.sid == process.pid
        early = [child for child in children if leads and child.sid not in (process.sid, child.pid)]
        for child in early:
            self._bear(child, process)
            self._raise(child)
        stub = self.stubs[process.pid]
        if leads and read_stat(stub.pid).sid != stub.pid:
            stub.leader.call(nr.NR_setsid)
        for child in children:
            if child not in early:
                self._bear(child, process)
                self._raise(child)

    def _bear(self, process: Process, parent: Process, flags: int = 0) -> None:
        mother = self.stubs[parent.pid]
        leader = bear(mother, process.pid, flags)
        stub = self.stubs[process.pid] = Stub(leader, mother.scratch)
        if not process.zombie:
            self._execute(stub, process, parent)

    def _group(self) -> None:
        leaders = [each for each in self._processes.values() if each.pgid == each.pid]
        for process in leaders + list(self._processes.values()):
            stub = self.stubs[process.pid]
            if read_stat(stub.pid).pgid != process.pgid:
                try:
                    stub.leader.call(nr.NR_setpgid, 0, process.pgid)
                except CallFailedError:
                    self._join(stub, process.pgid)

    def _join(self, stub: Stub, group: int) -> None:
        """Have a stub join a group whose leader is gone: another leads it for a moment."""
        try:
            helper = bear(stub, group, 0)
            helper.call(nr.NR_setpgid, 0, 0)
            stub.leader.call(nr.NR_setpgid, 0, group)
        except CallFailedError as error:
            raise RestoreError(f"process {stub.pid} cannot join group {group}: {error}") from error
        os.kill(group, signal.SIGKILL)
        helper.await_end()
        stub.leader.call(nr.NR_wait4, group, 0, 0, 0)

    def end(self, process: Process) -> None:
        """Have the stub of a zombie end as that did."""
        leader = self.stubs.pop(process.pid).leader
        signo = process.status & 0x7F
        if signo:
            ptrace.setsigmask(leader.tid, 0)
            os.kill(leader.pid, signo)
            leader.cont()
            while not leader.has_ended():
                leader.cont(signo)
        else:
            leader.leave(nr.NR_exit_group, process.status >> 8)
            leader.await_end()


def bear(mother: Stub, pid: int, flags: int) -> Tracee:
    """Have a stub fork a process with this pid, which stands still as it does."""
    # With CLONE_PARENT the signal is that of the mother.
    signo = 0 if flags & CLONE_PARENT else int(signal.SIGCHLD)
    number = mother.clone(flags, signo, pid)
    born = Tracee(number, number)
    if born.tid != pid:
        raise RestoreError(f"process {pid} cannot have its number")
    born.stop()
    born.begin()
    born.scratch = mother.leader.scratch
    return born
