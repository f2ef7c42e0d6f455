"""Checkpoints: a program is written to a file, and goes on from it, on another node."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.programs.nodes import add_nodes, on
from tests.programs.test_balancing import bed, refused, said
from tests.programs.test_observing import FOREVER, Running, only, ps

__all__ = ["bed"]

# Computes a sum over memory that it keeps, and notes it in a file as it goes.
SUMS = """
import hashlib, sys
data = [bytes([i % 256]) * 100 for i in range(50000)]
total, out = hashlib.sha256(), open(sys.argv[1], "w")
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    for j in range(2000):
        total.update(data[(i * 31 + j) % 50000])
    print(i, total.hexdigest(), file=out, flush=True)
print(total.hexdigest())
"""

# Tells what it has read when a file is there, which is when it goes on to read.
READS = """BEGIN { getline; print "ready"; fflush()
while ((getline line < "/home/alice/go") < 1) close("/home/alice/go")
while (getline) sum += $1
print sum }"""


@pytest.fixture
def home(bed: Cluster) -> Host:
    bed.home.run(("rm", "-f", "image", "go", "out"), check=True)
    return bed.home


def sums(rounds: int) -> tuple[str, ...]:
    return ("/usr/bin/python3", "-c", SUMS, "out", str(rounds))


def native(home: Host, words: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Return what a program says at home, and what it wrote to `out`."""
    told = home.run(words, check=True).stdout
    return told, home.read("/home/alice/out")


def kill(home: Host, process: Process) -> None:
    """Kill an mrun and its body, and see the node rid of it."""
    process.send_signal(9, group=True)
    process.wait(30)
    wait_until(lambda: not ps(home), 60, "nothing runs any more")


def recovered(home: Host, node: str, *words: str) -> bytes:
    """Return what a program says when it goes on from its checkpoint."""
    return home.run((*on(node), *words, "--recover", "image"), check=True).stdout


def not_recovered(home: Host) -> str:
    found = home.run(("mrun", "--recover", "image"))
    assert found.returncode == 125
    line: bytes = found.stderr
    assert line.startswith(b"mrun: ")
    assert line.count(b"\n") == 1
    return line.decode()


def test_a_program_goes_on_beside_its_checkpoint_and_again_from_it(home: Host) -> None:
    told, written = native(home, sums(1500))
    with Running(home, *on("n1"), *sums(1500)) as process:
        pid = only(ps(home))["pid"]
        line = said(home, "checkpoint", pid, "image")
        assert line.startswith(f"written {pid} (python3) to /home/alice/image: ")
        assert f"the program still runs, pid {pid}" in not_recovered(home)
        assert process.stdout is not None
        assert b"ready\n" + process.stdout.read() == told
        assert process.wait(60) == 0
    assert home.read("/home/alice/out") == written
    mode = home.run(("stat", "-c", "%a", "image"), check=True).stdout
    assert mode == b"600\n"
    # What was written after the checkpoint is taken back, and written once more.
    assert b"ready\n" + recovered(home, "n2") == told
    assert home.read("/home/alice/out") == written


def test_a_program_that_was_killed_goes_on_and_can_be_moved(home: Host) -> None:
    told, written = native(home, sums(3000))
    with Running(home, *on("n1"), *sums(3000)) as process:
        said(home, "checkpoint", only(ps(home))["pid"], "image")
        kill(home, process)
    with home.popen((*on("n2"), "--recover", "image")) as process:
        wait_until(lambda: ps(home), 60)
        line = said(home, "migrate", only(ps(home))["pid"], "n1")
        assert "from n2 to n1" in line
        assert process.stdout is not None
        assert b"ready\n" + process.stdout.read() == told
        assert process.wait(60) == 0
    assert home.read("/home/alice/out") == written


def test_a_compressor_goes_on_in_mid_stream(home: Host) -> None:
    home.run(("sh", "-c", "seq 1 3000000 > numbers; gzip -9c numbers > native.gz"), check=True)
    with home.popen(("sh", "-c", "exec mrun -n n1 gzip -9c < numbers > out")) as process:
        wait_until(lambda: len(home.read("/home/alice/out")) > 100_000, 60)
        said(home, "checkpoint", only(ps(home))["pid"], "image")
        kill(home, process)
    assert recovered(home, "n2") == b""
    home.run(("sh", "-c", "gzip -dc out | cmp - numbers"), check=True)
    home.run(("sh", "-c", "rm numbers native.gz"), check=True)


def test_what_had_been_sent_to_it_is_in_its_checkpoint(home: Host) -> None:
    lines = b"".join(b"%d\n" % number for number in range(1000))
    with home.popen((*on("n1"), "awk", READS), stdin=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first\n" + lines)
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        said(home, "checkpoint", only(ps(home))["pid"], "image")
        kill(home, process)
    home.run(("sh", "-c", "echo x > go"), check=True)
    found = home.run((*on("n2"), "--recover", "image"), input=b"1\n2\n", check=True)
    assert found.stdout == b"%d\n" % (sum(range(1000)) + 3)


def test_a_lock_is_taken_again(home: Host) -> None:
    script = """
import fcntl, os, time
file = open("out", "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.1)
"""
    with Running(home, *on("n1"), "/usr/bin/python3", "-c", script) as process:
        said(home, "checkpoint", only(ps(home))["pid"], "image")
        kill(home, process)
    assert home.run(("flock", "-n", "out", "true")).returncode == 0
    with home.popen((*on("n2"), "--recover", "image")) as process:
        wait_until(lambda: home.run(("flock", "-n", "out", "true")).returncode == 1, 60)
        home.run(("touch", "go"), check=True)
        assert process.wait(60) == 0


def test_it_is_recovered_only_with_its_files_as_they_were(home: Host) -> None:
    home.run(("sh", "-c", "seq 1 200000 > input"), check=True)
    reader = 'BEGIN { getline < "input"; print "ready"; fflush(); while (1) i++ }'
    with Running(home, *on("n1"), "awk", reader) as process:
        said(home, "checkpoint", only(ps(home))["pid"], "image")
        kill(home, process)
    home.run(("sh", "-c", "echo more >> input"), check=True)
    assert "/home/alice/input, which it had open, has changed since" in not_recovered(home)
    home.run(("sh", "-c", "cp input other; mv other input"), check=True)
    assert "input, which it had open, is another file now" in not_recovered(home)
    home.run(("rm", "input"), check=True)
    assert "input, which it had open: No such file" in not_recovered(home)


def test_what_is_no_checkpoint_is_refused(home: Host) -> None:
    with Running(home, *on("n1"), *FOREVER) as process:
        pid = only(ps(home))["pid"]
        assert "No such file or directory" in refused(home, "checkpoint", pid, "none/image")
        said(home, "checkpoint", pid, "image")
        kill(home, process)
    whole = home.read("/home/alice/image")
    for broken, text in (
        (whole[:-1], "is broken: it is not as long as it was"),
        (whole[:9000] + b"\xff\xfe" + whole[9002:], "is broken: its bytes have changed"),
        (b"#!/bin/sh\n" + whole, "is no checkpoint"),
        (b"", "is no checkpoint"),
        (whole[:16] + struct.pack("<I", 99) + whole[20:], "is a checkpoint of format 99"),
    ):
        home.write("/home/alice/image", broken)
        assert text in not_recovered(home)
    home.run(("rm", "image"), check=True)
    assert "image: No such file or directory" in not_recovered(home)
    both = home.run(("mrun", "--recover", "image", "true"))
    assert both.returncode == 125
    assert b"--recover takes no program" in both.stderr


@pytest.fixture
def frail(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Return a cluster of its own, whose nodes may be lost."""
    cluster = make_cluster(nodes=2)
    add_nodes(cluster.home, "n1", "n2")
    return cluster


def lines_of(home: Host, path: str) -> int:
    return int(home.run(("sh", "-c", f"cat {path} | wc -l"), check=True).stdout)


def checkpoints(home: Host) -> list[str]:
    found = home.run(("sh", "-c", "ls -i ~/.local/state/mlaunch/checkpoints | grep -v part"))
    return found.stdout.decode().split()


def test_a_program_outlives_its_nodes(frail: Cluster) -> None:
    home = frail.home
    words = sums(4000)
    told, written = native(home, words)
    program = ("--only", "n1,n2", "--checkpoint-every", "0.02", *words)
    with Running(home, "mrun", "-v", *program) as process:
        for _ in range(2):
            node = frail.node(only(ps(home))["node"])
            # The first that there is, and one that was begun after it.
            first = wait_until(lambda: checkpoints(home), 60)
            wait_until(lambda before=first: checkpoints(home) not in ([], before), 60)
            before = lines_of(home, "out")
            wait_until(lambda count=before: lines_of(home, "out") > count, 60)
            node.kill()
            wait_until(lambda lost=node.name: {each["node"] for each in ps(home)} - {lost}, 60)
            frail.repair()
        assert process.stdout is not None
        out = process.stdout.read()
        assert process.wait(60) == 0
        assert process.stderr is not None
        said_there = process.stderr.read().decode()
    assert said_there.count("goes on from its checkpoint") == 2
    assert b"ready\n" + out == told
    assert home.read("/home/alice/out") == written
    assert checkpoints(home) == []


def test_what_was_noticed_since_its_checkpoint_is_not_done_twice(frail: Cluster) -> None:
    home = frail.home
    # Its output never rests, so some of it has come since any checkpoint.
    line = (
        "mrun -n n1 --checkpoint-every 0.02 awk 'BEGIN { while (1) print i++ }' | cat > /dev/null"
    )
    with home.popen(("bash", "-o", "pipefail", "-c", line)) as process:
        wait_until(lambda: checkpoints(home), 60)
        frail.node("n1").kill()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 125
    assert b"node n1 was lost" in told
    assert b"to go on from its last checkpoint: mrun --recover /home/alice/.local/state" in told
    assert len(checkpoints(home)) == 2
