"""The subcommands of mlaunch, one file each."""
