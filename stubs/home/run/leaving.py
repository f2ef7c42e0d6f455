"""A program that has been running at home and goes to a node: frozen, sent, and made a deputy.

mrun traces it anyway, so it is mrun that freezes it. Its memory is sent by a thread, for that may
take long and mrun has others to care for. Until the node says that all is there the program is
whole here, and goes on if it is not; then what it was is taken from its process, which stays as the
deputy of its body.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time

from stubs.home.run.departure import Departure, Wish
from stubs.home.run.inherited import ImmovableError
from stubs.home.run.living import Living
from stubs.home.run.proc import read_stat
from stubs.migration.reasons import Unmovable
from stubs.migration.source import Source
from stubs.migration.tracee import CallFailedError, TraceeGoneError
from stubs.migration.whynot import why_not
from stubs.wire.messages import (
    FD_TTY,
    HOW_ZSTD,
    Arrive,
    Error,
    Kill,
    Moved,
    Prepare,
    Resume,
    Spawn,
    Spawned,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.home.run.body import Body
    from stubs.home.run.capture import Terminal
    from stubs.home.run.links import Connection
    from stubs.home.run.tree import Task, Tree
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

_GONE = (ProcessLookupError, TraceeGoneError, CallFailedError, OSError)


class Emigration:
    """One program on its way from home to a node."""

    def __init__(
        self,
        loop: Loop,
        tree: Tree,
        task: Task,
        destination: Connection,
        node: str,
        how: int,
        wish: Wish,
        terminal: Callable[[Departure], Terminal | None],
        convert: Callable[[Departure, int, Connection], Body | None],
        done: Callable[[Message], None],
    ) -> None:
        """Freeze it and begin; `done` gets Moved, or Error with the reason why it stays.

        `terminal` returns that of the program; `convert` makes the process the deputy of its body,
        with the address of the page that is left to it; None: it has been killed.
        """
        self._loop = loop
        self._tree = tree
        self._task = task
        self._destination = destination
        self._node = node
        self._zstd = bool(how & HOW_ZSTD)
        self._convert = convert
        self._done = done
        self._began = time.monotonic_ns()
        self._sent = 0
        self._source: Source | None = None
        task.deciding = True
        try:
            self._freeze(wish, terminal)
        except (Unmovable, ImmovableError) as error:
            self._stay(Error(errno.EBUSY, str(error).encode(errors="surrogateescape")))
        except _GONE as error:
            self._stay(Error(errno.ESRCH, f"it cannot be frozen: {error}".encode()))
        else:
            self._send()

    def _freeze(self, wish: Wish, terminal: Callable[[Departure], Terminal | None]) -> None:
        pid = self._task.pid
        if self._tree.has_children(self._task):
            raise ImmovableError("it has started others, and they run here")
        living = Living(pid, read_stat(pid).tty)
        try:
            reasons = why_not([pid], living.outside)
            # That it is traced, by us, keeps it from nothing.
            reasons = [reason for reason in reasons if reason.name != "ptraced"]
            if reasons:
                raise ImmovableError(reasons[0].sentence)
            source = Source([pid], living.outside, living.inherited, self._zstd, kept=True)
            source.freeze()
        except BaseException:
            living.close()
            raise
        self._source = source
        if len(source.pids) > 1 or source.orphans:
            living.close()
            raise ImmovableError("it has just started another, or has a file that has no name")
        departure = self._departure = Departure(self._task, wish)
        departure.node = self._node
        departure.take(None, terminal(departure), living)

    # to the node

    def _send(self) -> None:
        """Have the image sent by a thread, and tell the node what leads out of the program."""
        assert self._source is not None
        assert self._departure.capture is not None
        ours, theirs = socket.socketpair()
        spawn = self._departure.capture.spawn
        fds = dict(zip([item.fd for item in spawn.descriptors], self._departure.copies()))
        terminals = [item for item in spawn.descriptors if item.kind == FD_TTY]
        others = [item for item in spawn.descriptors if item.kind != FD_TTY]
        first, second = Spawn.decode(spawn.encode()), Spawn.decode(spawn.encode())
        first.descriptors, second.descriptors = terminals, others
        carried = [*[fds[item.fd] for item in terminals], theirs.detach()]
        self._destination.request(Prepare(first.encode()), self._stands, carried)
        nothing = [b""] * len(others)
        arrive = Arrive(
            spawn=second.encode(),
            unread=nothing,
            unwritten=nothing,
            typed=b"",
            cpu_us=self._source.cpu_us,
            unseen=0,
            locks=[],
        )
        self._destination.post(arrive, [fds[item.fd] for item in others])
        self._destination.flush()
        threading.Thread(target=self._send_image, args=(self._source, ours), daemon=True).start()

    def _send_image(self, source: Source, image: socket.socket) -> None:
        """Write the image; in a thread, which traces nobody."""

        def write(data: bytes) -> None:
            self._sent += len(data)
            image.sendall(data)

        try:
            source.send(write)
        except OSError:
            pass  # cut short: the node says so, or has said why it wants no more
        finally:
            image.close()

    def _stands(self, reply: Message) -> None:
        """Hear that it is there, whole and held, or that it cannot be."""
        if not isinstance(reply, Spawned):
            error = reply if isinstance(reply, Error) else Error(errno.EPROTO, b"refused")
            self._departure.close()
            self._stay(error)
            return
        pid = self._task.pid
        assert self._source is not None
        body: Body | None = None
        try:
            if self._task.status is None:
                threads = self._tree.threads_of(self._task)
                page = self._source.deflate()
                for thread in threads:
                    self._tree.forget(thread)
                body = self._convert(self._departure, page, self._destination)
        except _GONE:
            body = None
        if body is None:
            # Killed just now: its end is told next.
            self._destination.post(Kill(pid))
            self._departure.close()
            self._done(Error(errno.ESRCH, b"it has just been killed"))
            return
        body.hold(lambda message: None)
        self._destination.request(Resume(pid), lambda _: self._resumed(body))

    def _resumed(self, body: Body) -> None:
        body.resume(self._destination.post)
        body.drain()
        now = time.monotonic_ns()
        self._done(
            Moved(
                pid=body.pid,
                node=os.fsencode(self._departure.node),
                frozen_us=(now - self._began) // 1000,
                wall_us=(now - self._began) // 1000,
                bytes=self._sent,
            )
        )

    def _stay(self, error: Error) -> None:
        """Let it go on at home."""
        self._task.deciding = False
        if self._source is not None:
            self._source.thaw()
        self._done(error)
