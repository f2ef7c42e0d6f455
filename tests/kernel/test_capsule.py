from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.link.endpoint import BulkEndpoint
from stubs.link.stream import PipeStream
from stubs.wire.messages import (
    FD_STREAM_IN,
    FD_STREAM_OUT,
    Bulk,
    Exited,
    Gone,
    Ping,
    Pong,
    Spawned,
    StreamData,
    StreamEnd,
    StreamWant,
)
from tests.kernel.nodebed import (
    DEADLINE_SECONDS,
    PARENT,
    PID,
    TOKEN,
    Bed,
    make_home,
    needs_root,
    refused,
    stream,
)

pytestmark = needs_root

USER = 1234


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    make_home(root)
    return root


@pytest.fixture(params=[(0, 0), (USER, USER), (USER, 5678), (0, USER), (USER, 0)])
def bed(home: Path, request: pytest.FixtureRequest) -> Iterator[Bed]:
    node_uid, home_uid = request.param
    bed = Bed(home, home_uid=home_uid, node_uid=node_uid)
    yield bed
    bed.clear()
    bed.close()


@pytest.fixture
def root_bed(home: Path) -> Iterator[Bed]:
    bed = Bed(home)
    yield bed
    bed.close()


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while alive := {pid for pid in pids if os.path.exists(f"/proc/{pid}")}:
        assert time.monotonic() < deadline, alive
        time.sleep(0.01)


def descendants_of(pid: int) -> set[int]:
    text = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [tuple(map(int, line.split())) for line in text.splitlines()]
    found = {pid}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found


FOUND = [path for minor in range(9, 20) if (path := shutil.which(f"python3.{minor}"))]
# One on the PATH may be a shim for what is not chosen.
OTHERS = [path for path in FOUND if subprocess.run([path, "-c", ""], check=False).returncode == 0]


@pytest.mark.parametrize("python", OTHERS, ids=[os.path.basename(path) for path in OTHERS])
def test_an_agent_runs_on_every_python_that_there_is(home: Path, python: str) -> None:
    bed = Bed(home, python=python)
    script = "read x; echo $x $$ $PPID; exit 3"
    number, output = bed.free_stream(), bed.free_stream()
    descriptors = [stream(0, FD_STREAM_IN, number), stream(1, FD_STREAM_OUT, output)]
    assert bed.spawn("bash", "-c", script, descriptors=descriptors) == Spawned(PID)
    for byte in b"word\n":
        assert bed.wait_for(StreamWant, stream=number).bytes == 1
        bed.got.clear()
        bed.link.post(StreamData(number, bytes([byte])))
    assert bed.wait_for(Exited).status == 3 << 8
    assert bed.output[output] == f"word {PID} {PARENT}\n".encode()
    bed.wait_for(Gone)
    bed.close()


# what a body finds


def test_a_capsule_has_its_own_proc_dev_and_name(bed: Bed) -> None:
    script = """
    echo $HOSTNAME $UID
    [ -d /proc/1 ] && [ ! -e /proc/2 ] && echo own processes
    : >/dev/null && echo x >/dev/null && head -c 3 /dev/zero | head -c 1 >/dev/null && echo devices
    echo x 2>/dev/null >/dev/full || echo full
    head -c 8 /dev/urandom >/dev/null && head -c 8 /dev/random >/dev/null && echo random
    echo x >/dev/shm/file && [ -s /dev/shm/file ] && echo shared memory
    : <(:) && [ -e /dev/fd/0 ] || [ -e /dev/stdout ] && echo names
    [ -e /dev/ptmx ] && [ -e /dev/pts/ptmx ] && echo terminals
    ( : >/sys/x ) 2>/dev/null || [ -d /sys/class ] && echo sys
    [ -e /tmp ] && [ -e /bin/bash ] && [ ! -e /etc ] && echo files of home
    """
    status, output = bed.run("bash", "-c", script)
    assert status == 0, output
    lines = output.decode().split("\n")
    assert lines[0] == f"homehost {bed.home_uid}"
    assert lines[1:-1] == [
        "own processes",
        "devices",
        "full",
        "random",
        "shared memory",
        "names",
        "terminals",
        "sys",
        "files of home",
    ]


def test_sys_cannot_be_written(root_bed: Bed) -> None:
    script = 'for f in /proc/self/mountinfo; do while read -r l; do echo "$l"; done <$f; done'
    _, output = root_bed.run("bash", "-c", script)
    sys = [line.split() for line in output.decode().splitlines() if line.split()[4] == "/sys"]
    assert "ro" in sys[0][5].split(",")


def test_nothing_of_the_node_is_mounted_but_what_is_meant(root_bed: Bed) -> None:
    script = "while read -r a b c d e f; do echo $e; done </proc/self/mountinfo"
    _, output = root_bed.run("bash", "-c", script)
    mounts = [line for line in output.decode().split() if not line.startswith("/sys/")]
    settings = [path for path in ("/proc/sys", "/proc/sysrq-trigger") if os.path.exists(path)]
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]
    own = ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm"]
    assert sorted(mounts) == sorted([*own, *settings, *devices])


def test_files_made_by_a_body_are_homes(bed: Bed, home: Path) -> None:
    path = home / "desk" / f"made-{bed.node_uid}-{bed.home_uid}"
    assert bed.run("bash", "-c", f"echo text >/desk/{path.name}") == (0, b"")
    assert path.read_bytes() == b"text\n"


# what the agent says


def test_the_agent_answers_pings_and_reports_its_load(root_bed: Bed) -> None:
    assert isinstance(root_bed.ask(Ping(1)), Pong)
    root_bed.until(lambda: root_bed.loads)
    load = root_bed.loads[0]
    assert load.cpus_milli >= 10
    assert 0 < load.memory_available <= load.memory_total
    assert load.guests == 0
    assert 4 << 20 < load.agent_rss <= 40 << 20


def test_the_cpu_time_of_guests_is_told(root_bed: Bed) -> None:
    root_bed.spawn("bash", "-c", "while :; do :; done")
    root_bed.until(lambda: any(load.guests_cpu_milli > 100 for load in root_bed.loads))
    assert root_bed.loads[-1].guests == 1
    root_bed.kill()


@pytest.mark.parametrize(
    ("options", "reason", "remedy"),
    [
        ({"fuse_mode": None}, "/dev/fuse", "modprobe fuse"),
        ({"fuse_mode": 0o600, "node_uid": USER}, "/dev/fuse", "chmod 666 /dev/fuse"),
        ({"namespaces": 0}, "user namespaces are refused", "user.max_user_namespaces"),
    ],
)
def test_what_a_node_refuses_is_told_with_the_remedy(
    home: Path, options: dict[str, int], reason: str, remedy: str
) -> None:
    bed = Bed(home, **options)
    try:
        problem = bed.welcome.problem.decode().split("\n")
        assert reason in problem[0]
        assert remedy in problem[1]
        # It goes on reporting, for mlaunch doctor and nodes.
        bed.until(lambda: bed.loads)
        assert refused(bed.spawn("true", anyway=True))
    finally:
        bed.close()


# the bulk connection


def attach(bed: Bed, token: bytes) -> BulkEndpoint:
    """Connect as the second command of home's does, with pipes for its standard files."""
    to_node, from_node = os.pipe(), os.pipe()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(bed.welcome.attach)
        socket.send_fds(sock, [b"B"], [to_node[0], from_node[1]])
    os.close(to_node[0])
    os.close(from_node[1])
    bulk = BulkEndpoint(bed.rpc, bed.loop, PipeStream(from_node[0], to_node[1]), "node (bulk)")
    bulk.post(Bulk(token))
    bed.link.send_bulk_on(bulk)
    return bulk


def test_streams_can_come_on_the_bulk_connection(root_bed: Bed) -> None:
    bed = root_bed
    attach(bed, TOKEN)
    number, output = bed.free_stream(), bed.free_stream()
    bed.spawn(
        "cat",
        descriptors=[stream(0, FD_STREAM_IN, number), stream(1, FD_STREAM_OUT, output)],
        exclusive=[number],
    )
    for _ in range(4):
        bed.link.post(StreamData(number, b"x" * 100_000))
    bed.link.post(StreamEnd(number))
    bed.wait_for(Gone)
    assert len(bed.output[output]) == 400_000


def test_a_bulk_connection_without_the_token_ends_the_link(home: Path) -> None:
    bed = Bed(home)
    attach(bed, b"x" * 32)
    while not bed.lost:
        bed.loop.turn(0.05)
    bed.close()


# the end


def test_nothing_is_left_however_the_agent_ends(home: Path) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL, None):
        bed = Bed(home, node_uid=USER, home_uid=USER)
        script = "(sleep 1000 &); perl -e 'fork; syscall 112; sleep 1000' & sleep 1000"
        assert isinstance(bed.spawn("bash", "-c", script), Spawned)
        pids = descendants_of(bed.agent.pid)
        assert len(pids) >= 5
        if end is None:
            bed.rpc.close("the test ends")
        else:
            os.kill(bed.agent.pid, end)
        bed.agent.wait(timeout=DEADLINE_SECONDS)
        wait_until_gone(pids)
        bed.abandon()


def test_an_agent_that_hears_nothing_ends(home: Path) -> None:
    bed = Bed(home)
    bed.pings = False
    pids = descendants_of(bed.agent.pid)
    # It takes ten seconds to be sure; meanwhile its own messages are not answered.
    bed.agent.wait(timeout=3 * DEADLINE_SECONDS)
    wait_until_gone(pids)
    bed.abandon()


def test_a_body_that_waits_for_home_does_not_keep_a_dead_agent(home: Path) -> None:
    bed = Bed(home)
    # Home answers nothing any more, and the body waits for a directory in the view.
    bed.spawn("bash", "-c", "read x; cat /desk/nothing", descriptors=[])
    bed.wait_for(Exited)
    number = bed.free_stream()
    bed.spawn(
        "bash",
        "-c",
        "read x; cat /bin/id >/dev/null",
        descriptors=[stream(0, FD_STREAM_IN, number)],
        exclusive=[number],
    )
    pids = descendants_of(bed.agent.pid)
    bed.link.post(StreamData(number, b"go\n"))
    bed.rpc.flush()
    os.kill(bed.agent.pid, signal.SIGTERM)
    bed.agent.wait(timeout=DEADLINE_SECONDS)
    wait_until_gone(pids)
    bed.abandon()
