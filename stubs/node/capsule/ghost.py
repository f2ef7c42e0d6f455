"""A ghost: stands on the node for a process of home, so that bodies have the family they had there.

The session leader, the process group's leader and the parent of a body are ghosts: small
processes with the pids that they have at home, each a child of the former, that do what the
agent says on a socket. The parent of a body starts, signals, watches and reaps it, and whatever
the body leaves behind; it ends when the agent lets go of the socket, and nothing of it remains.

Ghosts block every signal (from pid 1 on, stubs.node.capsule.init), and stay in the process group
of their session's leader, so that a body that signals its own group does not meet them there.
Blocked rather than ignored, for a body must not inherit that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys

from stubs.abi.calls import MAY_FAIL, Calls
from stubs.abi.prctl import PR_SET_CHILD_SUBREAPER, prctl
from stubs.abi.sched import clone_with_pid, take_short_slices
from stubs.abi.signalfd import read_signals, signalfd
from stubs.abi.termbits import TIOCSCTTY, set_foreground
from stubs.abi.unistd import close_except
from stubs.abi.x86_64 import NR_exit_group, NR_pause
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.migration import stub
from stubs.node.capsule.body import Inheritance, open_inherited, prepare
from stubs.node.capsule.processes import all_processes, below, children_of, descendants
from stubs.node.streams.demand import Demand
from stubs.wire.messages import (
    SCOPE_GROUP,
    Bequest,
    Body,
    Continued,
    Done,
    Error,
    Exited,
    Foreground,
    Ghost,
    Gone,
    Heirlooms,
    Inherited,
    Kill,
    Position,
    Signal,
    Spawn,
    Spawned,
    Stopped,
    Stub,
    Watch,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from resource import struct_rusage
    from typing import NamedTuple

    from stubs.link.endpoint import Handler
    from stubs.wire.codec import Message

    class Child(NamedTuple):
        """A body, child of this ghost: the number it has at home, and what it inherited."""

        body: int
        inherited: Inheritance
else:
    from collections import namedtuple

    Child = namedtuple("Child", "body inherited")

# Ghost.leader
FOLLOWER = 0
SESSION = 1
GROUP = 2
LEAD = 3  # no new one: have this one lead its process group from now on

# How often what is left of a body is looked for and killed until nothing is.
KILL_SECONDS = 0.005

# What keeps a process group alive for a moment: it does nothing. (Ghosts block all signals.)
_ANCHOR = Calls()
_ANCHOR.add(NR_pause, flags=MAY_FAIL)
_ANCHOR.add(NR_exit_group, 0)


class GhostProcess:
    """What a ghost does. Everything here happens in the ghost's own process."""

    def __init__(self, loop: Loop, code: int, endpoint: Endpoint | None = None) -> None:
        """Begin to reap; `code` is stubs.abi.calls'; `endpoint` the agent's, or see `listen`."""
        take_short_slices()
        self._code = code
        self._loop = loop
        self._agent = endpoint
        self._bodies: dict[int, Child] = {}  # by pid
        self._stubs: dict[int, Calls] = {}  # what those of them do that a worker makes, by pid
        self._ghosts: set[int] = set()  # child ghosts, by pid
        self._left: list[int] = []  # bodies that are dead, but perhaps not what descends from them
        self._doomed: set[int] = set()  # bodies being killed
        self._demand = Demand(loop)
        self._signals = signalfd([signal.SIGCHLD])
        loop.watch(self._signals, READ, self._reap)

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what a ghost does at the agent's word."""
        return {
            Ghost: self._ghost,
            Body: self._body,
            Stub: self._stub,
            Inherited: self._inherited,
            Signal: self._signal,
            Kill: self._kill,
            Watch: self._watch,
            Foreground: self._foreground,
        }

    def listen(self, sock: socket.socket) -> None:
        """Do what the agent says on `sock` from now on."""
        self._agent = Endpoint(
            self._loop, SocketStream(sock), self.handlers(), lambda _: self.end(), "agent"
        )

    @property
    def agent(self) -> Endpoint:
        """The agent's end."""
        assert self._agent is not None
        return self._agent

    def end(self) -> None:
        """Kill whatever descends from this ghost, and exit."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(0)
            if pid == 0:
                _kill_trees(children_of(os.getpid()))
                # The first to die wakes us; it is looked for the rest again.
                os.waitpid(-1, 0)

    # starting

    def _ghost(self, message: Ghost, tag: int, fds: list[int]) -> None:
        if message.leader == LEAD:
            if message.pid in self._ghosts:
                os.setpgid(message.pid, message.pid)
            return
        if message.pid in self._ghosts:
            # The agent has let go of that one, and needs its pid again.
            os.waitpid(message.pid, 0)
            self._ghosts.discard(message.pid)
        pid = fork_as(message.pid)
        if pid == 0:
            _run_ghost(message.leader, fds, self._code)
        self._ghosts.add(pid)
        for fd in fds:
            os.close(fd)

    def _body(self, message: Body, tag: int, fds: list[int]) -> None:
        spawn = Spawn.decode(message.spawn)
        inherited = Inheritance()
        try:
            inherited = open_inherited(spawn, fds)
            pid, failure = self._clone_body(spawn, inherited, bool(message.foreground))
        except OSError as error:
            inherited.close()
            inherited.close_files()
            self.agent.reply(tag, Error(error.errno or errno.EIO, os.fsencode(str(error))))
            return
        inherited.close()
        if failure:
            os.waitpid(pid, 0)
            inherited.close_files()
            self.agent.reply(tag, Error(failure, os.strerror(failure).encode()))
        else:
            self._bodies[pid] = Child(spawn.body, inherited)
            self.agent.reply(tag, Spawned(pid))

    def _stub(self, message: Stub, tag: int, fds: list[int]) -> None:
        """Clone the process that a worker makes a body of; it waits for that one's word."""
        control, heirs = fds
        calls = Calls()
        stub.add_calls(calls, control, message.control)
        try:
            with self._group(message.pgrp):
                pid = calls.start(self._code, message.pid)
                _join_group(pid, message.pgrp)
        except OSError as error:
            os.close(heirs)
            self.agent.reply(tag, Error(error.errno or errno.EIO, os.fsencode(str(error))))
            return
        finally:
            os.close(control)
        self._bodies[pid] = Child(message.body, Inheritance())
        Endpoint(
            self._loop,
            SocketStream(socket.socket(fileno=heirs)),
            {Bequest: self._bequest},
            lambda reason: None,
            "worker",
        )
        self._stubs[pid] = calls  # from which it has its calls until its exec
        self.agent.reply(tag, Spawned(pid))

    def _bequest(self, message: Bequest, tag: int, fds: list[int]) -> None:
        """Keep the files that a body of which we are the parent has inherited elsewhere."""
        pid = self._pid_of(message.body)
        if pid is None:
            for fd in fds:
                os.close(fd)
        else:
            self._bodies[pid].inherited.files += zip(message.keys, fds)

    def _inherited(self, message: Inherited, tag: int, fds: list[int]) -> None:
        pid = self._pid_of(message.body)
        files = self._bodies[pid].inherited.files if pid is not None else []
        numbers = [number for pair in files for number in pair]
        orphans = sorted(self._orphans())
        self.agent.reply(tag, Heirlooms(os.getpid(), numbers, orphans, len(self._bodies)))

    @contextlib.contextmanager
    def _group(self, pgrp: int) -> Iterator[None]:
        """Have process group `pgrp` there for a child to join, if it is ours to make.

        This ghost leads it but must not be in it when the body runs.
        """
        if not pgrp == os.getpid() != os.getsid(0):
            yield
            return
        os.setpgid(0, 0)
        anchor = _ANCHOR.start(self._code)
        os.setpgid(0, os.getsid(0))
        try:
            yield
        finally:
            os.kill(anchor, signal.SIGKILL)
            os.waitpid(anchor, 0)

    def _clone_body(
        self, spawn: Spawn, inherited: Inheritance, foreground: bool
    ) -> tuple[int, int]:
        """Return the body's pid, and the errno of what it failed in before it was one."""
        with self._group(spawn.pgrp):
            calls = prepare(spawn, inherited, foreground)
            try:
                return calls.run(spawn.body, self._code)
            except OSError:
                # The pid is taken, too large, or none may be chosen: see clone_with_pid.
                return calls.run(0, self._code)

    # signals

    def _signal(self, message: Signal, tag: int, fds: list[int]) -> None:
        pid = self._pid_of(message.body)
        if pid is None:
            return
        pids = [pid]
        if message.scope == SCOPE_GROUP:
            group = os.getpgid(pid)
            pids += [process.pid for process in descendants(pid) if process.pgrp == group]
        for each in pids:
            _kill(each, message.signo)

    def _kill(self, message: Kill, tag: int, fds: list[int]) -> None:
        self._doomed.add(message.body)
        self._kill_doomed()

    def _kill_doomed(self) -> None:
        """Kill what is left of the doomed, again and again: it may fork faster than we look."""
        alive = {child.body: pid for pid, child in self._bodies.items()}
        self._doomed &= set(alive) | set(self._left)
        if not self._doomed:
            return
        roots = {alive[body] for body in self._doomed & set(alive)}
        # Orphans are no longer known to be whose; while other bodies live here they may be theirs.
        if not set(alive) - self._doomed:
            roots |= self._orphans()
        _kill_trees(roots)
        self._loop.call_later(KILL_SECONDS, self._kill_doomed)

    def _pid_of(self, body: int) -> int | None:
        for pid, child in self._bodies.items():
            if child.body == body:
                return pid
        return None

    def _orphans(self) -> set[int]:
        return children_of(os.getpid()) - set(self._bodies) - self._ghosts

    # reaping

    def _reap(self, _: int) -> None:
        read_signals(self._signals)
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self._bodies.get(pid)
            if child is not None:
                self._tell(pid, child, status, usage)
            elif os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._ghosts.discard(pid)
        if self._left and not self._orphans():
            for body in self._left:
                self.agent.post(Gone(body))
            self._left.clear()

    def _tell(self, pid: int, child: Child, status: int, usage: struct_rusage) -> None:
        if os.WIFSTOPPED(status):
            self.agent.post(Stopped(child.body, os.WSTOPSIG(status)))
        elif os.WIFCONTINUED(status):
            self.agent.post(Continued(child.body))
        else:
            del self._bodies[pid]
            self._stubs.pop(pid, None)
            self._left.append(child.body)
            for number, offset in child.inherited.positions():
                self.agent.post(Position(child.body, number, offset))
            child.inherited.close_files()
            self.agent.post(_exited(child.body, status, usage))

    # the terminal, and who waits to read

    def _foreground(self, message: Foreground, tag: int, fds: list[int]) -> None:
        try:
            if message.pgrp:
                set_foreground(fds[0], message.pgrp)
            else:
                _take_terminal(fds)
        except OSError:
            pass  # the group, or the terminal, is gone
        finally:
            os.close(fds[0])
        self.agent.reply(tag, Done())

    def _watch(self, message: Watch, tag: int, fds: list[int]) -> None:
        self._demand.watch(message, lambda answer: self.agent.reply(tag, answer))


def _join_group(pid: int, pgrp: int) -> None:
    """Put a child of ours into its process group; see `join_group` of stubs.node.capsule.body."""
    if pgrp == os.getpgrp():
        return
    try:
        os.setpgid(pid, pgrp)
    except OSError:
        os.setpgid(pid, pid)


def fork_as(pid: int) -> int:
    """Fork so that the child has `pid`, or some other if that is not to be had."""
    if pid > 1:
        try:
            return clone_with_pid(pid)
        except OSError:
            pass  # taken, too large, or not allowed: see clone_with_pid
    return os.fork()


def _run_ghost(leader: int, fds: list[int], code: int) -> None:
    """Be a ghost, in a process just forked from another one; never returns."""
    try:
        if leader == SESSION:
            os.setsid()
            if fds[1:]:
                _take_terminal(fds[1:])
        elif leader == GROUP:
            os.setpgid(0, 0)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        close_except([0, 1, 2, fds[0]])
        loop = Loop()
        GhostProcess(loop, code).listen(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds[0])
        )
        loop.run()
    except BaseException:
        # What is printed goes to the agent's standard error, which home shows.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _take_terminal(fds: list[int]) -> None:
    fcntl.ioctl(fds[0], TIOCSCTTY, 0)


def _exited(body: int, status: int, usage: struct_rusage) -> Exited:
    """Return what the ghost knows of an exit; the agent fills in the traffic."""
    return Exited(
        body=body,
        status=status & 0xFFFFFFFF,
        utime_us=int(usage.ru_utime * 1e6),
        stime_us=int(usage.ru_stime * 1e6),
        maxrss_kib=usage.ru_maxrss,
        round_trips=0,
        bytes_to_node=0,
        bytes_to_home=0,
        errno=0,
        path=b"",
    )


def _kill(pid: int, signo: int) -> None:
    try:
        os.kill(pid, signo)
    except ProcessLookupError:
        pass


def _kill_trees(roots: set[int]) -> None:
    """Kill these processes and what descends from them, as far as it can be seen.

    Where a process group has no other member it is killed as a whole, for that is done at
    once: among processes that fork all the time, one at a time would always miss some.
    """
    processes = all_processes()
    doomed = {process.pid for process in below(roots, processes)} | roots
    spared = {process.pgrp for process in processes if process.pid not in doomed}
    groups = {process.pgrp for process in processes if process.pid in doomed} - spared
    for group in groups:
        _kill(-group, signal.SIGKILL)
    for process in processes:
        if process.pid in doomed and process.pgrp in spared:
            _kill(process.pid, signal.SIGKILL)
