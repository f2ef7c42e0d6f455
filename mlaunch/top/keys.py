"""Keys by name, from the bytes that a terminal sends for them.

A key that prints is its own name ("q", "/", "é"); the others are named: Enter, Escape, Up, F5,
PageDown, Ctrl-L. What a terminal may send besides (Alt with a key, answers to questions of another
program) is passed over as a whole, lest its letters be taken for keys.
"""

from __future__ import annotations

import codecs
import re

# How long the rest of an escape sequence may take: with no rest in that time it was the key Escape.
ESCAPE_S = 0.05

# ECMA-48: CSI, parameters, intermediates, a final byte; or SS3 and one byte. The Linux console
# sends its first five function keys as "[[A" to "[[E".
_SEQUENCE = re.compile(r"\x1b(?:\[\[[A-E]|\[[0-?]*[ -/]*[@-Z\\-~]|O[ -~])")
_UNFINISHED = re.compile(r"\x1b(?:\[\[?[0-?]*[ -/]*|O)?\Z")

_FINAL = {"A": "Up", "B": "Down", "C": "Right", "D": "Left", "H": "Home", "F": "End"}
_FUNCTION = {"P": "F1", "Q": "F2", "R": "F3", "S": "F4"}
_NUMBERED = {
    1: "Home", 2: "Insert", 3: "Delete", 4: "End", 5: "PageUp", 6: "PageDown", 7: "Home", 8: "End",
    11: "F1", 12: "F2", 13: "F3", 14: "F4", 15: "F5", 17: "F6", 18: "F7", 19: "F8", 20: "F9",
    21: "F10", 23: "F11", 24: "F12",
}  # fmt: skip
_CONTROL = {"\r": "Enter", "\n": "Enter", "\t": "Tab", "\x7f": "Backspace", "\b": "Backspace"}


class Keys:
    """Takes bytes as they come, in pieces of any size, and gives back the keys they complete."""

    def __init__(self) -> None:
        """Have seen nothing."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""

    @property
    def waiting(self) -> bool:
        """Whether an Escape has come that may be the beginning of more."""
        return bool(self._text)

    def feed(self, data: bytes) -> list[str]:
        """Return the names of the keys that are complete now."""
        self._text += self._decoder.decode(data)
        found: list[str] = []
        while self._text:
            key, length = self._next()
            if not length:
                break
            self._text = self._text[length:]
            if key:
                found.append(key)
        return found

    def settle(self) -> list[str]:
        """Return what is there when nothing more has come for ESCAPE_S."""
        text, self._text = self._text, ""
        return ["Escape"] if text == "\x1b" else []

    def _next(self) -> tuple[str, int]:
        """Return the first key ("" if it has no name) and its length, 0 while it has no end."""
        text = self._text
        if text[0] != "\x1b":
            return _plain(text[0]), 1
        sequence = _SEQUENCE.match(text)
        if sequence is not None:
            return _named(sequence.group()), sequence.end()
        if _UNFINISHED.match(text):
            return "", 0
        # Escape, and at once another key: twice Escape is a key, Alt with a letter is none of ours.
        return ("Escape", 1) if text[1] == "\x1b" else ("", 2)


def _plain(letter: str) -> str:
    if letter in _CONTROL:
        return _CONTROL[letter]
    if letter < " ":
        return f"Ctrl-{chr(ord(letter) + 0x40)}"
    return letter if letter.isprintable() else ""


def _named(sequence: str) -> str:
    """Return the name of an escape sequence, modifiers being passed over; "" if it has none."""
    final = sequence[-1]
    if sequence.startswith("\x1b[["):
        return f"F{ord(final) - ord('A') + 1}"
    if final == "~":
        first = sequence[2:-1].split(";")[0]
        return _NUMBERED.get(int(first), "") if first.isdigit() else ""
    # ESC [ 24 ; 80 R is no F3: it says where the cursor is.
    modified = sequence[2:-1].startswith("1;") or not sequence[2:-1]
    return _FINAL.get(final) or (_FUNCTION.get(final, "") if modified else "")
