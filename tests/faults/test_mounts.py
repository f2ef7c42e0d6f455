"""File systems are mounted and unmounted at home while nodes look at its files."""

from tests.cluster import Cluster
from tests.cluster.waiting import wait_until
from tests.programs.nodes import on

PLACE = "/home/alice/place"


def mount(cluster: Cluster, *words: str) -> int:
    return cluster.home.run(words, user="root", cwd="/").returncode


def test_what_is_mounted_and_unmounted_is_seen(pair: Cluster) -> None:
    home = pair.home
    home.run(("sh", "-c", f"mkdir {PLACE}; echo below > {PLACE}/f"), check=True)
    look = (*on("n1"), "sh", "-c", "cat f; echo seen > g")
    assert home.run(look, cwd=PLACE).stdout == b"below\n"
    for round_ in (1, 2):
        assert mount(pair, "mount", "-t", "tmpfs", "-o", "mode=777", "x", PLACE) == 0
        home.write(f"{PLACE}/f", b"mounted %d\n" % round_)
        assert home.run(look, cwd=PLACE).stdout == b"mounted %d\n" % round_
        assert home.read(f"{PLACE}/g") == b"seen\n"
        assert mount(pair, "umount", "-l", PLACE) == 0
        home.run(("rm", f"{PLACE}/g"), check=True)
        assert home.run(look, cwd=PLACE).stdout == b"below\n"
        assert home.read(f"{PLACE}/g") == b"seen\n"


def test_a_file_system_that_no_program_uses_can_be_unmounted(pair: Cluster) -> None:
    home = pair.home
    home.run(("mkdir", PLACE), check=True)
    assert mount(pair, "mount", "-t", "tmpfs", "-o", "mode=777", "x", PLACE) == 0
    assert home.run((*on("n1"), "sh", "-c", f"echo x > {PLACE}/f; ls {PLACE}")).stdout == b"f\n"
    wait_until(lambda: mount(pair, "umount", PLACE) == 0, 60, "it is not busy")
