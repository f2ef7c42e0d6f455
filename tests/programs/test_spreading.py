"""Programs that start others: xargs, parallel, a loop of a shell, a pipeline, a test runner.

Each runs natively in one directory and under mrun in another like it. What they leave is the same,
and what computes ran on nodes.
"""

import os
from dataclasses import dataclass

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import connect
from tests.projects import builds, sources
from tests.projects.catalog import SMALL

# Eight texts of some MB: half a second each for gzip -9.
TEXTS = """
rm -rf "$1"; mkdir "$1"; cd "$1"
find /usr/include -name '*.h' -type f | LC_ALL=C sort | xargs cat | head -c 40000000 > all
split -n 8 -d all text; rm all
# gzip writes it into its output.
touch -d @1700000000 text*
"""


@dataclass(frozen=True)
class Spread:
    """A script, the name of what of it is to leave home, and of what is not."""

    name: str
    script: str
    goes: str
    least: int  # so many of them at least
    stays: tuple[str, ...]


SPREADS = (
    Spread(
        "xargs",
        "find . -name 'text*' | LC_ALL=C sort | $MRUN xargs -n 1 -P 4 gzip -9k",
        "gzip",
        4,
        ("xargs",),
    ),
    Spread(
        "parallel",
        "$MRUN parallel --will-cite -j 4 gzip -9k ::: text*",
        "gzip",
        4,
        # What it runs beside is its own affair: it is a script, and calls Perl for this and that.
        ("parallel",),
    ),
    Spread(
        "shell loop",
        "$MRUN sh -c 'for f in text*; do gzip -9k $f & done; wait'",
        "gzip",
        4,
        ("sh", "dash"),
    ),
    # Its find talks to the disk all the time, its sort computes.
    Spread(
        "updatedb",
        "exec 2> /dev/null\n"  # find says what it may not enter
        "$MRUN updatedb --localpaths=/usr --output=db",
        "sort",
        1,
        ("sh", "dash", "updatedb", "find"),
    ),
)

TEST_SUITE = """
import hashlib
import pytest

@pytest.mark.parametrize("number", range(12))
def test_of_a_hash(number):
    data = b"x" * 1000
    for _ in range(200_000):
        data = hashlib.sha256(data + bytes([number])).digest()
    assert data != b"", number

def test_that_fails():
    assert sum(range(10)) == 46
"""


def run_in(home: Host, directory: str, script: str, prefix: tuple[str, ...]) -> tuple[int, bytes]:
    """Run a script with `prefix` for $MRUN; return its status and what it said."""
    words = f"MRUN='{' '.join(prefix)}'\n{script}"
    done = home.run(("bash", "-c", words), cwd=directory, timeout=300)
    assert done.stderr == b""
    return done.returncode, done.stdout


def names(bodies: list[dict[str, object]]) -> list[str]:
    """Return the programs' names."""
    return [os.path.basename(str(body["argv"][0])) for body in bodies]  # type: ignore[index]


@pytest.mark.parametrize("spread", SPREADS, ids=lambda spread: spread.name)
def test_what_computes_spreads(three_nodes: Cluster, spread: Spread) -> None:
    home = three_nodes.home
    connect(three_nodes)
    folders = [f"/home/alice/spread-{name}" for name in ("native", "mrun")]
    for folder in folders:
        home.run(("bash", "-ec", TEXTS, "bash", folder), check=True, timeout=120)
    native = run_in(home, folders[0], spread.script, ())
    other = run_in(home, folders[1], spread.script, builds.mrun("--stats", builds.RECEIPT))
    assert other == native
    trees = [builds.snapshot(home, SMALL, folder) for folder in folders]
    assert builds.differences(*trees) == []
    home.run(("rm", "-rf", *folders), check=True)
    if builds.natively():
        return
    gone = names(builds.on_nodes(builds.read_bodies(home)))
    assert gone.count(spread.goes) >= spread.least, gone
    assert not set(gone) & set(spread.stays)


def test_each_body_is_charged_for_its_own_files(three_nodes: Cluster) -> None:
    if builds.natively():
        return
    home = three_nodes.home
    home.run(("sh", "-c", "openssl rand 20000000 > noise"), check=True)
    on_n1 = "mrun -n n1 --no-fallback"
    # The one that writes goes on until the other has read.
    script = f"""
        {on_n1} sh -c 'sha256sum noise > sum' &
        {on_n1} sh -c 'until [ -s sum ]; do head -c 1000000 /dev/zero; done > zeros'
        wait"""
    words = ("mrun", "--stats", builds.RECEIPT, "-n", "home", "bash", "-c", script)
    home.run(words, check=True, timeout=120)
    bodies = {body["argv"][2][:5]: body for body in builds.on_nodes(builds.read_bodies(home))}
    reader, writer = bodies["sha25"], bodies["until"]
    assert reader["bytes_to_node"] >= 20_000_000
    assert reader["bytes_to_home"] < 1000
    assert writer["bytes_to_node"] < 20_000_000
    assert writer["bytes_to_home"] == int(home.run(("stat", "-c%s", "zeros"), check=True).stdout)
    home.run(("rm", "noise", "sum", "zeros"), check=True)


def test_workers_of_a_test_runner_spread(three_nodes: Cluster) -> None:
    home = three_nodes.home
    python = f"{sources.python_with('pytest', 'pytest-xdist')}/bin/python3"
    home.run(("mkdir", "-p", "/home/alice/suite"), check=True)
    home.write("/home/alice/suite/test_suite.py", TEST_SUITE.encode())
    # -p no:cacheprovider: times would go into a file.
    words = (python, "-m", "pytest", "-n", "4", "-rA", "-p", "no:cacheprovider")
    results = []
    for prefix in ((), builds.mrun("--stats", builds.RECEIPT)):
        done = home.run((*prefix, *words), cwd="/home/alice/suite", timeout=300)
        told = done.stdout.decode().splitlines()
        results.append((done.returncode, sorted(x for x in told if x[:6] in ("PASSED", "FAILED"))))
    assert results[0][0] == 1
    assert len(results[0][1]) == 13
    assert results[1] == results[0]
    if not builds.natively():
        bodies = builds.read_bodies(home)
        assert len(builds.on_nodes(bodies)) >= 2, [(body["node"], body["why"]) for body in bodies]


def test_home_takes_its_share_of_what_needs_little_of_it(three_nodes: Cluster) -> None:
    if builds.natively():
        return
    # Each takes about half a second there; xargs needs a hundredth of that to start one.
    children = "yes x | head -n 60 | xargs -n 1 -P 4 perl -e 'for (1 .. 6e6) {}'"
    words = (*builds.mrun("--stats", builds.RECEIPT), "sh", "-c", children)
    for _ in range(2):  # what they cost is known after the first
        three_nodes.home.run(words, check=True, timeout=120)
    gone = names(builds.on_nodes(builds.read_bodies(three_nodes.home)))
    # Four machines alike; there are no rows for what ran at home.
    assert 30 <= gone.count("perl") <= 54


def test_what_starts_while_a_node_is_busy_goes_to_the_others(three_nodes: Cluster) -> None:
    if builds.natively():
        return
    home, busy = three_nodes.home, three_nodes.node("n1")
    burn = ("sh", "-c", "while :; do :; done & while :; do :; done & while :; do :; done")
    with busy.popen(burn, user="bob") as process:

        def seen() -> bool:
            listed = home.run(("mlaunch", "nodes", "--json"), check=True).stdout
            (idle,) = (n["idle_cpus"] for n in builds.decode(listed) if n["name"] == "n1")
            return bool(idle < 0.1)

        wait_until(seen, 60, "the daemon sees it")
        builds.lay(home, SMALL)
        words = (*builds.mrun("--stats", builds.RECEIPT), *SMALL.steps[0].command(8))
        home.run(words, cwd=SMALL.directory, check=True, timeout=300)
        process.send_signal(9, group=True)
    where = [body["node"] for body in builds.on_nodes(builds.read_bodies(home))]
    assert where.count("n1") < min(where.count("n2"), where.count("n3")), where
