"""Bodies that leave this node: frozen, told to home in every detail, and then let go or resumed.

The order of things, after home's Dump: a worker freezes the tree and says Stood; home hears
Standing, sends nothing more for its streams, and Drain; what the tree has written goes home, what
it has not read is collected; Parked. The image passes meanwhile. Then the tree waits for Resume or
Depart, however long that takes: if home is lost the capsule ends, and the tree with it.
"""

from __future__ import annotations

import errno

from stubs.link.loop import READ
from stubs.migration import keys
from stubs.node.capsule.processes import below
from stubs.node.moving.workers import Worker
from stubs.wire.messages import (
    CanMove,
    Depart,
    Done,
    Drain,
    Dump,
    Error,
    Heirlooms,
    ImageData,
    ImageTaken,
    Inherited,
    Parked,
    Reasons,
    Resume,
    Standing,
    Stood,
    Unread,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop, Timer
    from stubs.node.capsule.capsule import Capsule
    from stubs.node.capsule.processes import Process
    from stubs.node.guests import Guest, Guests
    from stubs.node.streams.streams import Streams
    from stubs.node.view.view import View
    from stubs.wire.codec import Message

# Bytes of an image that may be on their way to home at once, and in one message.
WINDOW = 4 << 20
CHUNK = 256 << 10

# How long home may take over what a body has written that stands still: it gets no signals then.
PARK_SECONDS = 10.0


class Leaving:
    """One body on its way out."""

    def __init__(self, guest: Guest, tag: int) -> None:
        """`tag` is that of home's request."""
        self.guest = guest
        self.tag = tag  # 0 once it is answered
        self.worker: Worker | None = None
        self.stood: Stood | None = None
        self.overdue: Timer | None = None  # until it is parked
        self.credit = WINDOW


class Departures:
    """All bodies that leave."""

    def __init__(
        self,
        loop: Loop,
        link: Link,
        view: View,
        streams: Streams,
        capsule: Capsule,
        guests: Guests,
    ) -> None:
        """Begin with none."""
        self._loop = loop
        self._link = link
        self._view = view
        self._streams = streams
        self._capsule = capsule
        self._guests = guests
        self._leaving: dict[int, Leaving] = {}

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what the node does with home's messages about these."""
        return {
            Dump: lambda message, tag, fds: self._dump(message, tag),
            # Behind what home has sent before for the streams of the body, and as signals.
            Drain: lambda message, tag, fds: self._view.settled(lambda: self._drain(message)),
            CanMove: lambda message, tag, fds: self._examine(message, tag),
        }

    def holds(self, body: int) -> bool:
        """Tell whether that body is on its way out."""
        return body in self._leaving

    def kill(self, body: int) -> None:
        """Let go of a body that is to be killed."""
        leaving = self._leaving.get(body)
        if leaving is not None:
            self._refuse(leaving, errno.ECANCELED, "it was killed")

    def close(self) -> None:
        """Let go of all workers."""
        for leaving in self._leaving.values():
            if leaving.worker is not None:
                leaving.worker.close()

    # freezing

    def _dump(self, message: Dump, tag: int) -> None:
        guest = self._guests.find(message.body)
        if guest is None or not guest.pid or guest.exit is not None:
            self._link.reply(tag, Error(errno.ESRCH, b"it does not run here"))
        elif message.body in self._leaving:
            self._link.reply(tag, Error(errno.EBUSY, b"it is about to move already"))
        else:
            leaving = self._leaving[message.body] = Leaving(guest, tag)

            def begin(pids: list[int], files: list[tuple[int, int, int]]) -> None:
                if leaving.tag:  # it has not been killed meanwhile
                    self._begin(leaving, pids, files, message.how)

            self._gather(guest, begin, lambda text: self._refuse(leaving, errno.EBUSY, text))

    def _gather(
        self,
        guest: Guest,
        then: Callable[[list[int], list[tuple[int, int, int]]], None],
        refuse: Callable[[str], None],
    ) -> None:
        """Find out which processes a body is, and which files it inherited."""

        def counted(processes: list[Process]) -> None:
            guest.parent.endpoint.request(
                Inherited(guest.spawn.body), lambda answer: told(answer, processes)
            )

        def told(answer: Message, processes: list[Process]) -> None:
            if not isinstance(answer, Heirlooms) or guest.exit is not None:
                refuse("it has just ended")
            elif answer.orphans and answer.bodies > 1:
                refuse("what it left behind cannot be told from what other bodies left behind")
            else:
                pairs = zip(answer.files[::2], answer.files[1::2])
                files = [(answer.pid, fd, keys.of_file(number)) for number, fd in pairs]
                roots = [guest.pid, *answer.orphans]
                descendants = [process.pid for process in below(set(roots), processes)]
                then([*roots, *descendants], files)

        self._capsule.census(counted)

    def _begin(
        self, leaving: Leaving, pids: list[int], files: list[tuple[int, int, int]], how: int
    ) -> None:
        from stubs.node.moving import worker

        outside = self._outside(leaving.guest)
        try:
            leaving.worker = Worker(
                self._loop,
                self._capsule.init_pid,
                lambda sock, image: worker.freeze(sock, image, pids, outside, files, how),
                {
                    Stood: lambda message, tag, fds: self._stood(leaving, message),
                    Unread: lambda message, tag, fds: self._unread(leaving, message),
                    Error: lambda message, tag, fds: self._refused(leaving, message),
                },
                lambda reason: self._worker_lost(leaving, reason),
            )
        except OSError as error:
            self._refuse(leaving, error.errno or errno.EIO, f"no process can look: {error}")
            return
        self._loop.watch(leaving.worker.image.fileno(), READ, lambda _: self._pass(leaving))

    def _outside(self, guest: Guest) -> dict[bytes, int]:
        """Return the key of what leads out of a body, by what /proc/PID/fd shows of it."""
        outside = dict(guest.links)
        terminal = guest.session.terminal
        if terminal is not None:
            outside[terminal.name] = outside[b"/dev/tty"] = keys.TERMINAL
        return outside

    def _refused(self, leaving: Leaving, message: Error) -> None:
        self._refuse(leaving, message.errno, message.text.decode(errors="surrogateescape"))

    def _refuse(self, leaving: Leaving, number: int, text: str) -> None:
        """Tell home that it goes on here, and why."""
        if self._leaving.get(leaving.guest.spawn.body) is leaving:
            del self._leaving[leaving.guest.spawn.body]
        leaving.guest.standing = False
        if leaving.worker is not None:
            leaving.worker.close()
        self._answer(leaving, Error(number, text.encode(errors="surrogateescape")))

    def _answer(self, leaving: Leaving, message: Message) -> None:
        """Answer home's Dump, unless that is done."""
        tag, leaving.tag = leaving.tag, 0
        if leaving.overdue is not None:
            leaving.overdue.cancel()
        if tag:
            self._link.reply(tag, message)

    def _worker_lost(self, leaving: Leaving, reason: str) -> None:
        """Note that what traced it has died; what stood still was killed with it."""
        self._refuse(leaving, errno.EIO, "the process that was to freeze it has ended")

    # standing still

    def _stood(self, leaving: Leaving, message: Stood) -> None:
        leaving.stood = message
        leaving.guest.standing = True
        leaving.overdue = self._loop.call_later(PARK_SECONDS, lambda: self._park_late(leaving))
        self._streams.send(Standing(leaving.guest.spawn.body, message.frozen_us))

    def _park_late(self, leaving: Leaving) -> None:
        """Have it go on here: home does not take what it has written."""
        body = leaving.guest.spawn.body
        busy = Error(errno.EAGAIN, b"home does not take what it has written")
        self._go_on(leaving, Resume(body), lambda: self._answer(leaving, busy))

    def _drain(self, message: Drain) -> None:
        leaving = self._leaving.get(message.body)
        if leaving is not None and leaving.worker is not None:
            leaving.worker.endpoint.post(message)

    def _unread(self, leaving: Leaving, message: Unread) -> None:
        """See all that the tree wrote sent and taken by home, then tell what it has not read."""
        guest = leaving.guest
        unread = dict(zip(message.keys, message.data))
        self._view.announce_temporaries(0)
        self._streams.drain(
            guest.outputs, lambda: self._view.when_written(lambda: self._park(leaving, unread))
        )

    def _park(self, leaving: Leaving, unread: dict[int, bytes]) -> None:
        stood, guest = leaving.stood, leaving.guest
        if self._leaving.get(guest.spawn.body) is not leaving or stood is None or not leaving.tag:
            return  # it goes on here: that it is parked must not be said any more
        streams = [key for key in unread if keys.is_stream(key)]
        terminal = guest.session.terminal
        foreground, termios, typed = 0, b"", b""
        if terminal is not None:
            foreground, termios = terminal.state()
            if self._guests.alone_at(terminal):
                typed = terminal.take_typed()
        held, guest.held = guest.held, []
        self._answer(
            leaving,
            Parked(
                body=guest.spawn.body,
                cpu_us=stood.cpu_us + guest.cpu_us,
                streams=streams,
                unread=[unread[key] + self._streams.waiting(key) for key in streams],
                foreground=foreground,
                termios=termios,
                typed=typed,
                handles=stood.handles,
                signals=[number for each in held for number in (each.signo, each.scope)],
            ),
        )

    # the image

    def _pass(self, leaving: Leaving) -> None:
        """Send what the worker has written of the image, as far as home takes it."""
        worker = leaving.worker
        assert worker is not None
        if worker.image.fileno() < 0:
            return
        try:
            data = worker.image.recv(min(CHUNK, leaving.credit))
        except BlockingIOError:
            return
        leaving.credit -= len(data)
        if not data:
            worker.close_image()
        elif not leaving.credit:
            self._loop.forget(worker.image.fileno())
        self._link.post(ImageData(leaving.guest.spawn.body, 0, data))

    def taken(self, message: ImageTaken) -> None:
        """Send more: so much has gone on."""
        leaving = self._leaving.get(message.body)
        if leaving is not None and leaving.worker is not None:
            leaving.credit = min(leaving.credit + message.bytes, WINDOW)
            if leaving.worker.image.fileno() < 0:
                return
            self._loop.watch(leaving.worker.image.fileno(), READ, lambda _: self._pass(leaving))

    # what becomes of it

    def resume(self, message: Resume, tag: int) -> None:
        """Have it go on here: it has not arrived elsewhere."""
        leaving = self._leaving[message.body]
        called_off = Error(errno.ECANCELED, b"called off")

        def went_on() -> None:
            self._answer(leaving, called_off)
            self._link.reply(tag, Done())

        if leaving.worker is None:
            self._refuse(leaving, called_off.errno, "called off")
            self._link.reply(tag, Done())
        else:
            self._go_on(leaving, message, went_on)

    def _go_on(self, leaving: Leaving, message: Resume, then: Callable[[], None]) -> None:
        guest = leaving.guest
        del self._leaving[message.body]
        if guest.session.terminal is not None:
            guest.session.terminal.put_back()

        def went_on() -> None:
            guest.standing = False
            held, guest.held = guest.held, []
            then()
            for signal in held:
                guest.parent.endpoint.post(signal)

        self._order(leaving, message, went_on)

    def depart(self, message: Depart, tag: int) -> None:
        """Destroy it: it goes on elsewhere."""
        leaving = self._leaving.pop(message.body)
        self._answer(leaving, Error(errno.ESRCH, b"it has ended"))
        self._guests.dismiss(leaving.guest, lambda: self._link.reply(tag, Done()))
        self._order(leaving, message, lambda: None)

    def _order(self, leaving: Leaving, message: Message, then: Callable[[], None]) -> None:
        worker = leaving.worker
        assert worker is not None
        # If it is still sending, it is to stop that.
        worker.close_image()

        def done(_: Message) -> None:
            worker.close()
            then()

        worker.endpoint.request(message, done)

    # why not

    def _examine(self, message: CanMove, tag: int) -> None:
        guest = self._guests.find(message.body)
        if guest is None or not guest.pid:
            self._link.reply(tag, Reasons([b"not_running"], [b"it does not run here"]))
            return

        def refuse(text: str) -> None:
            self._link.reply(tag, Reasons([b"orphans"], [text.encode()]))

        self._gather(guest, lambda pids, _: self._look(guest, pids, tag), refuse)

    def _look(self, guest: Guest, pids: list[int], tag: int) -> None:
        from stubs.node.moving import worker

        outside = self._outside(guest)
        told: list[Reasons] = []

        def answer(_: str) -> None:
            nobody = Reasons([b"unknown"], [b"it could not be looked into"])
            self._link.reply(tag, told[0] if told else nobody)

        def reasons(message: Reasons, _: int, __: list[int]) -> None:
            told.append(message)
            looking.close()
            answer("")

        try:
            looking = Worker(
                self._loop,
                self._capsule.init_pid,
                lambda sock, image: worker.examine(sock, pids, outside),
                {Reasons: reasons},
                answer,
            )
        except OSError:
            answer("")
