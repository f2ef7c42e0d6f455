"""Runs at home, by itself: prints what a directory holds, as JSON.

    python3 snapshot.py DIRECTORY UNSTEADY UNORDERED

UNSTEADY is a JSON list of [pattern of paths, regular expression], UNORDERED one of patterns; see
`catalog.Project`. Prints {path: [type, mode, size and sha256, or the link's text]}.
"""

import fnmatch
import hashlib
import json
import os
import re
import stat
import sys


def content(path: str, name: str, unsteady: list[list[str]], unordered: list[str]) -> str:
    """Return the size and the hash of what of a file must be equal."""
    with open(path, "rb") as file:
        data = file.read()
    for pattern, expression in unsteady:
        if fnmatch.fnmatchcase(name, pattern):
            if not expression:
                return "(differs)"
            data = re.sub(expression.encode(), b"...", data, flags=re.MULTILINE)
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in unordered):
        data = b"\n".join(sorted(data.split(b"\n")))
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def main() -> None:
    """Print the snapshot."""
    top, unsteady, unordered = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    rows = {}
    for directory, folders, files in os.walk(top):
        for entry in (*folders, *files):
            path = os.path.join(directory, entry)
            name = os.path.relpath(path, top)
            status = os.lstat(path)
            holds = ""
            if stat.S_ISLNK(status.st_mode):
                holds = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                holds = content(path, name, unsteady, unordered)
            kind = stat.S_IFMT(status.st_mode)
            rows[name] = [f"{kind:o}", f"{stat.S_IMODE(status.st_mode):04o}", holds]
    json.dump(rows, sys.stdout)


main()
