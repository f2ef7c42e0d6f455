"""Short slices: asked for by a process of ours, and not passed on to what it starts."""

import os

from stubs.abi.sched import take_short_slices
from tests.posix.tools import in_child

SCHED_RESET_ON_FORK = 0x40000000  # as sched_getscheduler(2) shows the flag


def ask_twice() -> int:
    os.nice(3)
    take_short_slices()
    take_short_slices()
    asked = os.sched_getscheduler(0) == os.SCHED_OTHER | SCHED_RESET_ON_FORK
    passed_on = in_child(lambda: os.sched_getscheduler(0) != os.SCHED_OTHER)
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    return 0 if asked and not passed_on and niceness == os.nice(0) else 1


def test_what_is_started_is_scheduled_as_always() -> None:
    assert in_child(ask_twice) == 0


def test_another_policy_is_left_alone() -> None:
    def batch() -> int:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        take_short_slices()
        return int(os.sched_getscheduler(0) != os.SCHED_BATCH)

    assert in_child(batch) == 0


def test_a_thread_that_has_ended_is_no_error() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    take_short_slices(pid)
