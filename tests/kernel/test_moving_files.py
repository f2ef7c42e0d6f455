import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.filescenarios import MOVED, REFUSED
from tests.kernel.viewcalls import USER

ROOT = Path(__file__).parents[2]


def run(what: str, name: str, directory: Path) -> None:
    """Run a scenario in namespaces as a capsule has them, as an ordinary user."""
    os.chown(directory, USER, USER)
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    command += [sys.executable, "-m", "tests.kernel.filemoves", what, name, str(directory)]
    user = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, **user)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MOVED)
def test_open_files_go_on_as_they_were(name: str, open_dir: Path) -> None:
    run("move", name, open_dir)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_moved_is_refused(name: str, open_dir: Path) -> None:
    run("refuse", name, open_dir)
