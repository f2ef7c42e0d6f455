"""Changes that the node answers at once: what home sees of them, in which order, and what not."""

import errno
import os
import select
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

from stubs.abi import inotify
from stubs.abi.inotify import IN_CREATE, IN_DELETE, IN_MODIFY
from tests.kernel.viewbed import Bed
from tests.posix.tools import fails, until

USER = 1000
MAKE = os.O_WRONLY | os.O_CREAT
PATIENCE = 10  # seconds


@pytest.fixture(params=[0, USER], ids=["root", "user"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-posted-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, request.param) as bed:
            os.mkdir(f"{bed.home}/d")
            os.mkdir(f"{bed.home}/tmp")
            os.chmod(f"{bed.home}/tmp", 0o1777)
            if request.param:
                os.chown(f"{bed.home}/d", request.param, request.param)
            bed.barrier()
            # Both directories known in full, so that what is measured is warm.
            bed.run(lambda: [os.listdir(f"{bed.mount}/{name}") for name in ("d", "tmp")])
            yield bed


# Without fstat(2), which is what open() of Python does: that waits for home's answer.


def make(path: str, data: bytes) -> None:
    fd = os.open(path, MAKE | os.O_TRUNC, 0o644)
    while data:
        data = data[os.write(fd, data) :]
    os.close(fd)


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    os.close(fd)
    return b"".join(parts)


class Watch:
    """Events in a directory at home."""

    def __init__(self, path: str) -> None:
        self._fd = inotify.init()
        mask = IN_CREATE | IN_DELETE | IN_MODIFY
        inotify.inotify_add_watch(self._fd, os.fsencode(path), mask)

    def seen(self) -> list[tuple[int, str]]:
        found = []
        for _, mask, _, name in inotify.read_events(self._fd):
            if not found or found[-1] != (mask, os.fsdecode(name)):
                found.append((mask, os.fsdecode(name)))
        return found

    def close(self) -> None:
        os.close(self._fd)


def _waits_of(bed: Bed, check: Callable[[], object]) -> int:
    before = bed.stats()["round_trips"]
    bed.run(check)
    return int(bed.stats()["round_trips"]) - before


def _while_home_sleeps(bed: Bed, check: Callable[[], object]) -> None:
    """Run what must not wait for home, with a home that does not answer."""
    bed.pause_home()
    started = bed.start(check)
    # Its end closes the pipe. Who waits for home cannot be killed.
    ended = select.select([started[1]], [], [], PATIENCE)[0]
    bed.resume_home()
    bed.finish(started)
    assert ended, "it waited for home"


def _sent(bed: Bed) -> int:
    return int(bed.stats()["bytes_out"])


# order


def test_home_sees_what_is_posted_in_the_order_in_which_it_was_done(bed: Bed) -> None:
    directory = f"{bed.mount}/d"

    def check() -> None:
        make(f"{directory}/one", b"1")
        make(f"{directory}/two", b"2")
        os.unlink(f"{directory}/one")
        make(f"{directory}/three", b"3")
        os.chmod(f"{directory}/three", 0o600)
        assert not os.access(f"{directory}/one", os.F_OK)
        assert os.access(f"{directory}/two", os.F_OK)
        assert read(f"{directory}/three") == b"3"

    watch = Watch(f"{bed.home}/d")
    _while_home_sleeps(bed, check)
    bed.barrier()
    assert watch.seen() == [
        (IN_CREATE, "one"),
        (IN_MODIFY, "one"),
        (IN_CREATE, "two"),
        (IN_MODIFY, "two"),
        (IN_DELETE, "one"),
        (IN_CREATE, "three"),
        (IN_MODIFY, "three"),
    ]
    watch.close()
    assert stat.S_IMODE(os.stat(f"{bed.home}/d/three").st_mode) == 0o600
    assert bed.failure() is None


def test_what_is_exclusive_waits_for_home(bed: Bed) -> None:
    directory = f"{bed.mount}/d"
    os.mkdir(f"{bed.home}/d/sub")
    bed.barrier()
    for step in (
        lambda: os.close(os.open(f"{directory}/index.lock", MAKE | os.O_EXCL)),
        lambda: os.close(os.open(f"{directory}/ccAbCdEf.s", MAKE | os.O_EXCL)),
        lambda: os.close(os.open(f"{bed.mount}/tmp/x.lock", MAKE | os.O_EXCL)),
        lambda: os.mkdir(f"{directory}/lock"),
        lambda: os.symlink("1", f"{directory}/link"),
        lambda: os.link(f"{directory}/index.lock", f"{directory}/other"),
        lambda: os.rename(f"{directory}/other", f"{directory}/claimed"),
    ):
        assert _waits_of(bed, step) >= 1


def test_only_one_of_many_makes_a_lock_file(bed: Bed) -> None:
    def take(directory: str, mine: str) -> None:
        for turn in range(100):
            try:
                fd = os.open(f"{directory}/{turn}.lock", MAKE | os.O_EXCL)
            except FileExistsError:
                continue
            os.write(fd, mine.encode())
            os.close(fd)

    started = bed.start(take, f"{bed.mount}/d", "node")
    take(f"{bed.home}/d", "home")
    bed.finish(started)
    bed.barrier()
    for turn in range(100):
        assert read(f"{bed.home}/d/{turn}.lock") in (b"node", b"home")
    assert bed.failure() is None


# attributes


def test_attributes_after_a_posted_change_are_those_of_home(bed: Bed) -> None:
    seen = f"{bed.mount}/d"

    def facts(path: str) -> list[tuple[int, ...]]:
        found = []
        for each in (f"{path}/made", path):
            info = os.stat(each)
            found.append((info.st_mode, info.st_mtime_ns, info.st_ctime_ns, info.st_nlink))
            found.append((info.st_size, info.st_uid, info.st_gid))
        return [*found, (os.stat(f"{path}/made").st_ino,)]

    def check() -> None:
        with open(f"{seen}/made", "wb") as file:
            first = os.fstat(file.fileno())
            file.write(b"some text")
        assert facts(seen) == facts(f"{bed.home}/d")
        assert first.st_ino == os.stat(f"{bed.home}/d/made").st_ino
        os.chmod(f"{seen}/made", 0o750)
        os.utime(f"{seen}/made", ns=(5, 7))
        assert os.stat(f"{seen}/made").st_mtime_ns == 7
        os.truncate(f"{seen}/made", 4)
        assert facts(seen) == facts(f"{bed.home}/d")
        with open(f"{seen}/made", "rb") as file:
            os.unlink(f"{seen}/made")
            assert os.fstat(file.fileno()).st_nlink == 0
            assert file.read() == b"some"
        assert os.stat(seen).st_mtime_ns == os.stat(f"{bed.home}/d").st_mtime_ns

    bed.run(check)


def test_a_file_that_loses_one_of_its_names_keeps_the_other(bed: Bed) -> None:
    directory = f"{bed.mount}/d"

    def check() -> None:
        make(f"{directory}/a", b"text")
        os.link(f"{directory}/a", f"{directory}/b")
        assert os.stat(f"{directory}/a").st_nlink == 2
        os.unlink(f"{directory}/a")
        assert os.stat(f"{directory}/b").st_nlink == 1
        make(f"{directory}/a", b"other")
        assert os.stat(f"{directory}/a").st_ino != os.stat(f"{directory}/b").st_ino
        assert read(f"{directory}/b") == b"text"

    bed.run(check)
    assert read(f"{bed.home}/d/a") == b"other"
    assert read(f"{bed.home}/d/b") == b"text"


def test_what_was_forbidden_by_a_posted_chmod_is_forbidden_at_once() -> None:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-posted-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, USER) as bed:
            path = f"{bed.mount}/f"

            def check() -> None:
                make(path, b"text")
                os.chmod(path, 0)
                assert fails(errno.EACCES, os.open, path, os.O_RDONLY)
                os.chmod(path, 0o400)
                assert read(path) == b"text"
                assert fails(errno.EACCES, os.open, path, os.O_WRONLY)

            bed.run(check)


# refusals and races


def test_a_refused_create_is_told_by_a_later_call_or_at_the_end(bed: Bed) -> None:
    path = f"{bed.mount}/d/f"

    def unasked() -> None:
        os.close(os.open(path, MAKE, 0o644))

    def asked() -> None:
        fd = os.open(path, MAKE, 0o644)
        os.mkdir(f"{bed.home}/d/f")
        bed.resume_home()
        assert fails(errno.ESTALE, os.fsync, fd)
        os.close(fd)
        assert os.path.isdir(path)

    _while_home_sleeps(bed, lambda: (unasked(), os.mkdir(f"{bed.home}/d/f")))
    bed.barrier()
    until(lambda: bed.failure() == [errno.ESTALE, "/d/f"])
    bed.run(lambda: os.stat(path))
    os.rmdir(f"{bed.home}/d/f")
    bed.barrier()
    _while_home_sleeps(bed, asked)
    assert bed.failure() is None


def test_a_refused_removal_is_told(bed: Bed) -> None:
    make(f"{bed.home}/d/f", b"")
    os.chown(f"{bed.home}/d/f", bed.uid, bed.uid)
    bed.barrier()

    def check() -> None:
        os.unlink(f"{bed.mount}/d/f")
        os.unlink(f"{bed.home}/d/f")
        os.mkdir(f"{bed.home}/d/f")
        bed.resume_home()
        until(lambda: os.path.isdir(f"{bed.mount}/d/f"))
        assert fails(errno.EISDIR, make, f"{bed.mount}/d/g", b"")
        make(f"{bed.mount}/d/g", b"")

    bed.run(lambda: os.stat(f"{bed.mount}/d/f"))
    _while_home_sleeps(bed, check)
    assert bed.failure() is None


def test_both_lines_are_there_when_home_makes_a_file_at_the_same_time(bed: Bed) -> None:
    log = f"{bed.mount}/d/log"

    def append() -> None:
        fd = os.open(log, MAKE | os.O_APPEND, 0o644)
        os.write(fd, b"node\n")
        os.close(fd)

    _while_home_sleeps(bed, lambda: (append(), make(f"{bed.home}/d/log", b"home\n")))
    bed.run(lambda: os.stat(log))
    bed.barrier()
    assert read(f"{bed.home}/d/log") == b"home\nnode\n"

    def check() -> None:
        assert read(log) == b"home\nnode\n"
        assert os.stat(log).st_ino == os.stat(f"{bed.home}/d/log").st_ino

    bed.run(check)
    assert bed.failure() is None


def test_news_from_home_that_crosses_a_posted_change_does_not_undo_it(bed: Bed) -> None:
    path = f"{bed.mount}/d/f"
    make(f"{bed.home}/d/f", b"old")
    os.chown(f"{bed.home}/d/f", bed.uid, bed.uid)
    bed.barrier()

    def anew() -> None:
        # Not taken in by home's service yet when the node replaces the file.
        os.utime(f"{bed.home}/d/f", ns=(1, 1))
        os.unlink(path)
        make(path, b"new")

    bed.run(lambda: os.stat(path))
    _while_home_sleeps(bed, anew)
    bed.run(lambda: os.stat(path))
    bed.barrier()

    def check() -> None:
        assert read(path) == b"new"
        assert os.stat(path).st_ino == os.stat(f"{bed.home}/d/f").st_ino

    bed.run(check)


# temporaries of compilers


def _temporary(bed: Bed, name: str = "ccAbC123.s") -> str:
    return f"{bed.mount}/tmp/{name}"


def _exclusive(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    os.close(fd)


def test_a_temporary_of_a_compiler_never_reaches_home(bed: Bed) -> None:
    path = _temporary(bed)
    text = os.urandom(1 << 20)

    def check() -> None:
        _exclusive(path, b"")
        make(path, text)
        assert read(path) == text
        assert os.stat(path).st_size == len(text)
        os.truncate(path, 1000)
        assert read(path) == text[:1000]
        assert os.stat(path).st_size == 1000
        assert fails(errno.EEXIST, _exclusive, path, b"")
        make(f"{bed.mount}/d/out.o", b"object")
        os.unlink(path)
        assert not os.path.exists(path)

    watch = Watch(f"{bed.home}/tmp")
    before = _sent(bed)
    _while_home_sleeps(bed, check)
    bed.run(lambda: os.stat(f"{bed.mount}/tmp"))
    assert watch.seen() == []
    assert _sent(bed) - before == len(b"object")
    watch.close()
    assert read(f"{bed.home}/d/out.o") == b"object"


@pytest.mark.parametrize("how", ["rename", "link", "fsync", "chmod", "utime", "allocate", "large"])
def test_a_temporary_is_at_home_once_it_matters(bed: Bed, how: str) -> None:
    path, other = _temporary(bed), f"{bed.mount}/tmp/other"
    text = b"text" * (3 << 20 if how == "large" else 1000)

    def check() -> None:
        _exclusive(path, text)
        ino = os.stat(path).st_ino
        if how == "rename":
            os.rename(path, other)
        elif how == "link":
            os.link(path, other)
            assert os.stat(other).st_ino == ino
        elif how == "allocate":
            fd = os.open(path, os.O_RDWR)
            os.posix_fallocate(fd, 0, len(text) + 100)
            os.truncate(path, len(text) - 8)
            os.pwrite(fd, b"texttext", len(text) - 8)
            os.close(fd)
        elif how == "utime":
            os.utime(path, ns=(5, 7))
            assert os.stat(path).st_mtime_ns == 7
        elif how == "chmod":
            os.chmod(path, 0o644)
            os.stat(path)
        else:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        shown = other if how == "rename" else path
        assert read(shown) == text
        assert os.stat(shown).st_ino == ino

    bed.run(check)
    name = "other" if how == "rename" else "ccAbC123.s"
    assert read(f"{bed.home}/tmp/{name}") == text
    mode = stat.S_IMODE(os.stat(f"{bed.home}/tmp/{name}").st_mode)
    assert mode == (0o644 if how == "chmod" else 0o600)
    assert bed.failure() is None


def test_a_temporary_that_is_left_behind_is_at_home_when_the_body_has_ended(bed: Bed) -> None:
    bed.run(_exclusive, _temporary(bed), b"left")
    assert not os.path.exists(f"{bed.home}/tmp/ccAbC123.s")
    bed.announce()
    bed.run(lambda: os.stat(_temporary(bed)))
    assert read(f"{bed.home}/tmp/ccAbC123.s") == b"left"


def test_a_temporary_survives_a_home_that_lost_count(bed: Bed) -> None:
    path = _temporary(bed)
    bed.run(_exclusive, path, b"kept")
    for number in range(20_000):
        os.close(os.open(f"{bed.home}/tmp/{number % 7}", MAKE))
        os.unlink(f"{bed.home}/tmp/{number % 7}")
    bed.barrier()
    bed.run(lambda: os.listdir(f"{bed.mount}/d"))

    def check() -> None:
        assert read(path) == b"kept"
        assert os.path.basename(path) in os.listdir(os.path.dirname(path))

    bed.run(check)


def test_a_name_that_home_took_first_is_told(bed: Bed) -> None:
    path = _temporary(bed)
    bed.run(_exclusive, path, b"node")
    make(f"{bed.home}/tmp/ccAbC123.s", b"home")
    bed.announce()
    bed.barrier()
    assert bed.failure() == [errno.EEXIST, "/tmp/ccAbC123.s"]
    assert read(f"{bed.home}/tmp/ccAbC123.s") == b"home"


# programs


def test_a_warm_compilation_waits_for_home_hardly_ever(bed: Bed) -> None:
    gcc = shutil.which("gcc")
    assert gcc is not None
    source = b'#include <stdio.h>\nint main(void) { puts("x"); return 0; }\n'
    make(f"{bed.home}/d/unit.c", source)
    bed.barrier()

    def compile_() -> None:
        environment = {**os.environ, "TMPDIR": f"{bed.mount}/tmp"}
        command = [gcc, "-O2", "-c", "unit.c", "-o", "unit.o"]
        subprocess.run(command, cwd=f"{bed.mount}/d", env=environment, check=True)

    bed.run(compile_)
    bed.run(lambda: os.stat(f"{bed.mount}/d/unit.o"))
    before = _sent(bed)
    assert _waits_of(bed, compile_) <= 3
    assert 0 < _sent(bed) - before <= os.stat(f"{bed.home}/d/unit.o").st_size
    assert os.listdir(f"{bed.home}/tmp") == []


def test_git_tar_and_cp_do_as_at_home(bed: Bed) -> None:
    script = """
    set -e
    D="2005-04-07T22:13:13 +0000"
    export HOME=$PWD GIT_AUTHOR_DATE="$D" GIT_COMMITTER_DATE="$D" GIT_CONFIG_NOSYSTEM=1
    git init -q repo && cd repo
    git config user.name n && git config user.email e@x
    mkdir -p src && for i in 1 2 3 4 5 6 7 8; do echo $i > src/$i; done
    ln src/1 src/hard; ln -s 1 src/soft; chmod +x src/2
    git add . && git commit -qm first
    echo more >> src/3; git rm -q src/4; git add -A; git commit -qm second
    git checkout -q HEAD~1; git checkout -q -; test -z "$(git status --porcelain)"
    git diff-files --quiet
    git rev-parse HEAD
    tar cf ../a.tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner src
    cp -a src ../copy; cd ..; tar tvf a.tar
    stat -c '%n %h %F %a' copy/*; cmp copy/1 copy/hard
    mkdir x; tar xf a.tar -C x; stat -c '%n %h %F %a %s' x/src/*
    """

    def run(directory: str) -> bytes:
        os.mkdir(directory)
        done = subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def check() -> None:
        found = run(f"{bed.mount}/d/view")
        with open(f"{bed.mount}/d/output", "wb") as file:
            file.write(found)

    bed.run(check)
    with tempfile.TemporaryDirectory() as native:
        assert read(f"{bed.home}/d/output") == run(f"{native}/view")
    repo = f"{bed.home}/d/view/repo"
    safe = ["git", "-c", "safe.directory=*", "-C", repo]
    for command in (["status", "--porcelain"], ["diff-files"]):
        assert subprocess.check_output([*safe, *command]) == b""
    subprocess.run([*safe, "fsck", "--strict"], check=True, capture_output=True)
