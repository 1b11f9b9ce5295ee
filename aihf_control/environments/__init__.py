"""Gymnasium environments: specification, stepping, rollouts, cards and cameras."""
