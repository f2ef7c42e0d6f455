"""Freezing a program that does not stand still for it, and letting it go on."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stubs.migration.freeze import Frozen
from stubs.migration.reasons import Unmovable
from tests.kernel.file_peer import in_child
from tests.kernel.movebed import compiled

# A parent waits for a child of vfork(2) where no signal but SIGKILL wakes it.
VFORK = """
#include <stdio.h>
#include <unistd.h>
int main(void) {
  puts("ready");
  fflush(stdout);
  if (vfork() == 0) { sleep(4); _exit(0); }
  return 7;
}
"""


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[int]:
    program = compiled("brief", tmp_path)
    with subprocess.Popen((program,), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        lives = process.poll() is None
        process.kill()
    assert lives


def states(pid: int) -> set[str]:
    """Return the states of all threads that there are."""
    found = set()
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{pid}/task/{tid}/stat").read_text()
            found.add(text.rpartition(")")[2].split()[0])
    return found


def test_threads_that_end_and_make_others_are_all_frozen(brief: int) -> None:
    refused = []
    for _ in range(100):
        try:
            frozen = Frozen([brief])
        except Unmovable as error:
            refused.append(error.reason.name)
            continue
        try:
            time.sleep(0.005)  # those that were ending are gone
            assert states(brief) == {"t"}
        finally:
            frozen.thaw()
    # It makes them as fast as it can.
    assert set(refused) <= {"changing"}
    assert len(refused) < 50


def test_a_program_that_does_not_stop_lives_on(tmp_path: Path) -> None:
    (tmp_path / "vfork.c").write_text(VFORK)
    program = str(tmp_path / "vfork")
    subprocess.run(("gcc", "-w", f"{program}.c", "-o", program), check=True)
    with subprocess.Popen((program,), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)

        def freeze() -> None:
            with pytest.raises(Unmovable) as caught:
                Frozen([process.pid])
            assert caught.value.reason.name == "not_stopping"

        in_child(freeze)
        assert process.wait(20) == 7
