import pytest

from mlaunch.columns import Column, clock, lines, printable, size
from mlaunch.commands.why import rejected


def test_numbers_stand_at_the_right_and_nothing_trails() -> None:
    columns = (Column("PID", True), Column("NODE"), Column("COMMAND"))
    rows = [["7", "n1", "x"], ["12345", "far-away", "a long command"]]
    assert lines(columns, rows, None) == [
        "  PID NODE     COMMAND",
        "    7 n1       x",
        "12345 far-away a long command",
    ]
    assert lines(columns, rows, 18)[2] == "12345 far-away a l"


def test_a_table_of_nothing_is_its_heading() -> None:
    assert lines((Column("PID", True), Column("NODE")), [], None) == ["PID NODE"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (7.9, "0:07"), (754, "12:34"), (3723, "1:02:03"), (183845, "2-03:04:05")],
)
def test_times_are_shown_as_ps_does(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1023, "1.0K"), (87_000, "85K"), (1 << 20, "1.0M"), (3 << 40, "3.0T")],
)
def test_sizes_are_short(count: int, shown: str) -> None:
    assert size(count) == shown


def test_no_command_line_makes_two_lines_or_commands_a_terminal() -> None:
    assert printable("a\nb\x1b[2Jc\u202ed") == "a?b?[2Jc?d"


def test_who_is_rejected_is_counted_by_reason() -> None:
    groups = [
        {"reason": "no /dev/fuse", "nodes": ["n3", "n4"]},
        {"reason": "short of memory", "nodes": ["n5"]},
        {"reason": "still connecting", "nodes": ["a", "b", "c", "d"]},
    ]
    assert rejected(groups) == (
        "2 nodes: no /dev/fuse (n3, n4); 1: short of memory (n5); 4: still connecting (a, b, c, …)"
    )
