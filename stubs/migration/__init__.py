"""Live migration: freezing a tree of processes, its image, and bringing that to life elsewhere."""
