from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from stubs.abi.signalfd import sigset
from stubs.wire.codec import Descriptor
from stubs.wire.messages import (
    FD_DEVICE,
    FD_FILE,
    FD_STREAM_OUT,
    SCOPE_GROUP,
    SCOPE_PROCESS,
    Continued,
    Exited,
    Gone,
    Measure,
    Measured,
    Position,
    Signal,
    Spawned,
    Stopped,
    StreamEnd,
)
from tests.kernel.nodebed import (
    PARENT,
    PID,
    SESSION,
    Bed,
    bed,
    home,
    needs_root,
    refused,
    shared_bed,
    stream,
)

__all__ = ["bed", "home", "shared_bed"]

pytestmark = needs_root

USER = 1234


def sh(bed: Bed, script: str, **fields: object) -> tuple[int, str]:
    status, output = bed.run("bash", "-c", script, **fields)
    return status, output.decode()


# who it is


def test_a_body_has_the_pid_and_the_family_that_it_has_at_home(bed: Bed) -> None:
    _, output = sh(bed, "read -a x </proc/self/stat; echo $$ $PPID; cat /proc/$$/stat")
    first, second = output.splitlines()
    assert first.split() == [str(PID), str(PARENT)]
    fields = second.rsplit(")", 1)[1].split()
    assert fields[1:4] == [str(PARENT), str(PARENT), str(SESSION)]


@pytest.mark.parametrize(
    ("body", "ppid", "pgrp", "sid"),
    [
        (5013, 5010, 5010, 5010),  # mrun leads the session
        (5113, 5110, 5113, 5100),  # the body leads its group
        (5213, 5210, 5205, 5200),  # another process leads the group
        (5313, 5310, 5300, 5300),  # the group of the session's leader
    ],
)
def test_families_of_every_shape(bed: Bed, body: int, ppid: int, pgrp: int, sid: int) -> None:
    status, output = sh(bed, "cat /proc/$$/stat", body=body, ppid=ppid, pgrp=pgrp, sid=sid)
    assert status == 0
    fields = output.rsplit(")", 1)[1].split()
    assert fields[1:4] == [str(ppid), str(pgrp), str(sid)]


def test_bodies_of_one_parent_run_side_by_side(bed: Bed) -> None:
    for body in (6001, 6002, 6003):
        assert bed.spawn("sleep", "100", body=body) == Spawned(body)
    for body in (6001, 6002, 6003):
        bed.link.post(Signal(body, signal.SIGTERM, SCOPE_PROCESS))
        assert bed.wait_for(Exited, body=body).status == signal.SIGTERM
    for body in (6001, 6002, 6003):
        bed.wait_for(Gone, body=body)


def test_a_body_whose_pid_is_taken_gets_another(bed: Bed) -> None:
    # The ghost of the session has that pid.
    answer = bed.spawn("true", body=SESSION)
    assert isinstance(answer, Spawned)
    assert answer.pid != SESSION
    bed.wait_for(Gone, body=SESSION)


def test_the_same_pids_can_be_used_again_at_once(bed: Bed) -> None:
    for _ in range(5):
        assert sh(bed, "echo $$ $PPID")[1].split() == [str(PID), str(PARENT)]


def test_children_take_pids_that_home_does_not_have(bed: Bed) -> None:
    _, output = sh(bed, "bash -c 'echo $$'; true")
    assert int(output) > 32768


# what it is given


def test_arguments_and_environment_arrive_byte_for_byte(bed: Bed) -> None:
    strings = [b"A=1", b"A=2", b"novalue", b"B=\xff\xfe\n", b"=", b"PATH=/bin"]
    _, output = bed.run("cat", "/proc/self/environ", env=strings)
    assert output == b"".join(word + b"\0" for word in strings)
    _, output = bed.run("cat", "/proc/self/cmdline")
    assert output == b"cat\0/proc/self/cmdline\0"
    _, output = bed.run("bash", "-c", 'printf "%s|" "$@"', b"x\xff", b"", b"a b\n")
    assert output == b"|a b\n|"


def test_umask_directory_and_nice_value(bed: Bed) -> None:
    _, output = sh(bed, "umask; pwd; cat /proc/$$/stat", umask=0o137, cwd=b"/tmp", nice=7)
    mask, directory, stat = output.splitlines()
    assert (mask, directory) == ("0137", "/tmp")
    assert stat.rsplit(")", 1)[1].split()[16] == "7"


def test_blocked_and_ignored_signals(bed: Bed) -> None:
    blocked = sigset([signal.SIGUSR1, signal.SIGRTMIN + 3])
    ignored = sigset([signal.SIGHUP, signal.SIGPIPE])
    _, output = bed.run("cat", "/proc/self/status", blocked=blocked, ignored=ignored)
    found = dict(line.split(":\t", 1) for line in output.decode().splitlines() if ":\t" in line)
    assert int(found["SigBlk"], 16) == blocked
    assert int(found["SigIgn"], 16) == ignored
    assert int(found["SigCgt"], 16) == 0
    assert found["NoNewPrivs"] == "0"
    _, output = bed.run("cat", "/proc/self/status")
    assert b"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000" in output


def test_limits(bed: Bed) -> None:
    limits: list[int] = []
    for number in range(16):
        soft, hard = resource.getrlimit(number)
        limits += [soft & 0xFFFFFFFFFFFFFFFF, hard & 0xFFFFFFFFFFFFFFFF]
    limits[2 * resource.RLIMIT_NOFILE : 2 * resource.RLIMIT_NOFILE + 2] = [77, 99]
    limits[2 * resource.RLIMIT_CORE : 2 * resource.RLIMIT_CORE + 2] = [0, 4096]
    _, output = sh(bed, "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc", limits=limits)
    assert output.split() == ["77", "99", "0", "4"]


def test_a_user_has_no_capabilities_and_root_looks_like_root(home: Path) -> None:
    for node_uid, home_uid, none in ((USER, USER, True), (0, USER, True), (USER, 0, False)):
        bed = Bed(home, home_uid=home_uid, node_uid=node_uid)
        try:
            status, output = sh(bed, "id -u; id -g; grep() { :; }; cat /proc/self/status")
            assert status == 0
            assert output.split()[:2] == [str(home_uid)] * 2
            effective = next(line for line in output.splitlines() if line.startswith("CapEff"))
            inherited = next(line for line in output.splitlines() if line.startswith("CapInh"))
            assert (int(effective.split()[1], 16) == 0) is none
            assert int(inherited.split()[1], 16) == 0
        finally:
            bed.close()


# what it has open


def test_a_body_has_the_descriptors_given_and_no_others(bed: Bed) -> None:
    null = Descriptor(7, FD_DEVICE, os.makedev(1, 3), os.O_RDWR, 0, -1, b"/dev/null")
    script = "for i in {0..99}; do [ /proc/$$/fd/$i -ef /proc/$$/fd/$i ] && echo $i; done; "
    script += "[ /proc/$$/fd/7 -ef /dev/null ] && [ /proc/$$/fd/1 -ef /proc/$$/fd/2 ] && echo same"
    assert sh(bed, script, descriptors=[null]) == (0, "1\n2\n7\nsame\n")


def test_an_inherited_file_goes_on_where_it_was_and_tells_where_it_got_to(
    bed: Bed, home: Path
) -> None:
    path = home / "desk" / "input"
    path.write_bytes(b"0123456789")
    attr = bed.files.resolve(b"/desk/input")
    file = Descriptor(0, FD_FILE, attr.id, os.O_RDONLY, 3, -1, b"/desk/input")
    status, output = bed.run("bash", "-c", "head -c 4", descriptors=[file])
    assert (status, output) == (0, b"3456")
    assert bed.wait_for(Position, fd=0).offset == 7


def test_bodies_are_measured_while_they_exec(bed: Bed, home: Path) -> None:
    # Each exec closes files of the view, and waits for the agent's answers with what /proc/PID/stat
    # waits for: an agent that reads that itself would wait for a program that waits for it.
    (home / "desk" / "input").write_bytes(b"0123456789")
    again = (
        "my ($code, $left) = @ARGV; exit 0 unless $left;"
        'open($file[$_], "<", "/desk/input") or die for 1 .. 40;'
        'exec "perl", "-e", $code, $code, $left - 1;'
    )
    assert isinstance(bed.spawn("perl", "-e", again, again, "150"), Spawned)
    measured = 0
    while not bed.all(Exited):
        answer = bed.ask(Measure())
        assert isinstance(answer, Measured)
        measured += sum(usage.body == PID for usage in answer.usages)
    assert bed.wait_for(Exited).status == 0
    assert measured > 10


def test_descriptors_that_share_an_open_file_share_its_offset(bed: Bed, home: Path) -> None:
    path = home / "desk" / "log"
    path.write_bytes(b"before\n")
    attr = bed.files.resolve(b"/desk/log")
    one = Descriptor(5, FD_FILE, attr.id, os.O_WRONLY, 7, -1, b"/desk/log")
    two = Descriptor(6, FD_FILE, attr.id, os.O_WRONLY, 7, 5, b"/desk/log")
    status, _ = sh(bed, "echo a >&5; echo b >&6; echo c >&5", descriptors=[one, two])
    assert status == 0
    assert path.read_bytes() == b"before\na\nb\nc\n"
    assert [(each.fd, each.offset) for each in bed.all(Position)] == [(5, 13)]


def test_append_flag_is_kept(bed: Bed, home: Path) -> None:
    path = home / "desk" / "appended"
    path.write_bytes(b"x" * 10)
    attr = bed.files.resolve(b"/desk/appended")
    file = Descriptor(1, FD_FILE, attr.id, os.O_WRONLY | os.O_APPEND, 0, -1, b"/desk/appended")
    assert bed.spawn("bash", "-c", "echo end", descriptors=[file]) == Spawned(PID)
    bed.wait_for(Gone)
    assert path.read_bytes() == b"x" * 10 + b"end\n"


def test_a_file_whose_name_is_gone_is_inherited_all_the_same(bed: Bed, home: Path) -> None:
    path = home / "desk" / "unlinked"
    path.write_bytes(b"still here\n")
    fd = os.open(path, os.O_RDONLY)
    try:
        attr = bed.files.adopt(fd)
        path.unlink()
        file = Descriptor(0, FD_FILE, attr.id, os.O_RDONLY, 0, -1, b"/desk/unlinked (deleted)")
        assert bed.run("cat", descriptors=[file]) == (0, b"still here\n")
    finally:
        os.close(fd)


# how it starts and ends


@pytest.mark.parametrize(
    ("exe", "mode", "content", "expected"),
    [
        (b"/bin/missing", None, b"", errno.ENOENT),
        (b"/desk/plain", 0o644, b"#!/bin/bash\n", errno.EACCES),
        (b"/desk/garbage", 0o755, b"\x7fELF" + bytes(100), errno.ENOEXEC),
        (b"/tmp", None, b"", errno.EACCES),
    ],
)
def test_what_cannot_be_executed_is_refused_with_its_errno(
    bed: Bed, home: Path, exe: bytes, mode: int | None, content: bytes, expected: int
) -> None:
    if mode is not None:
        path = home / os.fsdecode(exe[1:])
        path.write_bytes(content)
        path.chmod(mode)
    assert refused(bed.spawn("x", exe=exe)) == expected
    assert sh(bed, "echo next") == (0, "next\n")
    assert len(bed.all(Exited)) == 1


def test_every_exit_status_arrives(bed: Bed) -> None:
    for code in (0, 1, 42, 127, 128, 255):
        assert sh(bed, f"exit {code}")[0] == code << 8


def test_fatal_signals_arrive_with_the_core_flag_that_they_leave(bed: Bed) -> None:
    for signo in (signal.SIGHUP, signal.SIGKILL, signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMAX):
        assert sh(bed, f"kill -{int(signo)} $$")[0] == signo
    limits: list[int] = [0xFFFFFFFFFFFFFFFF] * 32
    # What a core is written to is the node's affair; the flag says whether one was.
    status, _ = sh(bed, "kill -SEGV $$", limits=limits)
    assert status & 0x7F == signal.SIGSEGV
    limits[2 * resource.RLIMIT_CORE] = 0
    status, _ = sh(bed, "kill -SEGV $$", limits=limits)
    assert status == signal.SIGSEGV


def test_cpu_time_and_memory_are_reported(bed: Bed) -> None:
    script = "perl -e 'my $x = \"x\" x 30_000_000; my $n = 0; $n += $_ for 1..3_000_000'; true"
    sh(bed, script)
    exited = bed.all(Exited)[0]
    assert exited.utime_us > 10_000
    assert exited.maxrss_kib > 30_000


def test_a_body_is_stopped_and_goes_on(bed: Bed) -> None:
    bed.spawn("sleep", "100")
    bed.link.post(Signal(PID, signal.SIGSTOP, SCOPE_PROCESS))
    assert bed.wait_for(Stopped).signo == signal.SIGSTOP
    bed.link.post(Signal(PID, signal.SIGCONT, SCOPE_PROCESS))
    bed.wait_for(Continued)
    bed.kill()


def test_a_signal_to_the_group_reaches_children_in_it_and_no_ghost(bed: Bed) -> None:
    number = bed.free_stream()
    script = (
        "trap 'echo me; exit' USR1; (trap 'echo child; exit' USR1; sleep 100 & echo ready; wait) & "
        "echo ready; wait"
    )
    bed.spawn("bash", "-c", script, descriptors=[stream(1, FD_STREAM_OUT, number)])
    bed.until(lambda: bed.output.get(number, b"").count(b"ready") == 2)
    bed.link.post(Signal(PID, signal.SIGUSR1, SCOPE_GROUP))
    bed.wait_for(Exited)
    bed.wait_for(Gone)
    assert {b"me", b"child"} <= set(bytes(bed.output[number]).split())


def test_a_body_that_signals_its_whole_group_hits_itself_only(bed: Bed) -> None:
    assert sh(bed, "kill -KILL 0")[0] == signal.SIGKILL
    assert sh(bed, "echo $$ $PPID")[1].split() == [str(PID), str(PARENT)]
    bed.got.clear()
    bed.spawn("bash", "-c", "kill -STOP 0; exit 5")
    bed.wait_for(Stopped)
    bed.link.post(Signal(PID, signal.SIGCONT, SCOPE_PROCESS))
    assert bed.wait_for(Exited).status == 5 << 8


# what it leaves behind


def test_a_daemon_outlives_the_body_and_its_stream_stays_open(bed: Bed) -> None:
    number = bed.free_stream()
    script = "(trap '' HUP; sleep 0.3; echo late) & echo early"
    bed.spawn("bash", "-c", script, descriptors=[stream(1, FD_STREAM_OUT, number)])
    bed.wait_for(Exited)
    assert not bed.all(Gone)
    bed.wait_for(Gone)
    bed.wait_for(StreamEnd, stream=number)
    assert bed.output[number] == b"early\nlate\n"


def test_kill_leaves_nothing_that_descends_from_a_body(bed: Bed) -> None:
    number = bed.free_stream()
    daemon = "use POSIX; if (!fork) { POSIX::setsid; $SIG{TERM} = 'IGNORE'; fork; sleep 1000 }"
    script = f'perl -e "{daemon}"; sleep 1000 & (sleep 1000 & ) ; echo up; wait'
    script = script.replace("use POSIX; ", "").replace("POSIX::setsid", "syscall(112)")
    script = script.replace("$SIG", "\\$SIG")
    bed.spawn("bash", "-c", script, descriptors=[stream(1, FD_STREAM_OUT, number)])
    bed.until(lambda: b"up" in bed.output.get(number, b""))
    bed.kill()
    assert bed.wait_for(Exited).status == signal.SIGKILL
    _, output = sh(bed, "for p in /proc/[0-9]*; do read -r c <$p/comm; echo $c; done")
    assert "sleep" not in output.split()
    assert "perl" not in output.split()


def test_processes_that_fork_all_the_time_can_be_killed(bed: Bed) -> None:
    number = bed.free_stream()
    # One is replaced by the next as fast as can be; four of these lines at once.
    script = "f() { echo x; f & }; f & f & f & f & wait"
    bed.spawn("bash", "-c", script, descriptors=[stream(1, FD_STREAM_OUT, number)])
    bed.until(lambda: len(bed.output.get(number, b"")) > 60)
    bed.kill()
    assert sh(bed, "echo fine") == (0, "fine\n")


def test_a_body_that_kills_its_parent_is_reported_as_killed(bed: Bed) -> None:
    bed.spawn("bash", "-c", "kill -9 $PPID; sleep 100")
    assert bed.wait_for(Exited).status == signal.SIGKILL
    bed.wait_for(Gone)
    assert sh(bed, "echo fine") == (0, "fine\n")
