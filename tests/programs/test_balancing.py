"""Programs that move while they run, by the user's word and by themselves; what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import on
from tests.programs.test_observing import (
    FOREVER,
    Running,
    bed,
    observe,
    only,
    ps,
    row_when,
    why,
)

__all__ = ["bed"]

# Until there is a line in a file at home.
UNTIL = """BEGIN { print "ready"; fflush()
while ((getline < "/home/alice/go") < 1) close("/home/alice/go")
print "done" }"""


def said(home: Host, *words: object) -> str:
    return home.run(("mlaunch", *map(str, words)), check=True).stdout.decode()


def refused(home: Host, *words: object) -> str:
    """Return what a command that fails says; its status is 1."""
    found = home.run(("mlaunch", *map(str, words)))
    assert found.returncode == 1
    return found.stderr.decode()


def events(home: Host, pid: int, kind: str) -> list[dict[str, Any]]:
    told = observe(home, events_since=0)["events"]
    return [event for event in told if event["pid"] == pid and event["kind"] == kind]


def test_a_program_goes_where_the_user_says_and_everything_tells_of_it(bed: Cluster) -> None:
    home = bed.home
    options = ("--stats", "receipt.json", "--trace", "story.json")
    with Running(home, "mrun", *options, *on("n1")[1:], "awk", UNTIL) as process:
        pid = only(ps(home))["pid"]
        line = said(home, "migrate", pid, "n2")
        assert line.startswith(f"moved {pid} (awk) from n1 to n2: ")
        assert "ms frozen" in line
        row = row_when(home, lambda row: row["node"] == "n2" and row["state"] in "RS")
        assert row["migrations"] == 1
        assert said(home, "bring", pid).startswith(f"moved {pid} (awk) from n2 to home: ")
        assert only(ps(home))["node"] == "home"
        known = why(home, pid)
        assert [(each["from"], each["to"]) for each in known["migrations"]] == [
            ("n1", "n2"),
            ("n2", "home"),
        ]
        assert "moved: from n2 to home at" in said(home, "why", pid)
        assert [event["node"] for event in events(home, pid, "moved")] == ["n2", "home"]
        home.run(("sh", "-c", "echo x > go"), check=True)
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n"
        assert process.wait(30) == 0
    home.run(("rm", "go"), check=True)
    receipt = json.loads(home.read("/home/alice/receipt.json"))
    (body,) = receipt["bodies"]
    assert [(each["from"], each["to"], each["why"]) for each in body["migrations"]] == [
        ("n1", "n2", "asked for"),
        ("n2", "home", "asked for"),
    ]
    story = json.loads(home.read("/home/alice/story.json"))["traceEvents"]
    bars = [event["args"] for event in story if event["ph"] == "X"]
    assert [bar["end"] for bar in bars] == ["moved", "moved", "exited"]
    assert [event["cat"] for event in story if event["ph"] == "s"] == ["migration"] * 2


def test_what_cannot_be_done_is_said_and_the_program_goes_on(bed: Cluster) -> None:
    home = bed.home
    assert "no program of pid 1 is known" in refused(home, "migrate", 1, "n2")
    with Running(home, *on("n1"), *FOREVER):
        pid = only(ps(home))["pid"]
        assert f"{pid} (awk) not moved to n1: it is on n1 already" in refused(
            home, "migrate", pid, "n1"
        )
        wrong = home.run(("mlaunch", "migrate", str(pid), "n9"))
        assert wrong.returncode == 125
        assert b"no node n9 (did you mean" in wrong.stderr
        row_when(home, lambda row: row["node"] == "n1" and row["state"] == "R")


def test_a_program_is_frozen_and_goes_on_wherever_it_is(bed: Cluster) -> None:
    home = bed.home
    with Running(home, *on("n1"), *FOREVER):
        pid = only(ps(home))["pid"]
        said(home, "freeze", pid)
        row_when(home, lambda row: row["state"] == "T")
        said(home, "continue", pid)
        row_when(home, lambda row: row["state"] == "R")


def test_a_node_is_emptied_and_not_used_meanwhile(bed: Cluster) -> None:
    home = bed.home
    with Running(home, *on("n1"), *FOREVER), Running(home, *on("n1"), *FOREVER):
        lines = said(home, "expel", "n1").splitlines()
        assert len(lines) == 2
        assert all(line.startswith("moved ") and " from n1 to " in line for line in lines)
        assert {row["node"] for row in ps(home)} <= {"n2", "home"}
        assert said(home, "expel", "n1") == ""


def test_of_two_programs_on_one_node_one_leaves_it_by_itself(bed: Cluster) -> None:
    home = bed.home
    with Running(home, "mrun", "-n", "n1", *FOREVER), Running(home, "mrun", "-n", "n1", *FOREVER):
        wait_until(
            lambda: sorted(row["node"] for row in ps(home)) == ["n1", "n2"],
            60,
            "one of them has moved",
        )
        (moved,) = [row for row in ps(home) if row["node"] == "n2"]
        assert moved["why"].startswith("moved: load: ")


def test_a_program_leaves_a_node_on_which_others_work(bed: Cluster) -> None:
    home = bed.home
    with Running(home, "mrun", "-n", "n1", *FOREVER):
        row = row_when(home, lambda row: row["cpu_s"] > 1)
        hogs = "for i in 1 2 3; do (while :; do :; done) & done; wait"
        with bed.node("n1").popen(("timeout", "60", "sh", "-c", hogs)) as others:
            row_when(home, lambda found: found["node"] != "n1", row["pid"])
            others.send_signal(9, group=True)
        (event,) = events(home, row["pid"], "moved")[:1]
        assert "of them others'" in event["text"]


def test_what_is_to_stay_stays_but_for_the_users_word(bed: Cluster) -> None:
    home = bed.home
    stay = ("mrun", "--stay", "-n", "n1", *FOREVER)
    with Running(home, *stay), Running(home, *stay):
        # Another one, which may move, shows that there was every reason to.
        with Running(home, "mrun", "-n", "n1", *FOREVER):
            wait_until(lambda: "n2" in {row["node"] for row in ps(home)}, 60)
            tied = [row for row in ps(home) if row["node"] == "n1"]
            assert len(tied) == 2
        assert "--stay" in why(home, tied[0]["pid"])["keeps"]
        said(home, "migrate", tied[0]["pid"], "n2")
        row_when(home, lambda row: row["node"] == "n2", tied[0]["pid"])


def test_a_file_that_a_program_has_made_moves_with_it(bed: Cluster) -> None:
    home = bed.home
    script = "seq 1 900000 > text; xz -9ekc text > native.xz"
    home.run(("sh", "-c", script), check=True)
    with home.popen((*on("n1"), "xz", "-9ekf", "text")) as process:
        row = row_when(home, lambda row: row["cpu_s"] > 0.5)
        assert home.run(("test", "-e", "text.xz")).returncode == 0
        said(home, "migrate", row["pid"], "n2")
        assert home.run(("test", "-e", "text.xz")).returncode == 0
        said(home, "bring", row["pid"])
        assert process.wait(60) == 0
    home.run(("cmp", "text.xz", "native.xz"), check=True)


@pytest.mark.parametrize("loop", [FOREVER, ("bash", "-c", "echo ready; while :; do :; done")])
def test_a_loop_that_began_at_home_leaves_it_for_a_node_that_idles(
    bed: Cluster, loop: tuple[str, ...]
) -> None:
    home = bed.home
    with Running(home, "mrun", "-n", "home", *loop):
        row = row_when(home, lambda row: row["node"] in ("n1", "n2"))
        assert row["why"].startswith("moved: load: ")
        assert [event["text"].split(":")[0] for event in events(home, row["pid"], "moved")] == [
            "from home"
        ]


def test_a_shell_has_a_slot_while_it_computes_itself(bed: Cluster) -> None:
    home = bed.home
    computes = "echo ready; while [ ! -e /home/alice/go ]; do :; done; sleep 60"

    def slots() -> int:
        used: int = observe(home)["home"]["slots_used"]
        return used

    assert slots() == 0
    with Running(home, "mrun", "--stay", "--node", "home", "sh", "-c", computes):
        wait_until(lambda: slots() == 1, 30, "it is seen to compute")
        home.run(("touch", "go"), check=True)
        wait_until(lambda: slots() == 0, 30, "it is seen to wait")
    home.run(("rm", "go"), check=True)
