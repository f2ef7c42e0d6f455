"""Pages that the kernel of the node has reclaimed are not sent again, and nothing stale is read."""

import mmap
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stubs.abi import fuse
from tests.kernel.viewbed import Bed
from tests.kernel.viewcalls import USER
from tests.posix.tools import until

UNIT = 128 << 10
SIZES = (1, 4096, 5000, UNIT - 1, UNIT, UNIT + 1, 3 * UNIT + 77, (5 << 20) + 4095, 6 << 20)


def fill(bed: Bed) -> None:
    for size in SIZES:
        with open(f"{bed.home}/f{size}", "wb") as file:
            file.write(os.urandom(size))
    bed.barrier()


def reclaim(mount: str) -> None:
    """Do as the kernel does with pages that nobody has used for long."""
    for size in SIZES:
        fd = os.open(f"{mount}/f{size}", os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_all(home: str, mount: str) -> None:
    for size in SIZES:
        assert Path(f"{mount}/f{size}").read_bytes() == Path(f"{home}/f{size}").read_bytes()


def map_all(home: str, mount: str) -> None:
    """Touch the pages of mappings from their ends inwards, as programs are not read in sequence."""
    for size in SIZES:
        native = Path(f"{home}/f{size}").read_bytes()
        places = sorted(range(0, size, 4096), key=lambda place: -abs(place - size // 2))
        with (
            open(f"{mount}/f{size}", "rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages,
        ):
            for place in places:
                assert pages[place : place + 4096] == native[place : place + 4096]


def kept(bed: Bed) -> dict[str, int]:
    """Return what the view has counted, when all that it asked for has come and is kept."""
    bed.barrier()
    until(lambda: bed.stats()["unkept"] == 0)
    return bed.stats()


@pytest.mark.parametrize("again", [read_all, map_all])
@pytest.mark.parametrize("first", [read_all, map_all])
def test_what_was_reclaimed_is_not_sent_again(
    root_bed: Bed, first: Callable[..., None], again: Callable[..., None]
) -> None:
    bed = root_bed
    fill(bed)
    bed.run(first, bed.home, bed.mount)
    before = kept(bed)
    bed.run(reclaim, bed.mount)
    bed.run(again, bed.home, bed.mount)
    after = bed.stats()
    assert after["counts"][fuse.FUSE_READ] > before["counts"][fuse.FUSE_READ]
    assert after["bytes_in"] == before["bytes_in"]
    assert after["round_trips"] == before["round_trips"]


def test_what_the_node_keeps_no_longer_is_sent_again(root_bed: Bed) -> None:
    bed = root_bed
    fill(bed)
    bed.run(read_all, bed.home, bed.mount)
    before = kept(bed)
    shutil.rmtree(os.path.join(os.path.dirname(bed.mount), "content"))
    bed.run(reclaim, bed.mount)
    bed.run(read_all, bed.home, bed.mount)
    gone = sum(size for size in SIZES if size >= 64 << 10)  # smaller ones have no names there
    assert bed.stats()["bytes_in"] - before["bytes_in"] == gone


def test_a_shelf_that_dies_is_done_without(root_bed: Bed) -> None:
    bed = root_bed
    fill(bed)
    bed.run(read_all, bed.home, bed.mount)
    kept(bed)
    (shelf,) = bed.children_of_view()
    os.kill(shelf, signal.SIGSTOP)
    bed.run(reclaim, bed.mount)
    reading = bed.start(read_all, bed.home, bed.mount)
    os.kill(shelf, signal.SIGKILL)
    bed.finish(reading)
    bed.run(reclaim, bed.mount)
    bed.run(read_all, bed.home, bed.mount)


def change(path: str, place: int, data: bytes) -> None:
    """Write into a file and set its time back."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def read_unit(path: str) -> None:
    """Read one unit, around which the node then has others, that nobody waits for."""
    fd = os.open(path, os.O_RDONLY)
    assert len(os.pread(fd, UNIT, 2 << 20)) == UNIT
    os.close(fd)


def look(path: str, place: int, data: bytes) -> None:
    fd = os.open(path, os.O_RDONLY)
    found = os.pread(fd, len(data), place)
    os.close(fd)
    assert found == data


def test_what_changes_while_it_is_looked_for_is_not_read_stale(root_bed: Bed) -> None:
    bed = root_bed
    fill(bed)
    bed.run(read_all, bed.home, bed.mount)
    before = kept(bed)
    bed.run(reclaim, bed.mount)
    (shelf,) = bed.children_of_view()
    os.kill(shelf, signal.SIGSTOP)
    name, place = f"f{SIZES[-1]}", (2 << 20) + (512 << 10)
    reading = bed.start(read_unit, f"{bed.mount}/{name}")
    until(lambda: bed.stats()["counts"][fuse.FUSE_READ] > before["counts"][fuse.FUSE_READ])
    told = bed.home_stats()["bytes"]
    change(f"{bed.home}/{name}", place, b"changed")
    until(lambda: bed.home_stats()["bytes"] > told)
    os.kill(shelf, signal.SIGCONT)
    bed.finish(reading)
    bed.barrier()
    bed.run(look, f"{bed.mount}/{name}", place, b"changed")


def read_twice(path: str) -> None:
    """Read the file, and its pages having been reclaimed read it again, when told to go on."""
    fd = os.open(path, os.O_RDONLY)
    assert os.pread(fd, 7, 0) == b"before "
    os.kill(os.getpid(), signal.SIGSTOP)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 7, 0) == b"changed"
    os.close(fd)


def test_what_home_cannot_watch_is_not_taken_from_the_shelf() -> None:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, USER) as bed:
            os.mkdir(f"{bed.home}/x", 0o711)  # may be searched, not read
            path = Path(f"{bed.home}/x/f")
            path.write_bytes(b"before " + bytes(1000))
            reading = bed.start(read_twice, f"{bed.mount}/x/f")
            seen = os.waitid(os.P_PID, reading[0], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if seen is None or seen.si_code != os.CLD_STOPPED:
                bed.finish(reading)  # it says why
            kept(bed)
            change(str(path), 0, b"changed")
            os.kill(reading[0], signal.SIGCONT)
            bed.finish(reading)


def write(path: str, place: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, place)
    os.close(fd)


def cut(path: str, size: int) -> None:
    os.truncate(path, size)


def replace(path: str, data: bytes) -> None:
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


@pytest.mark.parametrize("seed", range(6))
def test_whoever_changes_a_file_it_is_read_as_it_is(root_bed: Bed, seed: int) -> None:
    bed = root_bed
    chance = random.Random(seed)
    fill(bed)
    for _ in range(25):
        size = chance.choice(SIZES)
        place = chance.randrange(size)
        data = chance.randbytes(chance.choice((1, 100, 5000, UNIT)))
        name = f"f{size}"
        bed.run(chance.choice((read_all, map_all)), bed.home, bed.mount)
        if chance.randrange(2):
            kept(bed)
        what = chance.randrange(6)
        if what == 0:
            change(f"{bed.home}/{name}", place, data)
        elif what == 1:
            bed.run(write, f"{bed.mount}/{name}", place, data)
        elif what == 2:
            bed.run(cut, f"{bed.mount}/{name}", place + 1)
        elif what == 3:
            os.truncate(f"{bed.home}/{name}", place + 1)
        elif what == 4:
            bed.run(replace, f"{bed.mount}/{name}", data)
        else:
            replace(f"{bed.home}/{name}", data)
        if chance.randrange(2):
            bed.run(reclaim, bed.mount)
        bed.barrier()
