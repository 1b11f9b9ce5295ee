"""The parts of methods: the task, SAC, reward models, direct losses, buffers."""
