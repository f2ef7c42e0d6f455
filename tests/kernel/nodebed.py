"""A bed for the node's side: a real agent, a small directory tree for home, and this test as home.

The agent is a process of its own, started as the node `local` is; the test process serves files
to it (stubs.home.files.service) from a directory that holds a few programs with their libraries,
and sees every message about bodies and streams as home would. Nothing of the machine's own tree is
served.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stubs.abi.mount import MS_BIND, MS_PRIVATE, MS_REC, mount
from stubs.abi.prctl import PR_SET_PDEATHSIG, prctl
from stubs.abi.sched import CLONE_NEWNS, CLONE_NEWUSER, unshare
from stubs.home.files.policy import ExportPolicy
from stubs.home.files.service import FileService
from stubs.link.endpoint import Endpoint, Link
from stubs.link.loop import Loop
from stubs.link.stream import PipeStream
from stubs.wire.codec import Descriptor, Message
from stubs.wire.messages import (
    FD_STREAM_OUT,
    MESSAGES,
    Error,
    Exited,
    Gone,
    Hello,
    Kill,
    Load,
    Ping,
    Spawn,
    Spawned,
    StreamData,
    StreamEnd,
    StreamTaken,
    Welcome,
)
from stubs.wire.version import VERSION

M = TypeVar("M", bound=Message)

DEADLINE_SECONDS = 20.0
TOKEN = b"t" * 32
PACKAGES = str(Path(__file__).parents[2])
PROGRAMS = ("bash", "cat", "head", "sleep", "stty", "tty", "id", "env", "perl", "true", "yes")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"
)

_START = (
    "import sys; sys.path.insert(0, {!r}); from stubs.link.loader import enter; "
    "enter('stubs.node.agent')"
)

PID = 24013
PARENT = 24010
SESSION = 24000


def make_home(root: Path) -> None:
    """Fill `root` with a few programs and what they need."""
    for name in ("proc", "sys", "dev", "tmp", "bin", "desk"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "desk").chmod(0o777)
    # Whoever the node's user is must get there; mktemp made it for us alone.
    for path in (root, *root.parents[:3]):
        if path.stat().st_mode & 0o1 == 0 and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        shutil.copy(program, root / "bin" / name)
        for word in subprocess.run(
            ["ldd", program], capture_output=True, text=True, check=False
        ).stdout.split():
            if word.startswith("/"):
                copy = root / word[1:]
                copy.parent.mkdir(parents=True, exist_ok=True)
                if not copy.exists():
                    shutil.copy(word, copy)
    (root / "bin" / "sh").symlink_to("bash")


class Bed:
    """Home, in this process, with one agent."""

    def __init__(
        self,
        root: Path,
        home_uid: int = 0,
        node_uid: int = 0,
        fuse_mode: int | None = 0o666,
        namespaces: int | None = None,
        python: str = sys.executable,
    ) -> None:
        """Start an agent as `node_uid`, with that python3.

        `fuse_mode` is the mode of /dev/fuse (None: there is none), `namespaces` how many user
        namespaces it may make (None: as many as it likes).
        """
        self.root = root
        self.home_uid, self.node_uid = home_uid, node_uid
        self.loads: list[Load] = []
        self._last_stream = 1000
        self._bodies: set[int] = set()
        self.loop = Loop()
        self.got: list[Message] = []
        self.lost: list[str] = []
        self.output: dict[int, bytearray] = {}
        self.takes = True  # say StreamTaken for all output
        self.on_data: Callable[[], None] | None = None
        here, there = socket.socketpair()
        self.agent = subprocess.Popen(
            [python, "-I", "-S", "-E", "-c", _START.format(PACKAGES)],
            stdin=there.fileno(),
            stdout=there.fileno(),
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "HOME": str(root / "desk")},
            preexec_fn=lambda: _become_node_user(node_uid, fuse_mode, namespaces),
        )
        there.close()
        here.sendall(TOKEN)
        fd = here.detach()
        self.files = FileService(self.loop, ExportPolicy([]), os.fsencode(root))
        handlers: dict[type[Message], Any] = dict.fromkeys(MESSAGES.values(), self._note)
        handlers.update(self.files.handlers())
        handlers[StreamData] = self._data
        self.rpc = Endpoint(self.loop, PipeStream(fd, fd), handlers, self.lost.append, "node")
        self.link = Link(self.rpc)
        self.files.attach(self.link)
        hello = Hello(VERSION, home_uid, home_uid, 32768, b"homehost", self.files.root_attr(), 0)
        answer = self.ask(hello)
        assert isinstance(answer, Welcome), answer
        self.welcome = answer
        self.pings = True
        self._ping()

    def _ping(self) -> None:
        # An agent that hears nothing for long ends.
        if self.pings and not self.lost:
            self.link.request(Ping(time.time_ns()), lambda _: None)
            self.loop.call_later(1.0, self._ping)

    def close(self) -> None:
        """End the agent by the end of its link, and wait for it."""
        self.abandon()
        try:
            assert self.agent.wait(timeout=DEADLINE_SECONDS) == 0
        finally:
            self.agent.kill()
            self.agent.wait()

    def abandon(self) -> None:
        """Let go of the link."""
        self.rpc.close("the test ends")
        self.files.close()

    def _note(self, message: Message, tag: int, fds: list[int]) -> None:
        if isinstance(message, Load):
            self.loads.append(message)
        else:
            self.got.append(message)

    def _data(self, message: StreamData, tag: int, fds: list[int]) -> None:
        self.got.append(message)
        self.output.setdefault(message.stream, bytearray()).extend(message.data)
        if self.on_data is not None:
            self.on_data()
        if self.takes:
            self.link.post(StreamTaken(message.stream, len(message.data)))

    # waiting

    def until(self, condition: Callable[[], Any], what: str = "it did not happen") -> None:
        """Turn the loop until `condition` holds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert not self.lost, self.lost
            assert time.monotonic() < deadline, f"{what}; got {self.got}"
            self.loop.turn(0.05)

    def ask(self, message: Message) -> Message:
        """Send a request and return the answer."""
        answers: list[Message] = []
        self.link.request(message, answers.append)
        self.until(lambda: answers, f"no answer to {type(message).__name__}")
        return answers[0]

    def all(self, kind: type[M]) -> list[M]:
        """Return the messages of that kind that came."""
        return [message for message in self.got if isinstance(message, kind)]

    def wait_for(self, kind: type[M], **fields: Any) -> M:
        """Wait for a message of that kind with those fields."""

        def found() -> list[M]:
            return [
                message
                for message in self.all(kind)
                if all(getattr(message, name) == value for name, value in fields.items())
            ]

        self.until(found, f"no {kind.__name__} {fields}")
        return found()[0]

    # bodies

    def spawn(self, *argv: str | bytes, **fields: Any) -> Message:
        """Start a body and return the answer; what was told of a former one is forgotten."""
        assert not self.welcome.problem or fields.pop("anyway", False), self.welcome.problem
        spawn = make_spawn(*argv, **fields)
        self.got = [each for each in self.got if getattr(each, "body", 0) != spawn.body]
        self.files.barrier()
        answer = self.ask(spawn)
        if isinstance(answer, Spawned):
            self._bodies.add(spawn.body)
        return answer

    def run(self, *argv: str | bytes, **fields: Any) -> tuple[int, bytes]:
        """Run a body to its end; return its wait status and what it wrote to fds 1 and 2."""
        body = fields.get("body", PID)
        number = self.free_stream()
        fields.setdefault("descriptors", [])
        fields["descriptors"] = [
            *fields["descriptors"],
            stream(1, FD_STREAM_OUT, number),
            Descriptor(2, FD_STREAM_OUT, number, os.O_WRONLY, 0, 1, b""),
        ]
        answer = self.spawn(*argv, **fields)
        assert isinstance(answer, Spawned), answer
        exited = self.wait_for(Exited, body=body)
        self.wait_for(Gone, body=body)
        self.wait_for(StreamEnd, stream=number)
        return exited.status, bytes(self.output.get(number, b""))

    def free_stream(self) -> int:
        """Return a stream number that was not used yet."""
        self._last_stream += 1
        return self._last_stream

    def kill(self, body: int = PID) -> None:
        """Kill a body and wait until nothing is left of it."""
        self.link.post(Kill(body))
        self.wait_for(Gone, body=body)

    def clear(self) -> None:
        """Kill what a failed test has left, and forget all messages."""
        for body in self._bodies - {message.body for message in self.all(Gone)}:
            self.kill(body)
        self._bodies.clear()
        self.got.clear()
        self.takes, self.on_data = True, None


def stream(fd: int, kind: int, number: int, flags: int | None = None) -> Descriptor:
    """Return a record of a stream as a descriptor of a body."""
    if flags is None:
        flags = os.O_WRONLY if kind == FD_STREAM_OUT else os.O_RDONLY
    return Descriptor(fd, kind, number, flags, 0, -1, b"")


def make_spawn(*argv: str | bytes, **fields: Any) -> Spawn:
    """Return a Spawn of a program in /bin, everything usual unless named."""
    words = [os.fsencode(word) for word in argv]
    limits: list[int] = []
    for number in range(16):
        limits += [value & 0xFFFFFFFFFFFFFFFF for value in resource.getrlimit(number)]
    values: dict[str, Any] = {
        "body": PID,
        "ppid": PARENT,
        "pgrp": PARENT,
        "sid": SESSION,
        "umask": 0o022,
        "nice": 0,
        "blocked": 0,
        "ignored": 0,
        "cwd_id": 1,
        "rows": 0,
        "columns": 0,
        "terminal": 0,
        "foreground": 0,
        "exe": b"/bin/" + words[0],
        "cwd": b"/",
        "termios": b"",
        "argv": words,
        "env": [b"PATH=/bin", b"LC_ALL=C"],
        "limits": limits,
        "exclusive": [],
        "descriptors": [],
    }
    values.update(fields)
    return Spawn(**values)


def refused(answer: Message) -> int:
    """Return the errno of a refusal."""
    assert isinstance(answer, Error), answer
    return answer.errno


def _become_node_user(uid: int, fuse_mode: int | None, namespaces: int | None) -> None:
    """Give the agent a /dev/fuse of its own, and its user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    unshare(CLONE_NEWNS)
    mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
    mount(b"tmpfs", b"/mnt", b"tmpfs", 0)
    # Number 254 is nobody's: opening it is as with a kernel that has no fuse.
    number = os.makedev(10, 229 if fuse_mode is not None else 254)
    os.mknod("/mnt/fuse", 0o020000, number)
    os.chmod("/mnt/fuse", fuse_mode or 0o666)
    mount(b"/mnt/fuse", b"/dev/fuse", b"none", MS_BIND)
    if namespaces is not None:
        unshare(CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        Path("/proc/sys/user/max_user_namespaces").write_text(str(namespaces))
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    make_home(root)
    return root


@pytest.fixture(scope="module")
def shared_bed(home: Path) -> Iterator[Bed]:
    bed = Bed(home)
    yield bed
    bed.close()


@pytest.fixture
def bed(shared_bed: Bed) -> Iterator[Bed]:
    yield shared_bed
    shared_bed.clear()
