"""What machine code answers for the home view: a compiler's opens of what was opened before."""

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pytest

from stubs.abi import inotify, machinecode
from stubs.node.view.fuse import Device
from stubs.node.view.inodes import VOLATILE_SECONDS
from tests.kernel.viewbed import Bed
from tests.kernel.viewcalls import put

TIMES = 50

# Opens, reads and closes a file again and again, and tells what it read last.
READ = """
import os, sys
for _ in range(int(sys.argv[2])):
    try:
        fd = os.open(sys.argv[1], os.O_RDONLY)
    except OSError as error:
        print(error.errno)
        continue
    text = os.read(fd, 100)
    os.close(fd)
    print(text.decode())
"""


@pytest.fixture(scope="module")
def compiler() -> Iterator[str]:
    """Return a Python that goes by a compiler's name."""
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        yield shutil.copy(os.path.realpath("/usr/bin/python3"), f"{directory}/x86-gcc-12")


def _reads(interpreter: str, path: str, expected: str, times: int) -> None:
    words = [interpreter, "-S", "-c", READ, path, str(times)]
    out = subprocess.run(words, check=True, capture_output=True, text=True)
    assert out.stdout.split("\n") == [*[expected] * times, ""]


def read_often(bed: Bed, interpreter: str, expected: str, name: str = "f") -> int:
    """Have it read a file TIMES times; return how many requests that spared the agent."""
    before = bed.stats()["spared"]
    bed.run(_reads, interpreter, f"{bed.mount}/{name}", expected, TIMES)
    spared: int = bed.stats()["spared"] - before
    return spared


def test_a_compiler_opens_again_without_us(bed: Bed, compiler: str) -> None:
    put(f"{bed.home}/f", "text")
    assert read_often(bed, compiler, "text") >= 2 * (TIMES - 3)
    assert read_often(bed, "/usr/bin/python3", "text") == 0


def test_it_reads_what_home_has_written_since(bed: Bed, compiler: str) -> None:
    put(f"{bed.home}/f", "old")
    read_often(bed, compiler, "old")
    put(f"{bed.home}/f", "newer")
    bed.barrier()
    assert read_often(bed, compiler, "newer") >= 2 * (TIMES - 3)


def test_it_reads_what_was_renamed_to_the_name_since(bed: Bed, compiler: str) -> None:
    put(f"{bed.home}/f", "old")
    read_often(bed, compiler, "old")
    put(f"{bed.home}/g", "another")
    os.rename(f"{bed.home}/g", f"{bed.home}/f")
    bed.barrier()
    assert read_often(bed, compiler, "another") >= 2 * (TIMES - 3)


def test_a_file_that_may_not_be_read_any_more_is_refused(bed: Bed, compiler: str) -> None:
    put(f"{bed.home}/f", "text")
    os.chmod(f"{bed.home}/f", 0o644)
    read_often(bed, compiler, "text")
    os.chmod(f"{bed.home}/f", 0)
    bed.barrier()
    if bed.uid:
        assert read_often(bed, compiler, str(errno.EACCES)) == 0
        os.chmod(f"{bed.home}/f", 0o644)
        bed.barrier()
    assert read_often(bed, compiler, "text") >= 2 * (TIMES - 3)


def _reads_after_its_end(interpreter: str, directory: str) -> None:
    code = (
        "import os, sys; os.chdir(sys.argv[1])\n"
        "for _ in range(3): fd = os.open('f', os.O_RDONLY); os.close(fd)\n"
        "fd = os.open('f', os.O_RDONLY); os.unlink('f')\n"
        "print(os.read(fd, 100).decode())"
    )
    words = [interpreter, "-S", "-c", code, directory]
    assert subprocess.run(words, check=True, capture_output=True).stdout == b"text\n"
    assert not os.path.exists(f"{directory}/f")


def test_what_it_has_open_can_be_read_without_a_name(bed: Bed, compiler: str) -> None:
    put(f"{bed.home}/f", "text")
    bed.barrier()
    bed.run(_reads_after_its_end, compiler, bed.mount)
    assert not os.path.exists(f"{bed.home}/f")


def _writes_program(path: str) -> None:
    with open(path, "w") as file:
        file.write("#!/bin/sh\necho changed\n")
    os.chmod(path, 0o755)


def test_home_can_execute_what_was_written_after_it_was_read(bed: Bed, compiler: str) -> None:
    put(f"{bed.home}/f", "text")
    os.chown(f"{bed.home}/f", bed.uid, bed.uid)
    read_often(bed, compiler, "text")
    bed.run(_writes_program, f"{bed.mount}/f")
    bed.barrier()
    out = subprocess.run([f"{bed.home}/f"], check=True, capture_output=True)
    assert out.stdout == b"changed\n"


def watch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let home run out of watches: the limit is the user's, and would be reached for all."""

    def none_left(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no watch left")

    monkeypatch.setattr(inotify, "inotify_add_watch", none_left)


def test_files_that_home_cannot_watch_are_handed_out(
    monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    watch_nothing(monkeypatch)
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory, Bed(directory) as bed:
        put(f"{bed.home}/f", "old")
        assert read_often(bed, compiler, "old") == 0
        put(f"{bed.home}/f", "newer")
        time.sleep(1.1 * VOLATILE_SECONDS)
        assert read_often(bed, compiler, "newer") == 0


def _sees_it_grow(path: str, written: int) -> None:
    with open(path) as file:
        assert file.read() == "old"
        os.write(written, b"\n")
        while os.fstat(file.fileno()).st_size == 3:
            time.sleep(0.01)
        assert file.read() == "er"
    with open(path) as file:
        assert file.read() == "older"


def test_a_file_has_its_new_size_with_its_new_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_nothing(monkeypatch)
    notify = Device.notify

    def notify_late(device: Device, code: int, body: bytes) -> int:
        time.sleep(0.3)
        return notify(device, code, body)

    monkeypatch.setattr(Device, "notify", notify_late)
    was_read, done = os.pipe()
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory, Bed(directory) as bed:
        put(f"{bed.home}/f", "old")
        check = bed.start(_sees_it_grow, f"{bed.mount}/f", done)
        assert os.read(was_read, 1) == b"\n"
        with open(f"{bed.home}/f", "a") as file:
            file.write("er")
        bed.finish(check)
    os.close(was_read)
    os.close(done)


def test_what_is_to_be_noted_is_handed_out(root_bed: Bed, compiler: str) -> None:
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        with Bed(directory, state=f"{directory}/state") as bed:
            put(f"{bed.home}/f", "text")
            put(f"{bed.home}/prog", "no ELF\n")
            assert read_often(bed, compiler, "text") > 0
            bed.prefetch("/prog", "main.c")
            assert read_often(bed, compiler, "text") == 0
            bed.touched()
            assert read_often(bed, compiler, "text") > 0


def test_without_machine_code_all_is_handed_out(
    monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    def refuse(code: bytes) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # As SELinux does with execmem denied.
    monkeypatch.setattr(machinecode, "load", refuse)
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory, Bed(directory) as bed:
        put(f"{bed.home}/f", "text")
        assert read_often(bed, compiler, "text") == 0
