"""What methods are built from: the task, SAC, reward models, direct losses, buffers."""
