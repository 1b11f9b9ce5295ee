"""Comparisons of segments: which are compared, and how a synthetic teacher answers."""
