import json
import time

from mlaunch.config import Node
from mlaunch.doctor import _findings
from mlaunch.findings import BAD, GOOD, NOTE, Finding, size
from mlaunch.homechecks import watching

N1 = Node("n1", "n1")


def printed(clock: float, **found: object) -> str:
    return "welcome to n1\n" + json.dumps({"found": found, "clock": clock}) + "\n"


def clock(apart: float) -> Finding:
    now = time.time()
    return _findings(N1, printed(now + apart), "", now)[-1]


def test_a_clock_that_is_ahead_or_behind_is_noted() -> None:
    assert clock(0).state == GOOD
    ahead, behind = clock(90), clock(-90)
    assert (ahead.state, behind.state) == (NOTE, NOTE)
    assert "90 s ahead of" in ahead.text
    assert "90 s behind home" in behind.text


def test_what_a_node_prints_cannot_steer_the_terminal() -> None:
    output = printed(time.time(), kernel=["ok", "\x1b[2Jgone\nn2 ok", "\x9b"])
    finding = _findings(N1, output, "", time.time())[0]
    assert (finding.state, finding.text, finding.remedy) == (GOOD, "?[2Jgone n2 ok", "?")


def test_a_node_cannot_tell_what_is_no_finding() -> None:
    for output in ("", "{}", "[]", '{"found": {"a": 1}, "clock": 1}', '{"found": {}}', "\n7\n"):
        (finding,) = _findings(N1, output, "Killed", time.time())
        assert (finding.check, finding.state) == ("python", BAD)
        assert "Killed" in finding.text
    output = printed(time.time(), kernel=["splendid", "", ""])
    assert _findings(N1, output, "", time.time())[0].state == BAD


def test_few_watches_are_noted_with_the_sysctl_that_helps() -> None:
    assert watching(524288, 1024, nodes=8).state == GOOD
    few = watching(8192, 128, nodes=100)
    assert few.state == NOTE
    assert "fs.inotify.max_user_watches=" in few.remedy
    assert "fs.inotify.max_user_instances=" in few.remedy
    assert "instances" not in watching(8192, 128, nodes=8).remedy


def test_sizes_are_told_as_people_read_them() -> None:
    assert [size(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "5 MiB",
        "3.0 GiB",
    ]
