"""Who waits for a node that is just being connected."""

import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaunch.config import Node
from mlaunch.inventory import Inventory, Member
from mlaunch.placing import FIRST_WAIT_S, Placing
from stubs.link.endpoint import Endpoint
from stubs.link.loop import Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Place
from stubs.wire.version import VERSION


class Bed:
    """A daemon's placing, one node that is being connected, and an mrun that asks."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.inventory = Inventory(self.loop, lambda: None)
        self.inventory.read_config()
        self.placing = Placing(self.loop, self.inventory)
        self.sockets: list[socket.socket] = []
        self.client = self._endpoint()
        self.node: Member = self.inventory.members["n1"]
        self.node.link = self._endpoint()
        self.node.state = "connecting"
        self.node.began = time.monotonic()

    def _endpoint(self) -> Endpoint:
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        return Endpoint(self.loop, SocketStream(ours), {}, lambda reason: None, "test")

    def waits(self, *argv: bytes, top: bool = False, node: bytes = b"") -> bool:
        """Ask for a program; tell whether there is no answer yet."""
        exe = b"/usr/bin/" + argv[0]
        place = Place(VERSION, 99, exe, b"/tmp", node, [], False, top, False, list(argv))
        self.placing.place(self.client, place, 1)
        return self.placing.busy

    def close(self) -> None:
        self.client.close("over")
        assert self.node.link is not None
        self.node.link.close("over")
        for sock in self.sockets:
            sock.close()
        self.loop.close()


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    path = tmp_path / "config.toml"
    path.write_text('[[node]]\nname = "n1"\nhost = "nowhere"\n')
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("MLAUNCH_CONFIG", str(path))
    found = Bed()
    yield found
    found.close()


def test_the_node_is_the_one_configured(bed: Bed) -> None:
    assert bed.node.node == Node("n1", "nowhere")


def test_what_stays_whatever_there_is_does_not_wait(bed: Bed) -> None:
    assert not bed.waits(b"make", b"-j4")
    assert not bed.waits(b"make", b"-j4", top=True)


def test_what_is_not_worth_a_trip_does_not_wait(bed: Bed) -> None:
    assert not bed.waits(b"mkdir", b"d")


def test_a_compile_waits_for_a_node_that_has_just_begun(bed: Bed) -> None:
    assert bed.waits(b"gcc", b"-O2", b"-c", b"a.c")


def test_it_does_not_wait_for_one_that_takes_long(bed: Bed) -> None:
    bed.node.began -= FIRST_WAIT_S
    assert not bed.waits(b"gcc", b"-O2", b"-c", b"a.c")


def test_what_the_user_typed_waits_all_the_same(bed: Bed) -> None:
    bed.node.began = -math.inf
    assert bed.waits(b"gzip", b"large", top=True)


def test_who_asks_for_a_node_by_name_waits_for_it(bed: Bed) -> None:
    bed.node.began = -math.inf
    assert bed.waits(b"make", node=b"n1")
