"""The open files of a tree that moves: collected where it stands still, opened where it goes on.

The two halves are kept in modules of their own; one for each family of descriptors says how they
are described and, next to it, how they are made again.
"""

from __future__ import annotations

from stubs.migration.collecting import Opens
from stubs.migration.reasons import Reason, Unmovable
from stubs.migration.reopening import Opened

__all__ = ["Opened", "Opens", "Reason", "Unmovable"]
