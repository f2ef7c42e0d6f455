"""The rules of the JSON Trace Event Format, as far as a story of mrun uses it."""

from itertools import pairwise
from typing import Any


def events(found: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [event for event in found["traceEvents"] if event["ph"] == phase]


def check(found: dict[str, Any]) -> None:
    """Fail unless the rules of the format are kept."""
    named = {(e["name"], e["pid"], e["tid"]) for e in events(found, "M")}
    lanes: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for bar in events(found, "X"):
        assert bar["ts"] >= 0
        assert bar["dur"] >= 1
        assert ("process_name", bar["pid"], 0) in named
        assert ("thread_name", bar["pid"], bar["tid"]) in named
        lanes.setdefault((bar["pid"], bar["tid"]), []).append(bar)
    for lane in lanes.values():
        lane.sort(key=lambda bar: bar["ts"])
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(lane))
    starts = {e["id"]: e for e in events(found, "s")}
    ends = {e["id"]: e for e in events(found, "f")}
    assert starts.keys() == ends.keys()
    assert len(starts) == len(events(found, "s")) == len(events(found, "f"))
    for number, start in starts.items():
        end = ends[number]
        assert (start["cat"], start["name"]) == (end["cat"], end["name"])
        assert start["ts"] <= end["ts"]
        for event in (start, end):
            # Else nobody knows to which bar it belongs.
            lane = lanes[event["pid"], event["tid"]]
            assert sum(b["ts"] <= event["ts"] < b["ts"] + b["dur"] for b in lane) == 1
