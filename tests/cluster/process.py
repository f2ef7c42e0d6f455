"""A command on a host: what subprocess.Popen is for one on this machine.

Speaks to the host's pid 1, `init`, which starts the command and tells how it ended.
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
from types import TracebackType
from typing import IO, Any, Self

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
