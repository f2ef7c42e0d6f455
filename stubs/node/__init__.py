"""The node side: agent, home view (FUSE), capsule, bodies, streams, probe."""
