"""What is on the screen and what the keys do; knows neither terminal nor daemon.

The chosen row is a pid, not a place: rows change places all the time, and a signal must go to what
the user saw. Before a key has chosen one, the first row is.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from mlaunch.top import frame, pages, styles
from mlaunch.top.lines import Line, fit, line
from mlaunch.top.order import KEYS, Order, Row, arrange
from mlaunch.top.prompt import Choice, Prompt
from mlaunch.top.signalling import parse_signal, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.top.model import Child, Model

MESSAGE_S = 4.0
_SHIFT = 8  # cells that a Left or Right moves the commands


class Screen:
    """The state between keys and frames."""

    def __init__(
        self,
        model: Model,
        quit: Callable[[], None],
        explain: Callable[[int, Callable[[dict[str, Any]], None]], None],
        migrate: Callable[[int, str, Callable[[str], None]], None],
    ) -> None:
        """Show `model`; `quit` is called when the user has had enough.

        `explain` asks the daemon why the program of a pid runs where it does, and calls with the
        answer when it comes; `migrate` has the program of a pid moved to a node, home or auto, and
        calls with what became of it.
        """
        self._model = model
        self._quit = quit
        self._explain = explain
        self._move_to = migrate
        self._why: dict[str, Any] | None = None  # of the child whose details are shown
        self.order = Order()
        self._chosen: int | None = None  # a pid
        self._place = 0  # of the chosen row, when it was last seen
        self._first = 0  # the first visible row
        self._page_rows = 1
        self._shift = 0
        self._prompt: Prompt | Choice | None = None
        self._help = False
        self._details: Child | None = None
        self._offset = 0  # of help or details
        self._message = ""
        self._message_until = 0.0
        self._rows: list[Row] = []
        self.refresh()

    # frames

    def refresh(self) -> None:
        """Arrange the rows anew: the model or the order is another."""
        self._rows = arrange(self._model, self.order)
        places = {row.pid: place for place, row in enumerate(self._rows)}
        if self._chosen is not None:
            # One that has ended leaves the choice to its successor in that place.
            self._place = places.get(self._chosen, min(self._place, len(self._rows) - 1))
            if self._place >= 0:
                self._chosen = self._rows[self._place].pid
        self._place = max(0, self._place)
        if self._details is not None:
            self._details = self._model.children.get(self._details.pid, self._details)

    def lines(self, width: int, height: int) -> list[Line]:
        """Return exactly `height` lines of `width` cells."""
        body = self._page(width, height) if self._help or self._details else None
        if body is None:
            body = self._table(width, height)
        return [*body[: height - 1], self._last_line(width)]

    def _table(self, width: int, height: int) -> list[Line]:
        part = frame.shares(height, len(self._model.nodes))
        self._page_rows = max(1, part.table - 1)
        last_first = max(0, len(self._rows) - self._page_rows)
        self._first = min(self._first, self._place, last_first)
        self._first = max(self._first, self._place - self._page_rows + 1)
        view = frame.View(self._rows, self.order, self._place, self._first, self._shift)
        return frame.main_frame(self._model, view, width, height)

    def _page(self, width: int, height: int) -> list[Line]:
        if self._help or self._details is None:
            title, body = " HELP (q: back)", pages.help_lines(width)
        else:
            ended = self._model.children.get(self._details.pid) is not self._details
            body = pages.detail_lines(self._model, self._details, self._why, ended, width)
            title = " DETAILS (q: back)"
        self._page_rows = max(1, height - 2)
        self._offset = max(0, min(self._offset, len(body) - self._page_rows))
        return pages.page(title, body, self._offset, width, height - 1)

    def _last_line(self, width: int) -> Line:
        if self._prompt is not None:
            return self._prompt.line(width)
        if self._message and time.monotonic() < self._message_until:
            return fit(line((f" {self._message}", styles.WARNING)), width)
        return frame.key_bar(self.order, width, self._help or self._details is not None)

    def _say(self, message: str) -> None:
        self._message, self._message_until = message, time.monotonic() + MESSAGE_S

    # keys

    def key(self, key: str) -> None:
        """Do what a key does."""
        if self._prompt is not None:
            prompt = self._prompt
            # The end of one may be the beginning of another.
            if prompt.key(key) and self._prompt is prompt:
                self._prompt = None
        elif self._help or self._details is not None:
            self._page_key(key)
        elif key in _MOVES:
            self._move(key)
        elif key in _ACTIONS:
            _ACTIONS[key](self)

    def _page_key(self, key: str) -> None:
        if key in ("q", "Escape", "Enter", "F1", "?", "h", "F10"):
            if self._help:
                self._help = False
            else:
                self._details = None
            self._offset = 0
        elif key in ("k", "F9", "f", "m", "F8") and not self._help:
            _ACTIONS[key](self)
        elif key in _MOVES:
            self._offset = max(0, self._offset + _MOVES[key](self._page_rows, 1 << 20))

    def _move(self, key: str) -> None:
        place = self._place + _MOVES[key](self._page_rows, len(self._rows))
        self._place = max(0, min(place, len(self._rows) - 1))
        if self._rows:
            self._chosen = self._rows[self._place].pid

    def _sort(self, column: str) -> None:
        self.order.column, self.order.inverted = column, False
        self.refresh()

    def _choose_column(self) -> None:
        self._prompt = Choice("Sort by", list(KEYS), self.order.column, self._sort)

    def _invert(self) -> None:
        self.order.inverted = not self.order.inverted
        self.refresh()

    def _toggle_tree(self) -> None:
        self.order.tree = not self.order.tree
        self.refresh()

    def _set_filter(self, text: str) -> None:
        self.order.filter = text
        self.refresh()

    def _ask_filter(self) -> None:
        self._prompt = Prompt(
            "Filter (Enter: keep, Esc: clear)",
            self.order.filter,
            self._set_filter,
            self._set_filter,
            lambda: self._set_filter(""),
        )

    def _slide(self, cells: int) -> None:
        self._shift = max(0, self._shift + cells)

    def _show_help(self) -> None:
        self._help, self._offset = True, 0

    def _show_details(self) -> None:
        row = self._target()
        if row is None:
            self._say("there is no child")
        elif row.child is None:
            self._say(f"{row.pid} is an mrun: details are of its children")
        else:
            self._details, self._offset, self._why = row.child, 0, None
            self._explain(row.pid, self._take_why)

    def _take_why(self, answer: dict[str, Any]) -> None:
        if self._details is not None and answer["pid"] == self._details.pid:
            self._why = answer

    def _target(self) -> Row | None:
        """Return the row that an action is about."""
        if self._details is not None:
            return Row(self._details.pid, self._details)
        return self._rows[self._place] if self._rows else None

    def _ask_signal(self) -> None:
        row = self._target()
        if row is None:
            self._say("there is no child to send a signal to")
            return
        # From here on it is about what was chosen now, whatever happens to the table.
        self._prompt = Prompt(
            f"Signal for {row.pid} ({_name(row)}), number or name",
            "15",
            lambda text: self._signal(row, text),
        )

    def _signal(self, row: Row, text: str) -> None:
        number = parse_signal(text)
        if number is None:
            self._say(f"there is no signal {text!r}")
        else:
            self._send(row, number)

    def _freeze(self) -> None:
        row = self._target()
        if row is None:
            self._say("there is no child to freeze")
        else:
            stopped = row.child is not None and row.child.state == "stopped"
            self._send(row, parse_signal("CONT" if stopped else "STOP") or 0)

    def _send(self, row: Row, number: int) -> None:
        """Send a signal unless the pid is by now that of another process."""
        now = self._model.children.get(row.pid)
        started = row.child.told["started"] if row.child is not None else None
        if row.child is not None and (now is None or now.told["started"] != started):
            self._say(f"{row.pid} has ended")
        else:
            if number == signal.SIGCONT and row.child is not None and row.child.told["top"]:
                # An mrun stops with its program, and then hands on nothing.
                send(row.child.mrun, number)
            self._say(send(row.pid, number))

    def _migrate(self) -> None:
        row = self._target()
        if row is None:
            self._say("there is no child to migrate")
            return
        here = row.child.node if row.child is not None else ""
        names = [node.name for node in self._model.nodes if node.name not in (here, "local")]
        words = ["auto", *names]
        self._prompt = Choice(
            f"Migrate {row.pid} ({_name(row)}) to",
            words,
            "auto",
            lambda word: self._begin(row, word),
        )

    def _begin(self, row: Row, node: str) -> None:
        self._say(f"{row.pid} is on its way")
        self._move_to(row.pid, node, self._say)

    def _leave(self) -> None:
        self._quit()


def _name(row: Row) -> str:
    command = row.child.command if row.child is not None else "mrun"
    return command.partition(" ")[0][:20]


# By how many rows a key moves, of a page and of all.
_MOVES: dict[str, Callable[[int, int], int]] = {
    "Up": lambda page, all: -1,
    "Down": lambda page, all: 1,
    "PageUp": lambda page, all: -page,
    "PageDown": lambda page, all: page,
    "Home": lambda page, all: -all,
    "End": lambda page, all: all,
}

_ACTIONS: dict[str, Callable[[Screen], None]] = {
    **dict.fromkeys(("q", "F10"), Screen._leave),
    **dict.fromkeys(("?", "h", "F1"), Screen._show_help),
    **dict.fromkeys(("/", "F4"), Screen._ask_filter),
    **dict.fromkeys(("t", "F5"), Screen._toggle_tree),
    **dict.fromkeys((">", "<", "F6"), Screen._choose_column),
    **dict.fromkeys(("k", "F9"), Screen._ask_signal),
    **dict.fromkeys(("m", "F8"), Screen._migrate),
    "f": Screen._freeze,
    "I": Screen._invert,
    "Enter": Screen._show_details,
    "P": lambda screen: screen._sort("cpu%"),
    "M": lambda screen: screen._sort("mem"),
    "T": lambda screen: screen._sort("time"),
    "N": lambda screen: screen._sort("pid"),
    "Left": lambda screen: screen._slide(-_SHIFT),
    "Right": lambda screen: screen._slide(_SHIFT),
}
