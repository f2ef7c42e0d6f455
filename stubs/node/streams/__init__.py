"""The node's ends of streams, and the terminals of bodies."""
