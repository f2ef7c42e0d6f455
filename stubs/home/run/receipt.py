"""The receipt: what a run did, as JSON, for `mrun --stats FILE`."""

from __future__ import annotations

import os
import stat
import time

from stubs.home.run.errors import MrunError, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stubs.wire.messages import Exited


class Receipt:
    """What is known about a run until now; made even if nobody wants it written."""

    def __init__(self, path: str | None) -> None:
        """Start the clock. MrunError when `path` could not be written in the end."""
        self._started = time.monotonic()
        self._bodies: list[dict[str, Any]] = []
        self._path = path
        self._fd = -1
        if path is not None:
            try:
                self._try_path(path)
            except OSError as error:
                raise MrunError(f"{path}: {error.strerror}") from error

    @property
    def wanted(self) -> bool:
        """Whether there is a file to be written."""
        return self._path is not None

    def _try_path(self, path: str) -> None:
        if os.path.exists(path):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            # A pipe or a device cannot be replaced by a new file: it is written as it is.
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self._fd = fd
                return
            os.close(fd)
        # Through symbolic links: it is the file that is replaced.
        self._path = os.path.realpath(path)
        os.close(self._create())
        os.unlink(self._temporary)

    @property
    def _temporary(self) -> str:
        return f"{self._path}.{os.getpid()}.part"

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(self._temporary, flags, 0o666)

    def add_home(self, pid: int, argv: list[bytes], cpu_s: float, why: str) -> None:
        """Note a run at home that has just ended."""
        self._add(pid, argv, "home", time.monotonic() - self._started, why, cpu_s=cpu_s)

    def add_body(
        self,
        argv: list[bytes],
        node: str,
        wall_s: float,
        why: str,
        exited: Exited,
        restarts: int = 0,
    ) -> None:
        """Note a body that has ended on a node."""
        self._add(
            exited.body,
            argv,
            node,
            wall_s,
            why,
            cpu_s=(exited.utime_us + exited.stime_us) / 1e6,
            round_trips=exited.round_trips,
            bytes_to_node=exited.bytes_to_node,
            bytes_to_home=exited.bytes_to_home,
            restarts=restarts,
        )

    def add_lost(self, pid: int, argv: list[bytes], node: str, wall_s: float, why: str) -> None:
        """Note a body whose node was lost: what it used will never be known."""
        self._add(pid, argv, node, wall_s, why)

    def _add(
        self,
        pid: int,
        argv: list[bytes],
        node: str,
        wall_s: float,
        why: str,
        cpu_s: float = 0.0,
        round_trips: int = 0,
        bytes_to_node: int = 0,
        bytes_to_home: int = 0,
        restarts: int = 0,
    ) -> None:
        self._bodies.append(
            {
                "pid": pid,
                "argv": [os.fsdecode(word) for word in argv],
                "node": node,
                "wall_s": round(wall_s, 6),
                "cpu_s": round(cpu_s, 6),
                "round_trips": round_trips,
                "bytes_to_node": bytes_to_node,
                "bytes_to_home": bytes_to_home,
                "restarts": restarts,
                "migrations": [],
                "why": why,
            }
        )

    def write(self, status: int) -> None:
        """Write it, whole or not at all; `status` as wait4(2) has it. Says so when it cannot."""
        if self._path is None:
            return
        # Here and not above: it takes as long to load as all the rest of mrun's start.
        import json

        signaled = os.WIFSIGNALED(status)
        text = json.dumps(
            {
                "exit": None if signaled else os.WEXITSTATUS(status),
                "signal": os.WTERMSIG(status) if signaled else None,
                "wall_s": round(time.monotonic() - self._started, 6),
                "bodies": self._bodies,
            },
            indent=2,
        )
        try:
            self._write(text.encode() + b"\n")
        except OSError as error:
            say(f"{self._path}: {error.strerror}: the receipt is lost")

    def _write(self, data: bytes) -> None:
        assert self._path is not None
        fd = self._fd if self._fd >= 0 else self._create()
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            if self._fd < 0:
                os.replace(self._temporary, self._path)
        except OSError:
            if self._fd < 0:
                os.unlink(self._temporary)
            raise
