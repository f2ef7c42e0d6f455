"""Real projects, built natively and under mrun: what they are, and what must then be the same.

`sources` gets them from Debian's archive, once; `catalog` says how each is built; `small` writes
one of our own; `builds` runs a build on a home and reads what it left; `oracle` keeps what the
native build gave. Sources and oracles lie below /var/cache/mlaunch-tests/projects.
"""
