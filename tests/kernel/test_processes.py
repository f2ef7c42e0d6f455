import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stubs.node.capsule import processes
from stubs.node.capsule.processes import children_of, descendants, pids_below

# A shell whose child is made by a thread, and a child of that one.
FAMILY = """
import subprocess, threading
def work():
    child = subprocess.Popen(["sh", "-c", "sleep 100 & echo $$ $!; wait"])
    child.wait()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.fixture
def family() -> Iterator[list[int]]:
    """Three generations; the first is our child."""
    first = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=-1, start_new_session=True)
    assert first.stdout is not None
    try:
        yield [first.pid, *map(int, first.stdout.readline().split())]
    finally:
        os.killpg(first.pid, 9)
        first.wait()
        first.stdout.close()


@pytest.mark.parametrize("known", [True, False])
def test_what_threads_have_started_is_found(
    family: list[int], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known:
        assert processes._KERNEL_KNOWS_CHILDREN
    monkeypatch.setattr(processes, "_KERNEL_KNOWS_CHILDREN", known)
    first, second, third = family
    assert pids_below(first) == [second, third]
    assert children_of(first) == {second}
    assert first in children_of(os.getpid())
    assert [process.pid for process in descendants(first)] == [second, third]


def test_who_has_ended_has_no_children() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert children_of(ended.pid) == set()
    assert pids_below(ended.pid) == []
