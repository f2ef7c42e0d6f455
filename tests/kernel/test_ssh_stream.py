"""An SSH channel as a stream of the event loop, against a server in this process."""

import errno
import socket
import threading
import time
from collections.abc import Iterator

import paramiko
import pytest

from mlaunch.ssh import RemoteCommand
from mlaunch.sshsocket import PATIENCE_S, Wire

MANY = 1 << 20  # more than can come before the window has to be opened again


class Server(paramiko.ServerInterface):
    """Lets everybody in and runs nothing."""

    def check_auth_none(self, username: str) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return True


class Bench:
    """Both ends of one channel."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.wire = Wire(ours)
        self._server = paramiko.Transport(theirs)
        self._server.add_server_key(paramiko.ECDSAKey.generate())
        self._server.start_server(server=Server(), event=threading.Event())
        self.client = paramiko.Transport(self.wire)  # type: ignore[arg-type]  # duck-typed
        self.client.start_client(timeout=20)
        self.client.auth_none("alice")
        channel = self.client.open_session()
        channel.exec_command("true")
        self.far = self._server.accept(20)
        self.near = channel
        self.command = RemoteCommand(channel, self.wire)

    def close(self) -> None:
        self.client.close()
        self._server.close()

    def break_sending(self) -> None:
        """From now on nothing can be sent, as when the peer does not answer any more."""

        def send(_: bytes) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        self.wire.send = send  # type: ignore[method-assign]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def await_bytes(channel: paramiko.Channel) -> None:
    deadline = time.monotonic() + 20
    while not channel.recv_ready():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def receive(bench: Bench, stream: RemoteCommand, size: int) -> bytes:
    got = b""
    while len(got) < size:
        await_bytes(bench.near)
        got += stream.receive() or b""
    return got


def test_what_is_sent_there_comes_here(bench: Bench) -> None:
    stream = bench.command
    stream.become_stream()
    bench.far.sendall(b"x" * MANY)
    assert receive(bench, stream, MANY) == b"x" * MANY
    stream.close()


def test_a_connection_that_breaks_while_it_is_read_is_an_error_of_the_stream(bench: Bench) -> None:
    stream = bench.command
    stream.become_stream()
    bench.far.sendall(b"x" * MANY)
    await_bytes(bench.near)
    bench.break_sending()
    with pytest.raises(OSError, match="connection was closed"):
        receive(bench, stream, MANY)
    assert bench.command.last_words() == ""
    stream.close()


def test_who_receives_is_not_woken_for_nothing(bench: Bench) -> None:
    bench.wire.settle()
    calls = 0
    receive = bench.wire.recv

    def counted(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return receive(size)

    bench.wire.recv = counted  # type: ignore[method-assign]
    # The call that is under way ends at its old time-out.
    time.sleep(1)
    assert calls <= 1


def test_who_receives_hears_of_the_end_at_once(bench: Bench) -> None:
    bench.wire.settle()
    time.sleep(0.2)
    bench.client.close()
    bench.client.join(PATIENCE_S / 2)
    assert not bench.client.is_alive()
    assert bench.far.recv(1) == b""


def test_keys_are_exchanged_anew_though_nothing_comes(bench: Bench) -> None:
    bench.wire.settle()
    time.sleep(0.2)
    packets = bench.client.packetizer
    packets.REKEY_BYTES = 4096
    former = bench.client.H
    bench.near.sendall(bytes(8192))
    packets.REKEY_BYTES = 1 << 30
    deadline = time.monotonic() + 4 * PATIENCE_S
    while packets.need_rekey():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert former != bench.client.H
    bench.near.sendall(b"on")
    received = b""
    while len(received) < 8194:
        received += bench.far.recv(65536)
    assert received.endswith(b"on")
