"""What mlaunch report reads, refuses, sums up and writes."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlaunch.cli import mlaunch
from mlaunch.errors import LaunchError
from mlaunch.report import page, story, summary
from stubs.home.run import story as written
from stubs.home.run.record import HOME, LOST, Record, Run

EVIL = "</script><script>alert(1)</script><!--\x1b[2J\u2028\u202e\"'&"


def records(*words: str, why: str = "idle", node: str = "n1") -> Run:
    """Return those of a run of 10 s: make at home, and one body from 1 s to 3 s."""
    top = Record(1, [b"make", b"-j2"], HOME, "it starts others")
    body = Record(7, [word.encode() for word in words or ("gcc", "a.c")], node, why)
    body.parent = top
    top.end_at_home(0, 0.5, 0.25, 1000)
    top.began, top.ended = 0.0, 10.0
    body.began, body.ended, body.status = 1.0, 3.0, 0
    body.cpu_s = body.own_s = 1.5
    body.round_trips, body.bytes_to_node, body.bytes_to_home = 4, 5000, 600
    every = Run([b"make", b"-j2"])
    every.began = 0.0
    every.all += [body, top]
    every.program = top
    return every


def raw(every: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("".join(written.pieces(every, 0)))
    found["otherData"]["wall_s"] = 10.0  # the records are of another clock
    return found


def test_a_story_is_read_as_it_was_written() -> None:
    found = story.decode(raw(records()))
    assert (found.nodes, found.lanes, found.wall_us) == (["home", "n1"], [1, 1], 10_000_000)
    body, top = found.bars
    assert (body.program, body.argv, body.begin, body.dur) == (
        "gcc",
        ("gcc", "a.c"),
        1_000_000,
        2_000_000,
    )
    assert (body.away, top.away, body.status, body.failed) == (True, False, 0, False)
    assert [(a.kind, a.source, a.target) for a in found.arrows] == [("parent", 1, 0)]


def test_sums() -> None:
    found = story.decode(raw(records()))
    programs = {each.name: each for each in summary.by_program(found)}
    assert list(programs) == ["gcc", "make"]
    assert (programs["gcc"].cpu_s, programs["gcc"].round_trips) == (1.5, 4)
    assert (programs["gcc"].bytes_to_node, programs["gcc"].bytes_to_home) == (5000, 600)
    assert programs["make"].cpu_s == 0.25
    use = summary.use(found, 1, 10)
    assert use.running == pytest.approx([0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    assert use.cpu == pytest.approx([0, 0.75, 0.75, 0, 0, 0, 0, 0, 0, 0])
    assert summary.slowest(found, 5) == [0]


def test_a_body_that_was_started_again_is_one_body() -> None:
    every = records()
    every.all[0].stays = (("n2", 0.1, 0.9, LOST),)
    assert summary.bodies(story.decode(raw(every))) == 1


def test_without_bodies_the_slowest_are_home_s() -> None:
    every = records()
    del every.all[0]
    assert summary.slowest(story.decode(raw(every)), 5) == [0]


class Parsed(HTMLParser):
    """The elements of a page, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        assert not any(name in ("src", "href") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_nothing_of_a_story_becomes_part_of_the_page() -> None:
    plain = Parsed(page.html(story.decode(raw(records()))))
    hostile = records(EVIL, EVIL, why=EVIL, node=EVIL)
    hostile.argv = [EVIL.encode()]
    text = page.html(story.decode(raw(hostile)))
    found = Parsed(text)
    assert found.tags == plain.tags
    assert "alert(1)" in "".join(found.texts)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u2028\u2029\u202e]", text)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_whatever_the_arguments_the_data_are_json(words: list[str]) -> None:
    try:
        every = records(*words)
    except UnicodeEncodeError:
        return  # no bytes could have been this
    found = Parsed(page.html(story.decode(raw(every))))
    data = next(text for text in found.texts if text.startswith('{"wall"'))
    assert len(json.loads(data)["bars"]["begin"]) == 2


def test_the_tables_need_no_script() -> None:
    text = page.html(story.decode(raw(records())))
    found = Parsed(re.sub("<script.*?</script>", "", text, flags=re.S))
    assert found.tags.count("table") == 3
    assert found.tags.count("svg") == 2
    assert {"gcc", "gcc a.c", "make -j2", "1.50 s"} <= set(found.texts)


def test_the_page_needs_no_network() -> None:
    text = page.html(story.decode(raw(records())))
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "url(" not in text
    assert "@import" not in text


def report(*words: str) -> tuple[int, str, bytes]:
    """Run the command; return its status, its complaint and its standard output."""
    done = CliRunner().invoke(mlaunch, ["report", *words])
    if isinstance(done.exception, LaunchError):
        return done.exception.exit_code, str(done.exception), b""
    return done.exit_code, "", done.stdout_bytes


def test_the_page_goes_beside_the_story(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(raw(records())))
    assert report(str(path)) == (0, "", b"")
    assert (tmp_path / "run.html").read_text().startswith("<!DOCTYPE html>")
    assert report(str(path), "-o", str(tmp_path / "other")) == (0, "", b"")
    assert (tmp_path / "other").read_bytes() == (tmp_path / "run.html").read_bytes()
    assert report(str(path), "-o", "-")[2] == (tmp_path / "run.html").read_bytes()


def test_a_story_is_not_overwritten_by_its_page(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text(json.dumps(raw(records())))
    assert (
        report(str(path), "-o", str(path))[1] == f"{path}: that is the story itself (-o PAGE.html)"
    )


def broken(change: str) -> str:
    """Return the text of a story with something wrong in it."""
    found = raw(records())
    events = found["traceEvents"]
    bar = next(event for event in events if event["ph"] == "X")
    arrow = next(event for event in events if event["ph"] == "s")
    match change:
        case "format":
            found["otherData"]["format"] = "other"
        case "no whole":
            del found["otherData"]
        case "no events":
            found["traceEvents"] = {}
        case "bar without args":
            del bar["args"]
        case "bar nowhere":
            bar["pid"] = 99
        case "lane":
            bar["tid"] = 10**12
        case "time":
            bar["ts"] = float("nan")
        case "endless":
            bar["dur"] = float("inf")
        case "status":
            bar["args"]["status"] = "0"
        case "argv":
            bar["args"]["argv"] = [1]
        case "arrow from nowhere":
            arrow["ts"] = 99_000_000
        case "half an arrow":
            events.remove(arrow)
        case "an event that is none":
            events.append(7)
    return json.dumps(found)


WRONG = [
    "format",
    "no whole",
    "no events",
    "bar without args",
    "bar nowhere",
    "lane",
    "time",
    "endless",
    "status",
    "argv",
    "arrow from nowhere",
    "half an arrow",
    "an event that is none",
]


@pytest.mark.parametrize("change", WRONG)
def test_what_is_no_story_is_refused_in_one_line(change: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(broken(change))
    status, complaint, _ = report(str(path))
    assert status == 125
    assert complaint.startswith(f"{path}: not a story of a run: ")
    assert "\n" not in complaint
    assert not (tmp_path / "run.html").exists()


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", "[" * 100_000, "[]", "1", '{"bodies": []}'])
def test_so_is_what_is_no_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="latin-1")
    status, complaint, _ = report(str(path))
    assert status == 125
    assert complaint.endswith("(mrun --trace FILE PROGRAM writes such a file)")


def test_files_that_are_not_there_or_not_writable(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert report(str(path))[1] == f"{path}: No such file or directory"
    path.write_text(json.dumps(raw(records())))
    assert report(str(path), "-o", f"{tmp_path}/no/page")[1].endswith("No such file or directory")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0004, "0 ms"), (0.9, "900 ms"), (1.5, "1.50 s"), (12.34, "12.3 s"), (99.9, "1 min 40 s")],
)
def test_times_are_readable(value: float, text: str) -> None:
    assert page.seconds(value) == text
    assert page.seconds(3600 * 2 + 59) == "2 h 00 min"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (50 << 20, "50 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes_are_readable(value: int, text: str) -> None:
    assert page.size(value) == text
