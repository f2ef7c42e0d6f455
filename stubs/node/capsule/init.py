"""The capsule's pid 1: makes the namespaces and the root, then is the ancestor of all ghosts.

Forked by the agent before it has grown. It begins as the seed, which enters new namespaces; the
seed's child, with the agent for its parent, is the first process of the new pid namespace and takes
the seed's place on the socket to the agent. Whatever ends it ends every process of the capsule.

When the agent has gone it cuts the view off first. A killed agent does not let go of /dev/fuse
while a thread of it waits in the kernel for the lock of a directory, and whoever has that lock
waits, unkillable, for an answer of the agent: nobody would ever end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

from stubs.abi.calls import map_code
from stubs.abi.libc import function
from stubs.abi.mount import (
    MNT_DETACH,
    MNT_FORCE,
    MS_PRIVATE,
    MS_REC,
    mount,
    mount_fuse,
    umount2,
)
from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.sched import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_PARENT,
    clone,
    unshare,
)
from stubs.abi.sigaction import ALL, reset_actions, set_mask
from stubs.abi.signalfd import read_signals, signalfd
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.node.capsule.ghost import GhostProcess
from stubs.node.capsule.processes import all_processes, to_numbers
from stubs.node.capsule.root import MOUNT_POINTS, plan
from stubs.wire.messages import Census, Counted, Done, Enter, Error, Furnish, MountView, Spawned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from stubs.link.endpoint import Handler
    from stubs.wire.codec import Message

_sethostname = function("sethostname", ctypes.c_char_p, ctypes.c_size_t)

_NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC


class Init:
    """The seed, and then pid 1."""

    def __init__(self, sock: socket.socket) -> None:
        """Wait for the agent's word on `sock`."""
        _die_with_parent()
        # For all ghosts, and as bodies shall find it: blocked is what they unblock before execve.
        reset_actions()
        set_mask(ALL)
        self._loop = Loop()
        self._handlers: dict[type[Message], Handler] = {
            Enter: self._answering(self._enter),
            MountView: self._answering(self._mount_view),
            Furnish: self._answering(self._furnish),
            Census: self._answering(self._census),
        }
        self._agent = Endpoint(
            self._loop, SocketStream(sock), self._handlers, lambda _: self._leave(), "agent"
        )
        self._root = b""  # where the view is mounted, once it is
        self._agent_ends = -1
        self._proc = -1

    def run(self) -> None:
        """Serve until the agent lets go."""
        self._loop.run()

    def _answering(self, act: Callable[[Message], None]) -> Handler:
        """Answer Error when `act` fails, naming the file or call."""

        def handler(message: Message, tag: int, fds: list[int]) -> None:
            self._tag = tag
            try:
                act(message)
            except OSError as error:
                name = error.filename if error.filename is not None else act.__name__
                text = f"{os.fsdecode(name)}: {error.strerror}"
                self._agent.reply(tag, Error(error.errno or 0, os.fsencode(text)))

        return handler

    def _enter(self, _: Message) -> None:
        unshare(_NAMESPACES)
        _unshare_clocks()
        # A change of credentials clears it.
        _die_with_parent()
        self._agent.reply(self._tag, Done())

    def _mount_view(self, message: Message) -> None:
        assert isinstance(message, MountView)
        _set_clocks(message.monotonic, message.boottime)
        # With CLONE_PARENT the agent is told of our end, and its end is told to us.
        if clone(CLONE_PARENT):
            os._exit(0)
        self._watch_agent()
        os.setsid()
        self._ghost = GhostProcess(self._loop, _machine_code(), self._agent)
        self._handlers.update(self._ghost.handlers())
        pid = int(os.readlink("/proc/self"))
        mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
        # Opened in this user namespace: the kernel mounts it in no other (fs/fuse/inode.c).
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        root = next(path for path in MOUNT_POINTS if os.path.isdir(path))
        mount_fuse(fuse, root, message.uid, message.gid)
        self._root = root
        self._agent.reply(self._tag, Spawned(pid), [fuse])

    def _furnish(self, message: Message) -> None:
        assert isinstance(message, Furnish)
        for step in plan(self._root, message.pid_max, bool(message.full_map)):
            step.execute()
        self._root = b"/"
        # From here on an import would take home's files for ours.
        sys.path.clear()
        sys.meta_path.clear()
        _sethostname(message.hostname, len(message.hostname))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fds = [os.open("/proc", flags), os.open("/dev/pts", flags)]
        self._proc = os.open("/proc", flags)
        self._agent.reply(self._tag, Done(), fds)

    def _census(self, _: Message) -> None:
        self._agent.reply(self._tag, Counted(to_numbers(all_processes(self._proc))))

    def _watch_agent(self) -> None:
        """Hear of the agent's end, by a signal too: its socket stays open while it cannot die."""
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        self._agent_ends = signalfd([signal.SIGTERM])
        self._loop.watch(self._agent_ends, READ, self._agent_ended)

    def _agent_ended(self, _: int) -> None:
        # Who is in the capsule has a pid here, and may not end it with that signal.
        if any(info.ssi_pid == 0 for info in read_signals(self._agent_ends)):
            self._leave()

    def _leave(self) -> NoReturn:
        """Cut the view off and end, and with us everything in the capsule."""
        try:
            if self._root:
                umount2(self._root, MNT_FORCE | MNT_DETACH)
        except OSError:
            pass  # the root of a namespace stays, but has been cut off (fuse_umount_begin)
        os._exit(0)


def main(sock: socket.socket) -> None:
    """Be the capsule's init; never returns."""
    try:
        Init(sock).run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _machine_code() -> int:
    """Map what starts bodies, for all ghosts; 0 where nothing may be made executable."""
    # What descends from here has only close-on-exec descriptors: a body keeps none of them.
    for fd in (0, 1, 2):
        os.set_inheritable(fd, False)
    try:
        return map_code()
    except OSError:
        return 0


def _unshare_clocks() -> None:
    """Have clocks of our own from the next child on: Linux 5.6 and later."""
    try:
        unshare(CLONE_NEWTIME)
    except OSError:
        pass  # bodies have the node's clocks then, and those jump when they move


def _set_clocks(monotonic: int, boottime: int) -> None:
    """Move the clocks of the children to be, by so many ns; see time_namespaces(7)."""
    if not (monotonic or boottime):
        return
    lines = [
        f"{name} {offset // 10**9} {offset % 10**9}\n"
        for name, offset in (("monotonic", monotonic), ("boottime", boottime))
    ]
    try:
        with open("/proc/self/timens_offsets", "w") as file:
            file.write("".join(lines))
    except OSError:
        pass  # see _unshare_clocks


def _die_with_parent() -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
