"""`mlaunch ps` and `why` while programs run on two nodes: what they say is what the nodes count."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster import Cluster, Host, Process
from tests.cluster.waiting import wait_until
from tests.programs.nodes import add_nodes, on

FOREVER = ("awk", 'BEGIN { print "ready"; fflush(); while (1) i++ }')
# Asks the daemon as a dashboard does.
ASK = """
import json, sys
from mlaunch import client
print(json.dumps(client.ask(json.loads(sys.argv[1]))))
"""

Row = dict[str, Any]


@pytest.fixture
def bed(cluster: Cluster) -> Cluster:
    """Return the cluster with both nodes connected and nothing that runs."""
    add_nodes(cluster.home, "n1", "n2")

    def settled() -> bool:
        listed = cluster.home.run(("mlaunch", "nodes", "--json"), check=True).stdout
        return {node["state"] for node in json.loads(listed)} == {"ready"} and not ps(cluster.home)

    wait_until(settled, 60, "both nodes are ready and idle")
    return cluster


def ps(home: Host, *options: str) -> list[Row]:
    said = home.run(("mlaunch", "ps", "--json", *options), check=True)
    found: list[Row] = json.loads(said.stdout)
    return found


def observe(home: Host, **question: object) -> dict[str, Any]:
    asked = json.dumps({"do": "observe", **question})
    said = home.run(("/opt/mlaunch-venv/bin/python3", "-c", ASK, asked), check=True)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def why(home: Host, *words: object) -> dict[str, Any]:
    said = home.run(("mlaunch", "why", "--json", *map(str, words)), check=True)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def only(rows: list[Row]) -> Row:
    (row,) = rows
    return row


def row_when(home: Host, condition: Callable[[Row], bool], pid: int = 0) -> Row:
    """Return the row of the only body, or of one, once a condition holds for it."""

    def found() -> Row | None:
        rows = [row for row in ps(home) if pid in (0, row["pid"])]
        return rows[0] if rows and condition(rows[0]) else None

    row = wait_until(found, 60)
    assert row is not None
    return row


class Running:
    """A program under mrun that has begun; killed at the end."""

    def __init__(self, home: Host, *words: str) -> None:
        self.process: Process = home.popen(words)

    def __enter__(self) -> Process:
        process = self.process.__enter__()
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def __exit__(self, *exc: object) -> None:
        self.process.send_signal(9, group=True)
        self.process.__exit__(None, None, None)


def stop(home: Host, row: Row) -> Row:
    """Stop a body; return its row once its node shows that."""
    home.run(("kill", "-STOP", str(row["pid"])), check=True)
    return row_when(home, lambda found: found["state"] == "T")


def go_on(home: Host, row: Row) -> None:
    """Continue a body that was stopped, and its mrun, which has stopped with it."""
    home.run(("kill", "-CONT", str(row["mrun"])), check=True)


def test_cpu_time_is_what_the_node_itself_counts(bed: Cluster) -> None:
    home, node = bed.home, bed.node("n1")
    with Running(home, *on("n1"), *FOREVER):
        # Stopped, it can be looked at by two who do not look at the same moment.
        before = stop(home, row_when(home, lambda row: row["cpu_s"] > 0))
        counted = node.cpu_seconds()
        go_on(home, before)
        # The host counts its agent and its sshd as well, which who looks keeps busy.
        wait_until(lambda: node.cpu_seconds() - counted > 6, 60)
        after = stop(home, before)
        counted = node.cpu_seconds() - counted
    assert (after["pid"], after["node"]) == (before["pid"], "n1")
    assert after["cpu_s"] - before["cpu_s"] == pytest.approx(counted, rel=0.05)


def test_two_mruns_at_once_are_told_apart(bed: Cluster) -> None:
    home = bed.home
    with Running(home, *on("n1"), *FOREVER), Running(home, *on("n2"), *FOREVER):
        rows = ps(home)
        assert sorted(row["node"] for row in rows) == ["n1", "n2"]
        assert len({row["mrun"] for row in rows}) == 2
        # An mrun is the parent of its program, and stands for it.
        assert all(row["ppid"] == row["mrun"] for row in rows)
        for row in rows:
            assert why(home, row["mrun"])["pid"] == row["pid"]
        seen = observe(home)
        assert {(mrun["pid"], mrun["bodies"]) for mrun in seen["mruns"]} == {
            (row["mrun"], 1) for row in rows
        }
        assert all(node["bytes_to_node"] > 0 for node in seen["nodes"])


def test_a_body_that_starts_others_is_told_with_them(bed: Cluster) -> None:
    script = "echo ready; awk 'BEGIN { while (1) i++ }' & awk 'BEGIN { while (1) i++ }' & wait"
    with Running(bed.home, *on("n2"), "sh", "-c", script):
        row = row_when(bed.home, lambda row: row["cpu_s"] > 0.2 and row["processes"] == 3)
        assert row["state"] == "S"  # its shell waits


def test_a_stopped_body_shows_t(bed: Cluster) -> None:
    home = bed.home
    with Running(home, *on("n1"), *FOREVER):
        row = row_when(home, lambda row: row["state"] == "R")
        go_on(home, stop(home, row))
        row_when(home, lambda row: row["state"] == "R")


def test_what_has_ended_is_gone_from_ps_and_known_to_why(bed: Cluster) -> None:
    home = bed.home
    with Running(home, *on("n1"), *FOREVER) as process:
        row = row_when(home, lambda row: row["cpu_s"] > 0.1)
        said = home.run(("mlaunch", "why", str(row["pid"])), check=True).stdout.decode()
        assert "runs on n1 since" in said
        assert "because: asked for" in said
        assert "moving: it is to run on n1 only: it moves only when told to" in said
        home.run(("kill", str(row["pid"])), check=True)
        process.wait(30)
    wait_until(lambda: not ps(home), 30, "no body is left")
    known = why(home, row["pid"])
    assert (known["state"], known["node"], known["keeps"]) == ("ended", "n1", "")
    assert known["measured"]["cpu_s"] >= row["cpu_s"]
    kinds = [e["kind"] for e in observe(home, events_since=0)["events"] if e["pid"] == row["pid"]]
    assert kinds[-2:] == ["placed", "ended"]


def test_why_measures_before_it_tells(bed: Cluster) -> None:
    home = bed.home
    with Running(home, *on("n1"), *FOREVER):
        pid = only(ps(home))["pid"]
        first = why(home, pid)["measured"]["cpu_s"]
        wait_until(lambda: why(home, pid)["measured"]["cpu_s"] > first + 0.3, 30)


def test_programs_that_stay_are_shown_when_asked_for_with_their_reason(bed: Cluster) -> None:
    home = bed.home
    script = "echo ready; cat /dev/zero > /dev/null"
    with Running(home, "mrun", "sh", "-c", script):
        assert ps(home) == []
        rows = {row["argv"][0]: row for row in ps(home, "--all")}
        assert {row["node"] for row in rows.values()} == {"home"}
        shell = why(home, rows["sh"]["pid"])
        assert shell["keeps"] == "a shell starts others: its children are to spread"

        def cat() -> Row | None:
            found = home.run(("pgrep", "-x", "cat")).stdout.split()
            return why(home, int(found[0])) if found else None

        # Whether it was asked about or its like was before, the reason is named.
        known = wait_until(cat, 30)
        assert known is not None
        assert known["reason"] == "cat handles files, and they are at home"


def test_ps_is_made_for_scripts(bed: Cluster) -> None:
    words = ("awk", 'BEGIN { print "ready"; fflush(); while (1) i++ } # ' + "x" * 300, "a\nb")
    with Running(bed.home, *on("n1"), *words):
        said = bed.home.run(("mlaunch", "ps"), check=True)
        heading, line = said.stdout.decode().splitlines()
        assert heading.split()[:4] == ["PID", "PPID", "NODE", "STATE"]
        fields = line.split(None, 9)
        assert (fields[2], fields[9]) == ("n1", " ".join(words).replace("\n", "?"))
        assert said.stderr == b""


def test_without_a_daemon_nothing_runs_and_none_is_started(bed: Cluster) -> None:
    home = bed.home
    home.run(("mlaunch", "daemon", "stop"), check=True)
    wait_until(lambda: home.run(("mlaunch", "daemon", "status")).returncode == 1, 30)
    said = home.run(("mlaunch", "ps"))
    assert (said.returncode, said.stdout) == (0, b"")
    assert said.stderr == b"mlaunch: nothing runs: there is no home daemon\n"
    assert ps(home) == []
    said = home.run(("mlaunch", "why", "1"))
    assert said.returncode == 1
    assert b"no home daemon" in said.stderr
    assert home.run(("mlaunch", "daemon", "status")).returncode == 1


def test_an_unknown_process_is_said_to_be_one(bed: Cluster) -> None:
    said = bed.home.run(("mlaunch", "why", "4194303"))
    assert (said.returncode, said.stdout) == (1, b"")
    assert said.stderr.count(b"\n") == 1
    assert b"mlaunch ps" in said.stderr


def test_why_tells_of_a_program_that_does_not_run(bed: Cluster) -> None:
    home = bed.home
    before = observe(home)["daemon"]["decisions"]
    known = why(home, "gzip", "-9", "file")
    assert known["argv"] == ["gzip", "-9", "file"]
    assert known["node"] in ("n1", "n2")
    assert {place["name"] for place in known["ranking"]} <= {"home", "n1", "n2"}
    assert known["ranking"][0]["name"] == known["node"]
    assert known["child"]["expected"]["cpu_s"] < known["expected"]["cpu_s"]
    assert why(home, "make")["node"] == "home"
    seen = observe(home)
    # Nothing was entered for it.
    assert seen["daemon"]["decisions"] == before
    assert [node["slots_used"] for node in seen["nodes"]] == [0, 0]
    said = home.run(("mlaunch", "why", "no-such-program"))
    assert (said.returncode, said.stderr.count(b"\n")) == (1, 1)


def test_a_program_that_has_run_has_a_history(bed: Cluster) -> None:
    home = bed.home
    home.run((*on("n1"), "awk", "BEGIN { while (i < 300000) i++ }"), check=True)
    known = why(home, "awk", "BEGIN { while (i < 300000) i++ }")
    assert known["history"]["runs"] >= 1
    assert known["history"]["last"]["node"] == "n1"


def test_a_silent_node_holds_nobody_up_and_its_body_is_known_to_be_lost(bed: Cluster) -> None:
    home, node = bed.home, bed.node("n1")
    with Running(home, *on("n1"), *FOREVER) as process, Running(home, *on("n2"), *FOREVER):
        pid = next(row["pid"] for row in ps(home) if row["node"] == "n1")
        row = row_when(home, lambda row: row["cpu_s"] > 0.1, pid)
        node.freeze()
        # The row before stays, with the time at which it was true; the other node's goes on.
        rows = {found["node"]: found for found in ps(home)}
        assert rows["n1"]["pid"] == pid
        assert rows["n1"]["measured_at"] <= rows["n2"]["measured_at"]
        assert rows["n1"]["cpu_s"] >= row["cpu_s"]
        assert process.wait(60) == 125
        assert [found["node"] for found in ps(home)] == ["n2"]
    known = why(home, pid)
    assert known["state"] == "ended"
    assert "has not answered" in known["lost"]
    seen = observe(home, events_since=0)
    assert {"node lost", "lost"} <= {event["kind"] for event in seen["events"]}


def test_a_restarted_body_is_the_same_one(bed: Cluster) -> None:
    home = bed.home
    # It has used no stream and changed nothing: nobody can tell that it had begun.
    words = ("mrun", "--only", "n1,n2", "--no-fallback", "awk", "BEGIN { while (1) i++ }")
    with home.popen(words, stdout=subprocess.DEVNULL) as process:
        row = row_when(home, lambda row: row["cpu_s"] > 0.1)
        bed.node(row["node"]).kill()
        again = row_when(home, lambda found: found["restarts"] == 1 and found["cpu_s"] > 0.1)
        assert again["pid"] == row["pid"]
        assert again["node"] != row["node"]
        assert observe(home)["totals"]["restarted"] >= 1
        process.send_signal(9, group=True)


def test_a_torrent_of_short_programs_is_watched_unharmed(bed: Cluster) -> None:
    home = bed.home
    before = observe(home)["daemon"]["decisions"]
    # Nothing says of an interpreter that it is short whatever its arguments: each is asked about.
    loop = "seq 600 | xargs -P 4 -n 1 perl -e 1; echo done"
    with home.popen(("mrun", "sh", "-c", loop)) as process:
        looks = 0
        while process.poll() is None:
            rows = ps(home, "--all")
            assert {row["argv"][0] for row in rows} <= {"sh", "seq", "xargs", "perl"}
            assert len({row["pid"] for row in rows}) == len(rows)
            looks += 1
        assert process.communicate(timeout=60)[0] == b"done\n"
    assert looks > 2
    after = observe(home, events_since=0)
    assert after["daemon"]["decisions"] - before >= 600
    assert after["bodies"] == after["mruns"] == []
