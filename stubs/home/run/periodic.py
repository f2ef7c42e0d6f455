"""Checkpoints of the program that mrun was started for, every so often: --checkpoint-every.

Each replaces the one before. Where there is none to be had (the program runs at home, or has
something that a file cannot hold) the next one is tried for as if it were the first.
"""

from __future__ import annotations

import os

from stubs.home.run.errors import MrunError, say
from stubs.link import runtime
from stubs.wire.messages import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Loop
    from stubs.wire.codec import Message

    # Gets a pid, a path, whether much may be sent while it runs, and whom to answer.
    Take = Callable[[int, str, bool, Callable[[Message], None]], None]


class Periodic:
    """The checkpoints of one program."""

    def __init__(self, loop: Loop, pid: int, seconds: float, take: Take, verbose: bool) -> None:
        """Begin; MrunError when there is no place for them. `take` makes one."""
        self._loop = loop
        self._pid = pid
        self._seconds = seconds
        self._take = take
        self._verbose = verbose
        self._told = ""
        directory = os.path.join(runtime.state_dir(), "checkpoints")
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
        except OSError as error:
            raise MrunError(f"{directory}: {error.strerror}") from error
        self.path = os.path.join(directory, str(pid))
        self._over = False
        self._wait()

    def _wait(self) -> None:
        self._loop.call_later(self._seconds, self._begin)

    def _begin(self) -> None:
        if not self._over:
            self._take(self._pid, self.path, True, self._made)

    def _made(self, reply: Message) -> None:
        if isinstance(reply, Error) and not self._over:
            text = reply.text.decode(errors="replace")
            # The same reason every minute is worth one line.
            if self._verbose and text != self._told:
                say(f"no checkpoint: {text}")
            self._told = text
        if self._over:
            self.remove()
        else:
            self._wait()

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return os.path.exists(self.path)

    def remove(self) -> None:
        """Leave none: the program has ended."""
        self._over = True
        try:
            os.unlink(self.path)
        except OSError:
            return  # there was none
