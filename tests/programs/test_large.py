"""Real work on real amounts of data: the same bytes, and the work is done on the node."""

import os
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.programs.nodes import add_nodes, on

MEBI = 1 << 20
SIZE = 256 * MEBI

# Programs, text, numbers, what cannot be compressed and what is nothing but zeros; the same bytes
# each time.
MIXED = """
    key=00112233445566778899aabbccddeeff
    {
        tar cf - --sort=name /usr/lib/x86_64-linux-gnu /usr/bin 2>/dev/null | head -c 150M
        seq 5000000
        openssl enc -aes-128-ctr -K $key -iv $key < /dev/zero 2>/dev/null | head -c 30M
        head -c 20M /dev/zero
        tar cf - --sort=name /usr/include 2>/dev/null
        openssl enc -aes-128-ctr -K $key -iv 01 < /dev/zero 2>/dev/null
    } | head -c 256M > big.tar
"""


class Bed:
    """A home and one node with a CPU each, and a large file."""

    def __init__(self, cluster: Cluster) -> None:
        self.home = cluster.home
        self.node = cluster.node("n1")
        add_nodes(self.home, "n1")
        self.sh(MIXED)
        assert int(self.sh("stat -c %s big.tar")) == SIZE
        self.sh(" ".join((*on("n1"), "true")))

    def sh(self, script: str) -> bytes:
        return self.home.run(("bash", "-c", script), check=True, timeout=400).stdout

    def cpu_of(self, script: str) -> tuple[float, float]:
        """Run a script and return the seconds of CPU that (home, node) used meanwhile."""
        before = self.home.cpu_seconds(), self.node.cpu_seconds()
        self.sh(script)
        return self.home.cpu_seconds() - before[0], self.node.cpu_seconds() - before[1]


@pytest.fixture(scope="module")
def bed(_no_leaks: None) -> Iterator[Bed]:
    with Cluster(f"large-{os.getpid()}", nodes=1) as cluster:
        yield Bed(cluster)


MRUN = " ".join(on("n1"))


def test_gzip_is_done_on_the_node(bed: Bed) -> None:
    bed.sh("touch -d @1600000000 big.tar")
    home, node = bed.cpu_of(f"{MRUN} gzip -nk big.tar")
    assert bed.sh("gzip -nc big.tar | cmp - big.tar.gz; stat -c %Y big.tar.gz") == b"1600000000\n"
    assert node > 2, "256 MB cannot be compressed in less"
    assert home < 0.3 * node, f"home used {home:.1f} s, the node {node:.1f} s"


def test_xz_writes_the_same_bytes(bed: Bed) -> None:
    # At the same time: home and node have a CPU each.
    both = f"xz -0c big.tar | md5sum & {MRUN} xz -0c big.tar | md5sum & wait"
    native, remote = bed.sh(both).splitlines()
    assert remote == native


def test_sha256sum_is_the_same(bed: Bed) -> None:
    assert bed.sh(f"{MRUN} sha256sum big.tar") == bed.sh("sha256sum big.tar")


def test_a_file_written_on_the_node_is_the_same(bed: Bed) -> None:
    bed.sh(f"{MRUN} sh -c 'cat < big.tar > copy; sync copy'; cmp big.tar copy; rm copy")
    bed.sh(f"{MRUN} cp big.tar copy; cmp big.tar copy; rm copy")


def test_a_gigabyte_goes_through_stdin_and_stdout(bed: Bed) -> None:
    give = "openssl enc -aes-128-ctr -K 00 -iv 00 < /dev/zero 2>/dev/null | head -c 1G"
    there = bed.sh(f"{give} | {MRUN} cat | sha256sum")
    assert there == bed.sh(f"{give} | sha256sum")
