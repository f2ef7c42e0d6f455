"""What a home daemon has answered while `mrun make` had xz at work on two nodes.

observed.json holds successive answers to the question "observe", half a second between them, and
one to the question "why", of a body that runs.
"""

import copy
import json
from pathlib import Path
from typing import Any

from mlaunch.top.model import Model

_TOLD = json.loads(Path(__file__).with_name("observed.json").read_text())


def answers() -> list[dict[str, Any]]:
    """Return the answers, for the caller to change."""
    found: list[dict[str, Any]] = copy.deepcopy(_TOLD["answers"])
    return found


def why() -> dict[str, Any]:
    """Return why one of the bodies runs where it does."""
    found: dict[str, Any] = copy.deepcopy(_TOLD["why"])
    return found


def model(*told: dict[str, Any]) -> Model:
    """Return what is known after these answers, or after all that were captured."""
    found = Model()
    for answer in told or answers():
        found.take(answer)
    return found
