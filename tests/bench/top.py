"""What `mlaunch top` costs: its own CPU time, as per cent of a core, while it shows a lot.

    python3 -m tests.bench.top [SECONDS]

A process stands in for the home daemon and answers with 8 nodes and 50 bodies whose numbers all
change from answer to answer: the worst case for what is drawn. The terminal is a pty that is read.
Beside it stands how long this interpreter takes for a loop that does nothing, by which two machines
may be compared.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import select
import signal
import socket
import struct
import sys
import tempfile
import termios
import time
from typing import Any

from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.loop import READ, Loop
from stubs.link.stream import SocketStream
from stubs.wire.messages import Answer, Query

NODES = 8
BODIES = 50
PERIODS_S = (0.5, 0.25)
BEGAN = time.time()
COMMAND = "cc1 -quiet -I include -I arch/x86/include -D __KERNEL__ -O2 -Wall"


def answer(turn: int, since: int, nodes: int = NODES, bodies: int = BODIES) -> dict[str, Any]:
    """Return what the daemon might say at that turn, the first being 1."""
    now = time.time()
    started = BEGAN
    return {
        "at": now,
        "daemon": {
            "pid": 4000,
            "cpu_s": 1.0 + turn * 0.01,
            "rss_bytes": 60 << 20,
            "decisions": turn * 40,
            "started": started,
        },
        "home": {"cpus": 2.0, "idle_cpus": 0.5, "memory_available_bytes": 4 << 30}
        | {"guests_cpu": 0.7},
        "nodes": [_node(f"n{number}", number, turn) for number in range(nodes)],
        "bodies": [_body(number, nodes, turn, now) for number in range(bodies)],
        "mruns": [
            {"pid": 4100 + number, "argv": ["make", f"-j{number}"], "started": started}
            | {
                "bodies": bodies // 2,
                "at_home": 3,
                "state": "S",
                "cpu_s": 0.5,
                "rss_bytes": 4 << 20,
            }
            for number in (4, 8)
        ],
        "totals": {
            "placed": turn * 30,
            "stayed": turn * 10,
            "refused": 2,
            "lost": 0,
            "restarted": 1,
            "cpu_s_away": turn * 20.0,
            "bytes_to_node": turn << 20,
            "bytes_to_home": turn << 18,
        },
        "events": [_event(seq, now) for seq in range(since + 1, turn * 5 + 1)],
        "last_event": turn * 5,
    }


def _node(name: str, number: int, turn: int) -> dict[str, Any]:
    busy = (turn + number) % 8
    return {
        "name": name,
        "host": name,
        "state": "ready",
        "cpus": 8.0,
        "idle_cpus": 8.0 - busy,
        "load1": float(busy),
        "memory_available_bytes": (8 << 30) + (turn << 20),
        "rtt_ms": 0.3 + busy / 10,
        "guests": busy,
        "reason": "",
        "remedy": "",
        "pid": 5000 + number,
        "facts": {},
        "owner_active": number == 3,
        "bytes_to_node": turn * number << 20,
        "bytes_to_home": turn * number << 17,
        "guests_cpu": busy / 2,
        "link_pid": 5000 + number,
    }


def _body(number: int, nodes: int, turn: int, now: float) -> dict[str, Any]:
    return {
        "pid": 10000 + number,
        "ppid": 4200 + number // 10,
        "pgrp": 4100,
        "argv": [*COMMAND.split(), f"drivers/net/file{number}.c"],
        "exe": "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
        "node": f"n{number % nodes}",
        "state": "T" if number == 7 else "R",
        "started": BEGAN - 30 - number,
        "cpu_s": turn * (0.3 + number / 200),
        "rss_bytes": (90 << 20) + (turn << 16),
        "processes": 1,
        "round_trips": turn + number,
        "bytes_to_node": turn << 12,
        "bytes_to_home": turn << 10,
        "restarts": 0,
        "migrations": 0,
        "why": "n1: a free slot, has the files, farther than n2",
        "mrun": 4100 + (4 if number % 2 else 8),
        "top": False,
        "measured_at": now,
    }


def _event(seq: int, now: float) -> dict[str, Any]:
    pid = 10000 + seq % BODIES
    return {"seq": seq, "at": now, "kind": "placed", "pid": pid} | {
        "argv0": "/usr/bin/cc1",
        "node": f"n{seq % NODES}",
        "text": "a free slot",
    }


def serve(listener: socket.socket) -> None:
    """Stand in for the daemon, for ever."""
    loop = Loop()
    turn = 0
    clients = []

    def asked(client: Endpoint, query: Query, tag: int) -> None:
        nonlocal turn
        turn += 1
        since = json.loads(query.text)["events_since"]
        client.reply(tag, Answer(json.dumps(answer(turn, since)).encode()))

    def accept(_: int) -> None:
        sock = listener.accept()[0]
        handlers: dict[Any, Any] = {Query: lambda query, tag, fds: asked(client, query, tag)}
        client = Endpoint(loop, SocketStream(sock), handlers, lambda reason: None, "client")
        clients.append(client)

    loop.watch(listener.fileno(), READ, accept)
    loop.run()


def stand_in(directory: str) -> int:
    """Start a process that stands in for the daemon of `directory`; return its pid."""
    os.environ["XDG_RUNTIME_DIR"] = directory
    os.environ["MLAUNCH_CONFIG"] = f"{directory}/config.toml"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(runtime.socket_path())
    listener.listen()
    pid = os.fork()
    if pid == 0:
        try:
            serve(listener)
        finally:
            os._exit(1)
    listener.close()
    return pid


def top(seconds: float, period_s: float, columns: int, lines: int) -> tuple[float, int]:
    """Run `mlaunch top` on a pty; return the CPU seconds that it used, and what it wrote."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "mlaunch", "top", "-d", str(period_s)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    written = 0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            written += len(os.read(terminal, 65536))
    os.kill(pid, signal.SIGTERM)
    # What it says when it leaves must be read, or it waits for that.
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # EIO: the last of its users has gone
    os.close(terminal)
    usage = os.wait4(pid, 0)[2]
    return usage.ru_utime + usage.ru_stime, written


def main() -> None:
    """Print the figures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    start = time.process_time()
    for _ in range(10_000_000):
        pass
    print(f"  ten million turns of an empty loop: {time.process_time() - start:.2f} s")
    with tempfile.TemporaryDirectory() as directory:
        daemon = stand_in(directory)
        try:
            sizes = ((80, 24), (132, 50), (200, 70))
            for period_s, (columns, lines) in itertools.product(PERIODS_S, sizes):
                # The difference of two runs: what it costs to start does not count.
                short, few = top(2, period_s, columns, lines)
                long, many = top(2 + seconds, period_s, columns, lines)
                share = (long - short) / seconds * 100
                rate = (many - few) / seconds / 1024
                print(
                    f"  {columns:3} x {lines:2}, {NODES} nodes, {BODIES} bodies, {period_s} s: "
                    f"{share:.2f} % of a core, {rate:.1f} KiB/s to the terminal",
                    flush=True,
                )
        finally:
            os.kill(daemon, signal.SIGKILL)
            os.waitpid(daemon, 0)


if __name__ == "__main__":
    main()
