"""What --trace and --stats tell of a tree, against a double of the daemon (see test_tree)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.mruns import Bed, bed

__all__ = ["bed"]


def told(
    bed: Bed, path: Path, script: str, *options: str, node: str = "home"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a script under `mrun --trace`; return the whole and the bars."""
    command = bed.command("sh", "-c", script, node=node)
    at = command.index("-n")
    words = [*command[:at], "--trace", str(path), *options, *command[at:]]
    subprocess.run(words, env=bed.env, check=True, stdin=subprocess.DEVNULL)
    found = json.loads(path.read_text())
    return found["otherData"], [e for e in found["traceEvents"] if e["ph"] == "X"]


def argvs(bars: list[dict[str, Any]]) -> list[str]:
    return [" ".join(bar["args"]["argv"]) for bar in bars]


def test_a_story_has_what_ran_away_and_what_took_time_at_home(bed: Bed, tmp_path: Path) -> None:
    # bash stays in the double, sleep goes.
    script = "sh -c 'sleep 0.05; :'; sleep 0.1; sh -c :"
    whole, bars = told(bed, tmp_path / "story", script)
    assert whole["argv"] == ["sh", "-c", script]
    assert whole["exit"] == 0
    assert whole["wall_s"] > 0.15
    assert {"sh -c sleep 0.05; :", "sleep 0.05", "sleep 0.1", f"sh -c {script}"} == set(argvs(bars))
    away = [bar for bar in bars if bar["cat"] == "body"]
    assert argvs(away) == ["sleep 0.05", "sleep 0.1"]
    assert all(bar["args"]["status"] == 0 for bar in bars)
    assert all(bar["dur"] >= 50_000 for bar in away)


def test_arrows_lead_from_the_program_that_started_it(bed: Bed, tmp_path: Path) -> None:
    told(bed, tmp_path / "story", "sh -c '(sleep 0.05); :'; :")
    events = json.loads((tmp_path / "story").read_text())["traceEvents"]
    bars = {(e["pid"], e["tid"]): e for e in events if e["ph"] == "X"}
    starts, ends = ({e["id"]: e for e in events if e["ph"] == phase} for phase in "sf")
    pairs = {
        tuple(bars[e["pid"], e["tid"]]["args"]["argv"][-1] for e in (starts[n], ends[n]))
        for n in starts
    }
    assert pairs == {
        ("sh -c '(sleep 0.05); :'; :", "(sleep 0.05); :"),
        ("(sleep 0.05); :", "0.05"),
    }


def test_a_program_that_becomes_another_has_two_bars(bed: Bed, tmp_path: Path) -> None:
    _, bars = told(
        bed, tmp_path / "story", "perl -e 'select undef, undef, undef, 0.02'; exec sleep 0.02"
    )
    ends = {bar["args"]["argv"][0]: bar["args"]["end"] for bar in bars}
    assert ends["sh"] == "replaced"
    assert ends["sleep"] == "exited"


def test_a_restart_is_told_as_two_stays(bed: Bed, tmp_path: Path) -> None:
    story = tmp_path / "story"
    command = bed.command("cat", node="flaky")
    at = command.index("-n")
    words = [*command[:at], "--trace", str(story), *command[at:]]
    given = tmp_path / "given"
    given.touch()
    with given.open() as stdin:
        subprocess.run(words, env=bed.env, check=True, stdin=stdin)
    events = json.loads(story.read_text())["traceEvents"]
    assert [e["args"]["end"] for e in events if e["ph"] == "X"] == ["lost", "exited"]
    assert [e["cat"] for e in events if e["ph"] == "s"] == ["restart"]


def test_an_inner_mrun_has_a_story_of_its_own(bed: Bed, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    script = f"{sys.executable} -m mlaunch.mrun --trace {inner} -n home sh -c 'sleep 0.05; :'; :"
    _, bars = told(bed, tmp_path / "outer", script, "--stats", str(tmp_path / "stats"))
    own = json.loads(inner.read_text())
    names = sorted(e["name"] for e in own["traceEvents"] if e["ph"] == "X")
    assert names == ["sh", "sleep"]
    assert own["otherData"]["argv"] == ["sh", "-c", "sleep 0.05; :"]
    assert "sleep 0.05" in argvs(bars)
    nodes = [body["node"] for body in json.loads((tmp_path / "stats").read_text())["bodies"]]
    assert nodes == ["double", "home"]


def test_a_story_that_cannot_be_written_stops_the_run(bed: Bed, tmp_path: Path) -> None:
    command = bed.command("touch", str(tmp_path / "ran"), node="home")
    at = command.index("-n")
    words = [*command[:at], "--trace", "/no/such/directory/story", *command[at:]]
    done = subprocess.run(words, env=bed.env, capture_output=True, check=False)
    assert done.returncode == 125
    assert done.stderr == b"mrun: /no/such/directory/story: No such file or directory\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options", [(), ("--stats",), ("--trace",)])
def test_only_what_is_asked_for_is_loaded(options: tuple[str, ...]) -> None:
    code = """
import sys
from stubs.home.run import session
from stubs.home.run.records import Records
Records([], *(None if name not in sys.argv else "/dev/null" for name in ("--stats", "--trace")))
print(*sys.modules)
"""
    words = [sys.executable, "-c", code, *options]
    loaded = subprocess.run(words, capture_output=True, check=True).stdout.decode().split()
    assert ("json" in loaded) == bool(options)
    assert ("stubs.home.run.story" in loaded) == ("--trace" in options)
    assert ("stubs.home.run.receipt" in loaded) == ("--stats" in options)
