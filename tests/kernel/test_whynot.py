import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.viewcalls import USER
from tests.kernel.whynotprograms import SORTS

ROOT = Path(__file__).parents[2]

# What only root can have on most machines.
FOR_ROOT = ("device", "device_mapped")


def ask(sort: str, directory: Path) -> list[str]:
    """Return what why_not says of a process of this sort, a line for each reason."""
    os.chown(directory, USER, USER)
    command = [sys.executable, "-m", "tests.kernel.whynotprograms", sort, str(directory)]
    ordinary = os.geteuid() == 0 and sort not in FOR_ROOT
    user = {"user": USER, "group": USER, "extra_groups": []} if ordinary else {}
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **user)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_ordinary_program_can_be_moved(open_dir: Path) -> None:
    assert ask("", open_dir) == []


@pytest.mark.parametrize("sort", [name for name in SORTS if name])
def test_what_cannot_be_moved_is_named(sort: str, open_dir: Path) -> None:
    found = ask(sort, open_dir)
    assert sort in [line.split("\t")[0] for line in found], found
