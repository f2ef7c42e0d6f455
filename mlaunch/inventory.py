"""The nodes we know: how to reach them, their link processes, and what they last said.

Runs in the daemon, on its loop. A node has at most one link process. One that fails is started
again after a while, later each time, and at once when somebody asks for that node by name.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from mlaunch import config, link, local, suggest
from mlaunch.config import Config, Node
from mlaunch.errors import LaunchError
from mlaunch.placement import HOME, NodeState
from mlaunch.slots import Slots
from stubs.link import runtime
from stubs.link.endpoint import Endpoint
from stubs.link.stream import SocketStream
from stubs.wire.messages import Attach, Gone, Quit, Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from stubs.link.loop import Loop, Timer

# A failed link is tried again after 1 s, then twice as long each time, up to a minute.
RETRY_FIRST_S = 1.0
RETRY_LONGEST_S = 60.0

# A body is in its node's load reports after its start (0.1 s) and two of their periods.
RESERVED_S = 2.5

# A load report tells of the second before it, and is up to half a second under way; one in which
# guests came or went says nothing of the time after, and one before it not for ever.
DISTURBED_S = 1.5
AVAILABLE_S = 15.0

LOCAL = Node(local.NAME, local.NAME)


class Member:
    """One node: its state, its link process, what was sent there a moment ago."""

    def __init__(self, node: Node) -> None:
        """Know nothing of it yet."""
        self.node = node
        self.state = "unknown"  # then connecting, ready, unusable or lost
        self.reason = ""
        self.remedy = ""
        self.failure = ("", "")  # reason and remedy of the last link's end, until one is ready
        self.rtt_ms: float | None = None
        self.facts: dict[str, Any] = {}
        self.load: dict[str, int] = {}
        self.guests = 0
        self.link: Endpoint | None = None
        self.pid = 0
        self.began = -math.inf  # to connect
        self.failed_at = -math.inf
        self.hopeful = True  # no attempt has failed since it was last ready
        self.retry: Timer | None = None
        self.retry_s = RETRY_FIRST_S
        self.slots = Slots()
        self.holds: set[str] = set()  # executables that have run there on this link
        self.leaving = False  # its agent has been told to end, and waits for guests to go
        self.emptied = False  # somebody has all guests moved away from it
        self._reserved: dict[int, float] = {}
        # CPUs that would be idle without our guests, when that was known, and when a guest last
        # came or went.
        self._available = 0.0
        self._available_at = -math.inf
        self._changed_at = -math.inf

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def ready(self) -> bool:
        """Whether bodies can be sent there now."""
        return self.state == "ready" and self.link is not None

    @property
    def connecting(self) -> bool:
        """Whether it is not known yet if it can be used."""
        return self.state == "connecting"

    @property
    def problem(self) -> str:
        """Why bodies cannot be sent there now; empty when they can."""
        if self.ready:
            return self.closing
        if self.connecting:
            return "still connecting"
        return self.reason or "not connected"

    @property
    def closing(self) -> str:
        """Why its guests have to go while it can be used still; empty if they have not."""
        if self.leaving:
            return "it is shutting down"
        return "it is being emptied" if self.emptied else ""

    @property
    def failed_for(self) -> float:
        """Return the seconds since the last link ended."""
        return time.monotonic() - self.failed_at

    def reserve(self, pid: int) -> None:
        """Count one more body, until the load shows it or it has gone."""
        self._reserved[pid] = self._changed_at = time.monotonic()

    def release(self, pid: int) -> None:
        """Count that body no more."""
        self._reserved.pop(pid, None)
        self.guests = max(0, self.guests - 1)
        self._changed_at = time.monotonic()

    def forget_guests(self) -> None:
        """Count no body that was sent there: the link, and all of them with it, is lost."""
        self._reserved.clear()
        self.slots.clear()
        self.holds.clear()
        self.guests = 0

    def take_load(self, load: dict[str, int]) -> None:
        """Note what the node reports."""
        self.load = load
        now = time.monotonic()
        if load and now - self._changed_at > DISTURBED_S:
            idle = (load["idle_milli"] + load["guests_cpu_milli"]) / 1000
            self._available, self._available_at = min(idle, self.cpus), now

    @property
    def idle(self) -> float:
        """CPUs that one more guest would find idle.

        What a guest used that has just ended is still missing in the node's last report, but is
        free again: otherwise we would run away from ourselves.
        """
        idle = self.load.get("idle_milli", self.cpus * 1000) / 1000
        if not self.guests and time.monotonic() - self._available_at < AVAILABLE_S:
            idle = max(idle, self._available)
        return idle

    def placement(self, child: bool = False) -> NodeState:
        """Return what placement wants to know, for a child of a program under mrun or for others.

        Children come and go faster than reports: for them our own are counted exactly, and what
        is idle is taken as it was measured, with what ours used then.
        """
        now = time.monotonic()
        horizon = now - RESERVED_S
        self._reserved = {pid: at for pid, at in self._reserved.items() if at > horizon}
        load = self.load
        cpus = self.cpus
        owner = load.get("owner_idle_s", 0xFFFFFFFF)
        return NodeState(
            self.name,
            problem=self.problem,
            cpus=cpus,
            idle=load.get("idle_milli", cpus * 1000) / 1000 if child else self.idle,
            load1=load.get("load1_milli", 0) / 1000,
            running=max(0, load.get("running", 0) - 1),  # but for the agent that counts
            speed=float(load.get("speed", self.facts.get("speed", 0))),
            rtt_s=(self.rtt_ms or 0.0) / 1000,
            memory_available=load.get("memory_available", 1 << 40),
            stall_memory=load.get("psi_memory_milli", 0) / 10,  # thousandths to per cent
            reserved=len(self._reserved),
            owner_idle_s=float("inf") if owner == 0xFFFFFFFF else owner,
            slots_used=self.slots.used,
            queued_s=self.slots.queued_s(now),
            guests_cpu=load.get("guests_cpu_milli", 0) / 1000,
            holds=self.holds,
        )

    @property
    def cpus(self) -> float:
        """CPUs that a guest may use; 1 as long as nothing is known."""
        return float(self.load.get("cpus_milli", self.facts.get("cpus_milli", 1000))) / 1000

    def shown(self) -> dict[str, Any]:
        """Return what `mlaunch nodes` shows; None for what is not known.

        While a node is tried again it is told why the last attempt failed.
        """
        known = bool(self.load) and self.ready
        load = self.load
        reason, remedy = self.failure if self.connecting else (self.reason, self.remedy)
        return {
            "name": self.name,
            "host": self.node.host,
            "state": "leaving" if self.ready and self.closing else self.state,
            "cpus": self.cpus if known else None,
            "idle_cpus": self.idle if known else None,
            "load1": load["load1_milli"] / 1000 if known else None,
            "memory_available_bytes": load["memory_available"] if known else None,
            "rtt_ms": self.rtt_ms if self.ready else None,
            "guests": self.guests,
            "reason": reason or (self.closing if self.ready else ""),
            "remedy": remedy,
            "pid": self.pid,
            "facts": self.facts,
        }


class Inventory:
    """All members; starts, hears and ends their link processes."""

    def __init__(self, loop: Loop, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the state of a node has become another."""
        self.members: dict[str, Member] = {}
        self.config = Config()
        self.config_error: LaunchError | None = None
        self._config_stamp: tuple[int, ...] | None = None
        self._loop = loop
        self._changed = changed
        self._local: Member | None = None
        # Called with a node that is about to end.
        self.on_leaving: Callable[[Member], None] = lambda member: None

    def read_config(self) -> None:
        """Read the configuration if it has changed; what is wrong with it is kept for who asks."""
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
            self.configure(config.load(path))
            self.config_error = None
        except LaunchError as error:
            self.config_error = error

    def configure(self, new: Config) -> None:
        """Take over the nodes of `new`: some appear, those gone or changed are let go."""
        again = new.export != self.config.export
        self.config = new
        for name, member in list(self.members.items()):
            if new.node(name) != member.node or again:
                self._dismiss(self.members.pop(name))
        for node in new.nodes:
            if node.name not in self.members:
                self.members[node.name] = Member(node)
        if again and self._local is not None:
            self._dismiss(self._local)
            self._local = None

    def find(self, name: str) -> Member | None:
        """Return the member of that name; `local` is always there when it is named."""
        if name == local.NAME:
            if self._local is None:
                self._local = Member(LOCAL)
            return self._local
        return self.members.get(name)

    def unknown(self, name: str) -> LaunchError:
        """Say that there is no node of that name."""
        return suggest.unknown_node(name, self.members, [HOME, local.NAME])

    def considered(self) -> list[Member]:
        """Return the nodes among which is chosen: those configured, else `local`."""
        if self.members:
            return list(self.members.values())
        found = self.find(local.NAME)
        return [found] if found else []

    def all(self) -> list[Member]:
        """Return every member that there is."""
        return list(self.members.values()) + ([self._local] if self._local else [])

    @property
    def guests(self) -> int:
        """How many bodies there are, on all nodes."""
        return sum(member.guests for member in self.all())

    def connect(self, member: Member, at_once: bool = False) -> None:
        """Start the link process unless there is one; one that failed waits unless `at_once`."""
        if member.link is not None:
            return
        if member.retry is not None:
            if not at_once:
                return
            member.retry.cancel()
            member.retry = None
        if member.name != local.NAME:
            try:
                # Once here rather than in every link process: 0.25 s. It starts no thread yet.
                importlib.import_module("mlaunch.ssh")
            except ModuleNotFoundError as error:
                member.state, member.reason = "unusable", f"there is no package {error.name}"
                member.remedy = f"{sys.executable} -m pip install {error.name}"
                return
        here, there = socket.socketpair()
        try:
            pid = os.fork()
        except OSError as error:
            here.close()
            there.close()
            member.state, member.reason = "unusable", f"no link process: {error.strerror}"
            return
        if pid == 0:
            _become_link(there, member.node, self.config)
        there.close()
        member.state, member.reason, member.remedy, member.pid = "connecting", "", "", pid
        member.began = time.monotonic()
        member.link = Endpoint(
            self._loop,
            SocketStream(here),
            {
                Report: lambda message, tag, fds: self.report(member, message),
                Gone: lambda message, tag, fds: member.release(message.body),
            },
            lambda reason: self._ended(member),
            member.name,
        )

    def attach(self, member: Member, pid: int, sock: socket.socket) -> None:
        """Hand the socket of an mrun to the link process."""
        assert member.link is not None
        member.link.post(Attach(pid), [sock.detach()])

    def report(self, member: Member, message: Report) -> None:
        """Take what the link process of a member says of it."""
        report = json.loads(message.text)
        before = member.state
        member.state = report["state"]
        member.reason, member.remedy = report["reason"], report["remedy"]
        member.rtt_ms, member.guests = report["rtt_ms"], report["guests"]
        member.facts = report["facts"]
        member.take_load(report["load"])
        if report["leaving"] and not member.leaving:
            member.leaving = True
            self.on_leaving(member)
        if member.state != before:
            if member.ready:
                member.retry_s = RETRY_FIRST_S
                member.hopeful = True
                member.failure = ("", "")
            else:
                member.forget_guests()
            self._changed()

    def _ended(self, member: Member) -> None:
        """Note the end of a link process and plan the next one."""
        member.link = None
        member.pid = 0
        member.leaving = False
        member.forget_guests()
        member.failed_at = time.monotonic()
        member.hopeful = False
        if member.state in ("connecting", "ready"):
            member.state, member.reason = "lost", "its link process ended unexpectedly"
        member.failure = member.reason, member.remedy
        if member in self.all():
            member.retry = self._loop.call_later(member.retry_s, lambda: self._try_again(member))
            member.retry_s = min(RETRY_LONGEST_S, member.retry_s * 2)
        self._changed()

    def _try_again(self, member: Member) -> None:
        member.retry = None
        if member in self.all() and member.name != local.NAME:
            self.connect(member)

    def _dismiss(self, member: Member) -> None:
        """End the link of a node that is no more; it goes itself when its last guest has gone."""
        if member.retry is not None:
            member.retry.cancel()
        endpoint = member.link
        if endpoint is None:
            return
        if member.state == "connecting":
            os.kill(member.pid, signal.SIGTERM)
        else:
            endpoint.post(Quit())

    def close(self) -> None:
        """End all links; those with guests live on until the last has gone."""
        for member in self.all():
            self._dismiss(member)
            if member.link is not None:
                member.link.flush()


def _become_link(control: socket.socket, node: Node, config: Config) -> NoReturn:
    """In the forked child: keep nothing of the daemon but `control`, and be the link process."""
    try:
        # Sockets and epoll of the daemon are closed by number: their objects are never used or
        # collected here, for the daemon's frames below us keep them and we do not return.
        gc.freeze()
        fd = control.detach()
        os.closerange(3, fd)
        os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
        link.main(socket.socket(fileno=fd), node, config)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
