"""The `speed` command: speed of the learner against baselines."""
