"""The page of a run: what `mlaunch report` makes of the story that `mrun --trace` wrote."""
