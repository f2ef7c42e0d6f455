"""The home daemon: decides where bodies run, and keeps the link processes.

One per user (see stubs.link.runtime for what else tells them apart), started by the first mrun,
gone after an idle time. Never in a data path: an mrun gets a socket to the link process and talks
to that. One thread, so that forking a link process is safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from mlaunch import __version__, process
from mlaunch.balancing import Balancing
from mlaunch.errors import FAILED, LaunchError
from mlaunch.explaining import Explaining
from mlaunch.inventory import Inventory, Member
from mlaunch.moving import Moving
from mlaunch.movingquestions import MovingQuestions
from mlaunch.observing import Observing
from mlaunch.placing import Placing
from stubs.abi.sched import take_short_slices
from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Answer, Computed, Ended, Place, Query
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.wire.codec import Message

# The longest that `mlaunch nodes` may ask to wait, and how often it is looked then.
LONGEST_WAIT_S = 30.0
POLL_S = 0.05
LONGEST_LOG = 1 << 20


class Daemon:
    """Answers mruns and the mlaunch command."""

    def __init__(self, listener: socket.socket, lock: int) -> None:
        """Serve those who connect to `listener`; `lock` is kept open until the end."""
        self._loop = Loop()
        self._listener = listener
        self._lock = lock
        self._sources = _sources()
        self._leave_now = False
        self._leave_idle = False
        self._inventory = Inventory(self._loop, self._changed)
        self._placing = Placing(self._loop, self._inventory)
        journal, load = self._placing.journal, self._placing.load
        self._observing = Observing(self._loop, self._inventory, journal, load)
        self._moving = Moving(self._placing, self._inventory, self._when_connected)
        self._balancing = Balancing(self._placing, self._inventory, self._observing, self._moving)
        self._explaining = Explaining(self._placing, self._moving, self._balancing)
        self._moves = MovingQuestions(self._moving, self._inventory, journal, self._balancing)
        self._clients: set[Endpoint] = set()
        # Those of them that only watch (`mlaunch top`): they keep nobody from leaving.
        self._watchers: set[Endpoint] = set()
        self._waiting: list[Callable[[], bool]] = []
        self._started = time.time()
        self._used = time.monotonic()
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), READ, self._accept)

    def run(self) -> None:
        """Serve until idle for long enough, or told to stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_signal)
        self._inventory.read_config()
        self._tick()
        self._loop.run()

    def _on_signal(self, number: int, frame: object) -> None:
        # Seen at the next tick: a handler may interrupt anything.
        self._leave_now |= number == signal.SIGTERM
        self._leave_idle |= number == signal.SIGUSR1

    # who connects

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except BlockingIOError:
            return
        pid, uid = _peer(sock)
        if uid != os.getuid():
            sock.close()
            return
        if self._idle() and _sources() != self._sources:
            self._begin_again(sock)
        _adopt_ssh_agent(pid)
        self.welcome(sock)

    def welcome(self, sock: socket.socket) -> None:
        """Serve a client."""
        self._used = time.monotonic()
        client = Endpoint(
            self._loop,
            SocketStream(sock),
            {
                Place: lambda message, tag, fds: self._place(client, message, tag),
                Computed: lambda message, tag, fds: self._placing.computed(message),
                Ended: lambda message, tag, fds: self._placing.ended(message),
                Query: lambda message, tag, fds: self._query(client, message, tag),
            },
            lambda reason: self._client_gone(client),
            "client",
        )
        self._clients.add(client)
        self._placing.journal.connected(client, _peer(sock)[0])

    def _client_gone(self, client: Endpoint) -> None:
        self._clients.discard(client)
        self._watchers.discard(client)
        self._placing.client_gone(client)

    def _place(self, client: Endpoint, place: Place, tag: int) -> None:
        self._watchers.discard(client)
        self._placing.place(client, place, tag)

    def _idle(self) -> bool:
        needed = self._placing.busy or self._inventory.guests
        return not needed and self._clients == self._watchers

    def _begin_again(self, sock: socket.socket) -> NoReturn:
        """Become the daemon of the sources as they are now; `sock` is a client, still unheard."""
        self._placing.ledger.profiles.close()
        self._inventory.close()
        kept = [self._listener.fileno(), self._lock, sock.fileno()]
        for fd in kept:
            os.set_inheritable(fd, True)
        sys.stderr.flush()
        runtime.exec_daemon([str(fd) for fd in kept])

    def _tick(self) -> None:
        """Once a second: sample home's load, and see whether anybody needs us."""
        self._placing.load.sample()
        self._placing.ledger.profiles.flush()
        self._balancing.tick()
        now = time.monotonic()
        if not self._idle():
            self._used = now
        idle = now - self._used
        if self._leave_now or idle > (0 if self._leave_idle else self._inventory.config.idle_s):
            self._stop()
            return
        self._loop.call_later(1.0, self._tick)

    def _stop(self) -> None:
        """Leave: nobody can connect any more; links with guests go on without us."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(runtime.socket_path())
        self._placing.ledger.profiles.close()
        self._inventory.close()
        self._loop.stop()

    # the mlaunch command

    def _query(self, client: Endpoint, query: Query, tag: int) -> None:
        self._inventory.read_config()

        def answer(value: dict[str, Any]) -> None:
            client.reply(tag, Answer(json.dumps(value).encode()))
            client.flush()

        try:
            question = json.loads(query.text)
            if question["do"] == "observe" and not self._placing.journal.is_mrun(client):
                self._watchers.add(client)
            what = {
                "nodes": self._nodes,
                "observe": self._observing.observe,
                "status": self._status,
                "speed": self._speed,
                "stop": self._quit,
                "why": self._why,
                **self._moves.answers,
            }
            what[question["do"]](question, answer)
        except LaunchError as error:
            answer({"error": error.text, "hint": error.hint, "status": error.exit_code})
        except (ValueError, KeyError, TypeError) as error:
            answer({"error": f"bad question: {error!r}", "hint": "", "status": FAILED})

    def _nodes(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        """Answer with the state of all nodes (or of one), those that connect being waited for."""
        if self._inventory.config_error is not None:
            raise self._inventory.config_error
        members = self._inventory.considered()
        if question.get("name"):
            members = [self._named(question["name"])]
        self._when_connected(
            members,
            float(question.get("wait", 0.0)),
            lambda: answer({"nodes": [member.shown() for member in members]}),
        )

    def _why(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        """Answer why a process runs where it does, or where a program would run now."""
        if "pid" in question:
            pid = int(question["pid"])
            known = self._explaining.process(pid)

            def measured() -> None:
                # Among hundreds of others a second it may have ended and been forgotten meanwhile.
                with contextlib.suppress(LaunchError):
                    known.update(self._explaining.process(pid))
                self._explaining.add_reasons(known, lambda: answer(known), self._loop)

            self._observing.when_measured(measured)
            return
        exe, argv, cwd = str(question["exe"]), [*map(str, question["argv"])], str(question["cwd"])
        self._when_connected(
            self._inventory.considered(),
            float(question.get("wait", 0.0)),
            lambda: answer(self._explaining.program(exe, argv, cwd)),
        )

    def _when_connected(
        self, members: list[Member], patience: float, then: Callable[[], None]
    ) -> None:
        """Connect those members and call `then` once it is known how they are, or after a while."""
        for member in members:
            self._inventory.connect(member, at_once=True)

        def settled() -> bool:
            waiting = any(item.connecting or (item.ready and not item.load) for item in members)
            if waiting and time.monotonic() < deadline:
                return False
            then()
            return True

        deadline = time.monotonic() + min(patience, LONGEST_WAIT_S)
        if not settled():
            self._waiting.append(settled)
            self._poll()

    def _named(self, name: str) -> Member:
        found = self._inventory.find(name)
        if found is None:
            raise self._inventory.unknown(name)
        return found

    def _speed(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        """Have the link of a node measured; answer when its CPUs' speed and home's are known, too.

        Both are measured once after each boot; that of a node which is new takes some seconds.
        """
        member = self._named(question["name"])
        if member.link is None or not member.ready:
            raise LaunchError(f"{member.name}: {member.problem}")
        found: dict[str, Any] = {}

        def measured(reply: Message) -> None:
            text = reply.text if isinstance(reply, Answer) else b"{}"
            found.update(json.loads(text) or {"error": "its link process has ended"})

        def settled() -> bool:
            late = time.monotonic() > deadline
            found["speed"] = member.load.get("speed", 0)
            found["home_speed"] = int(self._placing.load.state().speed)
            known = "rtt_ms" in found and found["speed"] and found["home_speed"]
            if not (known or "error" in found or late):
                return False
            if "rtt_ms" not in found:
                why = found.get("error", "its agent does not answer the test")
                found.update(error=f"{member.name}: {why}", hint="", status=FAILED)
            answer(found)
            return True

        deadline = time.monotonic() + min(float(question["wait"]), LONGEST_WAIT_S)
        member.link.request(Query(VERSION, b"{}"), measured)
        self._waiting.append(settled)
        self._poll()

    def _changed(self) -> None:
        """See what can be answered now that the state of a node is another."""
        for member in self._inventory.all():
            self._placing.journal.node_is(member.name, member.ready, member.reason)
        self._placing.settle()
        self._waiting = [settled for settled in self._waiting if not settled()]

    def _poll(self) -> None:
        # The first load report of a node is no change of its state: look again by the clock.
        self._changed()
        if self._waiting:
            self._loop.call_later(POLL_S, self._poll)

    def _status(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        answer(
            {
                "pid": os.getpid(),
                "version": __version__,
                "protocol": VERSION,
                "started": self._started,
                "older": self._sources != _sources(),
                "socket": runtime.socket_path(),
                "log": runtime.log_path(),
                "config": runtime.config_path(),
                "guests": self._inventory.guests,
                "nodes": [member.shown() for member in self._inventory.all()],
                "idle_s": time.monotonic() - self._used,
            }
        )

    def _quit(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        answer({"pid": os.getpid(), "guests": self._inventory.guests})
        self._stop()


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Return the pid and the uid of who is at the other end."""
    pid, uid, _gid = struct.unpack(
        "iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )
    return pid, uid


def _adopt_ssh_agent(pid: int) -> None:
    """Use the client's SSH agent when our own has gone with its login session."""
    own = os.environ.get("SSH_AUTH_SOCK")
    if own and os.path.exists(own):
        return
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return  # it has ended by now
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if name == b"SSH_AUTH_SOCK" and value:
            os.environ["SSH_AUTH_SOCK"] = os.fsdecode(value)


def _take_lock() -> int | None:
    """Return the lock that makes us the daemon, or None when there is another."""
    lock = os.open(runtime.lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _retire_older() -> None:
    """Ask daemons of older protocol versions to leave as soon as they are idle."""
    for version in range(1, VERSION):
        try:
            lock = os.open(runtime.lock_path(version), os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # Locked: the number in it is that of a daemon which lives.
            number = os.read(lock, 20).strip()
            if number.isdigit():
                os.kill(int(number), signal.SIGUSR1)
        finally:
            os.close(lock)


def _sources() -> tuple[int, float]:
    """Return the number of our source files and the time of the last change to one of them."""
    count, latest = 0, 0.0
    for top in ("mlaunch", "stubs"):
        for folder, folders, files in os.walk(os.path.join(runtime.PACKAGES, top)):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for file in files:
                if file.endswith(".py"):
                    count += 1
                    latest = max(latest, os.stat(os.path.join(folder, file)).st_mtime)
    return count, latest


def _listen() -> socket.socket:
    """Return the listening socket of a daemon that begins, and say that it listens."""
    path = runtime.socket_path()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(128)
    os.write(runtime.READY_FD, b"!")
    os.close(runtime.READY_FD)
    return listener


def main() -> None:
    """Be the daemon, unless there is one; called in a process that runtime.start_daemon made.

    With the numbers of the listening socket, of the lock and of a client's socket as arguments it
    is the daemon that it was before, of newer sources.
    """
    process.reset_signals()
    process.raise_limits()
    # Link processes report before they end; nobody waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    inherited = [int(number) for number in sys.argv[1:]]
    if inherited:
        daemon = Daemon(socket.socket(fileno=inherited[0]), inherited[1])
        daemon.welcome(socket.socket(fileno=inherited[2]))
    else:
        lock = _take_lock()
        if lock is None:
            os.write(runtime.READY_FD, b"?")
            return
        if os.fstat(2).st_size > LONGEST_LOG:
            os.ftruncate(2, 0)
        daemon = Daemon(_listen(), lock)
        _retire_older()
    process.set_name("mlaunch: daemon")
    take_short_slices()
    try:
        daemon.run()
    finally:
        sys.stderr.flush()
