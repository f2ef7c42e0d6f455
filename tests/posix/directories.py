"""Directories: listing, also while they change; large ones; FIFOs and sockets in them."""

import errno
import os
import shutil
import socket
import stat
import subprocess

from tests.posix.tools import fails, in_child, make, names, read


def check_empty_directory(d: str) -> None:
    assert names(d) == []
    out = subprocess.run(["ls", "-a", d], check=True, capture_output=True).stdout
    assert out == b".\n..\n"
    assert os.stat(f"{d}/.").st_ino == os.stat(d).st_ino
    assert os.stat(f"{d}/..").st_ino == os.stat(os.path.dirname(d)).st_ino


def check_directory_with_5000_entries(d: str) -> None:
    expected = [f"file-{number:05}-{'x' * (number % 40)}" for number in range(5000)]
    for name in expected:
        os.close(os.open(f"{d}/{name}", os.O_CREAT | os.O_WRONLY, 0o644))
    assert names(d) == expected
    assert sorted(entry.name for entry in os.scandir(d) if entry.is_file()) == expected
    assert all(os.stat(f"{d}/{name}").st_size == 0 for name in expected[::50])
    subprocess.run(["find", d, "-name", "file-0*", "-delete"], check=True)
    assert names(d) == []


def check_listing_while_names_go(d: str) -> None:
    for number in range(1000):
        make(d, f"n{number:04}")
    with os.scandir(d) as entries:
        seen = []
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert len(seen) == len(set(seen)) == 1000
    assert names(d) == []


def check_listing_while_names_come(d: str) -> None:
    for number in range(500):
        make(d, f"old{number:04}")
    with os.scandir(d) as entries:
        seen = []
        for entry in entries:
            seen.append(entry.name)
            if len(seen) < 300:
                make(d, f"new{len(seen):04}")
    assert len(seen) == len(set(seen))
    assert {name for name in seen if name.startswith("old")} == {f"old{n:04}" for n in range(500)}
    assert len(names(d)) == 799


def check_rewinding_shows_changes(d: str) -> None:
    make(d, "a")
    fd = os.open(d, os.O_RDONLY)
    assert os.listdir(fd) == ["a"]
    make(d, "b")
    assert sorted(os.listdir(fd)) == ["a", "b"]
    os.unlink(f"{d}/a")
    assert os.listdir(fd) == ["b"]
    os.rename(f"{d}/b", f"{d}/c")
    assert os.listdir(fd) == ["c"]


def check_types_in_listings(d: str) -> None:
    make(d, "file")
    os.mkdir(f"{d}/dir")
    os.symlink("file", f"{d}/link")
    os.mkfifo(f"{d}/fifo")
    found = {}
    for entry in os.scandir(d):
        found[entry.name] = (
            entry.is_file(follow_symlinks=False),
            entry.is_dir(),
            entry.is_symlink(),
        )
    assert found == {
        "file": (True, False, False),
        "dir": (False, True, False),
        "link": (False, False, True),
        "fifo": (False, False, False),
    }


def check_listing_with_attributes(d: str) -> None:
    for number in range(300):
        make(d, f"f{number}", b"x" * number)
    for entry in os.scandir(d):
        assert entry.stat().st_size == int(entry.name[1:])
    out = subprocess.run(["ls", "-lU", d], check=True, capture_output=True).stdout
    assert len(out.splitlines()) == 301
    for number in range(0, 300, 3):
        make(d, f"f{number}", b"y" * (number + 1000))
    for entry in os.scandir(d):
        number = int(entry.name[1:])
        assert entry.stat().st_size == number + (0 if number % 3 else 1000)


def check_tree_is_made_and_removed(d: str) -> None:
    for a in range(5):
        for b in range(5):
            os.makedirs(f"{d}/t/{a}/{b}")
            for c in range(3):
                make(d, f"t/{a}/{b}/{c}", b"%d%d%d" % (a, b, c))
    out = subprocess.run(["find", f"{d}/t", "-type", "f"], check=True, capture_output=True).stdout
    assert len(out.splitlines()) == 75
    subprocess.run(["cp", "-a", f"{d}/t", f"{d}/u"], check=True)
    subprocess.run(["diff", "-r", f"{d}/t", f"{d}/u"], check=True)
    subprocess.run(["mv", f"{d}/u", f"{d}/t/0/u"], check=True)
    subprocess.run(["diff", "-r", f"{d}/t/1", f"{d}/t/0/u/1"], check=True)
    shutil.rmtree(f"{d}/t")
    assert names(d) == []


def check_telldir_and_seekdir(d: str) -> None:
    for number in range(200):
        make(d, f"n{number:03}")
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    libc.readdir.argtypes = [ctypes.c_void_p]
    libc.telldir.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

    def name(entry: int) -> bytes:
        return ctypes.string_at(entry + 19)

    stream = libc.opendir(os.fsencode(d))
    marks = []
    while entry := libc.readdir(stream):
        here = name(entry)
        marks.append((here, libc.telldir(stream)))
    for (_, mark), (following, _) in zip(marks[::7], marks[1::7], strict=False):
        libc.seekdir(stream, mark)
        assert name(libc.readdir(stream)) == following


def check_fifo(d: str) -> None:
    os.mkfifo(f"{d}/fifo", 0o600)
    assert stat.S_ISFIFO(os.stat(f"{d}/fifo").st_mode)
    pid = os.fork()
    if pid == 0:
        with open(f"{d}/fifo", "wb") as file:
            file.write(b"through the pipe" * 10_000)
        os._exit(0)
    with open(f"{d}/fifo", "rb") as reader:
        assert reader.read() == b"through the pipe" * 10_000
    os.waitpid(pid, 0)
    assert fails(errno.ENXIO, os.open, f"{d}/fifo", os.O_WRONLY | os.O_NONBLOCK)


def check_unix_socket(d: str) -> None:
    os.chdir(d)
    for _ in range(3):
        server = socket.socket(socket.AF_UNIX)
        server.bind("sock")
        assert stat.S_ISSOCK(os.stat(f"{d}/sock").st_mode)
        server.listen()

        def client() -> None:
            mine = socket.socket(socket.AF_UNIX)
            mine.connect("sock")
            mine.send(b"hello")

        assert in_child(client) == 0
        connection, _ = server.accept()
        assert connection.recv(10) == b"hello"
        server.close()
        again = socket.socket(socket.AF_UNIX)
        assert fails(errno.EADDRINUSE, again.bind, "sock")
        assert fails(errno.ECONNREFUSED, again.connect, "sock")
        again.close()
        connection.close()
        os.unlink("sock")


def check_device_nodes_are_refused_to_users(d: str) -> None:
    if os.getuid():
        assert fails(errno.EPERM, os.mknod, f"{d}/null", 0o20666, os.makedev(1, 3))
    os.mknod(f"{d}/regular", 0o100600)
    assert stat.S_ISREG(os.stat(f"{d}/regular").st_mode)


def check_git(d: str) -> None:
    script = f"""
set -e
export HOME={d} GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b \
    GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q {d}/r && cd {d}/r
for n in 1 2 3 4 5; do echo $n > f$n; done
git add . && git commit -qm one
echo changed > f3 && rm f4 && mkdir sub && echo s > sub/s
git add -A && git commit -qm two
git checkout -q HEAD~1 && test "$(cat f3)" = 3 && test -e f4
git checkout -q - && test "$(cat f3)" = changed && test ! -e f4
git gc -q && git fsck
git clone -q {d}/r {d}/c && cmp {d}/r/sub/s {d}/c/sub/s
test -z "$(git -C {d}/c status --porcelain)"
"""
    subprocess.run(["sh", "-c", script], check=True)


def check_make_decides_by_times(d: str) -> None:
    make(d, "Makefile", b"all: b\nb: a\n\tcp a b\n\techo made >> log\n")
    make(d, "a", b"1")
    for turn in range(5):
        subprocess.run(["make", "-s", "-C", d], check=True, capture_output=True)
        subprocess.run(["make", "-s", "-C", d], check=True, capture_output=True)
        assert len(read(d, "log").splitlines()) == turn + 1
        later = os.stat(f"{d}/b").st_mtime_ns + 1
        make(d, "a", b"%d" % turn)
        if os.stat(f"{d}/a").st_mtime_ns < later:
            os.utime(f"{d}/a", ns=(later, later))
