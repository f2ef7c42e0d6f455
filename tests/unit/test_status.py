"""What the status line of mrun --progress says."""

import pytest

from stubs.home.guests.status import BIG_FILE, line
from stubs.wire.codec import Usage


def usage(cpu_s: float) -> Usage:
    return Usage(7, ord("R"), int(cpu_s * 1e6), 1000, 1, 1, 3, 5 << 20, 2000)


@pytest.mark.parametrize(
    ("cpu_s", "clock"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600 * 2 + 60, "2:01:00")]
)
def test_cpu_time_is_a_clock(cpu_s: float, clock: str) -> None:
    assert line("n1", usage(cpu_s), None, 200).decode() == (
        f"mrun: n1  CPU {clock}  5 MiB there, 2 KiB back"
    )


def test_a_big_file_that_is_read_is_a_bar() -> None:
    reading = (b"big\x1b", BIG_FILE // 2, BIG_FILE)
    assert line("n1", usage(0), reading, 200).endswith(b"  big? [############............] 50%")
    # A read may end behind the end of the file.
    assert line("n1", usage(0), (b"b", BIG_FILE + 9, BIG_FILE), 200).endswith(b"] 100%")
    assert b"[" not in line("n1", usage(0), (b"small", 1, BIG_FILE - 1), 200)


@pytest.mark.parametrize("width", [0, 1, 20, 80])
def test_it_never_fills_the_last_column(width: int) -> None:
    reading = (b"x" * 200, 1, BIG_FILE)
    assert len(line("n1", usage(0), reading, width)) <= max(0, width - 1)
