"""Networks, their kernels and losses, and the files that they are saved in."""
