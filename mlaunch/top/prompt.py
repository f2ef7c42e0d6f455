"""What is asked on the last line: a text, or one of a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlaunch.top import styles
from mlaunch.top.lines import Line, cells, fit, line

if TYPE_CHECKING:
    from collections.abc import Callable


class Prompt:
    """Asks for a text. Each change is told to `changed`, Enter to `done`, Escape to `cancelled`."""

    def __init__(
        self,
        label: str,
        text: str,
        done: Callable[[str], None],
        changed: Callable[[str], None] | None = None,
        cancelled: Callable[[], None] | None = None,
    ) -> None:
        """Begin with `text` as the answer, which the first letter typed replaces."""
        self._label = label
        self._text = text
        self._fresh = True
        self._done = done
        self._changed = changed
        self._cancelled = cancelled

    def key(self, key: str) -> bool:
        """Take a key; tell whether this was the end."""
        if key == "Enter":
            self._done(self._text)
            return True
        if key == "Escape":
            if self._cancelled is not None:
                self._cancelled()
            return True
        before = self._text
        if key == "Backspace":
            self._text = self._text[:-1]
        elif key == "Ctrl-U":
            self._text = ""
        elif len(key) == 1:
            self._text = ("" if self._fresh else self._text) + key
        self._fresh = False
        if self._text != before and self._changed is not None:
            self._changed(self._text)
        return False

    def line(self, width: int) -> Line:
        """Return the last line of the frame; the end of a long text is what is seen."""
        room = max(1, width - len(self._label) - 3)
        text = self._text if len(self._text) <= room else "…" + self._text[1 - room :]
        return fit(line((f"{self._label}: ", styles.KEY), text, (" ", styles.SELECTED)), width)


class Choice:
    """Asks for one of a few words: arrows, then Enter; Escape leaves all as it was."""

    def __init__(
        self, label: str, words: list[str], chosen: str, done: Callable[[str], None]
    ) -> None:
        """Begin at the word that is chosen now."""
        self._label = label
        self._words = words
        self._at = words.index(chosen)
        self._done = done

    def key(self, key: str) -> bool:
        """Take a key; tell whether this was the end."""
        if key == "Enter":
            self._done(self._words[self._at])
        steps = {"Right": 1, "Down": 1, "Tab": 1, ">": 1, "Left": -1, "Up": -1, "<": -1}
        self._at = (self._at + steps.get(key, 0)) % len(self._words)
        return key in ("Enter", "Escape")

    def line(self, width: int) -> Line:
        """Return the last line of the frame, scrolled so far that the word is seen."""
        parts = line((f"{self._label}: ", styles.KEY))
        first = 0
        while first < self._at and self._end(first) > width - len(self._label) - 2:
            first += 1
        for place in range(first, len(self._words)):
            style = styles.SELECTED if place == self._at else styles.LABEL
            parts += line((cells(f" {self._words[place]} ", len(self._words[place]) + 2), style))
        return fit(parts, width)

    def _end(self, first: int) -> int:
        """Return where the chosen word ends when the first of them is `first`."""
        return sum(len(word) + 2 for word in self._words[first : self._at + 1])
