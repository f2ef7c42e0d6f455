"""What `mlaunch top` makes of successive answers, and the order of its rows."""

from typing import Any

import pytest

from mlaunch.top.model import MOST_EVENTS, Model, Rate
from mlaunch.top.order import KEYS, Order, arrange
from mlaunch.top.quantities import count, printable, rate, size, span
from tests.unit.observed import answers, model


def test_cpu_per_cent_is_what_was_used_between_two_measurements() -> None:
    first, second = answers()[:2]
    body = second["bodies"][0]
    before = next(each for each in first["bodies"] if each["pid"] == body["pid"])
    body["measured_at"] = before["measured_at"] + 0.5
    body["cpu_s"] = before["cpu_s"] + 0.2
    assert model(first, second).children[body["pid"]].cpu_percent == pytest.approx(40)


def test_cpu_per_cent_stays_until_it_is_measured_again() -> None:
    first, second = answers()[:2]
    known = model(first, second)
    before = {pid: child.cpu_percent for pid, child in known.children.items()}
    second["at"] += 0.5
    known.take(second)
    assert {pid: child.cpu_percent for pid, child in known.children.items()} == before


def test_a_pid_used_again_is_another_child() -> None:
    first, second = answers()[:2]
    body = second["bodies"][0]
    body["started"] = body["measured_at"] - 2.0
    body["cpu_s"] = 0.5
    assert model(first, second).children[body["pid"]].cpu_percent == pytest.approx(25)


def test_a_child_that_was_not_measured_yet_has_no_per_cent() -> None:
    told = answers()[0]
    body = told["bodies"][0]
    body["measured_at"] = None
    assert model(told).children[body["pid"]].cpu_percent is None


def test_traffic_is_per_second_and_begins_anew_with_the_link() -> None:
    first, second = answers()[:2]
    for told, sent in ((first, 1000), (second, 4000)):
        told["nodes"][0] |= {"bytes_to_node": sent, "bytes_to_home": 0, "link_pid": 7}
    second["at"] = first["at"] + 0.5
    known = model(first, second)
    name = first["nodes"][0]["name"]
    assert _node(known, name).to_node == pytest.approx(6000)
    second["at"] += 0.5
    second["nodes"][0]["link_pid"] = 8
    known.take(second)
    assert _node(known, name).to_node is None


def _node(known: Model, name: str) -> Any:
    return next(node for node in known.nodes if node.name == name)


def test_a_rate_is_over_two_seconds_or_two_samples() -> None:
    counter = Rate()
    for at in range(10):
        counter.take(at / 2, at * 10)
    counter.take(5.0, 90)  # nothing in the last half second
    assert counter.per_s == pytest.approx((90 - 60) / 2)
    counter.take(60.0, 145)
    assert counter.per_s == pytest.approx(1)
    counter.take(61.0, 0)
    assert counter.per_s is None


def test_a_new_daemon_counts_from_nothing() -> None:
    first, second = answers()[:2]
    known = model(first)
    assert known.last_event > 0
    second["daemon"]["pid"] += 1
    second["events"], second["last_event"] = [], 0
    known.take(second)
    assert known.decisions_per_s is None
    assert (known.last_event, list(known.events)) == (0, [])


def test_what_was_known_of_a_daemon_goes_with_it() -> None:
    known = model()
    known.lose("it has gone")
    assert (known.problem, known.nodes, known.children) == ("it has gone", [], {})
    known.take(answers()[0])
    assert known.problem == ""
    assert known.children


def test_the_node_panel_knows_guests_from_others() -> None:
    told = answers()[0]
    told["nodes"][0] |= {"state": "ready", "cpus": 4.0, "idle_cpus": 1.0, "guests_cpu": 2.5}
    node = model(told).nodes[1]
    assert (node.guests_cpus, node.others_cpus) == (2.5, 0.5)


def test_a_node_in_trouble_says_why_and_what_to_do() -> None:
    told = answers()[0]
    told["nodes"][0] |= {"state": "lost", "reason": "no answer", "remedy": "ping it"}
    assert model(told).nodes[1].problem == "no answer; ping it"


def test_events_are_kept_once_and_not_for_ever() -> None:
    first = answers()[0]
    event = first["events"][0]
    first["events"] = [{**event, "seq": seq} for seq in range(1, MOST_EVENTS * 2)]
    first["last_event"] = MOST_EVENTS * 2 - 1
    known = model(first)
    known.take(first)
    assert [event["seq"] for event in known.events] == list(range(MOST_EVENTS, MOST_EVENTS * 2))


HOSTILE = "a\x1b[2Jb\nc\x9bd\u202ee\udcfff"


def test_a_node_that_is_tried_again_still_says_why_it_failed() -> None:
    told = answers()[0]
    told["nodes"][0].update(state="connecting", reason="no answer", remedy="")
    assert model(told).nodes[1].problem == "no answer"
    told["nodes"][0].update(reason="")
    assert model(told).nodes[1].problem == ""


def test_no_text_of_a_program_or_node_reaches_the_terminal_as_it_is() -> None:
    told = answers()[0]
    told["bodies"][0] |= {"argv": [HOSTILE, HOSTILE], "why": HOSTILE, "state": HOSTILE}
    told["nodes"][0] |= {"state": "lost", "reason": HOSTILE, "remedy": HOSTILE}
    told["events"][0] |= {"argv0": HOSTILE, "text": HOSTILE}
    told["mruns"][0]["argv"] = [HOSTILE]
    known = model(told)
    child = known.children[told["bodies"][0]["pid"]]
    texts = [child.command, child.why, child.state, known.nodes[1].problem]
    texts += [mrun.command for mrun in known.mruns.values()]
    texts += [known.events[0]["argv0"], known.events[0]["text"]]
    assert all(text.isprintable() for text in texts)
    assert printable(HOSTILE) == r"a\x1b[2Jb\nc\x9bd\u202ee\udcfff"


@pytest.mark.parametrize("column", KEYS)
def test_rows_are_sorted_by_each_column_both_ways(column: str) -> None:
    known = model()
    values = [KEYS[column](row.child) for row in arrange(known, Order(column)) if row.child]
    back = [KEYS[column](row.child) for row in arrange(known, Order(column, True)) if row.child]
    assert values in (sorted(values), sorted(values, reverse=True))
    assert back == values[::-1]
    assert len(values) == len(known.children)


def test_the_busiest_child_comes_first_unless_asked_otherwise() -> None:
    shown = [row.child.cpu_percent for row in arrange(model(), Order()) if row.child]
    assert shown == sorted(shown, reverse=True, key=lambda value: value or -1)
    pids = [row.pid for row in arrange(model(), Order("pid"))]
    assert pids == sorted(pids)


def test_a_filter_wants_all_of_its_words_somewhere() -> None:
    known = model()
    child = next(iter(known.children.values()))
    assert arrange(known, Order(filter="no-such-word")) == []
    assert len(arrange(known, Order(filter=""))) == len(known.children)
    both = arrange(known, Order(filter=f"{child.node} {child.command[:5].upper()}"))
    assert child.pid in [row.pid for row in both]
    assert {row.child.node for row in both if row.child} == {child.node}


def test_the_tree_has_each_child_once_below_its_mrun() -> None:
    known = model()
    rows = arrange(known, Order(tree=True))
    tops = [row.pid for row in rows if row.mrun]
    assert tops == sorted({child.mrun for child in known.children.values()})
    assert sorted(row.pid for row in rows if row.child) == sorted(known.children)
    above = 0
    for row in rows:
        above = row.pid if row.mrun else above
        assert row.child is None or row.child.mrun == above


def test_the_tree_knows_children_of_children_and_no_end_of_circles() -> None:
    told = answers()[0]
    grown, child, odd = [dict(told["bodies"][0]) for _ in range(3)]
    mrun = told["mruns"][0]["pid"]
    grown |= {"pid": 100, "ppid": 50, "mrun": mrun}
    child |= {"pid": 101, "ppid": 100, "mrun": mrun}
    odd |= {"pid": 102, "ppid": 102, "mrun": mrun}
    told["bodies"] = [grown, child, odd]
    rows = arrange(model(told), Order("pid", tree=True))
    assert [(row.pid, row.prefix) for row in rows] == [
        (mrun, ""),
        (100, "├─ "),
        (101, "│  └─ "),
        (102, "└─ "),
    ]


def test_numbers_keep_to_their_columns() -> None:
    values = [10**power * digit for power in range(16) for digit in (1, 9.4, 9.95, 9.99)]
    assert max(len(size(value)) for value in values) == 4
    assert max(len(rate(value)) for value in values) == 6
    assert max(len(count(int(value))) for value in values if value < 10**9) == 5
    seconds = [value / 1000 for value in values if value < 10**10]
    assert max(len(span(value)) for value in seconds) <= 7
    assert [span(value) for value in (0.424, 12.34, 59.97, 245, 7391, 43620, 273600)] == [
        "0.42s",
        "12.3s",
        "1:00",
        "4:05",
        "2:03:11",
        "12h07m",
        "3d04h",
    ]
    assert [size(value) for value in (None, 0, 999, 1000, 9728, 1 << 30)] == [
        "",
        "0B",
        "999B",
        "1.0K",
        "9.5K",
        "1.0G",
    ]
