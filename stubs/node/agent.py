"""The node agent: what home starts on a node, and all that there is of us on it.

One process, one loop: the link to home, the home view, the bodies' streams and terminals; its
children are the capsule's pid 1 and, for a moment, a benchmark. It ends with its link, when home
says nothing for a while, or by SIGTERM; then the view is cut off, everything in the capsule is
killed, and nothing is left: there is no file, and the mounts were the capsule's.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import time

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.sched import take_short_slices
from stubs.abi.signalfd import read_signals, signalfd
from stubs.abi.unistd import close_except
from stubs.link.endpoint import Endpoint, Link
from stubs.link.loop import READ, Loop
from stubs.link.stream import PipeStream
from stubs.node.capsule.capsule import Capsule, fork_seed
from stubs.wire.errors import RemoteProtocolError
from stubs.wire.messages import (
    Clocks,
    Echo,
    Echoed,
    Error,
    Goodbye,
    Hello,
    Leaving,
    Ping,
    Pong,
    Spawn,
    Welcome,
)
from stubs.wire.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.abi.signalfd import signalfd_siginfo
    from stubs.link.endpoint import Handler
    from stubs.node.capsule.processes import Process
    from stubs.node.guests import Guests
    from stubs.node.moving.moving import Moving
    from stubs.node.streams.streams import Streams
    from stubs.node.view.view import View
    from stubs.wire.codec import Message

LOAD_SECONDS = 1.0

# Home pings every second; it gives a node up after 6 s and restarts nothing before 10 (design §9).
SILENCE_SECONDS = 10.0

# The benchmark waits until the first body, for which the link was made, is off the start.
SPEED_SECONDS = 5.0

# What shuts a node down waits some time for those it has told to end (systemd: 90 s).
LEAVING_SECONDS = 10.0
LEAVING_LOOK_SECONDS = 0.05

_SPEED = struct.Struct("=I")


class Agent:
    """One link's agent."""

    def __init__(self, read_fd: int, write_fd: int, token: bytes) -> None:
        """Take over the descriptors of the link; home will prove the bulk connection by `token`."""
        # First, while this process is small: every ghost is a copy of it.
        sock, seed = fork_seed()
        from stubs.node.attach import Attach
        from stubs.node.probe import Probe, cached_speed

        self._loop = Loop()
        self._token = token
        self._handlers: dict[type[Message], Handler] = {
            Hello: self._hello,
            Ping: self._ping,
            Echo: self._echo,
            Goodbye: self._goodbye,
        }
        stream = PipeStream(read_fd, write_fd)
        self._rpc = Endpoint(self._loop, stream, self._handlers, self._lost, "home")
        self._link = Link(self._rpc)
        self._capsule = Capsule(self._loop, sock, seed, self._capsule_lost)
        self._attach = Attach(self._loop, self._rpc, token)
        self._probe = Probe()
        self._cache = _cache_directory()
        self._probe.speed = cached_speed(self._cache)
        self._view: View | None = None
        self._streams: Streams | None = None
        self._guests: Guests | None = None
        self._moving: Moving | None = None
        self._greeted = False
        self._heard = time.monotonic()
        self._bytes = 0
        self._leaving_until = 0.0
        self._watch_signals()

    def run(self) -> None:
        """Serve until the link ends, then leave nothing behind."""
        try:
            self._loop.call_later(LOAD_SECONDS, self._tick)
            self._loop.run()
        finally:
            self._close()

    def _close(self) -> None:
        # Should the kernel let us wait for something after all, this ends us: with the last
        # descriptor of /dev/fuse the view is cut off, and with us the capsule.
        signal.alarm(int(SILENCE_SECONDS))
        if self._moving is not None:
            self._moving.close()
        if self._guests is not None:
            self._guests.close()
        if self._streams is not None:
            self._streams.close()
        if self._view is not None:
            self._view.close()
        self._capsule.close()
        self._attach.close()

    def _watch_signals(self) -> None:
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        fd = signalfd(signals)
        self._loop.watch(fd, READ, lambda _: self._on_signals(read_signals(fd)))

    def _on_signals(self, infos: list[signalfd_siginfo]) -> None:
        """End; told to by SIGTERM, as when the node is shut down, give guests time to leave first.

        A second signal ends it at once.
        """
        asked = {info.ssi_signo for info in infos} == {signal.SIGTERM}
        if not asked or self._leaving_until or self._guests is None or not self._guests.count:
            self._end("ended by a signal")
            return
        self._leaving_until = time.monotonic() + LEAVING_SECONDS
        self._link.post(Leaving())
        self._leave()

    def _leave(self) -> None:
        """End once no guest is left, or it takes too long."""
        if self._guests is None or not self._guests.count:
            self._end("ended by a signal")
        elif time.monotonic() > self._leaving_until:
            self._end("ended by a signal, with guests that did not leave")
        else:
            self._loop.call_later(LEAVING_LOOK_SECONDS, self._leave)

    # the link

    def _hello(self, message: Hello, tag: int, fds: list[int]) -> None:
        if self._greeted:
            raise RemoteProtocolError("home said hello before")
        self._greeted = True
        self._capsule.open(
            message,
            self._ask_clocks,
            lambda fuse: self._serve(fuse, message),
            lambda problem: self._ready(tag, problem),
        )

    def _ask_clocks(self, then: Callable[[Message], None]) -> None:
        self._link.request(Clocks(), then)

    def _serve(self, fuse: int, hello: Hello) -> None:
        from stubs.node.guests import Guests
        from stubs.node.moving.moving import Moving
        from stubs.node.streams.streams import Streams
        from stubs.node.usage import Meter
        from stubs.node.view.view import View

        view = View(
            self._loop,
            fuse,
            self._link,
            hello.root,
            hello.uid,
            hello.gid,
            self._capsule.full_map,
            self._view_ended,
            os.path.join(self._cache, "content"),
        )
        self._view = view
        self._streams = Streams(self._loop, self._link, view)
        self._guests = Guests(self._loop, self._link, view, self._streams, self._capsule)
        self._moving = Moving(
            self._loop, self._link, view, self._streams, self._capsule, self._guests
        )
        meter = Meter(self._link, self._capsule, self._guests, view.traffic)
        for part in (view, self._streams, self._guests, self._moving, meter):
            self._handlers.update(part.handlers())

    def _ready(self, tag: int, problem: str) -> None:
        from stubs.migration import zstd
        from stubs.node.probe import usable_cpus

        if problem:
            refusal = Error(errno.ENOEXEC, os.fsencode(problem))
            self._handlers[Spawn] = lambda _, tag, __: self._link.reply(tag, refusal)
        if self._view is not None and not problem:
            self._view.see_callers(self._capsule.proc)
            if self._guests is not None:
                self._view.know_bodies(self._guests.is_body)
        names = os.uname()
        self._link.reply(
            tag,
            Welcome(
                version=VERSION,
                uid=os.geteuid(),
                pid=os.getpid(),
                cpus_milli=int(usable_cpus() * 1000),
                speed=self._probe.speed,
                hostname=os.fsencode(names.nodename),
                release=os.fsencode(names.release),
                python=sys.version.split()[0].encode(),
                attach=self._attach.address,
                problem=os.fsencode(problem),
                zstd=int(zstd.load() is not None),
            ),
        )
        # Home is about to choose a node: it must not take one for idle that it knows nothing of.
        self._link.post(self._probe.load(0))
        if not self._probe.speed:
            self._loop.call_later(SPEED_SECONDS, self._measure_speed)

    def _ping(self, message: Ping, tag: int, fds: list[int]) -> None:
        self._link.reply(tag, Pong(time.time_ns()))

    def _echo(self, message: Echo, tag: int, fds: list[int]) -> None:
        self._link.reply(tag, Echoed(bytes(message.size)))

    def _goodbye(self, message: Goodbye, tag: int, fds: list[int]) -> None:
        self._loop.stop()

    def _lost(self, reason: str) -> None:
        self._loop.stop()

    def _view_ended(self, reason: str) -> None:
        self._end(f"the home view has ended: {reason}")

    def _capsule_lost(self, reason: str) -> None:
        if self._guests is not None:
            self._end(reason)

    def _end(self, reason: str) -> None:
        """Say goodbye and end."""
        self._rpc.post(Goodbye(os.fsencode(reason)))
        self._rpc.flush()
        self._loop.stop()

    # every second

    def _tick(self) -> None:
        self._loop.call_later(LOAD_SECONDS, self._tick)
        now = time.monotonic()
        bulk = self._rpc.companion
        received = self._rpc.bytes_in + (bulk.bytes_in if bulk is not None else 0)
        if received != self._bytes:
            self._bytes, self._heard = received, now
        elif now - self._heard > SILENCE_SECONDS:
            self._rpc.close(f"nothing from home for {SILENCE_SECONDS:.0f} s")
            return
        if self._greeted:
            self._capsule.census(self._tell_load)

    def _tell_load(self, processes: list[Process]) -> None:
        guests = self._guests.count if self._guests is not None else 0
        self._link.post(self._probe.load(guests, processes))

    def _measure_speed(self) -> None:
        """Measure in a child, since the loop must not stand still."""
        from stubs.node.probe import keep_speed, measure_speed

        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            close_except([2, writing])
            os.write(writing, _SPEED.pack(measure_speed()))
            os._exit(0)
        os.close(writing)

        def measured(_: int) -> None:
            self._loop.forget(reading)
            data = os.read(reading, _SPEED.size)
            os.close(reading)
            os.waitpid(pid, 0)
            if len(data) == _SPEED.size:
                self._probe.speed = _SPEED.unpack(data)[0]
                keep_speed(self._cache, self._probe.speed)

        self._loop.watch(reading, READ, measured)


def main(read_fd: int, write_fd: int, token: bytes) -> int:
    """Be the agent of the home at the other end; returns the exit status when the link is gone."""
    take_short_slices()
    Agent(read_fd, write_fd, token).run()
    return 0


def _cache_directory() -> str:
    """Return where the agent's archive is kept too (mlaunch.bootstrap)."""
    return os.path.expanduser("~/.cache/mlaunch")
