import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.abi import x86_64 as nr
from stubs.abi.ptrace import seize
from stubs.migration.areas import SPECIAL, is_anonymous
from stubs.migration.executor import Room, Table
from stubs.migration.freeze import Frozen
from stubs.migration.injection import Injection
from stubs.migration.intervals import without
from stubs.migration.pages import OwnPages
from stubs.migration.proc import read_stat, read_vmas
from stubs.migration.reasons import Unmovable
from stubs.migration.source import Source
from stubs.migration.tracee import CallFailedError
from tests.kernel.movebed import compiled
from tests.kernel.mruns import wait_until

ENDED_FROM_OUTSIDE = {"read": "1", "poll": "1", "wait4": "7", "epoll_wait": "1"}
ENDED_BY_TIME = {
    "poll-timeout": "0",
    "nanosleep": "0",
    "nanosleep-rest": "0",
    "clock_nanosleep": "0",
    "futex": "-1 Connection timed out",
    "sigtimedwait": "-1 Resource temporarily unavailable",
    "epoll_wait-timeout": "0",
}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    null = subprocess.DEVNULL
    process = subprocess.Popen(["/bin/sleep", "1000"], stdin=null, stdout=null, stderr=null)
    yield process
    process.kill()
    process.wait()


def test_a_thousand_injections_leave_no_trace(sleeper: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: read_stat(sleeper.pid).state == "S", "sleep")
    frozen = Frozen([sleeper.pid])
    before = read_vmas(sleeper.pid)
    process = frozen.processes[sleeper.pid]
    regs = dict(process.leader.regs)
    with Injection(process, before):
        for _ in range(500):
            assert process.leader.call(nr.NR_getpid) == sleeper.pid
        table = Table()
        rooms = [Room(16) for _ in range(500)]
        for room in rooms:
            table.call(nr.NR_clock_gettime, 1, room)
        assert process.leader.run(table) == [0] * 500
        assert all(any(room.data) for room in rooms)
    assert process.leader.regs == regs
    frozen.thaw()
    assert [vma[:4] for vma in read_vmas(sleeper.pid)] == [vma[:4] for vma in before]
    wait_until(lambda: read_stat(sleeper.pid).state == "S", "sleep again")
    assert sleeper.poll() is None


def test_a_table_larger_than_the_scratch_is_made_in_parts(
    sleeper: subprocess.Popen[bytes],
) -> None:
    frozen = Frozen([sleeper.pid])
    process = frozen.processes[sleeper.pid]
    with Injection(process, read_vmas(sleeper.pid)):
        table = Table()
        rooms = [Room(5000) for _ in range(200)]
        for room in rooms:
            table.call(nr.NR_getrandom, room, 5000, 0)
        assert process.leader.run(table) == [5000] * 200
        assert len({room.data for room in rooms}) == 200
    frozen.thaw()


def test_a_call_that_fails_is_told_with_its_number_and_the_others_are_made(
    sleeper: subprocess.Popen[bytes],
) -> None:
    frozen = Frozen([sleeper.pid])
    process = frozen.processes[sleeper.pid]
    with Injection(process, read_vmas(sleeper.pid)):
        table = Table()
        table.call(nr.NR_close, 999, optional=True)
        table.call(nr.NR_chdir, b"/no/such")
        table.call(nr.NR_chdir, b"/proc")
        with pytest.raises(CallFailedError) as caught:
            process.leader.run(table)
    assert (caught.value.number, caught.value.errno) == (nr.NR_chdir, 2)
    frozen.thaw()
    assert os.readlink(f"/proc/{sleeper.pid}/cwd") == "/proc"


@pytest.mark.parametrize("call", [*ENDED_FROM_OUTSIDE, *ENDED_BY_TIME])
def test_a_call_that_blocks_ends_as_ever_after_rollbacks(tmp_path: Path, call: str) -> None:
    program = compiled("moved", tmp_path)
    with subprocess.Popen(
        [program, call],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: read_stat(process.pid).state == "S", "the call to block")
        outside = {os.fsencode(os.readlink(f"/proc/{process.pid}/fd/{fd}")): fd for fd in (0, 1)}
        for _ in range(3):
            source = Source([process.pid], outside)
            source.freeze()
            source.thaw()
        if call in ENDED_FROM_OUTSIDE:
            process.stdin.write("x")
            process.stdin.flush()
        line = process.stdout.readline()
    assert line.split(maxsplit=1)[1].strip() == (ENDED_FROM_OUTSIDE | ENDED_BY_TIME)[call]


def test_a_stopped_program_stays_stopped_and_goes_on_when_told(
    sleeper: subprocess.Popen[bytes],
) -> None:
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_until(lambda: read_stat(sleeper.pid).state == "T", "the stop")
    source = Source([sleeper.pid], {})
    source.freeze()
    assert source.image.processes
    source.thaw()
    wait_until(lambda: read_stat(sleeper.pid).state == "T", "the stop again")
    os.kill(sleeper.pid, signal.SIGCONT)
    wait_until(lambda: read_stat(sleeper.pid).state == "S", "sleep again")


def test_own_pages_are_found_without_a_scan_as_well(sleeper: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: read_stat(sleeper.pid).state == "S", "sleep")
    own = OwnPages(sleeper.pid)
    for vma in read_vmas(sleeper.pid):
        if vma.path not in SPECIAL:
            scanned = set(own.find(vma.start, vma.end))
            if is_anonymous(vma):
                assert set(own.find(vma.start, vma.end, anonymous=True)) == scanned
            # The zero page cannot be told from another so.
            read = list(own.read(vma.start, vma.end))
            assert not without(sorted(scanned), read), vma
            if b"heap" in vma.path:
                assert sorted(scanned) == read
    own.close()


def test_a_program_that_has_ended_is_said_to_have_ended(
    sleeper: subprocess.Popen[bytes],
) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    wait_until(lambda: read_stat(sleeper.pid).state == "Z", "its end")
    with pytest.raises(Unmovable) as caught:
        Source([sleeper.pid], {}).freeze()
    assert caught.value.reason.name == "ended"


def test_a_program_that_is_traced_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    reading, writing = os.pipe()
    other = os.fork()
    if other == 0:
        seize(sleeper.pid, 0)
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    with pytest.raises(Unmovable) as caught:
        Source([sleeper.pid], {}).freeze()
    assert caught.value.reason.name == "ptraced"
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    os.close(reading)
    os.close(writing)
    source = Source([sleeper.pid], {})
    source.freeze()
    source.thaw()
