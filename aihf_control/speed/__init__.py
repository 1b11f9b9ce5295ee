"""The `speed` command: the learner beside others."""
