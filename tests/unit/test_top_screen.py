"""Frames of `mlaunch top` in every size, and what its keys do to them."""

import os
import re
import select
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len

from mlaunch.top import frame
from mlaunch.top.lines import Line, ansi, cells, encoded, fold, plain
from mlaunch.top.model import Model
from mlaunch.top.once import whole_frame
from mlaunch.top.screen import Screen
from mlaunch.top.terminal import Terminal
from tests.unit.observed import answers, model, why

SIZES = [(80, 24), (200, 50), (79, 10), (40, 12), (20, 5), (10, 3), (3, 2), (1, 1), (500, 200)]


class Shown:
    """A screen of a known model, and whether it has been left."""

    def __init__(self, known: Model) -> None:
        self.model = known
        self.left: list[bool] = []
        self.moves: list[tuple[int, str]] = []
        self.screen = Screen(known, lambda: self.left.append(True), self.explain, self.migrate)

    def explain(self, pid: int, then: Callable[[dict[str, Any]], None]) -> None:
        told = next(body for body in answers()[-1]["bodies"] if body["pid"] == pid)
        then({**why(), "pid": pid, "argv": told["argv"]})

    def migrate(self, pid: int, node: str, then: Callable[[str], None]) -> None:
        self.moves.append((pid, node))
        then(f"moved {pid} to {node}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.screen.key(key)

    def text(self, width: int = 120, height: int = 40) -> str:
        return "\n".join(plain(line) for line in self.screen.lines(width, height))

    def rows(self) -> list[str]:
        """Return the table."""
        lines = self.text().splitlines()
        first = next(place for place, line in enumerate(lines) if "COMMAND" in line)
        last = next(place for place, line in enumerate(lines) if line.startswith(" EVENTS"))
        return [line for line in lines[first + 1 : last] if line]

    def pids(self) -> list[int]:
        return [int(row.split()[0]) for row in self.rows()]


@pytest.fixture
def shown() -> Shown:
    return Shown(model())


def check(lines: list[Line], width: int, height: int) -> None:
    assert len(lines) == height
    assert {sum(cell_len(part.text) for part in line) for line in lines} == {width}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("keys", ["", "t", "?", "k", "/", ">", "Enter"])
def test_a_frame_fills_a_terminal_of_any_size(size: tuple[int, int], keys: str) -> None:
    told = answers()
    told[-1]["bodies"][0]["argv"] = ["漢字かな" * 9, "é" * 200]
    told[-1]["nodes"][0]["name"] = "ノード" * 9
    told[-1]["nodes"] += [{**told[-1]["nodes"][0], "name": f"m{n}"} for n in range(40)]
    shown = Shown(model(*told))
    if keys:
        shown.press(keys)
    check(shown.screen.lines(*size), *size)
    shown.model.lose("gone")
    shown.screen.refresh()
    check(shown.screen.lines(*size), *size)


def test_every_child_and_node_of_the_answer_is_there(shown: Shown) -> None:
    assert sorted(shown.pids()) == sorted(shown.model.children)
    for node in shown.model.nodes:
        assert re.search(rf"^{node.name} ", shown.text(), re.MULTILINE)


def test_sorting_keys_sort(shown: Shown) -> None:
    shown.press("N")
    pids = shown.pids()
    assert pids == sorted(pids)
    shown.press("I")
    assert shown.pids() == pids[::-1]
    shown.press("F6", *["Right"] * 9, "Enter")
    assert shown.screen.order.column == "command"
    assert not shown.screen.order.inverted


def test_a_filter_works_while_it_is_typed(shown: Shown) -> None:
    pid = next(iter(shown.model.children))
    shown.press("/", *str(pid))
    assert shown.pids() == [pid]
    shown.press("Enter")
    assert f"only: {pid}" in shown.text()
    shown.press("F4", "Escape")
    assert len(shown.pids()) == len(shown.model.children)
    shown.press("/", *"zzz")
    assert "no child matches 'zzz'" in shown.text()


def test_keys_of_a_prompt_do_nothing_else(shown: Shown) -> None:
    shown.press("/", "q", "t", "Enter")
    assert not shown.left
    assert not shown.screen.order.tree
    shown.press("q")
    assert shown.left == [True]


def test_the_choice_follows_its_child_and_not_its_place(shown: Shown) -> None:
    shown.press("N", "Down")
    pid = shown.pids()[1]
    shown.press("I", "k")
    assert f"Signal for {pid} " in shown.text()


def test_the_choice_stays_in_its_place_when_its_child_ends() -> None:
    told = answers()
    shown = Shown(model(*told))
    shown.press("N", "Down")
    second, third = shown.pids()[1:3]
    told[-1]["bodies"] = [body for body in told[-1]["bodies"] if body["pid"] != second]
    shown.model.take(told[-1])
    shown.screen.refresh()
    shown.press("k")
    assert f"Signal for {third} " in shown.text()


def _with_child(pid: int, **more: Any) -> Shown:
    told = answers()
    told[-1]["bodies"] = [{**told[-1]["bodies"][0], "pid": pid, **more}]
    return Shown(model(*told))


def test_a_signal_goes_to_the_child(sleeper: int) -> None:
    shown = _with_child(sleeper)
    shown.press("k", *"kill", "Enter")
    assert f"KILL sent to {sleeper}" in shown.text()
    assert os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1]) == -9


def test_no_signal_goes_to_a_child_that_has_ended(sleeper: int) -> None:
    shown = _with_child(sleeper)
    shown.press("k")
    shown.model.take({**answers()[-1], "bodies": []})
    shown.screen.refresh()
    shown.press("Enter")
    assert f"{sleeper} has ended" in shown.text()
    assert os.waitpid(sleeper, os.WNOHANG) == (0, 0)


def test_freezing_stops_and_continues(sleeper: int) -> None:
    shown = _with_child(sleeper)
    shown.press("f")
    assert os.WIFSTOPPED(os.waitpid(sleeper, os.WUNTRACED)[1])
    shown = _with_child(sleeper, state="T")
    assert " stopped " in shown.rows()[0]
    shown.press("f")
    assert os.WIFCONTINUED(os.waitpid(sleeper, os.WCONTINUED)[1])


@pytest.fixture
def sleeper() -> Any:
    """Give the pid of a child of ours that sleeps."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    yield pid
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # the test has seen its end


def test_a_wrong_signal_is_refused(shown: Shown) -> None:
    shown.press("k", *"nosuch", "Enter")
    assert "there is no signal 'nosuch'" in shown.text()


def test_details_tell_all_and_go_with_any_of_their_keys(shown: Shown) -> None:
    told = answers()[-1]["bodies"]
    shown.press("N", "Enter")
    body = min(told, key=lambda each: each["pid"])
    text = shown.text(250)
    assert f"{body['pid']} on {body['node']}" in text
    assert " ".join(body["argv"]) in text
    assert body["exe"] in text
    assert "because: 0 of 1 slot taken" in text
    shown.press("Escape")
    assert "DETAILS" not in shown.text()
    shown.press("Enter", "q")
    assert "DETAILS" not in shown.text()
    assert not shown.left


def test_details_of_a_child_that_ends_stay(shown: Shown) -> None:
    shown.press("Enter")
    shown.model.take({**answers()[-1], "bodies": []})
    shown.screen.refresh()
    assert "has ended" in shown.text()


def test_help_names_every_key_and_can_be_scrolled(shown: Shown) -> None:
    shown.press("?")
    assert "Ctrl-C" in shown.text()
    assert "more lines: Down" in shown.text(80, 10)
    shown.press("End")
    assert "OWNER" in shown.text(80, 10)
    shown.press("F1")
    assert "HELP" not in shown.text()


def test_a_child_is_sent_where_the_user_chooses(shown: Shown) -> None:
    first = shown.rows()[0].split()
    pid, here = int(first[0]), first[1]
    shown.press("m")
    question = shown.text().splitlines()[-1]
    assert question.split()[:2] == ["Migrate", str(pid)]
    words = question.partition(" to: ")[2].split()
    assert words[0] == "auto"
    assert here not in words
    shown.press("Right", "Enter")
    assert shown.moves == [(pid, words[1])]
    assert f"moved {pid} to {words[1]}" in shown.text()
    shown.press("Enter", "m", "Escape")
    assert len(shown.moves) == 1


def test_what_cannot_be_done_says_so(shown: Shown) -> None:
    shown.model.take({**answers()[-1], "bodies": []})
    shown.screen.refresh()
    for key, words in (
        ("k", "no child to send"),
        ("f", "no child to freeze"),
        ("m", "no child to migrate"),
        ("Enter", "no child"),
    ):
        shown.press(key)
        assert words in shown.text()
    assert "no child is away" in shown.text()


def test_pages_of_many_children_scroll() -> None:
    told = answers()
    body = told[-1]["bodies"][0]
    told[-1]["bodies"] = [{**body, "pid": 1000 + number} for number in range(100)]
    shown = Shown(model(*told))
    shown.press("N")
    assert shown.pids()[0] == 1000
    shown.press("PageDown")
    assert 1000 < shown.pids()[-1] < 1099
    shown.press("End")
    assert shown.pids()[-1] == 1099
    shown.press("Home")
    assert shown.pids()[0] == 1000


def test_a_lost_node_is_red_with_its_reason(shown: Shown) -> None:
    told = answers()[-1]
    told["nodes"][0] |= {"state": "lost", "reason": "no answer for 5 s", "remedy": ""}
    shown.model.take(told)
    line = next(
        line
        for line in shown.screen.lines(80, 24)
        if plain(line).startswith(told["nodes"][0]["name"])
    )
    assert "lost       no answer for 5 s" in plain(line)
    assert "\x1b[1;31m" in ansi(line, True)


def test_without_colours_there_is_no_colour(shown: Shown) -> None:
    text = "".join(ansi(line, False) for line in shown.screen.lines(80, 24))
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", text) for code in found.split(";")}
    assert codes
    assert codes <= {"0", "1", "2", "4", "7"}


def test_rare_events_are_not_swept_away_at_once() -> None:
    told = answers()[0]
    event = {**told["events"][0], "kind": "placed", "at": told["at"]}
    told["events"] = [{**event, "seq": seq} for seq in range(1, 101)]
    told["events"][10]["kind"] = "lost"
    told["last_event"] = 100
    known = model(told)
    assert [event["seq"] for event in frame.last_events(known, 4)] == [11, 98, 99, 100]
    known.at += frame.NOTABLE_S + 1
    assert [event["seq"] for event in frame.last_events(known, 4)] == [97, 98, 99, 100]


def test_one_frame_for_a_pipe_has_every_row_and_no_escape(shown: Shown) -> None:
    text = "\n".join(plain(line) for line in whole_frame(shown.model, 132))
    assert all(f"{pid} " in text for pid in shown.model.children)
    assert "\x1b" not in text


def test_a_line_that_has_not_changed_is_not_drawn_again(shown: Shown) -> None:
    outer, inner = os.openpty()
    try:
        terminal = Terminal(inner, inner, "utf-8", True)
        lines = shown.screen.lines(80, 24)
        terminal.show(lines)
        assert b"mlaunch top" in _read(outer)
        shown.press("m")
        terminal.show(shown.screen.lines(80, 24))
        assert re.findall(rb"\x1b\[\d+;1H", _read(outer)) == [b"\x1b[24;1H"]
    finally:
        os.close(outer)
        os.close(inner)


def _read(terminal: int) -> bytes:
    """Return all that has been written to the other end."""
    found = b""
    while select.select([terminal], [], [], 0)[0]:
        found += os.read(terminal, 65536)
    return found


def test_text_is_cut_by_cells() -> None:
    assert [cells("abcdef", width) for width in (0, 1, 3, 6, 8)] == [
        "",
        "…",
        "ab…",
        "abcdef",
        "abcdef  ",
    ]
    assert cells("漢字漢字", 5) == "漢字…"
    assert cells("漢字漢字", 4) == "漢 …"
    assert cells("7", 3, right=True) == "  7"
    assert fold("漢字abc", 3) == ["漢", "字a", "bc"]
    assert fold("", 3) == [""]


def test_what_a_character_set_lacks_becomes_a_likeness() -> None:
    assert encoded("├─ a…", "ascii") == b"|- a~"
    assert encoded("├─ é漢", "latin-1") == b"|- \xe9?"
