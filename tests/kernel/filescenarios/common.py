"""What the scenarios are collected in, and what they have in common."""

import errno
import os
from collections.abc import Callable

from tests.kernel.filemoves import Scenario
from tests.kernel.viewcalls import outcome

# What must not be closed by the interpreter.
KEPT: list[object] = []

SECOND = 1_000_000_000

MOVED: dict[str, Scenario] = {}
REFUSED: dict[str, tuple[Scenario, str]] = {}


def at(number: int, fd: int) -> None:
    """Have a descriptor at this number."""
    os.dup2(fd, number)
    os.close(fd)


def is_error(number: int, call: Callable[..., object], *arguments: object) -> None:
    assert outcome(call, *arguments) == errno.errorcode[number]
