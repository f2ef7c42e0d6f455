"""Whose the processes of a node are, and what a body is told to use."""

from __future__ import annotations

import os

from stubs.node.capsule.processes import Process
from stubs.node.usage import by_body

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")
KIB = os.sysconf("SC_PAGE_SIZE") >> 10
INIT, GHOST = 1, 10


def process(pid: int, ppid: int, ticks: int = 0, state: bytes = b"S", rss: int = 1) -> Process:
    return Process(pid, ppid, pid, ticks, state, False, 2, rss)


CAPSULE = [process(INIT, 0, ticks=900), process(GHOST, INIT, ticks=90)]


def nobody(pid: int) -> int:
    return 0


def test_a_body_is_told_with_all_that_descends_from_it() -> None:
    processes = [
        *CAPSULE,
        process(100, GHOST, 5, b"T"),
        process(900, 100, 7, rss=3),
        process(901, 900, 11),
        process(200, GHOST, 100, b"R"),
    ]
    assert by_body(processes, {100: 100, 200: 200}, nobody) == [
        (100, ord("T"), 23 * TICK, 5 * KIB, 3, 6),
        (200, ord("R"), 100 * TICK, KIB, 1, 2),
    ]


def test_a_body_may_have_another_number_at_home() -> None:
    processes = [*CAPSULE, process(100, GHOST, 5), process(900, 100, 7)]
    assert by_body(processes, {100: 4711}, nobody) == [(4711, ord("S"), 12 * TICK, 2 * KIB, 2, 4)]


def test_an_orphan_is_whose_it_was_seen_to_be_and_so_are_its_children() -> None:
    processes = [
        *CAPSULE,
        process(900, GHOST, 7),
        process(901, 900, 11),
        process(950, GHOST, 1000),
        process(100, GHOST, 5),
    ]
    known = {900: 100}
    for order in (processes, processes[::-1]):
        rows = by_body(order, {100: 100}, lambda pid: known.get(pid, 0))
        assert rows == [(100, ord("S"), 23 * TICK, 3 * KIB, 3, 6)]


def test_a_body_that_has_just_gone_is_not_told_of() -> None:
    assert by_body(CAPSULE, {100: 100}, nobody) == []


def test_what_looks_like_a_loop_ends() -> None:
    # Read at different moments, between which a pid was used again.
    loop = [process(900, 901, 1), process(901, 900, 1), process(100, GHOST, 5)]
    rows = by_body([*CAPSULE, *loop], {100: 100}, nobody)
    assert rows == [(100, ord("S"), 5 * TICK, KIB, 1, 2)]


def test_a_body_that_ends_is_told_of_only_while_something_of_it_runs() -> None:
    ending = process(100, GHOST, 5)._replace(exiting=True)
    bodies = {100: 100, 200: 200}
    processes = [*CAPSULE, ending, process(200, GHOST)]
    assert [row[0] for row in by_body(processes, bodies, nobody)] == [100, 200]
    processes[-2] = ending._replace(threads=1)
    assert [row[0] for row in by_body(processes, bodies, nobody)] == [200]
