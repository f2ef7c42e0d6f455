"""The home view's way to home: requests that a process on the node waits for, and the rest.

Everything goes out in the order in which it was caused: `before` (the writes that were put off) is
called ahead of each message. While home works on a request, the inodes whose kernel locks the
waiting process may hold are `busy`: nothing that needs those locks may be notified meanwhile
(see stubs.node.view.invalidation).
"""

from __future__ import annotations

import errno

from stubs.node.view.traffic import Traffic
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import NODE_IDS, Error, Forget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from stubs.link.endpoint import Link
    from stubs.node.view.fuse import Device
    from stubs.node.view.inodes import Inodes, Node
    from stubs.wire.codec import Message


def errno_of(reply: Message) -> int:
    """Return the errno for the body in an answer that is not the one asked for."""
    return reply.errno if type(reply) is Error and reply.errno > 0 else errno.EIO


class Uplink:
    """Asks home on behalf of requests of the kernel."""

    def __init__(self, link: Link, device: Device, inodes: Inodes) -> None:
        """Ask over `link`, answer failures to `device`."""
        self.traffic = Traffic(device)
        self.pending: dict[int, Sequence[Node]] = {}  # unanswered requests of the kernel
        self.before: Callable[[], None] = lambda: None
        # Called when home does not know an inode any more.
        self.lost: Callable[[Node], None] = lambda node: None
        # Called ahead of a message about an inode of which home may not know yet.
        self.concerns: Callable[[int], None] = lambda id_: None
        self.no_longer_busy: Callable[[Node], None] = lambda node: None
        self._forgets = 0  # Forgets sent
        self._confirmed = 0  # and of them, surely done
        self._forgotten: dict[int, int] = {}  # id -> with which Forget
        self._link = link
        self._device = device
        self._inodes = inodes

    def request(
        self,
        unique: int,
        message: Message,
        reply: type[Message],
        then: Callable[[Any], None],
        busy: Sequence[Node] = (),
        refused: Callable[[int], None] | None = None,
    ) -> int:
        """Ask; `then` gets a `reply`, an Error answers `unique` (or goes to `refused`).

        Returns the tag. RemoteProtocolError, which closes the link, for any other answer.
        """
        self._prepare(message)
        self.traffic.waits()
        self.wait(unique, busy)

        serial = self._forgets

        def done(answer: Message) -> None:
            self._confirm(serial)
            self.waited(unique)
            if type(answer) is reply:
                then(answer)
            elif type(answer) is not Error:
                raise RemoteProtocolError(f"{type(answer).__name__} answers {message!r}")
            else:
                code = errno_of(answer)
                if code == errno.ESTALE:
                    self._lose(message)
                if refused is not None:
                    refused(code)
                else:
                    self._device.error(unique, code)

        return self._link.request(message, done)

    def _prepare(self, message: Message) -> None:
        id_ = getattr(message, "id", 0)
        if id_ >= NODE_IDS:
            self.concerns(id_)
        self.before()

    def _lose(self, message: Message) -> None:
        node = self._inodes.get(getattr(message, "id", 0) or getattr(message, "dir", 0))
        if node is not None:
            self.lost(node)

    def ask(self, message: Message, done: Callable[[Message], None]) -> None:
        """Ask without anybody waiting; `done` gets whatever is answered."""
        self._prepare(message)
        serial = self._forgets

        def answered(answer: Message) -> None:
            self._confirm(serial)
            done(answer)

        self._link.request(message, answered)

    def forget(self, ids: list[int]) -> None:
        """Tell home that these ids are used no more."""
        self._forgets += 1
        for id_ in ids:
            self._forgotten[id_] = self._forgets
        self.post(Forget(ids))

    def is_dead(self, id_: int) -> bool:
        """Tell whether home, when it sent the message being handled, had yet to forget this id.

        Then it has forgotten it since: to whoever asks next it gives another.
        """
        return self._forgotten.get(id_, 0) > self._confirmed

    def _confirm(self, serial: int) -> None:
        """Note that home has answered something sent after so many Forgets: it has done them."""
        self._confirmed = serial
        if serial == self._forgets:
            self._forgotten.clear()

    def post(self, message: Message) -> None:
        """Tell home something that is not answered."""
        self.before()
        self._link.post(message)

    def wait(self, unique: int, busy: Sequence[Node] = ()) -> None:
        """Note that a request of the kernel is going to be answered later."""
        for node in busy:
            node.busy += 1
        self.pending[unique] = busy

    def waited(self, unique: int) -> None:
        """Note that it is being answered."""
        for node in self.pending.pop(unique, ()):
            node.busy -= 1
            if not node.busy:
                self.no_longer_busy(node)
                self._inodes.release(node)
