"""Names: create, remove, rename, link, symlink."""

import errno
import os
import stat
import subprocess

from tests.posix.tools import fails, make, names, read


def check_create_read_remove(d: str) -> None:
    make(d, "a", b"hello")
    assert read(d, "a") == b"hello"
    assert names(d) == ["a"]
    os.unlink(f"{d}/a")
    assert names(d) == []
    assert fails(errno.ENOENT, os.stat, f"{d}/a")
    assert fails(errno.ENOENT, os.unlink, f"{d}/a")


def check_exclusive_create_fails_when_there(d: str) -> None:
    make(d, "a", b"1")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    assert fails(errno.EEXIST, os.open, f"{d}/a", flags)
    os.close(os.open(f"{d}/b", flags))
    assert fails(errno.EEXIST, os.open, f"{d}/b", flags)
    os.symlink("nowhere", f"{d}/l")
    assert fails(errno.EEXIST, os.open, f"{d}/l", flags)
    assert read(d, "a") == b"1"


def check_recreated_file_is_new(d: str) -> None:
    for turn in range(5):
        make(d, "a", b"%d" % turn * (turn + 1))
        assert read(d, "a") == b"%d" % turn * (turn + 1)
        os.unlink(f"{d}/a")
    assert not os.path.exists(f"{d}/a")


def check_rename_moves(d: str) -> None:
    make(d, "a", b"a")
    before = os.stat(f"{d}/a").st_ino
    os.mkdir(f"{d}/sub")
    os.rename(f"{d}/a", f"{d}/sub/b")
    assert names(d) == ["sub"]
    assert names(f"{d}/sub") == ["b"]
    assert os.stat(f"{d}/sub/b").st_ino == before
    assert fails(errno.ENOENT, os.rename, f"{d}/a", f"{d}/c")


def check_rename_replaces(d: str) -> None:
    make(d, "a", b"new")
    make(d, "b", b"old")
    os.rename(f"{d}/a", f"{d}/b")
    assert names(d) == ["b"]
    assert read(d, "b") == b"new"


def check_rename_to_itself_and_to_its_link_does_nothing(d: str) -> None:
    make(d, "a", b"a")
    os.rename(f"{d}/a", f"{d}/a")
    os.link(f"{d}/a", f"{d}/b")
    os.rename(f"{d}/a", f"{d}/b")
    assert names(d) == ["a", "b"]
    assert os.stat(f"{d}/a").st_nlink == 2


def check_rename_of_directories(d: str) -> None:
    os.makedirs(f"{d}/x/y/z")
    make(d, "x/y/f", b"f")
    os.rename(f"{d}/x/y", f"{d}/w")
    assert read(d, "w/f") == b"f"
    assert names(f"{d}/x") == []
    assert names(f"{d}/w") == ["f", "z"]
    os.mkdir(f"{d}/empty")
    os.rename(f"{d}/w", f"{d}/empty")
    assert read(d, "empty/f") == b"f"
    os.mkdir(f"{d}/other")
    assert fails(errno.ENOTEMPTY, os.rename, f"{d}/other", f"{d}/empty")
    assert fails(errno.EINVAL, os.rename, f"{d}/empty", f"{d}/empty/z/q")
    make(d, "file")
    assert fails(errno.ENOTDIR, os.rename, f"{d}/other", f"{d}/file")
    assert fails(errno.EISDIR, os.rename, f"{d}/file", f"{d}/other")


def check_dotdot_of_a_moved_directory(d: str) -> None:
    os.makedirs(f"{d}/a/c")
    os.mkdir(f"{d}/b")
    os.rename(f"{d}/a/c", f"{d}/b/c")
    assert os.stat(f"{d}/b/c/..").st_ino == os.stat(f"{d}/b").st_ino
    assert os.stat(f"{d}/a").st_nlink == 2
    assert os.stat(f"{d}/b").st_nlink == 3


def check_renameat2_flags(d: str) -> None:
    make(d, "a", b"a")
    make(d, "b", b"b")
    subprocess.run(["mv", "-n", f"{d}/a", f"{d}/b"], check=False, capture_output=True)
    assert read(d, "a") == b"a"
    assert read(d, "b") == b"b"
    from tests.posix.tools import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

    assert fails(errno.EEXIST, renameat2, f"{d}/a", f"{d}/b", RENAME_NOREPLACE)
    renameat2(f"{d}/a", f"{d}/b", RENAME_EXCHANGE)
    assert read(d, "a") == b"b"
    assert read(d, "b") == b"a"
    os.mkdir(f"{d}/dir")
    make(d, "dir/in", b"in")
    renameat2(f"{d}/a", f"{d}/dir", RENAME_EXCHANGE)
    assert read(d, "a/in") == b"in"
    assert read(d, "dir") == b"b"
    renameat2(f"{d}/dir", f"{d}/new", RENAME_NOREPLACE)
    assert read(d, "new") == b"b"
    assert names(d) == ["a", "b", "new"]


def check_hard_links(d: str) -> None:
    make(d, "a", b"one")
    os.link(f"{d}/a", f"{d}/b")
    os.mkdir(f"{d}/sub")
    os.link(f"{d}/b", f"{d}/sub/c")
    stats = [os.stat(f"{d}/{name}") for name in ("a", "b", "sub/c")]
    assert {s.st_ino for s in stats} == {stats[0].st_ino}
    assert [s.st_nlink for s in stats] == [3, 3, 3]
    with open(f"{d}/b", "ab") as file:
        file.write(b" two")
    assert read(d, "sub/c") == b"one two"
    assert os.stat(f"{d}/a").st_size == 7
    os.unlink(f"{d}/a")
    assert os.stat(f"{d}/b").st_nlink == 2
    os.chmod(f"{d}/b", 0o600)
    assert stat.S_IMODE(os.stat(f"{d}/sub/c").st_mode) == 0o600
    assert fails(errno.EEXIST, os.link, f"{d}/b", f"{d}/sub/c")
    assert fails(errno.EPERM, os.link, f"{d}/sub", f"{d}/dirlink")


def check_symlinks(d: str) -> None:
    make(d, "a", b"a")
    os.symlink("a", f"{d}/l")
    os.symlink("missing", f"{d}/m")
    os.symlink("loop", f"{d}/loop")
    os.symlink(f"{d}/a", f"{d}/absolute")
    assert os.readlink(f"{d}/l") == "a"
    assert read(d, "l") == b"a"
    assert read(d, "absolute") == b"a"
    assert os.lstat(f"{d}/l").st_size == 1
    assert stat.S_ISLNK(os.lstat(f"{d}/l").st_mode)
    assert fails(errno.ENOENT, os.stat, f"{d}/m")
    assert fails(errno.ELOOP, os.stat, f"{d}/loop")
    assert fails(errno.EINVAL, os.readlink, f"{d}/a")
    assert fails(errno.ELOOP, os.open, f"{d}/l", os.O_RDONLY | os.O_NOFOLLOW)
    os.mkdir(f"{d}/sub")
    make(d, "sub/x", b"x")
    os.symlink("sub", f"{d}/dirlink")
    assert read(d, "dirlink/x") == b"x"
    make(d, "dirlink/y", b"y")
    assert read(d, "sub/y") == b"y"
    os.unlink(f"{d}/dirlink")
    assert read(d, "sub/x") == b"x"
    make(d, "m", b"through a dangling link")
    assert read(d, "missing") == b"through a dangling link"


def check_symlink_replaced(d: str) -> None:
    for turn in range(20):
        os.symlink(f"target{turn}", f"{d}/new")
        os.rename(f"{d}/new", f"{d}/current")
        assert os.readlink(f"{d}/current") == f"target{turn}"


def check_long_symlink_and_own_times_of_a_symlink(d: str) -> None:
    target = "x" * 4000
    os.symlink(target, f"{d}/l")
    assert os.readlink(f"{d}/l") == target
    os.utime(f"{d}/l", ns=(5, 6_000_000_007), follow_symlinks=False)
    assert os.lstat(f"{d}/l").st_mtime_ns == 6_000_000_007


def check_long_names(d: str) -> None:
    name = "n" * 255
    make(d, name, b"long")
    assert read(d, name) == b"long"
    assert names(d) == [name]
    assert fails(errno.ENAMETOOLONG, make, d, "n" * 256)
    assert fails(errno.ENAMETOOLONG, os.stat, f"{d}/{'n' * 256}")
    os.rename(f"{d}/{name}", f"{d}/{'m' * 255}")
    assert names(d) == ["m" * 255]


def check_strange_names(d: str) -> None:
    found = [b"new\nline", b"\xff\xfe", b"sp ace", b"-rf", b"*", b"'\"\\", b"\x01", "ü€".encode()]
    for name in found:
        fd = os.open(os.fsencode(d) + b"/" + name, os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, name)
        os.close(fd)
    assert sorted(os.listdir(os.fsencode(d))) == sorted(found)
    for name in found:
        with open(os.fsencode(d) + b"/" + name, "rb") as file:
            assert file.read() == name
        os.unlink(os.fsencode(d) + b"/" + name)
    assert names(d) == []


def check_deep_tree(d: str) -> None:
    path = d
    for _ in range(60):
        path += "/deep"
        os.mkdir(path)
    make(path, "leaf", b"leaf")
    assert read(path, "leaf") == b"leaf"
    subprocess.run(["rm", "-r", f"{d}/deep"], check=True)
    assert names(d) == []


def check_unlink_of_a_directory_and_rmdir_of_a_file(d: str) -> None:
    os.mkdir(f"{d}/sub")
    make(d, "f")
    assert fails(errno.EISDIR, os.unlink, f"{d}/sub")
    assert fails(errno.ENOTDIR, os.rmdir, f"{d}/f")
    make(d, "sub/x")
    assert fails(errno.ENOTEMPTY, os.rmdir, f"{d}/sub")
    os.unlink(f"{d}/sub/x")
    os.rmdir(f"{d}/sub")
    assert fails(errno.ENOENT, os.rmdir, f"{d}/sub")


def check_path_through_a_file(d: str) -> None:
    make(d, "f")
    assert fails(errno.ENOTDIR, os.stat, f"{d}/f/x")
    assert fails(errno.ENOTDIR, os.open, f"{d}/f", os.O_DIRECTORY | os.O_RDONLY)
    assert fails(errno.EEXIST, os.mkdir, f"{d}/f")


def check_negative_lookups_do_not_last(d: str) -> None:
    for turn in range(50):
        name = f"{d}/n{turn}"
        assert not os.path.exists(name)
        make(d, f"n{turn}")
        assert os.path.exists(name)
        os.unlink(name)
        assert not os.path.exists(name)
        os.mkdir(name)
        assert os.path.isdir(name)
        os.rmdir(name)
        assert not os.path.exists(name)


def check_atomic_replacement_under_readers(d: str) -> None:
    make(d, "f", b"0" * 1000)
    pid = os.fork()
    if pid == 0:
        for turn in range(100):
            make(d, "tmp", b"%d" % (turn % 10) * 1000)
            os.rename(f"{d}/tmp", f"{d}/f")
        os._exit(0)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        data = read(d, "f")
        assert len(data) == 1000
        assert len(set(data)) == 1
    assert read(d, "f") == b"9" * 1000
