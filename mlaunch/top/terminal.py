"""The user's terminal while we have it: modes, alternate screen, cursor; what is drawn on it.

Ctrl-C and Ctrl-Z stay signals (ISIG is on). `enter` and `leave` are a pair that may be repeated:
between stops the terminal is as it was. A line that has not changed is not written again.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
from typing import TYPE_CHECKING, Any

from mlaunch.top.lines import Line, ansi, encoded

if TYPE_CHECKING:
    from types import TracebackType

# xterm's control sequences. Without autowrap a glyph that the terminal takes for wider than we do
# cannot push the rest of the screen down.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[0m\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"


class Terminal:
    """A terminal that is open as `source` and `target`."""

    def __init__(self, source: int, target: int, encoding: str, colors: bool) -> None:
        """Leave it as it is until `enter`."""
        self.source = source
        self._target = target
        self._encoding = encoding
        self._colors = colors
        self._before: list[Any] | None = None  # modes, while we have the terminal
        self._shown: list[Line] = []

    def __enter__(self) -> Terminal:
        """Take the terminal."""
        try:
            self.enter()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back, whatever has happened."""
        self.leave()

    @property
    def is_foreground(self) -> bool:
        """Whether the terminal is ours at this moment, and not another job's."""
        try:
            return os.tcgetpgrp(self.source) == os.getpgrp()
        except OSError:
            return True  # of another session, or gone: nobody stops us

    def enter(self) -> None:
        """Take the terminal; again after somebody else may have had it."""
        modes = termios.tcgetattr(self.source)
        if self._before is None:
            self._before = [*modes[:6], list(modes[6])]
        modes[0] &= ~termios.IXON
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.source, termios.TCSADRAIN, modes)
        self._write(_ENTER)
        self._shown = []

    def leave(self) -> None:
        """Give the terminal back as it was; harmless if it is not ours or has gone."""
        if self._before is None:
            return
        before, self._before = self._before, None
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        # What was typed for us is not for the shell.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.source, termios.TCSAFLUSH, before)

    def size(self) -> tuple[int, int]:
        """Return columns and lines, each at least 1."""
        size = os.get_terminal_size(self._target)
        return max(1, size.columns or 80), max(1, size.lines or 24)

    def forget(self) -> None:
        """Draw all of the next frame: nobody knows what is on the screen."""
        self._shown = []

    def show(self, lines: list[Line]) -> None:
        """Draw a frame; OSError as write(2)."""
        out = [] if self._shown else ["\x1b[2J"]
        for place, line in enumerate(lines):
            if place >= len(self._shown) or self._shown[place] != line:
                out.append(f"\x1b[{place + 1};1H{ansi(line, self._colors)}")
        self._shown = lines
        if out:
            self._write("".join(out))

    def _write(self, text: str) -> None:
        data = encoded(text, self._encoding)
        while data:
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:
                # Another program has left O_NONBLOCK on the open file that we share.
                select.select([], [self._target], [])
