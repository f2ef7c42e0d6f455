"""What stands in: at home the deputy for a body, on the node the agent for home.

Contract: Python 3.9 syntax, standard library only, and never an import of `mlaunch`. This package
is what travels to a node, where nothing but python3 can be expected. Inside it the order of
imports is `abi` <- `wire` <- `link` <- `home` | `node`; `home` and `node` meet on the wire only.
"""
