"""The journal: every program that was asked about, where it went and what became of it.

Runs in the daemon, told by mlaunch.placing; `mlaunch ps`, `why` and `top` show what is in it. What
runs is in it whole. Of what has ended the last REMEMBERED programs are kept, and of all that
happened the last MOST_EVENTS events. An entry costs a few microseconds, for there may be hundreds a
second: what is shown is put into words only when somebody looks.

Kinds of events: placed, stayed (only what the user typed), refused, restarted, moved (`node` is
where it is now), could not move (`node` is where it stays), lost, ended (bodies only), node up,
node lost.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from mlaunch.local import NAME as LOCAL
from mlaunch.states import HOME, Candidate, NodeState, Program, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stubs.wire.codec import Usage
    from stubs.wire.messages import Ended

REMEMBERED = 1000
MOST_EVENTS = 1000
# What is counted.
KINDS = ("placed", "stayed", "refused", "lost", "restarted", "moved")
# Words of a command line kept of a program that has ended, and nodes kept of a decision.
WORDS_KEPT = 20
NODES_KEPT = 64


class Decision(NamedTuple):
    """Where a program is to run, and the numbers behind it; `node` may be HOME."""

    node: str
    reason: str
    program: Program
    candidates: list[Candidate]
    home: NodeState
    nodes: list[NodeState]


class Migration(NamedTuple):
    """One move: when (seconds since 1970), from where to where, why, and what it cost."""

    at: float
    source: str
    target: str
    why: str
    frozen_ms: float
    bytes: int

    def told(self) -> dict[str, Any]:
        """Return it as `mlaunch why` has it."""
        return {
            "at": self.at,
            "from": self.source,
            "to": self.target,
            "why": self.why,
            "frozen_ms": self.frozen_ms,
            "bytes": self.bytes,
        }


class Mrun:
    """One mrun that has asked."""

    __slots__ = ("clients", "pid", "started", "top")

    def __init__(self, pid: int) -> None:
        """Begin now; `pid` is its own."""
        self.pid = pid
        self.started = time.time()
        self.clients: set[object] = set()
        self.top: Record | None = None  # the program that it was started for, if it was asked about


class Record:
    """One program: the decision, what was last measured of it, how it ended."""

    __slots__ = (
        "again",
        "argv",
        "at",
        "client",
        "decision",
        "ended",
        "exe",
        "lost",
        "measured_at",
        "migrations",
        "mrun",
        "node",
        "only",
        "pid",
        "reason",
        "restarts",
        "stay",
        "top",
        "usage",
    )

    def __init__(
        self, client: object, mrun: Mrun, pid: int, exe: str, argv: list[str], decision: Decision
    ) -> None:
        """Begin as just decided."""
        self.client = client
        self.mrun = mrun
        self.pid = pid
        self.exe = exe
        self.argv = argv
        self.decision = decision
        self.node = decision.node
        self.reason = decision.reason
        self.top = False
        self.stay = False  # it moves on the user's word only
        self.only: frozenset[str] = frozenset()  # where it is allowed to be; empty: anywhere
        self.at = time.time()
        self.migrations: list[Migration] = []
        self.restarts = 0
        self.again = False  # its node was lost, and no other has been found yet
        self.lost = ""  # why its node was lost
        self.usage: Usage | None = None
        self.measured_at = 0.0
        self.ended: Ended | None = None

    @property
    def away(self) -> bool:
        """Whether it is a body."""
        return self.node != HOME

    @property
    def place(self) -> str:
        """Where it is, as people say it: a body that has come home runs on `local`, at home."""
        return HOME if self.migrations and self.node == LOCAL else self.node

    def measured(self, usage: Usage, at: float) -> None:
        """Note what its node says that it uses."""
        self.usage, self.measured_at = usage, at


class Event(NamedTuple):
    """Something that happened; `seq` counts them, `at` in seconds since 1970."""

    seq: int
    at: float
    kind: str
    pid: int
    argv0: str
    node: str
    text: str


class Journal:
    """All records and events of this daemon."""

    def __init__(self) -> None:
        """Begin empty."""
        self.running: dict[int, Record] = {}
        self.remembered: OrderedDict[int, Record] = OrderedDict()
        self.last_event = 0
        self.decisions = 0
        self.counts = dict.fromkeys(KINDS, 0)
        # CPU seconds of bodies that have ended, and bytes of their files over the link.
        self.cpu_s = 0.0
        self.bytes_to_node = 0
        self.bytes_to_home = 0
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._mruns: dict[int, Mrun] = {}
        self._pids: dict[object, int] = {}  # of clients
        self._up: dict[str, bool] = {}

    @property
    def mruns(self) -> Iterable[Mrun]:
        """The mruns that are connected and have asked."""
        return self._mruns.values()

    def mrun(self, pid: int) -> Mrun | None:
        """Return the mrun of that pid, if it is one that runs."""
        return self._mruns.get(pid)

    def is_mrun(self, client: object) -> bool:
        """Tell whether that connection is of an mrun that has asked where to run a program."""
        mrun = self._mruns.get(self._pids.get(client, 0))
        return mrun is not None and client in mrun.clients

    def events_since(self, seq: int) -> list[Event]:
        """Return the events after that one, as far as they are kept."""
        found: list[Event] = []
        for event in reversed(self._events):
            if event.seq <= seq:
                break
            found.append(event)
        return found[::-1]

    def bodies(self) -> Iterator[Record]:
        """Yield the records of the bodies that there are."""
        return (record for record in self.running.values() if record.away)

    # what happens

    def connected(self, client: object, pid: int) -> None:
        """Note who is at the other end of a connection."""
        self._pids[client] = pid

    def client_gone(self, client: object) -> None:
        """Note that a connection has ended, and with it what is told of its programs."""
        pid = self._pids.pop(client, 0)
        mrun = self._mruns.get(pid)
        if mrun is None or client not in mrun.clients:
            return
        for record in [each for each in self.running.values() if each.client is client]:
            self._forget(record)
        mrun.clients.discard(client)
        if not mrun.clients:
            del self._mruns[pid]

    def decided(
        self,
        client: object,
        pid: int,
        exe: str,
        argv: list[str],
        top: bool,
        decision: Decision,
        stay: bool = False,
        only: frozenset[str] = frozenset(),
    ) -> None:
        """Note where a program is going to run, in this process or in what it is replaced by."""
        self.decisions += 1
        record = Record(client, self._mrun_of(client), pid, exe, argv, _bounded(decision))
        record.top, record.stay, record.only = top, stay, only
        if top and record.mrun.top is None:
            record.mrun.top = record
        before = self.running.get(pid)
        # The process of a body starts no other program: it is the same one again.
        if before is not None and (before.away or before.again):
            record.restarts = before.restarts + record.away
            record.again = not record.away
            record.at = before.at
            record.migrations = before.migrations
        self.running[pid] = self.remembered[pid] = record
        self.remembered.move_to_end(pid)
        if len(self.remembered) > REMEMBERED:
            self.remembered.popitem(last=False)
        if not record.away:
            self._count("stayed", record, record.reason, shown=top)
        elif record.restarts:
            self._count("restarted", record, record.reason)
        else:
            self._count("placed", record, record.reason)

    def moved(self, record: Record, node: str, why: str, frozen_us: int, bytes: int) -> None:
        """Note that a program runs on that node now."""
        source = record.place
        record.node = node
        record.reason = f"moved: {why}"
        target = HOME if node == LOCAL else node
        migration = Migration(time.time(), source, target, why, frozen_us / 1000, bytes)
        record.migrations.append(migration)
        text = f"from {source}: {why} ({in_words(frozen_us / 1e6)} frozen)"
        self.counts["moved"] += 1
        self._tell("moved", record.pid, _name(record), target, text)

    def not_moved(self, record: Record, target: str, why: str) -> None:
        """Note that a program could not be moved to a place, and why not."""
        self._tell("could not move", record.pid, _name(record), record.place, f"to {target}: {why}")

    def refused(self, pid: int, argv: list[str], text: str) -> None:
        """Note that a program cannot run as it was asked for."""
        self.counts["refused"] += 1
        self._tell("refused", pid, argv[0] if argv else "", "", text)

    def ended(self, ended: Ended) -> None:
        """Note how a program ended, or that it did not run where it was sent."""
        record = self.running.get(ended.pid)
        if record is None:
            return
        why = ended.reason.decode(errors="replace")
        if why and not ended.away:
            # It goes on at home, and nothing more will be told of it.
            record.reason = f"it was to run on {record.node}: {why}"
            record.node = HOME
            self._count("stayed", record, record.reason)
            return
        record.ended = ended
        self._forget(record)
        if why:
            record.lost = why
            self._count("lost", record, why)
        elif record.away:
            self.cpu_s += ended.cpu_us / 1e6
            self.bytes_to_node += ended.bytes_to_node
            self.bytes_to_home += ended.bytes_to_home
            text = f"{in_words(ended.cpu_us / 1e6)} of CPU in {in_words(ended.wall_us / 1e6)}"
            self._tell("ended", record.pid, _name(record), record.node, text)

    def forget_program(self, record: Record) -> None:
        """Note that the process of a program at home has ended, of which nothing more was told."""
        self._forget(record)

    def node_is(self, name: str, ready: bool, reason: str) -> None:
        """Note that a node can be used, or no more, and why."""
        if self._up.get(name, False) == ready:
            return
        self._up[name] = ready
        self._tell("node up" if ready else "node lost", 0, "", name, reason)
        if not ready:
            for record in self.bodies():
                if record.node == name:
                    record.lost = reason or "lost"

    def _forget(self, record: Record) -> None:
        if self.running.get(record.pid) is record:
            del self.running[record.pid]
        record.client = None
        del record.argv[WORDS_KEPT:]

    def _mrun_of(self, client: object) -> Mrun:
        pid = self._pids.get(client, 0)
        mrun = self._mruns.get(pid)
        if mrun is None:
            mrun = self._mruns[pid] = Mrun(pid)
        mrun.clients.add(client)
        return mrun

    def _count(self, kind: str, record: Record, text: str, shown: bool = True) -> None:
        self.counts[kind] += 1
        if shown:
            self._tell(kind, record.pid, _name(record), record.node, text)

    def _tell(self, kind: str, pid: int, argv0: str, node: str, text: str) -> None:
        self.last_event += 1
        self._events.append(Event(self.last_event, time.time(), kind, pid, argv0, node, text))

    def totals(self) -> dict[str, Any]:
        """Return the counts, and what bodies have used until now."""
        used = [record.usage for record in self.bodies() if record.usage is not None]
        return {
            **self.counts,
            "cpu_s_away": self.cpu_s + sum(usage.cpu_us for usage in used) / 1e6,
            "bytes_to_node": self.bytes_to_node + sum(usage.bytes_to_node for usage in used),
            "bytes_to_home": self.bytes_to_home + sum(usage.bytes_to_home for usage in used),
        }


def _name(record: Record) -> str:
    return record.argv[0] if record.argv else record.exe


def _bounded(decision: Decision) -> Decision:
    """Return it without the states of more nodes than anybody wants to see."""
    if len(decision.nodes) <= NODES_KEPT:
        return decision
    names = {candidate.name for candidate in decision.candidates[:NODES_KEPT]}
    return decision._replace(nodes=[node for node in decision.nodes if node.name in names])
