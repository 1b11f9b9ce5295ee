"""Networks, kernels, losses, and the file formats of trained models."""
