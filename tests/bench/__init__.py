"""Benchmarks print figures as ratios against a baseline of the same run, and judge nothing."""
