"""A browser for tests: Playwright with the machine's Chromium."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def find_chromium() -> str:
    """Return the path of a Chromium, or skip the test with the reason."""
    pytest.importorskip("playwright", reason="needs Playwright: pip install -e '.[dev]'")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    return path or pytest.skip("needs a Chromium: apt-get install chromium")


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Run a headless Chromium during the block."""
    path = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


def wait_for_question(page: Any, after: str | None = None) -> str:
    """Return the id of the question that is shown, once it is another one than `after`."""
    changed = "old => { const q = document.getElementById('stage').dataset.question; return q && q !== old && q }"
    return page.wait_for_function(changed, arg=after, timeout=20_000).json_value()


def press(page: Any, key: str) -> None:
    """Press a key after the time in which the page takes it for the one before, pressed twice."""
    page.wait_for_timeout(280)
    page.keyboard.press(key)
