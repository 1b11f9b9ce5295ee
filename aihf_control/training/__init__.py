"""Training runs: specification, workers, checkpoints, run folders and the terminal."""
