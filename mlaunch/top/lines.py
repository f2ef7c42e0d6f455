"""Lines of a frame: segments of styled text, as wide as the terminal.

Rich measures, styles and cuts; it lays nothing out: a rich Table for fifty children takes twenty
times as long as the few lines of text that it becomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.style import Style

    # Text, or text with its style.
    Part = tuple[str, Style | None] | str

Line = list[Segment]

_ELLIPSIS = "…"
# For terminals whose character set has none of these.
_ASCII = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|", _ELLIPSIS: "~"})


def cells(text: str, width: int, right: bool = False) -> str:
    """Return text as exactly `width` cells, cut with an ellipsis or filled with blanks."""
    if width <= 0:
        return ""
    # An ASCII letter is a cell wide: nearly all text here is spared the tables of Unicode.
    taken = len(text) if text.isascii() else cell_len(text)
    if taken > width:
        return set_cell_size(text, width - 1) + _ELLIPSIS
    blanks = " " * (width - taken)
    return blanks + text if right else text + blanks


def line(*parts: Part) -> Line:
    """Return a line of parts; without any it is empty."""
    return [Segment(part) if isinstance(part, str) else Segment(*part) for part in parts if part]


def fit(parts: Line, width: int, style: Style | None = None) -> Line:
    """Return a line as exactly `width` cells; blanks at its end have that style."""
    return Segment.adjust_line_length(parts, width, style)


def fold(text: str, width: int) -> list[str]:
    """Return text in pieces of at most `width` cells, broken anywhere."""
    pieces, piece, taken = [], "", 0
    for letter in text:
        wide = cell_len(letter)
        if taken + wide > width and piece:
            pieces.append(piece)
            piece, taken = "", 0
        piece += letter
        taken += wide
    return [*pieces, piece]


def ansi(parts: Line, colors: bool) -> str:
    """Return a line with the escape sequences for its styles; attributes stay without colours."""
    out = []
    for text, style, _ in parts:
        if style is None:
            out.append(text)
        else:
            shown = style if colors else style.without_color
            out.append(shown.render(text, color_system=ColorSystem.STANDARD))
    return "".join(out)


def plain(parts: Line) -> str:
    """Return a line without styles and without blanks at its end."""
    return "".join(segment.text for segment in parts).rstrip()


def encoded(text: str, encoding: str) -> bytes:
    """Return what a terminal of that character set is sent; what it lacks becomes a likeness."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace")
