"""What has come for a frozen tree and has not been read by it: bytes in pipes and sockets.

Of what leads out of the tree only. Nothing is taken: should the tree go on, it finds all of it.
"""

from __future__ import annotations

import os
import socket
import stat

from stubs.abi.pidfd import pidfd_getfd, pidfd_open
from stubs.migration import keys
from stubs.migration.pipes import content_of_end
from stubs.migration.proc import read_stat
from stubs.migration.sockets import peek


def unread(pids: list[int], outside: dict[bytes, int]) -> dict[int, bytes]:
    """Return what has not been read of each stream that the tree has open, by key.

    `outside` as of stubs.migration.files.Opens. The tree must stand still, and is ours to trace.
    """
    found: dict[int, bytes] = {}
    for pid in pids:
        if read_stat(pid).state in "ZX":
            continue  # it has no descriptors any more, and its table may not be looked into
        pidfd = pidfd_open(pid)
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                key = outside.get(os.readlink(b"/proc/%d/fd/%s" % (pid, name.encode())), 0)
                if keys.is_stream(key) and not found.get(key):
                    found[key] = _content(pidfd, int(name))
        finally:
            os.close(pidfd)
    return found


def _content(pidfd: int, number: int) -> bytes:
    fd = pidfd_getfd(pidfd, number)
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as ours:
                return peek(ours)
        return content_of_end(fd)
    finally:
        os.close(fd)
