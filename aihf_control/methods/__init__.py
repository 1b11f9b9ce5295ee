"""Methods, one file per paper. The name of a method is the name of its file."""

from aihf_control.methods.registry import load as load
from aihf_control.methods.registry import names as names
