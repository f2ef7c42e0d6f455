"""The capsule: its namespaces and root, the ghosts in it, and the bodies they start."""
