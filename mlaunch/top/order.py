"""Which rows of the table there are, and in which order: sorting, filter, tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlaunch.top.model import Child, Model, Mrun


def _known(value: float | None) -> float:
    """Sort what is not known yet as less than everything."""
    return -1.0 if value is None else value


# What the table can be sorted by, in the order of its columns.
KEYS: dict[str, Callable[[Child], Any]] = {
    "pid": lambda child: child.pid,
    "node": lambda child: child.node,
    "state": lambda child: child.state,
    "cpu%": lambda child: _known(child.cpu_percent),
    "time": lambda child: _known(child.cpu_s),
    "mem": lambda child: _known(child.rss_bytes),
    "age": lambda child: child.age_s,
    "trips": lambda child: _known(child.round_trips),
    "mig": lambda child: child.migrations,
    "command": lambda child: child.command,
    "why": lambda child: child.why,
}

# Of these the least comes first, of the others the greatest.
_RISING = frozenset({"pid", "node", "state", "command", "why"})


@dataclass
class Order:
    """What the user has chosen."""

    column: str = "cpu%"
    inverted: bool = False
    filter: str = ""
    tree: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a child, or in the tree an mrun; `prefix` is the tree's lines."""

    pid: int
    child: Child | None
    mrun: Mrun | None = None
    prefix: str = ""


def arrange(model: Model, order: Order) -> list[Row]:
    """Return the rows of the table from its first to its last."""
    children = [child for child in model.children.values() if _matches(child, order.filter)]
    # By pid first: children that are equal must not change places from frame to frame.
    children.sort(key=KEYS["pid"])
    falling = (order.column not in _RISING) != order.inverted
    children.sort(key=KEYS[order.column], reverse=falling)
    if not order.tree:
        return [Row(child.pid, child) for child in children]
    return _tree(model, children)


def _matches(child: Child, words: str) -> bool:
    """Tell whether every word of the filter is in what the row says, in any case of letters."""
    text = f"{child.pid} {child.node} {child.state} {child.command}".casefold()
    return all(word in text for word in words.casefold().split())


def _tree(model: Model, children: Iterable[Child]) -> list[Row]:
    """Return each mrun with its children below it, those with the children that they started."""
    shown = {child.pid: child for child in children}
    below: dict[int, list[Child]] = {}
    for child in shown.values():
        below.setdefault(_above(child, shown), []).append(child)
    rows: list[Row] = []
    for pid in sorted(pid for pid in below if pid not in shown):
        # The mrun of a child that has just been told may still be unknown.
        if pid in model.mruns:
            rows.append(Row(pid, None, model.mruns[pid]))
        _add_below(rows, below, pid, "")
    return rows


def _above(child: Child, shown: dict[int, Child]) -> int:
    """Return the row below which a child stands: its parent if that is away as well."""
    parent = shown.get(child.ppid)
    if parent is not None and parent.mrun == child.mrun and parent is not child:
        return parent.pid
    return child.mrun


def _add_below(rows: list[Row], below: dict[int, list[Child]], pid: int, prefix: str) -> None:
    # Taken out: pids that name each other as parents must not go round for ever.
    children = below.pop(pid, [])
    for child in children:
        last = child is children[-1]
        rows.append(Row(child.pid, child, None, prefix + ("└─ " if last else "├─ ")))
        _add_below(rows, below, child.pid, prefix + ("   " if last else "│  "))
