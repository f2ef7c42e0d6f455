"""Checkpoints: a program is written to a file, and goes on from it, on another node."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.programs.nodes import add_nodes, on
from tests.programs.test_balancing import bed, refused, said
from tests.programs.test_observing import FOREVER, Running, only, ps, row_when
from tests.programs.test_terminal import Screen

__all__ = ["bed"]

# Computes a sum over memory that it keeps, and notes it in a file as it goes: so many times, or
# until there is a file.
SUMS = """
import hashlib, itertools, os, sys
data = [bytes([i % 256]) * 100 for i in range(50000)]
total, out = hashlib.sha256(), open(sys.argv[1], "w")
print("ready", flush=True)
rounds = int(sys.argv[2])
for i in itertools.count(1):
    for j in range(2000):
        total.update(data[(i * 31 + j) % 50000])
    print(i, total.hexdigest(), file=out, flush=True)
    if i == rounds if rounds else os.path.exists("go"):
        break
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


def pid_of(home: Host) -> int:
    """Return the pid of the only body, once it is known."""
    pid: int = row_when(home, lambda row: True)["pid"]
    return pid


def sums(rounds: int = 0) -> tuple[str, ...]:
    return ("/usr/bin/python3", "-c", SUMS, "out", str(rounds))


def lines_of(home: Host, path: str) -> int:
    return int(home.run(("sh", "-c", f"cat {path} | wc -l"), check=True).stdout)


def let_it_end(home: Host) -> None:
    """Have `sums` end, once it is well beyond where it was."""
    count = lines_of(home, "out")
    wait_until(lambda: lines_of(home, "out") > count + 10, 60)
    home.run(("touch", "go"), check=True)


def right(home: Host, told: bytes) -> int:
    """Fail unless `sums` has said and written what it does natively; return its rounds."""
    written = home.read("/home/alice/out")
    rounds = written.count(b"\n")
    assert b"ready\n" + told == home.run(sums(rounds), check=True).stdout
    assert written == home.read("/home/alice/out")
    return rounds


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
    with Running(home, *on("n1"), *sums()) as process:
        pid = pid_of(home)
        line = said(home, "checkpoint", pid, "image")
        assert line.startswith(f"written {pid} (python3) to /home/alice/image: ")
        assert f"the program still runs, pid {pid}" in not_recovered(home)
        let_it_end(home)
        assert process.stdout is not None
        told = process.stdout.read()
        assert process.wait(60) == 0
    rounds = right(home, told)
    mode = home.run(("stat", "-c", "%a", "image"), check=True).stdout
    assert mode == b"600\n"
    # What was written after the checkpoint is taken back; it ends soon, for it finds the file.
    assert right(home, recovered(home, "n2")) < rounds


def test_a_program_that_was_killed_goes_on_and_can_be_moved(home: Host) -> None:
    with Running(home, *on("n1"), *sums()) as process:
        said(home, "checkpoint", pid_of(home), "image")
        kill(home, process)
    with home.popen((*on("n2"), "--recover", "image")) as process:
        line = said(home, "migrate", pid_of(home), "n1")
        assert "from n2 to n1" in line
        let_it_end(home)
        assert process.stdout is not None
        told = process.stdout.read()
        assert process.wait(60) == 0
    right(home, told)


def test_a_compressor_goes_on_in_mid_stream(home: Host) -> None:
    home.run(("sh", "-c", "seq 1 3000000 > numbers"), check=True)
    with home.popen(("sh", "-c", "exec mrun -n n1 gzip -9c < numbers > out")) as process:
        wait_until(lambda: len(home.read("/home/alice/out")) > 100_000, 60)
        said(home, "checkpoint", pid_of(home), "image")
        kill(home, process)
    assert recovered(home, "n2") == b""
    home.run(("sh", "-c", "gzip -dc out | cmp - numbers"), check=True)
    home.run(("sh", "-c", "rm numbers"), check=True)


def test_what_had_been_sent_to_it_is_in_its_checkpoint(home: Host) -> None:
    lines = b"".join(b"%d\n" % number for number in range(1000))
    with home.popen((*on("n1"), "awk", READS), stdin=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first\n" + lines)
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        said(home, "checkpoint", pid_of(home), "image")
        kill(home, process)
    home.run(("sh", "-c", "echo x > go"), check=True)
    found = home.run((*on("n2"), "--recover", "image"), input=b"1\n2\n", check=True)
    assert found.stdout == b"%d\n" % (sum(range(1000)) + 3)


@pytest.mark.parametrize(
    ("opened", "text"),
    [
        ("fcntl.flock(file, fcntl.LOCK_EX)", "it has locked a file"),
        ("os.unlink('out')", "it has a file open that has no name any more"),
        ("os.rename('out', 'image')", ""),
        ("os.dup2(1, 7), os.close(1)", ""),
    ],
)
def test_what_cannot_be_had_again_keeps_a_program_from_a_file(
    home: Host, opened: str, text: str
) -> None:
    script = f"""
import fcntl, os
file = open("out", "w")
print("ready", flush=True)
{opened}
os.write(file.fileno(), b"x" * 9)
while os.path.exists("/home/alice"):
    pass
"""
    with Running(home, *on("n1"), "/usr/bin/python3", "-c", script):
        pid = pid_of(home)
        wait_until(lambda: only(ps(home))["cpu_s"] > 0.1, 60)
        if text:
            assert f"{pid} (python3) not written: {text}" in refused(
                home, "checkpoint", pid, "file"
            )
        else:
            said(home, "checkpoint", pid, "file")
        # It goes on, and nothing is left of what was begun.
        used = only(ps(home))["cpu_s"]
        wait_until(lambda: only(ps(home))["cpu_s"] > used, 60)
        left = home.run(("sh", "-c", "ls file*; rm -f file"))
        assert left.stdout == (b"" if text else b"file\n")


def test_it_is_recovered_only_with_its_files_as_they_were(home: Host) -> None:
    home.run(("sh", "-c", "seq 1 200000 > input"), check=True)
    reader = 'BEGIN { getline < "input"; print "ready"; fflush(); while (1) i++ }'
    with Running(home, *on("n1"), "awk", reader) as process:
        said(home, "checkpoint", pid_of(home), "image")
        kill(home, process)
    home.run(("sh", "-c", "echo more >> input"), check=True)
    assert "/home/alice/input, which it had open, has changed since" in not_recovered(home)
    home.run(("sh", "-c", "cp input other; mv other input"), check=True)
    assert "input, which it had open, is another file now" in not_recovered(home)
    home.run(("rm", "input"), check=True)
    assert "input, which it had open: No such file" in not_recovered(home)


def test_what_is_no_checkpoint_is_refused(home: Host) -> None:
    with Running(home, *on("n1"), *FOREVER) as process:
        pid = pid_of(home)
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


def test_an_editor_goes_on_in_another_terminal(home: Host) -> None:
    home.run(("rm", "-f", "text"), check=True)
    first, second = Screen(home, "/home/alice"), Screen(home, "/home/alice")
    try:
        first.enter("mrun -n n1 vim -n -u NONE -N text")
        first.wait_for(r'"text" \[New\].*')
        first.type("ifirst line", "Escape")
        first.wait_for("first line")
        body = only(ps(home))
        said(home, "checkpoint", body["pid"], "image")
        first.enter("ono more")
        first.wait_for("no more")
        home.run(("kill", "-9", str(body["mrun"])), check=True)
        wait_until(lambda: not ps(home), 60)
        assert "it had a terminal open, and there is none here" in not_recovered(home)
        second.enter("mrun -n n2 --recover image")
        row_when(home, lambda row: row["node"] == "n2")
        second.type("C-l")
        second.wait_for("first line")
        second.type("osecond line", "Escape")
        second.wait_for("second line")
        second.type("C-z")
        second.wait_for(r"\[1\]\+  Stopped.*")
        second.enter("fg")
        second.type("C-l")
        second.wait_for("second line")
        second.enter(":wq")
        wait_until(lambda: not ps(home), 60)
    finally:
        first.close()
        second.close()
    assert home.read("/home/alice/text") == b"first line\nsecond line\n"


@pytest.fixture
def frail(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Return a cluster of its own, whose nodes may be lost."""
    cluster = make_cluster(nodes=2)
    add_nodes(cluster.home, "n1", "n2")
    return cluster


def checkpoints(home: Host) -> list[str]:
    found = home.run(("sh", "-c", "ls -i ~/.local/state/mlaunch/checkpoints | grep -v part"))
    return found.stdout.decode().split()


def test_a_program_outlives_its_nodes(frail: Cluster) -> None:
    home = frail.home
    options = ("-v", "--stay", "--no-fallback", "--only", "n1,n2", "--checkpoint-every", "0.02")
    with Running(home, "mrun", *options, *sums()) as process:
        for _ in range(2):
            node = frail.node(row_when(home, lambda row: row["node"] != "home")["node"])
            # The first that there is, and one that was begun after it.
            first = wait_until(lambda: checkpoints(home), 60)
            wait_until(lambda before=first: checkpoints(home) not in ([], before), 60)
            before = lines_of(home, "out")
            wait_until(lambda count=before: lines_of(home, "out") > count, 60)
            node.kill()
            wait_until(lambda lost=node.name: {each["node"] for each in ps(home)} - {lost}, 60)
            frail.repair()
        let_it_end(home)
        assert process.stdout is not None
        out = process.stdout.read()
        assert process.wait(60) == 0
        assert process.stderr is not None
        said_there = process.stderr.read().decode()
    assert said_there.count("goes on from its checkpoint") == 2
    right(home, out)
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
