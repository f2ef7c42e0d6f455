"""Freezing: every thread of a tree of processes seized and stopped, and let go again.

While a tree is frozen nothing of it runs, so what proc(5) tells of it stays true. `thaw` lets it
go on as if nothing had been.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from stubs.abi.auxv import AT_SYSINFO_EHDR, read_auxv
from stubs.migration.interrupted import goes_on
from stubs.migration.proc import Stat, descendants, read_file, read_stat, threads
from stubs.migration.reasons import Unmovable, reason
from stubs.migration.tracee import Tracee, TraceeGoneError, wait_end

# Rounds of looking for threads, or processes, that were made while we stopped the others.
_ROUNDS = 100
_PAUSE_SECONDS = 0.001


# How often, and for how many seconds, a thread is let go on until it waits.
_TRIES = 20
_MOMENT = 0.005

# For how many seconds a thread is let go on, for how long at first, until it is out of the vDSO.
_VDSO_SECONDS = 0.3
_VDSO_MOMENT = 0.0001
# No vDSO is larger yet.
_VDSO_BYTES = 16 << 10


class Stopped:
    """A process whose threads are stopped, the leader first."""

    def __init__(self, pid: int, kept: bool = False) -> None:
        """Begin with no thread stopped; `kept` as of Tracee."""
        self.pid = pid
        self.kept = kept
        self.threads: list[Tracee] = []
        self._ended: set[int] = set()

    @property
    def leader(self) -> Tracee:
        """The thread whose id is the process's."""
        return self.threads[0]

    def stop(self) -> None:
        """Seize and stop all threads; from then on they end if we do."""
        vdso = _vdso(self.pid)
        for _ in range(_ROUNDS):
            known = {thread.tid for thread in self.threads} | self._ended
            new = [tid for tid in threads(self.pid) if tid not in known]
            if new:
                self._stop([Tracee(tid, self.pid, self.kept) for tid in new])
                # One that is just ending is neither to be had nor gone.
                time.sleep(_PAUSE_SECONDS)
                continue
            fresh = [thread for thread in self.threads if not thread.regs]
            if not fresh:
                break
            for thread in fresh:
                self._make_ready(thread, vdso)
        else:
            raise Unmovable(reason("changing", self.pid, "makes threads faster than they stop"))
        if not self.threads:
            raise TraceeGoneError(f"process {self.pid} has ended")
        if self.leader.tid != self.pid:
            raise Unmovable(reason("dead_leader", self.pid, "has lost its first thread"))
        for thread in self.threads:
            thread.hold()

    def _make_ready(self, thread: Tracee, vdso: range) -> None:
        """Have a thread stand where it may be taken from; it, or another that it makes, may end."""
        try:
            thread.begin()
            self._leave_vdso(thread, vdso)
            self._find_call(thread)
        except TraceeGoneError:
            self.threads.remove(thread)
            self._ended.add(thread.tid)
        except TimeoutError as error:
            raise self._does_not_stop() from error

    def _does_not_stop(self) -> Unmovable:
        return Unmovable(reason("not_stopping", self.pid, "does not stop"))

    def _leave_vdso(self, thread: Tracee, vdso: range) -> None:
        """Let a thread go on for a moment if it is in the vDSO, most likely to read a clock.

        Step by step it might never leave: it begins to read anew whenever the clock has ticked.
        One that job control has stopped is not to go on: see stubs.migration.injection.
        """
        begun = time.monotonic()
        while thread.regs["rip"] in vdso and not thread.job_stop:
            elapsed = time.monotonic() - begun
            if elapsed > _VDSO_SECONDS:
                return
            # Longer and longer, for on a busy machine it runs only after a while.
            self._let_on(thread, max(_VDSO_MOMENT, elapsed / 32))

    def _find_call(self, thread: Tracee) -> None:
        """Let a thread go on for a moment if it goes on with a call of which we do not know which.

        That is so when it was stopped a moment ago, and has not come to wait again.
        """
        for _ in range(_TRIES):
            if not goes_on(thread.regs) or thread.waits != b"0":
                return
            self._let_on(thread, _MOMENT)

    def _let_on(self, thread: Tracee, seconds: float) -> None:
        thread.put_back()
        thread.cont()
        time.sleep(seconds)
        thread.waits = _wchan(self.pid, thread.tid)
        thread.interrupt()
        thread.stop()
        thread.begin()

    def _stop(self, new: list[Tracee]) -> None:
        seized = []
        for thread in new:
            try:
                thread.seize()
                seized.append(thread)
            except ProcessLookupError:
                self._ended.add(thread.tid)
            except PermissionError as error:
                self._ended.add(thread.tid)
                if _has_ended(self.pid, thread.tid):
                    continue
                raise Unmovable(reason("ptraced", self.pid, "may not be traced")) from error
        self.threads += seized
        for thread in seized:
            thread.waits = _wchan(self.pid, thread.tid)
        for thread in seized:
            # Fails when it has ended, and so does `stop` then.
            with contextlib.suppress(TraceeGoneError):
                thread.interrupt()
        for thread in seized:
            try:
                thread.stop()
            except TraceeGoneError:
                self.threads.remove(thread)
            except TimeoutError as error:
                raise self._does_not_stop() from error

    def detach(self) -> None:
        """Let every thread go on as it was."""
        for thread in self.threads:
            thread.detach()


class Frozen:
    """A tree that is stopped: `processes`, and `zombies` among them; parents before children."""

    def __init__(self, pids: list[int], kept: bool = False) -> None:
        """Stop these and all that descend from them; Unmovable when that cannot be.

        `kept` as of Tracee.
        """
        self._kept = kept
        self.processes: dict[int, Stopped] = {}
        self.stats: dict[int, Stat] = {}
        self.zombies: list[int] = []
        try:
            self._freeze(pids)
        except BaseException:
            self.thaw()
            raise

    def _freeze(self, pids: list[int]) -> None:
        for _ in range(_ROUNDS):
            found = [pid for pid in descendants(pids) if os.path.exists(f"/proc/{pid}")]
            new = [pid for pid in found if pid not in self.processes and pid not in self.zombies]
            if not new:
                break
            for pid in new:
                self._stop(pid)
        else:
            raise Unmovable(reason("changing", pids[0], "makes processes faster than they stop"))
        self.stats = {pid: read_stat(pid) for pid in found}
        if pids[0] not in self.processes:
            raise Unmovable(reason("ended", pids[0], "has ended"))
        self.pids = found

    def _stop(self, pid: int) -> None:
        try:
            if read_stat(pid).state in "ZX":
                self.zombies.append(pid)
                return
            process = self.processes[pid] = Stopped(pid, self._kept)
            process.stop()
        except (FileNotFoundError, ProcessLookupError, TraceeGoneError):
            # It has ended before it was stopped: a zombie, or seen no more.
            self.processes.pop(pid, None)

    def put_back(self) -> None:
        """Make every thread what it was, still stopped; it goes on should we end.

        A thread that stands where it has called for us would be killed then by the signal for that.
        """
        for process in self.processes.values():
            for thread in process.threads:
                thread.put_back()
                thread.interrupt()
                thread.cont()
                thread.stop()

    def thaw(self) -> None:
        """Let all go on; those that were killed meanwhile end."""
        for process in self.processes.values():
            for thread in process.threads:
                try:
                    if thread.regs:
                        thread.put_back()
                except (ProcessLookupError, TraceeGoneError):
                    pass  # killed
            process.detach()
        self.processes.clear()

    def kill(self) -> None:
        """Kill all, children first, and wait until nothing of them runs."""
        for pid in reversed(list(self.processes)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # killed before
        for process in reversed(list(self.processes.values())):
            for thread in reversed(process.threads):
                wait_end(thread.tid)
        self.processes.clear()


def _vdso(pid: int) -> range:
    try:
        start = read_auxv(pid).get(AT_SYSINFO_EHDR, 0)
    except OSError:
        start = 0  # it is not told: step by step then
    return range(start, start + _VDSO_BYTES if start else 0)


def _wchan(pid: int, tid: int) -> bytes:
    try:
        return read_file(f"/proc/{pid}/task/{tid}/wchan")
    except OSError:
        return b""  # it has ended, or this kernel does not tell


def _has_ended(pid: int, tid: int) -> bool:
    try:
        with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in b"ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
