from pathlib import Path

import pytest

from tests.cluster import Host
from tests.programs.harness import Case, Oracle
from tests.programs.nodes import on
from tests.programs.table import read_folder

CASES = read_folder(Path(__file__).with_name("coherence"))

# Plays one side of a game for two: waits to be told on stdin, checks what the other side did to
# the directory, does the same kind of thing, and tells on stdout.
PLAYER = r"""
import os, sys

def look():
    rows = []
    for name in sorted(os.listdir(".")):
        status = os.lstat(name)
        rows.append((name, status.st_mode, status.st_size, status.st_mtime_ns))
    return rows

def act(me, turn):
    with open("content", "w") as file:
        file.write(f"{me} {turn}")
    with open("log", "a") as file:
        file.write(f"{me} {turn}\n")
    with open("new", "w") as file:
        file.write(f"{turn}" * turn)
    os.rename("new", "replaced")
    os.chmod("replaced", 0o600 + turn % 64)
    os.utime("log", ns=(turn, 10**18 + turn))
    if turn > 1:
        os.unlink(f"name-{turn - 1}")
    with open(f"name-{turn}", "w"):
        pass

def check(other, turn):
    assert open("content").read() == f"{other} {turn}", (turn, open("content").read())
    assert open("log").read().endswith(f"{other} {turn}\n"), (turn, open("log").read()[-100:])
    assert open("replaced").read() == f"{turn}" * turn, turn
    assert os.stat("log").st_mtime_ns == 10**18 + turn, (turn, os.stat("log"))
    assert os.stat("replaced").st_mode & 0o777 == 0o600 + turn % 64, (turn, os.stat("replaced"))
    names = sorted(os.listdir("."))
    assert names == ["content", "log", f"name-{turn}", "replaced"], (turn, names)
    assert not os.path.exists(f"name-{turn - 1}"), turn

me, other = sys.argv[1:]
for line in sys.stdin:
    turn = int(line)
    if turn > 1:
        check(other, turn - 1)
    act(me, turn)
    print(turn, look(), flush=True)
"""

# Starts the other player, as the words after the first say, and plays with it.
GAME = r"""
import subprocess, sys
rounds = int(sys.argv[1])
player = [sys.executable, "-c", sys.argv[2]]
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
near = subprocess.Popen([*player, "home", "node"], **pipes)
far = subprocess.Popen([*sys.argv[3:], *player, "node", "home"], **pipes)
for turn in range(1, 2 * rounds + 1):
    mover = near if turn % 2 else far
    print(turn, file=mover.stdin)
    said = mover.stdout.readline()
    assert said.startswith(f"{turn} "), (turn, said)
for side in near, far:
    side.stdin.close()
    assert side.wait(30) == 0, side.args
print("played", turn)
"""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_home_and_node_see_the_same_files(oracle: Oracle, case: Case) -> None:
    oracle.compare(case)


@pytest.mark.parametrize("mrun", [(), on("n1")], ids=["natively", "on-a-node"])
def test_a_hundred_alternating_rounds_of_changes_are_seen(
    ready_home: Host, work: str, mrun: tuple[str, ...]
) -> None:
    argv = ("/usr/bin/python3", "-c", GAME, "100", PLAYER, *mrun)
    done = ready_home.run(argv, cwd=work, timeout=120)
    assert done.stderr == b""
    assert done.stdout == b"played 200\n"


def test_times_come_from_one_clock_and_are_the_same_on_both_sides(
    ready_home: Host, work: str
) -> None:
    script = """
        for i in 1 2 3 4 5 6 7 8 9 10; do echo x >> f; stat -c %.9Y f; touch g; stat -c %.9Y g
        ln -f f h; stat -c %.9Z f; mkdir d$i; stat -c %.9Y d$i .; done
    """
    seen = ready_home.run((*on("n1"), "sh", "-c", script), cwd=work, check=True).stdout.split()
    now = ready_home.run(("stat", "-c", "%.9Y", "f", "g", "."), cwd=work, check=True).stdout.split()
    assert seen == sorted(seen, key=float)
    assert set(now) <= set(seen)
