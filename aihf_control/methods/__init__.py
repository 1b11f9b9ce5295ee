"""The methods: one file a paper. A file in this folder is a method, and its name is the file's."""

from aihf_control.methods.registry import load as load
from aihf_control.methods.registry import names as names
