"""Ranges of numbers, (start, end), as addresses and offsets come in them."""

from __future__ import annotations


def without(ranges: list[tuple[int, int]], taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of ranges (start, end) that no range of `taken` covers; both sorted."""
    found = []
    number = 0
    for start, end in ranges:
        while number and taken[number - 1][1] > start:
            number -= 1
        while number < len(taken) and taken[number][1] <= start:
            number += 1
        at, look = start, number
        while look < len(taken) and taken[look][0] < end:
            if taken[look][0] > at:
                found.append((at, taken[look][0]))
            at = max(at, taken[look][1])
            look += 1
        if at < end:
            found.append((at, end))
    return found


def within(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of ranges that others cover; both sorted."""
    return without(ranges, without(ranges, others))


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same ranges sorted, those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
