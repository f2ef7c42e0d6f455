"""Answers of a home daemon to the question "observe", as it gave them during a build.

observed.json holds successive ones: `mrun make -j4` on two nodes, half a second between them.
"""

import copy
import json
from pathlib import Path
from typing import Any

from mlaunch.top.model import Model

_TOLD = json.loads(Path(__file__).with_name("observed.json").read_text())


def answers() -> list[dict[str, Any]]:
    """Return the answers, for the caller to change."""
    found: list[dict[str, Any]] = copy.deepcopy(_TOLD)
    return found


def model(*told: dict[str, Any]) -> Model:
    """Return what is known after these answers, or after all that were captured."""
    found = Model()
    for answer in told or answers():
        found.take(answer)
    return found
