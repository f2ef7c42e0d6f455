"""What the home view costs: round trips, memory, time."""

import os

from stubs.abi import fuse
from tests.kernel.viewbed import Bed
from tests.kernel.viewcalls import list_all, make_files, put
from tests.posix.tools import read


def test_a_tree_costs_one_round_trip_per_directory(root_bed: Bed) -> None:
    bed = root_bed
    for number in range(30):
        os.makedirs(f"{bed.home}/t/{number}")
        for name in range(20):
            put(f"{bed.home}/t/{number}/{name}", "x")
            os.symlink("x", f"{bed.home}/t/{number}/l{name}")
    bed.barrier()
    before = bed.stats()["round_trips"]
    bed.run(list_all, f"{bed.mount}/t")
    assert bed.stats()["round_trips"] - before <= 1.2 * 32
    before = bed.stats()["round_trips"]
    bed.run(list_all, f"{bed.mount}/t")
    assert bed.stats()["round_trips"] == before


def _open_and_read_all(d: str) -> None:
    for name in os.listdir(d):
        assert read(d, name) == b"x" * 1000
        assert not os.path.exists(f"{d}/no-{name}")


def test_warm_files_cost_no_round_trip(root_bed: Bed) -> None:
    bed = root_bed
    for number in range(50):
        put(f"{bed.home}/f{number}", "x" * 1000)
    bed.barrier()
    bed.run(_open_and_read_all, bed.mount)
    before = bed.stats()
    bed.run(_open_and_read_all, bed.mount)
    after = bed.stats()
    assert after["round_trips"] == before["round_trips"]
    assert after["counts"][fuse.FUSE_READ] == before["counts"][fuse.FUSE_READ]


def test_a_new_file_costs_one_round_trip(root_bed: Bed) -> None:
    before = root_bed.stats()["round_trips"]
    root_bed.run(make_files, root_bed.mount)
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
