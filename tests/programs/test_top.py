"""`mlaunch top` in a terminal, as its user sees it, while programs run on two nodes."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.cluster import Cluster, Host
from tests.cluster.process import Process
from tests.cluster.waiting import wait_until
from tests.programs.nodes import on
from tests.programs.test_terminal import PROMPT, Screen

TOP = "mlaunch top -d 0.2"
KEY_BAR = r"F1Help F4Filter.*"

# Four files that take xz a while, and a make that compresses them at the same time.
BUILD = """
head -c 6000000 /usr/bin/python3.* > all
for n in 1 2 3 4; do cp all text$n; done
printf '%s\\n' 'all: text1.xz text2.xz text3.xz text4.xz' '%.xz: % ; xz -9ek $<' > Makefile
exec mrun make -s -j4
"""

Start = Callable[..., Process]


@pytest.fixture
def screen(ready_home: Host, work: str) -> Iterator[Screen]:
    # The daemon and its links are there before anybody looks.
    ready_home.run(("mlaunch", "nodes"), check=True)
    screen = Screen(ready_home, work)
    yield screen
    screen.close()


@pytest.fixture
def start(ready_home: Host, work: str) -> Iterator[Start]:
    """Start programs that are killed when the test ends."""
    nowhere = subprocess.DEVNULL
    with ExitStack() as stack:

        def begin(*argv: str) -> Process:
            process = ready_home.popen(argv, cwd=work, stdout=nowhere, stderr=nowhere)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture
def sleepers(screen: Screen, start: Start) -> tuple[int, int]:
    """Put two programs that sleep on the nodes and show them; return their pids."""
    start(*on("n1"), "sleep", "1111")
    start(*on("n2"), "sleep", "2222")
    screen.enter(TOP)
    text = screen.wait_for(r".*sleep 1111.*(\n.*)*")
    text = screen.wait_for(r".*sleep 2222.*(\n.*)*")
    return _pid(text, "sleep 1111"), _pid(text, "sleep 2222")


def _rows(text: str) -> list[str]:
    """Return the rows of children."""
    return re.findall(r"^ *\d+ n\d .*", text, re.MULTILINE)


def _pid(text: str, command: str) -> int:
    return next(int(row.split()[0]) for row in _rows(text) if command in row)


def _order(screen: Screen) -> list[int]:
    return [int(row.split()[0]) for row in _rows(screen.text())]


def test_the_children_of_a_build_come_and_go(screen: Screen, start: Start) -> None:
    screen.enter(TOP)
    screen.wait_for(r" no child is away")
    start("bash", "-c", BUILD)
    screen.wait_for(r" *\d+ n1 .*xz -9ek text\d.*")
    screen.wait_for(r" *\d+ n2 .*xz -9ek text\d.*")
    screen.wait_for(r" [\d:]+ placed .* xz .*")
    screen.type("t")
    screen.wait_for(r" *\d+ home .*mrun make -s -j4 .*\n *\d+ n\d .*[├└]─ xz .*")
    screen.wait_for(r" no child is away")
    assert re.search(r"CPU gained (?!0\.00s)", screen.text())


def test_it_may_be_started_while_programs_run(screen: Screen, start: Start) -> None:
    start(*on("n1"), "sleep", "3333")
    screen.enter(TOP)
    screen.wait_for(r" *\d+ n1 +\w+ .*sleep 3333.*")
    assert re.search(r"^n1 +ready .*\[.*\].* 1 ", screen.text(), re.MULTILINE)


def test_sorting_and_filter(screen: Screen, sleepers: tuple[int, int]) -> None:
    screen.type("N")
    wait_until(lambda: _order(screen) == sorted(sleepers), 10, "sorted by pid")
    screen.type("I")
    wait_until(lambda: _order(screen) == sorted(sleepers)[::-1], 10, "inverted")
    screen.type("F6")
    screen.wait_for(r"Sort by: .*command.*")
    screen.type("Escape")
    screen.wait_for(KEY_BAR)
    screen.type("/")
    screen.wait_for(r"Filter .*")
    screen.type("2222")
    wait_until(lambda: _order(screen) == [sleepers[1]], 10, "only one is left")
    screen.type("Enter")
    screen.wait_for(r" only: 2222.*")
    screen.type("F4", "Escape")
    wait_until(lambda: len(_order(screen)) == 2, 10, "both are back")


def test_a_signal_ends_the_chosen_child(
    screen: Screen, start: Start, sleepers: tuple[int, int]
) -> None:
    screen.type("N", "End")
    last = max(sleepers)
    screen.type("k")
    screen.wait_for(rf"Signal for {last} \(sleep\).*: 15 *")
    screen.type("Enter")
    screen.wait_for(rf" TERM sent to {last}")
    wait_until(lambda: _order(screen) == [min(sleepers)], 10, "one is left")


def test_freezing_and_going_on(screen: Screen, sleepers: tuple[int, int]) -> None:
    screen.type("N", "Home", "f")
    screen.wait_for(rf" *{min(sleepers)} n\d +stopped .*")
    screen.type("f")
    screen.wait_for(rf" *{min(sleepers)} n\d +sleeping .*")


def test_details_and_help(screen: Screen, sleepers: tuple[int, int]) -> None:
    screen.type("N", "Home", "Enter")
    text = screen.wait_for(r" because: .*")
    assert f"{min(sleepers)} on n" in text
    assert "/usr/bin/sleep" in text
    screen.type("q")
    screen.wait_for(KEY_BAR)
    screen.type("?")
    screen.wait_for(r" HELP .*")
    screen.type("Escape")
    screen.wait_for(KEY_BAR)


def test_a_node_that_is_cut_off_turns_red(
    cluster: Cluster, screen: Screen, sleepers: tuple[int, int]
) -> None:
    cluster.node("n2").cut()
    screen.wait_for(r"n2 +lost .*")
    line = next(
        line
        for line in screen.tmux("capture-pane", "-p", "-e").splitlines()
        if re.search(r"n2 +lost", line)
    )
    assert "\x1b[1m\x1b[31m" in line or "\x1b[1;31m" in line
    assert sleepers[0] in _order(screen)
    cluster.node("n2").heal()
    screen.wait_for(r"n2 +ready .*")


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 12), (10, 3)])
def test_the_frame_fits_after_a_resize(
    screen: Screen, sleepers: tuple[int, int], size: tuple[int, int]
) -> None:
    screen.tmux("resize-window", "-x", str(size[0]), "-y", str(size[1]))
    bar = KEY_BAR[: size[0] // 2] if size[0] >= 40 else "F1Help.*"
    wait_until(
        lambda: re.match(bar, screen.tmux("capture-pane", "-p").splitlines()[size[1] - 1]),
        10,
        "the keys are on the last line",
    )
    assert screen.text().splitlines()[0].startswith(" mlaunch")


@pytest.mark.parametrize(("keys", "status"), [("q", "0"), ("F10", "0"), ("C-c", "130")])
def test_leaving_it_leaves_the_terminal_as_it_was(screen: Screen, keys: str, status: str) -> None:
    before = screen.modes()
    screen.enter("echo still-$((1+1))")
    screen.wait_for("still-2")
    screen.enter(TOP)
    screen.wait_for(KEY_BAR)
    assert screen.modes() != before
    screen.type(keys)
    assert screen.status() == status
    assert screen.modes() == before
    assert "still-2" in screen.text()
    assert screen.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip() == "0 1"


@pytest.mark.parametrize("signal", ["TERM", "HUP", "QUIT"])
def test_so_does_a_signal(ready_home: Host, screen: Screen, signal: str) -> None:
    before = screen.modes()
    screen.enter(TOP)
    screen.wait_for(KEY_BAR)
    ready_home.run(("pkill", f"-{signal}", "-f", "mlaunch top -d"), check=True)
    wait_until(lambda: screen.modes() == before, 10, "the modes are back")
    screen.wait_for(PROMPT + ".*")
    assert screen.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").strip() == "0 1"


def test_stopping_and_going_on(screen: Screen) -> None:
    before = screen.modes()
    screen.enter(TOP)
    screen.wait_for(KEY_BAR)
    screen.type("C-z")
    screen.wait_for(r"\[1\]\+  Stopped .*mlaunch top.*")
    assert screen.modes() == before
    screen.enter("bg; echo in-$((1+1))")
    screen.wait_for(r"(.*\n)*in-2")
    screen.enter("fg")
    screen.wait_for(KEY_BAR)
    screen.type("q")
    assert screen.status() == "0"
    assert screen.modes() == before


def test_a_failure_leaves_the_terminal_as_it_was(screen: Screen) -> None:
    before = screen.modes()
    breaks = (
        "import sys; import mlaunch.top.screen as s; "
        "s.Screen.key = lambda self, key: 1 / 0; "
        "from mlaunch.cli import main; main(['top'])"
    )
    screen.enter(f'/opt/mlaunch-venv/bin/python3 -c "{breaks}"')
    screen.wait_for(KEY_BAR)
    screen.type("x")
    screen.wait_for("ZeroDivisionError.*")
    assert screen.status() == "1"
    assert screen.modes() == before


def test_a_pipe_gets_one_frame_of_plain_text(
    ready_home: Host, screen: Screen, sleepers: tuple[int, int]
) -> None:
    for environment in ({}, {"COLUMNS": "80"}):
        done = ready_home.run(("mlaunch", "top"), env=environment, check=True)
        text = done.stdout.decode()
        assert all(re.search(rf"^ *{pid} n\d ", text, re.MULTILINE) for pid in sleepers)
        assert "\x1b" not in text
        assert done.stderr == b""


def test_a_dumb_terminal_gets_one_frame(ready_home: Host) -> None:
    done = ready_home.run(("mlaunch", "top"), env={"TERM": "dumb"}, tty=True, check=True)
    assert b"mlaunch top" in done.stdout
    assert b"\x1b" not in done.stdout


def test_no_color_is_obeyed(screen: Screen, sleepers: tuple[int, int]) -> None:
    screen.type("q")
    screen.wait_for(PROMPT + ".*")
    screen.enter(f"NO_COLOR=1 {TOP}")
    screen.wait_for(r".*sleep 1111.*")
    shown = screen.tmux("capture-pane", "-p", "-e")
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", shown) for code in found.split(";")}
    assert "7" in codes
    assert not {code for code in codes if re.fullmatch("[34][0-8]|9[0-7]", code)}


def test_no_daemon_is_said_and_none_is_started(ready_home: Host, screen: Screen, work: str) -> None:
    # Another configuration is another daemon.
    screen.enter("export MLAUNCH_CONFIG=$PWD/config.toml")
    screen.enter(TOP)
    screen.wait_for(r" the home daemon does not run; .*")
    ready_home.write(f"{work}/config.toml", b"[daemon]\nidle_minutes = 0.02\n")
    ready_home.run(("mlaunch", "daemon", "status"), env={"MLAUNCH_CONFIG": f"{work}/config.toml"})
    assert "does not run" in screen.text()
    ready_home.run(("mlaunch", "nodes"), env={"MLAUNCH_CONFIG": f"{work}/config.toml"}, check=True)
    screen.wait_for(r"local +ready .*")
    # Nobody needs it but who watches: it goes.
    screen.wait_for(r" the home daemon does not run; .*")
    screen.type("q")
    assert screen.status() == "0"


# Each life of it leaves a file open for writing to the next exec, which closes it.
CHAIN = """
import os, sys
left = int(sys.argv[1])
fd = os.open("chain", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"x")
if left:
    os.execv(sys.executable, [sys.executable, "-IS", "chain.py", str(left - 1)])
"""


def test_who_looks_does_not_stop_a_program_in_exec(
    ready_home: Host, screen: Screen, work: str
) -> None:
    ready_home.write(f"{work}/chain.py", CHAIN.encode())
    screen.enter("mlaunch top -d 0.1")
    screen.wait_for(KEY_BAR)
    chain = (*on("n1"), "/usr/bin/python3", "-IS", "chain.py", "150")
    ready_home.run(chain, cwd=work, timeout=60, check=True)
