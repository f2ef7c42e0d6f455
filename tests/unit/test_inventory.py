"""What the daemon believes of a node between two of its reports."""

import pytest

from mlaunch.config import Node
from mlaunch.inventory import AVAILABLE_S, DISTURBED_S, RESERVED_S, Member


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("mlaunch.inventory.time.monotonic", clock)
    return clock


@pytest.fixture
def member(clock: Clock) -> Member:
    member = Member(Node("n1", "n1"))
    member.take_load(load(idle=1000))
    clock.now += 1
    return member


def load(idle: int, guests_cpu: int = 0) -> dict[str, int]:
    return {"cpus_milli": 1000, "idle_milli": idle, "guests_cpu_milli": guests_cpu}


def test_a_body_on_its_way_is_counted_until_the_load_shows_it(member: Member, clock: Clock) -> None:
    member.reserve(7)
    member.reserve(8)
    assert member.placement().reserved == 2
    clock.now += RESERVED_S + 0.1
    assert member.placement().reserved == 0


def test_a_body_that_has_gone_is_counted_no_more(member: Member) -> None:
    member.reserve(7)
    member.release(7)
    assert member.placement().reserved == 0


def test_what_a_guest_used_that_has_ended_is_idle_again(member: Member, clock: Clock) -> None:
    member.reserve(7)
    member.guests = 1
    clock.now += 1
    member.take_load(load(idle=100))
    assert member.placement().idle == 0.1
    member.release(7)
    assert member.placement().idle == 1.0


def test_what_a_long_running_guest_used_is_idle_when_it_ends(member: Member, clock: Clock) -> None:
    member.reserve(7)
    member.guests = 1
    clock.now += DISTURBED_S + AVAILABLE_S
    member.take_load(load(idle=0, guests_cpu=600))
    assert member.placement().idle == 0.0
    member.release(7)
    assert member.placement().idle == 0.6


def test_what_others_do_meanwhile_is_believed_soon(member: Member, clock: Clock) -> None:
    member.reserve(7)
    member.release(7)
    clock.now += DISTURBED_S + 0.1
    member.take_load(load(idle=0))
    assert member.placement().idle == 0.0


def test_an_old_belief_is_given_up(member: Member, clock: Clock) -> None:
    member.reserve(7)
    clock.now += 1
    member.take_load(load(idle=0))
    member.release(7)
    clock.now += AVAILABLE_S
    assert member.placement().idle == 0.0


def test_a_node_of_which_nothing_is_known_yet_shows_no_numbers() -> None:
    shown = Member(Node("n1", "host")).shown()
    assert (shown["state"], shown["host"], shown["guests"]) == ("unknown", "host", 0)
    for key in ("cpus", "idle_cpus", "load1", "memory_available_bytes", "rtt_ms"):
        assert shown[key] is None
