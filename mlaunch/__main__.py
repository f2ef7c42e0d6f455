"""`python3 -m mlaunch`: the mlaunch command from a checkout."""

from __future__ import annotations

import sys

from mlaunch.errors import FAILED, LaunchError

try:
    from mlaunch.cli import main
except ModuleNotFoundError as error:
    missing = LaunchError(
        f"there is no package {error.name}", f"python3 -m pip install {error.name}"
    )
    print(f"mlaunch: {missing}", file=sys.stderr)
    sys.exit(FAILED)

main()
