"""Running mrun against the double."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from stubs.link import runtime

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


class Bed:
    """A double, and the environment in which mrun finds it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.env = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(directory),
            "TMPDIR": str(directory),
            "PYTHONPATH": str(ROOT),
        }
        with mock.patch.dict(os.environ, self.env):
            path = runtime.socket_path()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kernel.double", path, str(self.log)],
            stdout=subprocess.PIPE,
            env=self.env,
            cwd=ROOT,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"

    def close(self) -> None:
        for mrun in self.started:
            mrun.kill()
            mrun.wait()
            for pipe in (mrun.stdout, mrun.stderr):
                if pipe is not None:
                    pipe.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def command(self, *words: str, node: str = "double") -> list[str]:
        return [sys.executable, "-m", "mlaunch.mrun", "-n", node, *words]

    def start(self, *words: str, node: str = "double", **how: Any) -> subprocess.Popen[bytes]:
        mrun = subprocess.Popen(self.command(*words, node=node), env=self.env, **how)
        self.started.append(mrun)
        return mrun

    def run(
        self, *words: str, node: str = "double", **how: Any
    ) -> subprocess.CompletedProcess[Any]:
        how = {"capture_output": True, "timeout": DEADLINE_S, "env": self.env, **how}
        return subprocess.run(self.command(*words, node=node), check=False, **how)

    def logged(self, text: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if text in line]

    def deputy(self) -> int:
        """Return the pid of the deputy of the only mrun, once there is one."""
        line = wait_until(lambda: self.logged("Spawn(body="), "a body")[0]
        pid = int(line.partition("body=")[2].partition(",")[0])
        wait_until(lambda: not os.listdir(f"/proc/{pid}/fd"), "a deputy without descriptors")
        return pid


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path)
    yield bed
    bed.close()
