"""One frame as plain text, for pipes and for terminals without cursor control."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from mlaunch import client
from mlaunch.top.feed import NO_DAEMON, WORDS
from mlaunch.top.frame import event_lines, problem_frame, title, totals
from mlaunch.top.lines import plain
from mlaunch.top.model import Model
from mlaunch.top.nodepanel import node_lines
from mlaunch.top.order import Order, arrange
from mlaunch.top.table import heading, layout, row_line

if TYPE_CHECKING:
    from mlaunch.top.lines import Line

# Wide enough for the whole lines of most commands; COLUMNS overrides it.
_WIDTH = 132
_MOST_EVENTS = 10


def print_frame(delay_s: float) -> None:
    """Print all there is, once, as plain text; it takes `delay_s` to see how fast things go."""
    model = Model()
    for turn in range(2):
        if turn and not model.problem:
            time.sleep(delay_s)
        question = {"do": "observe", "events_since": model.last_event, "words": WORDS}
        answer = client.ask_if_running(question)
        if answer is None:
            model.lose(NO_DAEMON)
            break
        model.take(answer)
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    for item in whole_frame(model, width):
        print(plain(item))


def whole_frame(model: Model, width: int) -> list[Line]:
    """Return all lines of a frame that is as long as it has to be."""
    if model.problem:
        return problem_frame(model, width, 4)
    order = Order()
    columns = layout(width, [node.name for node in model.nodes])
    rows = [row_line(row, columns, 0, False) for row in arrange(model, order)]
    return [
        title(model, width),
        *node_lines(model.nodes, width, len(model.nodes) + 1),
        totals(model, width),
        heading(columns, order),
        *rows,
        *event_lines(model, width, min(len(model.events), _MOST_EVENTS) + 1),
    ]
