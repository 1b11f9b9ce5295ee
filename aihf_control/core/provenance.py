"""What a number was made with: versions and the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """What the numbers were made with."""
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
    """The package's own commit, where it lies in a repository."""
    where = Path(__file__).parent
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
