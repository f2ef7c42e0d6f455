"""Moves that are interrupted, refused or called off: the program is as if nothing had been."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.faults.census import census
from tests.faults.journeys import Journey, end_all, pid_of
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes, connect, on

# So that an image takes long enough for what is to happen meanwhile; Mbit/s and bytes.
SLOW = 16
LARGE = 8 << 20

# Who stands still for so long does so to be moved: the image takes LARGE / SLOW, four seconds.
STANDING_S = 1.0


@pytest.fixture(scope="module")
def nodes(_no_leaks: None) -> Iterator[Cluster]:
    with Cluster(f"t{os.getpid()}-moves", nodes=2) as cluster:
        add_nodes(cluster.home, "n1", "n2")
        traces = Traces(cluster)
        yield cluster
        traces.assert_gone()


@pytest.fixture
def pair(nodes: Cluster) -> Iterator[Cluster]:
    connect(nodes)
    yield nodes
    end_all()
    nodes.repair()


def begin(cluster: Cluster) -> Journey:
    """Return a program that stands still on n1 while its image goes to n2, slowly."""
    journey = Journey(cluster, "n1", "n2", LARGE)
    journey.ask()
    cluster.node("n2").set_link(mbit=SLOW)
    journey.begin()

    def stands() -> bool:
        # It also stops for moments while it is sent as it runs, longer ones on a busy machine.
        end = time.monotonic() + STANDING_S
        while journey.is_frozen():
            if time.monotonic() > end:
                return True
        return False

    wait_until(stands, 60, "it stands still")
    return journey


def tracer(host: Host) -> int:
    """Return who traces a process, as the machine counts: a worker; 0 if none does."""
    return max((each.tracer for each in host.look()), default=0)


def kill_tracer(host: Host) -> None:
    os.kill(wait_until(lambda: tracer(host), 20, "a worker"), signal.SIGKILL)


def test_a_destination_that_fails_leaves_the_program_where_it_was(pair: Cluster) -> None:
    journey = begin(pair)
    kill_tracer(pair.node("n2"))
    status, said = journey.moved()
    assert status, said
    journey.ask()
    pair.repair()
    journey.begin()
    status, said = journey.moved()
    assert status == 0, said
    journey.assert_lives_on("n2")


def test_a_source_that_fails_ends_the_program_once(pair: Cluster) -> None:
    journey = begin(pair)
    kill_tracer(pair.node("n1"))
    assert journey.process.wait(40) == -signal.SIGKILL
    assert journey.moved()[0]
    journey.process.close()
    journey.assert_gone()


def test_a_signal_calls_a_long_move_off(pair: Cluster) -> None:
    journey = begin(pair)
    journey.process.terminate()
    assert journey.process.wait(40) == -signal.SIGTERM
    status, said = journey.moved()
    assert status
    assert "a signal came for it" in said
    journey.process.close()
    journey.assert_gone()


@pytest.mark.parametrize("victim", ["the program", "mrun"])
def test_what_is_killed_as_it_moves_is_nowhere(pair: Cluster, victim: str) -> None:
    home = pair.home
    links = [pid_of(home, f"mlaunch: link {name}") for name in ("n1", "n2")]

    def held() -> dict[int, int]:
        now = census(home)
        return {pid: now[pid].descriptors + now[pid].files for pid in links}

    before = held()
    journey = begin(pair)
    if victim == "mrun":
        journey.process.kill()
    else:
        home.run(("kill", "-9", str(journey.pid)), check=True)
    assert journey.process.wait(40) == -signal.SIGKILL
    assert journey.moved()[0]
    journey.process.close()
    journey.assert_gone()
    pair.repair()
    what = f"links hold no more than before: {before}, {held()}"
    wait_until(lambda: all(now <= before[pid] for pid, now in held().items()), 20, what)


def test_a_command_that_is_interrupted_is_not_what_moves(pair: Cluster) -> None:
    journey = begin(pair)
    assert journey.interrupt() == 128 + signal.SIGINT
    pair.repair()
    wait_until(lambda: journey.copies(pair.node("n2")), 60, "it has moved all the same")
    journey.assert_lives_on("n2")


def test_a_program_is_in_one_move_only(pair: Cluster) -> None:
    other = Journey(pair, "n2", "n1")
    journey = begin(pair)
    again = pair.home.run(("mlaunch", "migrate", str(journey.pid), "n2"))
    assert again.returncode
    assert b"being moved" in again.stderr + again.stdout
    other.ask()
    other.begin()
    assert other.moved()[0] == 0
    assert journey.moved()[0] == 0
    journey.assert_lives_on("n2")
    other.assert_lives_on("n1")


COPY = """
import os, sys
print(os.getpid(), file=sys.stderr, flush=True)
heap = os.urandom(8 << 20)
while data := os.read(0, 3000):
    os.write(1, data)
"""


# Slow, so that there is something in each pipe at any time.
SHOW = """
import sys, time
for number, line in enumerate(sys.stdin.buffer):
    sys.stdout.buffer.write(line)
    number % 20000 or time.sleep(0.05)
"""


def test_bytes_on_their_way_through_a_program_are_neither_lost_nor_doubled(pair: Cluster) -> None:
    home = pair.home
    home.run(("sh", "-c", "seq 3000000 > numbers"), check=True)
    words = " ".join(on("n1"))
    script = f"cat numbers | {words} --stay python3 -c '{COPY}' | python3 -c '{SHOW}' > out"
    with home.popen(("bash", "-c", script)) as process:
        assert process.stderr is not None
        pid = process.stderr.readline().decode().strip()
        for name in ("n2", "n1"):
            pair.node("n2").set_link(mbit=SLOW)
            with home.popen(("mlaunch", "migrate", pid, name)) as move:
                if name == "n2":
                    worker = pair.node("n2")
                    wait_until(lambda: tracer(pair.node("n1")), 60, "it stands still")
                    kill_tracer(worker)
                said = b"".join(move.communicate(timeout=60))
                assert move.wait(), said
            pair.repair()
        home.run(("mlaunch", "migrate", pid, "n2"), check=True)
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, b"")
    home.run(("cmp", "numbers", "out"), check=True)


# Writes to all of a large memory until there is a file, and only then reads what it is sent.
BUSY = """
import hashlib, os, sys
memory = bytearray(24 << 20)
print(os.getpid(), flush=True)
while not os.path.exists("go"):
    memory[:] = os.urandom(len(memory))
for fd in range(3, 11):
    print(hashlib.sha256(open(fd, "rb").read()).hexdigest())
"""


def test_much_that_is_unread_goes_along_with_a_large_program(pair: Cluster) -> None:
    # Neither fits what lies between worker, agent and home: each has to pass while the other waits.
    home = pair.home
    home.run(("sh", "-c", "rm -f go; seq 300000 > numbers"), check=True)
    wanted = home.run(("sha256sum", "numbers"), check=True).stdout.split()[0]
    pipes = " ".join(f"{fd}< <(cat numbers)" for fd in range(3, 11))
    script = f"exec {' '.join(on('n1'))} --stay python3 -c '{BUSY}' {pipes}"
    with home.popen(("bash", "-c", script)) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().decode().strip()
        for name in ("n2", "n1", "n2"):
            home.run(("mlaunch", "migrate", pid, name), check=True)
        home.run(("touch", "go"), check=True)
        output, said = process.communicate(timeout=60)
        assert (process.returncode, output.split(), said) == (0, [wanted] * 8, b"")


def test_what_nobody_reads_keeps_a_program_from_moving_but_not_from_ending(pair: Cluster) -> None:
    home = pair.home
    script = "import os\nprint(os.getpid(), flush=True)\nwhile True: os.write(1, bytes(65536))"
    with home.popen((*on("n1"), "--stay", "python3", "-c", script)) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().decode().strip()
        node = pair.node("n1")
        wait_until(lambda: _sleeps(node, "python3"), 20, "the pipes are full")
        moved = home.run(("mlaunch", "migrate", pid, "n2"))
        assert moved.returncode
        assert b"does not take what it has written" in moved.stderr
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == -signal.SIGTERM


def _sleeps(host: Host, name: str) -> bool:
    look = 'for p in /proc/[0-9]*; do grep -q "^Name:.$1$" $p/status && cat $p/wchan; done 2>&-'
    return b"pipe" in host.run(("sh", "-c", look, "sh", name), user="root").stdout


def test_programs_end_as_they_would_whenever_they_are_moved(pair: Cluster) -> None:
    # Some end before they are frozen, some while they are, some after.
    script = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(%s)\nos._exit(7)"
    for wait in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        words = (*on("n1"), "--stay", "python3", "-c", script % wait)
        with pair.home.popen(words) as process:
            assert process.stdout is not None
            pid = process.stdout.readline().decode().strip()
            pair.home.run(("mlaunch", "migrate", pid, "n2"))
            _, said = process.communicate(timeout=30)
            assert (process.returncode, said) == (7, b"")
