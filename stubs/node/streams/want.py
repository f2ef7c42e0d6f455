"""Want: one inlet's knowledge of whether a body waits to read from it, kept up at home.

The ghost above the readers is asked (stubs.node.streams.demand); what it answers goes to home as
StreamWant. While bytes that home sent are still unread nobody is asked: who is seen waiting then
may just not have been woken yet, and home would be asked for more than the body has read.
"""

from __future__ import annotations

from stubs.wire.messages import StreamWant, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.endpoint import Endpoint, Link
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

# How soon what home sent is looked for in the pipe again, each time twice as long.
FIRST_SECONDS = 0.0005
LAST_SECONDS = 0.020


class Want:
    """Asks whether somebody waits, from when it is told a ghost until `stop`."""

    def __init__(
        self, loop: Loop, link: Link, stream: int, name: bytes, unread: Callable[[], int]
    ) -> None:
        """`name` is what readers have in /proc/PID/fd; `unread` counts what they have not taken."""
        self._loop = loop
        self._link = link
        self._stream = stream
        self._name = name
        self._unread = unread
        self._ghost: Endpoint | None = None
        self._question = 0  # answers to an earlier one mean nothing any more
        self._patience = FIRST_SECONDS

    def ask(self, ghost: Endpoint) -> None:
        """Have `ghost` look among what descends from it."""
        self._forget()
        self._ghost = ghost
        self._watch(0)

    def fed(self) -> None:
        """Note that bytes are on their way to the readers."""
        self._forget()
        self._patience = FIRST_SECONDS
        self._check_later(self._question)

    def stop(self) -> None:
        """Ask no more."""
        self._forget()
        self._ghost = None

    def _watch(self, known: int) -> None:
        if self._ghost is None:
            return
        self._question += 1
        question = self._question
        self._ghost.request(
            Watch(self._stream, known, self._name), lambda answer: self._told(question, answer)
        )

    def _told(self, question: int, answer: Message) -> None:
        if question == self._question and isinstance(answer, StreamWant):
            self._link.post(StreamWant(self._stream, answer.bytes))
            self._watch(answer.bytes)

    def _forget(self) -> None:
        """Take back the question that is open; its answer may be on its way already."""
        self._question += 1
        if self._ghost is not None:
            self._ghost.request(Watch(self._stream, 0, b""), lambda _: None)

    def _check_later(self, question: int) -> None:
        self._loop.call_later(self._patience, lambda: self._check(question))
        self._patience = min(2 * self._patience, LAST_SECONDS)

    def _check(self, question: int) -> None:
        if question != self._question or self._ghost is None:
            return
        if self._unread():
            self._check_later(question)
        else:
            self._watch(0)
