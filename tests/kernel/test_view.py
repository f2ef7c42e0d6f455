import errno
import fcntl
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stubs.abi import fuse
from stubs.home.files.policy import ExportPolicy
from tests.kernel.viewbed import Bed, wait_or_kill
from tests.posix.tools import fails, make, names, read, until

USER = 1000


@pytest.fixture(params=[0, USER], ids=["root", "user"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, request.param) as bed:
            yield bed


@pytest.fixture
def root_bed() -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory, Bed(directory) as bed:
        yield bed


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


def _read_text(path: str) -> str:
    with open(path) as file:
        return file.read()


REMOTE: dict[str, Callable[..., object]] = {
    "read": _read_text,
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


def _put(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# changes at home


def test_new_changed_and_deleted_files_are_seen_after_a_barrier(bed: Bed, remote: Remote) -> None:
    view, home = bed.mount, bed.home
    assert remote("names", view) == []
    assert remote("exists", f"{view}/a") is False
    for turn in range(20):
        _put(f"{home}/a", "x" * turn)
        bed.barrier()
        assert remote("read", f"{view}/a") == "x" * turn
        assert remote("names", view) == ["a"]
        _put(f"{home}/a", "y" * turn)
        bed.barrier()
        assert remote("read", f"{view}/a") == "y" * turn
        os.unlink(f"{home}/a")
        bed.barrier()
        assert remote("exists", f"{view}/a") is False
        assert remote("names", view) == []


def test_same_size_and_time_but_other_contents(bed: Bed, remote: Remote) -> None:
    _put(f"{bed.home}/a", "one")
    os.utime(f"{bed.home}/a", ns=(1, 1))
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "one"
    _put(f"{bed.home}/a", "two")
    os.utime(f"{bed.home}/a", ns=(1, 1))
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "two"


def test_an_open_file_shows_what_home_writes(bed: Bed, remote: Remote) -> None:
    view, home = bed.mount, bed.home
    _put(f"{home}/log", "LON")
    assert remote("hold", f"{view}/log") == 3
    assert remote("read_held", f"{view}/log") == ["LON", 3, 1]
    for turn in range(20):
        with open(f"{home}/log", "a") as file:
            file.write(f" line {turn}")
        bed.barrier()
        text = _read_text(f"{home}/log")
        assert remote("read_held", f"{view}/log") == [text, len(text), 1]
    os.truncate(f"{home}/log", 2)
    bed.barrier()
    assert remote("read_held", f"{view}/log") == ["LO", 2, 1]


def test_an_open_file_outlives_its_name_at_home(bed: Bed, remote: Remote) -> None:
    view, home = bed.mount, bed.home
    for name in ("removed", "replaced"):
        _put(f"{home}/{name}", name)
        bed.barrier()
        assert remote("hold", f"{view}/{name}") == len(name)
    bed.barrier()  # home has heard by now that they are open
    os.unlink(f"{home}/removed")
    _put(f"{home}/new", "new contents")
    os.rename(f"{home}/new", f"{home}/replaced")
    bed.barrier()
    assert remote("read_held", f"{view}/removed") == ["removed", 7, 0]
    assert remote("read_held", f"{view}/replaced") == ["replaced", 8, 0]
    assert remote("read", f"{view}/replaced") == "new contents"
    assert remote("names", view) == ["replaced"]


def test_attributes_changed_at_home(bed: Bed, remote: Remote) -> None:
    _put(f"{bed.home}/a", "a")
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
    _put(f"{bed.home}/a", "one")
    os.link(f"{bed.home}/a", f"{bed.home}/sub/b")
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "one"
    assert remote("read", f"{bed.mount}/sub/b") == "one"
    _put(f"{bed.home}/sub/b", "other")
    bed.barrier()
    assert remote("read", f"{bed.mount}/a") == "other"


def test_directories_moved_at_home(bed: Bed, remote: Remote) -> None:
    os.makedirs(f"{bed.home}/a/b")
    _put(f"{bed.home}/a/b/f", "f")
    if bed.uid:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", f"{bed.home}/a"], check=True)
    bed.barrier()
    assert remote("read", f"{bed.mount}/a/b/f") == "f"
    os.rename(f"{bed.home}/a/b", f"{bed.home}/moved")
    bed.barrier()
    assert remote("exists", f"{bed.mount}/a/b") is False
    assert remote("read", f"{bed.mount}/moved/f") == "f"
    assert remote("names", f"{bed.mount}/a") == []
    _put(f"{bed.home}/moved/f", "changed after the move")
    bed.barrier()
    assert remote("read", f"{bed.mount}/moved/f") == "changed after the move"
    os.symlink("moved", f"{bed.home}/l")
    bed.barrier()
    assert remote("readlink", f"{bed.mount}/l") == "moved"
    assert remote("read", f"{bed.mount}/l/f") == "changed after the move"


def test_a_file_becomes_a_directory(bed: Bed, remote: Remote) -> None:
    for turn in range(5):
        _put(f"{bed.home}/x", f"{turn}")
        bed.barrier()
        assert remote("read", f"{bed.mount}/x") == f"{turn}"
        os.unlink(f"{bed.home}/x")
        os.mkdir(f"{bed.home}/x")
        _put(f"{bed.home}/x/inner", "inner")
        bed.barrier()
        assert remote("read", f"{bed.mount}/x/inner") == "inner"
        shutil.rmtree(f"{bed.home}/x")


def test_the_working_directory_survives_changes_in_and_above_it(bed: Bed, remote: Remote) -> None:
    os.makedirs(f"{bed.home}/a/b")
    bed.barrier()
    remote("chdir", f"{bed.mount}/a/b")
    for turn in range(5):
        _put(f"{bed.home}/a/b/f{turn}", "x")
        _put(f"{bed.home}/a/g{turn}", "x")
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
        _put(f"{bed.home}/a", f"text{turn}")
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
    _put(f"{bed.home}/large/f7", "changed")
    os.unlink(f"{bed.home}/large/f8")
    _put(f"{bed.home}/large/new", "new")
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
        _put(f"{bed.home}/{name}", "before")
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
    _put(f"{bed.home}/a/one", "after")
    os.unlink(f"{bed.home}/a/two")
    _put(f"{bed.home}/a/b/three", "and after")
    _put(f"{bed.home}/a/b/four", "four")
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
        _put(f"{bed.home}/f{number}", str(number))
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
    _put(f"{bed.home}/n", "0")
    os.chmod(f"{bed.home}/n", 0o666)
    bed.barrier()
    for turn in range(50):
        bed.run(_increment, f"{bed.mount}/n")
        assert _read_text(f"{bed.home}/n") == str(2 * turn + 1)
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
    _put(f"{bed.home}/log", "")
    os.chmod(f"{bed.home}/log", 0o666)
    bed.barrier()
    started = bed.start(_append_lines, f"{bed.mount}/log", "node")
    _append_lines(f"{bed.home}/log", "home")
    bed.finish(started)
    until(lambda: len(_read_text(f"{bed.home}/log").splitlines()) == 400)
    lines = _read_text(f"{bed.home}/log").splitlines()
    for letter in ("home", "node"):
        mine = [line for line in lines if line.startswith(letter)]
        assert mine == [f"{letter} {number}" for number in range(200)]
    bed.barrier()
    bed.run(_is_text, f"{bed.mount}/log", _read_text(f"{bed.home}/log"))


def _is_text(path: str, text: str) -> None:
    assert _read_text(path) == text


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
        bed.run(_list_all, bed.mount)
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


# locks and databases


def _lock_and_wait(path: str, locked: int, go: int) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.write(locked, b"x")
    os.read(go, 1)


def test_locks_exclude_processes_at_home(bed: Bed) -> None:
    _put(f"{bed.home}/f", "f")
    os.chmod(f"{bed.home}/f", 0o666)
    bed.barrier()
    locked, tell = os.pipe()
    go, let_go = os.pipe()
    started = bed.start(_lock_and_wait, f"{bed.mount}/f", tell, go)
    os.read(locked, 1)
    fd = os.open(f"{bed.home}/f", os.O_RDWR)
    assert fails(errno.EAGAIN, fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(let_go, b"x")
    bed.finish(started)
    until(lambda: not fails(errno.EAGAIN, fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


def _count_rows(path: str, name: str, count: int) -> None:
    with sqlite3.connect(path, timeout=60, isolation_level=None) as database:
        for number in range(count):
            database.execute("insert into t values (?, ?)", (name, number))
    database.close()


def test_a_database_used_from_both_sides_keeps_every_row(bed: Bed) -> None:
    path = f"{bed.home}/db"
    with sqlite3.connect(path) as database:
        database.execute("create table t (who text, n integer)")
    database.close()
    if bed.uid:
        os.chown(path, bed.uid, bed.uid)
        os.chmod(bed.home, 0o777)
    started = bed.start(_count_rows, f"{bed.mount}/db", "node", 60)
    _count_rows(path, "home", 60)
    bed.finish(started)
    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        rows = dict(database.execute("select who, count(*) from t group by who").fetchall())
    database.close()
    assert rows == {"node": 60, "home": 60}


# rights


def test_other_peoples_files_answer_as_at_home(root_bed: Bed) -> None:
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        home = f"{directory}/home"
        os.mkdir(home)
        os.chmod(home, 0o755)
        for mode in (0o644, 0o600, 0o666, 0o755, 0o700):
            _put(f"{home}/f{mode:o}", "text")
            os.chmod(f"{home}/f{mode:o}", mode)
        for mode in (0o755, 0o700, 0o1777, 0o711):
            os.mkdir(f"{home}/d{mode:o}")
            _put(f"{home}/d{mode:o}/in", "in")
            os.chmod(f"{home}/d{mode:o}", mode)
        bed = Bed(directory, USER)
        os.chown(home, 0, 0)
        with bed:
            bed.run(_write_rights, home, f"{directory}/plain.json")
            bed.run(_write_rights, bed.mount, f"{directory}/view.json")
        found = []
        for name in ("plain", "view"):
            found.append(_read_text(f"/tmp/{os.path.basename(directory)}-{name}"))
            os.unlink(f"/tmp/{os.path.basename(directory)}-{name}")
        plain, view = map(json.loads, found)
        for name, outcome in view.items():
            if outcome == "EOVERFLOW":
                # Who owns it is looked at before rights are (may_delete, notify_change), and the
                # owner is nobody.
                assert name.endswith((" unlink", " chmod"))
                assert plain[name] in ("EPERM", "EACCES")
                view[name] = plain[name]
        assert view == plain
        assert "EACCES" in plain.values()


def _outcome(call: Callable[..., object], *arguments: object) -> str:
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def _write_rights(d: str, out: str) -> None:
    found = {}
    for name in sorted(os.listdir(d)):
        path = f"{d}/{name}"
        if name.startswith("f"):
            for how in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                found[f"{name} {how}"] = _outcome(os.open, path, how)
        else:
            found[f"{name} list"] = _outcome(os.listdir, path)
            found[f"{name} in"] = _outcome(os.stat, f"{path}/in")
            found[f"{name} make"] = _outcome(os.mkdir, f"{path}/new")
            _outcome(os.rmdir, f"{path}/new")
            found[f"{name} unlink"] = _outcome(os.unlink, f"{path}/in")
        found[f"{name} access"] = "".join(
            str(int(os.access(path, bit))) for bit in (os.R_OK, os.W_OK, os.X_OK)
        )
        found[f"{name} chmod"] = _outcome(os.chmod, path, 0o777)
    name = os.path.basename(os.path.dirname(out)) + "-" + os.path.basename(out).split(".")[0]
    _put(f"/tmp/{name}", json.dumps(found, indent=1))


def test_hidden_and_read_only_places() -> None:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        for name in ("secret", "fixed", "open"):
            os.makedirs(f"{directory}/home/{name}")
            _put(f"{directory}/home/{name}/f", "f")
        policy = ExportPolicy(
            [os.fsencode(f"{directory}/home/secret")], [os.fsencode(f"{directory}/home/fixed")]
        )
        with Bed(directory, policy=policy) as bed:
            bed.run(_try_hidden_and_read_only, bed.mount)


def _try_hidden_and_read_only(d: str) -> None:
    assert names(d) == ["fixed", "open"]
    assert fails(errno.ENOENT, os.stat, f"{d}/secret")
    assert fails(errno.ENOENT, os.stat, f"{d}/secret/f")
    assert read(d, "fixed/f") == b"f"
    assert fails(errno.EROFS, os.open, f"{d}/fixed/f", os.O_WRONLY)
    assert fails(errno.EROFS, make, d, "fixed/new")
    assert fails(errno.EROFS, os.unlink, f"{d}/fixed/f")
    make(d, "open/new")


# by inode


def _open_by_id(view: str, number: int, text: str) -> None:
    with open(f"{view}/.mlaunch-view/{number}") as file:
        assert file.read() == text
    assert ".mlaunch-view" not in os.listdir(view)
    assert os.listdir(f"{view}/.mlaunch-view") == []
    assert fails(errno.ENOENT, os.stat, f"{view}/.mlaunch-view/nonsense")
    assert fails(errno.ESTALE, os.stat, f"{view}/.mlaunch-view/{1 << 40}")


def test_files_are_found_by_inode_id(root_bed: Bed) -> None:
    _put(f"{root_bed.home}/a", "a")
    root_bed.barrier()
    root_bed.run(_is_text, f"{root_bed.mount}/a", "a")
    root_bed.run(_open_by_id, root_bed.mount, 2, "a")


# what it costs


def _list_all(d: str) -> None:
    subprocess.run(["ls", "-lR", d], check=True, stdout=subprocess.DEVNULL)


def test_a_tree_costs_one_round_trip_per_directory(root_bed: Bed) -> None:
    bed = root_bed
    for number in range(30):
        os.makedirs(f"{bed.home}/t/{number}")
        for name in range(20):
            _put(f"{bed.home}/t/{number}/{name}", "x")
            os.symlink("x", f"{bed.home}/t/{number}/l{name}")
    bed.barrier()
    before = bed.stats()["round_trips"]
    bed.run(_list_all, f"{bed.mount}/t")
    assert bed.stats()["round_trips"] - before <= 1.2 * 32
    before = bed.stats()["round_trips"]
    bed.run(_list_all, f"{bed.mount}/t")
    assert bed.stats()["round_trips"] == before


def _open_and_read_all(d: str) -> None:
    for name in os.listdir(d):
        assert read(d, name) == b"x" * 1000
        assert not os.path.exists(f"{d}/no-{name}")


def test_warm_files_cost_no_round_trip(root_bed: Bed) -> None:
    bed = root_bed
    for number in range(50):
        _put(f"{bed.home}/f{number}", "x" * 1000)
    bed.barrier()
    bed.run(_open_and_read_all, bed.mount)
    before = bed.stats()
    bed.run(_open_and_read_all, bed.mount)
    after = bed.stats()
    assert after["round_trips"] == before["round_trips"]
    assert after["counts"][fuse.FUSE_READ] == before["counts"][fuse.FUSE_READ]


def _make_files(d: str) -> None:
    for number in range(50):
        make(d, f"f{number}", b"x" * 3000)
        assert read(d, f"f{number}") == b"x" * 3000


def test_a_new_file_costs_one_round_trip(root_bed: Bed) -> None:
    before = root_bed.stats()["round_trips"]
    root_bed.run(_make_files, root_bed.mount)
    # One for the directory, one for each file, and a few that ask for a size while it is written.
    assert root_bed.stats()["round_trips"] - before <= 1 + 2 * 50


def _read_in_blocks(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 65536):
        pass


def test_reading_in_sequence_is_done_ahead(root_bed: Bed) -> None:
    with open(f"{root_bed.home}/large", "wb") as file:
        file.truncate(32 << 20)
    root_bed.barrier()
    before = root_bed.home_stats()["requests"]
    root_bed.run(_read_in_blocks, f"{root_bed.mount}/large")
    assert root_bed.home_stats()["requests"] - before <= 32 * 2 + 10
    assert root_bed.stats()["bytes_in"] <= (32 << 20) + (1 << 20)


# bad days


def _stall(path: str, ready: int) -> None:
    fd = os.open(path, os.O_RDWR)
    os.write(ready, b"x")
    fcntl.lockf(fd, fcntl.LOCK_EX)
    raise AssertionError("got the lock")


def _fails_at_once(d: str) -> None:
    for call in (os.listdir, os.stat):
        assert _outcome(call, f"{d}/never-seen") in ("EIO", "ENOTCONN", "ECONNABORTED")


def test_a_lost_link_ends_every_wait(bed: Bed) -> None:
    _put(f"{bed.home}/f", "f")
    os.chmod(f"{bed.home}/f", 0o666)
    bed.barrier()
    holder = os.open(f"{bed.home}/f", os.O_RDWR)
    fcntl.lockf(holder, fcntl.LOCK_EX)
    waiting, ready = os.pipe()
    started = bed.start(_stall, f"{bed.mount}/f", ready)
    os.read(waiting, 1)
    bed.lose()
    pid, _ = started
    assert wait_or_kill(pid) == 0x100
    bed.run(_fails_at_once, bed.mount)


# Of a mount whose server is gone.
_ENDED = {"EIO", "ENOTCONN", "ECONNABORTED"}


def _hammer(d: str) -> None:
    number = 0
    while True:
        number += 1
        outcomes = (
            _outcome(make, d, f"f{number % 50}", b"x" * number),
            _outcome(os.listdir, d),
            _outcome(os.stat, f"{d}/f{number % 50}"),
            _outcome(os.unlink, f"{d}/f{(number + 25) % 50}"),
            # Not there any more when the mount is gone, and this the directory below it.
            _outcome(os.stat, f"{d}/seed"),
        )
        # ESTALE: home replaced the file between two looks, again and again.
        assert set(outcomes) <= {"ok", "ENOENT", "ESTALE", *_ENDED}, outcomes
        # Some of it is answered from the kernel's caches to the last.
        if not _ENDED.isdisjoint(outcomes) or outcomes[-1] != "ok":
            return


@pytest.mark.parametrize("how", ["lose", "kill_view"])
def test_an_end_amid_changes_from_both_sides_leaves_nobody_waiting(root_bed: Bed, how: str) -> None:
    bed = root_bed
    _put(f"{bed.home}/seed", "x")
    started = [bed.start(_hammer, bed.mount) for _ in range(3)]
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            _put(f"{bed.home}/f{number % 50}", "y" * (number % 1000))
            if number % 3 == 0:
                try:
                    os.unlink(f"{bed.home}/f{(number + 7) % 50}")
                except FileNotFoundError:
                    continue  # the node was faster

    changer = threading.Thread(target=change)
    changer.start()
    try:
        requests = bed.stats()
        until(lambda: bed.stats()["round_trips"] > requests["round_trips"] + 300)
        getattr(bed, how)()
        for check in started:
            bed.finish(check)
    finally:
        stop.set()
        changer.join()


def _fill(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    outcomes = [_outcome(os.write, fd, b"x" * 65536) for _ in range(200)]
    outcomes.append(_outcome(os.fsync, fd))
    assert "EFBIG" in outcomes
    assert set(outcomes) == {"ok", "EFBIG"}


def _fill_and_do_not_look(path: str) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"x" * 65536)
    os._exit(0)


@pytest.fixture
def small_bed() -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        bed = Bed(directory, file_size=40_000)
        with bed:
            yield bed


def test_a_refused_write_is_told_by_a_later_call(small_bed: Bed) -> None:
    small_bed.run(_fill, f"{small_bed.mount}/f")
    assert small_bed.failure() is None
    assert os.path.getsize(f"{small_bed.home}/f") <= 40_000


def test_a_refused_write_that_nobody_asks_about_is_reported(small_bed: Bed) -> None:
    small_bed.run(_fill_and_do_not_look, f"{small_bed.mount}/f")
    until(lambda: _remember(small_bed) is not None)
    assert _failures == [[errno.EFBIG, "/f"]]
    _failures.clear()


_failures: list[list[object]] = []


def _remember(bed: Bed) -> object:
    failure = bed.failure()
    if failure is not None:
        _failures.append(failure)
    return failure


def test_signals_do_not_disturb_file_calls(root_bed: Bed) -> None:
    with open(f"{root_bed.home}/large", "wb") as file:
        file.truncate(8 << 20)
    root_bed.barrier()
    root_bed.run(_under_signals, root_bed.mount)


def _under_signals(d: str) -> None:
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for turn in range(20):
        make(d, f"s{turn}", b"s" * 50_000)
        assert read(d, f"s{turn}") == b"s" * 50_000
        assert len(read(d, "large")) == 8 << 20
        os.rename(f"{d}/s{turn}", f"{d}/t{turn}")
        os.unlink(f"{d}/t{turn}")
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert seen


def test_killed_processes_leave_the_view_in_order(root_bed: Bed) -> None:
    bed = root_bed
    _put(f"{bed.home}/seed", "x")
    for _ in range(20):
        before = bed.stats()["round_trips"]
        started = bed.start(_hammer, bed.mount)
        until(lambda: bed.stats()["round_trips"] > before + 5)  # noqa: B023
        os.kill(started[0], signal.SIGKILL)
        wait_or_kill(started[0])
        os.close(started[1])
    bed.run(_make_files, bed.mount)
    assert sorted(os.listdir(bed.home)) == sorted(set(os.listdir(bed.home)))
    bed.barrier()
    bed.run(_listing_is, bed.mount, sorted(os.listdir(bed.home)))


def _listing_is(d: str, expected: list[str]) -> None:
    assert names(d) == expected


def test_the_agent_stays_small(root_bed: Bed) -> None:
    bed = root_bed
    for number in range(60):
        os.mkdir(f"{bed.home}/{number}")
        for name in range(1000):
            os.mknod(f"{bed.home}/{number}/name-of-a-file-{name}", 0o100644)
    bed.barrier()
    empty = bed.stats()["rss"]
    bed.run(_list_all, bed.mount)
    assert bed.stats()["rss"] - empty < 36 << 20
    bed.run(_list_all, bed.mount)
    assert bed.stats()["rss"] - empty < 36 << 20


def test_python_of_the_node_is_enough() -> None:
    code = "import sys, stubs.node.view.view; print([m for m in sys.modules if '.' not in m])"
    out = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True)
    assert b"typing" not in out.stdout
    assert b"asyncio" not in out.stdout


def _read_often(d: str, interpreter: str) -> None:
    code = f"for _ in range(50): open({d!r} + '/seed').close()"
    subprocess.run([interpreter, "-S", "-c", code], check=True)


def test_a_compiler_closes_what_it_read_without_a_word(root_bed: Bed) -> None:
    bed = root_bed
    _put(f"{bed.home}/seed", "x")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        compiler = shutil.copy(os.path.realpath("/usr/bin/python3"), f"{directory}/x86-gcc-12")
        told = {}
        for interpreter in ("/usr/bin/python3", compiler):
            before = bed.stats()["counts"][fuse.FUSE_FLUSH]
            bed.run(_read_often, bed.mount, interpreter)
            told[interpreter] = bed.stats()["counts"][fuse.FUSE_FLUSH] - before
    assert told["/usr/bin/python3"] >= 50
    assert told[compiler] == 0


def test_time_spent_waiting_is_not_spent_computing(root_bed: Bed) -> None:
    before = root_bed.stats()["cpu"]
    start = time.monotonic()
    root_bed.run(_make_files, root_bed.mount)
    assert root_bed.stats()["cpu"] - before <= time.monotonic() - start
