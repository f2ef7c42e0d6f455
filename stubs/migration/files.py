"""Open files of a tree: regular ones, directories and devices by their path; what leads outside."""

from __future__ import annotations

import os
import stat

from stubs.migration.image import OPEN_DEVICE, OPEN_FILE, OPEN_OUTSIDE, OpenFile, Shared
from stubs.migration.reasons import Unmovable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stubs.migration.image import Image, Process
    from stubs.migration.proc import Vma

_SHMEM = b"/dev/zero (deleted)"


class Opens:
    """What the processes of a frozen tree have open."""

    def __init__(self, pids: list[int], outside: dict[bytes, int], proc: str = "/proc") -> None:
        """Begin with nothing."""
        self.opens: list[OpenFile] = []
        self.shared: list[Shared] = []
        self.orphans: list[int] = []
        self._outside = outside
        self._memory: dict[int, int] = {}

    def descriptors(self, pid: int) -> list[tuple[int, int, int]]:
        """Return (number, index, close-on-exec)."""
        found = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            with open(f"/proc/{pid}/fdinfo/{name}") as file:
                lines = dict(line.split(":\t") for line in file.read().split("\n") if ":\t" in line)
            flags = int(lines["flags"], 8)
            index = self._add(f"/proc/{pid}/fd/{name}", flags, int(lines["pos"]))
            found.append((int(name), index, int(bool(flags & os.O_CLOEXEC))))
        return found

    def executable(self, pid: int) -> int:
        """Return the index of the executable."""
        return self._add(f"/proc/{pid}/exe", os.O_RDONLY, 0)

    def directory(self, pid: int) -> int:
        """Return the index of the working directory."""
        return self._add(f"/proc/{pid}/cwd", os.O_RDONLY | os.O_DIRECTORY, 0)

    def mapped(self, pid: int, area: Vma) -> tuple[int, int]:
        """Return (index of the file, index of the shared memory)."""
        if not area.inode:
            return -1, -1
        if area.permissions[3] == "s" and area.path.startswith((_SHMEM, b"/memfd:")):
            if area.inode not in self._memory:
                self._memory[area.inode] = len(self.shared)
                self.shared.append(Shared(0, b"shared", b"", 0, 0o600))
            shared = self.shared[self._memory[area.inode]]
            shared.bytes = max(shared.bytes, area.offset + area.end - area.start)
            return -1, self._memory[area.inode]
        flags = os.O_RDWR if area.permissions[3] == "s" and "mw" in area.flags else os.O_RDONLY
        self.opens.append(_record(OPEN_FILE, 0, flags, 0, area.path))
        return len(self.opens) - 1, -1

    def _add(self, link: str, flags: int, offset: int) -> int:
        text = os.fsencode(os.readlink(link))
        if text in self._outside:
            record = _record(OPEN_OUTSIDE, self._outside[text], flags, 0, b"")
        else:
            mode = os.stat(link).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISCHR(mode)):
                raise Unmovable(reason("kernel_object", 0, f"has {text!r} open"))
            kind = OPEN_DEVICE if stat.S_ISCHR(mode) else OPEN_FILE
            record = _record(kind, 0, flags & ~os.O_CLOEXEC, offset, text)
        self.opens.append(record)
        return len(self.opens) - 1


def _record(kind: int, ref: int, flags: int, offset: int, path: bytes) -> OpenFile:
    return OpenFile(kind, ref, flags, offset, path, 0, -1, b"", [], [], [])


class Opened:
    """What an image has open, opened again."""

    def __init__(self, image: Image, outside: dict[int, int], handles: list[bytes]) -> None:
        """Open it. OSError when something is not there."""
        self._fds = []
        for data in image.opens:
            each = OpenFile.decode(data)
            if each.kind == OPEN_OUTSIDE:
                self._fds.append(os.dup(outside[each.ref]))
                continue
            kept = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DIRECTORY
            self._fds.append(os.open(each.path, each.flags & kept | os.O_CLOEXEC))
            if each.offset:
                os.lseek(self._fds[-1], each.offset, os.SEEK_SET)
        self._shared = []
        for data in image.shared:
            self._shared.append(os.memfd_create("shared"))
            os.ftruncate(self._shared[-1], Shared.decode(data).bytes)

    def fd(self, index: int) -> int:
        """Return our descriptor of an open file."""
        return self._fds[index]

    def shared_fd(self, index: int) -> int:
        """Return our descriptor of shared memory."""
        return self._shared[index]

    def calls_after(self, process: Process) -> list[list[int]]:
        """Return the calls that a process makes when its descriptors are in place."""
        return []

    def close(self) -> None:
        """Close all."""
        for fd in self._fds + self._shared:
            os.close(fd)
