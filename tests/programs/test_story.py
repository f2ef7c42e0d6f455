"""The story of real runs over two nodes, and its page in a real browser."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mlaunch.report import page, story
from stubs.home.run import story as written
from stubs.home.run.record import HOME, LOST, Record, Run
from tests.cluster import Cluster, Host
from tests.programs import browser
from tests.programs.nodes import connect, on
from tests.programs.test_spreading import TEXTS
from tests.traceformat import check, events

GZIP = "find . -name 'text*' | LC_ALL=C sort | mrun --trace ../run.json --stats ../stats.json"

# Zooms, moves, finds, hovers and sorts as a user would, and notes what came of it on <html>.
USER = """
const noted = document.documentElement.dataset, canvas = document.getElementById("canvas");
const place = canvas.getBoundingClientRect();
const at = (x, y) => ({ clientX: place.left + x, clientY: place.top + y, bubbles: true,
                        cancelable: true });
const ink = () => canvas.toDataURL().length + canvas.toDataURL().slice(-400);
const tip = document.getElementById("tip");
const seen = () => { // the first bar that is found below the pointer, from the top
  for (let y = 30; y < place.height; y += 5) {
    canvas.dispatchEvent(new PointerEvent("pointermove", at(place.width / 2, y)));
    if (!tip.hidden) return tip.textContent;
  }
  return "";
};
const before = ink();
noted.tip = seen();
for (let n = 0; n < 5; n++)
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -50, ...at(300, 80) }));
noted.zoomed = String(ink() !== before);
document.getElementById("all").click();
noted.back = String(ink() === before);
const field = document.getElementById("find");
field.value = "text03";
field.dispatchEvent(new Event("input"));
noted.found = document.getElementById("found").textContent;
noted.filtered = String(ink() !== before);
field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
noted.details = document.getElementById("details").textContent;
const table = document.querySelectorAll("table")[2];
table.tHead.rows[0].cells[1].click();
noted.sorted = [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.v).join(" ");
noted.done = "yes";
"""

DARK = "preferredColorScheme=0"


@pytest.fixture(scope="module")
def run(three_nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the story of a run over three nodes, its receipt and its page."""
    home = three_nodes.home
    home.run(("bash", "-ec", TEXTS, "bash", "/home/alice/texts"), check=True, timeout=120)
    connect(three_nodes)
    words = ("bash", "-c", f"{GZIP} xargs -n 1 -P 6 gzip -9k")
    home.run(words, cwd="/home/alice/texts", check=True, timeout=300)
    home.run(("mlaunch", "report", "run.json"), check=True)
    found = tmp_path_factory.mktemp("run")
    for name in ("run.json", "run.html", "stats.json"):
        (found / name).write_bytes(home.read(f"/home/alice/{name}"))
    home.run(("rm", "-rf", "texts", "run.json", "run.html", "stats.json"), check=True)
    return found


def read(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def test_a_story_keeps_to_the_format(run: Path) -> None:
    check(read(run))


def test_a_story_and_a_receipt_say_the_same(run: Path) -> None:
    found, receipt = read(run), json.loads((run / "stats.json").read_text())
    names = {e["pid"]: e["args"]["name"] for e in events(found, "M") if e["name"] == "process_name"}
    told = sorted(
        (e["args"]["pid"], e["args"]["argv"], names[e["pid"]], e["args"]["cpu_s"])
        for e in events(found, "X")
        if e["cat"] == "body"
    )
    bodies = [body for body in receipt["bodies"] if body["node"] != "home"]
    assert told == sorted((b["pid"], b["argv"], b["node"], b["cpu_s"]) for b in bodies)
    # How many go is decided by how long they take just then; test_spreading sees to that.
    assert len({body["node"] for body in bodies}) >= 2


def test_xargs_is_seen_at_home_and_each_gzip_is_its_child(run: Path) -> None:
    found = read(run)
    (xargs,) = (bar for bar in events(found, "X") if bar["name"] == "xargs")
    assert (xargs["cat"], xargs["args"]["status"]) == ("home", 0)
    compressors = [bar for bar in events(found, "X") if bar["name"] == "gzip"]
    assert len(compressors) == 8
    starts = [e for e in events(found, "s") if e["cat"] == "parent"]
    assert len(starts) >= 8
    assert all((e["pid"], e["tid"]) == (xargs["pid"], xargs["tid"]) for e in starts)


def test_a_browser_shows_the_page(run: Path) -> None:
    found = browser.load(run / "run.html", USER)
    bars = len(events(read(run), "X"))
    assert "error" not in found.data
    assert found.data["ready"] == str(bars)
    assert found.data["done"] == "yes"
    assert (found.data["zoomed"], found.data["back"]) == ("true", "true")
    assert found.data["filtered"] == "true"
    assert found.data["found"] == f"1 of {bars}"
    assert found.data["details"].startswith("gzip -9k ./text03pid")
    assert "why there" in found.data["tip"]
    numbers = [float(word) for word in found.data["sorted"].split()]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("settings", ["", DARK, "scriptEnabled=false"])
def test_it_is_a_picture(run: Path, settings: str) -> None:
    width, height, rows = browser.rows(browser.picture(run / "run.html", settings))
    assert (width, height) == (1200, 900)
    assert len(set(rows)) > 150


def test_the_dark_picture_is_another(run: Path) -> None:
    pictures = [browser.picture(run / "run.html", settings) for settings in ("", DARK)]
    assert pictures[0] != pictures[1]


EVIL = "</script><script>document.documentElement.dataset.error = 'run'</script>\x1b[2J"


def made(run: Run, where: Path) -> Path:
    """Write the page of a made-up run."""
    target = where / "page.html"
    found = json.loads("".join(written.pieces(run, 0)))
    target.write_text(page.html(story.decode(found)))
    return target


def test_no_text_of_a_run_is_run_by_the_browser(tmp_path: Path) -> None:
    run = Run([EVIL.encode()])
    record = Record(7, [EVIL.encode()] * 2, EVIL, EVIL)
    record.began = run.began
    record.end_at_home(0, 1.0, 1.0, 5)
    run.all.append(record)
    found = browser.load(made(run, tmp_path), USER)
    assert found.data["done"] == "yes"
    assert "error" not in found.data
    assert r"\x1b[2J" in found.text


def test_twenty_thousand_bodies_are_shown(tmp_path: Path) -> None:
    chance = random.Random(4)
    run = Run([b"make"])
    for number in range(20_000):
        record = Record(number, [b"gzip", b"%d" % number], f"n{number % 8}", "idle")
        record.began = run.began + number / 500
        record.ended = record.began + chance.expovariate(2)
        record.status = 0
        record.cpu_s = record.own_s = record.ended - record.began
        if number % 1000 == 7:
            record.stays = (("n9", record.began - 1, record.began - 0.5, LOST),)
        run.all.append(record)
    top = Record(99, [b"make"], HOME, "it starts others")
    run.running[99] = top
    found = browser.load(made(run, tmp_path), USER)
    assert "error" not in found.data
    assert found.data["ready"] == "20021"
    assert found.data["found"] == "0 of 20021"
    assert found.data["zoomed"] == "true"
    assert len(set(browser.rows(browser.picture(tmp_path / "page.html"))[2])) > 150


def test_a_story_is_whole_when_the_program_is_killed(ready_home: Host) -> None:
    words = ("mrun", "--trace", "killed.json", *on("n1")[1:], "sh", "-c", "kill -TERM $$")
    done = ready_home.run(words)
    assert done.returncode in (-15, 143)
    found = json.loads(ready_home.read("/home/alice/killed.json"))
    ready_home.run(("rm", "killed.json"), check=True)
    check(found)
    assert found["otherData"]["signal"] == 15
    assert [bar["args"]["status"] for bar in events(found, "X")] == [-15]
