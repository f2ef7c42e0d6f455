import socket
import time
from collections.abc import Callable, Iterator

import pytest

from mlaunch import pulse
from mlaunch.pulse import FIRST_PINGS, Pulse
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Gone, Ping, Pong


class Bed:
    """Both ends of a connection; the far one answers pings while `answers`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.answers = True
        self.pings = 0
        self.looks = 0
        self.lost: list[str] = []
        one, two = socket.socketpair()
        near = SocketStream(one)
        self.near = Endpoint(
            self.loop, near, {Gone: lambda message, tag, fds: None}, self.lost.append, "n1"
        )
        self.far = Endpoint(self.loop, SocketStream(two), {Ping: self._ping}, lambda _: None, "far")
        self.pulse = Pulse(self.loop, self.near, "n1", self._looked)

    def _ping(self, message: Ping, tag: int, fds: list[int]) -> None:
        self.pings += 1
        if self.answers:
            self.far.reply(tag, Pong(message.clock_ns))

    def _looked(self) -> bool:
        self.looks += 1
        return True

    def until(self, condition: Callable[[], bool], each_turn: Callable[[], None]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            each_turn()
            self.loop.turn(0.005)


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    monkeypatch.setattr(pulse, "LOOK_S", 0.02)
    monkeypatch.setattr(pulse, "PING_HEARD_S", 0.5)
    monkeypatch.setattr(pulse, "SILENCE_S", 0.3)
    bed = Bed()
    yield bed
    bed.near.close("over")
    bed.far.close("over")
    bed.loop.close()


def nothing() -> None:
    pass


def test_who_is_heard_anyway_is_asked_now_and_then(bed: Bed) -> None:
    bed.pulse.ping()
    bed.until(lambda: bed.pings == FIRST_PINGS, nothing)
    assert bed.pulse.rtt_ms is not None
    bed.until(lambda: bed.looks >= 10, lambda: bed.far.post(Gone(1)))
    assert bed.pings < FIRST_PINGS + bed.looks / 2
    bed.until(lambda: bed.pings > FIRST_PINGS, lambda: bed.far.post(Gone(1)))
    assert not bed.lost


def test_who_says_nothing_is_asked_and_then_lost(bed: Bed) -> None:
    bed.answers = False
    bed.until(lambda: bool(bed.lost), nothing)
    assert bed.pings > 1
    assert "n1 has not answered" in bed.lost[0]


def test_who_answers_is_not_lost(bed: Bed) -> None:
    bed.until(lambda: bed.looks >= 40, nothing)
    assert not bed.lost
    assert bed.pings > 1
