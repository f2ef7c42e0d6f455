"""Who else has a pipe: whether what a body leaves unread is of use to anybody.

A stream that only the body can read may be read ahead, at the link's full speed; of one that a
shell will go on reading, no byte more may be taken than the body asks for. The kernel does not
count readers for us, so the descriptors of all processes that could hold the pipe are looked at,
the likeliest first, since one holder settles it.
"""

from __future__ import annotations

import os

from stubs.home.run.proc import read_stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Permission bits of the links in /proc/PID/fd say how a descriptor was opened (proc(5)).
_READABLE = 0o400


def read_by_others(pipes: set[bytes], ours: set[int]) -> set[bytes]:
    """Return those of `pipes` ("pipe:[4711]") that a process other than `ours` can read.

    Of what cannot be looked into (a set-user-ID program, another user's shell) only ancestors in
    our session count, and only those nearer than an ancestor that was seen not to have the
    pipe: nothing is inherited past that one. sshd, in a session of its own, does not count.
    """
    found: set[bytes] = set()
    seen = set(ours)
    session = os.getsid(0)
    nearest = True
    for pid, its_session in _ancestors():
        seen.add(pid)
        held = _readable_in(pid, pipes)
        if held is None and nearest and its_session == session:
            return pipes
        if held is not None:
            found |= held
            nearest = nearest and bool(held)
    for pid in _others(seen):
        if found == pipes:
            break
        found |= _readable_in(pid, pipes) or set()
    return found


def _readable_in(pid: int, pipes: set[bytes]) -> set[bytes] | None:
    """Return those of `pipes` that the process can read; None when we may not know."""
    directory = b"/proc/%d/fd/" % pid
    found = set()
    try:
        for name in os.listdir(directory):
            path = directory + name
            link = os.readlink(path)
            if link in pipes and os.lstat(path).st_mode & _READABLE:
                found.add(link)
    except PermissionError:
        return None
    except OSError:
        pass  # it ended, or closed one, while we looked
    return found


def _ancestors() -> Iterator[tuple[int, int]]:
    """Yield pid and session of our parent, of its parent, and so on."""
    pid = os.getppid()
    while pid > 0:
        try:
            stat = read_stat(pid)
        except OSError:
            return  # hidepid, or it has just ended
        yield pid, stat.session
        pid = stat.ppid


def _others(seen: set[int]) -> Iterator[int]:
    """Yield the user's processes except `seen`: our session's first, then the youngest first."""
    uid = os.getuid()
    ours = os.getsid(0)
    far = []
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
        try:
            session = os.getsid(pid)
            # 0 is no sign of a kernel thread: so shows, in a PID namespace, a session from outside.
            if pid not in seen and os.stat(f"/proc/{pid}").st_uid == uid:
                if session == ours:
                    yield pid
                else:
                    far.append(pid)
        except OSError:
            continue  # it has ended
    yield from far
