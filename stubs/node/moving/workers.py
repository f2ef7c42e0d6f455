"""Workers: processes of ours that freeze bodies and bring them to life, seen from the agent.

Looking into a body waits for the home view, and only the agent can bring what that waits for. So
it is done by a child of the agent, in the capsule's namespaces. What leaves or arrives passes
through a socket between the two, the rest are messages on another one.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.sched import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    clone,
    setns,
)
from stubs.abi.unistd import close_except
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from stubs.link.endpoint import Handler
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

    # What a worker does: gets the socket to the agent, and that of the image.
    Job = Callable[[socket.socket, socket.socket], None]

# The user namespace first: it gives the right to enter the others.
_NAMESPACES = (CLONE_NEWUSER, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID)


class Worker:
    """One worker."""

    def __init__(
        self,
        loop: Loop,
        init: int,
        job: Job,
        handlers: dict[type[Message], Handler],
        on_lost: Callable[[str], None],
    ) -> None:
        """Fork one that does `job` in the namespaces of process `init`; OSError if that fails.

        `on_lost` is told when it has ended, unless `close` came first.
        """
        self.on_lost = on_lost
        ours, theirs = socket.socketpair()
        self.image, image = socket.socketpair()
        self.image.setblocking(False)
        try:
            self._between = os.fork()
        except OSError:
            for each in (ours, theirs, self.image, image):
                each.close()
            raise
        if self._between == 0:
            _run(init, job, theirs, image)
        theirs.close()
        image.close()
        self.endpoint = Endpoint(loop, SocketStream(ours), handlers, self._lost, "worker")
        self._loop = loop

    def close(self) -> None:
        """Let it end, and with it what it holds."""
        self.on_lost = lambda _: None
        self.endpoint.close("done")

    def close_image(self) -> None:
        """Let go of the image: who writes it gets EPIPE. A second time is harmless."""
        if self.image.fileno() >= 0:
            self._loop.forget(self.image.fileno())
            self.image.close()

    def _lost(self, reason: str) -> None:
        self.close_image()
        # It dies with the process that stands between; that one waits for nothing of ours.
        os.kill(self._between, signal.SIGKILL)
        os.waitpid(self._between, 0)
        self.on_lost(reason)


def _run(init: int, job: Job, sock: socket.socket, image: socket.socket) -> NoReturn:
    """Be the worker, in a process just forked from the agent."""
    try:
        # What is closed by number must not be collected here; and /dev/fuse above all must go.
        gc.disable()
        close_except([2, sock.fileno(), image.fileno()])
        _enter(init)
        # Not before: it is forgotten with a change of capabilities (prctl(2)).
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if clone(0):
            _wait()
        # Bodies are to be killed should we die, and we should the agent.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        job(sock, image)
        os._exit(0)
    except BaseException:
        # What is printed goes to the agent's standard error, which home shows.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _enter(init: int) -> None:
    pidfd = os.pidfd_open(init)
    for kinds in _NAMESPACES:
        setns(pidfd, kinds)
    os.close(pidfd)


def _wait() -> NoReturn:
    """Stand between agent and worker: a pid namespace is entered by children only."""
    close_except([2])
    try:
        os.wait()
    finally:
        os._exit(0)
