"""The processes of the bed for the home view: home with its file service, and the node's side.

Each serves until its control socket closes; tests.kernel.viewbed starts them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.home.files.policy import ExportPolicy
from stubs.home.files.service import FileService
from stubs.link.endpoint import Endpoint, Link
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.node.view.view import View
from stubs.wire.codec import Attr
from stubs.wire.messages import (
    Coming,
    Contents,
    Done,
    Hello,
    Invalidate,
    Names,
    Ping,
    Pong,
    Snapshot,
    Spawn,
)

CHECK_SECONDS = 60
BODY = 4711
VERSION = 1

# How the bed's control sockets are asked: one line of JSON each way.
Answerer = Callable[[dict[str, Any]], dict[str, Any]]


def spawn(call: Callable[[], None], *close: int) -> int:
    """Run `call` in a forked process that dies with this one; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for fd in close:
            os.close(fd)
        call()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def relay(one: socket.socket, other: socket.socket, seconds: float) -> None:
    """Pass bytes between two sockets, each piece after a delay; half a round trip."""
    waiting: dict[socket.socket, deque[tuple[float, bytes]]] = {one: deque(), other: deque()}
    peer = {one: other, other: one}
    while True:
        due = [queue[0][0] for queue in waiting.values() if queue]
        patience = max(0.0, min(due) - time.monotonic()) if due else None
        for sock in select.select([one, other], [], [], patience)[0]:
            data = sock.recv(1 << 20)
            if not data:
                return
            waiting[peer[sock]].append((time.monotonic() + seconds, data))
        for sock, queue in waiting.items():
            while queue and queue[0][0] <= time.monotonic():
                sock.sendall(queue.popleft()[1])


class Control:
    """Answers questions of the test from within a loop."""

    def __init__(self, loop: Loop, sock: socket.socket, answer: Answerer) -> None:
        self.loop = loop
        self.sock = sock
        self.answer = answer
        loop.watch(sock.fileno(), READ, self._asked)

    def _asked(self, _: int) -> None:
        data = self.sock.recv(65536)
        if not data:
            self.loop.stop()
            return
        reply = self.answer(json.loads(data))
        if reply:
            self.say(reply)

    def say(self, reply: dict[str, Any]) -> None:
        self.sock.send(json.dumps(reply).encode())


def ask(sock: socket.socket, **question: Any) -> dict[str, Any]:
    sock.send(json.dumps(question).encode())
    sock.settimeout(CHECK_SECONDS)
    answer: dict[str, Any] = json.loads(sock.recv(1 << 20))
    return answer


def make_spawn(argv: list[str], body: int = BODY) -> Spawn:
    """Return what home is told of a program that is to start in the root directory."""
    return Spawn(
        body=body, ppid=1, pgrp=body, sid=1, umask=0o22, nice=0, blocked=0, ignored=0, cwd_id=0,
        rows=0, columns=0, terminal=0, foreground=0, exe=os.fsencode(argv[0]), cwd=b"/",
        termios=b"", argv=[os.fsencode(word) for word in argv], env=[], limits=[], exclusive=[],
        descriptors=[],
    )  # fmt: skip


def push_names(service: FileService, link: Link, directory: int) -> None:
    """Send the names of a directory as they are now, whether the node has them or not."""
    first, cookie = 1, 0
    while first or cookie:
        part = service._listings.snapshot(Snapshot(directory, cookie))
        cookie = part.cookie
        link.post(Names(part.dir, first, 0 if cookie else 1, part.entries))
        first = 0


def cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system


def run_home(
    sock: socket.socket,
    control: socket.socket,
    root: bytes,
    policy: ExportPolicy,
    state: str | None = None,
) -> None:
    """Be home: serve `root` until the control socket closes."""
    loop = Loop()
    learned = (state, f"{state}/cache") if state else None
    service = FileService(loop, policy, root, learned)
    rpc = Endpoint(loop, SocketStream(sock), service.handlers(), lambda _: loop.stop(), "node")
    link = Link(rpc)
    service.attach(link)
    slow: list[Contents] = []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question["what"] in ("prefetch", "push"):
            service.prefetch(make_spawn(question["argv"], question["body"]))
        if question["what"] == "push":
            return {"pushed": True}
        if question["what"] in ("announce", "deliver"):
            attr = service.resolve(os.fsencode(question["path"]))
            link.post(Coming([attr.id, 0, attr.size]))
            with open(root + os.fsencode(question["path"]), "rb") as file:
                slow.append(Contents(attr.id, 0, 0, 0, file.read()))
            for message in slow if question["what"] == "deliver" else []:
                link.post(message)
            rpc.flush()
            return {"pushed": True}
        if question["what"] in ("names", "distrust"):
            directory = service.resolve(os.fsencode(question["path"]))
            if question["what"] == "distrust":
                link.post(Invalidate([], [], [], [directory.id]))
            else:
                push_names(service, link, directory.id)
            # To be on its way when the test hears of it: it may stop this process then.
            rpc.flush()
            return {"pushed": True}
        if question["what"] in ("barrier", "prefetch"):
            service.barrier()
            link.request(Ping(0), lambda reply: here.say({"reply": type(reply).__name__}))
            return {}
        return {"requests": service.requests, "cpu": cpu_seconds(), "bytes": rpc.bytes_out}

    here = Control(loop, control, answer)
    attr = service.root_attr()
    link.request(Hello(VERSION, os.getuid(), os.getgid(), 1 << 22, b"bed", attr, 0), lambda _: None)
    loop.run()
    service.close()


def run_view(
    sock: socket.socket,
    control: socket.socket,
    fuse_fd: int,
    uid: int,
    gid: int,
    full: bool,
    cache: str,
) -> None:
    """Be the agent: serve the mount until the control socket closes."""
    loop = Loop()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    handlers: dict[Any, Any] = {}
    rpc = Endpoint(loop, SocketStream(sock), handlers, lambda _: lost(), "home")
    link = Link(rpc)
    views: list[View] = []
    bodies: set[int] = set()

    def lost() -> None:
        for view in views:
            view.close()

    def hello(message: Hello, tag: int, _: list[int]) -> None:
        root: Attr = message.root
        view = View(loop, fuse_fd, link, root, uid, gid, full, lambda _: loop.stop(), cache)
        view.see_callers(proc)
        view.know_bodies(bodies.__contains__)
        views.append(view)
        handlers.update(view.handlers())
        link.reply(tag, Done())

    def ping(_: Ping, tag: int, __: list[int]) -> None:
        views[0].settled(lambda: link.reply(tag, Pong(0)))

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        view = views[0]
        if question["what"] == "failure":
            failure = view.take_failure()
            return {"failure": [failure[0], os.fsdecode(failure[1])] if failure else None}
        if question["what"] == "announce":
            view.announce_temporaries()
            return {"announced": True}
        if question["what"] == "touched":
            view.tell_touched(question["body"])
            return {"touched": True}
        if question["what"] == "bodies":
            bodies.update(question["pids"])
            return {"known": True}
        if question["what"] == "lose":
            rpc.close("the test wants it")
            return {"lost": True}
        return {
            "counts": view.counts,
            "spared": view.spared,
            "round_trips": view.traffic.round_trips,
            "bytes_in": view.traffic.bytes_in,
            "bytes_out": view.traffic.bytes_out,
            "unkept": view._library._backlog,
            "cpu": cpu_seconds(),
            "rss": resident_bytes(),
        }

    handlers[Hello] = hello
    handlers[Ping] = ping
    Control(loop, control, answer)
    if os.environ.get("VIEWBED_PROFILE"):
        import cProfile

        profile = cProfile.Profile()
        profile.runcall(loop.run)
        profile.dump_stats(os.environ["VIEWBED_PROFILE"])
    else:
        loop.run()
    lost()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
