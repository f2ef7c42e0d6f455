"""Real programs move while they run, from node to node and home, and do what they do natively."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.moving import BUILD, INPUTS, PROGRAMS, SOURCES, Program
from tests.programs.nodes import on
from tests.programs.test_balancing import bed, refused, said
from tests.programs.test_observing import Row, only, ps, row_when
from tests.programs.test_terminal import Screen

__all__ = ["bed"]

# Where each goes, one after another, from n1.
WAY = ("n2", "home", "n1")

FOLDER = "/home/alice/moving"


@pytest.fixture(scope="module")
def inputs(_shared_cluster: Cluster) -> Iterator[str]:
    """Return the directory of what the programs are and read."""
    home = _shared_cluster.home
    home.run(("mkdir", "-p", FOLDER), check=True)
    for name, source in SOURCES.items():
        home.write(f"{FOLDER}/{name}", source.encode())
    home.run(("bash", "-ec", INPUTS + BUILD), cwd=FOLDER, check=True, timeout=300)
    yield FOLDER
    home.run(("rm", "-rf", FOLDER), user="root", check=True)


def root_body(home: Host) -> Row:
    """Return the row of the program that was started, once it computes."""

    def found() -> Row | None:
        rows = [row for row in ps(home) if row["cpu_s"] >= 0.1]
        return min(rows, key=lambda row: row["pid"]) if rows else None

    row = wait_until(found, 60, "a body that computes")
    assert row is not None
    return row


def move(home: Host, pid: int, way: tuple[str, ...] = WAY) -> None:
    """Move a program all the way; fail if one of the moves does."""
    for place in way:
        assert said(home, "migrate", pid, place).startswith(f"moved {pid} (")


def listing(home: Host, folder: str, hide: tuple[str, ...]) -> bytes:
    """Return the names and contents of what a program has left."""
    script = "find . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2"
    found = home.run(("bash", "-c", script), cwd=folder, check=True).stdout
    return b"".join(
        line for line in found.splitlines(True) if not any(name.encode() in line for name in hide)
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_that_moves_does_what_it_does_natively(
    bed: Cluster, inputs: str, program: Program
) -> None:
    home = bed.home
    results = []
    for words in ((), on("n1")):
        folder = f"{inputs}/{program.name}"
        home.run(("mkdir", folder), check=True)
        script = ("bash", "-c", program.script)
        env = {"MRUN": " ".join(words)}
        with home.popen(script, cwd=folder, env=env) as process:
            if words:
                move(home, root_body(home)["pid"])
            output, errors = process.communicate(timeout=120)
            status = process.wait()
        left = listing(home, folder, program.hide)
        results.append((status, program.output(errors), program.output(output), left))
        home.run(("rm", "-rf", folder), check=True)
    assert results[1] == results[0]


def test_a_transaction_moves_with_its_lock(bed: Cluster, work: str) -> None:
    home = bed.home
    home.run(("sqlite3", "db", "create table t (x)"), cwd=work, check=True)
    with home.popen((*on("n1"), "sqlite3", "db"), cwd=work, stdin=subprocess.PIPE) as process:

        def tell(statement: str) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{statement} select 'done';\n".encode())
            assert process.stdout.readline() == b"done\n"

        tell("begin immediate; insert into t values (1);")
        pid = only(ps(home))["pid"]
        for number, place in enumerate(WAY):
            move(home, pid, (place,))
            other = home.run(("sqlite3", "db", "insert into t values (5)"), cwd=work)
            assert b"database is locked" in other.stderr
            tell(f"insert into t values ({10 * number});")
        tell("commit;")
        home.run(("sqlite3", "db", "insert into t values (7)"), cwd=work, check=True)
        tell("insert into t values (3);")
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.wait(30) == 0
    rows = home.run(("sqlite3", "db", "select x from t"), cwd=work, check=True).stdout
    assert rows.split() == [b"1", b"0", b"10", b"20", b"7", b"3"]


LOOPS = {"shell": ("bash", "-c", "while :; do :; done"), "c": (f"{FOLDER}/loop",)}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_leaves_home_by_itself_and_moves_on(bed: Cluster, inputs: str, loop: str) -> None:
    home = bed.home
    hogs = "for i in 1 2 3; do (while :; do :; done) & done; wait"
    with home.popen(("mrun", "--node", "home", *LOOPS[loop])) as process:
        row = row_when(home, lambda row: row["node"] in ("n1", "n2"))
        with bed.node(row["node"]).popen(("timeout", "60", "sh", "-c", hogs)) as others:
            row_when(home, lambda found: found["node"] != row["node"], row["pid"])
            others.send_signal(9, group=True)
        process.send_signal(9, group=True)


def test_keys_typed_at_an_editor_that_moves_are_not_lost(bed: Cluster, work: str) -> None:
    home = bed.home
    screen = Screen(home, work)
    try:
        screen.enter(f"{' '.join(on('n1'))} vim -u NONE -N text")
        screen.wait_for(r'"text" \[New\].*')
        screen.type("i")
        pid = only(ps(home))["pid"]
        typed = ""
        for place in WAY:
            with home.popen(("mlaunch", "migrate", str(pid), place)) as moving:
                for _ in range(5):
                    word = f"w{len(typed)}"
                    screen.tmux("send-keys", "-l", f"{word} ")
                    typed += f"{word} "
                said_of_it = moving.communicate(timeout=60)
                assert said_of_it[0].startswith(f"moved {pid} (".encode()), said_of_it
            screen.type("Enter")
            typed += "\n"
        screen.type("Escape")
        screen.enter(":wq")
        screen.wait_for(r".*\$")
        assert screen.status() == "0"
        assert home.read(f"{work}/text").decode().split() == typed.split()
    finally:
        screen.close()


UNMOVABLE = {
    "network": (
        "import socket; s = socket.create_server(('127.0.0.1', 0))",
        "has a network socket open",
    ),
    "seccomp": (
        "import ctypes; c = ctypes.CDLL(None); c.prctl(38, 1, 0, 0, 0)\n"
        "code = (ctypes.c_uint64 * 1)(0x7FFF000000000006)\n"
        "class P(ctypes.Structure): _fields_ = [('n', ctypes.c_ushort), ('p', ctypes.c_void_p)]\n"
        "assert c.prctl(22, 2, ctypes.byref(P(1, ctypes.addressof(code)))) == 0",
        "filters its system calls",
    ),
    "secret": (
        "import ctypes, mmap, os; fd = ctypes.CDLL(None).syscall(447, 0)  # memfd_secret\n"
        "os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096)",
        "has memory that nobody else may read",
    ),
}


@pytest.mark.parametrize("thing", UNMOVABLE)
def test_what_cannot_move_is_refused_and_goes_on(bed: Cluster, thing: str) -> None:
    home = bed.home
    make, sentence = UNMOVABLE[thing]
    source = f"{make}\nprint('ready', flush=True)\nprint(int(input()) + 1)"
    words = (*on("n1"), "python3", "-c", source)
    with home.popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid = only(ps(home))["pid"]
        for place in ("n2", "home"):
            assert sentence in refused(home, "migrate", pid, place)
        assert process.communicate(b"41\n", timeout=30)[0] == b"42\n"
        assert process.wait(30) == 0
