"""The link process: home's end of the connection with one node.

Forked by the daemon, one per node. Connects, starts the agent, serves home's files to it, hands
its bodies' streams and signals on, and tells the daemon once a second how the node is. One
thread does all that; two more at most open the bulk connection and watch for a peer that has
fallen silent while the first one is stuck in a send.

Without the daemon it goes on as long as it has guests.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from mlaunch import exporting, local, process
from mlaunch.errors import LaunchError, plain
from mlaunch.pulse import Pulse, watch_silence
from mlaunch.speedtest import SpeedTest
from stubs.abi.sched import take_short_slices
from stubs.home.files.service import FileService
from stubs.home.guests.guests import Guests
from stubs.link import runtime
from stubs.link.endpoint import BulkEndpoint, Endpoint, Link
from stubs.link.loader import TOKEN_BYTES
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import (
    Answer,
    Attach,
    Bulk,
    CanMove,
    Clocked,
    Clocks,
    Error,
    Gone,
    Goodbye,
    Hello,
    Leaving,
    Load,
    Measure,
    Measured,
    Ping,
    Pong,
    Query,
    Quit,
    Reasons,
    Report,
    Welcome,
)
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlaunch.config import Config, Node
    from stubs.link.stream import Stream
    from stubs.wire.codec import Message, Usage

# An agent that has been started must say Welcome by then, capsule and all.
WELCOME_S = 20.0
# A node that asks and does not listen is not answered beyond so many bytes.
MOST_BACKLOG = 16 << 20
# An mrun that has been given the link sends its program within this time, or not at all.
START_S = 3.0
# How long the last messages may take to leave.
FAREWELL_S = 2.0


class Transport(Protocol):
    """How a node is reached."""

    def open(self, token: bytes) -> Stream:
        """Connect and start the agent; LaunchError with the reason and the remedy."""

    def open_bulk(self, address: bytes) -> Stream | None:
        """Open the second connection, to the agent at `address`; None when there is none.

        Called in a thread of its own.
        """

    def heard(self) -> float | None:
        """Return when (monotonic) bytes last came; None if only the frames can tell."""

    def abort(self) -> None:
        """Break the connection now; from any thread."""

    def close(self) -> None:
        """Close in good order."""

    def last_words(self) -> str:
        """Return the last line that the agent wrote to its standard error."""


class LinkProcess:
    """The life of one link, from connecting to the last guest's end."""

    def __init__(self, control: socket.socket, node: Node, config: Config) -> None:
        """Be ready to run; `control` leads to the daemon."""
        self._node = node
        self._config = config
        self._loop = Loop()
        self._daemon: Endpoint | None = Endpoint(
            self._loop,
            SocketStream(control),
            {
                Attach: self._on_attach,
                CanMove: self._on_can_move,
                Measure: self._on_measure,
                Query: self._on_query,
                Quit: self._on_quit,
            },
            self._daemon_gone,
            "daemon",
        )
        self._transport: Transport = _transport(node)
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._state = "connecting"
        self._leaving = False
        self._reason = ""
        self._remedy = ""
        self._facts: dict[str, Any] = {}
        self._load: dict[str, int] = {}
        self._rpc: Endpoint | None = None
        self._pulse: Pulse | None = None
        self._link: Link | None = None
        self._files: FileService | None = None
        self._guests: Guests | None = None
        self._guest_gone: Callable[[Any, int, list[int]], None]
        self._attached_at = -math.inf
        self._unwanted = False  # the daemon has gone, or has said so
        self._over = threading.Event()

    # from beginning to end

    def run(self) -> None:
        """Connect and serve until the node is lost, or nobody wants the link any more."""
        self._report()
        try:
            stream = self._transport.open(self._token)
        except LaunchError as error:
            self._finish("unusable", error.text, error.hint)
            return
        watch_silence(self._over, self._transport.heard, self._transport.abort)
        self._begin(stream)
        self._loop.run()
        self._farewell()

    def _begin(self, stream: Stream) -> None:
        """Say hello; the rest happens as messages come."""
        handlers: dict[type[Message], Any] = {
            Clocks: self._on_clocks,
            Ping: self._on_ping,
            Load: self._on_load,
            Goodbye: self._on_goodbye,
            Leaving: self._on_leaving,
        }
        self._rpc = Endpoint(self._loop, stream, handlers, self._node_lost, self._node.name)
        self._rpc.pause_above = MOST_BACKLOG
        self._link = Link(self._rpc)
        self._files = FileService(
            self._loop,
            exporting.policy(self._config.export),
            learned=(runtime.state_dir(), runtime.cache_dir()),
        )
        self._guests = Guests(self._loop, self._link, self._files)
        self._guests.on_departed = self._guest_departed
        self._files.attach(self._link)
        handlers.update(self._files.handlers())
        handlers.update(self._guests.handlers())
        self._guest_gone = handlers[Gone]
        handlers[Gone] = self._on_gone
        with open("/proc/sys/kernel/pid_max") as file:
            pid_max = int(file.read())
        signal.signal(signal.SIGTERM, self._on_sigterm)
        hello = Hello(
            VERSION,
            os.getuid(),
            os.getgid(),
            pid_max,
            socket.gethostname().encode(),
            self._files.root_attr(),
            clocks=True,
        )
        self._link.request(hello, self._on_welcome)
        self._loop.call_later(WELCOME_S, self._welcome_overdue)
        self._pulse = Pulse(self._loop, self._rpc, self._node.name, self._is_wanted)
        self._pulse.answered = self._on_pong

    def _on_sigterm(self, number: int, frame: object) -> None:
        """End in good order: the user's terminals must get their modes back."""
        assert self._rpc is not None
        rpc = self._rpc
        self._loop.at_turn_end(lambda: rpc.close("its link process was told to end"))

    def _finish(self, state: str, reason: str, remedy: str = "") -> None:
        """Tell the daemon how it ended, and end."""
        self._state, self._reason, self._remedy = state, reason, remedy
        self._report()
        self._loop.stop()

    def _farewell(self) -> None:
        """Let the last messages out, then close everything."""
        deadline = time.monotonic() + FAREWELL_S
        while time.monotonic() < deadline and self._unsent():
            self._loop.turn(0.05)
        self._over.set()
        if self._guests is not None:
            self._guests.close()
        if self._files is not None:
            self._files.close()
        if self._rpc is not None:
            self._rpc.close("the link is closed")
        self._transport.close()

    def _unsent(self) -> bool:
        backlog = self._daemon.backlog if self._daemon is not None else 0
        if self._link is not None and self._rpc is not None and self._rpc.lost is None:
            backlog += self._link.backlog
        return backlog > 0 or (self._guests is not None and self._guests.untold)

    # the node

    def _on_welcome(self, message: Message) -> None:
        if isinstance(message, Error):
            if self._state == "connecting":
                self._finish("unusable", plain(message.text))
            return
        assert isinstance(message, Welcome)
        self._facts = {
            "uid": message.uid,
            "pid": message.pid,
            "cpus_milli": message.cpus_milli,
            "speed": message.speed,
            "hostname": plain(message.hostname),
            "release": plain(message.release),
            "python": plain(message.python),
            "zstd": bool(message.zstd),
        }
        if message.version != VERSION:
            self._finish("unusable", f"its agent speaks protocol {message.version}, not {VERSION}")
        elif message.problem:
            self._finish("unusable", plain(message.problem))
        else:
            self._begin_bulk(message.attach)
            assert self._pulse is not None
            self._pulse.ping()

    def _welcome_overdue(self) -> None:
        if self._state == "connecting":
            self._finish("unusable", f"its agent did not get ready within {WELCOME_S:.0f} s")

    def _on_load(self, message: Load, tag: int, fds: list[int]) -> None:
        self._load = {name: getattr(message, name) for name in message.FIELDS}
        self._report()

    def _on_gone(self, message: Gone, tag: int, fds: list[int]) -> None:
        self._guest_gone(message, tag, fds)
        if self._daemon is not None:
            self._daemon.post(message)

    def _guest_departed(self, body: int) -> None:
        if self._daemon is not None:
            self._daemon.post(Gone(body))

    def _on_ping(self, message: Ping, tag: int, fds: list[int]) -> None:
        assert self._rpc is not None
        self._rpc.reply(tag, Pong(time.time_ns()))

    def _on_clocks(self, message: Clocks, tag: int, fds: list[int]) -> None:
        assert self._rpc is not None
        clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
        self._rpc.reply(tag, Clocked(*map(time.clock_gettime_ns, clocks)))
        self._rpc.flush()

    def _on_goodbye(self, message: Goodbye, tag: int, fds: list[int]) -> None:
        assert self._rpc is not None
        self._rpc.close(f"{self._node.name}: {plain(message.reason)}")

    def _on_leaving(self, message: Leaving, tag: int, fds: list[int]) -> None:
        self._leaving = True
        self._report()

    def _on_pong(self) -> None:
        # One may come before Welcome: an agent answers while it still makes its capsule.
        if self._state == "connecting" and self._facts:
            self._state = "ready"
            self._report()

    def _is_wanted(self) -> bool:
        """Quit if nobody needs us any more; tell whether somebody does."""
        if self._unwanted and not self._in_use():
            self._quit()
            return False
        return True

    def _in_use(self) -> bool:
        """Tell whether there is a guest, or an mrun that is about to send one."""
        if time.monotonic() - self._attached_at < START_S:
            return True
        return self._guests is not None and self._guests.count > 0

    def _node_lost(self, reason: str) -> None:
        """Tell those who wait that the connection is gone, then end."""
        if self._over.is_set():
            return
        words = self._transport.last_words()
        if words:
            self._note(f"agent: {words}")
            reason = f"{reason} ({words})"
        self._note(f"lost: {reason}")
        if self._guests is not None:
            self._guests.lost(reason)
        if self._state not in ("unusable",):
            self._finish("unusable" if self._state == "connecting" else "lost", reason)

    # the bulk connection

    def _begin_bulk(self, address: bytes) -> None:
        """Open it in a thread; until then, and without it, everything goes over rpc."""
        opened: list[Stream] = []
        ready, tell = os.pipe()

        def attach(_: int) -> None:
            self._loop.forget(ready)
            os.close(ready)
            for stream in opened:
                self._attach_bulk(stream)

        def run() -> None:
            try:
                stream = self._transport.open_bulk(address)
                if stream is not None:
                    opened.append(stream)
            except LaunchError as error:
                self._note(f"no bulk connection: {error}")
            except Exception:
                traceback.print_exc()
            finally:
                os.close(tell)

        self._loop.watch(ready, READ, attach)
        threading.Thread(target=run, daemon=True).start()

    def _note(self, text: str) -> None:
        """Write a line to the log."""
        print(f"{self._node.name}: {text}", file=sys.stderr, flush=True)

    def _attach_bulk(self, stream: Stream) -> None:
        assert self._rpc is not None
        assert self._link is not None
        if self._rpc.lost is not None:
            stream.close()
            return
        bulk = BulkEndpoint(self._rpc, self._loop, stream, f"{self._node.name} (bulk)")
        bulk.post(Bulk(self._token))
        self._link.send_bulk_on(bulk)

    # the daemon

    def _report(self) -> None:
        if self._daemon is None:
            return
        report = {
            "state": self._state,
            "leaving": self._leaving,
            "reason": self._reason,
            "remedy": self._remedy,
            "rtt_ms": self._pulse.rtt_ms if self._pulse is not None else None,
            "guests": self._guests.count if self._guests is not None else 0,
            "facts": self._facts,
            "load": self._load,
        }
        self._daemon.post(Report(json.dumps(report).encode()))
        self._daemon.flush()

    def _on_attach(self, message: Attach, tag: int, fds: list[int]) -> None:
        self._attached_at = time.monotonic()
        for fd in fds:
            sock = socket.socket(fileno=fd)
            if self._guests is None or self._state != "ready":
                sock.close()  # mrun sees that and goes home
            else:
                self._guests.adopt_mrun(sock)

    def _on_query(self, message: Query, tag: int, fds: list[int]) -> None:
        """Measure the link; the daemon asks for nothing else."""

        def answer(found: dict[str, Any]) -> None:
            if self._daemon is not None:
                self._daemon.reply(tag, Answer(json.dumps(found).encode()))

        if self._link is None or self._state != "ready":
            answer({"error": f"{self._node.name} is {self._state}"})
        else:
            SpeedTest(self._link, answer)

    def _on_measure(self, message: Measure, tag: int, fds: list[int]) -> None:
        if self._guests is None:
            self._tell_usages(tag, [])
        else:
            self._guests.measure(lambda usages: self._tell_usages(tag, usages))

    def _tell_usages(self, tag: int, usages: list[Usage]) -> None:
        ends = [end for end in (self._rpc, self._rpc and self._rpc.companion) if end is not None]
        to_node, to_home = (sum(end.bytes_out for end in ends), sum(end.bytes_in for end in ends))
        if self._daemon is not None:
            self._daemon.reply(tag, Measured(to_node, to_home, usages))

    def _on_can_move(self, message: CanMove, tag: int, fds: list[int]) -> None:
        """Hand on the question what keeps a body from moving, and the node's answer."""

        def answer(reply: Message) -> None:
            if self._daemon is not None:
                known = isinstance(reply, (Reasons, Error))
                self._daemon.reply(tag, reply if known else Error(errno.EPROTO, b"no answer"))

        if self._link is None or self._state != "ready":
            answer(Error(errno.ENOTCONN, f"{self._node.name} is {self._state}".encode()))
        else:
            self._link.request(message, answer)

    def _on_quit(self, message: Quit, tag: int, fds: list[int]) -> None:
        self._end_when_unused()

    def _daemon_gone(self, reason: str) -> None:
        self._daemon = None
        self._end_when_unused()

    def _end_when_unused(self) -> None:
        self._unwanted = True
        if not self._in_use():
            self._quit()

    def _quit(self) -> None:
        reason = "home has no use for it"
        if self._rpc is not None and self._rpc.lost is None:
            self._rpc.post(Goodbye(reason.encode()))
        self._finish("lost", reason)


def _transport(node: Node) -> Transport:
    if node.name == local.NAME:
        return local.LocalTransport()
    from mlaunch.ssh import SshTransport

    return SshTransport(node)


def main(control: socket.socket, node: Node, config: Config) -> NoReturn:
    """Be the link process of `node`; does not return."""
    process.reset_signals()
    process.set_name(f"mlaunch: link {node.name}")
    take_short_slices()
    # The modes of what bodies create come from their own umask, applied on the node.
    os.umask(0)
    # Threads of the SSH library must not wait 5 ms for the interpreter, nor we for them.
    sys.setswitchinterval(0.0005)
    LinkProcess(control, node, config).run()
    sys.stderr.flush()
    os._exit(0)
