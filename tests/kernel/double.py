"""A stand-in for the other end of mrun's sockets: home daemon, link process and node in one.

python3 -m tests.kernel.double SOCKET LOG. Speaks the real messages and runs bodies as
processes of this machine, in process groups of their own. The name of the node that mrun asks for
says what happens to it: see `Double._place` and `Guest._start`. Every message of an mrun is a line
in LOG.
"""

import os
import resource
import signal
import socket
import sys
import time

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import (
    SCOPE_GROUP,
    Arrive,
    Continued,
    Depart,
    Departed,
    Done,
    Ended,
    Error,
    Exited,
    FdClosed,
    Kill,
    Leave,
    Left,
    Lost,
    Move,
    Place,
    Placed,
    Prepare,
    Refused,
    Resize,
    Resume,
    Signal,
    Spawn,
    Spawned,
    Start,
    Stopped,
)

POLL_SECONDS = 0.002

STARTERS = (
    b"sh",
    b"dash",
    b"bash",
    b"make",
    b"env",
    b"timeout",
    b"setsid",
    b"python3",
    b"python3.11",
)


class Guest:
    """One mrun's socket and its body."""

    def __init__(self, double: "Double", sock: socket.socket, behaviour: str) -> None:
        self.behaviour = behaviour
        self.pid = 0
        self.body = 0
        self._has_output = True
        self._double = double
        self._loop = double.loop
        self._endpoint = Endpoint(
            self._loop,
            SocketStream(sock),
            {
                Start: self._start,
                Signal: self._signal,
                Kill: self._kill,
                Resize: self._resize,
                Leave: self._leave,
                Depart: self._depart,
            },
            self._mrun_gone,
            "mrun",
        )

    def _start(self, message: Start, tag: int, fds: list[int]) -> None:
        spawn = Spawn.decode(message.spawn)
        self._double.log(f"{spawn!r} exclusive={spawn.exclusive} fds={len(fds)}")
        if self.behaviour in ("error", "early"):
            for fd in fds:
                os.close(fd)
            early = self.behaviour == "early"
            self._endpoint.reply(tag, Error(5 if early else 13, b"the double refuses"))
            return
        self.body = spawn.body
        executed, not_yet = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become(spawn, fds, not_yet)
            finally:
                os._exit(127)
        for fd in (*fds, not_yet):
            os.close(fd)
        os.read(executed, 1)
        os.close(executed)
        self._endpoint.reply(tag, Spawned(spawn.body))
        if self.behaviour == "lose":
            self._end_body()
            self._endpoint.post(Lost(self.body, 0, b"cable pulled"))
            return
        if self.behaviour == "flaky" and self._double.is_first("flaky"):
            self._end_body()
            self._endpoint.post(Lost(self.body, 1, b"cable pulled"))
            return
        if self.behaviour == "crash":
            self._end_body()
            self._endpoint.flush()
            self._endpoint.close("crash")
            return
        if self.behaviour == "background":
            self._endpoint.post(Signal(self.body, signal.SIGTTIN, SCOPE_GROUP))
        if self.behaviour == "quiet":
            self._endpoint.post(FdClosed(self.body, 2))
        if self.behaviour == "moving":
            self._double.move(self.body)
        self._poll()

    def _poll(self) -> None:
        if not self.pid:
            return
        if self._has_output and not os.path.lexists(f"/proc/{self.pid}/fd/1"):
            # As a link process hears from its node.
            self._has_output = False
            self._endpoint.post(FdClosed(self.body, 1))
        pid, status, usage = os.wait4(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid and os.WIFSTOPPED(status):
            self._endpoint.post(Stopped(self.body, os.WSTOPSIG(status)))
        elif pid and os.WIFCONTINUED(status):
            self._endpoint.post(Continued(self.body))
        elif pid:
            self.pid = 0
            self._tell_end(status, usage)
            return
        self._loop.call_later(POLL_SECONDS, self._poll)

    def _tell_end(self, status: int, usage: resource.struct_rusage) -> None:
        failed = self.behaviour == "full"
        self._endpoint.post(
            Exited(
                body=self.body,
                status=status,
                utime_us=int(usage.ru_utime * 1e6),
                stime_us=int(usage.ru_stime * 1e6),
                maxrss_kib=usage.ru_maxrss,
                round_trips=7,
                bytes_to_node=8,
                bytes_to_home=9,
                errno=28 if failed else 0,
                path=b"/disk/file" if failed else b"",
            )
        )

    def _signal(self, message: Signal, tag: int, fds: list[int]) -> None:
        self._double.log(repr(message))
        if message.scope == SCOPE_GROUP:
            os.killpg(self.pid, message.signo)
        else:
            os.kill(self.pid, message.signo)

    def _kill(self, message: Kill, tag: int, fds: list[int]) -> None:
        self._double.log(repr(message))
        if self.pid:
            os.killpg(self.pid, signal.SIGKILL)

    def _resize(self, message: Resize, tag: int, fds: list[int]) -> None:
        self._double.log(repr(message))

    def _leave(self, message: Leave, tag: int, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        nothing = time.monotonic_ns()
        left = Left(self.body, [], [], [], [], 0, b"", b"", 0, 0, nothing, [], [])
        self._endpoint.reply(tag, left)

    def _depart(self, message: Depart, tag: int, fds: list[int]) -> None:
        self._end_body()
        self._endpoint.reply(tag, Departed(0, []))

    def _mrun_gone(self, reason: str) -> None:
        self._double.log("mrun gone")
        if self.pid:
            self._end_body()

    def _end_body(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0


class Hasty:
    """Another node's link process: what comes there ends before anybody says that it goes on."""

    def __init__(self, double: "Double", sock: socket.socket) -> None:
        self._prepared = 0
        self._endpoint = Endpoint(
            double.loop,
            SocketStream(sock),
            {Prepare: self._prepare, Arrive: self._arrive, Resume: self._resume},
            lambda reason: None,
            "mrun",
        )

    def _prepare(self, message: Prepare, tag: int, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        self._prepared = tag

    def _arrive(self, message: Arrive, _: int, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        self._endpoint.reply(self._prepared, Spawned(Spawn.decode(message.spawn).body))

    def _resume(self, message: Resume, tag: int, fds: list[int]) -> None:
        self._endpoint.post(Exited(message.body, HASTY_STATUS << 8, 0, 0, 0, 0, 0, 0, 0, b""))
        self._endpoint.reply(tag, Done())


def become(spawn: Spawn, fds: list[int], not_yet: int) -> None:
    """In the child: be the body; `not_yet` is closed by the exec."""
    os.setpgid(0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Out of the way of the numbers that the body wants.
    high = [os.dup2(fd, 500 + index) for index, fd in enumerate(fds)]
    os.dup2(not_yet, 499, inheritable=False)
    os.closerange(0, 499)
    for item, fd in zip(spawn.descriptors, high, strict=True):
        os.dup2(fd, item.fd)
    for fd in high:
        os.close(fd)
    os.chdir(spawn.cwd)
    os.umask(spawn.umask)
    for number in range(16):
        soft, hard = spawn.limits[2 * number : 2 * number + 2]
        limit = tuple(-1 if value == 2**64 - 1 else value for value in (soft, hard))
        resource.setrlimit(number, (limit[0], limit[1]))
    for signo in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = spawn.ignored >> (signo - 1) & 1
        signal.signal(signo, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.pthread_sigmask(
        signal.SIG_SETMASK,
        [signo for signo in signal.valid_signals() if spawn.blocked >> (signo - 1) & 1],
    )
    env = dict(entry.split(b"=", 1) for entry in spawn.env)
    os.execve(spawn.exe, spawn.argv, env)


# With which what moves ends.
HASTY_STATUS = 7

# How long the daemon thinks about a program with the argument "late".
LATE_SECONDS = 1.5


class Double:
    """The daemon's side."""

    def __init__(self, path: str, log: str) -> None:
        self.loop = Loop()
        self._asked: set[str] = set()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self.loop.watch(self._listener.fileno(), READ, self._accept)

    def log(self, line: str) -> None:
        os.write(self._log, line.encode() + b"\n")

    def is_first(self, what: str) -> bool:
        """Tell whether this was not asked before."""
        first = what not in self._asked
        self._asked.add(what)
        return first

    def _accept(self, _: int) -> None:
        sock, _address = self._listener.accept()
        client = self._client = Endpoint(
            self.loop,
            SocketStream(sock),
            {
                Place: lambda message, tag, fds: self._place(client, message, tag),
                Ended: lambda message, tag, fds: self.log(repr(message)),
            },
            lambda reason: None,
            "mrun",
        )

    def move(self, body: int) -> None:
        """Have the latest mrun move its body."""
        ours, theirs = socket.socketpair()
        Hasty(self, ours)
        move = Move(body, b"hasty", b"asked for", 0, b"")
        self._client.request(move, lambda reply: self.log(repr(reply)), [theirs.detach()])

    def _place(self, client: Endpoint, place: Place, tag: int) -> None:
        self.log(f"{place!r} top={place.top}")
        node = place.node.decode()
        if not place.top and not node:
            # As in a build: what starts others stays, whatever its arguments; the rest goes.
            stays = os.path.basename(place.exe) in STARTERS
            if stays:
                client.reply(tag, Placed(b"home", 1, b"it starts others"))
                return
            if b"late" in place.argv:
                late = Placed(b"home", 0, b"thought about for long")
                self.loop.call_later(LATE_SECONDS, lambda: client.reply(tag, late))
                return
            node = "double"
        if node == "nobody":
            client.reply(tag, Refused(125, b"no node nobody", b"to add it: do so"))
        elif node == "none" or (node == "early" and not self.is_first("early")):
            client.reply(tag, Placed(b"home", 0, b"no node can be used"))
        elif node == "waiting":
            return
        else:
            ours, theirs = socket.socketpair()
            Guest(self, ours, node)
            client.reply(tag, Placed(b"double", 0, b"asked for"), [theirs.detach()])


if __name__ == "__main__":
    double = Double(sys.argv[1], sys.argv[2])
    print("listening", flush=True)
    double.loop.run()
