"""A bed for the home view alone: a directory, home's file service, the view, and a mount.

Four processes, none of which outlives the test: home (FileService), the view (View on a loop as
the agent has it), the keeper of the mount namespace, and one process per check, which enters that
namespace. The machine's own mounts are not touched, and nothing but the given directory is served.

As root the mount is made with all ids, as for a capsule whose home and node are both root's. With a
`uid`, everything runs as that user in a user namespace with a single mapped uid and gid.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

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
from stubs.home.files.policy import ExportPolicy
from tests.cluster.kernel import CLONE_NEWNS, CLONE_NEWUSER, setns, unshare
from tests.kernel.viewservers import BODY, CHECK_SECONDS, ask, relay, run_home, run_view, spawn


class Bed:
    """Home, view and mount for the directory `home`; `mount` is where checks find it."""

    def __init__(
        self,
        directory: str,
        uid: int = 0,
        policy: ExportPolicy | None = None,
        export: str | None = None,
        file_size: int = 0,
        delay: float = 0.0,
        state: str | None = None,
    ) -> None:
        """Serve `directory`/home (or `export`) at `directory`/view.

        `file_size` is the largest size of a file that home can write (0: no limit); `delay` is
        how many seconds every message takes; `state` is where home keeps what it learns of programs
        (None: it learns nothing and sends nothing ahead).
        """
        self.uid = uid
        self.home = export or os.path.join(directory, "home")
        self.mount = os.path.join(directory, "view")
        self._file_size = file_size
        self._delay = delay
        self._state = state
        self._policy = policy or ExportPolicy([], [])
        self._directory = directory
        self._pids: list[int] = []
        for path in (self.home, self.mount):
            os.makedirs(path, exist_ok=True)
        if uid and not export:
            os.chown(self.home, uid, uid)

    def __enter__(self) -> Bed:
        fuse_fd = self._start_keeper()
        near, far = self._line()
        self._home_control, home_side = socket.socketpair()
        self._view_control, view_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours = (self._home_control.fileno(), self._view_control.fileno())

        def home() -> None:
            os.close(fuse_fd)
            far.close()
            view_side.close()
            self._become_user()
            if self._file_size:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self._file_size, self._file_size))
            run_home(near, home_side, os.fsencode(self.home), self._policy, self._state)

        def view() -> None:
            near.close()
            home_side.close()
            cache = os.path.join(self._directory, "content")
            run_view(far, view_side, fuse_fd, self.uid, self.uid, not self.uid, cache)

        self._pids.append(spawn(home, *ours))
        self._pids.append(spawn(view, *ours))
        os.close(fuse_fd)
        for sock in (near, far, home_side, view_side):
            sock.close()
        self.barrier()
        return self

    def _line(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        if not self._delay:
            return near, far
        inner, farther = socket.socketpair()

        def between() -> None:
            near.close()
            farther.close()
            relay(far, inner, self._delay)

        self._relay = spawn(between)
        far.close()
        inner.close()
        return near, farther

    def __exit__(self, *_: object) -> None:
        self._view_control.close()
        self._home_control.close()
        self._keeper_sock.close()
        for pid in reversed(self._pids):
            wait_or_kill(pid)
        if self._delay:
            wait_or_kill(self._relay)

    def _become_user(self) -> None:
        if self.uid:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    # the mount

    def _start_keeper(self) -> int:
        """Start the process that keeps the mount namespace; returns /dev/fuse."""
        ours, theirs = socket.socketpair()
        self._keeper_sock = ours

        def keep() -> None:
            ours.close()
            self._keep(theirs)

        self._keeper = spawn(keep)
        self._pids.append(self._keeper)
        theirs.close()
        ours.settimeout(CHECK_SECONDS)
        if self.uid:
            assert ours.recv(1) == b"u", "the keeper has no user namespace"
            self._write_maps()
            ours.send(b"m")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        assert fds, "the keeper could not mount"
        return fds[0]

    def _keep(self, sock: socket.socket) -> None:
        device = b"/dev/fuse"
        if os.geteuid() == 0:
            unshare(CLONE_NEWNS)
            mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
            if self.uid:
                # /dev/fuse as every desktop and server has it: for everybody.
                mount(b"none", os.fsencode(self.mount), b"tmpfs", 0)
                device = os.path.join(os.fsencode(self.mount), b"fuse")
                os.mknod(device, 0o20666, os.makedev(10, 229))
                os.chmod(device, 0o666)
        if self.uid:
            self._become_user()
            prctl(4, 1)  # PR_SET_DUMPABLE: whose /proc files are to be written
            unshare(CLONE_NEWUSER | CLONE_NEWNS)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            sock.send(b"u")
            assert sock.recv(1) == b"m"
        fuse_fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        target = os.fsencode(self.mount)
        mount_fuse(fuse_fd, target, self.uid, self.uid)
        socket.send_fds(sock, [b"f"], [fuse_fd])
        os.close(fuse_fd)
        sock.settimeout(None)
        sock.recv(1)  # until the bed is gone, or the view is to be cut off
        umount2(target, MNT_FORCE | MNT_DETACH)

    def _write_maps(self) -> None:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{self.uid} {self.uid} 1"),
            ("gid_map", f"{self.uid} {self.uid} 1"),
        ):
            with open(f"/proc/{self._keeper}/{name}", "w") as file:
                file.write(text)

    # what tests do

    def enter(self) -> None:
        """Go into the namespace of the mount, and its root's directory; for forked processes."""
        kinds = [("user", CLONE_NEWUSER)] if self.uid else []
        fds = [
            (os.open(f"/proc/{self._keeper}/ns/{name}", os.O_RDONLY), kind)
            for name, kind in [*kinds, ("mnt", CLONE_NEWNS)]
        ]
        for fd, kind in fds:
            setns(fd, kind)
            os.close(fd)
        if self.uid:
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
            drop_capabilities()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def run(self, check: Callable[..., object], *arguments: Any) -> None:
        """Run `check(*arguments)` where the mount is, in a process of its own."""
        self.finish(self.start(check, *arguments))

    def start(self, check: Callable[..., object], *arguments: Any) -> tuple[int, int]:
        """Begin `check(*arguments)` where the mount is; `finish` waits for it."""
        read, write = os.pipe()

        def inside() -> None:
            os.close(read)
            self.enter()
            try:
                check(*arguments)
            except BaseException:
                os.write(write, traceback.format_exc().encode(errors="replace")[-60000:])
                os._exit(1)

        pid = spawn(inside)
        os.close(write)
        return pid, read

    def finish(self, started: tuple[int, int]) -> None:
        """Wait for a check; AssertionError with its traceback if it failed."""
        pid, read = started
        fate = wait_or_kill(pid)
        with open(read, "rb") as file:
            text = file.read().decode()
        assert fate == 0, f"{text}\n(wait status {fate:#x})"

    def stats(self) -> dict[str, Any]:
        """Return what the view has counted."""
        return ask(self._view_control, what="stats")

    def home_stats(self) -> dict[str, Any]:
        """Return what home has counted."""
        return ask(self._home_control, what="stats")

    def barrier(self) -> None:
        """Return when all that changed at home until now is known to the kernel of the node."""
        assert ask(self._home_control, what="barrier") == {"reply": "Pong"}

    def prefetch(self, *argv: str, body: int = BODY) -> None:
        """Have home expect that this program starts; return when the node has all but contents."""
        asked = ask(self._home_control, what="prefetch", argv=argv, body=body)
        assert asked == {"reply": "Pong"}

    def know_bodies(self, *pids: int) -> None:
        """Have the node know these processes for bodies."""
        assert ask(self._view_control, what="bodies", pids=pids) == {"known": True}

    def push(self, *argv: str) -> None:
        """Have home expect that this program starts; what it sends need not have come yet."""
        asked = ask(self._home_control, what="push", argv=argv, body=BODY)
        assert asked == {"pushed": True}

    def push_names(self, path: str) -> None:
        """Have home send the names of a directory, as they are there now."""
        assert ask(self._home_control, what="names", path=path) == {"pushed": True}

    def announce_contents(self, path: str, deliver: bool) -> None:
        """Have home announce and read a file; `deliver`: send what was read so far, in order.

        So it is where the connection of contents is slow, which this bed has not.
        """
        what = "deliver" if deliver else "announce"
        assert ask(self._home_control, what=what, path=path) == {"pushed": True}

    def distrust(self, path: str) -> None:
        """Have home send that the names of a directory are to be forgotten."""
        assert ask(self._home_control, what="distrust", path=path) == {"pushed": True}

    def touched(self, body: int = BODY) -> None:
        """Have the node tell what was touched since `prefetch`; return when home knows."""
        assert ask(self._view_control, what="touched", body=body) == {"touched": True}
        self.barrier()

    def failure(self) -> list[Any] | None:
        """Return errno and path of a refused write that nobody was told."""
        found: list[Any] | None = ask(self._view_control, what="failure")["failure"]
        return found

    def announce(self) -> None:
        """Have home told of temporary files, as when the last body ends."""
        ask(self._view_control, what="announce")

    def lose(self) -> None:
        """Have the link end."""
        ask(self._view_control, what="lose")

    def pause_home(self) -> None:
        """Have home hear of nothing for a while."""
        os.kill(self._pids[1], signal.SIGSTOP)

    def resume_home(self) -> None:
        """Let it go on."""
        os.kill(self._pids[1], signal.SIGCONT)

    def pause_line(self) -> None:
        """Let nothing pass between home and node for a while; for a bed with a delay."""
        os.kill(self._relay, signal.SIGSTOP)

    def resume_line(self) -> None:
        """Let what was sent meanwhile cross."""
        os.kill(self._relay, signal.SIGCONT)

    def children_of_view(self) -> list[int]:
        """Return the processes that the agent has started."""
        pid = self._pids[2]
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]

    def kill_view(self) -> None:
        """Kill the agent as the OOM killer would; then do as pid 1 of a capsule does."""
        os.kill(self._pids[2], signal.SIGKILL)
        # Checks that are under way have inherited it: closing would not end it.
        self._keeper_sock.shutdown(socket.SHUT_RDWR)
        self._keeper_sock.close()


def drop_capabilities() -> None:
    """Give up all capabilities: as exec(2) does for who is not root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    data = (ctypes.c_uint32 * 6)()
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def wait_or_kill(pid: int, seconds: float = CHECK_SECONDS) -> int:
    """Return the wait status of a child, killed if it takes too long."""
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
