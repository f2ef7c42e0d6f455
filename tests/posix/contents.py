"""Contents: reading and writing at offsets, appending, truncating, holes, copying, mapping."""

import errno
import fcntl
import mmap
import os
import random
import subprocess
import sys

from tests.posix.tools import fails, fallocate, in_child, make, read

MIB = 1 << 20


def _noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def check_large_file_round_trip(d: str) -> None:
    data = _noise(5 * MIB + 12345)
    make(d, "f", data)
    assert os.stat(f"{d}/f").st_size == len(data)
    assert read(d, "f") == data


def check_writes_of_all_sizes(d: str) -> None:
    data = _noise(700_000)
    with open(f"{d}/f", "wb", buffering=0) as file:
        position = 0
        for turn in range(10_000):
            size = (turn * 37) % 4999 + 1
            file.write(data[position : position + size])
            position += size
            if position >= len(data):
                break
    assert read(d, "f") == data


def check_pread_pwrite(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    model = bytearray()
    chance = random.Random(7)
    for turn in range(400):
        offset = chance.randrange(200_000)
        data = bytes([turn % 256]) * chance.randrange(1, 9000)
        os.pwrite(fd, data, offset)
        if len(model) < offset + len(data):
            model.extend(bytes(offset + len(data) - len(model)))
        model[offset : offset + len(data)] = data
        where = chance.randrange(220_000)
        assert os.pread(fd, 5000, where) == bytes(model[where : where + 5000])
    assert os.fstat(fd).st_size == len(model)
    os.close(fd)
    assert read(d, "f") == bytes(model)


def check_interleaved_files(d: str) -> None:
    flags = os.O_CREAT | os.O_WRONLY
    files = [os.open(f"{d}/f{n}", flags, 0o644) for n in range(8)]
    for turn in range(200):
        for number, fd in enumerate(files):
            os.write(fd, bytes([number]) * (turn + number + 1))
    for number, fd in enumerate(files):
        os.close(fd)
        size = sum(turn + number + 1 for turn in range(200))
        assert read(d, f"f{number}") == bytes([number]) * size


def check_append(d: str) -> None:
    make(d, "f", b"start ")
    one = os.open(f"{d}/f", os.O_WRONLY | os.O_APPEND)
    two = os.open(f"{d}/f", os.O_WRONLY | os.O_APPEND)
    for turn in range(50):
        os.write(one, b"1:%d " % turn)
        os.write(two, b"2:%d " % turn)
        assert os.lseek(two, 0, os.SEEK_CUR) == os.fstat(two).st_size
    expected = b"start " + b"".join(b"1:%d 2:%d " % (turn, turn) for turn in range(50))
    assert read(d, "f") == expected
    os.lseek(one, 0, os.SEEK_SET)
    os.write(one, b"end")
    assert read(d, "f") == expected + b"end"


def check_append_from_several_processes(d: str) -> None:
    make(d, "f")

    def appender(letter: bytes) -> None:
        fd = os.open(f"{d}/f", os.O_WRONLY | os.O_APPEND)
        for _ in range(100):
            os.write(fd, letter * 99 + b"\n")

    pids = []
    for letter in (b"a", b"b", b"c"):
        pid = os.fork()
        if pid == 0:
            appender(letter)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    lines = read(d, "f").split(b"\n")
    assert lines.pop() == b""
    assert sorted(lines) == sorted([b"a" * 99] * 100 + [b"b" * 99] * 100 + [b"c" * 99] * 100)


def check_append_and_read_through_one_descriptor(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
    for turn in range(100):
        os.write(fd, b"%05d" % turn)
        assert os.pread(fd, 5, turn * 5) == b"%05d" % turn
    os.pwrite(fd, b"!", 0)  # BUGS of pwrite(2): appends all the same
    assert os.fstat(fd).st_size == 501
    assert os.pread(fd, 5, 0) == b"00000"


def check_truncate(d: str) -> None:
    make(d, "f", b"0123456789")
    os.truncate(f"{d}/f", 4)
    assert read(d, "f") == b"0123"
    os.truncate(f"{d}/f", 8)
    assert read(d, "f") == b"0123\0\0\0\0"
    fd = os.open(f"{d}/f", os.O_RDWR)
    os.ftruncate(fd, 0)
    assert os.fstat(fd).st_size == 0
    os.pwrite(fd, b"x", 5)
    os.ftruncate(fd, 100_000)
    assert os.pread(fd, 10, 0) == b"\0\0\0\0\0x\0\0\0\0"
    assert os.fstat(fd).st_size == 100_000
    os.ftruncate(fd, 6)
    assert os.pread(fd, 10, 0) == b"\0\0\0\0\0x"
    assert fails(errno.EINVAL, os.ftruncate, fd, -1)
    os.close(fd)
    fd = os.open(f"{d}/f", os.O_RDONLY)
    assert fails(errno.EINVAL, os.ftruncate, fd, 1)


def check_truncate_between_writes(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    for turn in range(30):
        os.pwrite(fd, b"a" * 10_000, 0)
        os.ftruncate(fd, turn)
        os.pwrite(fd, b"b" * 10, turn + 5)
        assert os.pread(fd, 100, 0) == b"a" * turn + bytes(5) + b"b" * 10
        os.ftruncate(fd, 0)
    os.close(fd)
    assert read(d, "f") == b""


def check_open_truncates(d: str) -> None:
    make(d, "f", b"long contents")
    other = os.open(f"{d}/f", os.O_RDONLY)
    fd = os.open(f"{d}/f", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    assert os.pread(other, 10, 0) == b""
    os.write(fd, b"new")
    assert os.pread(other, 10, 0) == b"new"
    os.close(fd)
    fd = os.open(f"{d}/f", os.O_WRONLY)
    os.write(fd, b"N")
    os.close(fd)
    assert read(d, "f") == b"New"


def check_truncating_an_empty_file_sets_its_times(d: str) -> None:
    make(d, "f")
    os.utime(f"{d}/f", ns=(0, 0))
    os.close(os.open(f"{d}/f", os.O_WRONLY | os.O_TRUNC))
    assert os.stat(f"{d}/f").st_mtime_ns > 0


def check_reading_at_and_behind_the_end(d: str) -> None:
    make(d, "f", b"12345")
    fd = os.open(f"{d}/f", os.O_RDONLY)
    assert os.pread(fd, 10, 3) == b"45"
    assert os.pread(fd, 10, 5) == b""
    assert os.pread(fd, 10, 1 << 40) == b""
    with open(f"{d}/f", "ab") as file:
        file.write(b"67")
    assert os.pread(fd, 10, 3) == b"4567"


def check_sparse_files(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(fd, b"end", 8 * MIB)
    assert os.fstat(fd).st_size == 8 * MIB + 3
    assert os.fstat(fd).st_blocks * 512 < MIB
    assert os.pread(fd, 4096, 4 * MIB) == bytes(4096)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 8 * MIB
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
    assert os.lseek(fd, 8 * MIB, os.SEEK_HOLE) == 8 * MIB + 3
    assert fails(errno.ENXIO, os.lseek, fd, 9 * MIB, os.SEEK_DATA)
    os.pwrite(fd, b"begin", 0)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0


def check_very_large_offsets(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    os.pwrite(fd, b"far", 5 << 30)
    assert os.fstat(fd).st_size == (5 << 30) + 3
    assert os.pread(fd, 10, 5 << 30) == b"far"
    os.ftruncate(fd, (4 << 30) + 1)
    assert os.fstat(fd).st_size == (4 << 30) + 1


def check_fallocate(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    fallocate(fd, 0, 0, 100_000)
    assert os.fstat(fd).st_size == 100_000
    assert os.fstat(fd).st_blocks * 512 >= 100_000
    fallocate(fd, 1, 0, 300_000)  # FALLOC_FL_KEEP_SIZE
    assert os.fstat(fd).st_size == 100_000
    os.pwrite(fd, b"x" * 100_000, 0)
    fallocate(fd, 3, 4096, 8192)  # FALLOC_FL_PUNCH_HOLE | KEEP_SIZE
    assert os.pread(fd, 4, 4094) == b"xx\0\0"
    assert os.pread(fd, 4, 12286) == b"\0\0xx"
    os.posix_fallocate(fd, 0, 200_000)
    assert os.fstat(fd).st_size == 200_000


def check_copy_file_range_and_sendfile(d: str) -> None:
    data = _noise(400_000)
    make(d, "a", data)
    source = os.open(f"{d}/a", os.O_RDONLY)
    target = os.open(f"{d}/b", os.O_CREAT | os.O_WRONLY, 0o644)
    copied = 0
    while copied < len(data):
        copied += os.copy_file_range(source, target, len(data) - copied)
    assert read(d, "b") == data
    target = os.open(f"{d}/c", os.O_CREAT | os.O_WRONLY, 0o644)
    offset = 0
    while offset < len(data):
        offset += os.sendfile(target, source, offset, len(data) - offset)
    assert read(d, "c") == data
    subprocess.run(["cp", f"{d}/a", f"{d}/e"], check=True)
    assert read(d, "e") == data


def check_splice_from_a_pipe(d: str) -> None:
    script = f"head -c 300000 /dev/zero | tr '\\0' 'z' > {d}/f && cat {d}/f | cat > {d}/g"
    subprocess.run(["sh", "-c", script], check=True)
    assert read(d, "g") == b"z" * 300_000


def check_vectored_io(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    assert os.writev(fd, [b"a" * 5000, b"", b"b" * 3, b"c" * 70_000]) == 75_003
    first, second = bytearray(5001), bytearray(80_000)
    assert os.preadv(fd, [first, second], 0) == 75_003
    assert bytes(first) == b"a" * 5000 + b"b"
    assert bytes(second[:70_002]) == b"bb" + b"c" * 70_000


def check_dup_shares_the_offset(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"abc")
    os.write(os.dup(fd), b"def")
    assert in_child(lambda: os.write(fd, b"ghi") - 3) == 0
    assert os.lseek(fd, 0, os.SEEK_CUR) == 9
    assert read(d, "f") == b"abcdefghi"


def check_access_modes(d: str) -> None:
    make(d, "f", b"x")
    fd = os.open(f"{d}/f", os.O_WRONLY)
    assert fails(errno.EBADF, os.read, fd, 1)
    fd = os.open(f"{d}/f", os.O_RDONLY)
    assert fails(errno.EBADF, os.write, fd, b"y")
    assert fails(errno.EISDIR, os.open, d, os.O_WRONLY)
    assert fails(errno.EISDIR, os.read, os.open(d, os.O_RDONLY), 10)


def check_fsync(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"synced")
    os.fsync(fd)
    os.fdatasync(fd)
    directory = os.open(d, os.O_RDONLY)
    os.fsync(directory)
    synced = os.open(f"{d}/s", os.O_CREAT | os.O_WRONLY | os.O_SYNC, 0o644)
    os.write(synced, b"at once")
    assert read(d, "s") == b"at once"


def check_direct_io(d: str) -> None:
    flags = os.O_CREAT | os.O_RDWR | os.O_DIRECT
    if fails(errno.EINVAL, os.open, f"{d}/f", flags, 0o644):
        return  # as on a tmpfs of old
    fd = os.open(f"{d}/f", flags, 0o644)
    page = mmap.mmap(-1, 8192)
    page.write(b"d" * 8192)
    assert os.pwrite(fd, page, 4096) == 8192
    page.seek(0)
    page.write(bytes(8192))
    assert os.preadv(fd, [page], 4096) == 8192
    assert page[:] == b"d" * 8192
    os.close(fd)
    assert read(d, "f") == bytes(4096) + b"d" * 8192


# mapping


def check_shared_mapping(d: str) -> None:
    make(d, "f", bytes(20_000))
    fd = os.open(f"{d}/f", os.O_RDWR)
    with mmap.mmap(fd, 20_000) as area:
        area[5000:5005] = b"hello"
        assert os.pread(fd, 5, 5000) == b"hello"
        os.pwrite(fd, b"world", 9000)
        assert area[9000:9005] == b"world"
        area.flush()
        area[10:13] = b"end"
    os.close(fd)
    data = read(d, "f")
    assert data[5000:5005] == b"hello"
    assert data[10:13] == b"end"


def check_shared_mapping_between_processes(d: str) -> None:
    make(d, "f", bytes(4096))
    fd = os.open(f"{d}/f", os.O_RDWR)
    area = mmap.mmap(fd, 4096)

    def child() -> None:
        with open(f"{d}/f", "r+b") as file, mmap.mmap(file.fileno(), 4096) as mine:
            mine[0:2] = b"hi"

    assert in_child(child) == 0
    assert area[0:2] == b"hi"


def check_private_mapping(d: str) -> None:
    make(d, "f", b"p" * 10_000)
    fd = os.open(f"{d}/f", os.O_RDWR)
    with mmap.mmap(fd, 10_000, flags=mmap.MAP_PRIVATE) as area:
        area[0:3] = b"abc"
        assert area[0:4] == b"abcp"
    assert read(d, "f") == b"p" * 10_000
    fd = os.open(f"{d}/f", os.O_RDONLY)
    with mmap.mmap(fd, 10_000, prot=mmap.PROT_READ) as area:
        assert area[9_999:] == b"p"
        os.unlink(f"{d}/f")
        assert area[:10] == b"p" * 10


def check_mapping_outlives_descriptor_and_name(d: str) -> None:
    make(d, "f", b"m" * 5000)
    fd = os.open(f"{d}/f", os.O_RDWR)
    area = mmap.mmap(fd, 5000)
    os.close(fd)
    os.unlink(f"{d}/f")
    area[0:3] = b"xyz"
    assert area[:5] == b"xyzmm"
    area.close()


def check_mapping_of_a_growing_file(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    os.ftruncate(fd, 4096)
    area = mmap.mmap(fd, 4096)
    area[0:4] = b"head"
    os.ftruncate(fd, 8192)
    area.resize(8192)
    area[8000:8004] = b"tail"
    area.close()
    os.close(fd)
    data = read(d, "f")
    assert data[:4] == b"head"
    assert data[8000:8004] == b"tail"
    assert len(data) == 8192


def check_cache_is_not_believed_after_o_direct_and_eviction(d: str) -> None:
    data = _noise(MIB)
    make(d, "f", data)
    fd = os.open(f"{d}/f", os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, MIB, 0) == data
    writer = os.open(f"{d}/f", os.O_WRONLY)
    os.pwrite(writer, b"changed", 500_000)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 7, 500_000) == b"changed"


def check_random_and_backward_reads(d: str) -> None:
    data = _noise(3 * MIB, 3)
    make(d, "f", data)
    fd = os.open(f"{d}/f", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for offset in range(3 * MIB - 65536, -1, -65536):
        assert os.pread(fd, 65536, offset) == data[offset : offset + 65536]
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    chance = random.Random(5)
    for _ in range(200):
        offset, size = chance.randrange(3 * MIB), chance.randrange(300_000)
        assert os.pread(fd, size, offset) == data[offset : offset + size]


def check_two_readers_of_one_file(d: str) -> None:
    data = _noise(2 * MIB, 9)
    make(d, "f", data)
    one = os.open(f"{d}/f", os.O_RDONLY)
    two = os.open(f"{d}/f", os.O_RDONLY)
    os.posix_fadvise(one, 0, 0, os.POSIX_FADV_DONTNEED)
    for offset in range(0, MIB, 100_000):
        assert os.pread(one, 100_000, offset) == data[offset : offset + 100_000]
        other = offset + MIB
        assert os.pread(two, 100_000, other) == data[other : other + 100_000]


def check_sqlite(d: str) -> None:
    script = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1] + '/db')
if sys.argv[2] == 'wal':
    assert db.execute('pragma journal_mode=wal').fetchone()[0] == 'wal'
db.execute('create table if not exists t (n integer)')
for n in range(200):
    db.execute('insert into t values (?)', (n,))
    if n % 20 == 0:
        db.commit()
db.commit()
assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
assert db.execute('select sum(n) from t').fetchone()[0] == 19900
db.close()
"""
    for mode in ("delete", "wal"):
        os.mkdir(f"{d}/{mode}")
        subprocess.run([sys.executable, "-c", script, f"{d}/{mode}", mode], check=True)
    assert os.listdir(f"{d}/wal") == ["db"]


def check_append_flag_can_be_set_later(d: str) -> None:
    fd = os.open(f"{d}/f", os.O_CREAT | os.O_RDWR, 0o644)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND)
    os.write(fd, b"one")
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"two")
    assert read(d, "f") == b"onetwo"
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"ONE")
    assert read(d, "f") == b"ONEtwo"
