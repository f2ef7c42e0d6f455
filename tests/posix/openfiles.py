"""Files that are open, or in use, while their names change; locks; programs run from the mount."""

import errno
import fcntl
import functools
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable

from tests.posix.tools import fails, in_child, make, names, read, until

O_TMPFILE = 0o20200000


def check_unlinked_file_lives_while_open(d: str) -> None:
    make(d, "f", b"before")
    fd = os.open(f"{d}/f", os.O_RDWR)
    os.unlink(f"{d}/f")
    assert os.fstat(fd).st_nlink == 0
    assert os.read(fd, 10) == b"before"
    os.pwrite(fd, b"after!", 0)
    os.ftruncate(fd, 5)
    assert os.pread(fd, 10, 0) == b"after"
    assert os.fstat(fd).st_size == 5
    os.fchmod(fd, 0o600)
    assert names(d) == []
    make(d, "f", b"another")
    assert os.pread(fd, 10, 0) == b"after"
    assert read(d, "f") == b"another"
    os.fsync(fd)
    os.close(fd)


def check_unlinked_large_file_is_read_on(d: str) -> None:
    data = os.urandom(3 << 20)
    make(d, "f", data)
    fd = os.open(f"{d}/f", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.read(fd, 1000) == data[:1000]
    os.unlink(f"{d}/f")
    found = b""
    while part := os.read(fd, 1 << 20):
        found += part
    assert found == data[1000:]


def check_rename_over_an_open_file(d: str) -> None:
    make(d, "old", b"old contents")
    make(d, "new", b"new")
    fd = os.open(f"{d}/old", os.O_RDWR)
    os.rename(f"{d}/new", f"{d}/old")
    assert os.read(fd, 20) == b"old contents"
    assert os.fstat(fd).st_nlink == 0
    os.write(fd, b"more")
    assert read(d, "old") == b"new"
    assert os.pread(fd, 20, 0) == b"old contentsmore"


def check_renamed_file_stays_open(d: str) -> None:
    fd = os.open(f"{d}/a", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"one ")
    os.mkdir(f"{d}/sub")
    os.rename(f"{d}/a", f"{d}/sub/b")
    os.write(fd, b"two")
    os.rename(f"{d}/sub", f"{d}/dir")
    os.write(fd, b" three")
    assert read(d, "dir/b") == b"one two three"
    assert os.readlink(f"/proc/self/fd/{fd}").endswith("/dir/b")


def check_temporary_file_of_the_language(d: str) -> None:
    import tempfile

    with tempfile.TemporaryFile(dir=d) as file:
        file.write(b"x" * 100_000)
        file.seek(0)
        assert file.read() == b"x" * 100_000
    with tempfile.NamedTemporaryFile(dir=d) as named:
        named.write(b"y")
        named.flush()
        assert os.path.getsize(named.name) == 1
    assert names(d) == []


def check_o_tmpfile_works_or_is_refused_cleanly(d: str) -> None:
    if fails(errno.EOPNOTSUPP, os.open, d, O_TMPFILE | os.O_RDWR, 0o600):
        return
    os.write(os.open(d, O_TMPFILE | os.O_RDWR, 0o600), b"t")
    assert names(d) == []


def check_openat_and_directory_descriptors(d: str) -> None:
    os.mkdir(f"{d}/sub")
    directory = os.open(f"{d}/sub", os.O_RDONLY | os.O_DIRECTORY)
    os.rename(f"{d}/sub", f"{d}/moved")
    fd = os.open("f", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=directory)
    os.write(fd, b"x")
    os.mkdir("below", dir_fd=directory)
    assert names(f"{d}/moved") == ["below", "f"]
    os.rename("f", "g", src_dir_fd=directory, dst_dir_fd=directory)
    os.unlink("g", dir_fd=directory)
    assert os.stat("below", dir_fd=directory).st_nlink == 2
    path = os.open(f"{d}/moved", os.O_PATH)
    assert os.listdir(f"/proc/self/fd/{path}") == ["below"]


def check_working_directory_that_is_moved_and_removed(d: str) -> None:
    os.mkdir(f"{d}/here")

    def child() -> None:
        os.chdir(f"{d}/here")
        make(".", "f", b"x")
        os.rename(f"{d}/here", f"{d}/there")
        assert read(".", "f") == b"x"
        assert os.getcwd() == f"{d}/there"
        os.unlink("f")
        os.rmdir(f"{d}/there")
        assert fails(errno.ENOENT, os.getcwd)
        assert fails(errno.ENOENT, make, ".", "g")
        assert os.listdir(".") == []
        os.chdir(d)

    assert in_child(child) == 0


# running programs


def check_program_runs_from_here(d: str) -> None:
    shutil.copy("/bin/echo", f"{d}/say")
    out = subprocess.run([f"{d}/say", "hello"], check=True, capture_output=True).stdout
    assert out == b"hello\n"
    make(d, "script", b"#!/bin/sh\necho script $1\n")
    os.chmod(f"{d}/script", 0o755)
    out = subprocess.run([f"{d}/script", "x"], check=True, capture_output=True).stdout
    assert out == b"script x\n"
    os.chmod(f"{d}/script", 0o644)
    assert fails(errno.EACCES, os.execv, f"{d}/script", ["script"])


def check_program_just_written_and_rewritten(d: str) -> None:
    for turn in range(5):
        make(d, "p", b"#!/bin/sh\necho turn %d\n" % turn)
        os.chmod(f"{d}/p", 0o755)
        out = subprocess.run([f"{d}/p"], check=True, capture_output=True).stdout
        assert out == b"turn %d\n" % turn


def check_text_file_busy(d: str) -> None:
    shutil.copy("/bin/sleep", f"{d}/sleep")
    fd = os.open(f"{d}/sleep", os.O_WRONLY)
    assert fails(errno.ETXTBSY, os.execv, f"{d}/sleep", ["sleep", "0"])
    os.close(fd)
    child = subprocess.Popen([f"{d}/sleep", "100"])
    until(lambda: os.readlink(f"/proc/{child.pid}/exe").endswith("/sleep"))
    assert fails(errno.ETXTBSY, os.open, f"{d}/sleep", os.O_WRONLY)
    os.unlink(f"{d}/sleep")
    shutil.copy("/bin/true", f"{d}/sleep")
    assert subprocess.run([f"{d}/sleep"], check=False).returncode == 0
    assert child.poll() is None
    child.kill()
    child.wait()


def check_running_program_is_replaced(d: str) -> None:
    shutil.copy("/bin/cat", f"{d}/cat")
    child = subprocess.Popen([f"{d}/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    shutil.copy("/bin/false", f"{d}/new")
    os.rename(f"{d}/new", f"{d}/cat")
    out, _ = child.communicate(b"still the old one")
    assert out == b"still the old one"
    assert child.returncode == 0
    assert subprocess.run([f"{d}/cat"], check=False).returncode == 1


def check_shared_library_from_here(d: str) -> None:
    source = "import _bisect; print(_bisect.__file__)"
    where = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    if where.returncode:
        source = "import math; print(math.__file__)"  # built in: nothing to copy
        return
    path = where.stdout.decode().strip()
    shutil.copy(path, d)
    code = f"import sys; sys.path.insert(0, {d!r}); import _bisect; print(_bisect.__file__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert out.decode().startswith(d)


def check_python_packages_from_here(d: str) -> None:
    os.mkdir(f"{d}/package")
    make(d, "package/__init__.py", b"from . import part\n")
    make(d, "package/part.py", b"value = 1\n")
    for value in (1, 22, 333):
        make(d, "package/part.py", b"value = %d\n" % value)
        code = f"import sys; sys.path.insert(0, {d!r}); import package; print(package.part.value)"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        assert out == b"%d\n" % value


# locks


def _record(kind: int, start: int = 0, length: int = 0) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def check_record_locks_exclude_other_processes(d: str) -> None:
    make(d, "f", b"x" * 100)
    fd = os.open(f"{d}/f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)

    def other() -> None:
        mine = os.open(f"{d}/f", os.O_RDWR)
        assert fails(errno.EAGAIN, fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 10)
        assert fails(errno.EAGAIN, fcntl.lockf, mine, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 15)
        answer = fcntl.fcntl(mine, fcntl.F_GETLK, _record(fcntl.F_WRLCK, 7, 1))
        kind, _, start, length, pid = struct.unpack("hhqqi4x", answer)
        assert (kind, start, length) == (fcntl.F_WRLCK, 5, 10)
        assert pid == os.getppid()

    assert in_child(other) == 0
    fcntl.lockf(fd, fcntl.LOCK_UN, 10, 5)
    assert in_child(lambda: fcntl.lockf(os.open(f"{d}/f", os.O_RDWR), fcntl.LOCK_EX)) == 0


def check_record_locks_go_with_any_close(d: str) -> None:
    make(d, "f")
    fd = os.open(f"{d}/f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)

    def free() -> bool:
        def other() -> None:
            mine = os.open(f"{d}/f", os.O_RDWR)
            fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

        return in_child(other) == 0

    assert not free()
    os.close(os.open(f"{d}/f", os.O_RDONLY))
    assert free()


def check_record_locks_are_upgraded_and_shared(d: str) -> None:
    make(d, "f", b"x")
    one = os.open(f"{d}/f", os.O_RDWR)
    fcntl.lockf(one, fcntl.LOCK_SH)

    def sharing() -> None:
        mine = os.open(f"{d}/f", os.O_RDWR)
        fcntl.lockf(mine, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert fails(errno.EAGAIN, fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert in_child(sharing) == 0
    fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(one, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.lockf(one, fcntl.LOCK_UN)


def check_waiting_for_a_lock(d: str) -> None:
    make(d, "f", b"0")
    fd = os.open(f"{d}/f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    ready, waiting = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = os.open(f"{d}/f", os.O_RDWR)
        os.write(waiting, b"w")
        fcntl.lockf(mine, fcntl.LOCK_EX)
        os._exit(0 if os.pread(mine, 1, 0) == b"1" else 1)
    os.read(ready, 1)
    os.pwrite(fd, b"1", 0)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    fcntl.lockf(fd, fcntl.LOCK_UN)
    assert os.waitpid(pid, 0)[1] == 0


def _is_interrupted(lock: Callable[[int, int], object], path: str) -> None:
    fd = os.open(path, os.O_RDWR)

    def give_up(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        lock(fd, fcntl.LOCK_EX)
    except TimeoutError:
        return
    raise AssertionError("got a lock that somebody has")


def check_waiting_for_a_lock_is_interrupted(d: str) -> None:
    make(d, "f")
    for lock in (fcntl.lockf, fcntl.flock):
        fd = os.open(f"{d}/f", os.O_RDWR)
        lock(fd, fcntl.LOCK_EX)

        assert in_child(functools.partial(_is_interrupted, lock, f"{d}/f")) == 0
        lock(fd, fcntl.LOCK_UN)
        fresh = os.open(f"{d}/f", os.O_RDWR)
        lock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fresh)
        os.close(fd)


def check_killed_while_waiting_for_a_lock(d: str) -> None:
    make(d, "f")
    fd = os.open(f"{d}/f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    ready, waiting = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = os.open(f"{d}/f", os.O_RDWR)
        os.write(waiting, b"w")
        fcntl.lockf(mine, fcntl.LOCK_EX)
        os._exit(0)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    fcntl.lockf(fd, fcntl.LOCK_UN)
    assert in_child(lambda: fcntl.lockf(os.open(f"{d}/f", os.O_RDWR), fcntl.LOCK_EX)) == 0


def check_flock(d: str) -> None:
    make(d, "f")
    fd = os.open(f"{d}/f", os.O_RDONLY)
    other = os.open(f"{d}/f", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_UN)
    fcntl.flock(fd, fcntl.LOCK_EX)
    copy = os.dup(fd)
    os.close(fd)
    assert fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(copy)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_flock_ends_with_the_process(d: str) -> None:
    make(d, "f")
    for _ in range(20):
        script = f"flock -n {d}/f true && flock -n {d}/f -c true"
        subprocess.run(["sh", "-c", script], check=True)
    fd = os.open(d, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_record_locks_and_flock_do_not_meet(d: str) -> None:
    make(d, "f")
    fd = os.open(f"{d}/f", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert in_child(lambda: fcntl.lockf(os.open(f"{d}/f", os.O_RDWR), fcntl.LOCK_EX)) == 0


def check_counter_under_a_lock(d: str) -> None:
    make(d, "n", b"0")
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open(f"{d}/n", os.O_RDWR)
            for _ in range(25):
                fcntl.lockf(fd, fcntl.LOCK_EX)
                number = int(os.pread(fd, 20, 0))
                os.pwrite(fd, b"%d" % (number + 1), 0)
                fcntl.lockf(fd, fcntl.LOCK_UN)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert read(d, "n") == b"100"
