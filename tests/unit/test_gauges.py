"""What programs that run are thought to use, from one measurement to the next."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from mlaunch.gauges import Gauges
from mlaunch.journal import Decision, Journal, Record
from mlaunch.ledger import Entry, Ledger
from mlaunch.slots import Slots
from mlaunch.states import HOME, NodeState, Program
from stubs.wire.codec import Usage


@pytest.fixture
def ledger(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Ledger()


def record(pid: int, node: str, name: str = "x", **program: object) -> Record:
    journal = Journal()
    client = object()
    journal.connected(client, 1)
    known = Program(**{"cpu_s": 30.0, **program})  # type: ignore[arg-type]
    decision = Decision(node, "best", known, [], NodeState(HOME), [])
    journal.decided(client, pid, f"/bin/{name}", [name], True, decision)
    return journal.running[pid]


def usage(pid: int, cpu_s: float, state: str = "R", trips: int = 0) -> Usage:
    return Usage(pid, ord(state), int(cpu_s * 1e6), 1000, 1, 1, trips, 0, 0)


def test_what_shares_a_cpu_wants_one_and_what_waits_wants_what_it_gets(ledger: Ledger) -> None:
    gauges = Gauges(ledger)
    runs, waits = record(7, "n1"), record(8, "n1")
    for second in range(1, 9):
        runs.measured(usage(7, 0.4 * second), runs.at + second)
        waits.measured(usage(8, 0.1 * second, "S"), waits.at + second)
        one, two = gauges.read([runs, waits], runs.at + second)
    assert one.demand == pytest.approx(1.0)
    assert two.demand == pytest.approx(0.1, abs=0.02)
    assert one.used_s == pytest.approx(3.2)
    assert one.left_s == pytest.approx(26.8)
    assert (one.place, one.memory) == ("n1", 1000 << 10)


def test_a_measurement_counts_once(ledger: Ledger) -> None:
    gauges = Gauges(ledger)
    body = record(7, "n1")
    body.measured(usage(7, 2.0), body.at + 2)
    before = gauges.read([body], body.at + 2)
    assert gauges.read([body], body.at + 5) == before


def test_cpu_time_is_that_of_homes_and_round_trips_are_for_each_of_its_seconds(
    ledger: Ledger,
) -> None:
    gauges = Gauges(ledger)
    body = record(7, "n1")
    ledger.enter(7, Entry(None, "/bin/x", ["x"], None, 2.0), 30.0)
    for second in range(1, 9):
        body.measured(usage(7, 1.0 * second, trips=10 * second), body.at + second)
        (found,) = gauges.read([body], body.at + second)
    assert found.used_s == pytest.approx(16.0)
    assert found.trips == pytest.approx(5.0, rel=0.05)


def test_what_has_done_more_than_was_expected_has_as_much_to_do(ledger: Ledger) -> None:
    body = record(7, "n1")
    body.measured(usage(7, 100.0), body.at + 100)
    (found,) = Gauges(ledger).read([body], body.at + 100)
    assert found.left_s == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("change", "tied"),
    [({}, False), ({"stay": True}, True), ({"lost": "silent"}, True), ({"again": True}, True)],
)
def test_what_may_not_move_by_itself_is_tied(
    ledger: Ledger, change: dict[str, object], tied: bool
) -> None:
    body = record(7, "n1")
    body.measured(usage(7, 2.0), body.at + 2)
    for name, value in change.items():
        setattr(body, name, value)
    assert Gauges(ledger).read([body], body.at + 2)[0].tied is tied


@pytest.mark.parametrize(
    ("name", "cpu_s", "tied"),
    [("make", 9.0, True), ("make", 11.0, False), ("sh", 1.0, False), ("x", 1.0, False)],
)
def test_a_starter_has_time_to_start_something_before_it_may_move(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, name: str, cpu_s: float, tied: bool
) -> None:
    monkeypatch.setattr(ledger, "used_s", lambda pid, cpu_us: cpu_s)
    starter = {"stays": "it starts others", "starter": True} if name != "x" else {}
    with subprocess.Popen(("sleep", "60")) as process:
        try:
            own = record(process.pid, HOME, name, **starter)
            assert Gauges(ledger).read([own], time.time())[0].tied is tied
        finally:
            process.kill()


def test_a_stopped_body_is_tied(ledger: Ledger) -> None:
    body = record(7, "n1")
    body.measured(usage(7, 2.0, "T"), body.at + 2)
    assert Gauges(ledger).read([body], body.at + 2)[0].tied


def test_at_home_a_program_is_measured_without_its_children_and_tied_while_it_has_some(
    ledger: Ledger,
) -> None:
    # The shell itself does nothing but wait.
    shell = subprocess.Popen(("sh", "-c", "cat; :"), stdin=subprocess.PIPE)
    loop = subprocess.Popen(("sh", "-c", "while :; do :; done"))
    try:
        gauges = Gauges(ledger)
        waits = record(shell.pid, HOME, stays="it starts others", starter=True)
        runs = record(loop.pid, HOME)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            one, two = gauges.read([waits, runs], time.time())
            if one.tied and two.used_s > 0.2:
                break
        assert one.tied
        assert (two.tied, two.place) == (False, HOME)
        assert one.used_s < 0.1
        assert two.memory > 0
        own = record(os.getpid(), HOME, stays="it listens for connections")
        assert gauges.read([own], time.time())[0].tied
    finally:
        loop.kill()
        shell.communicate(b"")
        loop.wait()
    assert gauges.read([waits, runs], time.time()) == []


def test_a_shell_that_the_user_typed_and_that_computes_is_not_about_to_end(ledger: Ledger) -> None:
    body = record(7, "n1", cpu_s=0.003, stays="a shell starts others", starter=True)
    body.measured(usage(7, 1.0), body.at + 1)
    (found,) = Gauges(ledger).read([body], body.at + 1)
    assert found.left_s == pytest.approx(29.0)


def test_a_slot_is_vacated_by_who_was_not_expected_to_need_one(ledger: Ledger) -> None:
    slots = Slots()
    ledger.enter(7, Entry(None, "/bin/make", ["make"], None, 1.0), 30.0)
    ledger.enter(8, Entry(None, "/bin/gcc", ["gcc"], slots, 1.0), 1.0)
    for pid in (7, 8):
        ledger.occupy(pid, slots, 5.0)
    assert slots.used == 2
    for pid in (7, 8):
        ledger.vacate(pid)
    assert slots.used == 1
    assert slots.left_s(7, time.monotonic()) == 0
    ledger.occupy(7, slots, 5.0)
    ledger.strike(7)
    assert slots.used == 1
