"""The page in a real browser: a real upload, its verdict, votes and heat map; errors in words; the keyboard alone."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfray.models.bundle import load_bundle
from rfray.store.run_dir import RunDir

pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")

import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from rfray.serving.app import Endpoints
from rfray.serving.models import LoadedModels
from rfray.serving.uploads import Limits
from tests.chromium import NEEDED, PHONE, SCREEN, chromium

pytestmark = NEEDED
DRAWN = "Where the members saw evidence for their call (Grad-CAM): the brighter, the more."


class Models(LoadedModels):
    """The same, with an error in place of a heat map where that is wanted."""

    drawing_fails = False

    async def evidence(self, picture: np.ndarray) -> bytes:
        if self.drawing_fails:
            raise ValueError("no heat map today")
        return await super().evidence(picture)


@pytest.fixture(scope="module")
def models(run: RunDir) -> Models:
    return Models(str(run.path), 1)


@pytest.fixture(scope="module")
def address(run: RunDir, models: Models) -> Iterator[str]:
    """The application behind a real HTTP server, in a thread."""
    bundle = load_bundle(run.path)
    app = Endpoints(bundle.ensemble, bundle.geometries, models, 1, Limits(file_bytes=100_000)).app([])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as chrome:
        yield chrome


def opened(browser: webdriver.Chrome, address: str, size: tuple[int, int] = SCREEN) -> webdriver.Chrome:
    browser.set_window_size(*size)
    browser.get(address)
    browser.get_log("browser")
    return browser


def text(browser: webdriver.Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def wait(browser: webdriver.Chrome, name: str, wanted: str) -> None:
    WebDriverWait(browser, 30).until(lambda _: wanted in text(browser, name), f"{name} never said {wanted!r}")


def judged(browser: webdriver.Chrome, file: Path) -> None:
    browser.find_element(By.ID, "file").send_keys(str(file))
    wait(browser, "explained", DRAWN)


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "dropped.bmp", {type: "image/bmp"}));
document.getElementById("drop").dispatchEvent(arguments[1] === "drop"
  ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
  : new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
"""


@pytest.mark.parametrize("size", [SCREEN, PHONE])
def test_a_chosen_picture_is_judged(
    browser: webdriver.Chrome, address: str, images: list[Path], size: tuple[int, int], tmp_path: Path
) -> None:
    opened(browser, address, size)
    judged(browser, images[0])
    verdict = text(browser, "verdict")
    assert verdict in ("Real", "Fake")
    assert "The probability that it is fake is 0." in text(browser, "sentence")
    assert text(browser, "sentence").endswith(f"is called {verdict.lower()}.")
    rows = [row.text.split() for row in browser.find_elements(By.CSS_SELECTOR, "#votes tbody tr")]
    assert [row[:2] for row in rows] == [["a", "test_resnet"], ["b", "test_efficientnet"], ["the", "vote"]]
    scores = [float(row[-1]) for row in rows]
    assert scores[2] == pytest.approx((scores[0] + scores[1]) / 2, abs=0.0011)
    widths = "return [...document.querySelectorAll('.bar i')].map(bar => bar.clientWidth / bar.parentNode.clientWidth)"
    assert browser.execute_script(widths) == pytest.approx(scores, abs=0.02)
    sides = "return ['picture', 'evidence'].map(id => document.getElementById(id).naturalWidth)"
    assert browser.execute_script(sides) == [32, 32]
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []
    assert browser.save_screenshot(str(tmp_path / "page.png"))


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_dropped_and_a_pasted_picture_are_judged(
    browser: webdriver.Chrome, address: str, images: list[Path], way: str
) -> None:
    from base64 import b64encode

    opened(browser, address)
    browser.execute_script(DROP, b64encode(images[1].read_bytes()).decode(), way)
    wait(browser, "explained", DRAWN)
    assert text(browser, "name") == "dropped.bmp"


def test_the_next_picture_takes_the_place_of_the_last(
    browser: webdriver.Chrome, address: str, images: list[Path]
) -> None:
    opened(browser, address)
    for image in (images[0], images[-1]):
        judged(browser, image)
        assert text(browser, "name") == image.name
        assert len(browser.find_elements(By.CSS_SELECTOR, "#votes tbody tr")) == 3


def test_a_bad_file_is_refused_in_words_and_a_name_stays_text(
    browser: webdriver.Chrome, address: str, images: list[Path], tmp_path: Path
) -> None:
    opened(browser, address)
    judged(browser, images[0])
    bad = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    bad.write_bytes(b"no picture")
    browser.find_element(By.ID, "file").send_keys(str(bad))
    wait(browser, "problem", f"{bad.name}: not an image of a known format")
    assert browser.find_element(By.ID, "problem").get_attribute("role") == "alert"
    assert not browser.find_element(By.ID, "result").is_displayed()
    assert not browser.find_elements(By.CSS_SELECTOR, "#problem *")


def test_a_file_that_is_too_large_is_not_even_sent(browser: webdriver.Chrome, address: str, tmp_path: Path) -> None:
    opened(browser, address)
    (tmp_path / "big.bmp").write_bytes(bytes(200_000))
    browser.get_log("performance")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "big.bmp"))
    wait(browser, "problem", "big.bmp has 0.2 MB, which is over 0.1 MB.")
    assert not [entry for entry in browser.get_log("performance") if 'requestWillBeSent"' in entry["message"]]


def test_without_a_heat_map_there_is_still_a_verdict(
    browser: webdriver.Chrome, address: str, models: Models, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(browser, address)
    monkeypatch.setattr(models, "drawing_fails", True)
    browser.find_element(By.ID, "file").send_keys(str(images[0]))
    wait(browser, "explained", "No heat map: the server failed")
    assert text(browser, "verdict") in ("Real", "Fake")


def test_a_picture_that_the_browser_can_not_show(browser: webdriver.Chrome, address: str, tmp_path: Path) -> None:
    opened(browser, address)
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "a.tiff")
    judged(browser, tmp_path / "a.tiff")
    assert not browser.find_element(By.ID, "original").is_displayed()
    assert browser.find_element(By.ID, "evidence").is_displayed()


def test_a_server_that_is_gone(browser: webdriver.Chrome, address: str, images: list[Path]) -> None:
    opened(browser, address)
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    try:
        browser.find_element(By.ID, "file").send_keys(str(images[0]))
        wait(browser, "problem", "The server did not answer. Is it still running?")
    finally:
        offline["offline"] = False
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline | {"downloadThroughput": -1})


def test_the_keyboard_reaches_the_picture_first_and_everything_has_a_name(
    browser: webdriver.Chrome, address: str, images: list[Path]
) -> None:
    opened(browser, address)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    chosen = browser.switch_to.active_element
    assert chosen.get_attribute("id") == "file"
    assert chosen.accessible_name.startswith("Drop a picture here, paste one, or choose one")
    judged(browser, images[0])
    assert browser.find_element(By.ID, "status").aria_role == "status"
    assert images[0].name in str(browser.find_element(By.ID, "status").get_property("textContent"))
    for picture in browser.find_elements(By.TAG_NAME, "img"):
        assert picture.get_attribute("alt")
    for region in browser.find_elements(By.CSS_SELECTOR, "[tabindex='0']"):
        assert region.accessible_name


def test_it_asks_this_server_alone(browser: webdriver.Chrome, address: str, images: list[Path]) -> None:
    browser.get_log("performance")
    opened(browser, address)
    judged(browser, images[0])
    requests = [
        entry["message"] for entry in browser.get_log("performance") if 'requestWillBeSent"' in entry["message"]
    ]
    assert [request for request in requests if f'"url":"{address}predict"' in request]
    assert not [request for request in requests if '"url":"http' in request and f'"url":"{address}' not in request]
