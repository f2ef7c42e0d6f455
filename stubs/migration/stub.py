"""The stub: a process with the pid of one that is to be restored, and nothing of it yet.

The ghost that is to be its parent clones it. It waits for a byte on its control socket, so that it
can be seized, and then executes the program that it is to become: that gives it its name in proc(5)
and fresh memory, all of which is taken away again before the first instruction.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

from stubs.abi import x86_64 as nr
from stubs.abi.calls import MAY_FAIL, Calls
from stubs.abi.capability import CAP_SYS_ADMIN, HEADER, pack
from stubs.abi.prctl import PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
from stubs.abi.sched import ADDR_NO_RANDOMIZE
from stubs.abi.unistd import Strings
from stubs.migration.proc import read_status

GO = b"!"


def add_calls(calls: Calls, path: bytes, control: int, number: int) -> None:
    """Add to what a child of a ghost does that it becomes a stub; the last call is execve(2).

    `control` is the child's end of a stream socket, close-on-exec like all descriptors of a ghost;
    it becomes `number`. Groups and terminal are to be set before. To be used with Calls.start,
    in a block of stubs.migration.clocks.going_on.
    """
    byte = ctypes.create_string_buffer(len(GO))
    argv = Strings([path])
    env = Strings([])
    calls.keep((byte, argv, env))
    if control == number:
        # dup2(2) would leave it close-on-exec.
        calls.add(nr.NR_fcntl, number, fcntl.F_SETFD, 0)
    else:
        calls.add(nr.NR_dup2, control, number)
    # Threads and children get their pids from it, and it may choose them only as long as it keeps
    # this over execve(2); see stubs.migration.complete.
    own = int(read_status(os.getpid())["CapPrm"], 16)
    wanted = own & 1 << CAP_SYS_ADMIN
    calls.add(nr.NR_capset, HEADER, pack(wanted, own, own), flags=MAY_FAIL)
    ambient = (PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0)
    calls.add(nr.NR_prctl, *ambient, flags=MAY_FAIL)
    # What is mapped where must not depend on chance: see stubs.migration.rebuild.
    calls.add(nr.NR_personality, ADDR_NO_RANDOMIZE, flags=MAY_FAIL)
    calls.add(nr.NR_read, number, ctypes.addressof(byte), len(GO))
    calls.add(nr.NR_execve, path, argv.address, env.address)
