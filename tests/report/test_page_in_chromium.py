"""report.html in a real browser, on a screen and on a phone: it sorts, opens, fits, and asks nobody for anything."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.evaluation.mistakes import find_mistakes, write_mistakes
from rfray.evaluation.search_findings import search_findings
from rfray.models.grad_cam import encode_jpeg
from rfray.report.page import write_page
from rfray.report.plots import write_plots
from rfray.report.search_plots import write_search_plots
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir
from tests.chromium import NEEDED, PHONE, SCREEN, chromium
from tests.synthetic import small_run

pytestmark = NEEDED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with two members, a trial that failed and one mistake."""
    run = small_run(tmp_path_factory.mktemp("run") / "small")
    write_ensemble(run, choose_members(run, 1))
    write_leaderboard(run)
    findings, mistakes = search_findings(run), find_mistakes(run)
    assert mistakes is not None
    grey = encode_jpeg(np.full((40, 40, 3), 128, np.uint8))
    for mistake in mistakes.shown:
        for evidence in (False, True):
            write_whole(run.mistake_picture(mistake.number, evidence=evidence), grey)
    write_mistakes(run, mistakes)
    write_plots(run)
    write_search_plots(run, findings)
    write_page(run, findings)
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as chrome:
        yield chrome


def opened(browser: webdriver.Chrome, run: RunDir, size: tuple[int, int] = SCREEN) -> webdriver.Chrome:
    browser.set_window_size(*size)
    browser.get(run.report_html.as_uri())
    return browser


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"#board tbody tr > :nth-child({number})")]


def test_a_click_sorts_the_leaderboard_and_another_one_turns_it_round(browser: webdriver.Chrome, run: RunDir) -> None:
    opened(browser, run)
    headers = [header.text.strip(" ▾▴") for header in browser.find_elements(By.CSS_SELECTOR, "#board thead th")]
    number = headers.index("accuracy") + 1
    before = column(browser, number)
    button = browser.find_element(By.CSS_SELECTOR, f"#board thead th:nth-child({number}) button")
    button.click()
    falling = [value for value in column(browser, number) if value]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) > 1
    button.click()
    rising = column(browser, number)
    assert [value for value in rising if value] == sorted(falling)
    assert rising[-1] == ""  # what has no value goes last
    assert sorted(before) == sorted(rising)


def test_the_other_columns_come_with_a_click(browser: webdriver.Chrome, run: RunDir) -> None:
    opened(browser, run)
    hidden = browser.find_elements(By.CSS_SELECTOR, "#board th.more")
    assert hidden
    assert not any(header.is_displayed() for header in hidden)
    browser.find_element(By.ID, "more").click()
    assert all(header.is_displayed() for header in hidden)


def test_the_gallery_opens(browser: webdriver.Chrome, run: RunDir) -> None:
    opened(browser, run)
    pictures = browser.find_elements(By.CSS_SELECTOR, "#mistakes ~ details img")
    assert pictures
    assert not any(picture.is_displayed() for picture in pictures)
    for summary in browser.find_elements(By.CSS_SELECTOR, "#mistakes ~ details summary"):
        summary.click()
    for picture in pictures:
        assert picture.is_displayed()
        assert picture.get_attribute("naturalWidth") == "40"


def test_every_link_leads_to_a_section(browser: webdriver.Chrome, run: RunDir) -> None:
    opened(browser, run)
    links = [str(link.get_attribute("href")) for link in browser.find_elements(By.CSS_SELECTOR, "nav a")]
    assert len(links) >= 5
    for link in links:
        assert browser.find_element(By.ID, link.partition("#")[2]).is_displayed()


@pytest.mark.parametrize("size", [SCREEN, PHONE])
def test_it_fits_and_complains_of_nothing(browser: webdriver.Chrome, run: RunDir, size: tuple[int, int]) -> None:
    opened(browser, run, size)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []
    broken = "return [...document.images].filter(image => image.complete && !image.naturalWidth).length"
    assert browser.execute_script(broken) == 0


def test_it_asks_nobody_for_anything(browser: webdriver.Chrome, run: RunDir) -> None:
    browser.get_log("performance")
    opened(browser, run)
    messages = [entry["message"] for entry in browser.get_log("performance")]
    requests = [message for message in messages if 'requestWillBeSent"' in message]
    assert requests
    assert not [request for request in requests if '"url":"http' in request]


def test_a_picture_for_people_to_look_at(browser: webdriver.Chrome, run: RunDir, tmp_path: Path) -> None:
    opened(browser, run)
    assert browser.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 10_000
