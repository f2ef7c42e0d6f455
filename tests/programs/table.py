"""Reads the tables of cases: shell scripts, one after another in a file.

What stands before the first case are functions for the setups of that file. Then, for each:

    ### NAME
    #: setup: COMMANDS                  run natively, in the same fresh directory, beforehand
    #: stdin: TEXT                      with the escapes of a Python string; else it is empty
    #: at home                          this program is not to leave home
    #: replace: REGULAR EXPRESSION => TEXT         in its output
    #: contents differ: PATTERN…        files whose bytes differ natively, too
    #: times differ: PATTERN…           files that are not written one after another
    # why something differs
    SCRIPT

The script runs as `bash -c SCRIPT`, under mrun as `mrun bash -c SCRIPT`; if `$MRUN` stands in it,
it runs natively both times, and `$MRUN` is nothing the first time.
"""

import ast
import itertools
from pathlib import Path

from tests.programs.harness import Case


def _case(prelude: str, text: str) -> Case:
    name, *lines = text.strip("\n").split("\n")
    head = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    options = [line[3:].strip() for line in head if line.startswith("#:")]
    script = "\n".join(lines[len(head) :]) + "\n"
    replace = []
    fields: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition(": ")
        if key == "replace":
            pattern, _, by = value.partition(" => ")
            replace.append((pattern, by))
        else:
            fields[key] = value
    setup = fields.pop("setup", "")
    case = Case(
        name=name.strip(),
        script=script,
        setup=f"{prelude}\n{setup}\n",
        stdin=ast.literal_eval(f'"{fields.pop("stdin", "")}"'),
        at_home=fields.pop("at home", None) is not None,
        replace=tuple(replace),
        contents_differ=tuple(fields.pop("contents differ", "").split()),
        times_differ=tuple(fields.pop("times differ", "").split()),
    )
    if fields:
        raise ValueError(f"{name}: no such option: {', '.join(fields)}")
    return case


def read_cases(path: Path) -> tuple[Case, ...]:
    """Return the cases of one file, in order."""
    prelude, *texts = ("\n" + path.read_text()).split("\n### ")
    return tuple(_case(prelude, text) for text in texts)


def read_folder(folder: Path) -> tuple[Case, ...]:
    """Return the cases of all files of a folder; raise ValueError if two have the same name."""
    cases = tuple(case for path in sorted(folder.glob("*.sh")) for case in read_cases(path))
    slugs = [case.slug for case in cases]
    if twice := {slug for slug in slugs if slugs.count(slug) > 1}:
        raise ValueError(f"two cases are called {', '.join(sorted(twice))}")
    return cases
