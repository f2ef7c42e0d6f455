"""Attributes: modes, owners, times, sizes, extended attributes, space."""

import errno
import os
import stat
import subprocess

from tests.posix.tools import fails, in_child, make, names, read


def _mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def check_modes(d: str) -> None:
    make(d, "f")
    for mode in (0o600, 0o755, 0o444, 0o000, 0o4755, 0o1777, 0o644):
        os.chmod(f"{d}/f", mode)
        assert _mode(f"{d}/f") == mode
    os.mkdir(f"{d}/sub", 0o700)
    assert _mode(f"{d}/sub") == 0o700
    os.chmod(f"{d}/sub", 0o1777)
    assert _mode(f"{d}/sub") == 0o1777
    fd = os.open(f"{d}/f", os.O_RDONLY)
    os.fchmod(fd, 0o640)
    assert _mode(f"{d}/f") == 0o640


def check_umask(d: str) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(f"{d}/f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(f"{d}/sub", 0o777)
        os.mkfifo(f"{d}/fifo", 0o666)
        assert [_mode(f"{d}/{name}") for name in ("f", "sub", "fifo")] == [0o640, 0o750, 0o640]
        os.umask(0)
        os.close(os.open(f"{d}/g", os.O_CREAT | os.O_WRONLY, 0o6777))
        assert _mode(f"{d}/g") & 0o777 == 0o777
    finally:
        os.umask(old)


def check_permissions_hold(d: str) -> None:
    if os.getuid() == 0:
        return
    make(d, "f", b"x")
    os.chmod(f"{d}/f", 0o444)
    assert fails(errno.EACCES, os.open, f"{d}/f", os.O_WRONLY)
    assert not os.access(f"{d}/f", os.W_OK)
    assert os.access(f"{d}/f", os.R_OK)
    os.chmod(f"{d}/f", 0o222)
    assert fails(errno.EACCES, os.open, f"{d}/f", os.O_RDONLY)
    os.close(os.open(f"{d}/f", os.O_WRONLY))
    os.mkdir(f"{d}/sub")
    make(d, "sub/x")
    os.chmod(f"{d}/sub", 0o500)
    assert fails(errno.EACCES, make, f"{d}/sub", "y")
    assert fails(errno.EACCES, os.unlink, f"{d}/sub/x")
    os.chmod(f"{d}/sub", 0o300)
    assert fails(errno.EACCES, os.listdir, f"{d}/sub")
    assert os.stat(f"{d}/sub/x").st_size == 0
    assert fails(errno.ENOENT, os.stat, f"{d}/sub/y")
    make(f"{d}/sub", "y", b"y")
    assert read(d, "sub/y") == b"y"
    os.chmod(f"{d}/sub", 0o600)
    assert fails(errno.EACCES, os.stat, f"{d}/sub/x")
    assert names(f"{d}/sub") == ["x", "y"]
    os.chmod(f"{d}/sub", 0o700)


def check_writing_what_was_made_read_only(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
    os.write(fd, b"like git's objects")
    os.fsync(fd)
    os.lseek(fd, 0, os.SEEK_SET)
    assert os.read(fd, 100) == b"like git's objects"
    os.ftruncate(fd, 4)
    os.close(fd)
    assert read(d, "f") == b"like"
    fd = os.open(f"{d}/g", os.O_CREAT | os.O_WRONLY, 0o644)
    os.fchmod(fd, 0o400)
    os.write(fd, b"after chmod")
    os.close(fd)
    assert read(d, "g") == b"after chmod"
    fd = os.open(f"{d}/h", os.O_CREAT | os.O_RDWR, 0o000)
    os.write(fd, b"nobody")
    assert os.pread(fd, 10, 0) == b"nobody"


def check_times_are_exact(d: str) -> None:
    make(d, "f", b"x")
    for atime, mtime in ((1, 999_999_999), (1_600_000_000_123_456_789, 1_700_000_000_987_654_321)):
        os.utime(f"{d}/f", ns=(atime, mtime))
        found = os.stat(f"{d}/f")
        assert (found.st_atime_ns, found.st_mtime_ns) == (atime, mtime)
    os.utime(f"{d}/f", ns=(-1_500_000_000, -1))
    assert os.stat(f"{d}/f").st_mtime_ns == -1
    assert os.stat(f"{d}/f").st_atime_ns == -1_500_000_000
    os.utime(f"{d}/f")
    assert os.stat(f"{d}/f").st_mtime_ns > 1_700_000_000_000_000_000
    os.mkdir(f"{d}/sub")
    os.utime(f"{d}/sub", ns=(5, 7))
    assert os.stat(f"{d}/sub").st_mtime_ns == 7


def check_touch_options(d: str) -> None:
    make(d, "f")
    os.utime(f"{d}/f", ns=(1_000_000_000, 2_000_000_000))
    subprocess.run(["touch", "-m", "-d", "2001-02-03 04:05:06.789 UTC", f"{d}/f"], check=True)
    found = os.stat(f"{d}/f")
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_000, 981_173_106_789_000_000)
    subprocess.run(["touch", "-a", "-r", d, f"{d}/f"], check=True)
    assert os.stat(f"{d}/f").st_mtime_ns == 981_173_106_789_000_000
    assert os.stat(f"{d}/f").st_atime_ns == os.stat(d).st_atime_ns


def check_times_follow_changes(d: str) -> None:
    make(d, "f", b"x")
    os.utime(f"{d}/f", ns=(0, 0))
    os.utime(d, ns=(0, 0))
    with open(f"{d}/f", "ab") as file:
        file.write(b"y")
    changed = os.stat(f"{d}/f").st_mtime_ns
    assert changed > 0
    assert os.stat(d).st_mtime_ns == 0
    make(d, "g")
    after = os.stat(d).st_mtime_ns
    assert after >= changed
    os.unlink(f"{d}/g")
    assert os.stat(d).st_mtime_ns >= after
    before = os.stat(f"{d}/f").st_ctime_ns
    os.chmod(f"{d}/f", 0o600)
    assert os.stat(f"{d}/f").st_ctime_ns >= before
    assert os.stat(f"{d}/f").st_mtime_ns == changed


def check_files_made_in_order_have_times_in_order(d: str) -> None:
    last = 0
    for turn in range(50):
        make(d, f"f{turn}", b"x")
        mtime = os.stat(f"{d}/f{turn}").st_mtime_ns
        assert mtime >= last
        last = mtime


def check_mtime_does_not_move_by_itself(d: str) -> None:
    with open(f"{d}/f", "wb") as file:
        file.write(b"x" * 10_000)
        file.flush()
        first = os.fstat(file.fileno()).st_mtime_ns
    assert os.stat(f"{d}/f").st_mtime_ns == first
    fd = os.open(f"{d}/f", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert os.stat(f"{d}/f").st_mtime_ns == first
    read(d, "f")
    assert os.stat(f"{d}/f").st_mtime_ns == first


def check_mtime_set_after_writing_stays(d: str) -> None:
    for turn in range(20):
        with open(f"{d}/f{turn}", "wb") as file:
            file.write(b"x" * 1000)
            file.flush()
            os.utime(file.fileno(), ns=(1, 2))
        assert os.stat(f"{d}/f{turn}").st_mtime_ns == 2
    assert {os.stat(f"{d}/{name}").st_mtime_ns for name in names(d)} == {2}


def check_link_counts_of_directories(d: str) -> None:
    assert os.stat(d).st_nlink == 2
    os.mkdir(f"{d}/a")
    os.mkdir(f"{d}/b")
    assert os.stat(d).st_nlink == 4
    os.rmdir(f"{d}/a")
    assert os.stat(d).st_nlink == 3
    make(d, "f")
    assert os.stat(d).st_nlink == 3


def check_sizes_while_writing(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_WRONLY, 0o644)
    other = os.open(f"{d}/f", os.O_RDONLY)
    for turn in range(1, 100):
        os.write(fd, b"x" * 100)
        assert os.fstat(other).st_size == turn * 100
        assert os.stat(f"{d}/f").st_size == turn * 100


def check_blocks(d: str) -> None:
    make(d, "f", b"x" * 100_000)
    fd = os.open(f"{d}/f", os.O_RDONLY)
    os.fsync(fd)
    assert os.fstat(fd).st_blocks * 512 >= 100_000
    assert os.fstat(fd).st_blksize >= 512


def check_inode_numbers_agree(d: str) -> None:
    make(d, "f")
    os.mkdir(f"{d}/sub")
    listed = {entry.name: entry.inode() for entry in os.scandir(d)}
    assert listed == {name: os.stat(f"{d}/{name}").st_ino for name in names(d)}
    assert len(set(listed.values())) == 2


def check_chown_to_oneself(d: str) -> None:
    make(d, "f")
    os.chown(f"{d}/f", os.getuid(), os.getgid())
    os.chown(f"{d}/f", -1, os.getgid())
    found = os.stat(f"{d}/f")
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    os.symlink("f", f"{d}/l")
    os.lchown(f"{d}/l", os.getuid(), os.getgid())


def check_chown_by_root(d: str) -> None:
    if os.getuid():
        return
    make(d, "f")
    os.chmod(f"{d}/f", 0o6755)
    os.chown(f"{d}/f", 12, 34)
    found = os.stat(f"{d}/f")
    assert (found.st_uid, found.st_gid) == (12, 34)
    assert stat.S_IMODE(found.st_mode) == 0o755


def check_set_user_id_goes_with_a_write(d: str) -> None:
    make(d, "f", b"x")
    os.chmod(f"{d}/f", 0o4755)
    with open(f"{d}/f", "r+b") as file:
        file.write(b"y")
    expected = 0o4755 if os.getuid() == 0 else 0o755
    assert _mode(f"{d}/f") == expected


def check_set_group_id_directory(d: str) -> None:
    os.mkdir(f"{d}/sub")
    os.chmod(f"{d}/sub", 0o2775)
    os.mkdir(f"{d}/sub/below")
    assert _mode(f"{d}/sub/below") & stat.S_ISGID
    make(d, "sub/f")
    assert os.stat(f"{d}/sub/f").st_gid == os.stat(f"{d}/sub").st_gid


def check_extended_attributes(d: str) -> None:
    make(d, "f")
    if fails(errno.EOPNOTSUPP, os.setxattr, f"{d}/f", "user.one", b"1"):
        return  # as on a tmpfs of old
    os.setxattr(f"{d}/f", "user.two", b"\0binary\xff" * 20)
    assert sorted(name for name in os.listxattr(f"{d}/f") if name.startswith("user.")) == [
        "user.one",
        "user.two",
    ]
    assert os.getxattr(f"{d}/f", "user.two") == b"\0binary\xff" * 20
    assert fails(errno.EEXIST, os.setxattr, f"{d}/f", "user.one", b"", os.XATTR_CREATE)
    assert fails(errno.ENODATA, os.setxattr, f"{d}/f", "user.no", b"", os.XATTR_REPLACE)
    os.removexattr(f"{d}/f", "user.one")
    assert fails(errno.ENODATA, os.getxattr, f"{d}/f", "user.one")
    assert fails(errno.ENODATA, os.removexattr, f"{d}/f", "user.one")
    before = os.stat(f"{d}/f").st_ctime_ns
    os.setxattr(f"{d}/f", "user.three", b"3")
    assert os.stat(f"{d}/f").st_ctime_ns >= before
    os.rename(f"{d}/f", f"{d}/g")
    assert os.getxattr(f"{d}/g", "user.three") == b"3"


def check_space(d: str) -> None:
    found = os.statvfs(d)
    assert found.f_blocks > found.f_bfree > 0
    assert found.f_namemax == 255
    assert found.f_bsize >= 512
    make(d, "f")
    assert os.statvfs(f"{d}/f").f_blocks == found.f_blocks
    subprocess.run(["df", d], check=True, capture_output=True)


def check_sticky_directory(d: str) -> None:
    os.mkdir(f"{d}/tmp")
    os.chmod(f"{d}/tmp", 0o1777)
    make(d, "tmp/f", b"x")
    os.rename(f"{d}/tmp/f", f"{d}/tmp/g")
    os.unlink(f"{d}/tmp/g")


def check_root_gives_up_its_rights(d: str) -> None:
    if os.getuid():
        return
    make(d, "secret", b"x")
    os.chmod(f"{d}/secret", 0o600)
    make(d, "shared", b"y")
    os.chmod(d, 0o755)

    def other() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        assert fails(errno.EACCES, os.open, f"{d}/secret", os.O_RDONLY)
        assert fails(errno.EACCES, os.open, f"{d}/shared", os.O_WRONLY)
        assert read(d, "shared") == b"y"
        assert fails(errno.EACCES, make, d, "new")

    assert in_child(other) == 0


def check_tar_keeps_everything(d: str) -> None:
    os.makedirs(f"{d}/in/a/b")
    make(d, "in/a/f", b"f" * 5000, 0o640)
    make(d, "in/x", b"", 0o755)
    os.link(f"{d}/in/x", f"{d}/in/a/b/hard")
    os.symlink("../x", f"{d}/in/a/soft")
    os.mkfifo(f"{d}/in/pipe")
    for number, name in enumerate(("in/a/f", "in/x", "in/a/b", "in/a", "in")):
        os.utime(f"{d}/{name}", ns=(10**18, 10**18 + number * 10**9 + 7))
    os.mkdir(f"{d}/out")
    script = f"tar -C {d}/in --format=posix -cf {d}/t.tar . && tar -C {d}/out -xpf {d}/t.tar"
    subprocess.run(["sh", "-c", script], check=True)

    def listing(top: str) -> bytes:
        form = r"%P %y %m %s %T@ %n %l\n"
        command = ["find", f"{d}/{top}", "-type", "d", "-printf", r"%P %m %T@\n", "-o", "-printf"]
        out = subprocess.run([*command, form], check=True, capture_output=True).stdout
        return b"\n".join(sorted(out.split(b"\n")))

    assert listing("in") == listing("out")
    assert os.stat(f"{d}/out/x").st_ino == os.stat(f"{d}/out/a/b/hard").st_ino
