"""What POSIX and Linux promise of a file system, as checks that take a directory.

A check is a function whose name begins with `check_`; it asserts, and cleans up nothing. Native
Linux is the oracle: a check must pass on a plain directory, then on a mount of the home view.
"""
