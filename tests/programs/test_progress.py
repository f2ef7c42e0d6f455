"""The status line of `mrun --progress`: where it is shown, and that nothing is left of it."""

import re

import pytest

from tests.cluster import Host
from tests.cluster.waiting import wait_until
from tests.programs.nodes import on
from tests.programs.test_terminal import Screen, screen

__all__ = ["screen"]

MRUN = " ".join(("mrun", "--progress", *on("n1")[1:]))
STATUS = "mrun: n1  CPU "


def output(screen: Screen) -> list[str]:
    """Return the lines below the command, without the prompt after them."""
    lines = screen.text().splitlines()
    begin = max(number for number, line in enumerate(lines) if "--progress" in line)
    assert lines[-1] == "$"
    return lines[begin + 1 : -1]


def never_until(screen: Screen, unwanted: str, end: str) -> None:
    """Fail if a text is on the screen at any look before a line comes."""

    def over() -> bool:
        seen = screen.tmux("capture-pane", "-p")
        assert unwanted not in seen
        return re.search(f"^{end}$", seen, re.MULTILINE) is not None

    wait_until(over, 30, end)


def test_a_long_read_is_a_bar_that_disappears(screen: Screen, ready_home: Host, work: str) -> None:
    noise = "openssl enc -aes-128-ctr -pass pass:x -nosalt -pbkdf2 < /dev/zero 2>&-"
    ready_home.run(("bash", "-c", f"{noise} | head -c 60000000 > big"), cwd=work, check=True)
    screen.enter(f"{MRUN} xz -6 big")
    screen.wait_for(rf"{STATUS}\d:\d\d  .* there, .* back  big \[#+\.*\] \d+%")
    screen.type("C-c")
    assert screen.status() == "130"
    assert STATUS not in screen.text()


def test_a_program_writes_as_if_there_were_no_line(
    screen: Screen, ready_home: Host, work: str
) -> None:
    script = "sleep 3; echo one; sleep 4; seq 3; printf open; sleep 3; echo ed; sleep 3"
    ready_home.write(f"{work}/script", script.encode())
    screen.enter(f"{MRUN} sh script")
    screen.wait_for(rf"{STATUS}.*")
    screen.wait_for(rf"one\n{STATUS}.*")
    never_until(screen, f"open{STATUS}", "opened")
    screen.wait_for(rf"opened\n{STATUS}.*")
    screen.wait_for(r"\$")
    assert output(screen) == ["one", "1", "2", "3", "opened"]


@pytest.mark.parametrize(
    ("script", "after", "mark"),
    [
        ("stty -icanon -echo; echo raw; sleep 4; stty icanon echo; echo over", "", "raw"),
        ("sleep 4; echo over", " &", r"\[1\] \d+"),
        ("printf prompt:; sleep 4; echo; echo over", "", "prompt:"),
    ],
    ids=["raw mode", "in the background", "after a prompt"],
)
def test_where_it_would_disturb_there_is_none(
    screen: Screen, script: str, after: str, mark: str
) -> None:
    screen.enter(f"{MRUN} sh -c '{script}'{after}")
    screen.wait_for(mark)
    never_until(screen, STATUS, r"(\$ )?over")


def test_a_stopped_program_leaves_no_line(screen: Screen) -> None:
    screen.enter(f"{MRUN} sleep 6")
    screen.wait_for(rf"{STATUS}.*")
    screen.type("C-z")
    screen.wait_for(r".*Stopped.*")
    assert STATUS not in screen.text()
    screen.enter("fg")
    screen.wait_for(rf"{STATUS}.*")
    screen.type("C-c")
    assert screen.status() == "130"
    assert STATUS not in screen.text()


def test_without_a_terminal_for_errors_there_is_none(
    screen: Screen, ready_home: Host, work: str
) -> None:
    screen.enter(f"{MRUN} sh -c 'sleep 4; echo over' 2> errors")
    never_until(screen, STATUS, r"(\$ )?over")
    assert ready_home.read(f"{work}/errors") == b""
