import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stubs.home.run.capture import Capture, Program
from stubs.home.run.inherited import ImmovableError, Inherited
from stubs.wire.codec import Descriptor
from stubs.wire.frame import MAX_FDS
from stubs.wire.messages import (
    FD_DEVICE,
    FD_FILE,
    FD_STREAM_BOTH,
    FD_STREAM_IN,
    FD_STREAM_OUT,
    FD_TTY,
)
from tests.kernel.mruns import ROOT
from tests.kernel.tracees import Launch, given, launch

__all__ = ["given", "launch"]

Give = Callable[[int], int]


@pytest.fixture
def give() -> Iterator[Give]:
    """Make a descriptor inheritable, until the test is over."""
    opened = []

    def give(fd: int) -> int:
        os.set_inheritable(fd, True)
        opened.append(fd)
        return fd

    yield give
    for fd in opened:
        os.close(fd)


def capture(launch: Launch, *words: str | bytes) -> Capture:
    program = Program(launch(*(words or ("sleep", "100"))).pid)
    captured = Capture(program, 0, None)
    captured.close()
    return captured


def record(captured: Capture, fd: int) -> Descriptor:
    return next(item for item in captured.spawn.descriptors if item.fd == fd)


def test_words_are_captured_to_the_byte(launch: Launch) -> None:
    words = [b"sleep", b"", b"two words", b"line\nbreak", b"\xff\xfe", b""]
    assert capture(launch, *words).spawn.argv == words


def test_who_and_where_it_is_is_captured(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o026)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        spawn = capture(launch).spawn
    finally:
        os.umask(before)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    assert spawn.cwd == os.fsencode(tmp_path)
    assert spawn.umask == 0o026
    assert spawn.ignored >> (signal.SIGUSR2 - 1) & 1
    assert (spawn.ppid, spawn.pgrp, spawn.sid) == (os.getpid(), os.getpgrp(), os.getsid(0))
    assert spawn.nice == os.getpriority(os.PRIO_PROCESS, 0)
    limits = [value & 0xFFFFFFFFFFFFFFFF for value in resource.getrlimit(resource.RLIMIT_NOFILE)]
    assert spawn.limits[2 * resource.RLIMIT_NOFILE :][:2] == limits
    assert len(spawn.limits) == 32
    assert spawn.termios == b""


def test_the_path_of_the_program_is_the_one_it_was_started_by(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other-name").symlink_to("/usr/bin/sleep")
    monkeypatch.chdir(tmp_path)
    assert capture(launch, "./other-name", "9").spawn.exe == b"./other-name"
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    # The image is the interpreter, and it is that which must run on the node.
    assert os.path.samefile(capture(launch, str(script)).spawn.exe, "/bin/sh")


def test_a_removed_program_cannot_be_moved(launch: Launch, tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    program.write_bytes(Path("/usr/bin/sleep").read_bytes())
    program.chmod(0o755)
    tracee = launch(str(program), "9")
    program.unlink()
    with pytest.raises(ImmovableError):
        Capture(Program(tracee.pid), 0, None)


def test_files_are_captured_with_their_offsets(launch: Launch, give: Give, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("0123456789")
    fd = give(os.open(file, os.O_RDWR | os.O_APPEND))
    os.lseek(fd, 4, os.SEEK_SET)
    twin, other = give(os.dup(fd)), give(os.open(file, os.O_RDONLY))
    captured = capture(launch)
    found = record(captured, fd)
    assert (found.kind, found.offset, found.share) == (FD_FILE, 4, -1)
    assert found.flags & (os.O_ACCMODE | os.O_APPEND) == os.O_RDWR | os.O_APPEND
    assert found.path == os.fsencode(file)
    assert record(captured, twin).share == fd
    assert record(captured, other).share == -1
    numbers = [item.fd for item in captured.spawn.descriptors]
    assert numbers == sorted(numbers)


def test_a_deleted_file_can_be_captured(launch: Launch, give: Give, tmp_path: Path) -> None:
    file = tmp_path / "file"
    fd = give(os.open(file, os.O_RDWR | os.O_CREAT))
    file.unlink()
    assert record(capture(launch), fd).kind == FD_FILE


def test_pipes_sockets_and_devices_are_told_apart(launch: Launch, give: Give) -> None:
    read_end, write_end = map(give, os.pipe())
    here, there = socket.socketpair()
    stream = give(here.detach())
    null = give(os.open("/dev/null", os.O_RDWR))
    directory = give(os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY))
    with there:
        captured = capture(launch)
    kinds = {fd: record(captured, fd).kind for fd in (read_end, write_end, stream, null, directory)}
    assert kinds == {
        read_end: FD_STREAM_IN,
        write_end: FD_STREAM_OUT,
        stream: FD_STREAM_BOTH,
        null: FD_DEVICE,
        directory: FD_FILE,
    }
    assert record(captured, null).ref == os.stat("/dev/null").st_rdev


def an_epoll() -> int:
    with select.epoll() as poll:
        return os.dup(poll.fileno())


def a_listening_socket() -> int:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock.detach()


def a_pipe_both_ways() -> int:
    read_end, write_end = os.pipe()
    fd = os.open(f"/proc/self/fd/{read_end}", os.O_RDWR)
    os.close(read_end)
    os.close(write_end)
    return fd


IMMOVABLE: dict[str, Callable[[], int]] = {
    "an eventfd": lambda: os.eventfd(0),
    "an eventpoll": an_epoll,
    "a memfd": lambda: os.memfd_create("x"),
    "a pidfd": lambda: os.pidfd_open(os.getpid()),
    "opened with O_PATH": lambda: os.open("/", os.O_PATH),
    "a socket that is not a stream": lambda: socket.socket(type=socket.SOCK_DGRAM).detach(),
    "a socket that is not connected": a_listening_socket,
    "a pipe open for reading and writing": a_pipe_both_ways,
    "a device (/dev/ptmx)": lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
}


@pytest.mark.parametrize("what", sorted(IMMOVABLE))
def test_what_is_tied_to_this_kernel_cannot_be_moved(launch: Launch, give: Give, what: str) -> None:
    fd = give(IMMOVABLE[what]())
    with pytest.raises(ImmovableError, match=re.escape(f"fd {fd} is {what}")):
        capture(launch)


def test_too_many_descriptors_are_not_moved(launch: Launch, give: Give) -> None:
    for _ in range(MAX_FDS + 1):
        give(os.open("/dev/null", os.O_RDONLY))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ImmovableError):
        capture(launch)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("controls", [True, False])
def test_a_terminal_is_one_only_if_it_controls_the_program(
    launch: Launch, give: Give, controls: bool
) -> None:
    master, slave = pty.openpty()
    give(slave)
    tty = os.fstat(slave).st_rdev if controls else 0
    inherited = Inherited(launch("sleep", "100").pid, tty)
    inherited.close()
    os.close(master)
    kinds = [item.kind for item in inherited.records if item.fd == slave]
    assert kinds == [FD_TTY if controls else FD_STREAM_BOTH]


def parent_can_be_looked_into() -> bool:
    try:
        os.listdir(f"/proc/{os.getppid()}/fd")
    except PermissionError:
        return False
    return True


visible_parent = pytest.mark.skipif(
    not parent_can_be_looked_into(), reason="run by another user's process, which may have any pipe"
)


@visible_parent
def test_nobody_else_reads_a_pipe_of_ours(launch: Launch, give: Give) -> None:
    read_end, write_end = os.pipe()
    give(read_end)
    os.set_inheritable(write_end, True)
    captured = capture(launch)
    os.close(write_end)
    assert captured.spawn.exclusive == [read_end]


def test_a_sibling_that_reads_shares_a_pipe(launch: Launch, give: Give) -> None:
    read_end, _ = map(give, os.pipe())
    sibling = subprocess.Popen(["sleep", "100"], pass_fds=[read_end])
    try:
        assert read_end not in capture(launch).spawn.exclusive
    finally:
        sibling.kill()
        sibling.wait()


def test_a_pipe_at_its_end_has_nothing_to_share(launch: Launch, give: Give) -> None:
    # What make gives its parallel jobs for their input.
    read_end, write_end = os.pipe()
    give(read_end)
    os.write(write_end, b"x")
    os.close(write_end)
    sibling = subprocess.Popen(["sleep", "100"], pass_fds=[read_end])
    try:
        assert capture(launch).spawn.exclusive == []
        os.read(read_end, 1)
        assert capture(launch).spawn.exclusive == [read_end]
    finally:
        sibling.kill()
        sibling.wait()


@visible_parent
def test_who_only_writes_does_not_share_a_pipe(launch: Launch, give: Give) -> None:
    read_end, write_end = map(give, os.pipe())
    os.set_inheritable(write_end, False)
    sibling = subprocess.Popen(["sleep", "100"], pass_fds=[write_end], close_fds=True)
    try:
        assert capture(launch).spawn.exclusive == [read_end]
    finally:
        sibling.kill()
        sibling.wait()


def test_an_ancestor_that_reads_shares_a_pipe() -> None:
    code = (
        "import os; from stubs.home.run.holders import read_by_others;"
        "pipe = os.readlink(b'/proc/self/fd/0');"
        "print(len(read_by_others({pipe}, {os.getpid()})))"
    )
    read_end, write_end = os.pipe()
    command = [sys.executable, "-c", code]
    try:
        shared = subprocess.run(command, stdin=read_end, stdout=-1, cwd=ROOT, check=True)
        os.close(read_end)
        read_end = -1
        assert shared.stdout == b"1\n"
    finally:
        os.close(write_end)
        if read_end >= 0:
            os.close(read_end)
