"""mrun against a double of everything behind its sockets (tests.kernel.double)."""

import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.double import HASTY_STATUS
from tests.kernel.mruns import DEADLINE_S, Bed, bed, wait_until
from tests.kernel.tracees import state_of

__all__ = ["bed"]

FORWARDED = [
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGRTMIN + 3,
]


def test_output_and_status_are_the_programs(bed: Bed) -> None:
    done = bed.run("sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    assert bed.logged("Spawn(")


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 128, 255])
def test_every_status_arrives(bed: Bed, code: int) -> None:
    assert bed.run("sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("signo", [*FORWARDED, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_mrun_dies_by_the_signal_of_the_program(bed: Bed, signo: int, tmp_path: Path) -> None:
    program = ("sh", "-c", f"ulimit -c 0; kill -{int(signo)} $$")
    assert bed.run(*program, cwd=tmp_path).returncode == -signo


@pytest.mark.parametrize("signo", FORWARDED)
def test_a_signal_to_mrun_reaches_the_body_alone(bed: Bed, signo: int) -> None:
    mrun = bed.start("sleep", "100", process_group=0)
    bed.deputy()
    mrun.send_signal(signo)
    assert mrun.wait(DEADLINE_S) == -signo
    assert [line.split(", ", 1)[1] for line in bed.logged("Signal(")] == [
        f"signo={int(signo)}, scope=0)"
    ]


@pytest.mark.parametrize("signo", FORWARDED)
def test_a_signal_to_the_group_comes_once(bed: Bed, signo: int) -> None:
    mrun = bed.start("sleep", "100", process_group=0)
    bed.deputy()
    os.killpg(mrun.pid, signo)
    assert mrun.wait(DEADLINE_S) == -signo
    assert [line.split(", ", 1)[1] for line in bed.logged("Signal(")] == [
        f"signo={int(signo)}, scope=1)"
    ]


def test_a_signal_to_the_deputy_reaches_the_body(bed: Bed) -> None:
    mrun = bed.start("sleep", "100", process_group=0)
    os.kill(bed.deputy(), signal.SIGTERM)
    assert mrun.wait(DEADLINE_S) == -signal.SIGTERM
    assert bed.logged("signo=15, scope=0)")


def test_who_kills_the_deputy_kills_the_body(bed: Bed) -> None:
    mrun = bed.start("sleep", "100")
    os.kill(bed.deputy(), signal.SIGKILL)
    assert mrun.wait(DEADLINE_S) == -signal.SIGKILL
    assert bed.logged("Kill(")


def test_who_kills_mrun_leaves_nothing(bed: Bed) -> None:
    mrun = bed.start("sleep", "100")
    deputy = bed.deputy()
    mrun.kill()
    mrun.wait()
    wait_until(lambda: bed.logged("mrun gone"), "the link's notice")
    wait_until(lambda: not os.path.exists(f"/proc/{deputy}"), "the deputy's end")


def test_a_program_that_handles_a_signal_goes_on(bed: Bed) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    mrun = bed.start("sh", "-c", script, stdout=subprocess.PIPE)
    assert mrun.stdout is not None
    assert mrun.stdout.readline() == b"ready\n"
    mrun.terminate()
    assert mrun.stdout.readline() == b"caught\n"
    assert mrun.wait(DEADLINE_S) == 7


@pytest.mark.parametrize("to_group", [False, True])
def test_stops_and_continuations_are_mirrored(bed: Bed, to_group: bool) -> None:
    # A process group that is not orphaned: its leader's parent, the test, is in another.
    mrun = bed.start("sleep", "100", process_group=0)
    deputy = bed.deputy()
    send = os.killpg if to_group else os.kill
    for _ in range(2):
        send(mrun.pid, signal.SIGTSTP)
        _, status = os.waitpid(mrun.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert os.WSTOPSIG(status) == signal.SIGTSTP
        send(mrun.pid, signal.SIGCONT)
        _, status = os.waitpid(mrun.pid, os.WCONTINUED)
        assert os.WIFCONTINUED(status)
        wait_until(lambda: state_of(deputy) == "S", "a deputy that goes on")
    send(mrun.pid, signal.SIGTERM)
    assert mrun.wait(DEADLINE_S) == -signal.SIGTERM
    scope = int(to_group)
    sent = [line.split("signo=")[1] for line in bed.logged("Signal(")]
    once = [f"20, scope={scope})", f"18, scope={scope})"]
    assert sent == [*once, *once, f"15, scope={scope})"]


def test_an_orphaned_group_does_not_stop(bed: Bed) -> None:
    mrun = bed.start("sleep", "100", start_new_session=True)
    bed.deputy()
    mrun.send_signal(signal.SIGTSTP)
    # The body stops all the same, as its group is not orphaned: it is told to go on.
    wait_until(lambda: bed.logged("signo=18"), "a continuation")
    mrun.terminate()
    assert mrun.wait(DEADLINE_S) == -signal.SIGTERM


def test_a_background_reader_is_stopped_as_a_terminal_would(bed: Bed) -> None:
    mrun = bed.start("sleep", "100", process_group=0, node="background")
    _, status = os.waitpid(mrun.pid, os.WUNTRACED)
    assert os.WSTOPSIG(status) == signal.SIGTTIN
    assert bed.logged("signo=21, scope=1)")
    os.killpg(mrun.pid, signal.SIGKILL)
    mrun.wait()


def test_a_signal_before_the_decision_ends_the_program(bed: Bed, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    mrun = bed.start("touch", str(trace), node="waiting")
    wait_until(lambda: bed.logged("Place("), "the question")
    mrun.send_signal(signal.SIGINT)
    assert mrun.wait(DEADLINE_S) == -signal.SIGINT
    assert not trace.exists()


def test_an_ignored_signal_before_the_decision_is_ignored(bed: Bed) -> None:
    command = ["nohup", *bed.command("sleep", "100", node="waiting")]
    mrun = subprocess.Popen(command, env=bed.env, stdout=subprocess.DEVNULL, stderr=-3)
    wait_until(lambda: bed.logged("Place("), "the question")
    mrun.send_signal(signal.SIGHUP)
    mrun.send_signal(signal.SIGTERM)
    assert mrun.wait(DEADLINE_S) == -signal.SIGTERM


def test_a_reader_sees_the_end_when_the_program_closes_its_output(bed: Bed) -> None:
    script = "echo x; exec >&-; exec sleep 100"
    mrun = bed.start("sh", "-c", script, stdout=subprocess.PIPE)
    assert mrun.stdout is not None
    assert mrun.stdout.read() == b"x\n"
    assert mrun.poll() is None
    mrun.terminate()
    mrun.wait(DEADLINE_S)


def test_standard_error_is_let_go_of_when_the_body_closed_it(bed: Bed) -> None:
    script = "exec 2>&-; exec sleep 100"
    mrun = bed.start("sh", "-c", script, stderr=subprocess.PIPE, node="quiet")
    assert mrun.stderr is not None
    assert mrun.stderr.read() == b""
    assert mrun.poll() is None
    mrun.terminate()
    mrun.wait(DEADLINE_S)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("node", ["double", "none", "home"])
def test_closed_descriptors_stay_closed(bed: Bed, closed: str, node: str, tmp_path: Path) -> None:
    listing = tmp_path / "listing"
    program = (
        f"import os; open({str(listing)!r}, 'w').write(str(sorted(os.listdir('/proc/self/fd'))))"
    )
    words = [sys.executable, "-S", "-c", program]
    native = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], check=True)
    expected = listing.read_text()
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *bed.command(*words, node=node)]
    done = subprocess.run(shell, env=bed.env, check=False)
    assert done.returncode == native.returncode
    assert listing.read_text() == expected


def test_what_is_left_on_standard_input_is_for_the_next(bed: Bed) -> None:
    script = 'printf "1\\n2\\n3\\n" | { "$@" sh -c "read x; echo got \\$x"; cat; }'
    command = ["sh", "-c", script, "sh", *bed.command()]
    done = subprocess.run(command, env=bed.env, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"got 1\n2\n3\n"
    assert bed.logged("exclusive=[] fds=")


def test_a_pipe_of_ones_own_may_be_read_ahead(bed: Bed) -> None:
    assert bed.run("cat", input=b"data").stdout == b"data"
    assert bed.logged("exclusive=[0]")


def test_the_environment_is_that_of_mrun(bed: Bed) -> None:
    env = {**bed.env, "ODD": "x\ny", "LC_ALL": "C"}
    native = subprocess.run(["env"], env=env, stdout=subprocess.PIPE, check=True).stdout
    for node in ("double", "home"):
        assert bed.run("env", node=node, env=env).stdout == native


def test_masks_and_dispositions_are_those_of_mrun(bed: Bed) -> None:
    code = (
        "import os, signal, sys;"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]);"
        "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGUSR2, signal.SIGCHLD)];"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.signal(signal.SIGXFSZ, 0);"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    show = ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    started = [sys.executable, "-c", code]
    native = subprocess.run([*started, *show], stdout=subprocess.PIPE, check=True).stdout
    for node in ("double", "none", "home"):
        command = [*started, *bed.command(*show, node=node)]
        done = subprocess.run(command, env=bed.env, stdout=subprocess.PIPE, check=True)
        assert done.stdout == native


def test_a_lost_node_is_said_in_one_line(bed: Bed) -> None:
    done = bed.run("sleep", "100", node="lose")
    line = b"mrun: node double was lost (cable pulled); sleep was running there\n"
    assert (done.returncode, done.stderr) == (125, line)


def test_a_lost_link_process_is_said_in_one_line(bed: Bed) -> None:
    done = bed.run("sleep", "100", node="crash")
    assert done.returncode == 125
    assert done.stderr.startswith(b"mrun: node double was lost (")
    assert done.stderr.count(b"\n") == 1


def test_a_write_that_failed_unnoticed_is_said(bed: Bed) -> None:
    done = bed.run("true", node="full")
    assert done.returncode == 125
    assert b"/disk/file: No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_refusal_is_passed_on(bed: Bed) -> None:
    done = bed.run("true", node="nobody")
    assert (done.returncode, done.stderr) == (
        125,
        b"mrun: no node nobody\nmrun: to add it: do so\n",
    )


def test_a_node_that_cannot_run_it_leaves_the_program_whole(bed: Bed) -> None:
    done = bed.run("sh", "-c", "echo ran; exit 3", node="error")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"ran\n", b"")


def test_without_fallback_nothing_runs_at_home(bed: Bed) -> None:
    command = [sys.executable, "-m", "mlaunch.mrun", "--no-fallback", "-n", "error", "echo", "ran"]
    done = subprocess.run(command, env=bed.env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == (
        b"mrun: echo cannot run on a node: the node refuses it: the double refuses\n"
    )


def test_a_program_that_cannot_move_runs_at_home_and_says_why(bed: Bed) -> None:
    fd = os.eventfd(0)
    command = [sys.executable, "-m", "mlaunch.mrun", "-v", "-n", "double", "echo", "ran"]
    done = subprocess.run(
        command, env=bed.env, capture_output=True, check=False, pass_fds=[fd], close_fds=True
    )
    os.close(fd)
    assert done.stdout == b"ran\n"
    assert done.stderr == (
        f"mrun: echo runs at home: it cannot be moved: fd {fd} is an eventfd\n".encode()
    )


@pytest.mark.parametrize("movable", [True, False])
@pytest.mark.parametrize("node", ["double", "error", "none", "home"])
def test_what_nobody_reads_of_mruns_own_words_harms_no_program(
    bed: Bed, node: str, movable: bool
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    fd = os.eventfd(0)
    command = [sys.executable, "-m", "mlaunch.mrun", "-v", "-n", node, "sh", "-c", "exit 3"]
    passed = [] if movable else [fd]
    done = subprocess.run(
        command, env=bed.env, stderr=writing, check=False, pass_fds=passed, timeout=DEADLINE_S
    )
    os.close(writing)
    os.close(fd)
    assert done.returncode == 3


@pytest.mark.parametrize("node", ["double", "home"])
def test_a_program_that_is_not_there_is_told_as_by_a_shell(bed: Bed, node: str) -> None:
    done = bed.run("no-such-program", node=node)
    assert (done.returncode, done.stderr) == (127, b"mrun: no-such-program: command not found\n")
    done = bed.run("/etc/passwd", node=node)
    assert (done.returncode, done.stderr) == (126, b"mrun: /etc/passwd: Permission denied\n")


def test_no_daemon_and_none_to_be_had_means_home(bed: Bed, tmp_path: Path) -> None:
    env = {**bed.env, "XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path / "nowhere")}
    command = [sys.executable, "-m", "mlaunch.mrun", "-v", "echo", "ran"]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    assert done.stderr.startswith(b"mrun: echo runs at home: no home daemon: ")


# receipts


def receipt(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the receipt, and the only body in it."""
    value = json.loads(path.read_text())
    assert set(value) == {"exit", "signal", "wall_s", "bodies"}
    (body,) = value["bodies"]
    return value, body


def test_the_receipt_of_a_body(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    path.write_text("old")
    command = [sys.executable, "-m", "mlaunch.mrun", "--stats", str(path), "-n", "double"]
    subprocess.run([*command, "sh", "-c", "exit 5"], env=bed.env, check=False)
    found, body = receipt(path)
    assert (found["exit"], found["signal"]) == (5, None)
    assert set(body) == {
        *("pid", "argv", "node", "wall_s", "cpu_s", "round_trips", "bytes_to_node"),
        *("bytes_to_home", "restarts", "migrations", "why"),
    }
    assert body["argv"] == ["sh", "-c", "exit 5"]
    assert (body["node"], body["round_trips"], body["bytes_to_home"]) == ("double", 7, 9)
    assert [name.name for name in tmp_path.iterdir() if "part" in name.name] == []


def test_the_receipt_of_a_run_at_home(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "receipt"
    command = [sys.executable, "-m", "mlaunch.mrun", "--stats", str(path), "-n", "home"]
    code = "import os; sum(range(10**6)); os.kill(os.getpid(), 15)"
    done = subprocess.run([*command, sys.executable, "-c", code], env=bed.env, check=False)
    assert done.returncode == -signal.SIGTERM
    found, body = receipt(path)
    assert (found["exit"], found["signal"]) == (None, signal.SIGTERM)
    assert (body["node"], body["why"]) == ("home", "asked for")
    assert body["cpu_s"] > 0


@pytest.mark.parametrize("where", ["/no/such/directory/receipt", "/proc/receipt", "/"])
def test_a_receipt_that_cannot_be_written_stops_the_run(bed: Bed, where: str) -> None:
    command = [sys.executable, "-m", "mlaunch.mrun", "--stats", where, "-n", "home", "echo", "ran"]
    done = subprocess.run(command, env=bed.env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(f"mrun: {where}: ".encode())


def test_a_receipt_can_go_to_a_pipe(bed: Bed) -> None:
    command = [sys.executable, "-m", "mlaunch.mrun", "--stats", "/dev/stderr", "-n", "double"]
    done = subprocess.run([*command, "true"], env=bed.env, capture_output=True, check=True)
    assert json.loads(done.stderr)["exit"] == 0


def test_stops_at_home_with_a_receipt_are_mirrored(bed: Bed, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlaunch.mrun", "--stats", str(tmp_path / "r"), "-n", "home"]
    mrun = subprocess.Popen(
        [*command, "sh", "-c", "kill -TSTP $$; exit 6"], env=bed.env, process_group=0
    )
    _, status = os.waitpid(mrun.pid, os.WUNTRACED)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    mrun.send_signal(signal.SIGCONT)
    assert mrun.wait(DEADLINE_S) == 6


# a terminal


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, bed: Bed) -> None:
        self.seen = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            env = {**bed.env, "PS1": "<ready>", "TERM": "dumb"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], env)
        self.expect(b"<ready>")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: bytes) -> None:
        """Wait until `text` is shown, and forget everything up to it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture
def shell(bed: Bed) -> Iterator[Shell]:
    shell = Shell(bed)
    yield shell
    shell.close()


def test_keys_of_a_terminal_reach_the_bodys_group_once(bed: Bed, shell: Shell) -> None:
    shell.type(shlex.join(bed.command("sleep", "100")) + "\n")
    bed.deputy()
    shell.type("\x03")
    shell.expect(b"<ready>")
    shell.type("echo status=$?\n")
    shell.expect(b"status=130")
    assert [line.split(", ", 1)[1] for line in bed.logged("Signal(")] == ["signo=2, scope=1)"]


def test_job_control(bed: Bed, shell: Shell) -> None:
    shell.type(shlex.join(bed.command("sleep", "100")) + "\n")
    deputy = bed.deputy()
    shell.type("\x1a")
    shell.expect(b"Stopped")
    shell.expect(b"<ready>")
    shell.type("fg\n")
    wait_until(lambda: bed.logged("signo=18, scope=1)"), "a continuation of the group")
    wait_until(lambda: state_of(deputy) == "S", "a deputy that goes on")
    shell.type("\x1a")
    shell.expect(b"Stopped")
    shell.expect(b"<ready>")
    shell.type("bg\n")
    shell.expect(b"<ready>")
    shell.type("kill %1; wait %1; echo status=$?\n")
    shell.expect(b"status=143")


def test_a_terminal_is_captured_and_its_size_followed(bed: Bed, shell: Shell) -> None:
    subprocess.run(["stty", "rows", "33", "cols", "77"], stdin=shell.master, check=True)
    shell.type(shlex.join(bed.command("sleep", "100")) + "\n")
    bed.deputy()
    (spawned,) = bed.logged("Spawn(")
    assert "rows=33, columns=77" in spawned
    assert "termios=b''" not in spawned
    subprocess.run(["stty", "rows", "44", "cols", "88"], stdin=shell.master, check=True)
    wait_until(lambda: bed.logged("rows=44, columns=88"), "the new size")
    assert not bed.logged(f"signo={int(signal.SIGWINCH)}")


@pytest.mark.parametrize("limit", [5, 9, 13])
def test_where_mrun_cannot_open_enough_the_program_runs_at_home(bed: Bed, limit: int) -> None:
    shell = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    command = [*shell, *bed.command("sh", "-c", "echo ran; exit 4")]
    done = subprocess.run(command, env=bed.env, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, b"ran\n", b"")


def test_a_program_killed_before_its_first_instruction_is_killed(bed: Bed) -> None:
    mrun = bed.start("sleep", "100", node="waiting")
    (asked,) = wait_until(lambda: bed.logged("Place("), "the question")
    os.kill(int(asked.partition("pid=")[2].partition(",")[0]), signal.SIGKILL)
    # Seen when the answer comes, or when mrun is told to end.
    mrun.terminate()
    assert mrun.wait(DEADLINE_S) == -signal.SIGTERM


def test_a_32_bit_program_runs_at_home(bed: Bed, tmp_path: Path) -> None:
    program = tmp_path / "program"
    code = b"\xb8\x01\x00\x00\x00\xbb\x07\x00\x00\x00\xcd\x80"  # exit(7) by int 0x80
    size = 52 + 32 + len(code)
    fields = (2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = (1, 0, 0x8048000, 0x8048000, size, size, 5, 0x1000)
    header = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", *fields)
    program.write_bytes(header + struct.pack("<8I", *segment) + code)
    program.chmod(0o755)
    try:
        native = subprocess.run([str(program)], check=False).returncode
    except OSError as error:
        pytest.skip(f"no 32-bit programs on this kernel: {error}")
    assert bed.run(str(program)).returncode == native == 7
    assert not bed.logged("Spawn(")


def test_help_that_cannot_be_written_is_an_error(bed: Bed) -> None:
    command = [sys.executable, "-m", "mlaunch.mrun", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=bed.env, stdout=full, stderr=-1, check=False)
    assert (done.returncode, done.stderr) == (
        125,
        b"mrun: standard output: No space left on device\n",
    )


def test_what_ends_before_it_is_told_to_go_on_elsewhere_has_ended(bed: Bed) -> None:
    done = bed.run("sleep", "100", node="moving")
    assert (done.returncode, done.stderr) == (HASTY_STATUS, b"")
