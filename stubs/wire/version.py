"""The protocol version: one integer, and a dated line for every change of it.

Bump it when a frame, a message or the meaning of one changes. Both ends must
speak the same version; the agent travels with its home, so in practice only
an mrun that is newer than a running daemon ever sees a difference.

    1   2026-11-22   first version
    2   2026-11-27   trees: Place.top, Placed.sticky, Ended, Nested
    3   2026-11-27   observing, stories, speed: Measure, Census, Ended.reason, Nested.trace
    4   2026-11-28   migration: Dump to Reasons, Move, Moved; Place.stay
"""

from __future__ import annotations

VERSION = 4
