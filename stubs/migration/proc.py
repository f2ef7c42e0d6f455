"""What proc(5) tells of a process, as far as a migration needs it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Stat(NamedTuple):
        """Of /proc/PID/stat: `mm` start_code … env_end in the order of struct prctl_mm_map.

        `brk` is not told and 0. `status` is that of a zombie. Times in us, `children_us` of those
        that were waited for.
        """

        pid: int
        state: str
        ppid: int
        pgid: int
        sid: int
        own_us: int
        children_us: int
        nice: int
        status: int
        mm: list[int]

    class Vma(NamedTuple):
        """A mapping, as /proc/PID/smaps has it; `flags` are the words of VmFlags.

        `swapped` tells that some of it is in swap space.
        """

        start: int
        end: int
        permissions: str
        offset: int
        dev: int
        inode: int
        path: bytes
        flags: frozenset[str]
        swapped: bool
else:
    from collections import namedtuple

    Stat = namedtuple("Stat", "pid state ppid pgid sid own_us children_us nice status mm")
    Vma = namedtuple("Vma", "start end permissions offset dev inode path flags swapped")

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


def read_file(path: str) -> bytes:
    """Return what a file of proc holds; OSError when the process has ended."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def read_stat(pid: int) -> Stat:
    """Return what is in /proc/PID/stat."""
    words = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()

    # Numbered as in proc(5), where the state is the third.
    def at(number: int) -> int:
        return int(words[number - 3])

    code = [at(26), at(27), at(45), at(46), at(47), 0, at(28)]
    return Stat(
        pid,
        words[0].decode(),
        *(at(4), at(5), at(6)),
        *((at(14) + at(15)) * _TICK_US, (at(16) + at(17)) * _TICK_US, at(19), at(52)),
        code + [at(number) for number in range(48, 52)],
    )


def read_status(pid: int, tid: int = 0) -> dict[str, str]:
    """Return the lines of the status of a process or thread by their names."""
    text = read_file(f"/proc/{pid}/task/{tid or pid}/status").decode("utf-8", "replace")
    return {
        name: value.strip() for name, _, value in (at.partition(":") for at in text.split("\n"))
    }


def resident_bytes(pid: int) -> int:
    """Return how much anonymous memory of a process is resident."""
    return int(read_status(pid).get("RssAnon", "0 kB").split()[0]) << 10


def threads(pid: int) -> list[int]:
    """Return the ids of the threads of a process, the leader first."""
    return sorted((int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda t: t != pid)


def descendants(pids: list[int]) -> list[int]:
    """Return these processes and all that descend from them, parents first."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents.setdefault(read_stat(int(name)).ppid, []).append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
    found = list(pids)
    for pid in found:
        found += [child for child in parents.get(pid, []) if child not in found]
    return found


def read_vmas(pid: int, name: str = "smaps", proc: str = "/proc") -> list[Vma]:
    """Return the mappings of a process by address; from `maps`, which is fast, without flags."""
    found: list[Vma] = []
    none: frozenset[str] = frozenset()
    for line in read_file(f"{proc}/{pid}/{name}").split(b"\n"):
        if line.startswith(b"VmFlags:"):
            found[-1] = found[-1]._replace(flags=frozenset(line[8:].decode().split()))
        elif line.startswith(b"Swap:"):
            found[-1] = found[-1]._replace(swapped=int(line.split()[1]) > 0)
        elif line[:1] in b"0123456789abcdef" and line:
            words = line.split(None, 5)
            start, end = (int(part, 16) for part in words[0].split(b"-"))
            major, minor = (int(part, 16) for part in words[3].split(b":"))
            path = words[5] if len(words) > 5 else b""
            offset, dev = int(words[2], 16), os.makedev(major, minor)
            vma = Vma(start, end, words[1].decode(), offset, dev, int(words[4]), path, none, False)
            found.append(vma)
    return found
