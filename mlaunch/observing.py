"""Observing: what runs where at this moment, for `mlaunch ps` and `top`.

Pulled, so that nobody pays while nobody watches: at each question the link processes of nodes in
use are asked what the bodies there use, and have PATIENCE_S for it. Of a node that is slow or lost
the rows before stay, with the time at which they were measured. Several who ask at once are
answered together. Runs in the daemon, on its loop.

The question is {"do": "observe"}, with any of

    events_since   tell the events after that one (0: all that are kept); without it none
    all            tell of programs at home as well
    words          tell so many words of each command line; without it all

and the answer, with times in seconds since 1970, CPU in CPU seconds, None for what is not known:

    at          now
    daemon      pid, cpu_s, rss_bytes, decisions, started. `last_event` begins at 0 in a new daemon.
    home        cpus, idle_cpus, load1, memory_available_bytes, speed,
                slots_used, guests_cpu (which programs under mrun use of its CPUs)
    nodes       of each what `mlaunch nodes` shows (Member.shown), and memory_total_bytes, speed,
                owner_active, guests_cpu (CPUs that our bodies use there), slots_used, link_pid
                (0: none), bytes_to_node and bytes_to_home of the link since it was made
    bodies      pid, ppid and pgrp (at home), argv, exe, node, state, started, cpu_s, rss_bytes,
                processes, threads, round_trips, bytes_to_node, bytes_to_home (of its files),
                restarts, migrations, why, mrun (the pid of its own), top (the user typed it),
                expected_cpu_s (of home's CPU), measured_at (None: not yet)
    home_programs   with `all`: programs that were asked about and stay, as in bodies
    mruns       pid, argv (of what it was started for), started, program (its pid), node, state,
                cpu_s, rss_bytes (of that, with its children at home that it has waited for), why,
                bodies and at_home (how many run of each, of those that were asked about)
    totals      placed, stayed, refused, lost, restarted, moved: decisions and what became of them
                since the daemon began; cpu_s_away, bytes_to_node, bytes_to_home: of bodies
    events      seq, at, kind, pid, argv0, node, text: see mlaunch.journal
    last_event  for the next question

`state` of a body is the letter of proc(5), T stopped among them; "lost" while its node is and no
other has been found; "-" when it has not been measured yet. Numbers of a body count all that
descends from it on its node.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from mlaunch.estimate import is_owner_active
from mlaunch.journal import Journal, Record
from mlaunch.states import HOME
from stubs.home.run.proc import read_strings
from stubs.node.capsule.processes import Process, read_process
from stubs.wire.messages import Measure, Measured

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.inventory import Inventory, Member
    from mlaunch.load import HomeLoad
    from stubs.link.loop import Loop, Timer
    from stubs.wire.codec import Message

    Answer = Callable[[dict[str, Any]], None]

PATIENCE_S = 0.3

# Of all command lines together; an answer has to fit a frame.
MOST_TEXT = 4 << 20
FEW_WORDS = 20

# What a node may say of the state of a process, proc(5).
STATES = "RSDTtZXxKWPI"

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Observing:
    """Answers who wants to see."""

    def __init__(self, loop: Loop, inventory: Inventory, journal: Journal, load: HomeLoad) -> None:
        """Show what is in `inventory`, `journal` and `load`."""
        self._loop = loop
        self._inventory = inventory
        self._journal = journal
        self._load = load
        self._started = time.time()
        self._askers: list[Callable[[], None]] = []
        self._asked: dict[Member, int] = {}  # links (by pid) that have yet to answer
        self._waiting: set[Member] = set()  # those of them that have been asked just now
        self._traffic: dict[str, tuple[int, int]] = {}  # by node: bytes each way
        self._quiet: dict[str, int] = {}  # by node: its link, which has told all that it had to
        self._patience: Timer | None = None

    def observe(self, question: dict[str, Any], answer: Answer) -> None:
        """Measure, then answer."""
        since, words = question.get("events_since"), question.get("words")
        events = None if since is None else int(since)
        most = None if words is None else max(1, int(words))
        everything = bool(question.get("all"))
        self.when_measured(lambda: answer(self._shown(events, most, everything)))

    def when_measured(self, then: Callable[[], None]) -> None:
        """Measure, then call `then`, which must not fail."""
        self._askers.append(then)
        if len(self._askers) == 1:
            self._measure()

    # measuring

    def _measure(self) -> None:
        """Ask the links in use, but for those that have not answered the last time."""
        in_use = {record.node for record in self._journal.bodies()}
        asked = [
            member
            for member in self._inventory.all()
            if member.ready
            and self._asked.get(member) != member.pid
            # Once more after the last body has gone, for what its link has carried.
            and (member.name in in_use or self._quiet.get(member.name) != member.pid)
        ]
        self._waiting = set(asked)
        self._asked.update((member, member.pid) for member in asked)
        self._patience = self._loop.call_later(PATIENCE_S, self._answer_all)
        for member in asked:
            assert member.link is not None
            member.link.request(Measure(), self._answered(member, member.pid))
        self._answer_if_complete()

    def _answered(self, member: Member, link: int) -> Callable[[Message], None]:
        def answered(message: Message) -> None:
            if self._asked.get(member) == link:
                del self._asked[member]
                self._waiting.discard(member)
            if isinstance(message, Measured):
                self._take(member, link, message)
            self._answer_if_complete()

        return answered

    def _take(self, member: Member, link: int, measured: Measured) -> None:
        now = time.time()
        self._traffic[member.name] = measured.bytes_to_node, measured.bytes_to_home
        if measured.usages or member.guests:
            self._quiet.pop(member.name, None)
        else:
            self._quiet[member.name] = link
        for usage in measured.usages:
            record = self._journal.running.get(usage.body)
            if record is not None and record.node == member.name:
                record.measured(usage, now)

    def _answer_if_complete(self) -> None:
        if self._askers and not self._waiting:
            self._answer_all()

    def _answer_all(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        askers, self._askers = self._askers, []
        for answer in askers:
            answer()

    # showing

    def _shown(self, since: int | None, words: int | None, everything: bool) -> dict[str, Any]:
        journal = self._journal
        records = list(journal.running.values())
        if words is None and sum(len(word) for each in records for word in each.argv) > MOST_TEXT:
            words = FEW_WORDS
        rows = {record: row for record in records if (row := self._row(record, words, everything))}
        shown = {
            "at": time.time(),
            "daemon": self._daemon(),
            "home": self._home(),
            "nodes": [self._node(member) for member in self._inventory.all()],
            "bodies": [row for record, row in rows.items() if record.away],
            "mruns": self._mruns(records, words),
            "totals": journal.totals(),
            "events": [] if since is None else [e._asdict() for e in journal.events_since(since)],
            "last_event": journal.last_event,
        }
        if everything:
            shown["home_programs"] = [row for record, row in rows.items() if not record.away]
        return shown

    def _daemon(self) -> dict[str, Any]:
        with open("/proc/self/statm") as file:
            rss = int(file.read().split()[1]) * _PAGE
        return {
            "pid": os.getpid(),
            "cpu_s": time.process_time(),
            "rss_bytes": rss,
            "decisions": self._journal.decisions,
            "started": self._started,
        }

    def _home(self) -> dict[str, Any]:
        state = self._load.state()
        return {
            "cpus": self._load.cpus,
            "idle_cpus": state.idle,
            "load1": state.load1,
            "memory_available_bytes": state.memory_available,
            "speed": state.speed,
            "slots_used": state.slots_used,
            "guests_cpu": max(0.0, state.guests_cpu),
        }

    def _node(self, member: Member) -> dict[str, Any]:
        load = member.load if member.ready else {}
        state = member.placement()
        to_node, to_home = self._traffic.get(member.name, (0, 0))
        return {
            **member.shown(),
            "memory_total_bytes": load.get("memory_total"),
            "speed": state.speed or None,
            "owner_active": bool(load) and is_owner_active(state),
            "guests_cpu": load.get("guests_cpu_milli", 0) / 1000,
            "slots_used": state.slots_used,
            "link_pid": member.pid,
            "bytes_to_node": to_node,
            "bytes_to_home": to_home,
        }

    def _mruns(self, records: list[Record], words: int | None) -> list[dict[str, Any]]:
        found = []
        for mrun in self._journal.mruns:
            own = [record for record in records if record.mrun is mrun]
            away = sum(record.away for record in own)
            top = mrun.top
            process = read_process(top.pid) if top is not None else None
            found.append(
                {
                    "pid": mrun.pid,
                    "argv": (top.argv if top is not None else _command_line(mrun.pid))[:words],
                    "started": mrun.started,
                    "program": top.pid if top is not None else None,
                    "node": top.place if top is not None else HOME,
                    **_at_home(process),
                    "why": top.reason if top is not None else "asked for",
                    "bodies": away,
                    "at_home": len(own) - away,
                }
            )
        return found

    def _row(self, record: Record, words: int | None, everything: bool) -> dict[str, Any] | None:
        """Return what is shown of a program that runs; None if its process has just ended."""
        if not record.away and not everything:
            return None
        process = read_process(record.pid)
        if process is None:
            if not record.away:
                self._journal.forget_program(record)
            return None
        return {
            "pid": record.pid,
            "ppid": process.ppid,
            "pgrp": process.pgrp,
            "argv": record.argv[:words],
            "exe": record.exe,
            "node": record.place,
            "started": record.at,
            **(_away(record) if record.away else _at_home(process)),
            "restarts": record.restarts,
            "migrations": len(record.migrations),
            "why": record.reason,
            "mrun": record.mrun.pid,
            "top": record.top,
            "expected_cpu_s": record.decision.program.cpu_s,
        }


def _away(record: Record) -> dict[str, Any]:
    usage = record.usage
    state = chr(usage.state) if usage is not None else "-"
    return {
        "state": "lost" if record.lost else state if state in STATES else "-",
        "cpu_s": usage.cpu_us / 1e6 if usage is not None else 0.0,
        "rss_bytes": usage.rss_kib << 10 if usage is not None else 0,
        "processes": usage.processes if usage is not None else 1,
        "threads": usage.threads if usage is not None else 1,
        "round_trips": usage.round_trips if usage is not None else 0,
        "bytes_to_node": usage.bytes_to_node if usage is not None else 0,
        "bytes_to_home": usage.bytes_to_home if usage is not None else 0,
        "measured_at": record.measured_at or None,
    }


def _at_home(process: Process | None) -> dict[str, Any]:
    found = process is not None
    return {
        "state": process.state.decode() if process is not None else "-",
        "cpu_s": process.ticks / _TICKS if process is not None else 0.0,
        "rss_bytes": process.rss * _PAGE if process is not None else 0,
        "processes": int(found),
        "threads": process.threads if process is not None else 0,
        "round_trips": 0,
        "bytes_to_node": 0,
        "bytes_to_home": 0,
        "measured_at": time.time() if found else None,
    }


def _command_line(pid: int) -> list[str]:
    """Return the words of a process of which nothing else is known; empty when it has ended."""
    try:
        return [word.decode(errors="replace") for word in read_strings(pid, "cmdline")]
    except OSError:
        return []
