"""What home sends unasked crosses changes that the node has posted: it is older, and undoes none.

The line between both is held while the node changes something and home sends what it knows; then
both cross. So what arrives at the node was made before home heard of the change, and arrives before
home's answer.
"""

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.kernel.viewbed import Bed
from tests.posix.tools import until

MAKE = os.O_WRONLY | os.O_CREAT

# More names than the node keeps in all its snapshots together (stubs.node.view.snapshots).
TOO_MANY = 15_000

SIZE = 200_000  # more than a draft may have (stubs.node.view.drafts)


@pytest.fixture
def bed() -> Iterator[Bed]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-crossing-") as directory:
        os.makedirs(f"{directory}/home/d")
        os.mkdir(f"{directory}/home/tmp")
        os.chmod(f"{directory}/home/tmp", 0o1777)
        for name in ("kept", "old"):
            fill(f"{directory}/home/d/{name}")
        with Bed(directory, delay=0.001, state=f"{directory}/state") as bed:
            yield bed


def fill(path: str, byte: bytes = b"-", size: int = SIZE) -> None:
    # Without fstat(2), which is what open() of Python does: that waits for home's answer.
    fd = os.open(path, MAKE, 0o644)
    assert os.write(fd, byte * size) == size
    os.close(fd)


def names(path: str) -> list[str]:
    return sorted(os.listdir(path))


@pytest.mark.parametrize("removed", [False, True], ids=["made", "made and removed"])
@pytest.mark.parametrize("given_up", [False, True], ids=["known in full", "given up meanwhile"])
def test_names_sent_ahead_undo_nothing(bed: Bed, given_up: bool, removed: bool) -> None:
    made, held = f"{bed.mount}/d/made", f"{bed.mount}/tmp/ccAbC123.s"
    if given_up:
        os.makedirs(f"{bed.home}/other/many")
        for number in range(TOO_MANY):
            os.mknod(f"{bed.home}/other/many/{number}")
    bed.barrier()
    left = ["kept", "made"] if removed else ["kept", "made", "old"]

    def change() -> None:
        fill(made, b"x", 1)
        if removed:
            os.unlink(f"{bed.mount}/d/old")
        os.close(os.open(held, MAKE | os.O_EXCL, 0o600))

    def look() -> None:
        assert os.access(made, os.F_OK)
        assert os.access(f"{bed.mount}/d/old", os.F_OK) != removed
        assert names(f"{bed.mount}/d") == left
        assert names(f"{bed.mount}/tmp") == [os.path.basename(held)]
        with open(made, "rb") as file:
            assert file.read() == b"x"

    bed.run(lambda: [names(f"{bed.mount}/{name}") for name in (".", "d", "tmp")])
    if given_up:
        bed.run(os.stat, f"{bed.mount}/other/many")
    bed.pause_line()
    bed.run(change)
    if given_up:
        bed.push_names("/other/many")
    for directory in ("/d", "/tmp"):
        bed.push_names(directory)
    bed.resume_line()
    bed.barrier()
    bed.run(look)
    assert names(f"{bed.home}/d") == left
    assert bed.failure() is None


def test_a_held_file_that_is_told_while_its_directory_is_fetched_stays(bed: Bed) -> None:
    held, end = f"{bed.mount}/tmp/ccAbC123.s", f"{bed.home}/d/end"

    def make() -> None:
        os.close(os.open(held, MAKE | os.O_EXCL, 0o600))

    def ask() -> None:
        number = 0
        while not os.path.exists(end):
            number += 1
            assert not os.path.exists(f"{bed.mount}/tmp/{number}")

    bed.run(names, f"{bed.mount}/tmp")
    bed.run(make)
    bed.pause_line()
    bed.distrust("/tmp")
    bed.pause_home()
    before = bed.stats()["round_trips"]
    asking = bed.start(ask)
    bed.resume_line()
    until(lambda: bed.stats()["round_trips"] > before)
    # The names have been asked for, and home is told of the file behind that.
    bed.announce()
    bed.resume_home()
    bed.barrier()
    os.close(os.open(end, MAKE))
    bed.finish(asking)
    bed.run(lambda: os.close(os.open(held, os.O_RDONLY)))
    assert names(f"{bed.home}/tmp") == [os.path.basename(held)]
    assert bed.failure() is None


@pytest.mark.parametrize("how", ["written", "cut", "made here"])
def test_contents_sent_ahead_are_not_shown_in_the_place_of_newer_ones(bed: Bed, how: str) -> None:
    name = "here" if how == "made here" else "old"
    path = f"{bed.mount}/d/{name}"

    def change() -> None:
        if how == "cut":
            os.truncate(path, 50)
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, b"new", 60)
        # What was written here the kernel has cached: it would not ask.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def look() -> None:
        with open(path, "rb") as file:
            found = file.read()
        if how == "cut":
            assert found == b"-" * 50 + bytes(10) + b"new"
        else:
            assert found == b"-" * 60 + b"new" + b"-" * (SIZE - 63)

    bed.run(names, f"{bed.mount}/d")
    if how == "made here":
        bed.run(fill, path)
        bed.run(os.stat, path)
    bed.pause_line()
    bed.run(change)
    bed.push("/prog", f"/d/{name}")
    bed.resume_line()
    bed.barrier()
    bed.run(look)
    with open(f"{bed.home}/d/{name}", "rb") as file:
        assert file.read(63)[60:] == b"new"


def test_contents_that_were_refused_are_not_taken_for_those_announced_since(bed: Bed) -> None:
    path = f"{bed.mount}/d/old"

    def change() -> None:
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, b"new", 60)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def look() -> None:
        with open(path, "rb") as file:
            assert file.read() == b"-" * 60 + b"new" + b"-" * (SIZE - 63)

    bed.run(names, f"{bed.mount}/d")
    bed.pause_line()
    bed.run(change)
    bed.announce_contents("/d/old", deliver=False)
    bed.resume_line()
    bed.run(os.stat, path)
    bed.announce_contents("/d/old", deliver=True)
    bed.barrier()
    bed.run(look)
