"""Two places between which programs move: user, pid and mount namespaces of an ordinary user.

The first process of a land plays the ghost: it is the parent of programs and of stubs. For every
move it forks two workers, which do what the agents' workers do with stubs.migration. The test
conducts. What passes on the command sockets is pickled: both ends are this file.
"""

import contextlib
import os
import pickle
import resource
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stubs.abi.calls import Calls, map_code
from stubs.abi.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount
from stubs.abi.prctl import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, prctl
from stubs.abi.sched import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, unshare
from stubs.migration.image import Process
from stubs.migration.proc import read_stat
from stubs.migration.reasons import Unmovable
from stubs.migration.restore import Restored, receive_head
from stubs.migration.source import Source
from stubs.migration.stub import add_calls
from stubs.migration.tracee import Tracee

USER = 54321
DEADLINE = 60.0

# Where programs and their threads get their pids, and where what serves the test does.
_PROGRAMS, _WORKERS = 30000, 300


class MoveError(Exception):
    """A worker gave up; the text says why."""


def put(sock: socket.socket, *values: Any, fds: tuple[int, ...] = ()) -> None:
    """Send values, and descriptors with them."""
    data = pickle.dumps(values)
    socket.send_fds(sock, [data], list(fds))


def get(sock: socket.socket) -> tuple[Any, list[int]]:
    """Receive what `put` sent."""
    data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 16)
    if not data:
        raise EOFError
    return pickle.loads(data), fds


def compiled(name: str, directory: Path) -> str:
    """Compile a program of this directory, and return its path."""
    path = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["gcc", "-O1", "-w", "-pthread", str(source), "-o", str(path)], check=True)
    return str(path)


class Land:
    """A place for programs, seen from the test."""

    def __init__(self, uid: int = USER) -> None:
        """Make it."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self.sock.close()
            _inhabit(theirs, uid)
        theirs.close()
        self.ask("hello")

    def ask(self, *command: Any, fds: tuple[int, ...] = ()) -> Any:
        """Have the first process do something, and return what it answers."""
        put(self.sock, *command, fds=fds)
        answer, _ = get(self.sock)
        if answer[0] == "error":
            raise MoveError(answer[1])
        return answer[1]

    def run(self, *argv: str, stdio: tuple[int, int, int] | None = None, cwd: str = "/") -> int:
        """Start a program, and return its pid there."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        fds = stdio or (null, null, null)
        pid: int = self.ask("run", argv, cwd, fds=fds)
        os.close(null)
        return pid

    def status(self, pid: int) -> int | None:
        """Return the wait4(2) status of a program that has ended."""
        found: int | None = self.ask("wait", pid)
        return found

    def end_of(self, pid: int) -> int:
        """Wait for the end of a program, and return its exit code."""
        deadline = time.monotonic() + DEADLINE
        while True:
            status = self.status(pid)
            if status is not None:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"program {pid} does not end"
            time.sleep(0.01)

    def close(self) -> None:
        """Remove it with all that is in it."""
        self.sock.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@contextlib.contextmanager
def lands(count: int = 2, uid: int = USER) -> Iterator[list[Land]]:
    """Make some, and remove them."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            land = Land(uid)
            stack.callback(land.close)
            found.append(land)
        yield found


class Worker:
    """A worker in a land, and the socket on which it tells what it does."""

    def __init__(self, land: Land, kind: str, stream: socket.socket, *values: Any) -> None:
        """Fork it."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = (stream.fileno(), theirs.fileno())
        self._land = land
        self.pid = land.ask("worker", kind, values, fds=fds)
        theirs.close()

    def told(self, what: str) -> Any:
        """Wait until it tells this, and return the rest of it."""
        try:
            answer, _ = get(self.sock)
        except EOFError:
            raise MoveError("the worker has ended") from None
        if answer[0] != what:
            raise MoveError(f"{answer[0]}: {answer[1]}")
        return answer[1]

    def thaw(self) -> None:
        """Have it let its tree go on, if it does not do so by itself, and wait for its end."""
        with contextlib.suppress(OSError, EOFError):
            put(self.sock, "thaw")
            while True:
                get(self.sock)

    def kill(self) -> None:
        """Kill it."""
        self._land.ask("kill", self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end."""
        self.sock.close()


Outside = tuple[dict[bytes, int], dict[int, int]]


def move(
    source: Land,
    destination: Land,
    pid: int,
    outside: Outside = ({}, {}),
    lively: bool = False,
    killed: str = "",
    **options: Any,
) -> dict[str, Any]:
    """Move a program, and return what was measured. MoveError when it stays where it was.

    `killed` names a worker that is killed when the tree is held; `options` are `patience` of the
    pre-copy, and what `_spoil` does.
    """
    left, right = socket.socketpair()
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    leaving = Worker(
        source, "source", left, [pid, *source.ask("orphans", pid)], outside[0], lively, options
    )
    coming = Worker(destination, "destination", right, options)
    left.close()
    right.close()
    try:
        return _conduct(destination, leaving, coming, outside[1], killed)
    finally:
        leaving.close()
        coming.close()


def _conduct(
    destination: Land, leaving: Worker, coming: Worker, outside: dict[int, int], killed: str
) -> dict[str, Any]:
    try:
        pid, path, number = coming.told("head")
    except MoveError:
        leaving.told("frozen")  # it is the source that has something to say
        raise
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs:
            stub = destination.ask("stub", pid, path, number, fds=(theirs.fileno(),))
            put(coming.sock, "stub", stub, list(outside), fds=(ours.fileno(), *outside.values()))
        begun, facts = leaving.told("frozen")
        held = coming.told("held")
        sent = leaving.told("sent")
        if killed:
            raise MoveError(f"the worker of the {killed} is to be killed")
    except MoveError:
        if killed == "source":
            leaving.kill()
        leaving.thaw()
        if killed == "destination":
            coming.kill()
        raise
    put(leaving.sock, "kill")
    leaving.told("killed")
    put(coming.sock, "go")
    went = coming.told("went")
    return {"frozen_ms": (went - begun) * 1000, **facts, **sent, **held}


def _inhabit(sock: socket.socket, uid: int) -> None:
    """Be a land, in a process just forked; never returns."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        prctl(PR_SET_DUMPABLE, 1)
        unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{uid} {uid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        if os.fork():
            sock.close()
            os.wait()
            os._exit(0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
        mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(b"shm", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777")
        First(sock).serve()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class First:
    """The first process of a land."""

    def __init__(self, sock: socket.socket) -> None:
        """Serve on `sock`."""
        self._sock = sock
        self._code = map_code()
        self._kept: list[Calls] = []
        self._ended: dict[int, int] = {}

    def serve(self) -> None:
        """Answer commands until there are no more."""
        while True:
            try:
                command, fds = get(self._sock)
            except EOFError:
                os._exit(0)
            try:
                answer = getattr(self, command[0])(fds, *command[1:])
                put(self._sock, "ok", answer)
            except OSError as error:
                put(self._sock, "error", str(error))
            for fd in fds:
                os.close(fd)

    def hello(self, fds: list[int]) -> None:
        """Tell that we are here."""

    def run(self, fds: list[int], argv: list[str], cwd: str) -> int:
        """Start a program."""
        _pids_from(_PROGRAMS)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir(cwd)
            moved = [os.dup(fd) for fd in fds]
            for number, fd in enumerate(moved):
                os.dup2(fd, number)
            os.closerange(3, 256)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execve(argv[0], argv, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
        return pid

    def limit(self, fds: list[int], which: int, value: int) -> None:
        """Limit what is begun here from now on."""
        resource.setrlimit(which, (value, value))

    def stub(self, fds: list[int], pid: int, path: bytes, number: int) -> int:
        """Start a stub."""
        self.wait(fds, pid)  # the process that has left us
        calls = Calls()
        calls.add(112)  # setsid
        add_calls(calls, fds[0], number)
        self._kept.append(calls)
        return calls.start(self._code, pid)

    def orphans(self, fds: list[int], pid: int) -> list[int]:
        """Return those of a program's processes whose parent is gone."""
        self.wait(fds, 0)
        found = [read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit()]
        return [
            each.pid
            for each in found
            if each.ppid == os.getpid() and each.pid >= _PROGRAMS and each.pid != pid
        ]

    def programs(self, fds: list[int]) -> list[int]:
        """Return the processes that are programs, or were to become ones."""
        self.wait(fds, 0)
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if pid >= _PROGRAMS]

    def wait(self, fds: list[int], pid: int) -> int | None:
        """Return the status of a program that has ended."""
        while True:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not found:
                break
            self._ended[found] = status
        return self._ended.pop(pid, None)

    def kill(self, fds: list[int], pid: int, signo: int) -> None:
        """Send a signal."""
        os.kill(pid, signo)

    def worker(self, fds: list[int], kind: str, values: tuple[Any, ...]) -> int:
        """Fork a worker."""
        before = _pids_from(_WORKERS)
        pid = os.fork()
        if pid == 0:
            self._sock.close()
            _work(kind, socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]), values)
        _pids_from(max(before, _PROGRAMS))
        return pid


def _pids_from(number: int) -> int:
    """Have the next pids above `number`, and return the last one so far."""
    with open("/proc/sys/kernel/ns_last_pid", "rb+", buffering=0) as last:
        before = int(last.read())
        last.seek(0)
        last.write(str(number).encode())
    return before


def _work(kind: str, stream: socket.socket, sock: socket.socket, values: tuple[Any, ...]) -> None:
    """Be a worker; never returns."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        WORK[kind](stream, sock, *values)
    except EOFError:
        pass  # the test, or the other worker, has given up
    except BaseException as error:
        if os.environ.get("MOVE_DEBUG"):
            traceback.print_exc()
        with contextlib.suppress(OSError):
            put(sock, type(error).__name__, str(error))
    finally:
        os._exit(0)


def _source(
    stream: socket.socket,
    sock: socket.socket,
    pids: list[int],
    outside: dict[bytes, int],
    lively: bool,
    options: dict[str, Any],
) -> None:
    source = Source(pids, outside)
    patience = options.get("patience", 0.0)
    rounds = source.precopy(stream.sendall, patience) if lively else []
    begun = time.monotonic()
    try:
        source.freeze()
    except Unmovable as error:
        put(sock, "Unmovable", f"{error.reason.name}: {error}")
        return
    frozen = time.monotonic()
    facts = {"freeze_ms": (frozen - begun) * 1000, "rounds": rounds, "calls": Tracee.calls}
    put(sock, "frozen", (begun, facts))
    _spoil(source, options)
    if options.get("spoilt") == "cut":
        stream.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError, EOFError):
            put(sock, "spoilt", "the stream")
            get(sock)
        source.thaw()
        with contextlib.suppress(OSError):
            put(sock, "thawed", None)
        return
    try:
        source.send(stream.sendall)
    except OSError:
        source.thaw()
        raise
    stream.shutdown(socket.SHUT_WR)
    put(sock, "sent", {"send_ms": (time.monotonic() - frozen) * 1000, "bytes": source.bytes})
    try:
        (word,), _ = get(sock)
    except EOFError:
        word = "thaw"
    if word == "kill":
        source.kill()
        put(sock, "killed", source.cpu_us)
    else:
        source.thaw()
        put(sock, "thawed", None)


def _spoil(source: Source, options: dict[str, Any]) -> None:
    """Have an image say of its origin, or of a process, what is not true of this machine."""
    image = source.image
    if options.get("other_vdso") and image.vdso:
        # The last byte is padding.
        image.vdso = image.vdso[:-1] + bytes([image.vdso[-1] ^ 1])
    spoilt = options.get("spoilt")
    if spoilt == "cpu_flags":
        image.cpu_flags += b" avx4096"
    elif spoilt in ("vdso_position", "process"):
        process = Process.decode(image.processes[0])
        if spoilt == "process":
            process.cwd = len(image.opens)
        else:
            process.vdso = [at + 1 for at in process.vdso]
        image.processes[0] = process.encode()


def _destination(stream: socket.socket, sock: socket.socket, options: dict[str, Any]) -> None:
    file = stream.makefile("rb", buffering=1 << 20)

    def read(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise EOFError("the stream has been cut")
        return data

    head = receive_head(read)
    put(sock, "head", (head.pid, head.path, head.control))
    (_, stub, keys), fds = get(sock)
    control = socket.socket(fileno=fds[0])
    outside = dict(zip(keys, fds[1:], strict=True))
    begun = time.monotonic()
    restored = Restored(head, read, stub, control, head.path, lambda: (outside, []))
    restored.finish()
    facts = {"restore_ms": (time.monotonic() - begun) * 1000, "restore_calls": Tracee.calls}
    put(sock, "held", facts)
    (word,), _ = get(sock)
    if word == "go":
        restored.go()
        put(sock, "went", time.monotonic())
    else:
        restored.kill()


WORK: dict[str, Callable[..., None]] = {"source": _source, "destination": _destination}
