"""Chromium without a screen, where Debian's packages have brought it: for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDED = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt install chromium chromium-driver")
SCREEN, PHONE = (1280, 900), (500, 900)
"""Width and height of a window in pixels; Chromium makes none narrower."""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that keeps what its console says and what it asks the network for."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield chrome
    chrome.quit()
