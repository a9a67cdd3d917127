"""The HTML report in a browser: quiet, alone, sortable, and legible in both colour schemes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.reporting import write
from harness.reporting.model import StudyReport
from tests.reporting.browser import Browser, chromium

pytestmark = pytest.mark.slow

COLUMN = "[...document.querySelectorAll('#study tbody tr')].map(row => row.cells[{}].textContent)"


@pytest.fixture
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("there is no Chromium")
    with Browser() as browser:
        yield browser


def test_the_page_in_a_browser(browser: Browser, report: StudyReport, tmp_path: Path) -> None:
    write(report, tmp_path / "small.html", ("html",))
    page = tmp_path / "small.html"
    browser.open(page)
    names = [arm.name for arm in report.arms]
    assert browser.evaluate(COLUMN.format(0))[: len(names)] == names

    # By accuracy: up, down, as it was. The numbers count, not their digits.
    def click(column: int) -> list[str]:
        browser.evaluate(f"document.querySelectorAll('#study th button')[{column}].click()")
        shown: list[str] = browser.evaluate(COLUMN.format(0))
        return shown

    by_accuracy = sorted(report.arms, key=lambda arm: arm.last.mean or 0)
    assert click(2) == [arm.name for arm in by_accuracy]
    assert browser.evaluate("document.querySelectorAll('#study th')[2].ariaSort") == "ascending"
    assert click(2) == [arm.name for arm in reversed(by_accuracy)]
    assert click(2) == names
    by_difference = sorted(report.arms[1:], key=lambda arm: (arm.difference and arm.difference.mean) or 0)
    assert click(3)[:-1] == [arm.name for arm in by_difference]  # the base has none and stands last

    brightness = {}
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
        brightness[scheme] = float(np.median(pixels))
        assert (np.abs(pixels - np.median(pixels)) > 100).mean() > 0.005  # there is text to be read
    assert brightness["light"] > 240
    assert brightness["dark"] < 40
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.complaints == []


def test_what_a_browser_says_of_a_page_that_is_not_quiet(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text("<img src='other.png'><script>console.error('no'); missing()</script>")
    browser.open(page)
    assert browser.requests[1].endswith("other.png")
    assert len(browser.complaints) >= 2
