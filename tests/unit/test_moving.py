"""The daemon has a program moved: what the mrun is asked, and what is noted of its answer."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlaunch.balancing import Balancing
from mlaunch.errors import LaunchError
from mlaunch.inventory import Inventory, Member
from mlaunch.moving import Moving, Outcome
from mlaunch.movingquestions import MovingQuestions
from mlaunch.observing import Observing
from mlaunch.placing import Placing
from mlaunch.states import HOME
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.codec import Message, Usage
from stubs.wire.messages import (
    HOW_PROMPTLY,
    Attach,
    Ended,
    Error,
    Measure,
    Measured,
    Move,
    Moved,
    Place,
    Report,
)
from stubs.wire.version import VERSION

EBUSY = 16


class Bed:
    """A daemon's part that moves, two nodes whose links are played, and an mrun that is."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.inventory = Inventory(self.loop, lambda: None)
        self.inventory.read_config()
        self.placing = Placing(self.loop, self.inventory)
        self.journal = self.placing.journal
        self.ends: list[Endpoint] = []
        self.client, self.mrun = self._pair({Move: self._move}, {Place: self._place})
        self.journal.connected(self.client, os.getpid())
        self.attached: list[str] = []
        self.measured: list[str] = []
        for name in ("n1", "n2", "local"):
            self._connect(name)
        self.moves: list[tuple[Move, int]] = []
        self.on_move: Callable[[Move], None] = lambda message: None
        self.answer: Message = Moved(7, b"n1", 43_000, 200_000, 12_300_000)
        self.moving = Moving(self.placing, self.inventory, lambda members, patience, then: then())
        observing = Observing(self.loop, self.inventory, self.journal, self.placing.load)
        self.balancing = Balancing(self.placing, self.inventory, observing, self.moving)
        self.questions = MovingQuestions(self.moving, self.inventory, self.journal, self.balancing)
        self.outcomes: list[Outcome] = []

    def _pair(self, mine: dict[Any, Any], theirs: dict[Any, Any]) -> tuple[Endpoint, Endpoint]:
        """Return an end of the daemon's with handlers `theirs`, and the other with `mine`."""
        one, two = socket.socketpair()
        near = Endpoint(self.loop, SocketStream(one), theirs, lambda reason: None, "test")
        far = Endpoint(self.loop, SocketStream(two), mine, lambda reason: None, "test")
        self.ends += [near, far]
        return near, far

    def pair(self, handlers: dict[Any, Any]) -> tuple[Endpoint, Endpoint]:
        """Return an end of the daemon's that has those handlers, and the other."""
        return self._pair({}, handlers)

    def _connect(self, name: str) -> None:
        def attached(message: Attach, tag: int, fds: list[int]) -> None:
            self.attached.append(name)
            for fd in fds:
                os.close(fd)

        def measure(message: Measure, tag: int, fds: list[int]) -> None:
            self.measured.append(name)
            far.reply(tag, Measured(0, 0, []))

        member = self.node(name)
        member.link, far = self._pair({Attach: attached, Measure: measure}, {})
        member.state, member.pid = "ready", 1000 + len(name)

    def node(self, name: str) -> Member:
        member = self.inventory.find(name)
        assert member is not None
        return member

    def _place(self, message: Place, tag: int, fds: list[int]) -> None:
        self.placing.place(self.client, message, tag)

    def _move(self, message: Move, tag: int, fds: list[int]) -> None:
        self.moves.append((message, len(fds)))
        self.on_move(message)
        for fd in fds:
            os.close(fd)
        if self.answer is not None:
            self.mrun.reply(tag, self.answer)

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            self.loop.turn(0.05)
        raise AssertionError("nothing happened")

    def place(self, pid: int, node: str, program: str = "gzip", top: bool = True) -> None:
        exe, argv = f"/bin/{program}".encode(), [program.encode()]
        place = Place(VERSION, pid, exe, b"/", node.encode(), [], False, top, False, argv)
        answers: list[Message] = []
        self.mrun.request(place, answers.append)
        self.until(lambda: bool(answers))
        for fd in self.mrun.reply_fds:
            os.close(fd)

    def move(self, pid: int, target: str, why: str = "asked for") -> Outcome:
        (record,) = self.moving.named(pid)
        count = len(self.outcomes)
        self.moving.move(record, target, why, self.outcomes.append)
        self.until(lambda: len(self.outcomes) > count)
        return self.outcomes[-1]

    def ask(self, **question: Any) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []
        self.questions.answers[question.pop("do")](question, answers.append)
        self.until(lambda: bool(answers))
        found: dict[str, Any] = json.loads(json.dumps(answers[0]))
        return found

    @property
    def events(self) -> list[tuple[str, str, str]]:
        return [(each.kind, each.node, each.text) for each in self.journal.events_since(0)]

    def close(self) -> None:
        for end in self.ends:
            end.close("over")
        self.loop.close()


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    path = tmp_path / "config.toml"
    path.write_text('[[node]]\nname = "n1"\nhost = "a"\n[[node]]\nname = "n2"\nhost = "b"\n')
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("MLAUNCH_CONFIG", str(path))
    found = Bed()
    yield found
    found.close()


def test_a_body_moves_with_its_slot_its_record_and_an_event(bed: Bed) -> None:
    bed.place(7, "n1")
    outcome = bed.move(7, "n2", "load")
    assert outcome.error == ""
    ((message, sockets),) = bed.moves
    assert (message.pid, message.node, message.why, sockets) == (7, b"n2", b"load", 1)
    assert (bed.node("n1").slots.used, bed.node("n2").slots.used) == (0, 1)
    record = bed.journal.running[7]
    assert (record.node, record.reason) == ("n2", "moved: load")
    (migration,) = record.migrations
    assert migration[1:] == ("n1", "n2", "load", 43.0, 12_300_000)
    assert bed.events[-1] == ("moved", "n2", "from n1: load (43 ms frozen)")


def test_a_link_process_is_handed_a_socket_of_each_mrun_once(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.move(7, "n2")
    bed.move(7, "n1")
    assert [sockets for _, sockets in bed.moves] == [1, 0]
    bed.until(lambda: bed.attached == ["n1", "n2"])


def test_what_cannot_move_stays_where_it_is_and_it_is_said_why(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.answer = Error(EBUSY, b"it has mapped a device (/dev/dri/card0)")
    outcome = bed.move(7, "n2")
    assert outcome.error == "it has mapped a device (/dev/dri/card0)"
    assert (bed.node("n1").slots.used, bed.node("n2").slots.used) == (1, 0)
    record = bed.journal.running[7]
    assert (record.node, record.migrations) == ("n1", [])
    why = "to n2: it has mapped a device (/dev/dri/card0)"
    assert bed.events[-1] == ("could not move", "n1", why)
    assert bed.moving.under_way == {}


def test_a_body_comes_home_on_the_embedded_node(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.move(7, HOME)
    assert bed.moves[0][0].node == b"local"
    record = bed.journal.running[7]
    assert (record.node, record.place) == ("local", HOME)
    # It computes on home's CPUs.
    assert (bed.placing.load.slots.used, bed.node("local").slots.used) == (1, 0)
    assert bed.events[-1][:2] == ("moved", HOME)
    assert bed.move(7, HOME).error == "it is at home already"


def test_a_program_at_home_becomes_a_body(bed: Bed) -> None:
    bed.place(7, HOME)
    assert bed.journal.running[7].place == HOME
    assert bed.move(7, "n2").source == HOME
    assert bed.journal.running[7].away
    assert bed.node("n2").slots.used == 1


def test_what_one_that_moved_took_is_reckoned_in_seconds_of_homes_cpu(bed: Bed) -> None:
    bed.place(7, "n1")
    probe = bed.placing.load
    probe.state()  # measures it, the first time
    bed.until(lambda: probe.state().speed > 0)
    bed.node("n2").load = {"speed": int(probe.state().speed * 4), "cpus_milli": 1000}
    bed.journal.running[7].measured(Usage(7, ord("R"), 2_000_000, 10, 1, 1, 0, 0, 0), 1.0)
    bed.move(7, "n2")
    # Two seconds where it began, and one where a second does four times as much.
    bed.placing.ended(Ended(7, 1, 3_000_000, 3_000_000, 4_000_000, 100, 0, 0, 0, 0, 0, b""))
    profile = bed.placing.ledger.lookup("/bin/gzip", ["gzip"])
    assert profile is not None
    assert profile.cpu_s == pytest.approx(6.0)
    assert bed.node("n2").slots.used == 0


def test_an_mrun_that_goes_meanwhile_ends_the_move(bed: Bed) -> None:
    bed.place(7, "n1")
    (record,) = bed.moving.named(7)
    bed.moving.move(record, "n2", "load", bed.outcomes.append)
    bed.client.close("gone")
    assert [outcome.error for outcome in bed.outcomes] == ["it has ended"]
    bed.moving.move(record, "n2", "load", bed.outcomes.append)
    assert bed.outcomes[-1].error == "it has ended"
    assert bed.moving.under_way == {}


def test_the_pid_of_an_mrun_is_that_of_all_its_bodies(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.place(8, "n1")
    bed.place(9, HOME)
    answer = bed.ask(do="migrate", pid=os.getpid(), node="n2")
    assert sorted((each["pid"], each["to"]) for each in answer["outcomes"]) == [
        (7, "n2"),
        (8, "n2"),
    ]
    assert bed.ask(do="programs", pid=7) == {"programs": [7], "mruns": [os.getpid()]}
    with pytest.raises(LaunchError, match="no program of pid 999"):
        bed.ask(do="migrate", pid=999, node="n2")
    with pytest.raises(LaunchError, match="no node n3"):
        bed.ask(do="migrate", pid=7, node="n3")


def test_a_checkpoint_goes_to_a_file_and_the_program_on(bed: Bed) -> None:
    bed.place(7, "n1")
    answer = bed.ask(do="checkpoint", pid=7, path="/tmp/image")
    ((message, sockets),) = bed.moves
    assert (message.checkpoint, message.node, sockets) == (b"/tmp/image", b"n1", 0)
    assert answer["outcomes"][0]["error"] == ""
    assert bed.journal.running[7].migrations == []


def test_a_node_that_cannot_be_used_is_no_place_to_move_to(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.node("n2").state, bed.node("n2").reason = "lost", "it does not answer"
    assert bed.move(7, "n2").error == "n2 cannot be used: it does not answer"
    assert bed.moves == []


def emptied(bed: Bed, name: str) -> list[tuple[int, str, str]]:
    """Have a node emptied; return pid, where it went and the error of each that was there."""
    answer = bed.ask(do="expel", node=name)
    return sorted((each["pid"], each["to"], each["error"]) for each in answer["outcomes"])


def test_a_node_is_emptied_of_all_its_bodies_and_can_be_used_again_then(bed: Bed) -> None:
    for pid in range(7, 13):
        bed.place(pid, "n1")
    bed.place(20, "n2")
    found = emptied(bed, "n1")
    assert [pid for pid, _, _ in found] == list(range(7, 13))
    # One CPU each: what goes next goes where fewer are.
    assert {to for _, to, _ in found} == {"n2", HOME}
    assert all(error == "" for _, _, error in found)
    assert {record.node for record in bed.journal.bodies()} == {"n2", "local"}
    assert bed.node("n1").problem == ""
    assert emptied(bed, "n1") == []


def test_while_a_node_is_emptied_nothing_is_sent_there(bed: Bed) -> None:
    bed.place(7, "n1")
    seen: list[str] = []
    bed.on_move = lambda message: seen.append(bed.node("n1").problem)
    emptied(bed, "n1")
    assert seen == ["it is being emptied"]


def test_what_leaves_a_node_that_is_emptied_is_to_be_soon_away(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.move(7, "n2")
    emptied(bed, "n2")
    assert [message.how & HOW_PROMPTLY for message, _ in bed.moves] == [0, HOW_PROMPTLY]


def test_what_cannot_leave_a_node_is_named_and_stays(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.answer = Error(EBUSY, b"it has mapped a device")
    assert emptied(bed, "n1") == [(7, "n2", "it has mapped a device")]
    assert bed.journal.running[7].node == "n1"


def test_a_body_leaves_home_if_no_node_can_take_it(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.node("n2").state = "lost"
    assert emptied(bed, "n1") == [(7, HOME, "")]


def test_the_bodies_of_a_node_that_shuts_down_leave_it(bed: Bed) -> None:
    bed.place(7, "n1")
    member = bed.node("n1")
    member.link, link = bed.pair(
        {Report: lambda message, tag, fds: bed.inventory.report(member, message)}
    )
    told = {"state": "ready", "reason": "", "remedy": "", "rtt_ms": 1.0, "guests": 1}
    rest: dict[str, Any] = {"facts": {}, "load": {}, "leaving": True}
    link.post(Report(json.dumps({**told, **rest}).encode()))
    bed.until(lambda: bed.journal.running[7].node != "n1")
    assert bed.journal.running[7].reason == "moved: n1 is shutting down"
    assert member.problem == "it is shutting down"
    assert member.shown()["state"] == "leaving"


def test_auto_goes_where_it_is_best_or_says_that_it_is_there(bed: Bed) -> None:
    bed.place(7, "n1")
    bed.place(8, "n1")
    (outcome,) = bed.ask(do="migrate", pid=7, node="auto")["outcomes"]
    assert (outcome["from"], outcome["to"], outcome["error"]) == ("n1", "n2", "")
    (outcome,) = bed.ask(do="migrate", pid=7, node="auto")["outcomes"]
    assert (outcome["from"], outcome["to"], outcome["error"]) == ("n2", "n2", "")
    assert len(bed.moves) == 1


def test_a_node_is_asked_for_the_use_of_what_may_have_much_to_do_yet(bed: Bed) -> None:
    bed.place(7, "n1", "as", top=False)
    (record,) = bed.moving.named(7)
    record.at -= 1.0
    bed.balancing.tick()
    for _ in range(5):
        bed.loop.turn(0.01)
    # It is not thought to take two seconds, nor can it have.
    assert bed.measured == []
    record.at -= 2.0
    bed.balancing.tick()
    bed.until(lambda: "n1" in bed.measured)
