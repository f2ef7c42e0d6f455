"""The home view: home's files as FUSE on the node."""
