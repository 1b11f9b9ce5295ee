"""Grids of runs: experiment files, jobs, engines and the `bench` command."""
