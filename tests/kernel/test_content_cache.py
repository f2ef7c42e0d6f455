import hashlib
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stubs.abi.mount import mount
from stubs.node.view.shelf import Shelf
from stubs.node.view.spool import Spool
from tests.kernel.file_peer import in_child, in_new_mount_namespace
from tests.kernel.viewbed import Bed
from tests.posix.tools import until

UNIT = 128 << 10
SIZE = 20 * UNIT + 77
STEP = 4 << 20
OWN = "/usr/bin/bash"  # what every node has, too

# Younger files are not hashed: see stubs.home.files.hashes.
SETTLED_SECONDS = 2.5


@pytest.fixture
def directory() -> Iterator[str]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        os.makedirs(f"{directory}/home/usr/bin")
        with open(f"{directory}/home/large", "wb") as large:
            large.write(os.urandom(SIZE))
        shutil.copy(OWN, directory + "/home" + OWN)
        settle(f"{directory}/home/large", directory + "/home" + OWN)
        yield directory


def settle(*paths: str) -> None:
    """Return when the files have not been changed for long enough to be hashed."""
    until(lambda: all(time.time() - os.stat(p).st_ctime > SETTLED_SECONDS for p in paths))


def hashed(directory: str) -> int:
    """Return how many files home has hashed."""
    path = f"{directory}/state/cache/hashes.sqlite"
    if not os.path.exists(path):
        return 0
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM hashes").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # its table is just being made
    finally:
        connection.close()


def entries(directory: str) -> list[Path]:
    return sorted(path for path in Path(directory, "content").rglob("*") if path.is_file())


def run(directory: str, files: int = 0, kept: int = 0, path: str = "/large", uid: int = 0) -> int:
    """Read a file on a fresh node; return the bytes that came from home.

    Waits, when it has been read, until home has hashed `files` and the node keeps `kept` units.
    """
    with open(f"{directory}/home{path}", "rb") as native:
        expected = native.read()

    def read(mount: str) -> None:
        with open(mount + path, "rb") as file:
            assert file.read() == expected

    with Bed(directory, uid, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "-")
        bed.run(read, bed.mount)
        bed.touched()
        until(lambda: hashed(directory) >= files)
        until(lambda: len(entries(directory)) >= kept)
        return int(bed.stats()["bytes_in"])


def fill(directory: str) -> None:
    """Have home know the hashes of the file, and the node its contents."""
    assert run(directory, files=1, kept=21) == SIZE


def test_contents_come_once(directory: str) -> None:
    fill(directory)
    assert run(directory) == 0


def test_more_than_is_sent_ahead_comes_once(directory: str) -> None:
    with open(f"{directory}/home/large", "ab") as large:
        for _ in range(60):
            large.write(os.urandom(1 << 20))
    settle(f"{directory}/home/large")
    size = os.path.getsize(f"{directory}/home/large")

    def read(mount: str, start: int) -> None:
        fd = os.open(f"{mount}/large", os.O_RDONLY)
        for place in range(start, start + STEP, UNIT):
            os.pread(fd, UNIT, place)
        os.close(fd)

    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "-")
        for start in range(0, size, STEP):
            # What comes faster than it is kept is left out.
            bed.run(read, bed.mount, start)
            bed.barrier()
            until(lambda: bed.stats()["unkept"] == 0)
        bed.touched()
        until(lambda: hashed(directory))
    assert run(directory) == 0


def test_a_damaged_entry_is_not_served(directory: str) -> None:
    fill(directory)
    cut, changed = entries(directory)[:2]
    os.truncate(cut, 100)
    with open(changed, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    assert 0 < run(directory, kept=21) <= 2 * UNIT
    for path in entries(directory):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == path.parent.name + path.name


@pytest.mark.parametrize("between", [True, False], ids=["two links", "announcement and reading"])
def test_a_file_changed_with_its_time_set_back_is_not_served_stale(
    directory: str, between: bool
) -> None:
    fill(directory)
    path = f"{directory}/home/large"

    def change() -> None:
        status = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(3 * UNIT)
            file.write(b"changed")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def look(mount: str) -> None:
        with open(f"{mount}/large", "rb") as file:
            file.seek(3 * UNIT)
            assert file.read(7) == b"changed"

    if between:
        change()
    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "-")
        if not between:
            change()
            bed.barrier()
        bed.run(look, bed.mount)


def test_a_change_by_a_name_that_no_node_has_seen_is_noticed(directory: str) -> None:
    fill(directory)
    hidden = f"{directory}/home/hidden"
    os.mkdir(hidden)
    os.link(f"{directory}/home/large", f"{hidden}/large")
    settle(f"{hidden}/large")
    os.unlink(f"{directory}/state/cache/hashes.sqlite")
    run(directory, files=1)  # its change time is another: home hashes it anew

    def look(mount: str, expected: bytes) -> None:
        fd = os.open(f"{mount}/large", os.O_RDONLY)
        assert os.pread(fd, len(expected), 100) == expected
        os.close(fd)

    first = Path(hidden, "large").read_bytes()[100:107]
    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "-")
        bed.run(look, bed.mount, first)
        with open(f"{hidden}/large", "r+b") as file:
            file.seek(100)
            file.write(b"changed")
        bed.barrier()
        bed.run(look, bed.mount, b"changed")
        assert bed.stats()["bytes_in"] < SIZE


@pytest.mark.parametrize("when", ["before the offer", "while the node looks for it"])
def test_what_the_node_writes_is_not_undone_by_what_it_keeps(directory: str, when: str) -> None:
    fill(directory)
    run(directory, files=2, path=OWN)
    path = f"{directory}/view/large"

    def write() -> None:
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, b"written", 100)
        os.close(fd)

    def look() -> None:
        fd = os.open(path, os.O_RDONLY)
        assert os.pread(fd, 7, 100) == b"written"
        os.close(fd)

    with Bed(directory, state=f"{directory}/state", delay=0.001) as bed:
        # Starts the shelf.
        bed.prefetch("/first", OWN)
        bed.run(os.stat, path)
        (shelf,) = bed.children_of_view()
        if when == "before the offer":
            bed.pause_line()
            bed.run(write)
            bed.push("/second", "large")
            bed.resume_line()
            bed.barrier()
            bed.run(look)
        else:
            os.kill(shelf, signal.SIGSTOP)
            bed.prefetch("/second", "large")
            bed.run(write)
            looking = bed.start(look)
            os.kill(shelf, signal.SIGCONT)
            bed.finish(looking)
        bed.run(look)
    assert Path(directory, "home/large").read_bytes()[100:107] == b"written"


def test_contents_come_from_home_when_the_shelf_dies(directory: str) -> None:
    fill(directory)

    def read(mount: str) -> None:
        with open(f"{mount}/large", "rb") as file, open(f"{directory}/home/large", "rb") as native:
            assert file.read() == native.read()

    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "-")
        (shelf,) = bed.children_of_view()
        os.kill(shelf, signal.SIGKILL)
        bed.run(read, bed.mount)
        until(lambda: not bed.children_of_view())


def test_a_file_changed_lately_is_not_hashed(directory: str) -> None:
    young, settled = f"{directory}/home/young", f"{directory}/home/large"
    shutil.copy(settled, young)

    def read(mount: str) -> None:
        for name in ("young", "large"):
            with open(f"{mount}/{name}", "rb") as file:
                assert len(file.read()) == SIZE

    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "-")
        bed.run(read, bed.mount)
        os.utime(young)
        bed.barrier()
        bed.touched()
        until(lambda: hashed(directory))
    assert hashed(directory) == 1


def test_the_nodes_own_file_is_read_when_it_is_the_same(directory: str) -> None:
    run(directory, files=1, path=OWN)
    shutil.rmtree(f"{directory}/content")
    assert run(directory, path=OWN) == 0


def test_the_nodes_own_file_is_not_read_when_it_differs(directory: str) -> None:
    path = directory + "/home" + OWN
    with open(path, "r+b") as file:
        file.seek(2 * UNIT)
        file.write(b"another version")
    settle(path)
    run(directory, files=1, path=OWN)
    shutil.rmtree(f"{directory}/content")
    assert 0 < run(directory, path=OWN) <= UNIT


def test_a_node_without_a_place_for_a_cache_does_without(directory: str) -> None:
    Path(directory, "content").write_text("no directory\n")
    run(directory, files=1)
    assert run(directory) == SIZE
    assert run(directory) == SIZE


# the shelf by itself


def unit(number: int, length: int = UNIT) -> tuple[bytes, bytes]:
    data = number.to_bytes(4, "little") * (length // 4)
    return hashlib.sha256(data).digest(), data


def find(shelf: Shelf, number: int) -> bytes | None:
    return shelf.find(unit(number)[0], UNIT, b"/no/such", UNIT, 0)


def size_of(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def test_the_limit_is_kept_and_the_oldest_go_first(tmp_path: Path) -> None:
    limit = 20 * UNIT
    shelf = Shelf(str(tmp_path / "content"), limit)
    for number in range(50):
        digest, data = unit(number)
        assert shelf.keep(data) == digest
        place = tmp_path / "content" / digest.hex()[:2] / digest.hex()[2:]
        os.utime(place, (number + 1, number + 1))
        assert size_of(tmp_path) <= limit
    assert find(shelf, 49) == unit(49)[1]
    assert find(shelf, 0) is None


def test_small_contents_are_counted_as_what_they_take_of_the_disk(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path / "content"), UNIT)
    for number in range(100):
        shelf.keep(unit(number, 1000)[1])
        assert size_of(tmp_path) <= UNIT * 1000 // 4096


def test_what_is_not_lasting_leaves_nothing_behind(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path / "content"))
    for number in range(100):
        digest, data = unit(number, 1000)
        assert shelf.keep(data, lasting=False) == digest
    for number in range(100):
        digest, data = unit(number, 1000)
        assert shelf.find(digest, 1000, b"/no/such", 1000, 0) == data
    assert size_of(tmp_path) == 0


def test_a_spool_that_is_full_begins_anew(tmp_path: Path) -> None:
    with open(tmp_path / "spool", "w+b") as file:
        spool = Spool(file.fileno(), 10 * UNIT)
        for number in range(25):
            digest, data = unit(number)
            spool.keep(digest, data)
            assert spool.find(digest) == data
            assert os.fstat(file.fileno()).st_size <= 10 * UNIT
        assert spool.find(unit(19)[0]) is None
        assert spool.find(unit(20)[0]) == unit(20)[1]
        os.pwrite(file.fileno(), b"damaged", 5)
        assert spool.find(unit(20)[0]) is None


def test_nobody_else_may_look_into_the_cache(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "content", 0o755)
    Shelf(str(tmp_path / "content")).keep(unit(1)[1])
    assert os.stat(tmp_path / "content").st_mode & 0o777 == 0o700
    assert all(place.stat().st_mode & 0o077 == 0 for place in tmp_path.rglob("content/*"))


def test_another_user_of_the_node_neither_reads_nor_fills_the_cache() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        content = Path(directory, "content")
        Shelf(str(content)).keep(unit(1)[1])

        def other() -> None:
            shelf = Shelf(str(content))
            assert find(shelf, 1) is None
            assert shelf.keep(unit(2)[1]) == b""
            assert find(shelf, 2) is None

        in_child(other, uid=1000)
        assert size_of(content) == UNIT


def test_a_full_disk_is_no_error(tmp_path: Path) -> None:
    def fill_up() -> None:
        mount(b"none", os.fsencode(tmp_path), b"tmpfs", 0, b"size=4m")
        with open(tmp_path / "other", "wb") as file:
            file.write(bytes(2 << 20))
        shelf = Shelf(str(tmp_path / "content"))
        shelf.keep(unit(0)[1])
        assert find(shelf, 0) == unit(0)[1]
        with pytest.raises(OSError, match="No space"), open(tmp_path / "rest", "wb") as file:
            file.write(bytes(4 << 20))
        for number in range(1, 10):
            shelf.keep(unit(number)[1])
        # The user needs the room: what was kept may be given up, and nothing new is kept.
        assert find(shelf, 9) is None
        assert size_of(tmp_path / "content") <= UNIT

    in_new_mount_namespace(fill_up)


def test_many_agents_share_one_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "content")

    def work(first: int) -> Callable[[], None]:
        def run() -> None:
            shelf = Shelf(path, 12 * UNIT)
            for number in range(first, first + 40):
                shelf.keep(unit(number % 30)[1])
                found = find(shelf, (number * 7) % 30)
                assert found in (None, unit((number * 7) % 30)[1])

        return run

    pids = []
    for first in (0, 10, 20):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                work(first)()
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]


def test_files_that_others_may_not_read_and_links_out_of_the_system_are_not_looked_at(
    tmp_path: Path,
) -> None:
    shelf = Shelf(str(tmp_path / "content"))
    data = Path(OWN).read_bytes()
    digest = hashlib.sha256(data[:UNIT]).digest()
    other = tmp_path / "bash"
    other.write_bytes(data)

    def look(path: str) -> bytes | None:
        return shelf.find(digest, UNIT, os.fsencode(path), len(data), 0)

    assert look(OWN) == data[:UNIT]
    assert look(str(other)) is None
    assert look(f"/usr/..{other}") is None

    def unreadable() -> None:
        mount(os.fsencode(other), os.fsencode(OWN), b"none", 4096)  # MS_BIND
        assert look(OWN) == data[:UNIT]
        os.chmod(other, 0o700)
        assert look(OWN) is None

    in_new_mount_namespace(unreadable)
