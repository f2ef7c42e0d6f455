"""Wait for what another process is about to do, instead of for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.01  # seconds between two looks


def wait_until(condition: Callable[[], T], timeout: float = 30, what: str = "") -> T:
    """Return the first true value of `condition()`; raise TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what or condition}; last: {value!r}")
        time.sleep(PAUSE)
