"""Programs stopped before their first instruction, in the hands of a test."""

import os
from collections.abc import Callable, Iterator

import pytest

from stubs.home.run.launch import Child, Given
from stubs.home.run.tracer import Tracee

Launch = Callable[..., Tracee]


@pytest.fixture
def given() -> Iterator[Given]:
    """Take and change what mrun does at its start; change it back afterwards."""
    given = Given()
    yield given
    given.restore_mask()


@pytest.fixture
def launch(given: Given) -> Iterator[Launch]:
    """Return a function that starts a program and returns it in its exec stop."""
    tracees = []

    def launch(*words: str | bytes, own_group: bool = False) -> Tracee:
        child = Child([os.fsencode(word) for word in words], given)
        if own_group:
            # Ours may be orphaned: then a terminal's stop signals stop nobody in it.
            os.setpgid(child.pid, child.pid)
        tracee = Tracee(child.pid)
        tracees.append(tracee)
        child.release(traced=True)
        assert tracee.wait_exec()
        assert child.failure() is None
        return tracee

    yield launch
    for tracee in tracees:
        tracee.kill()


def end_of(pid: int) -> int:
    """Wait for a child that is traced no more; return its wait4(2) status."""
    return os.waitpid(pid, 0)[1]


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
