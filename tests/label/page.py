"""The page as a process of its own, as a person starts it."""

import contextlib
import re
import subprocess
import sys
import threading
from pathlib import Path

from tests.helpers import ROOT


@contextlib.contextmanager
def running_page(folder: Path, *words: str, seconds: float = 300):
    """Run the command; yield the process and the printed links."""
    command = [sys.executable, "-m", "aihf_control.label", str(folder), "--port", "0", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killer = threading.Timer(seconds, process.kill)
    killer.start()
    try:
        links: dict[str, str] = {}
        assert process.stdout
        for line in process.stdout:
            if found := re.match(r"(\w+): (http\S+)", line):
                links[found[1]] = found[2]
            if "every answer is kept" in line:
                break
        yield process, links
    finally:
        killer.cancel()
        process.kill()
        process.communicate()
