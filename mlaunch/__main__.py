"""`python3 -m mlaunch`: the mlaunch command from a checkout."""

from __future__ import annotations

import sys

from mlaunch.errors import FAILED

try:
    from mlaunch.cli import main
except ModuleNotFoundError as error:
    print(f"mlaunch: the Python package {error.name} is missing", file=sys.stderr)
    print(f"mlaunch: hint: python3 -m pip install {error.name}", file=sys.stderr)
    sys.exit(FAILED)

main()
