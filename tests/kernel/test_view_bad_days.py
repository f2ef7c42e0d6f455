"""The home view when something fails: the link, the disk of home, a process that is killed."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest

from stubs.abi import fuse
from tests.kernel.viewbed import Bed, wait_or_kill
from tests.kernel.viewcalls import list_all, make_files, outcome, put
from tests.posix.tools import make, names, read, until


def _stall(path: str, ready: int) -> None:
    fd = os.open(path, os.O_RDWR)
    os.write(ready, b"x")
    fcntl.lockf(fd, fcntl.LOCK_EX)
    raise AssertionError("got the lock")


def _fails_at_once(d: str) -> None:
    for call in (os.listdir, os.stat):
        assert outcome(call, f"{d}/never-seen") in ("EIO", "ENOTCONN", "ECONNABORTED")


def test_a_lost_link_ends_every_wait(bed: Bed) -> None:
    put(f"{bed.home}/f", "f")
    os.chmod(f"{bed.home}/f", 0o666)
    bed.barrier()
    holder = os.open(f"{bed.home}/f", os.O_RDWR)
    fcntl.lockf(holder, fcntl.LOCK_EX)
    waiting, ready = os.pipe()
    started = bed.start(_stall, f"{bed.mount}/f", ready)
    os.read(waiting, 1)
    bed.lose()
    pid, _ = started
    assert wait_or_kill(pid) == 0x100
    bed.run(_fails_at_once, bed.mount)


# Of a mount whose server is gone.
_ENDED = {"EIO", "ENOTCONN", "ECONNABORTED"}


def _hammer(d: str) -> None:
    number = 0
    while True:
        number += 1
        outcomes = (
            outcome(make, d, f"f{number % 50}", b"x" * number),
            outcome(os.listdir, d),
            outcome(os.stat, f"{d}/f{number % 50}"),
            outcome(os.unlink, f"{d}/f{(number + 25) % 50}"),
            # Not there any more when the mount is gone, and this the directory below it.
            outcome(os.stat, f"{d}/seed"),
        )
        # ESTALE: home replaced the file between two looks, again and again.
        assert set(outcomes) <= {"ok", "ENOENT", "ESTALE", *_ENDED}, outcomes
        # Some of it is answered from the kernel's caches to the last.
        if not _ENDED.isdisjoint(outcomes) or outcomes[-1] != "ok":
            return


@pytest.mark.parametrize("how", ["lose", "kill_view"])
def test_an_end_amid_changes_from_both_sides_leaves_nobody_waiting(root_bed: Bed, how: str) -> None:
    bed = root_bed
    put(f"{bed.home}/seed", "x")
    started = [bed.start(_hammer, bed.mount) for _ in range(3)]
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            put(f"{bed.home}/f{number % 50}", "y" * (number % 1000))
            if number % 3 == 0:
                try:
                    os.unlink(f"{bed.home}/f{(number + 7) % 50}")
                except FileNotFoundError:
                    continue  # the node was faster

    changer = threading.Thread(target=change)
    changer.start()
    try:
        requests = bed.stats()
        until(lambda: bed.stats()["round_trips"] > requests["round_trips"] + 300)
        getattr(bed, how)()
        for check in started:
            bed.finish(check)
    finally:
        stop.set()
        changer.join()


def _fill(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    outcomes = [outcome(os.write, fd, b"x" * 65536) for _ in range(200)]
    outcomes.append(outcome(os.fsync, fd))
    assert "EFBIG" in outcomes
    assert set(outcomes) == {"ok", "EFBIG"}


def _fill_and_do_not_look(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"x" * 65536)
    os._exit(0)


@pytest.fixture
def small_bed() -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        bed = Bed(directory, file_size=40_000)
        with bed:
            yield bed


def test_a_refused_write_is_told_by_a_later_call(small_bed: Bed) -> None:
    small_bed.run(_fill, f"{small_bed.mount}/f")
    assert small_bed.failure() is None
    assert os.path.getsize(f"{small_bed.home}/f") <= 40_000


def test_a_refused_write_that_nobody_asks_about_is_reported(small_bed: Bed) -> None:
    small_bed.run(_fill_and_do_not_look, f"{small_bed.mount}/f")
    until(lambda: _remember(small_bed) is not None)
    assert _failures == [[errno.EFBIG, "/f"]]
    _failures.clear()


_failures: list[list[object]] = []


def _remember(bed: Bed) -> object:
    failure = bed.failure()
    if failure is not None:
        _failures.append(failure)
    return failure


def test_signals_do_not_disturb_file_calls(root_bed: Bed) -> None:
    with open(f"{root_bed.home}/large", "wb") as file:
        file.truncate(8 << 20)
    root_bed.barrier()
    root_bed.run(_under_signals, root_bed.mount)


def _under_signals(d: str) -> None:
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for turn in range(20):
        make(d, f"s{turn}", b"s" * 50_000)
        assert read(d, f"s{turn}") == b"s" * 50_000
        assert len(read(d, "large")) == 8 << 20
        os.rename(f"{d}/s{turn}", f"{d}/t{turn}")
        os.unlink(f"{d}/t{turn}")
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert seen


def test_killed_processes_leave_the_view_in_order(root_bed: Bed) -> None:
    bed = root_bed
    put(f"{bed.home}/seed", "x")
    for _ in range(20):
        before = bed.stats()["round_trips"]
        started = bed.start(_hammer, bed.mount)
        until(lambda: bed.stats()["round_trips"] > before + 5)  # noqa: B023
        os.kill(started[0], signal.SIGKILL)
        wait_or_kill(started[0])
        os.close(started[1])
    bed.run(make_files, bed.mount)
    assert sorted(os.listdir(bed.home)) == sorted(set(os.listdir(bed.home)))
    bed.barrier()
    bed.run(_listing_is, bed.mount, sorted(os.listdir(bed.home)))


def _listing_is(d: str, expected: list[str]) -> None:
    assert names(d) == expected


def test_the_agent_stays_small(root_bed: Bed) -> None:
    bed = root_bed
    for number in range(60):
        os.mkdir(f"{bed.home}/{number}")
        for name in range(1000):
            os.mknod(f"{bed.home}/{number}/name-of-a-file-{name}", 0o100644)
    bed.barrier()
    empty = bed.stats()["rss"]
    bed.run(list_all, bed.mount)
    assert bed.stats()["rss"] - empty < 36 << 20
    bed.run(list_all, bed.mount)
    assert bed.stats()["rss"] - empty < 36 << 20


def test_python_of_the_node_is_enough() -> None:
    code = "import sys, stubs.node.view.view; print([m for m in sys.modules if '.' not in m])"
    out = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True)
    assert b"typing" not in out.stdout
    assert b"asyncio" not in out.stdout


def _read_often(d: str, interpreter: str) -> None:
    code = f"for _ in range(50): open({d!r} + '/seed').close()"
    subprocess.run([interpreter, "-S", "-c", code], check=True)


def test_a_compiler_closes_what_it_read_without_a_word(root_bed: Bed) -> None:
    bed = root_bed
    put(f"{bed.home}/seed", "x")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        compiler = shutil.copy(os.path.realpath("/usr/bin/python3"), f"{directory}/x86-gcc-12")
        told = {}
        for interpreter in ("/usr/bin/python3", compiler):
            before = bed.stats()["counts"][fuse.FUSE_FLUSH]
            bed.run(_read_often, bed.mount, interpreter)
            told[interpreter] = bed.stats()["counts"][fuse.FUSE_FLUSH] - before
    assert told["/usr/bin/python3"] >= 50
    assert told[compiler] == 0


def test_time_spent_waiting_is_not_spent_computing(root_bed: Bed) -> None:
    before = root_bed.stats()["cpu"]
    start = time.monotonic()
    root_bed.run(make_files, root_bed.mount)
    assert root_bed.stats()["cpu"] - before <= time.monotonic() - start
