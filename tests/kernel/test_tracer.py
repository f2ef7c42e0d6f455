import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stubs.abi.signalfd import sigset
from stubs.home.run.launch import Child, ExecError, Given, execute
from stubs.home.run.proc import read_status, read_strings
from stubs.home.run.tracer import Tracee
from tests.kernel.mruns import ROOT, wait_until
from tests.kernel.tracees import Launch, end_of, given, launch, state_of

__all__ = ["given", "launch"]


def test_the_program_stands_before_its_first_instruction(launch: Launch, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    tracee = launch("touch", str(trace))
    assert read_strings(tracee.pid, "cmdline") == [b"touch", os.fsencode(trace)]
    assert os.path.samefile(f"/proc/{tracee.pid}/exe", "/usr/bin/touch")
    tracee.kill()
    assert not trace.exists()


def test_an_interpreter_is_there_already(launch: Launch, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\nexit 3\n")
    script.chmod(0o755)
    tracee = launch(str(script), "word")
    words = [b"/bin/sh", b"-e", os.fsencode(script), b"word"]
    assert read_strings(tracee.pid, "cmdline") == words


def test_a_signal_during_launch_is_not_lost(given: Given) -> None:
    child = Child([b"sleep", b"100"], given)
    os.kill(child.pid, signal.SIGINT)
    child.release(traced=False)
    assert end_of(child.pid) == signal.SIGINT
    child.failure()


def test_python_leaves_no_trace_in_the_dispositions(launch: Launch) -> None:
    tracee = launch("true")
    ignored = int(read_status(tracee.pid)["SigIgn"], 16)
    assert not ignored & sigset([signal.SIGPIPE, signal.SIGXFSZ])


def test_a_tracee_killed_early_is_reported_dead(launch: Launch) -> None:
    tracee = launch("true")
    os.kill(tracee.pid, signal.SIGKILL)
    assert tracee.wait() is None
    assert tracee.status == signal.SIGKILL


def test_children_die_with_mrun() -> None:
    code = (
        "import os; from stubs.home.run.launch import *; g = Given();"
        "c = Child([b'sleep', b'100'], g); c.release(False); c.failure();"
        "print(c.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    # A zombie at most, until init has reaped it.
    wait_until(lambda: is_dead(child), "the child's end")


def is_dead(pid: int) -> bool:
    try:
        return state_of(pid) == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("mode", [0o4755, 0o2755])
def test_programs_that_change_user_or_group_are_known(
    launch: Launch, tmp_path: Path, mode: int
) -> None:
    program = tmp_path / "true"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    assert not launch(str(program)).gains_privileges()
    other = 1 if os.geteuid() == 0 else None
    if other is None:
        pytest.skip("only root can make a set-user-ID program of another user")
    os.chown(program, other, other)
    program.chmod(mode)
    assert launch(str(program)).gains_privileges()


def fails(given: Given, *words: str, path: str | None = None) -> ExecError:
    if path is not None:
        environment = [e for e in given.environment if not e.startswith(b"PATH=")]
        given.environment = [*environment, b"PATH=" + os.fsencode(path)]
    child = Child([os.fsencode(word) for word in words], given)
    child.release(traced=False)
    failed = child.failure()
    end_of(child.pid)
    assert failed is not None
    return failed


def test_what_cannot_be_run_is_told_as_a_shell_tells_it(given: Given, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("true\n")
    script = tmp_path / "script"
    script.write_text("#!/no/such/shell\n")
    script.chmod(0o755)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\x7fELF\x02\x01\x01\0\n" + bytes(100))
    binary.chmod(0o755)
    expected = {
        "no-such-program": (127, "no-such-program: command not found"),
        "": (127, ": command not found"),
        "./no-such": (127, "./no-such: No such file or directory"),
        str(plain): (126, f"{plain}: Permission denied"),
        str(tmp_path): (126, f"{tmp_path}: Is a directory"),
        f"{plain}/x": (126, f"{plain}/x: {os.strerror(errno.ENOTDIR)}"),
        str(script): (127, f"{script}: bad interpreter: No such file or directory"),
        str(binary): (126, f"{binary}: cannot execute binary file: Exec format error"),
    }
    for word, (status, text) in expected.items():
        failed = fails(given, word)
        assert (failed.status, os.fsdecode(failed.text)) == (status, text)


def test_the_path_is_searched_as_execvp_does(given: Given, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "tool").mkdir()
    (tmp_path / "second" / "tool").write_text("exit 4\n")
    path = f"/no/such:{tmp_path}/first:{tmp_path}/second"
    failed = fails(given, "tool", path=path)
    assert (failed.status, failed.text) == (126, b"tool: Permission denied")
    (tmp_path / "third" / "tool").write_text('exit "$1"\n')
    (tmp_path / "third" / "tool").chmod(0o755)
    given.environment = [b"PATH=" + os.fsencode(f"{path}:{tmp_path}/third")]
    # No #!: the shell runs it.
    child = Child([b"tool", b"5"], given)
    child.release(traced=False)
    assert child.failure() is None
    assert os.waitstatus_to_exitcode(end_of(child.pid)) == 5


def test_the_environment_is_passed_on_to_the_byte(given: Given, launch: Launch) -> None:
    odd = [b"A=1", b"A=2", b"without", b"=", b"B=\xff\n", b"PATH=/usr/bin:/bin"]
    given.environment = odd
    assert read_strings(launch("true").pid, "environ") == odd


def test_exec_without_a_program_raises() -> None:
    with pytest.raises(ExecError):
        execute([b"no-such-program"], [])


def test_who_is_traced_already_cannot_be_seized(launch: Launch) -> None:
    with pytest.raises(PermissionError):
        Tracee(launch("true").pid)
