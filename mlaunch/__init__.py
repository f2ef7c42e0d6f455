"""The `mlaunch` and `mrun` commands: the part of the program that decides and connects.

Runs on the home node only and may import anything; what travels to a node is in `stubs`.
"""

__version__ = "0.1.0"
