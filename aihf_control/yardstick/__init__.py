"""The `yardstick` command: the learner beside Stable-Baselines3 on the true reward."""
