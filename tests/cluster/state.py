"""What a cluster has on this machine: a directory, and a process known by when it began."""

import os


def remove_state(state: str) -> None:
    """Remove a state directory, in which nothing is mounted: its files and one empty directory."""
    for entry in os.scandir(state):
        if entry.is_dir():
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(state)


def start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot; "" if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
