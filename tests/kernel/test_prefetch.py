import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator

import pytest

from stubs.home.files.policy import ExportPolicy
from stubs.home.files.traces import MAX_MISSED
from tests.kernel.viewbed import Bed

MANY = 100
LARGE = 3 << 20  # not sent for the sake of an argument, only when it was read before


@pytest.fixture
def directory() -> Iterator[str]:
    if os.geteuid():
        pytest.skip("needs root: a device and a mount namespace of its own")
    with tempfile.TemporaryDirectory(prefix="mlaunch-view-") as directory:
        os.chmod(directory, 0o755)
        os.makedirs(f"{directory}/home/headers/deep")
        for number in range(MANY):
            with open(f"{directory}/home/headers/h{number}.h", "w") as file:
                file.write(f"{number}\n" * 1000)
        with open(f"{directory}/home/headers/deep/large", "wb") as large:
            large.write(os.urandom(LARGE))
        with open(f"{directory}/home/prog", "w") as file:
            file.write("no ELF\n")
        yield directory


def program(mount: str) -> None:
    """Do what the program does: look for names that are not there, read files, part of one."""
    for number in range(MANY):
        assert not os.path.exists(f"{mount}/headers/deep/h{number}.h")
        with open(f"{mount}/headers/h{number}.h") as file:
            assert file.read() == f"{number}\n" * 1000
    with open(f"{mount}/headers/deep/large", "rb") as large:
        large.seek(LARGE // 2)
        assert len(large.read(1 << 20)) == 1 << 20


def run(
    directory: str,
    call: Callable[..., None] = program,
    policy: ExportPolicy | None = None,
    between: Callable[[Bed], None] = lambda bed: None,
) -> dict[str, int]:
    """Run the program on a fresh node of a home that keeps its state; return what it took."""
    with Bed(directory, policy=policy, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "main.c")
        between(bed)
        before = bed.stats()
        bed.run(call, bed.mount)
        after = bed.stats()
        bed.touched()
        return {
            "trips": after["round_trips"] - before["round_trips"],
            "bytes": after["bytes_in"],
        }


def test_what_was_touched_once_is_not_waited_for_again(directory: str) -> None:
    first = run(directory)
    second = run(directory)
    assert first["trips"] >= MANY
    assert second["trips"] == 0


def wait_and_read(mount: str, *names: str) -> None:
    """Stand still until somebody says that it may go on, then read headers."""
    os.kill(os.getpid(), signal.SIGSTOP)
    for name in names:
        with open(f"{mount}/headers/{name}", "rb") as file:
            assert file.read()


def run_body(bed: Bed, program: str, *names: str, named: tuple[str, ...] = ()) -> int:
    """Run a body that reads headers, some named to it; return how often it waited for home."""
    started = bed.start(wait_and_read, bed.mount, *names)
    pid, _ = started
    os.waitpid(pid, os.WUNTRACED)
    bed.know_bodies(pid)
    bed.prefetch(program, "main.c", *named, body=pid)
    before = bed.stats()["round_trips"]
    os.kill(pid, signal.SIGCONT)
    bed.finish(started)
    trips = bed.stats()["round_trips"] - before
    bed.touched(pid)
    return trips


def test_what_each_of_a_kind_asks_for_is_not_waited_for_on_the_next_link(directory: str) -> None:
    own = [[f"h{number}.h", f"h{number + 1}.h"] for number in range(0, 10, 2)]
    with Bed(directory, state=f"{directory}/state") as bed:
        assert all(run_body(bed, "/prog", *names) >= 2 for names in own)
    for _ in range(MAX_MISSED + 2):
        # What the others asked for is read by nobody for some runs, and not forgotten.
        with Bed(directory, state=f"{directory}/state") as bed:
            assert run_body(bed, "/prog", *own[0]) == 0
    with Bed(directory, state=f"{directory}/state") as bed:
        assert not any(run_body(bed, "/prog", *names) for names in own)
        shutil.copy(f"{directory}/home/prog", f"{directory}/home/other")
        assert run_body(bed, "/other", "h50.h")


def test_headers_are_there_before_a_compiler_asks_for_them(directory: str) -> None:
    shutil.copy(f"{directory}/home/prog", f"{directory}/home/gcc")
    with open(f"{directory}/home/main.c", "w") as source:
        source.write("".join(f'#include "headers/h{number}.h"\n' for number in range(10)))
    with open(f"{directory}/home/other.c", "w") as source:
        source.write('#include "headers/h9.h"\n#include "headers/h10.h"\n')
    with Bed(directory, state=f"{directory}/state") as bed:
        assert run_body(bed, "/gcc", "../main.c", *(f"h{number}.h" for number in range(10))) == 0
        # The second of its kind, too; and what no source includes is asked for.
        assert run_body(bed, "/gcc", "../other.c", "h10.h", named=("other.c",)) == 0
        assert run_body(bed, "/gcc", "h11.h") == 1


def test_what_was_named_to_one_or_is_large_is_not_sent_to_others(directory: str) -> None:
    os.rename(f"{directory}/home/headers/deep/large", f"{directory}/home/headers/large")
    with Bed(directory, state=f"{directory}/state") as bed:
        run_body(bed, "/prog", "h1.h")
        run_body(bed, "/prog", "h2.h", "h3.h", "large", named=("./headers/h3.h", "/headers/h4.h"))
    with Bed(directory, state=f"{directory}/state") as bed:
        assert run_body(bed, "/prog", "h1.h", "h2.h") == 0
        assert bed.stats()["bytes_in"] < LARGE
        assert run_body(bed, "/prog", "h3.h") == 1
        assert run_body(bed, "/prog", "large") >= 1


def test_what_another_program_touches_at_the_same_time_is_not_of_the_trace(directory: str) -> None:
    for name in ("small", "greedy"):
        shutil.copy(f"{directory}/home/prog", f"{directory}/home/{name}")

    def both_read(bed: Bed) -> None:
        started = [bed.start(wait_and_read, bed.mount, name) for name in ("h1.h", "deep/large")]
        pids = [pid for pid, _ in started]
        bed.know_bodies(*pids)
        for pid, name in zip(pids, ("/small", "/greedy"), strict=True):
            os.waitpid(pid, os.WUNTRACED)
            bed.prefetch(name, body=pid)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for one in started:
            bed.finish(one)
        for pid in pids:
            bed.touched(pid)

    with Bed(directory, state=f"{directory}/state") as bed:
        both_read(bed)
    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/small")
        before = bed.stats()["round_trips"]
        bed.run(lambda: open(f"{bed.mount}/headers/h1.h", "rb").close())
        assert bed.stats()["round_trips"] == before
        assert bed.stats()["bytes_in"] < LARGE


def test_what_was_not_touched_is_not_sent(directory: str) -> None:
    with open(f"{directory}/home/headers/unused", "wb") as file:
        file.write(bytes(LARGE))
    run(directory)
    assert run(directory)["bytes"] < 2 * LARGE


def test_a_change_after_the_announcement_is_seen(directory: str) -> None:
    run(directory)

    def change(bed: Bed) -> None:
        # Same size, and the time set back: only that home saw it happen tells them apart.
        path = f"{bed.home}/headers/h7.h"
        status = os.stat(path)
        with open(path, "r+") as file:
            file.write("8")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(f"{bed.home}/headers/h8.h", f"{bed.home}/headers/h9.h")
        with open(f"{bed.home}/headers/deep/h8.h", "w") as file:
            file.write("new\n")
        bed.barrier()

    def changed(mount: str) -> None:
        with open(f"{mount}/headers/h7.h") as file:
            assert file.read() == "8\n" + "7\n" * 999
        assert not os.path.exists(f"{mount}/headers/h8.h")
        with open(f"{mount}/headers/h9.h") as file:
            assert file.read() == "8\n" * 1000
        with open(f"{mount}/headers/deep/h8.h") as file:
            assert file.read() == "new\n"

    run(directory, changed, between=change)


def test_a_change_between_two_links_is_seen(directory: str) -> None:
    run(directory)
    path = f"{directory}/home/headers/h7.h"
    status = os.stat(path)
    with open(path, "r+") as file:
        file.write("8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    shutil.rmtree(f"{directory}/home/headers/deep")

    def changed(mount: str) -> None:
        with open(f"{mount}/headers/h7.h") as file:
            assert file.read() == "8\n" + "7\n" * 999
        assert not os.path.exists(f"{mount}/headers/deep")

    run(directory, changed)


def test_nothing_hidden_is_sent(directory: str) -> None:
    run(directory)
    hidden = os.fsencode(f"{directory}/home/headers/deep")
    policy = ExportPolicy([hidden, os.fsencode(f"{directory}/home/headers/h3.h")])

    def look(mount: str) -> None:
        assert not os.path.exists(f"{mount}/headers/deep")
        assert len(os.listdir(f"{mount}/headers")) == MANY - 1
        with open(f"{mount}/headers/h4.h") as file:
            assert file.read() == "4\n" * 1000

    found = run(directory, look, policy)
    assert 0 < found["bytes"] < LARGE // 2


def test_what_the_user_may_not_read_is_not_sent(directory: str) -> None:
    state = f"{directory}/state"
    os.mkdir(state)
    os.chown(state, 1000, 1000)

    def look(mount: str) -> None:
        assert os.path.getsize(f"{mount}/headers/deep/large") == LARGE

    def turn() -> int:
        with Bed(directory, 1000, state=state) as bed:
            bed.prefetch("/prog", "main.c")
            bed.run(look if closed else program, bed.mount)
            bed.touched()
            return int(bed.stats()["bytes_in"])

    closed = False
    turn()
    closed = True
    os.chmod(f"{directory}/home/headers/deep/large", 0)
    assert turn() < LARGE // 2


def test_a_corrupt_store_is_set_aside(directory: str) -> None:
    os.mkdir(f"{directory}/state")
    path = f"{directory}/state/traces.sqlite"
    with open(path, "wb") as file:
        file.write(b"not a database, by any means\n" * 200)
    run(directory)
    assert os.path.exists(path + ".corrupt")
    run(directory)
    assert run(directory)["trips"] == 0


def test_a_trace_that_makes_no_sense_is_no_trace(directory: str) -> None:
    run(directory)
    connection = sqlite3.connect(f"{directory}/state/traces.sqlite")
    with connection:
        assert connection.execute("UPDATE traces SET trace = ?", (b"x",)).rowcount == 1
    connection.close()
    assert run(directory)["trips"] >= MANY


def test_files_in_arguments_are_sent_the_first_time(directory: str) -> None:
    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/prog", "headers/h1.h", "-x", "/headers/h2.h", "no-such", "\udcff")
        before = bed.stats()["round_trips"]

        def look(mount: str) -> None:
            for name in ("h1.h", "h2.h"):
                with open(f"{mount}/headers/{name}") as file:
                    assert len(file.read()) == 2000

        bed.run(look, bed.mount)
        assert bed.stats()["round_trips"] == before


def test_the_closure_of_a_program_is_sent_the_first_time(directory: str) -> None:
    for path in ("/bin/true", "/etc/ld.so.cache"):
        os.makedirs(f"{directory}/home{os.path.dirname(path)}", exist_ok=True)
        shutil.copy(path, f"{directory}/home{path}")
    libraries = ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6")
    for path in libraries:
        os.makedirs(f"{directory}/home{os.path.dirname(path)}", exist_ok=True)
        shutil.copy(path, f"{directory}/home{path}")

    def look(mount: str) -> None:
        for path in ("/bin/true", *libraries):
            with open(mount + path, "rb") as file, open(path, "rb") as own:
                assert file.read() == own.read()
        assert not os.path.exists(f"{mount}/etc/ld.so.preload")

    with Bed(directory, state=f"{directory}/state") as bed:
        bed.prefetch("/bin/true")
        before = bed.stats()["round_trips"]
        bed.run(look, bed.mount)
        assert bed.stats()["round_trips"] == before
