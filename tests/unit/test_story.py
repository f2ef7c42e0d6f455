"""What mrun --trace writes keeps to the Trace Event Format, and tells what was recorded."""

import json
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlaunch.report.page import html
from mlaunch.report.story import decode
from stubs.home.run import receipt, story
from stubs.home.run.record import HOME, LOST, MOST_ARGUMENTS, MOVED, Migration, Record, Run
from stubs.home.run.story import Bar
from tests.traceformat import check, events


def away(pid: int, node: str, begin: float, end: float, parent: Record | None = None) -> Record:
    """Return the record of a body that exited; seconds from the start of the run."""
    record = Record(pid, [b"/usr/bin/gcc", b"-c", b"a.c"], node, "idle")
    record.began, record.ended, record.status = begin, end, 0
    record.parent = parent
    return record


def make(pid: int = 1) -> Record:
    record = Record(pid, [b"make", b"-j2"], HOME, "it starts others")
    record.began = 0.0
    record.end_at_home(0, 1.5, 0.5, 1000)
    record.ended = 10.0
    return record


def told(*every: Record, running: tuple[Record, ...] = (), status: int = 0) -> dict[str, Any]:
    """Return the story of a run that began at 0, read as JSON."""
    run = Run([b"make", b"-j2"])
    run.began = 0.0
    run.all += every
    run.running.update({record.pid: record for record in running})
    found: dict[str, Any] = json.loads("".join(story.pieces(run, status)))
    return found


SPANS = st.lists(
    st.tuples(st.sampled_from(["n1", "n2"]), st.integers(0, 300), st.integers(0, 50)), max_size=60
)


@given(SPANS)
def test_whatever_ran_the_rules_are_kept(spans: list[tuple[str, int, int]]) -> None:
    parent = make()
    every = [away(n, node, a / 1e6, (a + b) / 1e6, parent) for n, (node, a, b) in enumerate(spans)]
    found = told(*every, parent)
    check(found)
    assert len(events(found, "X")) == len(spans) + 1
    assert len(events(found, "s")) == len(spans)


@given(SPANS)
def test_no_more_lanes_than_ran_at_once(spans: list[tuple[str, int, int]]) -> None:
    record = make()
    bars = [Bar(record, node, a, a + b, "exited") for node, a, b in spans]
    story.lay_out(bars)
    for node in ("n1", "n2"):
        there = [bar for bar in bars if bar.node == node]
        at_once = [sum(b.begin <= bar.begin < b.end for b in there) for bar in there]
        assert max((bar.lane for bar in there), default=0) == max(at_once, default=0)


def test_home_comes_first_then_the_nodes_by_name() -> None:
    found = told(away(7, "n2", 1, 2), away(8, "n1", 2, 3))
    names = {e["pid"]: e["args"]["name"] for e in events(found, "M") if e["name"] == "process_name"}
    assert names == {1: "home", 2: "n1", 3: "n2"}


def test_a_body_that_was_started_again_is_two_bars_and_an_arrow() -> None:
    body = away(7, "n2", 3, 5, make())
    body.stays = (("n1", 1.0, 2.0, LOST),)
    body.restarts = 1
    found = told(body, make())
    check(found)
    first, second = (bar for bar in events(found, "X") if bar["args"]["pid"] == 7)
    assert (first["args"]["end"], second["args"]["end"]) == ("lost", "exited")
    assert "cpu_s" not in first["args"]  # it is counted once
    assert second["args"]["restarts"] == 1
    (arrow,) = (e for e in events(found, "s") if e["cat"] == "restart")
    assert (arrow["pid"], arrow["ts"]) == (first["pid"], 1_999_999)


def test_a_move_is_a_bar_on_another_lane_with_an_arrow_a_reason_and_its_cost() -> None:
    body = away(7, "n2", 3, 5)
    body.stays = ((HOME, 0.5, 1.0, MOVED), ("n1", 1.0, 3.0, MOVED))
    body.migrations = (
        Migration(HOME, "n1", "load: n1 idles, home is spared", 12.0, 4_000_000),
        Migration("n1", "n2", "asked for", 43.21, 12_300_000),
    )
    found = told(body)
    check(found)
    assert [e["cat"] for e in events(found, "s")] == ["migration", "migration"]
    bars = [bar["args"] for bar in events(found, "X")]
    assert [bar["why"] for bar in bars] == [
        "idle",
        "moved: load: n1 idles, home is spared",
        "moved: asked for",
    ]
    assert [(bar["end"], bar.get("frozen_ms"), bar.get("image_bytes")) for bar in bars] == [
        ("moved", 12.0, 4_000_000),
        ("moved", 43.21, 12_300_000),
        ("exited", None, None),
    ]
    page = html(decode(found))
    assert "<dt>Moves</dt><dd>2</dd><dd>55 ms frozen, all together</dd>" in page


def test_a_receipt_lists_the_moves_of_each_body() -> None:
    body = away(7, "n2", 3, 5)
    body.migrations = (Migration("n1", "n2", "asked for", 43.21, 12_300_000),)
    run = Run([b"gcc"])
    run.all.append(body)
    found = json.loads("".join(receipt.pieces(run, 0)))
    assert found["bodies"][0]["migrations"] == [
        {"from": "n1", "to": "n2", "freeze_ms": 43.21, "bytes": 12_300_000, "why": "asked for"}
    ]


def test_how_programs_ended() -> None:
    killed, lost = away(1, "n1", 0, 1), away(2, "n1", 1, 2)
    killed.status, lost.status = 9, None
    replaced = make(3)
    replaced.status = None
    daemon = Record(4, [b"daemon"], HOME, "")
    daemon.began = time.monotonic() - 1
    found = told(killed, lost, replaced, running=(daemon,))
    ends = {bar["args"]["pid"]: bar["args"] for bar in events(found, "X")}
    assert [ends[pid]["end"] for pid in (1, 2, 3, 4)] == ["exited", "lost", "replaced", "left"]
    assert ends[1]["status"] == -9
    assert all("status" not in ends[pid] for pid in (2, 3, 4))


def test_a_parent_too_brief_to_be_told_of_is_passed_over() -> None:
    top = make()
    brief = Record(5, [b"env"], HOME, "")
    brief.parent = top
    found = told(top, away(7, "n1", 1, 2, brief))
    check(found)
    (arrow,) = events(found, "s")
    assert arrow["pid"] == 1


def test_a_parent_that_had_ended_has_no_arrow() -> None:
    found = told(make(), away(7, "n1", 11, 12, make()))
    check(found)
    assert events(found, "s") == []


def test_the_run_as_a_whole() -> None:
    whole = told(make(), status=2 << 8)["otherData"]
    assert whole["format"] == "mlaunch-story-1"
    assert whole["argv"] == ["make", "-j2"]
    assert (whole["exit"], whole["signal"]) == (2, None)
    assert told(status=15)["otherData"]["signal"] == 15


def test_arguments_need_not_be_text() -> None:
    record = make()
    strange = Record(9, [b"\xff\xfe", b"</script>\n\x1b", "é".encode(), b""], HOME, "")
    strange.began = strange.ended = 1.0
    found = told(record, strange)
    (bar,) = (bar for bar in events(found, "X") if bar["args"]["pid"] == 9)
    assert bar["args"]["argv"] == ["��", "</script>\n\x1b", "é", ""]


def test_a_long_command_line_takes_no_more_room_than_it_may() -> None:
    words = [b"x" * 10] * 100_000
    cut = Record(1, words, HOME, "", MOST_ARGUMENTS).argv
    assert cut[-1] == b"..."
    assert sum(map(len, cut)) <= MOST_ARGUMENTS + 3
    assert Record(1, words, HOME, "").argv == words
