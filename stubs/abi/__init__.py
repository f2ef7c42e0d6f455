"""The kernel as the kernel spells it: one file per header. A leaf: imports nothing of ours."""
