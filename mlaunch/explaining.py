"""Explaining: why a program runs where it does, or where one would run now, for `mlaunch why`.

The question is {"do": "why"} with `pid`, or with `exe`, `argv` and `cwd` of a program that does
not run; nothing is entered anywhere for it. The answer, None for what is not known:

    pid        of the program (a program: None); `mrun` the pid of its own
    argv, exe
    state      "running", "ended", or "not running"
    node, at   where, and since when (seconds since 1970)
    reason     for that node, or for staying
    keeps      what keeps it from moving, in words; empty: nothing does
    keeps_names    the names of those reasons (stubs.migration.whynot), as far as they have any
    migrations of each move: at, from, to, why, frozen_ms, bytes
    restarts
    expected   cpu_s (of home's CPU), memory_bytes, round_trips, bytes_to_node, bytes_to_home, why
               (how all this is known), stays (why it has to run at home, empty if it may go)
    measured   cpu_s, wall_s, rss_bytes, round_trips, bytes_to_node, bytes_to_home: until now, or
               until its end
    ranking    of each place that came into question, best first: name, finish_s and the numbers
               that the decision used: cpus, idle_cpus, speed (home: 1), rtt_ms, slots_used,
               queued_s (of home's CPU), memory_available_bytes, load1, running, guests_cpu
    rejected   reason, nodes (their names)
    bodies     (of an mrun) how many run
    child      (of a program not running) all this, had a program under mrun started it
    history    (of a program not running) runs, node_runs (that found its files there), cpu_s,
               wall_s, memory_bytes, round_trips, bytes_to_node, bytes_to_home, pooled (other
               arguments count, too), and last: at, node, reason of the last one remembered
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlaunch.errors import LaunchError, plain
from mlaunch.estimate import relative_speed
from mlaunch.guess import keeps_together
from mlaunch.states import HOME, Candidate, NodeState
from stubs.home.run.proc import read_stat, read_strings
from stubs.wire.messages import Place, Reasons
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.balancing import Balancing
    from mlaunch.journal import Decision, Record
    from mlaunch.moving import Moving
    from mlaunch.placing import Placing
    from mlaunch.profiles import Profile
    from stubs.link.loop import Loop

# How long a node may take to look what keeps a body from moving.
PATIENCE_S = 1.0

# No family of processes is so deep.
DEEPEST = 100


class Explaining:
    """Answers who asks why."""

    def __init__(self, placing: Placing, moving: Moving, balancing: Balancing) -> None:
        """Explain what `placing` decides, and what `moving` and `balancing` do with it."""
        self._placing = placing
        self._journal = placing.journal
        self._moving = moving
        self._balancing = balancing

    def process(self, pid: int) -> dict[str, Any]:
        """Explain a process; LaunchError when nothing is known of it."""
        journal = self._journal
        mrun = journal.mrun(pid)
        if mrun is not None and mrun.top is not None:
            bodies = sum(record.mrun is mrun for record in journal.bodies())
            return {**self._record(mrun.top), "bodies": bodies}
        record = journal.running.get(pid) or self._unasked(pid) or journal.remembered.get(pid)
        for each in reversed(journal.remembered.values()):
            if record is None and each.top and each.mrun.pid == pid:
                record = each
        if record is None:
            raise LaunchError(f"nothing is known of a process {pid}", "what runs: mlaunch ps", 1)
        return record if isinstance(record, dict) else self._record(record)

    def add_reasons(self, known: dict[str, Any], then: Callable[[], None], loop: Loop) -> None:
        """Add to what `process` has said what the node of a body says that keeps it from moving.

        `then` is called once, after PATIENCE_S at the latest.
        """
        record = self._journal.running.get(known["pid"] or 0)
        if record is None or not record.away:
            then()
            return
        waiting = [then]

        def answered(reasons: Reasons | None) -> None:
            if waiting and reasons is not None and reasons.names:
                known["keeps_names"] = [plain(name) for name in reasons.names]
                told = [plain(sentence) for sentence in reasons.sentences]
                # What it was refused for is not said twice.
                own = known["keeps"] if not any(each in known["keeps"] for each in told) else ""
                known["keeps"] = "; ".join([own, *told] if own else told)
            go_on()

        def go_on() -> None:
            if waiting:
                waiting.pop()()

        loop.call_later(PATIENCE_S, go_on)
        self._moving.ask_reasons(record, answered)

    def _keeps(self, record: Record) -> str:
        """Say what is known here of what keeps a program from moving."""
        if record in self._moving.under_way:
            return f"it is being moved to {self._moving.under_way[record]} just now"
        if record.stay:
            return "it was started with --stay: it moves only when told to (mlaunch migrate)"
        if record.only == {record.place}:
            return f"it is to run on {record.place} only: it moves only when told to"
        refusal = self._balancing.refusal(record.pid)
        if refusal:
            return f"when it was last tried: {refusal}"
        return "" if record.away else record.decision.program.stays

    def program(self, exe: str, argv: list[str], cwd: str) -> dict[str, Any]:
        """Explain what would happen to a program now."""
        last = next((r for r in reversed(self._journal.remembered.values()) if r.exe == exe), None)
        profile = self._placing.ledger.lookup(exe, argv)
        return {
            **self._would(exe, argv, cwd, top=True),
            "child": self._would(exe, argv, cwd, top=False),
            "history": _history(profile, last),
        }

    def _record(self, record: Record) -> dict[str, Any]:
        running = self._journal.running.get(record.pid) is record
        return {
            "pid": record.pid,
            "mrun": record.mrun.pid,
            "argv": record.argv,
            "exe": record.exe,
            "state": "running" if running else "ended",
            "node": record.place,
            "at": record.at,
            "reason": record.reason,
            "lost": record.lost,
            "keeps": self._keeps(record) if running else "",
            "keeps_names": [],
            "migrations": [migration.told() for migration in record.migrations],
            "restarts": record.restarts,
            "measured": _measured(record),
            **_decision(record.decision),
        }

    def _would(self, exe: str, argv: list[str], cwd: str, top: bool) -> dict[str, Any]:
        place = Place(
            version=VERSION,
            pid=0,
            exe=os.fsencode(exe),
            cwd=os.fsencode(cwd),
            node=b"",
            only=[],
            strict=0,
            top=top,
            stay=False,
            argv=[os.fsencode(word) for word in argv],
        )
        profile = self._placing.ledger.lookup(exe, argv)
        decision = self._placing.choose(place, exe, argv, profile)
        return {
            "pid": None,
            "mrun": None,
            "argv": argv,
            "exe": exe,
            "state": "not running",
            "node": decision.node,
            "at": None,
            "reason": decision.reason,
            "keeps": "",
            "keeps_names": [],
            "migrations": [],
            "restarts": 0,
            "measured": None,
            **_decision(decision),
        }

    def _unasked(self, pid: int) -> dict[str, Any] | None:
        """Explain a process under an mrun that was not asked about; None if it is no such one."""
        line = _line(pid)
        own = next((mrun for mrun in self._journal.mruns if mrun.pid in line), None)
        if own is None:
            return None
        try:
            exe, cwd = os.readlink(f"/proc/{pid}/exe"), os.readlink(f"/proc/{pid}/cwd")
            argv = [os.fsdecode(word) for word in read_strings(pid, "cmdline")]
        except OSError:
            return None  # it has just ended
        found = self._would(exe, argv, cwd, top=False)
        reason = found["reason"]
        if found["node"] != HOME:
            reason = "it was not asked about when it began"
        for each in line:
            parent = self._journal.running.get(each)
            if parent is not None and not parent.away and keeps_together(parent.exe):
                reason = f"{os.path.basename(parent.exe)} ({each}) stays, and its passes with it"
        return {
            **found,
            "pid": pid,
            "mrun": own.pid,
            "state": "running",
            "node": HOME,
            "reason": reason,
            "keeps": reason,
        }


def _line(pid: int) -> list[int]:
    """Return the ancestors of a process, its parent first."""
    found: list[int] = []
    try:
        while pid > 1 and len(found) < DEEPEST:
            pid = read_stat(pid).ppid
            found.append(pid)
    except OSError:
        pass  # one of them has just ended
    return found


def _decision(decision: Decision) -> dict[str, Any]:
    program = decision.program
    states = {state.name: state for state in (decision.home, *decision.nodes)}
    good = [item for item in decision.candidates if item.finish_s is not None]
    reasons: dict[str, list[str]] = {}
    for item in decision.candidates:
        if item.finish_s is None:
            # Numbers in parentheses differ from node to node.
            reasons.setdefault(item.reason.partition(" (")[0], []).append(item.name)
    return {
        "expected": {
            "cpu_s": program.cpu_s,
            "memory_bytes": program.memory,
            "round_trips": program.round_trips,
            "bytes_to_node": program.bytes_to_node,
            "bytes_to_home": program.bytes_to_home,
            "why": program.why,
            "stays": program.stays,
        },
        "ranking": [_place(item, states.get(item.name), decision.home) for item in good],
        "rejected": [{"reason": reason, "nodes": names} for reason, names in reasons.items()],
    }


def _place(item: Candidate, state: NodeState | None, home: NodeState) -> dict[str, Any]:
    found: dict[str, Any] = {"name": item.name, "finish_s": item.finish_s, "reason": item.reason}
    if state is not None:
        found |= {
            "cpus": state.cpus,
            "idle_cpus": state.idle,
            "speed": relative_speed(state, home),
            "rtt_ms": state.rtt_s * 1000,
            "slots_used": state.slots_used,
            "queued_s": max(0.0, state.queued_s),
            "memory_available_bytes": state.memory_available,
            "load1": state.load1,
            "running": state.running,
            "guests_cpu": max(0.0, state.guests_cpu),
        }
    return found


def _measured(record: Record) -> dict[str, Any] | None:
    ended, usage = record.ended, record.usage
    if ended is not None and ended.wall_us:
        return {
            "cpu_s": ended.cpu_us / 1e6,
            "wall_s": ended.wall_us / 1e6,
            "rss_bytes": ended.maxrss_kib << 10,
            "round_trips": ended.round_trips,
            "bytes_to_node": ended.bytes_to_node,
            "bytes_to_home": ended.bytes_to_home,
        }
    if usage is not None:
        return {
            "cpu_s": usage.cpu_us / 1e6,
            "wall_s": max(0.0, record.measured_at - record.at),
            "rss_bytes": usage.rss_kib << 10,
            "round_trips": usage.round_trips,
            "bytes_to_node": usage.bytes_to_node,
            "bytes_to_home": usage.bytes_to_home,
        }
    return None


def _history(profile: Profile | None, last: Record | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    return {
        "runs": profile.runs,
        "node_runs": profile.node_runs,
        "cpu_s": profile.cpu_s,
        "wall_s": profile.wall_s,
        "memory_bytes": profile.memory,
        "round_trips": profile.round_trips,
        "bytes_to_node": profile.bytes_to_node,
        "bytes_to_home": profile.bytes_to_home,
        "pooled": profile.pooled,
        "last": last and {"at": last.at, "node": last.node, "reason": last.reason},
    }
