"""A page in headless Chromium, with all that it logged and asked for."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
]
MISSING = not (shutil.which("chromium") and shutil.which("chromedriver"))
# Without a browser a developer's tests go on; where everything is checked, its absence is a failure.
needs_chromium = pytest.mark.skipif(
    MISSING and "CI" not in os.environ, reason="no chromium and chromedriver; `make browser` installs them"
)


@contextmanager
def opened(page: Path, profile: Path) -> Iterator[Chrome]:
    """A browser that shows a page.

    Args:
        page: the file.
        profile: a folder that does not exist yet.
    """
    options = ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or "chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options, Service(shutil.which("chromedriver") or "chromedriver")) as browser:
        browser.get(page.as_uri())
        yield browser


def complaints(browser: Chrome) -> list[str]:
    """Whatever the page's console says, errors of its scripts among it."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Chrome) -> list[str]:
    """Addresses that were asked for, but those that hold their own data and those of the browser's own first page."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "chrome:"))]
