"""Moving: what the agent does with home's messages about bodies that leave or arrive."""

from __future__ import annotations

import errno

from stubs.node.moving.arriving import Arrivals
from stubs.node.moving.leaving import Departures
from stubs.wire.messages import Depart, Done, Error, ImageTaken, Resume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.link.endpoint import Handler, Link
    from stubs.link.loop import Loop
    from stubs.node.capsule.capsule import Capsule
    from stubs.node.guests import Guests
    from stubs.node.streams.streams import Streams
    from stubs.node.view.view import View
    from stubs.wire.codec import Message


class Moving:
    """Departures and arrivals."""

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
        self._link = link
        self._guests = guests
        self._departures = Departures(loop, link, view, streams, capsule, guests)
        self._arrivals = Arrivals(loop, link, view, capsule, guests)
        guests.on_kill = self._kill

    def handlers(self) -> dict[type[Message], Handler]:
        """Return what the node does with these messages."""
        return {
            **self._departures.handlers(),
            **self._arrivals.handlers(),
            ImageTaken: lambda message, tag, fds: self._departures.taken(message),
            Resume: lambda message, tag, fds: self._resume(message, tag),
            Depart: lambda message, tag, fds: self._depart(message, tag),
        }

    def close(self) -> None:
        """Let go of all workers."""
        self._departures.close()
        self._arrivals.close()

    def _resume(self, message: Resume, tag: int) -> None:
        if self._arrivals.holds(message.body):
            self._arrivals.resume(message, tag)
        elif self._departures.holds(message.body):
            self._departures.resume(message, tag)
        else:
            guest = self._guests.find(message.body)
            if guest is None or guest.arriving:
                self._link.reply(tag, Error(errno.ESRCH, b"it has been killed"))
            else:
                self._link.reply(tag, Done())  # of what it is now home hears

    def _depart(self, message: Depart, tag: int) -> None:
        guest = self._guests.find(message.body)
        if self._departures.holds(message.body):
            self._departures.depart(message, tag)
        elif guest is not None:
            self._guests.remove(guest, lambda: self._link.reply(tag, Done()))
        else:
            self._link.reply(tag, Done())

    def _kill(self, body: int) -> bool:
        if self._arrivals.holds(body):
            self._arrivals.kill(body)
            return True
        self._departures.kill(body)
        return False
