"""Bodies that arrive on this node: made by a worker from an image, held until home says Resume.

Home's Restore names the body; a worker reads its image, which may come for a long time while the
body still runs elsewhere. The ghost that is to be its parent clones the process. Complete brings
what leads out of the tree, and in the end the body stands here, whole, and is a guest like others.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque

from stubs.link.loop import WRITE
from stubs.migration import keys
from stubs.node.capsule.body import STREAMS
from stubs.node.moving.workers import Worker
from stubs.wire.messages import (
    FD_FILE,
    Complete,
    Error,
    Foreground,
    ImageData,
    ImageTaken,
    Kill,
    Outside,
    Restore,
    Resume,
    Spawn,
    Spawned,
    Stood,
    Stub,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.node.capsule.capsule import Capsule
    from stubs.node.guests import Guest, Guests
    from stubs.node.view.view import View
    from stubs.wire.codec import Message


class Arriving:
    """One body on its way in."""

    def __init__(self, guest: Guest, worker: Worker, serial: int) -> None:
        """`guest.tag` is that of home's request, `serial` that of the image."""
        self.guest = guest
        self.serial = serial
        self.worker = worker
        self.waiting: deque[memoryview] = deque()  # of the image, for the worker
        self.ended = False
        self.held = False


class Arrivals:
    """All bodies that arrive."""

    def __init__(
        self,
        loop: Loop,
        link: Link,
        view: View,
        capsule: Capsule,
        guests: Guests,
    ) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._view = view
        self._capsule = capsule
        self._guests = guests
        self._arriving: dict[int, Arriving] = {}

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what the node does with home's messages about these."""
        return {
            Restore: lambda message, tag, fds: self._view.settled(
                lambda: self._restore(message, tag)
            ),
            ImageData: lambda message, tag, fds: self._view.settled(lambda: self._image(message)),
            Complete: lambda message, tag, fds: self._view.settled(lambda: self._complete(message)),
        }

    def holds(self, body: int) -> bool:
        """Tell whether that body is on its way in."""
        return body in self._arriving

    def close(self) -> None:
        """Let go of all workers."""
        for arriving in self._arriving.values():
            arriving.worker.close()

    def _restore(self, message: Restore, tag: int) -> None:
        spawn = Spawn.decode(message.spawn)
        try:
            guest = self._guests.admit(spawn, tag)
        except OSError as error:
            text = os.fsencode(error.strerror or str(error))
            self._link.reply(tag, Error(error.errno or errno.EIO, text))
            return
        try:
            worker = self._begin(guest)
        except OSError as error:
            refusal = Error(error.errno or errno.EIO, os.fsencode(str(error)))
            self._guests.remove(guest, lambda: self._link.reply(tag, refusal))
            return
        guest.arriving = True
        self._arriving[spawn.body] = Arriving(guest, worker, message.serial)

    def _begin(self, guest: Guest) -> Worker:
        from stubs.node.moving import worker

        body, pgrp = guest.spawn.body, guest.spawn.pgrp
        return Worker(
            self._loop,
            self._capsule.init_pid,
            lambda sock, image: worker.restore(sock, image, body, pgrp),
            {
                Stub: lambda message, tag, fds: self._stub(guest, message, tag, fds),
                Stood: lambda message, tag, fds: self._stood(body, message),
                Error: lambda message, tag, fds: self._fail(body, message),
            },
            lambda reason: self._fail(body, Error(errno.EIO, b"what was to restore it has ended")),
        )

    def _stub(self, guest: Guest, message: Stub, tag: int, fds: list[int]) -> None:
        """Have its parent clone the process that the body is made of."""
        arriving = self._arriving.get(guest.spawn.body)

        def cloned(answer: Message) -> None:
            if arriving is not None:
                arriving.worker.endpoint.reply(tag, answer)

        guest.parent.endpoint.request(message, cloned, fds)

    # the image

    def _image(self, message: ImageData) -> None:
        arriving = self._arriving.get(message.body)
        if arriving is None or arriving.serial != message.serial:
            return  # it was called off
        if message.data:
            arriving.waiting.append(memoryview(message.data))
        else:
            arriving.ended = True
        self._pass(arriving)

    def _pass(self, arriving: Arriving) -> None:
        """Write what has come of the image to the worker, as far as it takes it."""
        sock, passed = arriving.worker.image, 0
        try:
            while arriving.waiting:
                data = arriving.waiting[0]
                sent = sock.send(data)
                passed += sent
                if sent < len(data):
                    arriving.waiting[0] = data[sent:]
                else:
                    arriving.waiting.popleft()
        except BlockingIOError:
            self._loop.watch(sock.fileno(), WRITE, lambda _: self._pass(arriving))
        except OSError:
            arriving.waiting.clear()  # the worker will say, or has said, what is wrong
        if passed:
            self._link.post(ImageTaken(arriving.guest.spawn.body, passed))
        if not arriving.waiting:
            self._loop.forget(sock.fileno())
            if arriving.ended:
                _shut(sock)

    # what leads out of it

    def _complete(self, message: Complete) -> None:
        spawn = Spawn.decode(message.spawn)
        arriving = self._arriving.get(spawn.body)
        if arriving is None:
            return
        guest = arriving.guest
        guest.cpu_us = message.cpu_us
        guest.spawn.descriptors = spawn.descriptors
        guest.spawn.exclusive = spawn.exclusive
        guest.spawn.foreground = spawn.foreground
        if spawn.termios:
            guest.spawn.termios = spawn.termios
        fds: list[int] = []
        try:
            self._guests.give_descriptors(guest, fds)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._fail(spawn.body, Error(error.errno or errno.EIO, os.fsencode(str(error))))
            return
        streams = [item for item in spawn.descriptors if item.kind in STREAMS and item.share < 0]
        numbers = [item.fd for item in streams]
        if len(fds) > len(numbers):
            numbers.append(keys.TERMINAL)
        files = [item for item in spawn.descriptors if item.kind == FD_FILE]
        arriving.worker.endpoint.post(
            Outside(
                keys=numbers,
                files=[item.ref for item in files],
                file_keys=[item.fd for item in files],
                file_flags=[item.flags for item in files],
                file_offsets=[item.offset for item in files],
                handles=message.handles,
            ),
            fds,
        )

    # the end of it

    def _stood(self, body: int, message: Stood) -> None:
        """Say that it is whole, and held."""
        arriving = self._arriving[body]
        arriving.held = True
        guest = arriving.guest
        guest.pid = message.pid
        tag, guest.tag = guest.tag, 0
        self._link.reply(tag, Spawned(message.pid))

    def _fail(self, body: int, message: Error) -> None:
        """Leave nothing of it, and tell home why; of one that was whole, that it has ended."""
        arriving = self._arriving.pop(body, None)
        if arriving is None:
            return
        arriving.worker.close()
        guest = arriving.guest
        tag, guest.tag = guest.tag, 0
        if arriving.held:
            guest.parent.endpoint.post(Kill(body))
        else:
            self._guests.remove(guest, lambda: self._link.reply(tag, message))

    def kill(self, body: int) -> None:
        """Home has called it off."""
        self._fail(body, Error(errno.ECANCELED, b"called off"))

    def resume(self, message: Resume, tag: int) -> None:
        """Let it go on here."""
        arriving = self._arriving.pop(message.body)
        guest = arriving.guest
        guest.arriving = False

        def done(answer: Message) -> None:
            arriving.worker.close()
            self._guests.watch_demand(guest)
            self._link.reply(tag, answer)

        def go() -> None:
            arriving.worker.endpoint.request(message, done)

        terminal = guest.session.terminal
        if terminal is not None and guest.spawn.foreground:
            guest.session.leader.endpoint.request(
                Foreground(guest.spawn.foreground), lambda _: go(), [terminal.open_peer()]
            )
        else:
            go()


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the worker has ended
