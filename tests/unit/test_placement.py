"""Where a body goes, for states made up here; no node is needed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaunch.placement import HOME, NodeState, Options, Program, finish_s, rank

HOME_IDLE = NodeState(HOME, cpus=2, idle=2.0, speed=100)
NEAR = NodeState("near", speed=100, rtt_s=0.0003)
FAR = NodeState("far", speed=100, rtt_s=0.020)


def order(*nodes: NodeState, home: NodeState = HOME_IDLE, **how: object) -> list[str]:
    options = replace(Options(), **how)  # type: ignore[arg-type]
    ranking = rank(Program(), home, list(nodes), options)
    return [item.name for item in ranking if item.finish_s is not None]


def test_of_equally_good_nodes_the_remotest_is_taken() -> None:
    assert order(NEAR, FAR)[0] == "far"
    assert order(FAR, NEAR)[0] == "far"


def test_of_a_loaded_a_near_and_a_far_idle_node_the_far_one_is_taken() -> None:
    loaded = NodeState("loaded", idle=0.1, load1=2.0, speed=100, rtt_s=0.030)
    assert order(loaded, NEAR, FAR)[0] == "far"


def test_a_node_too_far_for_the_program_is_not_equally_good() -> None:
    moon = replace(FAR, name="moon", rtt_s=2.6)
    assert order(NEAR, moon)[0] == "near"


def test_a_program_that_talks_to_home_a_lot_runs_near() -> None:
    chatty = Program(round_trips=10_000)
    assert rank(chatty, HOME_IDLE, [NEAR, FAR], Options())[0].name == "near"


def test_home_is_spared_as_long_as_a_node_does_as_well() -> None:
    assert order(NEAR)[0] == "near"


def test_home_is_better_than_a_busy_node() -> None:
    assert order(replace(NEAR, idle=0.0, load1=3.0))[0] == HOME


def test_home_is_better_when_every_node_is_busy_even_if_it_is_half_busy_itself() -> None:
    busy = [replace(node, cpus=0.45, idle=0.0, running=2) for node in (NEAR, FAR)]
    assert order(*busy, home=replace(HOME_IDLE, cpus=0.45, idle=0.1))[0] == HOME


def test_a_little_activity_does_not_make_a_node_busy() -> None:
    near, far = replace(NEAR, cpus=0.5, idle=0.5), replace(FAR, cpus=0.5, idle=0.36)
    assert order(near, far, home=replace(HOME_IDLE, cpus=0.5, idle=0.5))[0] == "far"


def test_those_who_wait_to_run_are_counted() -> None:
    crowded = replace(FAR, idle=0.0, running=5)
    assert order(crowded, replace(NEAR, idle=0.0, running=1), allow_home=False)[0] == "near"


def test_of_a_busy_home_and_busy_nodes_home_is_taken() -> None:
    busy = [replace(node, idle=0.0, running=1) for node in (NEAR, FAR)]
    assert order(*busy, home=replace(HOME_IDLE, cpus=1, idle=0.0, running=1))[0] == HOME


def test_a_busy_home_sends_even_to_a_slow_node() -> None:
    busy = replace(HOME_IDLE, idle=0.0, load1=8.0)
    assert order(replace(NEAR, speed=50), home=busy)[0] == "near"


def test_a_much_faster_node_beats_a_remoter_one() -> None:
    assert order(replace(NEAR, speed=200), FAR)[0] == "near"


def test_noise_in_the_measured_speed_decides_nothing() -> None:
    assert order(replace(NEAR, speed=110), replace(FAR, speed=95))[0] == "far"


def test_bodies_on_their_way_are_counted() -> None:
    twins = [replace(FAR, name=name) for name in ("a", "b")]
    assert order(replace(twins[0], reserved=1), twins[1])[0] == "b"
    assert order(twins[0], replace(twins[1], reserved=1))[0] == "a"


def test_a_node_with_more_cpus_takes_more_bodies() -> None:
    big = replace(FAR, name="big", cpus=8, idle=8.0, reserved=3)
    assert order(big, replace(FAR, name="small", reserved=1))[0] == "big"


def test_the_owner_of_a_node_keeps_a_cpu() -> None:
    assert order(replace(FAR, owner_idle_s=5), NEAR)[0] == "near"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"problem": "refuses connections"}, "refuses connections"),
        ({"memory_available": 1 << 20}, "short of memory (1 MiB available)"),
        ({"stall_memory": 20.0}, "short of memory (tasks stalled 20 % of the time)"),
    ],
)
def test_a_node_that_cannot_be_used_is_rejected_with_its_reason(
    change: dict[str, object], reason: str
) -> None:
    bad = replace(NEAR, name="bad", **change)  # type: ignore[arg-type]
    ranking = rank(Program(), HOME_IDLE, [bad, NEAR], Options())
    assert ranking[0].name == "near"
    assert [(item.name, item.reason) for item in ranking if item.finish_s is None] == [
        ("bad", reason)
    ]


def test_only_the_nodes_asked_for_are_considered() -> None:
    assert order(NEAR, FAR, only=("near",), allow_home=False) == ["near"]


def test_without_home_and_without_nodes_nothing_is_left() -> None:
    assert order(replace(NEAR, problem="lost"), allow_home=False) == []


def test_the_reason_tells_what_decided() -> None:
    reason = rank(Program(), HOME_IDLE, [NEAR, FAR], Options())[0].reason
    assert "1.0 of 1 CPUs idle" in reason
    assert "20.0 ms away" in reason
    assert "the remotest of 2 equally good" in reason


states = st.builds(
    NodeState,
    name=st.sampled_from(["a", "b", "c", "d"]),
    problem=st.sampled_from(["", "", "lost"]),
    cpus=st.floats(0.1, 64),
    idle=st.floats(0, 64),
    load1=st.floats(0, 100),
    speed=st.floats(0, 1000),
    rtt_s=st.floats(0, 5),
    memory_available=st.integers(0, 1 << 40),
    stall_memory=st.floats(0, 100),
    reserved=st.integers(0, 100),
)


@given(st.lists(states, max_size=6, unique_by=lambda state: state.name), st.booleans())
def test_every_node_is_in_the_ranking_once_whatever_its_state(
    nodes: list[NodeState], allow_home: bool
) -> None:
    ranking = rank(Program(), HOME_IDLE, nodes, Options(allow_home=allow_home))
    names = [item.name for item in ranking]
    assert sorted(names) == sorted([node.name for node in nodes] + [HOME] * allow_home)
    accepted = [item.finish_s is not None for item in ranking]
    assert accepted == sorted(accepted, reverse=True)
    assert all(item.reason for item in ranking)


@given(states)
def test_more_load_never_makes_a_node_better(state: NodeState) -> None:
    worse = replace(state, reserved=state.reserved + 1)
    program = Program()
    assert finish_s(program, worse, HOME_IDLE) >= finish_s(program, state, HOME_IDLE)
