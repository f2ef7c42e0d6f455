"""What a program under mrun starts, against a double of the daemon: each exec is a decision.

In the double shells, make and Python stay; all else goes, and its body runs on this machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stubs.home.run.front import STOPPING_SECONDS
from tests.kernel.mruns import DEADLINE_S, Bed, bed, wait_until
from tests.kernel.tracees import state_of

__all__ = ["bed"]


def bodies(bed: Bed) -> list[str]:
    """Return the programs whose bodies were started, in order."""
    lines = bed.logged("Spawn(body=")
    return [line.partition("exe=b'")[2].partition("'")[0].rpartition("/")[2] for line in lines]


def at_home(bed: Bed, script: str, **how: object) -> subprocess.CompletedProcess[bytes]:
    return bed.run("sh", "-c", script, node="home", **how)


def test_what_a_shell_starts_goes_and_the_shell_stays(bed: Bed) -> None:
    done = at_home(bed, "sleep 0; cat /etc/hostname > /dev/null; echo $(basename /a/b); (exit 3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"b\n", b"")
    assert bodies(bed) == ["sleep", "cat", "basename"]


def test_pipelines_of_home_and_bodies_are_as_without_mrun(bed: Bed) -> None:
    script = (
        "seq 1000 | (read x; echo $x; cat) | sort -rn | while read y; do echo $y; done | tail -1"
    )
    assert at_home(bed, script).stdout == b"1\n"
    assert {"seq", "sort", "tail"} <= set(bodies(bed))


@pytest.mark.parametrize("status", ["exit 7", "kill -TERM $$", "kill -SEGV $$"])
def test_a_parent_sees_the_status_of_its_body(bed: Bed, status: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/usr/bin/perl\nexec '/bin/sh', '-c', '{status}'\n")
    program.chmod(0o755)
    script = f"ulimit -c 0; {program}; echo $?"
    native = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    done = at_home(bed, script)
    assert done.stdout == native.stdout
    assert bodies(bed) == ["perl"]


def test_every_way_to_start_a_program_is_seen(bed: Bed) -> None:
    code = """
import ctypes, os, subprocess, threading
subprocess.run(["sleep", "0"])                                   # vfork
if os.fork() == 0: os.execv("/bin/sleep", ["sleep", "0"])        # fork
os.wait()
os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "0"], {}), 0)  # clone(CLONE_VM | CLONE_VFORK)
thread = threading.Thread(target=lambda: subprocess.run(["sleep", "0"]))
thread.start(); thread.join()
fd = os.open("/bin/sleep", os.O_RDONLY)
if os.fork() == 0: os.execve(fd, ["sleep", "0"], {})             # fexecve
os.wait()
def execute(): os.execv("/bin/sleep", ["sleep", "0"])            # by a thread
threading.Thread(target=execute).start()
threading.Event().wait()
"""
    assert bed.run(sys.executable, "-c", code, node="home").returncode == 0
    assert bodies(bed) == ["sleep"] * 6


def test_a_thousand_processes_leave_nothing_behind(bed: Bed, tmp_path: Path) -> None:
    # By the shell itself: a body would be one more.
    script = (
        "i=0; while [ $i -lt 1000 ]; do (:); i=$((i + 1)); done; set -- /proc/$PPID/fd/*; echo $#;"
        " while read name value _; do [ $name = VmRSS: ] && echo $value; done < /proc/$PPID/status"
    )
    few = at_home(bed, script.replace("1000", "10")).stdout.split()
    many = at_home(bed, script).stdout.split()
    # One more to the daemon, meanwhile, if this takes so long that the shell is made known to it.
    assert int(many[0]) <= int(few[0]) + 1
    assert int(many[1]) < int(few[1]) + 2000  # KiB


def test_what_is_killed_while_it_is_thought_about_takes_no_slot(bed: Bed) -> None:
    script = (
        "perl -e 'sleep 100' late & p=$!; echo $p;"
        " until grep -q ^perl /proc/$p/cmdline; do :; done;"
        " kill -KILL $p; wait $p; echo $?; sleep 2"
    )
    pid, status = at_home(bed, script).stdout.split()
    assert status == b"137"
    (ended,) = bed.logged(f"Ended(pid={int(pid)},")
    assert "wall_us=0" in ended


def test_jobs_in_the_background_are_waited_for_in_their_order(bed: Bed) -> None:
    script = "sleep 0.3 & a=$!; sleep 0.1 & b=$!; wait $b; echo b $?; wait $a; echo a $?"
    assert at_home(bed, script).stdout == b"b 0\na 0\n"
    assert bodies(bed) == ["sleep", "sleep"]


def test_a_reader_sees_the_end_when_a_body_ends(bed: Bed) -> None:
    done = at_home(bed, "seq 3 | cat; (sleep 0; echo x) | tail -1")
    assert done.stdout == b"1\n2\n3\nx\n"


def test_a_daemon_that_outlives_the_command_lives_on(bed: Bed, tmp_path: Path) -> None:
    trace = tmp_path / "pid"
    daemon = f"import os, time; open('{trace}', 'w').write(str(os.getpid())); time.sleep(100)"
    script = f'setsid {sys.executable} -c "{daemon}" & while ! [ -s {trace} ]; do :; done'
    mrun = bed.start("sh", "-c", script, node="home", stdout=subprocess.DEVNULL)
    assert mrun.wait(DEADLINE_S) == 0
    pid = int(trace.read_text())
    try:
        assert "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text()
        assert state_of(pid) == "S"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_body_that_outlives_its_parent_is_waited_for(bed: Bed) -> None:
    assert at_home(bed, "(sleep 0.3; echo late) & exit 4").returncode == 4
    mrun = bed.start("sh", "-c", "sleep 0.5 & exit 4", node="home", stdout=subprocess.PIPE)
    assert mrun.stdout is not None
    assert mrun.wait(DEADLINE_S) == 4
    assert mrun.stdout.read() == b""


def test_a_signal_to_a_child_reaches_its_body(bed: Bed) -> None:
    deputy = "while [ -e /proc/$p/fd/1 ]; do :; done"
    script = f"sleep 100 & p=$!; {deputy}; kill -USR1 $p; wait $p; echo $?"
    done = at_home(bed, script)
    assert done.stdout == b"138\n"
    assert bed.logged("signo=10, scope=0)")


def test_a_child_stops_and_goes_on(bed: Bed) -> None:
    code = """
import os, signal
pid = os.posix_spawn("/bin/sleep", ["sleep", "0.5"], {})
while os.listdir(f"/proc/{pid}/fd"): pass
os.kill(pid, signal.SIGSTOP)
print(os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]))
os.kill(pid, signal.SIGCONT)
print(os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1]))
print(os.waitpid(pid, 0)[1])
"""
    done = bed.run(sys.executable, "-uc", code, node="home")
    assert done.stdout == b"True\nTrue\n0\n", done.stderr


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_a_whole_tree(bed: Bed, signo: int) -> None:
    mrun = bed.start("sh", "-c", "sleep 100 | sleep 100", node="home", process_group=0)
    wait_until(lambda: len(bodies(bed)) == 2, "two bodies")
    os.killpg(mrun.pid, signo)
    assert mrun.wait(DEADLINE_S) == -signo
    wait_until(lambda: not bed.logged("no such line") and not children(), "no body is left")


def children() -> list[str]:
    done = subprocess.run(["pgrep", "-fx", "sleep 100"], capture_output=True, check=False)
    return done.stdout.split()


def test_a_signal_to_mrun_alone_reaches_its_program_alone(bed: Bed) -> None:
    script = "trap 'echo caught; exit 6' TERM; echo ready; while :; do sleep 0.05; done"
    mrun = bed.start("sh", "-c", script, node="home", stdout=subprocess.PIPE, process_group=0)
    assert mrun.stdout is not None
    assert mrun.stdout.readline() == b"ready\n"
    mrun.terminate()
    assert mrun.stdout.readline() == b"caught\n"
    assert mrun.wait(DEADLINE_S) == 6


def test_a_tree_stops_and_goes_on_with_mrun(bed: Bed) -> None:
    # By the shell alone: who waits in vfork(2) for a child that is stopped does not stop himself.
    script = "echo ready; read line; echo $line"
    mrun = bed.start(
        "sh", "-c", script, node="home", process_group=0, stdin=-1, stdout=subprocess.PIPE
    )
    assert mrun.stdin is not None
    assert mrun.stdout is not None
    assert mrun.stdout.readline() == b"ready\n"
    for _ in range(2):
        os.killpg(mrun.pid, signal.SIGTSTP)
        _, status = os.waitpid(mrun.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.killpg(mrun.pid, signal.SIGCONT)
        _, status = os.waitpid(mrun.pid, os.WCONTINUED)
        assert os.WIFCONTINUED(status)
    mrun.stdin.write(b"went on\n")
    mrun.stdin.close()
    assert mrun.stdout.readline() == b"went on\n"
    assert mrun.wait(DEADLINE_S) == 0


def test_mrun_goes_on_with_a_program_that_was_stopped_for_a_moment(bed: Bed) -> None:
    script = "echo $$; read line; echo $line"
    mrun = bed.start("sh", "-c", script, node="home", stdin=-1, stdout=subprocess.PIPE)
    assert mrun.stdin is not None
    assert mrun.stdout is not None
    program = int(mrun.stdout.readline())
    counted = 0
    while counted < 5:
        began = time.monotonic()
        os.kill(program, signal.SIGSTOP)
        # It stops for its tracer first, and then as a process does.
        wait_until(lambda: state_of(program) in "tT", "a program that stops")
        time.sleep(STOPPING_SECONDS / 4)
        os.kill(program, signal.SIGCONT)
        in_time = time.monotonic() - began < STOPPING_SECONDS / 2
        time.sleep(3 * STOPPING_SECONDS)
        stopped, _ = os.waitpid(mrun.pid, os.WUNTRACED | os.WNOHANG)
        # On a busy machine it was stopped for longer than a moment: mrun may have followed.
        assert not (stopped and in_time)
        counted += in_time
        if stopped:
            os.kill(mrun.pid, signal.SIGCONT)
            time.sleep(3 * STOPPING_SECONDS)
    mrun.stdin.write(b"went on\n")
    mrun.stdin.close()
    assert mrun.stdout.readline() == b"went on\n"
    assert mrun.wait(DEADLINE_S) == 0


def test_killing_mrun_leaves_nothing_of_the_tree(bed: Bed) -> None:
    mrun = bed.start("sh", "-c", "sleep 100 & sleep 100", node="home")
    wait_until(lambda: len(bodies(bed)) == 2, "two bodies")
    mrun.kill()
    mrun.wait()
    wait_until(lambda: not children(), "no sleeper is left")


def test_an_inner_mrun_has_the_outer_one_place_its_program(bed: Bed, tmp_path: Path) -> None:
    inner = f"{sys.executable} -m mlaunch.mrun"
    receipt = tmp_path / "receipt"
    script = f"{inner} -n double --stats {receipt} sh -c 'exit 5'; echo $?; {inner} -n home sleep 0"
    done = at_home(bed, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"5\n", b"")
    assert bodies(bed) == ["sh"]
    (body,) = json.loads(receipt.read_text())["bodies"]
    assert body["node"] == "double"
    assert json.loads(receipt.read_text())["exit"] == 5


def test_an_inner_mrun_that_cannot_have_its_node_fails(bed: Bed) -> None:
    inner = f"{sys.executable} -m mlaunch.mrun"
    done = at_home(
        bed, f"{inner} -n nobody true; echo $?; {inner} -n error --no-fallback true; echo $?"
    )
    assert done.stdout == b"125\n125\n"
    assert done.stderr.count(b"mrun: ") == 3


def test_a_body_that_nobody_noticed_is_started_again(bed: Bed, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("left\n")
    with given.open() as stdin:
        done = bed.run("cat", node="flaky", stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"left\n", b"")
    assert bodies(bed) == ["cat", "cat"]


def test_a_reader_sees_the_end_of_what_was_started_again(bed: Bed) -> None:
    mrun = f"{sys.executable} -m mlaunch.mrun -n flaky"
    done = at_home(bed, f"echo through | {mrun} cat | cat; echo ${{PIPESTATUS:-}}end")
    assert done.stdout == b"through\nend\n"


def test_a_reader_sees_the_end_of_what_runs_at_home_after_its_node_was_lost(bed: Bed) -> None:
    mrun = f"{sys.executable} -m mlaunch.mrun -n early"
    assert at_home(bed, f"{mrun} echo through | cat; echo end").stdout == b"through\nend\n"


def test_a_program_that_traces_others_is_left_alone(bed: Bed) -> None:
    if not shutil.which("strace"):
        pytest.skip("no strace here")
    done = at_home(bed, "strace -f -o /dev/null -e trace=none sh -c 'sleep 0; exit 3'")
    assert (done.returncode, done.stderr) == (3, b"")
    assert bodies(bed) == []


def test_the_receipt_tells_of_each_body(bed: Bed, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt"
    command = bed.command("sh", "-c", "sleep 0; sleep 0.0", node="home")
    at = command.index("-n")
    subprocess.run([*command[:at], "--stats", str(receipt), *command[at:]], env=bed.env, check=True)
    found = json.loads(receipt.read_text())
    assert [body["node"] for body in found["bodies"]] == ["double", "double", "home"]
    assert found["bodies"][1]["argv"] == ["sleep", "0.0"]
    assert [line for line in bed.logged("Ended(") if "away=1" in line]
