"""A node is lost while a body runs there of which nobody could have noticed anything."""

import json
import time
from collections.abc import Callable

import pytest

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.faults.traces import Traces
from tests.programs.nodes import add_nodes
from tests.traceformat import check, events

RECEIPT = "/tmp/receipt.json"
STORY = "/tmp/story.json"
# Noise, so that it takes gzip some seconds.
DATA = "openssl enc -aes-128-ctr -pass pass:x -nosalt -pbkdf2 < /dev/zero 2>&- | head -c 60000000"


@pytest.fixture
def three(make_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = make_cluster(nodes=2)
    add_nodes(cluster.home, "n1", "n2")
    cluster.home.run(("bash", "-c", f"{DATA} > data; gzip -nc data > native.gz"), check=True)
    return cluster


def start(home: Host, *program: str) -> Process:
    files = ("--stats", RECEIPT, "--trace", STORY)
    return home.popen(("mrun", "--only", "n1,n2", "--no-fallback", *files, *program))


def node_of(cluster: Cluster, words: str) -> Host:
    """Return the node on which a program runs, once it does."""

    def found() -> Host | None:
        for node in cluster.nodes:
            if any(words in line for _, line in node.processes("alice")):
                return node
        return None

    wait_until(lambda: found() is not None, 30, f"{words} runs")
    host = found()
    assert host is not None
    return host


@pytest.mark.parametrize("fault", ["kill", "crash", "cut", "freeze"])
def test_a_program_that_only_made_files_ends_as_if_nothing_had_been(
    three: Cluster, fault: str
) -> None:
    traces = Traces(three)
    with start(three.home, "gzip", "-nk", "data") as process:
        node = node_of(three, "gzip")
        wait_until(lambda: three.home.run(("test", "-s", "data.gz")).returncode == 0, 30)
        getattr(node, fault)()
        out, said = process.communicate(timeout=120)
        assert (process.returncode, out, said) == (0, b"", b"")
    three.home.run(("cmp", "data.gz", "native.gz"), check=True)
    (body,) = json.loads(three.home.read(RECEIPT))["bodies"]
    assert body["restarts"] == 1
    assert body["node"] != node.name
    story = json.loads(three.home.read(STORY))
    check(story)
    assert [bar["args"]["end"] for bar in events(story, "X")] == ["lost", "exited"]
    assert [arrow["cat"] for arrow in events(story, "s")] == ["restart"]
    three.repair()
    traces.assert_gone()


LATE = """
import os, time
open('ready', 'x').close()
while not os.path.exists('go'): time.sleep(0.05)
open('copy', 'x').write('x')
"""


def test_a_program_that_has_ended_is_started_again_if_home_is_not_told(three: Cluster) -> None:
    home = three.home
    with start(home, "python3", "-c", LATE) as process:
        node = node_of(three, "python3 -c")
        wait_until(lambda: home.run(("test", "-e", "ready")).returncode == 0, 30)
        time.sleep(1)  # nothing is under way any more: it would be lost, and come again much later
        # What it wrote and the end of its pipes are at home half a second before its own end.
        node.set_link(rtt_ms=600)
        home.run(("touch", "go"), check=True)
        wait_until(lambda: home.run(("test", "-s", "copy")).returncode == 0, 60)
        node.cut()
        out, said = process.communicate(timeout=120)
        assert (process.returncode, out, said) == (0, b"", b"")
    assert home.read("/home/alice/copy") == b"x"
    (body,) = json.loads(home.read(RECEIPT))["bodies"]
    assert body["restarts"] == 1


def test_a_program_that_changed_what_was_there_fails_clearly(three: Cluster) -> None:
    script = "import time\nopen('old', 'a').write('x')\ntime.sleep(100)"
    three.home.write("old", b"")
    with start(three.home, "python3", "-c", script) as process:
        node = node_of(three, "python3 -c")
        wait_until(lambda: three.home.run(("test", "-s", "old")).returncode == 0, 30)
        node.kill()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 125
        assert node.name.encode() in said
        assert said.count(b"\n") == 1


def test_a_compiler_that_replaces_an_object_is_started_again(three: Cluster) -> None:
    home = three.home
    # Some seconds of work for cc1; the assembler takes the old object away as soon as it starts.
    functions = (
        f"int f{n}(int x) {{ return x % {n + 3} ? x * {n} : x / {n + 7}; }}\n" for n in range(2000)
    )
    home.write("big.c", "".join(functions).encode())
    command = ("gcc", "-pipe", "-O1", "-MMD", "-c", "big.c")
    home.run((*command, "-o", "native.o"), check=True)
    home.write("big.o", b"old")
    with start(home, *command) as process:
        node = node_of(three, "cc1")
        wait_until(lambda: home.run(("grep", "-q", "old", "big.o")).returncode != 0, 30)
        node.kill()
        out, said = process.communicate(timeout=120)
        assert (process.returncode, out, said) == (0, b"", b"")
    home.run(("cmp", "big.o", "native.o"), check=True)
    (receipt,) = json.loads(home.read(RECEIPT))["bodies"]
    assert receipt["restarts"] == 1


def test_without_another_node_it_is_started_again_at_home(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(nodes=1)
    add_nodes(cluster.home, "n1")
    cluster.home.run(("bash", "-c", f"{DATA} > data; gzip -nc data > native.gz"), check=True)
    with cluster.home.popen(("mrun", "--stats", RECEIPT, "gzip", "-nk", "data")) as process:
        node = node_of(cluster, "gzip")
        node.kill()
        out, said = process.communicate(timeout=120)
        assert (process.returncode, out, said) == (0, b"", b"")
    cluster.home.run(("cmp", "data.gz", "native.gz"), check=True)
    (body,) = json.loads(cluster.home.read(RECEIPT))["bodies"]
    assert body["node"] == "local"
