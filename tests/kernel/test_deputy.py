import os
import signal
import subprocess
from pathlib import Path

import pytest

from stubs.abi.signalfd import SI_USER
from stubs.home.run.deputy import Arrival, Deputy
from stubs.home.run.proc import read_status
from tests.kernel.mruns import wait_until
from tests.kernel.tracees import Launch, given, launch, state_of

__all__ = ["given", "launch"]

# Fatal signals: of the kernel, of users, of real time; with and without a core file.
FATAL = [
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGABRT,
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGTRAP,
    signal.SIGRTMIN + 1,
    signal.SIGRTMAX,
]


def make(launch: Launch, *words: str) -> Deputy:
    return Deputy(launch(*(words or ("sleep", "100"))))


def arrivals(deputy: Deputy, count: int) -> list[Arrival]:
    got: list[Arrival] = []

    def enough() -> bool:
        got.extend(deputy.poll())
        return len(got) >= count

    wait_until(enough, f"{count} signals at the deputy")
    return got


def test_a_deputy_has_no_descriptors_and_keeps_its_face(launch: Launch) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    tracee = launch("sleep", "100")
    os.close(read_end)
    os.close(write_end)
    assert str(read_end) in os.listdir(f"/proc/{tracee.pid}/fd")
    deputy = Deputy(tracee)
    wait_until(lambda: not os.listdir(f"/proc/{deputy.pid}/fd"), "a deputy without descriptors")
    assert Path(f"/proc/{deputy.pid}/cmdline").read_bytes() == b"sleep\x00100\0"
    assert os.path.samefile(f"/proc/{deputy.pid}/exe", "/usr/bin/sleep")
    wait_until(lambda: state_of(deputy.pid) == "S", "a deputy that pauses")


@pytest.mark.parametrize("code", [0, 1, 42, 125, 255])
def test_a_deputy_exits_as_its_body_did(launch: Launch, code: int) -> None:
    deputy = make(launch)
    deputy.end(code << 8)
    assert deputy.status == code << 8


@pytest.mark.parametrize("signo", FATAL)
def test_a_deputy_dies_by_the_signal_of_its_body(
    launch: Launch, signo: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deputy = make(launch)
    # With or without the flag for a core file: the deputy leaves none.
    deputy.end(signo | 0x80)
    assert deputy.status is not None
    assert deputy.status & 0x7F == signo
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_signal_kills_all_the_same(launch: Launch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        deputy = make(launch)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert int(read_status(deputy.pid)["SigIgn"], 16) >> (signal.SIGTERM - 1) & 1
    deputy.end(signal.SIGTERM)
    assert deputy.status == signal.SIGTERM


def test_signals_are_shown_with_their_sender_and_do_nothing(launch: Launch) -> None:
    deputy = make(launch)
    sent = [signal.SIGTERM, signal.SIGWINCH, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTRAP]
    for signo in sent:
        os.kill(deputy.pid, signo)
        assert arrivals(deputy, 1) == [Arrival(signo, SI_USER, os.getpid())]
    assert deputy.status is None
    assert not deputy.stopped


def test_a_signal_from_before_the_conversion_is_shown(launch: Launch) -> None:
    tracee = launch("sleep", "100")
    os.kill(tracee.pid, signal.SIGUSR1)
    os.kill(tracee.pid, signal.SIGSTOP)
    assert {arrival.signo for arrival in arrivals(Deputy(tracee), 2)} == {
        signal.SIGUSR1,
        signal.SIGSTOP,
    }


@pytest.mark.parametrize("signo", [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
def test_a_deputy_stops_and_goes_on_as_its_body(launch: Launch, signo: int) -> None:
    deputy = Deputy(launch("sleep", "100", own_group=True))
    for _ in range(2):
        deputy.stop(signo)
        assert deputy.stopped
        deputy.go_on()
        wait_until(lambda: not (deputy.poll() or deputy.stopped), "a deputy that goes on")
    wait_until(lambda: not deputy.poll() and state_of(deputy.pid) == "S", "a deputy that pauses")


def test_a_stopped_deputy_shows_sigcont(launch: Launch) -> None:
    deputy = make(launch)
    deputy.stop(signal.SIGTSTP)
    sender = subprocess.Popen(["kill", "-CONT", str(deputy.pid)])
    sender.wait()
    assert arrivals(deputy, 1) == [Arrival(signal.SIGCONT, SI_USER, sender.pid)]
    assert not deputy.stopped


@pytest.mark.parametrize("status", [3 << 8, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_deputy_ends_with_its_body(launch: Launch, status: int) -> None:
    deputy = make(launch)
    deputy.stop(signal.SIGSTOP)
    deputy.end(status)
    assert deputy.status == status


def test_signals_on_their_way_do_not_keep_a_deputy_from_ending(launch: Launch) -> None:
    deputy = make(launch)
    for signo in (signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP, signal.SIGCONT):
        os.kill(deputy.pid, signo)
    deputy.end(7 << 8)
    assert deputy.status == 7 << 8


def test_a_killed_deputy_is_seen_dead(launch: Launch) -> None:
    deputy = make(launch)
    os.kill(deputy.pid, signal.SIGKILL)
    wait_until(lambda: deputy.poll() or deputy.status is not None, "the deputy's end")
    assert deputy.status == signal.SIGKILL
    deputy.stop(signal.SIGTSTP)
    deputy.go_on()
    deputy.end(0)
    assert deputy.status == signal.SIGKILL


def test_a_static_program_makes_a_deputy(launch: Launch) -> None:
    busybox = Path("/usr/bin/busybox")
    if not busybox.exists():
        pytest.skip("no static program here")
    deputy = make(launch, str(busybox), "sleep", "100")
    deputy.end(9 << 8)
    assert deputy.status == 9 << 8
