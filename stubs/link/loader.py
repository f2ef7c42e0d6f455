"""The first of our code that runs on a node: puts the package in place and enters the agent.

What came over the link is a dictionary from module names to (is a package, code), compiled on
this node. Nothing of it is ever a file with a name of ours on the node's import path.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

# Bytes of the secret that home sends before the first frame; it proves that the bulk connection
# is home's as well.
TOKEN_BYTES = 32


class Finder:
    """Imports modules from memory; a finder and loader of importlib."""

    def __init__(self, modules: dict[str, tuple[bool, CodeType]]) -> None:
        """Serve `modules`."""
        self._modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that we have."""
        found = self._modules.get(name)
        if found is None:
            return None
        return ModuleSpec(name, self, origin="<mlaunch>", is_package=found[0])  # type: ignore[arg-type]  # importlib.abc costs 5 ms

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave that to importlib."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module in it."""
        exec(self._modules[module.__name__][1], module.__dict__)


def install(modules: dict[str, tuple[bool, CodeType]]) -> None:
    """Make `modules` importable, before anything that the node itself may have of that name."""
    sys.meta_path.insert(0, Finder(modules))


def enter(module: str) -> None:
    """Read the token, take over stdin and stdout, and end with the status of `module.main`."""
    token = b""
    while len(token) < TOKEN_BYTES:
        data = os.read(0, TOKEN_BYTES - len(token))
        if not data:
            sys.exit(1)
        token += data
    # What a library prints by mistake must not get into the frames.
    read_fd, write_fd = os.dup(0), os.dup(1)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    with open("/proc/self/comm", "w") as file:
        file.write("mlaunch: agent")
    sys.exit(__import__(module, fromlist=["main"]).main(read_fd, write_fd, token))
