"""What our own processes hold: to be the same after many moves as after a few."""

from typing import NamedTuple

from tests.cluster import Host

# Prints pid, descriptors, those of them on files, resident kB, state and command line of each
# process of alice's.
_LOOK = r"""
for p in /proc/[0-9]*; do
    [ "$(stat -c %U $p 2>&-)" = alice ] || continue
    fds=$(ls $p/fd 2>&- | wc -l)
    files=$(ls -l $p/fd 2>&- | grep -c " -> /")
    rss=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' $p/status 2>&-)
    zombie=$(sed -n 's/^State:.\(.\).*/\1/p' $p/status 2>&-)
    printf "%s\n" "${p#/proc/} $fds $files ${rss:-0} $zombie $(tr '\0\n' '  ' < $p/cmdline 2>&-)"
done
"""


class Held(NamedTuple):
    """What one process holds."""

    descriptors: int  # but those on files
    files: int
    rss_kb: int
    state: str
    line: str


def census(host: Host) -> dict[int, Held]:
    """Return what each process of alice's on a host holds, by pid."""
    found: dict[int, Held] = {}
    for row in host.run(("sh", "-c", _LOOK), user="root", check=True).stdout.decode().splitlines():
        pid, fds, files, rss, state, line = row.split(" ", 5)
        found[int(pid)] = Held(int(fds) - int(files), int(files), int(rss), state, line)
    return found


def disk_kb(host: Host) -> int:
    """Return how much disk alice's files on a host take, in kB."""
    argv = ("du", "-sxk", "/home/alice", "/tmp", "/dev/shm")
    rows = host.run(argv, user="root", check=True).stdout.splitlines()
    return sum(int(row.split()[0]) for row in rows)
