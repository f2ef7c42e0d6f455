"""What /proc shows of one descriptor, and the record of an open file that is made from it.

Nothing here opens anything: /proc/PID/fd/N is followed by stat(2) and readlink(2) only.
"""

from __future__ import annotations

import os
import stat

from stubs.migration.image import OpenFile
from stubs.migration.kinds import refused, refused_device
from stubs.migration.locks import describe_locks
from stubs.migration.reasons import Unmovable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

# Flags of open(2) that say something about the open file for as long as it is open.
KEPT_FLAGS = (
    os.O_ACCMODE
    | os.O_APPEND
    | os.O_NONBLOCK
    | os.O_SYNC
    | os.O_DSYNC
    | os.O_DIRECT
    | os.O_NOATIME
    | os.O_DIRECTORY
    | os.O_NOFOLLOW
    | os.O_PATH
)


class Descriptor:
    """One descriptor; OSError when it has been closed, or the process may not be looked into."""

    def __init__(self, proc: str, pid: int, fd: int) -> None:
        """Read its link, its inode and its fdinfo."""
        self.proc, self.pid, self.fd = proc, pid, fd
        self.link = f"{proc}/{pid}/fd/{fd}"
        self.text = os.fsencode(os.readlink(self.link))
        self.stat = os.stat(self.link)
        self.lines: list[str] = []
        self.read_fdinfo()
        self.flags = int(self.value("flags", "0"), 8)
        self.offset = int(self.value("pos", "0"))

    def read_fdinfo(self) -> None:
        """Read its fdinfo again."""
        with open(f"{self.proc}/{self.pid}/fdinfo/{self.fd}") as file:
            self.lines = file.read().splitlines()

    @property
    def cloexec(self) -> bool:
        """Whether execve(2) closes it."""
        return bool(self.flags & os.O_CLOEXEC)

    @property
    def kind(self) -> int:
        """What its inode is, S_IF*; 0 for anonymous inodes."""
        return stat.S_IFMT(self.stat.st_mode)

    @property
    def identity(self) -> tuple[object, ...]:
        """What two descriptors have in common that share an open file, among others."""
        return self.text, self.stat.st_dev, self.stat.st_ino, self.flags & ~os.O_CLOEXEC

    def value(self, key: str, default: str = "") -> str:
        """Return what stands behind "`key`:" in its fdinfo."""
        for line in self.lines:
            if line.startswith(key + ":"):
                return line[len(key) + 1 :].strip()
        return default

    def numbers(self, key: str) -> list[int]:
        """Return the two numbers of a line like "it_value: (1, 2)"."""
        return [int(number) for number in self.value(key, "(0, 0)").strip("()").split(",")]

    def refuse(self, name: str, what: str) -> Unmovable:
        """Return the error that says that this process `what`, and at which descriptor."""
        return Unmovable(reason(name, self.pid, f"{what} (fd {self.fd})", self.proc))

    def check(self, outside: Container[bytes]) -> None:
        """Raise Unmovable if its link, its flags or its locks say that it cannot be moved.

        `outside` links of what leads out of the tree, to which it may lead.
        """
        describe_locks(self)
        if self.flags & os.O_ASYNC:
            raise self.refuse("signal_io", "has a file open that sends signals")
        if self.text in outside:
            return
        objection = refused(self.text)
        if objection is None and self.text.startswith(b"/") and not self.flags & os.O_PATH:
            objection = self._refused_inode()
        if objection is None and self.flags & os.O_PATH and not self.text.startswith(b"/"):
            objection = "kernel_object", f"has {os.fsdecode(self.text)} open as a path"
        if objection is not None:
            raise self.refuse(*objection)

    def _refused_inode(self) -> tuple[str, str] | None:
        if self.kind == stat.S_IFCHR:
            return refused_device(self.stat.st_rdev, self.text)
        if self.kind in (stat.S_IFREG, stat.S_IFDIR):
            return None
        name = "fifo" if self.kind == stat.S_IFIFO else "device"
        return name, f"has {os.fsdecode(self.text)} open"

    def record(self, kind: int, **fields: Any) -> OpenFile:
        """Return the record of its open file, everything else 0 or empty."""
        return open_file(kind, self.flags & KEPT_FLAGS, **fields)


def open_file(kind: int, flags: int, **fields: Any) -> OpenFile:
    """Return a record of which only `fields` are not 0 or empty."""
    values: dict[str, Any] = {
        "ref": 0,
        "offset": 0,
        "path": b"",
        "ino": 0,
        "handle": -1,
        "content": b"",
        "state": [],
        "watched": [],
        "locks": [],
    }
    return OpenFile(kind=kind, flags=flags, **{**values, **fields})
