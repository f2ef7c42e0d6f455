"""`mlaunch top`: the live dashboard of remote children.

An answer of the home daemon goes one way through this package:

    feed → model (rows and rates) → order (sorted, filtered, as a tree) → frame (lines) → terminal

and keys the other: terminal → keys (bytes to names) → screen (what is shown, what a key does).
Only frame and what it is made of (nodepanel, table, pages, lines) knows how things look.
"""
