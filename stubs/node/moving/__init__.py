"""Bodies that leave this node or arrive on it."""
