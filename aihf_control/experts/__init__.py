"""Experts: learning from the true reward, and the `experts` command."""
