"""Provenance of results: versions of the libraries, and the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that determine results."""
    import importlib.metadata
    import platform

    names = ("aihf_control", "torch", "numpy", "gymnasium", "mujoco", "stable_baselines3")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Return the commit of this package, or "unknown" outside of a repository."""
    where = Path(__file__).parent
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
