"""The capsule, seen from the agent: the namespaces on a node in which the bodies of one home live.

`Capsule()` forks its first process, which must happen while the agent is small; `open` then
makes namespaces, mounts the home view and furnishes the root, without ever blocking the loop,
since the mounts wait for the view that this very process serves. What the node refuses is
told in words: a line for the reason and a line for the remedy.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time

from stubs.abi.unistd import close_except
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.node.capsule import init
from stubs.node.capsule.processes import from_numbers
from stubs.wire.messages import (
    Census,
    Clocked,
    Counted,
    Done,
    Enter,
    Error,
    Furnish,
    MountView,
    Spawned,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Handler
    from stubs.link.loop import Loop
    from stubs.node.capsule.processes import Process
    from stubs.wire.codec import Message
    from stubs.wire.messages import Hello

    # Takes /dev/fuse, and serves it from then on.
    Serve = Callable[[int], None]
    # Called once: with what is wrong, or with nothing when bodies can run.
    Ready = Callable[[str], None]
    # Called once with what to do with Clocked.
    AskClocks = Callable[[Callable[[Message], None]], None]


# Two machines that were started within the same such time are not expected.
SAME_CLOCK_NS = 50_000_000


def fork_seed() -> tuple[socket.socket, int]:
    """Fork the first process of a capsule to be; returns the socket to it and its pid."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        # The link to home above all: while one of us holds it, its end goes unnoticed.
        close_except([0, 1, 2, theirs.fileno()])
        init.main(theirs)
    theirs.close()
    return ours, pid


class Capsule:
    """The agent's handle of the capsule."""

    def __init__(
        self, loop: Loop, sock: socket.socket, seed: int, on_lost: Callable[[str], None]
    ) -> None:
        """Take over what `fork_seed` made; `on_lost` is told should pid 1 end."""
        self.proc = -1  # the capsule's /proc, a directory
        self.pts = -1  # its /dev/pts
        self.full_map = False
        self._seed = seed
        self.init_pid = 0  # of pid 1, as the agent has it; 0 before there is one
        self._on_lost = on_lost
        self._handlers: dict[type[Message], Handler] = {}
        self.init = Endpoint(loop, SocketStream(sock), self._handlers, self._lost, "capsule")

    def open(self, hello: Hello, ask_clocks: AskClocks, serve: Serve, ready: Ready) -> None:
        """Make the capsule for the home that said `hello`; `ask_clocks` asks it for its time."""
        self._hello, self._serve, self._ready = hello, serve, ready
        self._ask_clocks = ask_clocks if hello.clocks else None
        self.full_map = hello.uid == 0 and os.geteuid() == 0
        self.init.request(Enter(), self._entered)

    def census(self, then: Callable[[list[Process]], None]) -> None:
        """Call `then` with every process in the capsule; with none while there is no capsule."""

        def counted(answer: Message) -> None:
            found = from_numbers(answer.processes) if isinstance(answer, Counted) else []
            then(found)

        if self.proc >= 0:
            self.init.request(Census(), counted)
        else:
            then([])

    def close(self) -> None:
        """Kill everything in the capsule and wait for its end. The view must be closed before."""
        self._on_lost = lambda _: None
        self.init.close("the agent ends")
        for pid in (self.init_pid, self._seed):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass  # it has ended, and been waited for, before
        for fd in (self.proc, self.pts):
            if fd >= 0:
                os.close(fd)
        self.proc = self.pts = -1

    def _lost(self, reason: str) -> None:
        self._on_lost(f"the capsule has ended: {reason}")

    def _entered(self, answer: Message) -> None:
        if isinstance(answer, Error):
            self._ready(_namespaces_refused(answer))
            return
        try:
            self._write_maps()
        except OSError as error:
            self._ready(f"cannot map user ids in a user namespace: {error}")
            return
        if self._ask_clocks is None:
            self._mount(Done())
        else:
            self._ask_clocks(self._mount)

    def _mount(self, clocked: Message) -> None:
        offsets = _clock_offsets(clocked) if isinstance(clocked, Clocked) else (0, 0)
        self.init.request(MountView(self._hello.uid, self._hello.gid, *offsets), self._mounted)

    def _write_maps(self) -> None:
        """Give home's user an identity in the capsule: the node's user who we are."""
        directory = f"/proc/{self._seed}"
        for name, inside, outside in (
            ("gid_map", self._hello.gid, os.getegid()),
            ("uid_map", self._hello.uid, os.geteuid()),
        ):
            if self.full_map:
                with open(f"/proc/self/{name}") as file:
                    extents = [line.split() for line in file]
                text = "".join(f"{first} {first} {count}\n" for first, _, count in extents)
            else:
                if name == "gid_map":
                    _write(f"{directory}/setgroups", "deny")
                text = f"{inside} {outside} 1\n"
            _write(f"{directory}/{name}", text)

    def _mounted(self, answer: Message) -> None:
        if not isinstance(answer, Spawned):
            self._ready(_mount_refused(answer))
            return
        self.init_pid = answer.pid
        os.waitpid(self._seed, 0)
        self._seed = 0
        self._serve(self.init.reply_fds[0])
        hello = self._hello
        self.init.request(
            Furnish(hello.hostname, hello.pid_max, int(self.full_map)), self._furnished
        )

    def _furnished(self, answer: Message) -> None:
        if not isinstance(answer, Done):
            self._ready(_mount_refused(answer))
            return
        self.proc, self.pts = self.init.reply_fds
        self._ready("")


def _clock_offsets(home: Clocked) -> tuple[int, int]:
    """Return what clocks of the capsule differ by from ours, in ns, to be those of home.

    By the time that the message took they are late. What moves takes no shorter, so that for bodies
    time never goes back.
    """
    monotonic = home.monotonic - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boottime = home.boottime - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    # The same machine: bodies that come home are to find the very clock of home.
    return (0, 0) if abs(monotonic) < SAME_CLOCK_NS else (monotonic, boottime)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _namespaces_refused(answer: Error) -> str:
    return f"user namespaces are refused ({_text(answer)}){_namespace_remedy()}"


def _namespace_remedy() -> str:
    """Say which switch of this node forbids user namespaces to its users."""
    for path, refusing, remedy in (
        ("kernel/unprivileged_userns_clone", 0, "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", 0, "sysctl user.max_user_namespaces=10000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            1,
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            with open(f"/proc/sys/{path}") as file:
                if int(file.read()) == refusing:
                    return f"\n{remedy} (on the node, as root)"
        except (OSError, ValueError):
            continue
    return "\nif it is a container: allow it unshare(2) (seccomp filter, privileges)"


def _mount_refused(answer: Message) -> str:
    if not isinstance(answer, Error):
        return f"the capsule answered {answer!r}"
    text = _text(answer)
    if text.startswith("/dev/fuse"):
        remedy = "modprobe fuse"
        if answer.errno in (errno.EACCES, errno.EPERM):
            remedy = "chmod 666 /dev/fuse, or in a container allow the device"
        return f"{text}\n{remedy} (on the node, as root)"
    if text.endswith("proc: Operation not permitted"):
        return (
            f"{text}: parts of /proc are masked\nif it is a container: run it with /proc unmasked"
        )
    if answer.errno == errno.EPERM:
        return f"{text}: user namespaces have no rights here{_namespace_remedy()}"
    return text


def _text(answer: Error) -> str:
    return os.fsdecode(answer.text)
