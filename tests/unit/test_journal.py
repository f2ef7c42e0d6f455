"""What the daemon remembers of the programs that it was asked about."""

from __future__ import annotations

from mlaunch.journal import MOST_EVENTS, REMEMBERED, WORDS_KEPT, Decision, Journal
from mlaunch.states import HOME, Candidate, NodeState, Program
from stubs.wire.codec import Usage
from stubs.wire.messages import Ended

MRUN = 4000


def decision(node: str, nodes: int = 2) -> Decision:
    names = [f"n{number}" for number in range(1, nodes + 1)]
    return Decision(
        node,
        f"{node} is best",
        Program(),
        [Candidate(name, 1.0, "") for name in (HOME, *names)],
        NodeState(HOME),
        [NodeState(name) for name in names],
    )


def ended(pid: int, *, away: bool, cpu_s: float = 1.0, reason: bytes = b"") -> Ended:
    ran = not reason
    us = int(cpu_s * 1e6) * ran
    return Ended(pid, away, us, us, 2 * us, 100 * ran, 0, 0, 3 * ran, 50 * ran, 7 * ran, reason)


class Bed:
    """A journal with one mrun, and a way to say things briefly."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.client = object()
        self.journal.connected(self.client, MRUN)

    def decide(self, pid: int, node: str, top: bool = False, client: object = None) -> None:
        self.journal.decided(
            client or self.client, pid, "/bin/x", ["x", str(pid)], top, decision(node)
        )

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.journal.events_since(0)]


def test_a_body_is_there_from_its_decision_to_its_end() -> None:
    bed = Bed()
    bed.decide(7, "n1")
    (record,) = bed.journal.bodies()
    assert (record.pid, record.node, record.reason, record.mrun.pid) == (
        7,
        "n1",
        "n1 is best",
        MRUN,
    )
    bed.journal.ended(ended(7, away=True, cpu_s=2.5))
    assert list(bed.journal.bodies()) == []
    assert bed.journal.remembered[7] is record
    assert bed.kinds == ["placed", "ended"]
    totals = bed.journal.totals()
    assert (totals["placed"], totals["cpu_s_away"]) == (1, 2.5)
    assert (totals["bytes_to_node"], totals["bytes_to_home"]) == (50, 7)


def test_what_runs_counts_in_the_totals_as_last_measured() -> None:
    bed = Bed()
    bed.decide(7, "n1")
    bed.journal.running[7].measured(Usage(7, ord("R"), 1_500_000, 10, 1, 1, 2, 30, 4), 1.0)
    totals = bed.journal.totals()
    assert (totals["cpu_s_away"], totals["bytes_to_node"]) == (1.5, 30)


def test_only_what_the_user_typed_is_news_when_it_stays() -> None:
    bed = Bed()
    bed.decide(7, HOME, top=True)
    bed.decide(8, HOME)
    assert bed.kinds == ["stayed"]
    assert bed.journal.totals()["stayed"] == 2
    assert [mrun.top and mrun.top.pid for mrun in bed.journal.mruns] == [7]


def test_a_body_that_is_placed_once_more_has_been_restarted() -> None:
    bed = Bed()
    again = object()
    bed.journal.connected(again, MRUN)
    bed.journal.node_is("n1", True, "")
    bed.decide(7, "n1")
    began = bed.journal.running[7].at
    bed.journal.node_is("n1", False, "silent")
    assert bed.journal.running[7].lost == "silent"
    bed.decide(7, "n2", client=again)
    record = bed.journal.running[7]
    assert (record.restarts, record.node, record.lost, record.at) == (1, "n2", "", began)
    assert bed.kinds == ["node up", "placed", "node lost", "restarted"]
    assert len(list(bed.journal.mruns)) == 1
    # Both connections are the mrun's; what runs belongs to the second one.
    bed.journal.client_gone(bed.client)
    assert 7 in bed.journal.running


def test_a_body_for_which_only_the_embedded_node_is_left_has_been_restarted_too() -> None:
    bed = Bed()
    bed.decide(7, "n1")
    bed.decide(7, HOME)
    bed.decide(7, "local")
    assert bed.journal.running[7].restarts == 1
    assert bed.kinds == ["placed", "restarted"]


def test_a_process_that_execs_another_program_is_no_restart() -> None:
    bed = Bed()
    bed.decide(7, HOME)
    bed.decide(7, "n1")
    assert bed.journal.running[7].restarts == 0
    assert bed.kinds == ["placed"]


def test_a_body_that_is_lost_for_good_says_why() -> None:
    bed = Bed()
    bed.decide(7, "n1")
    bed.journal.ended(ended(7, away=True, reason=b"n1 is silent"))
    assert bed.journal.running == {}
    assert bed.journal.remembered[7].lost == "n1 is silent"
    assert bed.kinds == ["placed", "lost"]
    assert bed.journal.totals()["lost"] == 1


def test_a_program_that_stays_after_all_says_why_and_runs_on() -> None:
    bed = Bed()
    bed.decide(7, "n1")
    bed.journal.ended(ended(7, away=False, reason=b"it cannot be moved: io_uring"))
    record = bed.journal.running[7]
    assert (record.node, record.away) == (HOME, False)
    assert record.reason == "it was to run on n1: it cannot be moved: io_uring"
    assert bed.kinds == ["placed", "stayed"]


def test_an_mrun_that_has_gone_takes_its_programs_with_it() -> None:
    bed = Bed()
    other = object()
    bed.journal.connected(other, MRUN + 1)
    bed.decide(7, "n1")
    bed.decide(8, "n1", client=other)
    bed.journal.client_gone(bed.client)
    assert set(bed.journal.running) == {8}
    assert [mrun.pid for mrun in bed.journal.mruns] == [MRUN + 1]
    assert bed.journal.remembered[7].client is None


def test_who_only_looks_is_no_mrun() -> None:
    bed = Bed()
    bed.journal.client_gone(bed.client)
    assert list(bed.journal.mruns) == []


def test_hundreds_a_second_for_long_leave_nothing_behind_but_the_last() -> None:
    bed = Bed()
    words = [str(number) for number in range(1000)]
    for pid in range(20_000):
        bed.journal.decided(bed.client, pid, "/bin/x", words.copy(), False, decision("n1"))
        bed.journal.ended(ended(pid, away=True))
    assert bed.journal.running == {}
    assert list(bed.journal.remembered) == list(range(20_000 - REMEMBERED, 20_000))
    assert all(len(r.argv) == WORDS_KEPT for r in bed.journal.remembered.values())
    events = bed.journal.events_since(0)
    assert len(events) == MOST_EVENTS
    assert events[-1].seq == bed.journal.last_event == 40_000
    assert [event.seq for event in bed.journal.events_since(39_998)] == [39_999, 40_000]


def test_a_decision_among_thousands_is_kept_with_the_nodes_that_promised_most() -> None:
    bed = Bed()
    bed.journal.decided(bed.client, 7, "/bin/x", ["x"], False, decision("n1", nodes=5000))
    kept = [state.name for state in bed.journal.running[7].decision.nodes]
    assert kept[:2] == ["n1", "n2"]
    assert len(kept) < 100
