"""The balancer: which programs that run should move, and where to. No I/O, no clock of its own.

As in MOSIX (Barak and Shiloh 1985, Barak and La'adan 1998), a place has two load averages of the
work of others: the one by which it sends away rises slowly and falls fast, so that a moment's work
drives nobody out; the one by which others send to it rises fast and falls slowly. What runs of ours
is known exactly. A program moves if

    load there + 1.3 times itself < load here

where a load is what competes for the CPUs, per CPU and speed. With that, and since no load counts
as less than one full CPU, it would gain nothing by going back. Of a place where several compute the
second-heaviest goes first: the heaviest costs most to move, and light ones change little.

By that rule alone the fastest machine would keep a crowd while others idle. So a program that has
to share CPUs goes to a free one even if it loses a little by it, for the others gain; and none
leaves a CPU that is its own for a crowd unless it gains more than that. Both ends of the rule are
ENOUGH: whoever goes by the one will not come back by the other.

Home is to be spared, as when programs are placed (mlaunch.placement): what runs for long leaves it
for a node that idles, and comes back when home is clearly the best place.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from mlaunch.estimate import (
    EQUAL,
    LEAST_MEMORY,
    MOST_MEMORY_STALL,
    distance,
    is_owner_active,
    relative_speed,
)
from mlaunch.spreading import others
from mlaunch.states import HOME, NodeState

# So many times itself has to fit where a program goes.
MARGIN = 1.3
# What is lost, or has to be gained, by a program that leaves a crowd, or joins one.
ENOUGH = 1.5
# The part by which an average comes nearer to what is measured, in a second.
SLOWLY = 0.25
FAST = 0.7
# A program that has used less CPU time may end in a moment; and so does one with less to do.
YOUNG_S = 1.0
LEAST_LEFT_S = 2.0
# What uses less of a CPU is not moved for load: it would not run any faster.
LEAST_DEMAND = 0.3
# A move takes so long, and what it takes to send the program's memory; a link whose bandwidth is
# not known is thought to be an ordinary one.
MOVE_S = 0.3
BANDWIDTH = 12e6
# After a move a program stays for so long, longer each time, until it has stayed CALM_S.
SETTLE_S = 10.0
SETTLE_MORE = 1.2
SETTLE_MOST_S = 120.0
CALM_S = 120.0
# One that could not be moved is not tried again for so long, twice as long for the same reason.
REFUSED_S = 60.0
REFUSED_MOST_S = 3600.0


class Running(NamedTuple):
    """A program of ours; `demand` in CPUs: what it would use if it had them for itself.

    `used_s` and `left_s` in seconds of home's CPU, `memory` in bytes, `trips` round trips that it
    waits for in each second of home's CPU. `tied`: it is not to move by itself. `only` names of
    places, if it is to be on no other.
    """

    pid: int
    place: str
    demand: float
    used_s: float
    left_s: float
    memory: int
    trips: float = 0.0
    tied: bool = False
    only: Set[str] = frozenset()


class Wish(NamedTuple):
    """A move that is to be made."""

    pid: int
    source: str
    target: str
    why: str


class Site(NamedTuple):
    """Home or a node. `own` and `advertised`: the work of others, in CPUs, in two averages.

    `closed`: why nothing may be sent there.
    """

    node: NodeState
    speed: float
    own: float
    advertised: float
    closed: str = ""

    @property
    def name(self) -> str:
        """HOME, or the node's name."""
        return self.node.name

    @property
    def short(self) -> str:
        """Why programs should leave for want of memory."""
        if self.node.memory_available < LEAST_MEMORY:
            return f"{self.node.memory_available >> 20} MiB available"
        if self.node.stall_memory > MOST_MEMORY_STALL:
            return f"tasks stalled {self.node.stall_memory:.0f} % of the time"
        return ""


class _Averages:
    """The work of others at one place."""

    def __init__(self, first: float) -> None:
        """Believe the first measurement in part: it may be a moment's."""
        self.own = 0.0
        self.advertised = first

    def take(self, measured: float, passed: float) -> None:
        """Come nearer to what is measured now."""
        slowly, fast = 1 - (1 - SLOWLY) ** passed, 1 - (1 - FAST) ** passed
        self.own += (measured - self.own) * (slowly if measured > self.own else fast)
        nearer = fast if measured > self.advertised else slowly
        self.advertised += (measured - self.advertised) * nearer


class _Past:
    """What became of the moves of one program."""

    def __init__(self) -> None:
        """Nothing has been tried."""
        self.moved_at = 0.0
        self.settle_s = 0.0
        self.refused_until = 0.0
        self.refused_s = 0.0
        self.refusal = ""


class Balancer:
    """What is to move now; remembers loads, and what was moved or could not be."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._averages: dict[str, _Averages] = {}
        self._past: dict[int, _Past] = {}
        self._wished: set[tuple[int, str]] = set()
        self._at: float | None = None

    def look(
        self, now: float, home: NodeState, nodes: list[NodeState], programs: list[Running]
    ) -> list[Site]:
        """Take what is measured now into account; return home and the nodes as thought of."""
        passed = 1.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        sites = []
        for node in (home, *nodes):
            ours = sum(program.demand for program in programs if program.place == node.name)
            measured = others(node, ours)
            averages = self._averages.setdefault(node.name, _Averages(measured))
            averages.take(measured, passed)
            speed = 1.0 if node is home else relative_speed(node, home)
            sites.append(Site(node, speed, averages.own, averages.advertised, node.problem))
        running = {program.pid for program in programs}
        self._past = {pid: past for pid, past in self._past.items() if pid in running}
        return sites

    def decide(
        self,
        now: float,
        sites: list[Site],
        programs: list[Running],
        home_bias: float,
        busy: Set[tuple[str, str]] = frozenset(),
    ) -> list[Wish]:
        """Return the moves to begin now; none between places of which one is in `busy` already.

        What is not for sparing home has to be wished for twice, so that no single report decides.
        """
        free = [each for each in programs if not each.tied and self.may_move(each.pid, now)]
        wishes = choose(free, programs, sites, home_bias)
        wished, self._wished = self._wished, {(wish.pid, wish.target) for wish in wishes}
        found: list[Wish] = []
        taken = set(busy)
        for wish in wishes:
            pair = (wish.source, wish.target)
            if pair not in taken and ((wish.pid, wish.target) in wished or wish.source == HOME):
                taken.add(pair)
                found.append(wish)
        return found

    def may_move(self, pid: int, now: float) -> bool:
        """Tell whether it has settled, and it is not known that it cannot be moved."""
        past = self._past.get(pid)
        if past is None:
            return True
        return now >= past.moved_at + past.settle_s and now >= past.refused_until

    def moved(self, pid: int, now: float) -> None:
        """Note that a program has moved, by whomever it was wished."""
        past = self._past.setdefault(pid, _Past())
        calm = now - past.moved_at > CALM_S
        longer = min(SETTLE_MOST_S, past.settle_s * SETTLE_MORE)
        past.settle_s = SETTLE_S if calm or not past.settle_s else longer
        past.moved_at = now
        past.refusal, past.refused_s = "", 0.0

    def refused(self, pid: int, reason: str, now: float) -> None:
        """Note that a program could not be moved, and why not."""
        past = self._past.setdefault(pid, _Past())
        again = past.refusal == reason
        past.refused_s = min(REFUSED_MOST_S, past.refused_s * 2) if again else REFUSED_S
        past.refusal, past.refused_until = reason, now + past.refused_s

    def refusal(self, pid: int) -> str:
        """Return why a program could not be moved when that was last tried."""
        past = self._past.get(pid)
        return past.refusal if past is not None else ""


# the policy


def choose(
    free: list[Running], programs: list[Running], sites: list[Site], home_bias: float
) -> list[Wish]:
    """Return what should move now, most urgent first; `free` are those of `programs` that may.

    Between two places one at a time.
    """
    loads = loads_of(sites, programs)
    wishes: list[Wish] = []

    def add(program: Running, target: Site, why: str) -> None:
        wishes.append(Wish(program.pid, program.place, target.name, why))
        loads[program.place] -= program.demand
        loads[target.name] += program.demand

    for site in sites:
        if site.short:
            heaviest = sorted(
                (each for each in free if each.place == site.name), key=lambda each: -each.memory
            )
            for program in heaviest:
                refuge = best_refuge(program, sites, loads)
                if refuge is not None and refuge.name != site.name:
                    add(program, refuge, f"memory: {site.short} {_at(site)}")
                    break
    for site in sorted(sites, key=lambda each: -_load(each, loads[each.name])):
        if site.short:
            continue
        targets = {site.name: site for site in sites}
        # Of CPU time it gets so much less there than it would have used by now.
        crowd = max(1.0, (site.own + loads[site.name]) / site.node.cpus)
        for program in _in_turn([each for each in free if each.place == site.name], crowd):
            target = better(program, site, [*targets.values()], loads, home_bias)
            if target is not None:
                add(program, target, _why(site, target, loads))
                del targets[target.name]
    return wishes


def best_refuge(program: Running, sites: list[Site], loads: dict[str, float]) -> Site | None:
    """Return where a program would be best off that has to leave; home at the worst."""
    open_ones = [
        site
        for site in sites
        if site.name != program.place and (site.name == HOME or _takes(site, program))
    ]
    return min(
        open_ones,
        key=lambda site: (_stretch(site, program, loads, 1.0), site.name == HOME),
        default=None,
    )


def better(
    program: Running, here: Site, sites: list[Site], loads: dict[str, float], home_bias: float
) -> Site | None:
    """Return where a program should go for its own sake, or to spare home; None if it stays."""
    if program.demand < LEAST_DEMAND or program.left_s < LEAST_LEFT_S:
        return None
    now = _stretch(here, program, loads, 1.0)
    crowded = _competing(here, program, loads, 1.0) >= here.node.cpus + program.demand
    found: list[tuple[float, Site]] = []
    for site in sites:
        if site.name == here.name or not _takes(site, program):
            continue
        there, limit = _stretch(site, program, loads, MARGIN), now
        idle = _idles(site, program, loads)
        bias = home_bias if site.name == HOME else 1.0
        if here.name == HOME and idle:
            limit *= MARGIN * home_bias
        elif idle and crowded:
            limit *= MARGIN * ENOUGH
        elif not idle and not crowded:
            limit /= ENOUGH
        gain_s = program.left_s * (limit - there * bias)
        if there * bias < limit and gain_s > _move_s(site, program):
            found.append((there * bias, site))
    if not found:
        return None
    best = min(there for there, _ in found)
    equal = [site for there, site in found if there <= best * (1 + EQUAL)]
    # The remotest of those that are equally good, as when it is placed.
    return max(equal, key=lambda site: (site.name != HOME, distance(site.node), site.name))


def loads_of(sites: list[Site], programs: list[Running]) -> dict[str, float]:
    """Return what of ours competes for the CPUs of each place."""
    return {site.name: _ours(site, programs) for site in sites}


def _ours(site: Site, programs: list[Running]) -> float:
    return sum(program.demand for program in programs if program.place == site.name)


def _load(site: Site, ours: float) -> float:
    return (site.own + ours) / (site.node.cpus * site.speed)


def _stretch(site: Site, program: Running, loads: dict[str, float], margin: float) -> float:
    """Return how many seconds it would take there for a second of home's CPU.

    Where it is not yet it has to fit `margin` times.
    """
    trips_s = program.trips * site.node.rtt_s if site.name != HOME else 0.0
    share = _competing(site, program, loads, margin) / site.node.cpus
    return max(margin, share) / site.speed + trips_s


def _competing(site: Site, program: Running, loads: dict[str, float], margin: float) -> float:
    """Return how much competes for the CPUs of a place with that program there."""
    if site.name == program.place:
        return site.own + loads[site.name]
    return site.advertised + loads[site.name] + margin * program.demand


def _idles(site: Site, program: Running, loads: dict[str, float]) -> bool:
    """Tell whether it would have there what it wants; a little of others' work does not count."""
    free = site.node.cpus - site.advertised - loads[site.name]
    return free >= min(program.demand, site.node.cpus) * (1 - LEAST_DEMAND)


def _takes(site: Site, program: Running) -> bool:
    """Tell whether it may be sent there."""
    room = site.node.memory_available - LEAST_MEMORY
    if program.only and site.name not in program.only:
        return False
    return not site.closed and not site.short and program.memory <= room


def _move_s(site: Site, program: Running) -> float:
    bandwidth = site.node.bandwidth or BANDWIDTH
    return MOVE_S + program.memory / bandwidth if site.name != HOME else MOVE_S


def _in_turn(programs: list[Running], crowd: float) -> list[Running]:
    """Return them in the order in which they should go: the second-heaviest first.

    But for those that would not have used much yet without a `crowd` that shares a CPU.
    """
    heavy = sorted(
        (each for each in programs if each.used_s * crowd >= YOUNG_S),
        key=lambda each: (-each.demand, -each.used_s, each.pid),
    )
    return heavy[1:2] + heavy[:1] + heavy[2:]


def _why(here: Site, target: Site, loads: dict[str, float]) -> str:
    """Say it in words, before the loads are those after the move."""
    competing = here.own + loads[here.name]
    back = "home is the best place now: " if target.name == HOME else ""
    cpus = f"{here.node.cpus:g} CPU{'s' * (here.node.cpus != 1)}"
    if competing > here.node.cpus * (1 + EQUAL):
        if is_owner_active(here.node):
            return f"{back}owner: somebody works {_at(here)}"
        whose = f", {here.own:.1f} of them others'" if here.own > EQUAL else ""
        return f"{back}load: {competing:.1f} compete for {cpus} {_at(here)}{whose}"
    if target.speed > here.speed:
        ratio = target.speed / here.speed
        return f"{back}speed: {target.name} is {ratio:.1f} times as fast"
    if here.name == HOME:
        return f"load: {target.name} idles, home is spared"
    return f"{back}load: less waiting than on {here.name}"


def _at(site: Site) -> str:
    return "at home" if site.name == HOME else f"on {site.name}"
