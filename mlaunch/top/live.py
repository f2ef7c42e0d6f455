"""The dashboard on a terminal: one loop over the daemon's answers, keys and signals.

All signals that end, stop or resize us come through the loop, so that no handler interrupts a
frame half written, and the terminal is given back before they do what they do.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from mlaunch.top.feed import Feed
from mlaunch.top.keys import ESCAPE_S, Keys
from mlaunch.top.model import Model
from mlaunch.top.once import print_frame
from mlaunch.top.screen import Screen
from mlaunch.top.terminal import Terminal
from stubs.abi.signalfd import read_signals, signalfd
from stubs.link.loop import READ, Loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Timer

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SIGNALS = (*_ENDS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class Live:
    """The dashboard on a terminal, until the user leaves it or a signal ends us."""

    def __init__(self, terminal: Terminal, delay_s: float) -> None:
        """Look at the daemon every `delay_s`."""
        self._terminal = terminal
        self._loop = Loop()
        self._keys = Keys()
        self._escape: Timer | None = None
        self._model = Model()
        self._feed: Feed | None = None
        self._screen = Screen(self._model, self._loop.stop, self._explain, self._migrate)
        self._ended_by = 0
        self._delay_s = delay_s

    def run(self) -> int:
        """Return 0 when the user has left, or the signal that is to end us."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        signals = signalfd(_SIGNALS)
        try:
            self._loop.watch(signals, READ, lambda _: self._take_signals(signals))
            with self._terminal:
                self._loop.watch(self._terminal.source, READ, lambda _: self._read_keys())
                self._feed = Feed(self._loop, self._model, self._delay_s, self._refresh)
                self._loop.run()
                self._feed.close()
        finally:
            self._loop.close()
            os.close(signals)
            # One that is still pending is delivered now, when the terminal is as it was.
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._ended_by

    def _refresh(self) -> None:
        self._screen.refresh()
        self._loop.at_turn_end(self._paint)

    def _explain(self, pid: int, then: Callable[[dict[str, Any]], None]) -> None:
        if self._feed is not None:
            self._feed.explain(pid, then)

    def _migrate(self, pid: int, node: str, then: Callable[[str], None]) -> None:
        def said(text: str) -> None:
            then(text)
            self._loop.at_turn_end(self._paint)

        if self._feed is not None:
            self._feed.migrate(pid, node, said)

    def _paint(self) -> None:
        try:
            self._terminal.show(self._screen.lines(*self._terminal.size()))
        except OSError:
            self._loop.stop()  # the terminal has gone, and with it whom we could tell

    # keys

    def _read_keys(self) -> None:
        try:
            data = os.read(self._terminal.source, 4096)
        except OSError:
            data = b""
        if not data:
            self._loop.stop()  # the terminal has gone
            return
        self._press(self._keys.feed(data))
        if self._escape is not None:
            self._escape.cancel()
        if self._keys.waiting:
            self._escape = self._loop.call_later(ESCAPE_S, lambda: self._press(self._keys.settle()))

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            if key == "Ctrl-L":
                self._terminal.forget()
            else:
                self._screen.key(key)
        self._loop.at_turn_end(self._paint)

    # signals

    def _take_signals(self, fd: int) -> None:
        numbers = {info.ssi_signo for info in read_signals(fd)}
        ends = [number for number in _ENDS if number in numbers]
        if ends:
            self._end(ends[0])
        elif signal.SIGTSTP in numbers:
            self._suspend(fd)
        elif numbers & {signal.SIGCONT, signal.SIGWINCH}:
            if signal.SIGCONT in numbers:
                self._terminal.enter()
            self._terminal.forget()
            self._loop.at_turn_end(self._paint)

    def _end(self, number: int) -> None:
        self._ended_by = number
        self._loop.stop()

    def _suspend(self, fd: int) -> None:
        """Give the terminal back, stop as anybody would, and take it again when it is ours."""
        self._terminal.leave()
        while True:
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTSTP,))  # here we stand still
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTSTP,))
            numbers = {info.ssi_signo for info in read_signals(fd)}
            ends = [number for number in _ENDS if number in numbers]
            if ends:
                self._end(ends[0])
                return
            # Without SIGCONT we were not stopped: there is no shell that would continue us.
            if self._terminal.is_foreground or signal.SIGCONT not in numbers:
                break
        self._terminal.enter()
        self._loop.at_turn_end(self._paint)


def run(delay_s: float) -> None:
    """Show the dashboard, on a terminal until the user leaves it, else one frame of plain text.

    Raises KeyboardInterrupt after Ctrl-C; LaunchError when a frame cannot be had.
    """
    source, target = sys.stdin.fileno(), sys.stdout.fileno()
    usable = os.environ.get("TERM", "dumb") not in ("", "dumb")
    if not (usable and os.isatty(source) and os.isatty(target)):
        print_frame(delay_s)
        return
    terminal = Terminal(source, target, sys.stdout.encoding, not os.environ.get("NO_COLOR"))
    if not terminal.is_foreground:
        os.kill(os.getpid(), signal.SIGTTOU)  # as any program that wants the terminal of others
    number = Live(terminal, delay_s).run()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
