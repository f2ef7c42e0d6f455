"""Home's disk is full: whoever wrote is told, natively as on a node; nothing fails in silence."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import Cluster, Host
from tests.programs.nodes import add_nodes, on

SMALL = "/home/alice/small"
SIZE = 1 << 20


@pytest.fixture(scope="module")
def home(_no_leaks: None) -> Iterator[Host]:
    with Cluster(f"full-{os.getpid()}", nodes=1) as cluster:
        add_nodes(cluster.home, "n1")
        cluster.home.run(("mkdir", SMALL), check=True)
        mount = ("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=777", "small", SMALL)
        cluster.home.run(mount, user="root", cwd="/", check=True)
        yield cluster.home


@pytest.fixture
def small(home: Host) -> Iterator[Host]:
    """Return the home, where alice has an empty directory that holds one megabyte."""
    yield home
    home.run(("mount", "-o", "remount,bind,rw", SMALL), user="root", cwd="/", check=True)
    home.run(("find", SMALL, "-mindepth", "1", "-delete"), check=True)


Launch = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture(params=[(), on("n1")], ids=["natively", "on-a-node"])
def launch(small: Host, request: pytest.FixtureRequest) -> Launch:
    """Return what runs a program in the small directory."""

    def run(*argv: str) -> tuple[int, bytes, bytes]:
        done = small.run((*request.param, *argv), cwd=SMALL)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    "argv",
    [
        ("dd", "if=/dev/zero", "of=f", "bs=64k", "status=none"),
        ("dd", "if=/dev/zero", "of=f", "bs=1k", "count=3000", "status=none"),
        ("dd", "if=/dev/zero", "of=f", "bs=64k", "status=none", "oflag=append"),
        ("cp", "/bin/bash", "."),
        ("sh", "-c", "head -c 3000000 /dev/zero > f"),
        ("python3", "-c", "with open('f', 'wb') as f: f.write(bytes(3000000))"),
        ("sort", "-o", "f", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("fallocate", "-l", "3000000", "f"),
    ],
    ids=lambda argv: argv[0],
)
def test_a_full_disk_is_told(launch: Launch, argv: tuple[str, ...]) -> None:
    status, _, said = launch(*argv)
    # By the program; or, where close(2) was its last chance and it did not wait, by mrun.
    assert b"No space left on device" in said
    assert status != 0
    assert status != 125 or b"mrun: /home/alice/small/" in said


def test_what_fits_is_kept(launch: Launch, small: Host) -> None:
    launch("dd", "if=/dev/zero", "of=f", "bs=64k", "status=none")
    assert small.run(("stat", "-c", "%s", f"{SMALL}/f"), check=True).stdout == b"%d\n" % SIZE


def test_a_program_that_does_not_look_does_not_end_well(small: Host) -> None:
    careless = "import os\nfd = os.open('f', os.O_WRONLY | os.O_CREAT)\n" + (
        "for _ in range(30):\n"
        "    try: os.write(fd, bytes(100000))\n"
        "    except OSError: pass\n"
        "os._exit(0)\n"
    )
    done = small.run((*on("n1"), "python3", "-c", careless), cwd=SMALL)
    # Natively write(2) itself failed, and the program had its chance. On a node it must have had
    # one, too, or mrun says which file is not whole.
    size = int(small.run(("stat", "-c", "%s", f"{SMALL}/f"), check=True).stdout)
    assert size == SIZE
    if done.returncode:
        assert done.returncode == 125
        assert b"small/f" in done.stderr
        assert b"No space left on device" in done.stderr


def test_the_last_write_of_a_program_is_not_lost_in_silence(small: Host) -> None:
    small.run(("dd", "if=/dev/zero", "of=filler", "bs=4k", "status=none"), cwd=SMALL)
    careless = "import os\nos.write(os.open('f', os.O_WRONLY | os.O_CREAT), b'lost')\nos._exit(0)"
    done = small.run((*on("n1"), "python3", "-c", careless), cwd=SMALL)
    if done.returncode == 0:
        told = small.run(("cat", f"{SMALL}/f"), check=True).stdout
        assert told == b"lost"
    else:
        assert done.returncode == 125
        assert b"small/f" in done.stderr


def test_a_full_disk_that_has_room_again_is_written(launch: Launch, small: Host) -> None:
    launch("dd", "if=/dev/zero", "of=f", "bs=64k", "status=none")
    small.run(("rm", f"{SMALL}/f"), check=True)
    assert launch("sh", "-c", "echo there is room > g; cat g") == (0, b"there is room\n", b"")


def test_a_read_only_place_is_read_only(launch: Launch, small: Host) -> None:
    small.run(("mount", "-o", "remount,bind,ro", SMALL), user="root", cwd="/", check=True)
    status, _, said = launch("touch", "g")
    assert status == 1, said
    assert b"Read-only file system" in said
