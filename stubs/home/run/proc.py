"""What /proc says about a process of home, as proc(5) writes it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Stat(NamedTuple):
        """Fields of /proc/PID/stat: who it belongs to. `tty` is a device number, 0 for none."""

        ppid: int
        pgrp: int
        session: int
        tty: int
        tpgid: int
        nice: int
else:
    from collections import namedtuple

    Stat = namedtuple("Stat", "ppid pgrp session tty tpgid nice")


def read_status(pid: int) -> dict[str, str]:
    """Return the lines of /proc/PID/status by their names; OSError when there is none."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.partition(":") for line in file]
    return {name: value.strip() for name, _, value in lines}


def read_stat(pid: int) -> Stat:
    """Return some of /proc/PID/stat; OSError when there is none."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field is a command's name in brackets and may hold any byte.
        fields = file.read().rpartition(b")")[2].split()
    ppid, pgrp, session, tty, tpgid = (int(field) for field in fields[1:6])
    return Stat(ppid, pgrp, session, _device(tty), tpgid, int(fields[16]))


def _device(number: int) -> int:
    """Return a device number as stat(2) has it, from the form that new_encode_dev() gives."""
    if number == 0:
        return 0
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


def read_strings(pid: int, name: str) -> list[bytes]:
    """Return the strings of /proc/PID/cmdline or /proc/PID/environ."""
    with open(f"/proc/{pid}/{name}", "rb") as file:
        data = file.read()
    return data.split(b"\0")[:-1]
