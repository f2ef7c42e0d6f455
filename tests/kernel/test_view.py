import json
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.kernel.viewbed import Bed
from tests.kernel.viewcalls import USER, is_text, list_all, put, read_text
from tests.posix.tools import make, names, read, until


class Remote:
    """A process on the node that calls functions of ours one after the other."""

    def __init__(self, bed: Bed) -> None:
        questions, self._to = os.pipe()
        answers, answer = os.pipe()
        self._read = os.fdopen(answers, "rb")

        def loop() -> None:
            os.close(self._to)
            with open(questions, "rb") as lines:
                for line in lines:
                    name, arguments = json.loads(line)
                    try:
                        result = REMOTE[name](*arguments)
                    except OSError as error:
                        result = {"errno": error.errno}
                    os.write(answer, json.dumps(result).encode() + b"\n")

        self._bed = bed
        self._started = bed.start(loop)
        os.close(questions)
        os.close(answer)

    def __call__(self, name: str, *arguments: object) -> object:
        os.write(self._to, json.dumps([name, arguments]).encode() + b"\n")
        return json.loads(self._read.readline())

    def close(self) -> None:
        os.close(self._to)
        self._bed.finish(self._started)
        self._read.close()


_held: dict[str, int] = {}


def _hold_open(path: str) -> int:
    _held[path] = os.open(path, os.O_RDONLY)
    return os.fstat(_held[path]).st_size


def _read_held(path: str) -> list[object]:
    fd = _held[path]
    return [os.pread(fd, 1 << 20, 0).decode(), os.fstat(fd).st_size, os.fstat(fd).st_nlink]


def _stat(path: str) -> list[int]:
    found = os.lstat(path)
    return [found.st_size, found.st_mtime_ns, found.st_mode, found.st_nlink]


REMOTE: dict[str, Callable[..., object]] = {
    "read": read_text,
    "names": names,
    "exists": os.path.exists,
    "stat": _stat,
    "hold": _hold_open,
    "read_held": _read_held,
    "readlink": os.readlink,
    "chdir": os.chdir,
    "getcwd": os.getcwd,
}


@pytest.fixture
def remote(bed: Bed) -> Iterator[Remote]:
    remote = Remote(bed)
    yield remote
    remote.close()


# changes at home


def test_new_changed_and_deleted_files_are_seen_after_a_barrier(bed: Bed, remote: Remote) -> None:
    view, home = bed.mount, bed.home
    assert remote("names", view) == []
    assert remote("exists", f"{view}/a") is False
    for turn in range(20):
        put(f"{home}/a", "x" * turn)
        bed.barrier()
        assert remote("read", f"{view}/a") == "x" * turn
        assert remote("names", view) == ["a"]
        put(f"{home}/a", "y" * turn)
        bed.barrier()
        assert remote("read", f"{view}/a") == "y" * turn
        os.unlink(f"{home}/a")
        bed.barrier()
        assert remote("exists", f"{view}/a") is False
        assert remote("names", view) == []


def test_same_size_and_time_but_other_contents(bed: Bed, remote: Remote) -> None:
    put(f"{bed.home}/a", "one")
    os.utime(f"{bed.home}/a", ns=(1, 1))
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "one"
    put(f"{bed.home}/a", "two")
    os.utime(f"{bed.home}/a", ns=(1, 1))
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "two"


def test_an_open_file_shows_what_home_writes(bed: Bed, remote: Remote) -> None:
    view, home = bed.mount, bed.home
    put(f"{home}/log", "LON")
    assert remote("hold", f"{view}/log") == 3
    assert remote("read_held", f"{view}/log") == ["LON", 3, 1]
    for turn in range(20):
        with open(f"{home}/log", "a") as file:
            file.write(f" line {turn}")
        bed.barrier()
        text = read_text(f"{home}/log")
        assert remote("read_held", f"{view}/log") == [text, len(text), 1]
    os.truncate(f"{home}/log", 2)
    bed.barrier()
    assert remote("read_held", f"{view}/log") == ["LO", 2, 1]


def test_an_open_file_outlives_its_name_at_home(bed: Bed, remote: Remote) -> None:
    view, home = bed.mount, bed.home
    for name in ("removed", "replaced"):
        put(f"{home}/{name}", name)
        bed.barrier()
        assert remote("hold", f"{view}/{name}") == len(name)
    bed.barrier()  # home has heard by now that they are open
    os.unlink(f"{home}/removed")
    put(f"{home}/new", "new contents")
    os.rename(f"{home}/new", f"{home}/replaced")
    bed.barrier()
    assert remote("read_held", f"{view}/removed") == ["removed", 7, 0]
    assert remote("read_held", f"{view}/replaced") == ["replaced", 8, 0]
    assert remote("read", f"{view}/replaced") == "new contents"
    assert remote("names", view) == ["replaced"]


def test_attributes_changed_at_home(bed: Bed, remote: Remote) -> None:
    put(f"{bed.home}/a", "a")
    os.chmod(f"{bed.home}/a", 0o644)
    bed.barrier()
    assert remote("stat", f"{bed.mount}/a")[2] & 0o777 == 0o644  # type: ignore[index]
    os.chmod(f"{bed.home}/a", 0o755)
    os.utime(f"{bed.home}/a", ns=(5, 6))
    os.link(f"{bed.home}/a", f"{bed.home}/b")
    bed.barrier()
    assert remote("stat", f"{bed.mount}/a") == [1, 6, stat.S_IFREG | 0o755, 2]


def test_hard_links_share_what_home_changes(bed: Bed, remote: Remote) -> None:
    os.mkdir(f"{bed.home}/sub")
    put(f"{bed.home}/a", "one")
    os.link(f"{bed.home}/a", f"{bed.home}/sub/b")
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "one"
    assert remote("read", f"{bed.mount}/sub/b") == "one"
    put(f"{bed.home}/sub/b", "other")
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "other"


def test_directories_moved_at_home(bed: Bed, remote: Remote) -> None:
    os.makedirs(f"{bed.home}/a/b")
    put(f"{bed.home}/a/b/f", "f")
    if bed.uid:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", f"{bed.home}/a"], check=True)
    bed.barrier()
    assert remote("read", f"{bed.mount}/a/b/f") == "f"
    os.rename(f"{bed.home}/a/b", f"{bed.home}/moved")
    bed.barrier()
    assert remote("exists", f"{bed.mount}/a/b") is False
    assert remote("read", f"{bed.mount}/moved/f") == "f"
    assert remote("names", f"{bed.mount}/a") == []
    put(f"{bed.home}/moved/f", "changed after the move")
    bed.barrier()
    assert remote("read", f"{bed.mount}/moved/f") == "changed after the move"
    os.symlink("moved", f"{bed.home}/l")
    bed.barrier()
    assert remote("readlink", f"{bed.mount}/l") == "moved"
    assert remote("read", f"{bed.mount}/l/f") == "changed after the move"


def test_a_file_becomes_a_directory(bed: Bed, remote: Remote) -> None:
    for turn in range(5):
        put(f"{bed.home}/x", f"{turn}")
        bed.barrier()
        assert remote("read", f"{bed.mount}/x") == f"{turn}"
        os.unlink(f"{bed.home}/x")
        os.mkdir(f"{bed.home}/x")
        put(f"{bed.home}/x/inner", "inner")
        bed.barrier()
        assert remote("read", f"{bed.mount}/x/inner") == "inner"
        shutil.rmtree(f"{bed.home}/x")


def test_the_working_directory_survives_changes_in_and_above_it(bed: Bed, remote: Remote) -> None:
    os.makedirs(f"{bed.home}/a/b")
    bed.barrier()
    remote("chdir", f"{bed.mount}/a/b")
    for turn in range(5):
        put(f"{bed.home}/a/b/f{turn}", "x")
        put(f"{bed.home}/a/g{turn}", "x")
        os.chmod(f"{bed.home}/a/b", 0o700 + turn % 2 * 0o55)
        os.chmod(f"{bed.home}/a/b", 0o755)
        bed.barrier()
        assert remote("getcwd") == f"{bed.mount}/a/b"
        assert remote("exists", f"f{turn}") is True


def test_a_symlink_is_made_anew(bed: Bed, remote: Remote) -> None:
    for turn in range(10):
        os.symlink(f"target{turn}", f"{bed.home}/l")
        bed.barrier()
        assert remote("readlink", f"{bed.mount}/l") == f"target{turn}"
        os.unlink(f"{bed.home}/l")


def test_a_file_is_made_anew_with_the_same_size_and_time(bed: Bed, remote: Remote) -> None:
    for turn in range(10):
        put(f"{bed.home}/a", f"text{turn}")
        os.utime(f"{bed.home}/a", ns=(1, 1))
        bed.barrier()
        assert remote("read", f"{bed.mount}/a") == f"text{turn}"
        os.unlink(f"{bed.home}/a")


def test_a_large_directory(root_bed: Bed) -> None:
    bed = root_bed
    os.mkdir(f"{bed.home}/large")
    for number in range(12_000):
        os.mknod(f"{bed.home}/large/f{number}", 0o100644)
    bed.barrier()
    before = bed.stats()["round_trips"]
    bed.run(_look_around_in_large, f"{bed.mount}/large")
    assert bed.stats()["round_trips"] - before < 100
    put(f"{bed.home}/large/f7", "changed")
    os.unlink(f"{bed.home}/large/f8")
    put(f"{bed.home}/large/new", "new")
    bed.barrier()
    bed.run(_look_again_in_large, f"{bed.mount}/large")


def _look_around_in_large(d: str) -> None:
    for number in range(5, 10):
        assert os.path.getsize(f"{d}/f{number}") == 0
    assert not os.path.exists(f"{d}/new")
    make(d, "mine", b"mine")
    assert len(os.listdir(d)) == 12_001


def _look_again_in_large(d: str) -> None:
    assert read(d, "f7") == b"changed"
    assert read(d, "new") == b"new"
    assert not os.path.exists(f"{d}/f8")
    assert len(os.listdir(d)) == 12_001


def test_home_loses_count_of_its_changes(bed: Bed, remote: Remote) -> None:
    os.makedirs(f"{bed.home}/a/b")
    for name in ("a/one", "a/two", "a/b/three"):
        put(f"{bed.home}/{name}", "before")
    bed.barrier()
    assert remote("read", f"{bed.mount}/a/one") == "before"
    assert remote("read", f"{bed.mount}/a/b/three") == "before"
    assert remote("exists", f"{bed.mount}/a/b/four") is False
    remote("chdir", f"{bed.mount}/a/b")
    assert remote("hold", "three") == 6
    bed.pause_home()
    for number in range(10_000):
        os.mknod(f"{bed.home}/a/n{number}", 0o100644)
        os.unlink(f"{bed.home}/a/n{number}")
    put(f"{bed.home}/a/one", "after")
    os.unlink(f"{bed.home}/a/two")
    put(f"{bed.home}/a/b/three", "and after")
    put(f"{bed.home}/a/b/four", "four")
    bed.resume_home()
    bed.barrier()
    assert remote("read", f"{bed.mount}/a/one") == "after"
    assert remote("exists", f"{bed.mount}/a/two") is False
    assert remote("read", "four") == "four"
    assert remote("read_held", "three") == ["and after", 9, 1]
    assert remote("getcwd") == f"{bed.mount}/a/b"
    assert remote("names", f"{bed.mount}/a") == ["b", "one"]


def test_home_runs_what_the_node_has_just_written(bed: Bed) -> None:
    for turn in range(5):
        bed.run(shutil.copy, "/bin/echo", f"{bed.mount}/say")
        bed.barrier()
        out = subprocess.run([f"{bed.home}/say", str(turn)], check=True, capture_output=True)
        assert out.stdout == f"{turn}\n".encode()


def test_many_changes_at_once(bed: Bed, remote: Remote) -> None:
    for number in range(300):
        put(f"{bed.home}/f{number}", str(number))
    bed.barrier()
    assert len(remote("names", bed.mount)) == 300  # type: ignore[arg-type]
    for number in range(300):
        assert remote("exists", f"{bed.mount}/g{number}") is False
    for number in range(300):
        os.rename(f"{bed.home}/f{number}", f"{bed.home}/g{number}")
    bed.barrier()
    assert all(remote("read", f"{bed.mount}/g{n}") == str(n) for n in range(300))
    assert not any(remote("exists", f"{bed.mount}/f{n}") for n in range(300))


def test_home_and_node_take_turns(bed: Bed, remote: Remote) -> None:
    put(f"{bed.home}/n", "0")
    os.chmod(f"{bed.home}/n", 0o666)
    bed.barrier()
    for turn in range(50):
        bed.run(_increment, f"{bed.mount}/n")
        assert read_text(f"{bed.home}/n") == str(2 * turn + 1)
        _increment(f"{bed.home}/n")
        bed.barrier()
        assert remote("read", f"{bed.mount}/n") == str(2 * turn + 2)
        assert os.stat(f"{bed.home}/n").st_mtime_ns == remote("stat", f"{bed.mount}/n")[1]  # type: ignore[index]


def _increment(path: str) -> None:
    with open(path, "r+") as file:
        number = int(file.read()) + 1
        file.seek(0)
        file.write(str(number))
        file.flush()
        os.fsync(file.fileno())


# changes by the node


def _writer_in_order(d: str) -> None:
    for turn in range(100):
        make(d, f"a{turn}", b"a" * turn)
        make(d, f"b{turn}", b"b" * turn)


def test_home_sees_changes_in_the_order_in_which_they_were_made(bed: Bed) -> None:
    started = bed.start(_writer_in_order, bed.mount)
    for turn in range(100):
        until(lambda: os.path.exists(f"{bed.home}/b{turn}"))  # noqa: B023
        assert os.path.getsize(f"{bed.home}/a{turn}") == turn
    bed.finish(started)


def _write_slowly(path: str, ready: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"not closed, not synced")
    os.read(ready, 1)


def test_posted_writes_arrive_without_further_calls(bed: Bed) -> None:
    ready, go = os.pipe()
    started = bed.start(_write_slowly, f"{bed.mount}/f", ready)
    until(lambda: os.path.exists(f"{bed.home}/f") and os.path.getsize(f"{bed.home}/f") == 22)
    os.write(go, b"x")
    bed.finish(started)


def _append_lines(path: str, letter: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(200):
        os.write(fd, f"{letter} {number}\n".encode())
    assert os.lseek(fd, 0, os.SEEK_CUR) > 0
    os.close(fd)


def test_appends_of_home_and_node_lose_no_line(bed: Bed) -> None:
    put(f"{bed.home}/log", "")
    os.chmod(f"{bed.home}/log", 0o666)
    bed.barrier()
    started = bed.start(_append_lines, f"{bed.mount}/log", "node")
    _append_lines(f"{bed.home}/log", "home")
    bed.finish(started)
    until(lambda: len(read_text(f"{bed.home}/log").splitlines()) == 400)
    lines = read_text(f"{bed.home}/log").splitlines()
    for letter in ("home", "node"):
        mine = [line for line in lines if line.startswith(letter)]
        assert mine == [f"{letter} {number}" for number in range(200)]
    bed.barrier()
    bed.run(is_text, f"{bed.mount}/log", read_text(f"{bed.home}/log"))


Tree = dict[str, list[int]]


def _tree(d: str) -> Tree:
    found = {}

    def unreadable(error: OSError) -> None:
        raise error

    for top, directories, files in os.walk(d, onerror=unreadable):
        for name in directories + files:
            path = os.path.join(top, name)
            status = os.lstat(path)
            found[os.path.relpath(path, d)] = [
                status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                status.st_nlink, status.st_ino, status.st_uid, status.st_gid,
            ]  # fmt: skip
    return found


def _without_directories(tree: Tree) -> Tree:
    return {name: status for name, status in tree.items() if not stat.S_ISDIR(status[0])}


def _tree_is(d: str, expected: Tree) -> None:
    found = _tree(d)
    assert found.keys() == expected.keys()
    assert _without_directories(found) == _without_directories(expected)
    # A directory into which nobody has looked yet is not watched: a second is what its times
    # and link count may lag behind.
    until(lambda: _tree(d) == expected)


def _random_changes(d: str, seed: int) -> None:
    chance = random.Random(seed)
    paths = [d]
    for turn in range(150):
        where = chance.choice(paths)
        path = f"{where}/n{chance.randrange(12)}"
        action = chance.randrange(9)
        try:
            if action == 0:
                os.mkdir(path)
                paths.append(path)
            elif action == 1:
                os.unlink(path)
            elif action == 2:
                os.rename(path, f"{chance.choice(paths)}/m{chance.randrange(12)}")
            elif action == 3:
                os.symlink(f"t{turn}", path)
            elif action == 4:
                os.link(path, f"{where}/l{chance.randrange(12)}")
            elif action == 5:
                os.chmod(path, 0o600 + chance.randrange(64), follow_symlinks=False)
            elif action == 6:
                os.truncate(path, chance.randrange(100_000))
            else:
                fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
                os.pwrite(fd, b"w" * chance.randrange(20_000), chance.randrange(20_000))
                os.close(fd)
        except (OSError, NotImplementedError):
            continue
        paths = [path for path in paths if os.path.isdir(path) and not os.path.islink(path)]


@pytest.mark.parametrize("seed", range(4))
def test_node_and_home_agree_after_random_changes_by_both(root_bed: Bed, seed: int) -> None:
    bed = root_bed
    for turn in range(5):
        bed.run(_random_changes, bed.mount, seed * 100 + turn * 2)
        bed.run(list_all, bed.mount)
        _random_changes(bed.home, seed * 100 + turn * 2 + 1)
        bed.barrier()
        bed.run(_tree_is, bed.mount, _tree(bed.home))
        bed.run(_contents_agree, bed.mount, bed.home)


def _contents_agree(view: str, home: str) -> None:
    for top, _, files in os.walk(view):
        for name in files:
            path = os.path.join(top, name)
            if os.path.islink(path):
                continue
            with open(path, "rb") as one, open(home + path[len(view) :], "rb") as other:
                assert one.read() == other.read(), path
