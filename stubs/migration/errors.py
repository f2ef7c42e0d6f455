"""What a restoration raises. Why a tree cannot be moved in the first place is in reasons."""

from __future__ import annotations


class RestoreError(Exception):
    """An image could not be brought to life; nothing is left of it."""
