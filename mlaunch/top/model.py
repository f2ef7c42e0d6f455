"""What is known of nodes, children and totals, from one answer of the daemon to the next.

The daemon counts (CPU seconds, bytes, decisions); rates are made here, from successive answers. A
daemon that has been started anew begins to count from nothing: what was known of the old one goes.
Text that comes from programs and nodes is made printable here, once, and nowhere else.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlaunch.top.quantities import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

# Nodes report about once a second: over less, a rate would jump between nothing and double.
WINDOW_S = 2.0

# Events kept: of all kinds, and of those that do not happen with every child.
MOST_EVENTS = 500
MOST_NOTABLE = 50
_COMMON = frozenset({"placed", "stayed", "ended"})

# What proc(5) calls the states of a process, in words.
_STATES = {
    "R": "running", "S": "sleeping", "D": "waiting", "T": "stopped", "t": "traced",
    "Z": "ended", "X": "ended", "I": "idle", "-": "starting",
}  # fmt: skip


class Rate:
    """How fast a counter grows, over the last WINDOW_S seconds or the last two samples."""

    def __init__(self) -> None:
        """Know no sample."""
        self._samples: deque[tuple[float, float]] = deque()

    def take(self, at: float, value: float) -> None:
        """Note the counter at a time; one that has become less begins anew."""
        samples = self._samples
        if samples and (value < samples[-1][1] or at <= samples[-1][0]):
            samples.clear()
        samples.append((at, value))
        while len(samples) > 2 and samples[1][0] <= at - WINDOW_S:
            samples.popleft()

    @property
    def per_s(self) -> float | None:
        """Growth per second; None before the second sample."""
        if len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at)


@dataclass(frozen=True, slots=True)
class Child:
    """A remote child: a body and the deputy whose pid it has. None: not known yet."""

    pid: int
    ppid: int
    mrun: int
    node: str
    state: str
    command: str
    cpu_percent: float | None  # of one CPU, between the last two measurements
    cpu_s: float | None
    rss_bytes: int | None
    age_s: float
    round_trips: int | None
    migrations: int
    why: str
    told: dict[str, Any]  # the daemon's own words: not printable


@dataclass(frozen=True, slots=True)
class Mrun:
    """An mrun and its program."""

    pid: int
    command: str
    state: str
    cpu_s: float | None  # of what it was started for
    rss_bytes: int | None
    age_s: float
    bodies: int
    at_home: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node, or home; CPUs are numbers of CPUs, traffic is bytes per second."""

    name: str
    host: str
    state: str
    problem: str  # why it cannot be used, and the remedy
    cpus: float | None
    guests_cpus: float
    others_cpus: float
    memory_bytes: int | None
    rtt_ms: float | None
    to_node: float | None
    to_home: float | None
    guests: int
    owner_active: bool


class Model:
    """All that a frame shows."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.problem = "asking the home daemon"
        self.at = 0.0  # unix time of the last answer
        self._forget(0)

    def _forget(self, daemon: int) -> None:
        self._daemon = daemon
        self.nodes: list[Node] = []
        self.children: dict[int, Child] = {}
        self.mruns: dict[int, Mrun] = {}
        self.totals: dict[str, Any] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self.notable: deque[dict[str, Any]] = deque(maxlen=MOST_NOTABLE)
        self.last_event = 0
        self.decisions_per_s: float | None = None
        self._decisions = Rate()
        self._traffic: dict[tuple[str, int], tuple[Rate, Rate]] = {}
        # pid and start of a body: when it was last measured, its CPU seconds and per cent then.
        self._measured: dict[tuple[int, float], tuple[float, float, float | None]] = {}

    def lose(self, problem: str) -> None:
        """There is no answer; `problem` says why. What was known is out of date."""
        self._forget(0)
        self.problem = problem

    def take(self, answer: dict[str, Any]) -> None:
        """Take over an answer to the question "observe"."""
        daemon = answer["daemon"]
        if daemon["pid"] != self._daemon:
            self._forget(daemon["pid"])
        self.problem = ""
        self.at = answer["at"]
        self._decisions.take(self.at, daemon["decisions"])
        self.decisions_per_s = self._decisions.per_s
        self._take_nodes(answer["nodes"], Counter(told["node"] for told in answer["bodies"]))
        bodies_at_home = sum(told["at_home"] for told in answer["mruns"])
        self.nodes.insert(0, _home(answer["home"], bodies_at_home))
        self._take_bodies(answer["bodies"])
        self.mruns = {told["pid"]: self._mrun(told) for told in answer["mruns"]}
        self.totals = answer["totals"]
        self._take_events(answer["events"])
        self.last_event = answer["last_event"]

    def _take_nodes(self, nodes: list[dict[str, Any]], guests: Counter[str]) -> None:
        kept = {}
        self.nodes = []
        for told in nodes:
            # A new link counts from nothing.
            link = (told["name"], told["link_pid"])
            rates = kept[link] = self._traffic.get(link) or (Rate(), Rate())
            for rate, counter in zip(rates, ("bytes_to_node", "bytes_to_home"), strict=True):
                rate.take(self.at, told[counter] or 0)
            self.nodes.append(_node(told, guests[told["name"]], *rates))
        self._traffic = kept

    def _take_bodies(self, bodies: list[dict[str, Any]]) -> None:
        kept = {}
        self.children = {}
        for told in bodies:
            body = (told["pid"], told["started"])
            kept[body] = self._measure(told, self._measured.get(body))
            self.children[told["pid"]] = self._child(told, kept[body][2])
        self._measured = kept

    def _measure(
        self, told: dict[str, Any], before: tuple[float, float, float | None] | None
    ) -> tuple[float, float, float | None]:
        """Return when it was measured, CPU seconds, and per cent since it was measured before.

        Of one that was measured once only, that is since its start, as ps(1) has it.
        """
        at, cpu_s = told["measured_at"], told["cpu_s"]
        if at is None or cpu_s is None:
            return before or (0.0, 0.0, None)
        if before is not None and before[0] == at:
            return before
        since, used = before[:2] if before is not None and before[0] else (told["started"], 0.0)
        percent = max(0.0, cpu_s - used) / (at - since) * 100 if at > since else None
        return at, cpu_s, percent

    def _child(self, told: dict[str, Any], percent: float | None) -> Child:
        return Child(
            pid=told["pid"],
            ppid=told["ppid"],
            mrun=told["mrun"],
            node=printable(told["node"]),
            state=_state(told),
            command=_command(told["argv"]),
            cpu_percent=percent,
            cpu_s=told["cpu_s"],
            rss_bytes=told["rss_bytes"],
            age_s=max(0.0, self.at - told["started"]),
            round_trips=told["round_trips"],
            migrations=_many(told["migrations"]),
            why=printable(told["why"] or ""),
            told=told,
        )

    def _mrun(self, told: dict[str, Any]) -> Mrun:
        age = max(0.0, self.at - told["started"])
        return Mrun(
            pid=told["pid"],
            command=_command(told["argv"]),
            state=_state(told),
            cpu_s=told["cpu_s"],
            rss_bytes=told["rss_bytes"],
            age_s=age,
            bodies=told["bodies"],
            at_home=told["at_home"],
        )

    def _take_events(self, events: list[dict[str, Any]]) -> None:
        for told in events:
            if told["seq"] > self.last_event:
                words = {key: printable(told[key] or "") for key in ("kind", "node", "text")}
                argv0 = printable((told["argv0"] or "").rpartition("/")[2])
                event = {**told, **words, "argv0": argv0}
                self.events.append(event)
                if event["kind"] not in _COMMON:
                    self.notable.append(event)


def _many(value: int | list[Any] | None) -> int:
    """Return a count of which perhaps the things themselves are told."""
    return len(value) if isinstance(value, list) else value or 0


def _state(told: dict[str, Any]) -> str:
    return _STATES.get(told["state"]) or printable(told["state"])


def _command(argv: Iterable[str]) -> str:
    """Return a command line as ps(1) shows it, the program without its directory."""
    words = [printable(word) for word in argv]
    if words:
        words[0] = words[0].rpartition("/")[2] or words[0]
    return " ".join(words)


def _home(told: dict[str, Any], guests: int) -> Node:
    """Return home as a node: its guests are the programs under mrun that stay."""
    return Node(
        name="home",
        host="",
        state="home",
        problem="",
        cpus=told["cpus"],
        guests_cpus=min(told["cpus"], told["guests_cpu"]),
        others_cpus=max(0.0, told["cpus"] - told["idle_cpus"] - told["guests_cpu"]),
        memory_bytes=told["memory_available_bytes"],
        rtt_ms=None,
        to_node=None,
        to_home=None,
        guests=guests,
        owner_active=False,
    )


def _node(told: dict[str, Any], bodies: int, to_node: Rate, to_home: Rate) -> Node:
    cpus, idle = told["cpus"], told["idle_cpus"]
    guests = others = 0.0
    if cpus is not None:
        guests = min(cpus, told["guests_cpu"] or 0.0)
        others = max(0.0, cpus - (idle or 0.0) - guests)
    usable = told["state"] in ("ready", "connecting")
    words = [] if told["state"] == "ready" else [told["reason"] or "", told["remedy"] or ""]
    return Node(
        name=printable(told["name"]),
        host=printable(told["host"]),
        state=printable(told["state"]),
        problem=printable("; ".join(word for word in words if word)),
        cpus=cpus,
        guests_cpus=guests,
        others_cpus=others,
        memory_bytes=told["memory_available_bytes"],
        rtt_ms=told["rtt_ms"],
        to_node=to_node.per_s if usable else None,
        to_home=to_home.per_s if usable else None,
        guests=bodies,
        owner_active=bool(told["owner_active"]),
    )
