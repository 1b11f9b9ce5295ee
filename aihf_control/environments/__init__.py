"""Gymnasium environments: specification, stepping, rollouts, cards and cameras."""

from aihf_control.environments.registration import register_environments

register_environments()
