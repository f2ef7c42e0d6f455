"""One machine of the cluster, from the outside: run commands on it, look at it, break it.

Commands are started by the host's pid 1 (`init`), inside all its namespaces and its control
group, as the user asked for, in a session of their own. Starting one takes a few milliseconds.
"""

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

from tests.cluster.cgroup import Cgroup
from tests.cluster.spec import ClusterSpec, HostSpec

MAX_PACKET = 1 << 17
CHUNK = 1 << 16
# More than any healthy host takes to answer, less than a test's patience.
ANSWER_TIMEOUT = 30.0

Stream = int | IO[bytes] | None


class HostError(Exception):
    """The host did not do what was asked: it is off, frozen, or refused."""


class Process:
    """A command on a host; what subprocess.Popen is for one here, in bytes.

    `pid` is that of the host's pid namespace. Going away without `wait` kills the command.
    """

    def __init__(
        self, request: dict[str, Any], path: str, stdin: Stream, stdout: Stream, stderr: Stream
    ) -> None:
        self.args: list[str] = request["argv"]
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_PACKET * 2)
        self._connection.settimeout(ANSWER_TIMEOUT)
        given: list[int] = []
        try:
            fds = self._descriptors((stdin, stdout, stderr), given)
            with contextlib.ExitStack() as theirs:
                for fd in given:
                    theirs.callback(os.close, fd)
                try:
                    self._connection.connect(path)
                except (ConnectionRefusedError, FileNotFoundError) as error:
                    raise HostError(f"{os.path.basename(path)}: the host is off") from error
                socket.send_fds(self._connection, [json.dumps(request).encode()], fds)
                self.pid = self._await_start()
        except BaseException:
            self.close()
            raise

    def _descriptors(self, streams: tuple[Stream, Stream, Stream], given: list[int]) -> list[int]:
        """Return the three descriptors to send; those to be closed afterwards go to `given`."""
        fds: list[int] = []
        for number, stream in enumerate(streams):
            if stream is None or stream == subprocess.DEVNULL:
                given.append(os.open(os.devnull, os.O_RDWR))
                fds.append(given[-1])
            elif stream == subprocess.STDOUT and number == 2:
                fds.append(fds[1])
            elif stream == subprocess.PIPE:
                read, write = os.pipe()
                theirs, mine = (read, write) if number == 0 else (write, read)
                given.append(theirs)
                fds.append(theirs)
                pipe = open(mine, "wb" if number == 0 else "rb", buffering=0)  # noqa: SIM115
                setattr(self, ("stdin", "stdout", "stderr")[number], pipe)
            else:
                fds.append(stream if isinstance(stream, int) else stream.fileno())
        return fds

    def _await_start(self) -> int:
        try:
            packet, fds, _, _ = socket.recv_fds(self._connection, MAX_PACKET, 1)
        except (TimeoutError, ConnectionError) as error:
            raise HostError(f"no answer to {self.args}: {error}") from error
        reply = json.loads(packet or b"{}")
        if "errno" in reply:
            raise OSError(reply["errno"], os.strerror(reply["errno"]), reply["what"])
        if "pid" not in reply:
            raise HostError(f"{self.args}: the host went down")
        if fds:
            # One end of a pty: what is typed and what is shown.
            os.set_inheritable(fds[0], False)
            self.stdin = open(fds[0], "wb", buffering=0)  # noqa: SIM115
            self.stdout = open(os.dup(fds[0]), "rb", buffering=0)  # noqa: SIM115
        pid: int = reply["pid"]
        return pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self.send_signal(signal.SIGKILL, group=True)
            self.wait(ANSWER_TIMEOUT)
        self.close()

    def close(self) -> None:
        """Close our ends of its streams; a command that still runs is killed."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                # What was still to be written has nobody to read it.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._connection.close()

    def poll(self) -> int | None:
        """Return the exit code if it has ended, minus the signal's number if by one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; raise subprocess.TimeoutExpired.

        A host that is switched off ends all its commands, with -SIGKILL.
        """
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            try:
                packet = self._connection.recv(MAX_PACKET)
            except ConnectionError:
                packet = b""
            status = json.loads(packet)["status"] if packet else signal.SIGKILL
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the command or to its whole process group."""
        if self.poll() is None:
            self._connection.send(json.dumps({"signal": int(number), "group": group}).encode())

    def kill(self) -> None:
        """Send SIGKILL to the command."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the command."""
        self.send_signal(signal.SIGTERM)

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Feed stdin, collect stdout and stderr until they end, and wait.

        On subprocess.TimeoutExpired the command still runs; what it said is in the exception.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        said: dict[IO[bytes], bytearray] = {s: bytearray() for s in (self.stdout, self.stderr) if s}
        pending = memoryview(input or b"")
        with selectors.DefaultSelector() as selector:
            for stream in said:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            if self.stdin is not None and pending:
                os.set_blocking(self.stdin.fileno(), False)
                selector.register(self.stdin, selectors.EVENT_WRITE)
            elif self.stdin is not None and self.stdin.writable() and not self._is_terminal():
                self.stdin.close()
            while selector.get_map():
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                events = selector.select(left)
                if not events and left == 0:
                    raise subprocess.TimeoutExpired(
                        self.args, timeout or 0, *(bytes(text) for text in said.values())
                    )
                for key, _ in events:
                    if key.fileobj is self.stdin:
                        pending = self._feed(selector, pending)
                    else:
                        self._drain(selector, key.fileobj, said)  # type: ignore[arg-type] # ours
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        self.wait(left)
        texts = [bytes(said[s]) if s is not None else b"" for s in (self.stdout, self.stderr)]
        return texts[0], texts[1]

    def _is_terminal(self) -> bool:
        return self.stdin is not None and os.isatty(self.stdin.fileno())

    def _feed(self, selector: selectors.BaseSelector, pending: memoryview) -> memoryview:
        assert self.stdin is not None
        try:
            rest = pending[os.write(self.stdin.fileno(), pending[:CHUNK]) :]
        except BrokenPipeError:
            rest = pending[:0]  # it does not want to read it all, as with head(1)
        if not rest:
            selector.unregister(self.stdin)
            if not self._is_terminal():
                self.stdin.close()
        return rest

    @staticmethod
    def _drain(
        selector: selectors.BaseSelector, stream: IO[bytes], said: dict[IO[bytes], bytearray]
    ) -> None:
        try:
            data = os.read(stream.fileno(), CHUNK)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # a pty whose last user has gone
        if data:
            said[stream] += data
        else:
            selector.unregister(stream)


class Host:
    """Home or a node. Methods that break it return when it is broken."""

    def __init__(self, cluster: ClusterSpec, spec: HostSpec, ask: Callable[..., None]) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = spec.address
        self._ask = ask
        # What `repair` has to undo.
        self._altered: set[str] = set()
        self._socket = f"{cluster.state}/{spec.name}.sock"
        self._cgroup = Cgroup(cluster.cgroup, spec.name)

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    def popen(
        self,
        argv: Sequence[str | bytes],
        *,
        user: str = "alice",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        tty: bool = False,
        stdin: Stream = None,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> Process:
        """Start a command; `env` is added to a login's HOME, USER, PATH, LANG=C.UTF-8.

        With `tty` it gets a terminal of 24 by 80 as its three streams and as its controlling
        terminal; `stdin` and `stdout` of the process are then the terminal's other end. Raises
        OSError if the command cannot be started, HostError if the host is not there to do it.
        """
        request = {
            "argv": [os.fsdecode(word) for word in argv],
            "user": user,
            "cwd": cwd,
            "env": dict(env or {}),
            "tty": tty,
        }
        if tty:
            stdin = stdout = stderr = None
        return Process(request, self._socket, stdin, stdout, stderr)

    def run(
        self,
        argv: Sequence[str | bytes],
        *,
        user: str = "alice",
        input: bytes | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = False,
        tty: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end, as subprocess.run does.

        Raises what `popen` raises, subprocess.TimeoutExpired, and CalledProcessError if `check`.
        """
        stdin = None if input is None else subprocess.PIPE
        with self.popen(argv, user=user, cwd=cwd, env=env, tty=tty, stdin=stdin) as process:
            output, errors = process.communicate(input, timeout)
            code = process.wait()
        if check and code:
            # What it said is the first thing that one wants to know when a test fails.
            failure = subprocess.CalledProcessError(code, argv, output, errors)
            failure.add_note(f"on {self.name}: {errors.decode(errors='replace')[-2000:]}")
            raise failure
        return subprocess.CompletedProcess(argv, code, output, errors)

    def read(self, path: str, *, user: str = "root") -> bytes:
        """Return a file's content; raise CalledProcessError if it cannot be read."""
        return self.run(("cat", "--", path), user=user, cwd="/", check=True).stdout

    def write(self, path: str, data: bytes, *, user: str = "alice") -> None:
        """Write a file as `user` would; raise CalledProcessError if he may not."""
        self.run(("sh", "-c", 'cat > "$1"', "sh", path), user=user, input=data, check=True)

    def repair(self) -> None:
        """Undo every fault and setting; a host that was off is rebooted with its disk."""
        altered, self._altered = self._altered, set()
        if "off" in altered:
            self.reboot()
        else:
            if "frozen" in altered:
                self.thaw()
            if "cut" in altered:
                self.heal()
        if "cpu" in altered:
            self.set_cpu(self.spec.share)
        if "memory" in altered:
            self.set_memory(None)
        if "link" in altered:
            self.set_link()
        self._altered.clear()

    def cpu_seconds(self) -> float:
        """Return seconds of CPU used on the host since it was made, over all processes."""
        return sum(self._cgroup.cpu_ns()) / 1e9

    def processes(self, user: str | None = None) -> list[tuple[int, str]]:
        """Return (pid in the host, command line) of all processes, or of one user's.

        Pid 1 is left out: it is the test cluster's. Also works while the host is frozen.
        """
        uid = None if user is None else {"root": 0, **self.spec.users}[user]
        found = []
        for pid in self._cgroup.processes():
            try:
                with open(f"/proc/{pid}/status") as file:
                    status = dict(
                        line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line
                    )
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().rstrip(b"\0").replace(b"\0", b" ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            inside = int(status["NSpid"].split()[1])
            if inside != 1 and uid in (None, int(status["Uid"].split()[0])):
                found.append((inside, os.fsdecode(words) or f"[{status['Name']}]"))
        return sorted(found)

    def mounts(self) -> list[tuple[str, str]]:
        """Return (file system type, mount point) of all mounts that everyone on the host sees."""
        lines = self.read("/proc/1/mounts").decode().splitlines()
        return [(line.split()[2], line.split()[1]) for line in lines]

    def kill(self) -> None:
        """Kill every process, sshd too: peers see connections reset, and then refused."""
        self._altered.add("off")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(self._socket)
            connection.send(b'{"kill_all": true}')
            if not connection.recv(MAX_PACKET):
                raise HostError(f"{self.name} went down")

    def crash(self) -> None:
        """Switch the host off: peers hear nothing, not even an error. `reboot` brings it back."""
        self._altered.add("off")
        self._ask("crash", host=self.name)

    def cut(self) -> None:
        """Drop every frame to and from the host, until `heal`."""
        self._altered.add("cut")
        self._ask("cut", host=self.name)

    def heal(self) -> None:
        """Undo `cut`."""
        self._ask("heal", host=self.name)
        self._altered.discard("cut")

    def freeze(self) -> None:
        """Stop every process where it stands, until `thaw`; the kernel still acknowledges TCP."""
        self._altered.add("frozen")
        self._ask("freeze", host=self.name)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._ask("thaw", host=self.name)
        self._altered.discard("frozen")

    def reboot(self, *, wipe: bool = False, userns: bool = True) -> None:
        """Switch off and on again; the disk is as it was, or as new with `wipe`.

        Without `userns` the kernel then refuses user namespaces, until the next reboot.
        """
        self._ask("reboot", host=self.name, wipe=wipe, userns=userns)
        self._altered -= {"off", "frozen", "cut"}
        if not userns:
            self._altered.add("off")

    def set_cpu(self, share: float) -> None:
        """Let the host use that share of its CPU (1.0: all of it) from now on."""
        self._altered.add("cpu")
        self._ask("cpu", host=self.name, share=share)

    def set_memory(self, limit: int | None) -> None:
        """Limit memory, page cache and files in tmpfs included, to so many bytes."""
        self._altered.add("memory")
        self._ask("memory", host=self.name, limit=limit)

    def set_link(self, *, rtt_ms: float = 0, mbit: float = 0) -> None:
        """Give its cable a round-trip time and a bandwidth in each direction; 0: none added.

        Connections survive; frames under way are lost.
        """
        self._altered.add("link")
        self._ask("link", host=self.name, rtt_ms=rtt_ms, mbit=mbit)
