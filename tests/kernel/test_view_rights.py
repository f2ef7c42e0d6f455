"""Locks, databases, rights and inode ids in the home view."""

import errno
import fcntl
import json
import os
import sqlite3
import tempfile

import pytest

from stubs.home.files.policy import ExportPolicy
from tests.kernel.viewbed import Bed
from tests.kernel.viewcalls import USER, is_text, outcome, put, read_text
from tests.posix.tools import fails, make, names, read, until


def _lock_and_wait(path: str, locked: int, go: int) -> None:
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.write(locked, b"x")
    os.read(go, 1)


def test_locks_exclude_processes_at_home(bed: Bed) -> None:
    put(f"{bed.home}/f", "f")
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
            put(f"{home}/f{mode:o}", "text")
            os.chmod(f"{home}/f{mode:o}", mode)
        for mode in (0o755, 0o700, 0o1777, 0o711):
            os.mkdir(f"{home}/d{mode:o}")
            put(f"{home}/d{mode:o}/in", "in")
            os.chmod(f"{home}/d{mode:o}", mode)
        bed = Bed(directory, USER)
        os.chown(home, 0, 0)
        with bed:
            bed.run(_write_rights, home, f"{directory}/plain.json")
            bed.run(_write_rights, bed.mount, f"{directory}/view.json")
        found = []
        for name in ("plain", "view"):
            found.append(read_text(f"/tmp/{os.path.basename(directory)}-{name}"))
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


def _write_rights(d: str, out: str) -> None:
    found = {}
    for name in sorted(os.listdir(d)):
        path = f"{d}/{name}"
        if name.startswith("f"):
            for how in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                found[f"{name} {how}"] = outcome(os.open, path, how)
        else:
            found[f"{name} list"] = outcome(os.listdir, path)
            found[f"{name} in"] = outcome(os.stat, f"{path}/in")
            found[f"{name} make"] = outcome(os.mkdir, f"{path}/new")
            outcome(os.rmdir, f"{path}/new")
            found[f"{name} unlink"] = outcome(os.unlink, f"{path}/in")
        found[f"{name} access"] = "".join(
            str(int(os.access(path, bit))) for bit in (os.R_OK, os.W_OK, os.X_OK)
        )
        found[f"{name} chmod"] = outcome(os.chmod, path, 0o777)
    name = os.path.basename(os.path.dirname(out)) + "-" + os.path.basename(out).split(".")[0]
    put(f"/tmp/{name}", json.dumps(found, indent=1))


def test_hidden_and_read_only_places() -> None:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        for name in ("secret", "fixed", "open"):
            os.makedirs(f"{directory}/home/{name}")
            put(f"{directory}/home/{name}/f", "f")
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
    put(f"{root_bed.home}/a", "a")
    root_bed.barrier()
    root_bed.run(is_text, f"{root_bed.mount}/a", "a")
    root_bed.run(_open_by_id, root_bed.mount, 2, "a")
