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
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn

from mlaunch import __version__, config, process
from mlaunch.errors import LaunchError
from mlaunch.inventory import LOCAL, Inventory, Member
from mlaunch.load import HomeLoad
from mlaunch.placement import HOME, Candidate, Options, Program, rank
from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Answer, Place, Placed, Query, Refused
from stubs.wire.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

# The first mrun waits so long for a first node, and a moment more for its neighbours.
FIRST_WAIT_S = 1.5
NEIGHBOUR_WAIT_S = 0.25
# A node asked for by name, or none but nodes allowed, is worth its whole connection time-out.
NAMED_WAIT_S = 12.0
# When there is no other node, one that failed so long ago is tried again at once.
TRY_AGAIN_S = 10.0
# Decisions remembered for `mlaunch why`.
REMEMBERED = 1000
LONGEST_LOG = 1 << 20


class Pending:
    """An mrun that waits for a decision."""

    def __init__(self, client: Endpoint, tag: int, place: Place) -> None:
        """Note when it began to wait."""
        self.client = client
        self.tag = tag
        self.place = place
        self.since = time.monotonic()
        self.first_ready: float | None = None


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
        self._config_stamp: tuple[int, ...] | None = None
        self._config_error: LaunchError | None = None
        self._inventory = Inventory(self._loop, self._settle)
        self._load = HomeLoad()
        self._clients: set[Endpoint] = set()
        self._pending: list[Pending] = []
        self._waiting: list[tuple[float, Callable[[], bool]]] = []
        self._decisions: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._started = time.time()
        self._used = time.monotonic()
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), READ, self._accept)

    def run(self) -> None:
        """Serve until idle for long enough, or told to stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_signal)
        self._read_config()
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
        pid, uid, _gid = struct.unpack(
            "iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
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
                Query: lambda message, tag, fds: self._query(client, message, tag),
            },
            lambda reason: self._clients.discard(client),
            "client",
        )
        self._clients.add(client)

    def _idle(self) -> bool:
        return not (self._pending or self._clients or self._inventory.guests)

    def _begin_again(self, sock: socket.socket) -> NoReturn:
        """Become the daemon of the sources as they are now; `sock` is a client, still unheard."""
        self._inventory.close()
        kept = [self._listener.fileno(), self._lock, sock.fileno()]
        for fd in kept:
            os.set_inheritable(fd, True)
        sys.stderr.flush()
        runtime.exec_daemon([str(fd) for fd in kept])

    def _tick(self) -> None:
        """Once a second: sample home's load, and see whether anybody needs us."""
        self._load.sample()
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
        self._inventory.close()
        self._loop.stop()

    # configuration

    def _read_config(self) -> None:
        """Read the configuration if it has changed; what is wrong with it is told to who asks."""
        path = runtime.config_path()
        try:
            found = os.stat(path)
            stamp: tuple[int, ...] = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            stamp = ()
        if stamp == self._config_stamp:
            return
        self._config_stamp = stamp
        try:
            self._inventory.configure(config.load(path))
            self._config_error = None
        except LaunchError as error:
            self._config_error = error

    # mrun asks where

    def _place(self, client: Endpoint, place: Place, tag: int) -> None:
        self._used = time.monotonic()
        self._read_config()
        if self._config_error is not None and not place.strict:
            # A slip in the configuration keeps no program from running.
            client.reply(tag, Placed(HOME.encode(), str(self._config_error).encode()))
            return
        try:
            self._check(place)
        except LaunchError as error:
            _refuse(client, tag, error)
            return
        wanted = self._wanted(place)
        desperate = not any(member.ready for member in wanted)
        for member in wanted:
            at_once = bool(place.node) or (desperate and member.failed_for > TRY_AGAIN_S)
            self._inventory.connect(member, at_once)
        self._pending.append(Pending(client, tag, place))
        self._settle()
        if self._pending:
            # The decision must fall in time even if nothing happens.
            for wait in (FIRST_WAIT_S, NAMED_WAIT_S):
                self._loop.call_later(wait + 0.001, self._settle)

    def _check(self, place: Place) -> None:
        """Raise what is wrong with the question itself."""
        if place.version != VERSION:
            raise LaunchError(
                f"the home daemon speaks protocol {VERSION}, this mrun {place.version}",
                "mlaunch daemon stop",
            )
        if self._config_error is not None:
            raise self._config_error
        names = [name.decode(errors="replace") for name in [*place.only, place.node] if name]
        for name in names:
            if name != HOME and self._inventory.find(name) is None:
                raise self._unknown(name)

    def _unknown(self, name: str) -> LaunchError:
        known = ", ".join(sorted(self._inventory.members))
        hint = f"known are: {known}" if known else f"to add it: mlaunch nodes add {name} HOST"
        return LaunchError(f"no node {name}", hint)

    def _wanted(self, place: Place) -> list[Member]:
        """Return the members that come into question for it."""
        names = [place.node] if place.node else place.only
        if not names:
            return self._inventory.considered()
        found = [self._inventory.find(name.decode()) for name in names if name.decode() != HOME]
        return [member for member in found if member is not None]

    def _settle(self) -> None:
        """Decide for those for whom it can be decided now."""
        for pending in list(self._pending):
            if pending.client.lost is not None:
                self._pending.remove(pending)
            elif not self._must_wait(pending):
                self._pending.remove(pending)
                self._decide(pending)
        now = time.monotonic()
        self._waiting = [item for item in self._waiting if not (item[1]() or now >= item[0])]

    def _must_wait(self, pending: Pending) -> bool:
        """Tell whether a node that may come into question should be waited for."""
        wanted = self._wanted(pending.place)
        named = bool(pending.place.node or pending.place.strict)
        if not any(member.connecting and (named or member.hopeful) for member in wanted):
            return False
        now = time.monotonic()
        if any(member.ready for member in wanted) and pending.first_ready is None:
            pending.first_ready = now
            self._loop.call_later(NEIGHBOUR_WAIT_S + 0.001, self._settle)
        patience = NAMED_WAIT_S if named else FIRST_WAIT_S
        until = pending.since + patience
        if pending.first_ready is not None:
            until = min(until, pending.first_ready + NEIGHBOUR_WAIT_S)
        return now < until

    def _decide(self, pending: Pending) -> None:
        place = pending.place
        ranking = self._rank(place)
        best = next((item for item in ranking if item.finish_s is not None), None)
        member = self._inventory.find(best.name) if best and best.name != HOME else None
        if best is None and place.strict:
            _refuse(pending.client, pending.tag, self._no_node(place, ranking))
            return
        reason = best.reason if best and best.name != HOME else _why_home(ranking)
        self._remember(place, member.name if member else HOME, reason, ranking)
        if member is None:
            pending.client.reply(pending.tag, Placed(HOME.encode(), reason.encode()))
            return
        ours, theirs = socket.socketpair()
        self._inventory.attach(member, place.pid, ours)
        placed = Placed(member.name.encode(), reason.encode())
        pending.client.reply(pending.tag, placed, [theirs.detach()])

    def _rank(self, place: Place) -> list[Candidate]:
        """Return the candidates, best first."""
        name = place.node.decode(errors="replace")
        if name == HOME:
            return [Candidate(HOME, 0.0, "asked for")]
        if name:
            member = self._inventory.find(name)
            problem = member.problem if member else "gone"
            return [Candidate(name, None if problem else 0.0, problem or "asked for")]
        self._load.sample()
        wanted = self._wanted(place)
        only = tuple(item.decode(errors="replace") for item in place.only)
        states = [member.placement() for member in wanted]
        # `local` is this machine: comparing it with home would be comparing home with itself.
        embedded = any(member.name == LOCAL.name for member in wanted)
        options = Options(
            home_bias=self._inventory.config.home_bias,
            allow_home=not embedded and not place.strict and (not only or HOME in only),
        )
        return rank(Program(), self._load.state(), states, options)

    def _no_node(self, place: Place, ranking: list[Candidate]) -> LaunchError:
        names = [item.name for item in ranking]
        if len(names) == 1:
            member = self._inventory.find(names[0])
            hint = member.remedy if member else ""
            return LaunchError(f"node {names[0]} cannot be used: {ranking[0].reason}", hint)
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in ranking)
        return LaunchError(f"no node can be used: {reasons}", "mlaunch doctor")

    def _remember(self, place: Place, node: str, reason: str, ranking: list[Candidate]) -> None:
        """Keep the decision for whoever asks why."""
        self._decisions[place.pid] = {
            "at": time.time(),
            "argv": [item.decode(errors="replace") for item in place.argv[:20]],
            "node": node,
            "reason": reason,
            "candidates": [[item.name, item.finish_s, item.reason] for item in ranking],
        }
        self._decisions.move_to_end(place.pid)
        while len(self._decisions) > REMEMBERED:
            self._decisions.popitem(last=False)

    # the mlaunch command

    def _query(self, client: Endpoint, query: Query, tag: int) -> None:
        self._read_config()

        def answer(value: dict[str, Any]) -> None:
            client.reply(tag, Answer(json.dumps(value).encode()))
            client.flush()

        try:
            if self._config_error is not None:
                raise self._config_error
            question = json.loads(query.text)
            what = {"nodes": self._nodes, "status": self._status, "stop": self._quit}
            what[question["do"]](question, answer)
        except LaunchError as error:
            answer({"error": error.text, "hint": error.hint, "status": error.exit_code})
        except (ValueError, KeyError, TypeError) as error:
            answer({"error": f"bad question: {error!r}", "hint": "", "status": 125})

    def _nodes(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        """Answer with the state of all nodes (or of one), those that connect being waited for."""
        members = self._inventory.considered()
        if question.get("name"):
            found = self._inventory.find(question["name"])
            if found is None:
                raise self._unknown(question["name"])
            members = [found]
        for member in members:
            self._inventory.connect(member, at_once=True)

        def settled() -> bool:
            waiting = any(item.connecting or (item.ready and not item.load) for item in members)
            if waiting and time.monotonic() < deadline:
                return False
            answer({"nodes": [member.shown() for member in members]})
            return True

        patience = min(float(question.get("wait", 0.0)), NAMED_WAIT_S)
        deadline = time.monotonic() + patience
        if not settled():
            self._waiting.append((deadline + 1.0, settled))
            self._poll_waiting()

    def _poll_waiting(self) -> None:
        # The first load report of a node is no change of its state: look again by the clock.
        self._settle()
        if self._waiting:
            self._loop.call_later(0.05, self._poll_waiting)

    def _status(self, question: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        answer(
            {
                "pid": os.getpid(),
                "version": __version__,
                "protocol": VERSION,
                "started": self._started,
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


def _why_home(ranking: list[Candidate]) -> str:
    """Say why no node was taken."""
    nodes = [item for item in ranking if item.name != HOME]
    if not nodes:
        return ranking[0].reason if ranking else "there is no node"
    what = "is better" if any(item.finish_s is not None for item in nodes) else "can be used"
    reasons = "; ".join(f"{item.name}: {item.reason}" for item in nodes)
    return f"no node {what} ({reasons})"


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


def _refuse(client: Endpoint, tag: int, error: LaunchError) -> None:
    # One line is what the user is to see.
    client.reply(tag, Refused(error.exit_code, str(error).encode(), b""))


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
    try:
        daemon.run()
    finally:
        sys.stderr.flush()
