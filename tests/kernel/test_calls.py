from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from stubs.abi import x86_64 as nr
from stubs.abi.calls import ENDS_CHOICE, MAY_FAIL, Calls, map_code
from stubs.abi.unistd import Strings

# Made by machine code in a child that shares our memory, and by a forked interpreter.
CODES = {"vfork": map_code(), "fork": 0}


@pytest.fixture(params=list(CODES))
def code(request: pytest.FixtureRequest) -> int:
    return CODES[request.param]


def execute(calls: Calls, script: str) -> Calls:
    """End `calls` with the execve of a shell."""
    argv, env = Strings([b"sh", b"-c", script.encode()]), Strings([b"A=1", b"PATH=/bin:/usr/bin"])
    calls.keep((argv, env))
    calls.add(nr.NR_execve, b"/bin/sh", argv.address, env.address)
    return calls


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_calls_are_made_in_order_by_the_child_alone(code: int, tmp_path: Path) -> None:
    calls = Calls()
    calls.add(nr.NR_chdir, os.fsencode(tmp_path))
    calls.add(nr.NR_umask, 0o137)
    before = os.getcwd(), os.umask(0o022)
    pid, failure = execute(calls, 'pwd >"$(umask)$A"').run(0, code)
    assert (failure, status_of(pid)) == (0, 0)
    assert (os.getcwd(), os.umask(before[1])) == (before[0], 0o022)
    assert (tmp_path / "01371").read_text() == f"{tmp_path}\n"


def test_the_first_failure_ends_the_child_and_is_told(code: int) -> None:
    calls = Calls()
    calls.add(nr.NR_chdir, b"/nonexistent")
    pid, failure = execute(calls, "exit 0").run(0, code)
    assert (failure, status_of(pid)) == (errno.ENOENT, 127)
    calls = Calls()
    calls.add(nr.NR_execve, b"/etc/passwd", Strings([]).address, Strings([]).address)
    pid, failure = calls.run(0, code)
    assert (failure, status_of(pid)) == (errno.EACCES, 127)


@pytest.mark.parametrize(("first", "found"), [(b"/usr", b"/usr"), (b"/nonexistent", b"/etc")])
def test_a_call_may_stand_in_for_one_that_fails(code: int, first: bytes, found: bytes) -> None:
    calls = Calls()
    calls.add(nr.NR_chdir, first, flags=MAY_FAIL | ENDS_CHOICE)
    calls.add(nr.NR_chdir, b"/etc")
    pid, failure = execute(calls, f"[ $PWD = {found.decode()} ]").run(0, code)
    assert (failure, status_of(pid)) == (0, 0)


def test_what_is_not_put_in_place_is_closed(code: int) -> None:
    reading, writing = os.pipe()
    calls = Calls()
    calls.add(nr.NR_dup2, writing, 7)
    pid, failure = execute(calls, "echo through >&7").run(0, code)
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == b"through\n"
    assert (failure, status_of(pid)) == (0, 0)


def test_a_child_that_only_waits_does_not_hold_us_up(code: int) -> None:
    calls = Calls()
    calls.add(nr.NR_pause, flags=MAY_FAIL)
    calls.add(nr.NR_exit_group, 3)
    pid = calls.start(code)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
