"""The `yardstick` command: our SAC against that of Stable-Baselines3 on the true reward."""
