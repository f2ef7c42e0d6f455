"""What moves where, in simulated time: under load that changes, under noise, until all is done."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from mlaunch.balancer import (
    REFUSED_S,
    SETTLE_S,
    Balancer,
    Running,
    Site,
    best_refuge,
    choose,
    loads_of,
)
from mlaunch.states import HOME, NodeState
from tests.bench.balancing import BEDS, lengths, ratio
from tests.unit.farm import Farm, Job
from tests.unit.simulation import Machine

BIAS = 1.25


def site(name: str, own: float = 0.0, speed: float = 1.0, **state: object) -> Site:
    node = replace(NodeState(name), **state)  # type: ignore[arg-type]
    return Site(node, speed, own, own, node.problem)


def loop(pid: int, place: str, **what: object) -> Running:
    return Running(pid, place, 1.0, 10.0, 30.0, 8 << 20)._replace(**what)


def moves(sites: list[Site], *programs: Running) -> list[tuple[int, str]]:
    wishes = choose(list(programs), list(programs), sites, BIAS)
    return [(wish.pid, wish.target) for wish in wishes]


def hogs(count: int, begin: float, end: float = 1e9) -> Callable[[float], int]:
    return lambda now: count if begin <= now < end else 0


# one decision


def test_what_computes_leaves_home_for_a_node_that_idles() -> None:
    assert moves([site(HOME), site("a")], loop(1, HOME)) == [(1, "a")]
    assert moves([site(HOME), site("a", own=1.0)], loop(1, HOME)) == []
    assert moves([site(HOME), site("a")], loop(1, "a")) == []


def test_nobody_moves_between_equals() -> None:
    assert moves([site(HOME), site("a"), site("b")], loop(1, "a")) == []
    assert moves([site(HOME), site("a", own=1.0), site("b", own=1.0)], loop(1, "a")) == [(1, HOME)]
    busy = [site(HOME, own=2.0), site("a", own=1.0), site("b", own=1.0)]
    assert moves(busy, loop(1, "a")) == []


def test_the_second_heaviest_of_a_place_goes_first() -> None:
    heavy, second, light = (
        loop(1, "a", used_s=90.0),
        loop(2, "a", used_s=50.0),
        loop(3, "a", used_s=10.0),
    )
    assert moves([site(HOME, own=9.0), site("a"), site("b")], light, heavy, second) == [(2, "b")]


def test_a_faster_node_is_a_reason_and_one_a_little_faster_is_none() -> None:
    assert moves([site(HOME), site("a"), site("b", speed=4.0)], loop(1, "a")) == [(1, "b")]
    assert moves([site(HOME), site("a"), site("b", speed=1.25)], loop(1, "a")) == []


def test_what_waits_for_home_all_the_time_comes_home() -> None:
    chatty = loop(1, "far", trips=100.0)
    assert moves([site(HOME), site("far", rtt_s=0.02)], chatty) == [(1, HOME)]
    assert moves([site(HOME), site("near", rtt_s=0.0002)], chatty._replace(place="near")) == []


@pytest.mark.parametrize(
    "what",
    [{"used_s": 0.5}, {"left_s": 1.0}, {"demand": 0.1}, {"memory": 8 << 30}, {"only": {HOME}}],
)
def test_what_is_young_or_nearly_done_or_idle_or_too_large_or_bound_stays(
    what: dict[str, object],
) -> None:
    sites = [site(HOME), site("a", memory_available=1 << 30)]
    assert moves(sites, loop(1, HOME, **what)) == []


def test_where_memory_runs_out_the_largest_goes() -> None:
    small, large = loop(1, "a", memory=10 << 20), loop(2, "a", memory=900 << 20)
    short = site("a", cpus=4.0, memory_available=10 << 20)
    assert moves([site(HOME), short, site("b", cpus=4.0)], small, large) == [(2, "b")]
    assert moves([site(HOME), short, site("b", memory_available=500 << 20)], large) == [(2, HOME)]


def test_who_has_to_leave_goes_where_it_is_best_and_home_if_nobody_takes_it() -> None:
    sites = [site(HOME, own=3.0), site("a"), site("b", own=1.0), site("c", problem="lost")]
    program = loop(1, "a")
    best = best_refuge(program, sites, loads_of(sites, [program]))
    assert best is not None
    assert best.name == "b"
    sites[2] = site("b", problem="lost")
    best = best_refuge(program, sites, loads_of(sites, [program]))
    assert best is not None
    assert best.name == HOME


def test_a_wish_says_why() -> None:
    def why(*sites: Site, place: str) -> str:
        (wish,) = choose([loop(1, place)], [loop(1, place)], list(sites), BIAS)
        return wish.why

    assert why(site(HOME), site("a"), place=HOME) == "load: a idles, home is spared"
    assert why(site(HOME, own=2.0), site("a", own=2.0), site("b"), place="a") == (
        "load: 3.0 compete for 1 CPU on a, 2.0 of them others'"
    )
    assert why(site(HOME), site("a", own=1.0, owner_idle_s=2.0), place="a") == (
        "home is the best place now: owner: somebody works on a"
    )
    assert why(site(HOME), site("a"), site("b", speed=3.0), place="a") == (
        "speed: b is 3.0 times as fast"
    )


# damping


def test_a_program_settles_after_a_move_longer_each_time() -> None:
    balancer = Balancer()
    balancer.moved(1, 100.0)
    assert not balancer.may_move(1, 100.0 + SETTLE_S - 0.1)
    assert balancer.may_move(1, 100.0 + SETTLE_S)
    balancer.moved(1, 111.0)
    assert not balancer.may_move(1, 111.0 + SETTLE_S)


def test_what_could_not_be_moved_is_tried_again_later_each_time() -> None:
    balancer = Balancer()
    balancer.refused(1, "it has mapped a device", 100.0)
    assert not balancer.may_move(1, 100.0 + REFUSED_S - 1)
    assert balancer.may_move(1, 100.0 + REFUSED_S)
    assert balancer.refusal(1) == "it has mapped a device"
    balancer.refused(1, "it has mapped a device", 200.0)
    assert not balancer.may_move(1, 200.0 + 2 * REFUSED_S - 1)
    balancer.refused(1, "it traces another", 400.0)
    assert balancer.may_move(1, 400.0 + REFUSED_S)


def test_what_cannot_move_is_tried_a_few_times_an_hour() -> None:
    farm = Farm([Machine(HOME), Machine("a")], [Job(1, 5000.0, starts=HOME, stays=True)])
    farm.run(3600.0)
    assert farm.moves == []
    assert 3 <= farm.refusals <= 7


# by itself


def test_a_loop_at_home_is_gone_within_five_seconds() -> None:
    farm = Farm([Machine(HOME), Machine("a")], [Job(1, 100.0, starts=HOME)])
    farm.run(5.0)
    assert farm.where(1) == "a"


def test_of_two_loops_one_goes_and_both_run_at_full_speed() -> None:
    jobs = [Job(1, 100.0, starts=HOME), Job(2, 100.0, starts=HOME)]
    farm = Farm([Machine(HOME), Machine("a")], jobs)
    farm.run(5.0)
    assert sorted((farm.where(1), farm.where(2))) == ["a", HOME]
    farm.run(60.0)
    assert len(farm.moves) == 1


def test_what_is_not_to_move_does_not() -> None:
    farm = Farm([Machine(HOME), Machine("a")], [Job(1, 50.0, starts=HOME, tied=True)])
    farm.run(40.0)
    assert farm.moves == []


def test_a_loop_moves_on_when_its_node_gets_busy_and_home_when_that_is_best() -> None:
    machines = [
        Machine(HOME),
        Machine("a", rtt_s=0.002, others=hogs(2, 30.0)),
        Machine("b", others=hogs(2, 60.0, 100.0)),
    ]
    farm = Farm(machines, [Job(1, 1000.0, starts=HOME)])
    farm.run(120.0)
    places = [target for _, _, _, target in farm.moves]
    assert places == ["a", "b", HOME, "b"]
    times = [at for at, _, _, _ in farm.moves]
    assert times[1] - 30.0 <= 5.0
    assert times[2] - 60.0 <= 5.0
    assert times[3] >= 100.0


def flicker(seed: int, most: int, period_s: float) -> Callable[[float], int]:
    """Return others that come and go, each time for another while."""
    source = random.Random(seed)
    pattern: list[int] = []
    while len(pattern) < 20_000:
        pattern += [source.choice((0, most))] * source.randint(1, round(2 * period_s / 0.05))
    return lambda now: pattern[int(now / 0.05) % len(pattern)]


@pytest.mark.parametrize("period_s", [0.2, 1.0, 3.0])
def test_loads_that_come_and_go_make_nobody_go_to_and_fro(period_s: float) -> None:
    bed = [Machine(HOME, others=flicker(9, 1, period_s))]
    bed += [Machine(f"n{seed}", others=flicker(seed, 1, period_s)) for seed in range(4)]
    jobs = [Job(pid, 10_000.0, starts=HOME) for pid in range(1, 4)]
    farm = Farm(bed, jobs)
    minutes = 10
    farm.run(60.0 * minutes)
    for job in jobs:
        times = [at for at, pid, _, _ in farm.moves if pid == job.pid]
        gaps = [after - before for before, after in pairwise(times)]
        assert all(gap >= SETTLE_S for gap in gaps)
    print(f"period {period_s:g} s: {len(farm.moves)} moves of 3 programs in {minutes} min")
    # Three must leave home. Beyond that, less than one in a minute each, whatever the loads do.
    assert len(farm.moves) <= 3 + 3 * minutes * (0.3 if period_s < 1 else 1.0)


def test_equal_loads_that_flicker_fast_move_nobody_at_all() -> None:
    bed = [Machine(HOME, others=hogs(5, 0.0))]
    bed += [Machine(f"n{seed}", others=flicker(seed, 1, 0.15)) for seed in range(4)]
    farm = Farm(bed, [Job(pid, 10_000.0, starts=f"n{pid}") for pid in range(4)])
    farm.run(300.0)
    assert farm.moves == []


# until all is done


@pytest.mark.parametrize("bed", sorted(BEDS))
@pytest.mark.parametrize("starts", ["", HOME])
def test_twenty_programs_take_little_longer_than_the_best_schedule(bed: str, starts: str) -> None:
    ratios = sorted(ratio(BEDS[bed], lengths(seed), starts) for seed in range(9))
    print(f"{bed}, {starts or 'placed'}: {' '.join(f'{each:.3f}' for each in ratios)}")
    assert ratios[len(ratios) // 2] <= 1.15
