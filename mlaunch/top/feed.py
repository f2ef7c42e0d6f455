"""Asks the home daemon again and again, over one connection; never starts a daemon.

A connection that only watches does not keep the daemon from ending. When it has ended, another one
is looked for at the same pace.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mlaunch.commands.migrate import said
from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.messages import Answer, Query
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.top.model import Model
    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

NO_DAEMON = "the home daemon does not run; the next mrun starts it"

# Of a command line, words that a row may have room for: a compiler's may have hundreds.
WORDS = 40

# After which a daemon that does not answer is called so.
SILENCE_S = 3.0


class Feed:
    """Keeps a model up to date; calls `changed` after each answer or failure."""

    def __init__(
        self, loop: Loop, model: Model, period_s: float, changed: Callable[[], None]
    ) -> None:
        """Ask at once, and then every `period_s`."""
        self._loop = loop
        self._model = model
        self._period_s = period_s
        self._changed = changed
        self._daemon: Endpoint | None = None
        self._asked_at: float | None = None
        self._tick()

    def close(self) -> None:
        """Let go of the daemon."""
        if self._daemon is not None:
            self._daemon.close("the dashboard ends")

    def _tick(self) -> None:
        self._loop.call_later(self._period_s, self._tick)
        if self._asked_at is not None:
            # It has something else to do: not a question more than it answers.
            silence = time.monotonic() - self._asked_at
            if silence > SILENCE_S:
                self._fail(f"the home daemon has not answered for {silence:.0f} s")
            return
        if self._daemon is None and not self._connect():
            return
        self._ask()

    def _connect(self) -> bool:
        try:
            connection = runtime.try_connect()
        except OSError as error:
            self._fail(f"{error.filename or runtime.socket_path()}: {error.strerror or error}")
            return False
        if connection is None:
            self._fail(NO_DAEMON)
            return False
        stream = SocketStream(connection)
        self._daemon = Endpoint(self._loop, stream, {}, self._lost, "the home daemon")
        return True

    def _ask(self) -> None:
        assert self._daemon is not None
        self._asked_at = time.monotonic()
        question = {"do": "observe", "events_since": self._model.last_event, "words": WORDS}
        self._daemon.request(Query(VERSION, json.dumps(question).encode()), self._answered)

    def explain(self, pid: int, then: Callable[[dict[str, Any]], None]) -> None:
        """Ask why a program runs where it does; call `then` with the answer if there is one."""
        if self._daemon is None:
            return

        def answered(message: Message) -> None:
            answer = json.loads(message.text) if isinstance(message, Answer) else {"error": ""}
            if "error" not in answer:
                then(answer)

        question = {"do": "why", "pid": pid}
        self._daemon.request(Query(VERSION, json.dumps(question).encode()), answered)

    def migrate(self, pid: int, node: str, then: Callable[[str], None]) -> None:
        """Have a program moved; call `then` with what became of it, in words."""
        if self._daemon is None:
            return

        def answered(message: Message) -> None:
            text = NO_DAEMON
            if isinstance(message, Answer):
                answer = json.loads(message.text)
                text = answer["error"] if "error" in answer else said(answer["outcomes"][0])
            then(text)

        question = {"do": "migrate", "pid": pid, "node": node}
        self._daemon.request(Query(VERSION, json.dumps(question).encode()), answered)

    def _answered(self, message: Message) -> None:
        self._asked_at = None
        if not isinstance(message, Answer):
            return  # the connection is lost, which is told to `_lost`
        answer = json.loads(message.text)
        if "error" in answer:
            self._fail(f"the home daemon says: {answer['error']}")
            return
        self._model.take(answer)
        self._changed()

    def _lost(self, reason: str) -> None:
        self._daemon = None
        self._asked_at = None
        self._fail(NO_DAEMON)

    def _fail(self, problem: str) -> None:
        self._model.lose(problem)
        self._changed()
