"""Processes outside a tree: which pipes and which shared memory they have in common with it.

A process that may not be looked into, another user's, is passed over.
"""

from __future__ import annotations

import os

from stubs.migration.kinds import ANONYMOUS, MEMFD, SHM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Foreign:
    """What all processes but those of a tree, and but us, have open and mapped; read when asked."""

    def __init__(self, pids: Iterable[int], proc: str) -> None:
        """Leave out `pids`."""
        self._left_out = {*pids, os.getpid()}
        self._proc = proc
        self._pipes: dict[bytes, int] | None = None
        self._memory: dict[tuple[bool, int], int] | None = None

    @property
    def pipes(self) -> dict[bytes, int]:
        """Return one of the processes that have it open, for each link "pipe:[…]"."""
        if self._pipes is None:
            self._read()
        return self._pipes or {}

    @property
    def memory(self) -> dict[tuple[bool, int], int]:
        """Return one of the processes that have it, for each key of shared memory."""
        if self._memory is None:
            self._read()
        return self._memory or {}

    def _read(self) -> None:
        self._pipes, self._memory = {}, {}
        for name in os.listdir(self._proc):
            if name.isdigit() and int(name) not in self._left_out:
                try:
                    self._read_process(int(name), self._pipes, self._memory)
                except OSError:
                    continue  # it has ended, or is another user's

    def _read_process(
        self, pid: int, pipes: dict[bytes, int], memory: dict[tuple[bool, int], int]
    ) -> None:
        directory = f"{self._proc}/{pid}/fd"
        for name in os.listdir(directory):
            text = os.fsencode(os.readlink(f"{directory}/{name}"))
            if text.startswith(b"pipe:["):
                pipes[text] = pid
            elif text.startswith((SHM, MEMFD)):
                memory[text.startswith(SHM), os.stat(f"{directory}/{name}").st_ino] = pid
        with open(f"{self._proc}/{pid}/maps", "rb", buffering=0) as file:
            memory.update(dict.fromkeys(shared_mappings(file.read()), pid))


def shared_mappings(maps: bytes) -> dict[tuple[bool, int], bytes]:
    """Return the paths of shared memory in the text of /proc/PID/maps by its key.

    The key is whether it is of /dev/shm, and its inode: see stubs.migration.memory.
    """
    found = {}
    for line in maps.split(b"\n"):
        words = line.split(None, 5)
        if len(words) == 6 and words[1].endswith(b"s"):
            path = words[5]
            if path == ANONYMOUS or path.startswith((SHM, MEMFD)):
                found[path.startswith(SHM), int(words[4])] = path
    return found
