"""The processes of the capsule, as /proc shows them to one of them: who descends from whom.

Only /proc/PID/stat is read: cmdline and environ could make the reader wait for the home view. Even
stat waits while its process is within execve(2), and that may wait for the view (FLUSH of what is
closed on exec): so the agent, who serves the view, never reads it, but asks pid 1 (Census).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Process(NamedTuple):
        """One process; `ticks` is its CPU time and that of children it has waited for.

        `exiting`: it has left its program for good, though it may wait, as to close a file. `rss`
        in pages.
        """

        pid: int
        ppid: int
        pgrp: int
        ticks: int
        state: bytes
        exiting: bool
        threads: int
        rss: int
else:
    from collections import namedtuple

    Process = namedtuple("Process", "pid ppid pgrp ticks state exiting threads rss")

_PF_EXITING = 0x4  # include/linux/sched.h

# Whether it was built with CONFIG_PROC_CHILDREN.
_KERNEL_KNOWS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def read_process(pid: int, proc: int | None = None) -> Process | None:
    """Return what /proc/PID/stat says; None when there is no such process.

    `proc` is a descriptor of another /proc than our own.
    """
    try:
        path = f"{pid}/stat" if proc is not None else f"/proc/{pid}/stat"
        fd = os.open(path, os.O_RDONLY, dir_fd=proc)
    except OSError:
        return None
    try:
        data = os.read(fd, 1024)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    # The name in parentheses may contain anything; what follows it are numbers.
    fields = data[data.rindex(b")") + 2 :].split()
    ticks = sum(map(int, fields[11:15]))
    exiting = bool(int(fields[6]) & _PF_EXITING)
    threads, rss = int(fields[17]), int(fields[21])
    return Process(pid, int(fields[1]), int(fields[2]), ticks, fields[0], exiting, threads, rss)


def all_processes(proc: int | None = None) -> list[Process]:
    """Return every process there is."""
    names = os.listdir("/proc" if proc is None else proc)
    found = [read_process(int(name), proc) for name in names if name.isdigit()]
    return [process for process in found if process is not None]


def to_numbers(processes: list[Process]) -> list[int]:
    """Return them as Counted carries them; `from_numbers` is the way back."""
    found: list[int] = []
    for each in processes:
        found += (each.pid, each.ppid, each.pgrp, each.ticks)
        found += (each.state[0], int(each.exiting), each.threads, each.rss)
    return found


def from_numbers(numbers: list[int]) -> list[Process]:
    """Return the processes that `to_numbers` was given."""
    width = len(Process._fields)
    rows = (numbers[at : at + width] for at in range(0, len(numbers), width))
    return [
        Process(pid, ppid, pgrp, ticks, bytes((state,)), bool(exiting), threads, rss)
        for pid, ppid, pgrp, ticks, state, exiting, threads, rss in rows
    ]


def descendants(root: int) -> list[Process]:
    """Return the processes that descend from `root`, without it, parents first."""
    return below({root}, all_processes())


def below(roots: set[int], processes: list[Process]) -> list[Process]:
    """Return those of `processes` that descend from one of `roots`, without these."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    parents = list(roots)
    while parents:
        level = [child for parent in parents for child in children.get(parent, ())]
        found += level
        parents = [child.pid for child in level]
    return found


def pids_below(root: int) -> list[int]:
    """Return the pids of what descends from `root`, parents first.

    Quicker than `descendants`: others are not looked at. But one that begins or ends meanwhile may
    be missing with those below it (proc(5) on /proc/PID/task/TID/children).
    """
    if not _KERNEL_KNOWS_CHILDREN:
        return [process.pid for process in descendants(root)]
    found = [root]
    for pid in found:
        found += children_of(pid)
    return found[1:]


def children_of(pid: int) -> set[int]:
    """Return the pids of a process' children, zombies included; none when it has ended."""
    if not _KERNEL_KNOWS_CHILDREN:
        return {process.pid for process in all_processes() if process.ppid == pid}
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {child for task in tasks for child in _children_of_task(f"/proc/{pid}/task/{task}")}


def _children_of_task(directory: str) -> list[int]:
    try:
        fd = os.open(f"{directory}/children", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        return []  # that thread has ended
    try:
        data = b""
        while chunk := os.read(fd, 65536):
            data += chunk
    except ProcessLookupError:
        pass  # it ended while we looked
    finally:
        os.close(fd)
    return list(map(int, data.split()))
