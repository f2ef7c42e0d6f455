"""Where bodies go, mrun by mrun: waits for nodes that are just being connected, asks, answers.

Runs in the daemon, on its loop. The policy itself is mlaunch.placement.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from mlaunch.errors import LaunchError
from mlaunch.estimate import relative_speed
from mlaunch.guess import expect, keeps_together, stays_whatever
from mlaunch.inventory import LOCAL, Inventory, Member
from mlaunch.journal import Decision, Journal
from mlaunch.ledger import Entry, Ledger
from mlaunch.load import HomeLoad
from mlaunch.placement import HOME, Candidate, Options, Program, rank
from mlaunch.spreading import HOME_COST_S, LEAST_S, STARTERS_S
from mlaunch.states import CHILD
from stubs.wire.messages import Computed, Ended, Place, Placed, Refused
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlaunch.profiles import Profile
    from mlaunch.slots import Slots
    from mlaunch.states import NodeState
    from stubs.link.endpoint import Endpoint
    from stubs.link.loop import Loop

# The first mrun waits so long for a first node, and a moment more for its neighbours.
FIRST_WAIT_S = 1.5
NEIGHBOUR_WAIT_S = 0.25
# A node asked for by name, or none but nodes allowed, is worth its whole connection time-out.
NAMED_WAIT_S = 12.0
# When there is no other node, one that failed so long ago is tried again at once.
TRY_AGAIN_S = 10.0
# Placed.sticky
TOGETHER = 2


class Pending:
    """An mrun that waits for a decision."""

    def __init__(self, client: Endpoint, tag: int, place: Place) -> None:
        """Note when it began to wait."""
        self.client = client
        self.tag = tag
        self.place = place
        self.since = time.monotonic()
        self.first_ready: float | None = None
        self.looked_at = 0.0  # when it is looked at again, whatever happens


class Placing:
    """Answers the mruns that ask where."""

    def __init__(self, loop: Loop, inventory: Inventory) -> None:
        """Choose among the nodes of `inventory`; whose changes are to be told by `settle`."""
        self.ledger = Ledger()
        self.load = HomeLoad(self.ledger.service)
        self.journal = Journal()
        self._loop = loop
        self._inventory = inventory
        self._pending: list[Pending] = []
        # By client: the link processes, by node, that it has a socket to.
        self._attached: dict[Endpoint, dict[str, int]] = {}

    @property
    def busy(self) -> bool:
        """Whether an mrun waits for its answer."""
        return bool(self._pending)

    def place(self, client: Endpoint, place: Place, tag: int) -> None:
        """Answer with Placed or Refused, now or when it can be decided."""
        self._inventory.read_config()
        error = self._inventory.config_error
        if error is not None and not place.strict:
            # A slip in the configuration keeps no program from running.
            client.reply(tag, Placed(HOME.encode(), 0, str(error).encode()))
            return
        try:
            self._check(place)
        except LaunchError as error:
            self._refuse(client, tag, place, error)
            return
        wanted = self._wanted(place)
        desperate = not any(member.ready for member in wanted)
        for member in wanted:
            at_once = bool(place.node) or (desperate and member.failed_for > TRY_AGAIN_S)
            self._inventory.connect(member, at_once)
        if _text(place.node) == HOME and not place.stay:
            # It has begun at home, but need not end there (mlaunch.balancing).
            for member in self._inventory.members.values():
                self._inventory.connect(member)
        self._pending.append(Pending(client, tag, place))
        self.settle()

    def _check(self, place: Place) -> None:
        """Raise what is wrong with the question itself."""
        if place.version != VERSION:
            raise LaunchError(
                f"the home daemon speaks protocol {VERSION}, this mrun {place.version}",
                "mlaunch daemon stop",
            )
        if self._inventory.config_error is not None:
            raise self._inventory.config_error
        names = [_text(name) for name in [*place.only, place.node] if name]
        for name in names:
            if name != HOME and self._inventory.find(name) is None:
                raise self._inventory.unknown(name)

    def _wanted(self, place: Place) -> list[Member]:
        """Return the members that come into question for it."""
        names = [place.node] if place.node else place.only
        if not names:
            return self._inventory.considered()
        found = [self._inventory.find(_text(name)) for name in names if _text(name) != HOME]
        return [member for member in found if member is not None]

    def settle(self) -> None:
        """Decide for those for whom it can be decided now."""
        for pending in list(self._pending):
            if pending.client.lost is not None:
                self._pending.remove(pending)
            elif not self._must_wait(pending):
                self._pending.remove(pending)
                self._decide(pending)

    def _must_wait(self, pending: Pending) -> bool:
        """Tell whether a node that may come into question should be waited for."""
        now = time.monotonic()
        until = self._patience(pending, now)
        if now >= until:
            return False
        if pending.looked_at != until:
            # The decision must fall in time even if nothing happens.
            pending.looked_at = until
            self._loop.call_later(until - now + 0.001, self.settle)
        return True

    def _patience(self, pending: Pending, now: float) -> float:
        """Return until when nodes that connect are waited for."""
        place = pending.place
        named = bool(place.node or place.strict)
        wanted = self._wanted(place)
        awaited = [item for item in wanted if item.connecting and (named or item.hopeful)]
        if not awaited or not (named or self._could_go(place)):
            return now
        if pending.first_ready is None and any(item.ready for item in wanted):
            pending.first_ready = now
        until = pending.since + (NAMED_WAIT_S if named else FIRST_WAIT_S)
        if not (named or place.top):
            # One node that is down is waited for once, not by each of a thousand compilers.
            until = min(until, max(item.began for item in awaited) + FIRST_WAIT_S)
        if pending.first_ready is not None:
            until = min(until, pending.first_ready + NEIGHBOUR_WAIT_S)
        return until

    def _could_go(self, place: Place) -> bool:
        """Tell whether any node could change the answer."""
        program = self._expect(place)
        return not program.stays and (bool(place.top) or program.cpu_s > LEAST_S)

    def _expect(self, place: Place) -> Program:
        exe, argv = _text(place.exe), [_text(word) for word in place.argv]
        profile = self.ledger.lookup(exe, argv)
        return expect(exe, argv, profile, bool(place.top), _text(place.cwd))

    def _decide(self, pending: Pending) -> None:
        client, tag, place = pending.client, pending.tag, pending.place
        exe, argv = _text(place.exe), [_text(word) for word in place.argv]
        profile = self.ledger.lookup(exe, argv)
        try:
            decision = self.choose(place, exe, argv, profile)
        except LaunchError as error:
            self._refuse(client, tag, place, error)
            return
        program, reason = decision.program, decision.reason
        member = self._inventory.find(decision.node) if decision.node != HOME else None
        # On that node or not at all: it is not to be anywhere else afterwards either.
        names = [place.node] if place.node and place.strict else place.only
        top, stay, only = bool(place.top), bool(place.stay), frozenset(map(_text, names))
        self.journal.decided(client, place.pid, exe, argv, top, decision, stay, only)
        holds = member.holds if member is not None else None
        entry = Entry(
            client,
            exe,
            argv,
            self._slots(program, member),
            self._speed(member),
            holds,
            cold=holds is not None and exe not in holds,
            service=_service(program, member),
        )
        self.ledger.enter(place.pid, entry, program.cpu_s)
        if member is None:
            sticky = 0
            if not place.top and not place.node:
                sticky = TOGETHER if keeps_together(exe) else int(stays_whatever(exe, profile))
            client.reply(tag, Placed(HOME.encode(), sticky, reason.encode()))
            return
        fds = self.attach(client, member, place.pid)
        client.reply(tag, Placed(member.name.encode(), 0, reason.encode()), fds)

    def choose(
        self, place: Place, exe: str, argv: Sequence[str], profile: Profile | None
    ) -> Decision:
        """Return what is best now, and enter it nowhere; LaunchError when it may not run at all."""
        program = expect(exe, argv, profile, bool(place.top), _text(place.cwd))
        ranking, home, nodes = self._rank(place, program)
        best = next((item for item in ranking if item.finish_s is not None), None)
        if best is None and place.strict:
            raise self._no_node(place, ranking)
        node = best.name if best is not None else HOME
        # A child that stays has a reason of its own; other programs had to find a better place.
        taken = best is not None and (node != HOME or not place.top or program.stays)
        reason = best.reason if best is not None and taken else _why_home(ranking)
        return Decision(node, reason, program, ranking, home, nodes)

    def _slots(self, program: Program, member: Member | None) -> Slots | None:
        """Return the slots of which such a program takes one; None: it hardly computes."""
        if member is not None:
            member.slots.cpus = member.cpus
            member.slots.speed = self._speed(member)
            return member.slots
        return None if program.starter or program.cpu_s <= LEAST_S else self.load.slots

    def _speed(self, member: Member | None) -> float:
        if member is None:
            return 1.0
        return relative_speed(member.placement(), self.load.state())

    def attach(self, client: Endpoint, member: Member, pid: int) -> list[int]:
        """Count a body; return a socket to the link process unless the client has got one."""
        member.reserve(pid)
        attached = self._attached.setdefault(client, {})
        if attached.get(member.name) == member.pid:
            return []
        attached[member.name] = member.pid
        ours, theirs = socket.socketpair()
        self._inventory.attach(member, pid, ours)
        return [theirs.detach()]

    def moved(self, pid: int, member: Member, cpu_us: int) -> None:
        """Note that a program runs on that node now; it had used `cpu_us` of CPU time before.

        On `local` it takes a slot of home's: they are the same CPUs.
        """
        speed = self._speed(member)
        slots = member.slots
        if member.name == LOCAL.name:
            slots = self.load.slots
        else:
            slots.cpus, slots.speed = member.cpus, speed
        self.ledger.move(pid, slots, speed, member.holds, cpu_us)

    def client_gone(self, client: Endpoint) -> None:
        """Forget what a client was given, and what it ran."""
        self._attached.pop(client, None)
        self.ledger.strike_all(client)
        self.journal.client_gone(client)

    def computed(self, message: Computed) -> None:
        """Note that there is room for another where a program ran."""
        self.ledger.computed(message.body)

    def ended(self, ended: Ended) -> None:
        """Note how a program ended that was asked about."""
        self.ledger.ended(ended)
        self.journal.ended(ended)

    def _rank(
        self, place: Place, program: Program
    ) -> tuple[list[Candidate], NodeState, list[NodeState]]:
        """Return the candidates, best first, and by which states of home and nodes."""
        self.load.sample()
        home = self.load.state()
        name = _text(place.node)
        if name == HOME:
            return [Candidate(HOME, 0.0, "asked for")], home, []
        wanted = self._wanted(place)
        child = not place.top
        if name:
            problem = wanted[0].problem if wanted else "gone"
            found = Candidate(name, None if problem else 0.0, problem or "asked for")
            return [found], home, [member.placement() for member in wanted]
        only = tuple(_text(item) for item in place.only)
        # `local` is this machine: comparing it with home would be comparing home with itself.
        embedded = any(member.name == LOCAL.name for member in wanted)
        if embedded and child:
            return [Candidate(HOME, program.cpu_s, "there is no other machine")], home, []
        states = [member.placement(child) for member in wanted]
        options = Options(
            home_bias=self._inventory.config.home_bias,
            allow_home=not embedded and not place.strict and (child or not only or HOME in only),
        )
        return rank(program, home, states, options), home, states

    def _no_node(self, place: Place, ranking: list[Candidate]) -> LaunchError:
        names = [item.name for item in ranking]
        if len(names) == 1:
            member = self._inventory.find(names[0])
            hint = member.remedy if member else ""
            return LaunchError(f"node {names[0]} cannot be used: {ranking[0].reason}", hint)
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in ranking)
        return LaunchError(f"no node can be used: {reasons}", "mlaunch doctor")

    def _refuse(self, client: Endpoint, tag: int, place: Place, error: LaunchError) -> None:
        self.journal.refused(place.pid, [_text(word) for word in place.argv[:1]], str(error))
        # One line is what the user is to see.
        client.reply(tag, Refused(error.exit_code, str(error).encode(), b""))


def _service(program: Program, member: Member | None) -> float:
    """Return what of a CPU of home's goes with a program while it runs, as far as foretold."""
    if program.kind != CHILD or program.starter or program.cpu_s <= LEAST_S:
        return 0.0
    return (STARTERS_S + (HOME_COST_S if member is not None else 0.0)) / program.cpu_s


def _why_home(ranking: list[Candidate]) -> str:
    """Say why no node was taken."""
    nodes = [item for item in ranking if item.name != HOME]
    if not nodes:
        return ranking[0].reason if ranking else "there is no node"
    what = "is better" if any(item.finish_s is not None for item in nodes) else "can be used"
    reasons = "; ".join(f"{item.name}: {item.reason}" for item in nodes)
    return f"no node {what} ({reasons})"


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
