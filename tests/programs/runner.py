"""Runs cases in the home of the test cluster, as the user there, and says what came of them.

It is sent to the home as source (`python3 -c`), so it imports nothing but the standard library.
One JSON object per line on stdin, one per line on stdout; bytes travel as Latin-1 text, because
neither file names nor output need be UTF-8:

    -> {"argv", "setup", "directory", "stdin", "deadline", "receipt"}
    <- {"stdout", "stderr", "status", "tree", "began_ns", "ended_ns",
        "receipt"}
     | {"broken": TEXT}                         the setup failed, or the deadline passed

`status` is as `subprocess` gives it: the exit status, or minus the signal. `tree` has for every
name below the directory a list of
[path, type, mode, size, what it holds, path of its first hard link, mtime in ns].
"""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from typing import Any

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
}


def text(data: bytes) -> str:
    """Bytes as JSON can carry them."""
    return data.decode("latin-1")


def holds(path: bytes, status: os.stat_result) -> str:
    """Tell what a file holds, short: a symlink's target, the hash of a file's bytes."""
    if stat.S_ISLNK(status.st_mode):
        return text(os.readlink(path))
    if not stat.S_ISREG(status.st_mode):
        return ""
    mode = stat.S_IMODE(status.st_mode)
    if not mode & stat.S_IRUSR:
        os.chmod(path, mode | stat.S_IRUSR)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def snapshot(directory: bytes) -> list[list[Any]]:
    """Describe all that is below a directory, in the order of the names' bytes."""
    rows: list[list[Any]] = []
    first: dict[tuple[int, int], str] = {}

    def visit(path: bytes) -> None:
        status = os.lstat(path)
        kind = TYPES[stat.S_IFMT(status.st_mode)]
        name = text(os.path.relpath(path, directory))
        link = first.setdefault((status.st_dev, status.st_ino), name)
        size = 0 if kind == "directory" else status.st_size
        mode = stat.S_IMODE(status.st_mode)
        rows.append([name, kind, mode, size, holds(path, status), link, status.st_mtime_ns])
        if kind == "directory":
            if mode & 0o500 != 0o500:
                os.chmod(path, mode | 0o700)
            for entry in sorted(os.listdir(path)):
                visit(os.path.join(path, entry))

    for entry in sorted(os.listdir(directory)):
        visit(os.path.join(directory, entry))
    return rows


def remove(directory: str) -> None:
    """Remove what an earlier case left, whatever modes it gave its directories."""
    if os.path.lexists(directory):
        subprocess.run(("chmod", "-R", "u+rwX", directory), check=True)
        subprocess.run(("rm", "-rf", directory), check=True)


def read_if_there(path: str) -> str:
    """Return a file's text, or nothing."""
    try:
        os.chmod(path, 0o600)  # a case may have set a umask
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a fresh directory."""
    directory = case["directory"]
    remove(directory)
    remove(case["receipt"])
    os.makedirs(directory)
    began = time.time_ns()
    setup = subprocess.run(("sh", "-ec", case["setup"]), cwd=directory, capture_output=True)
    if setup.returncode:
        return {"broken": f"setup: {setup.returncode} {text(setup.stderr + setup.stdout)}"}
    child = subprocess.Popen(
        case["argv"],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        given = case["stdin"].encode("latin-1")
        stdout, stderr = child.communicate(given, timeout=case["deadline"])
    except subprocess.TimeoutExpired as late:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        said = text((late.stdout or b"")[-2000:] + (late.stderr or b"")[-2000:])
        return {"broken": f"not done after {case['deadline']} s; it said: {said}"}
    tree = snapshot(os.fsencode(directory))
    remove(directory)
    return {
        "stdout": text(stdout),
        "stderr": text(stderr),
        "status": child.returncode,
        "tree": tree,
        "began_ns": began,
        "ended_ns": time.time_ns(),
        "receipt": read_if_there(case["receipt"]),
    }


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


main()
