"""A headless Chromium, as a person uses one: it waits for what is to be seen, and keeps pictures as artifacts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts" / "browser"

GO_ON = "loginContinueLink"  # on Keycloak's page for a form that it has had already


class Browser:
    """One window of it. Whoever waits for something waits `seconds`; `chrome` is selenium's own driver."""

    def __init__(self, chrome: WebDriver, seconds: float) -> None:
        self.chrome = chrome
        self.seconds = seconds
        self._loaded = time.monotonic()
        self.said: list[str] = []  # what the page and the browser wrote to the console
        self._filled: tuple[str, dict[str, str]] = ("", {})
        self._wrong: list[str] = []  # what of it is an error, and was not asked for yet

    def open(self, url: str) -> None:
        self.chrome.get(url)
        self._loaded = time.monotonic()

    def until(self, condition: Callable[[], Any], said: str = "not to be seen in time") -> None:
        """Wait. A page that is exchanged while it is read is read again: chromedriver has several names for that, one
        of them "unknown error". What it said last is told when the time is over; a browser that is gone is no page."""
        from selenium.common.exceptions import (
            InvalidSessionIdException,
            NoSuchWindowException,
            TimeoutException,
            WebDriverException,
        )

        end, last = time.monotonic() + self.seconds, ""
        while True:
            try:
                if condition():
                    return
            except (InvalidSessionIdException, NoSuchWindowException):
                raise
            except WebDriverException as exception:
                last = f"; the browser: {exception.msg}"
            if time.monotonic() > end:
                raise TimeoutException(said + last)
            time.sleep(1)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements("css selector", selector)

    @property
    def text(self) -> str:
        return self.chrome.find_element("css selector", "body").text

    def shown(self, selector: str = "body", words: str = "") -> None:
        """Wait for it. A page that lost something is loaded anew, and so is one that goes on loading: when containers
        start elsewhere on the machine its networks change, and Chromium then drops what it was loading."""

        def there() -> bool:
            body = self.text
            if words in body and self.all(selector):
                return True
            if self.all(f"#{GO_ON}"):
                self._go_on()
                return False
            loading = "Loading the" in body or not body.strip()
            # Keycloak's pages give up by themselves, also before they have their words.
            failed = "Something went wrong" in body or "somethingWentWrong" in body
            if self._lost() or failed or (loading and time.monotonic() > self._loaded + 30):
                self.chrome.refresh()
                self._loaded = time.monotonic()
            return False

        self.until(there, f"neither {selector} nor {words!r}" if words else f"no {selector}")

    def _console(self) -> list[str]:
        """What was written to the console since this was asked the last time."""
        entries = self.chrome.get_log("browser")
        new = [str(entry["message"]) for entry in entries]
        self.said += new
        self._wrong += [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]
        return new

    def _go_on(self) -> None:
        """The answer to a form was lost, and Keycloak takes each form once: "Page has expired". Go on, as that page
        offers, and fill in the same again if it is asked for again."""
        self.all(f"#{GO_ON}")[0].click()
        press, fields = self._filled
        if fields and all(self.all(f"#{name}") for name in fields):
            self.fill(press, **fields)

    def _lost(self) -> bool:
        """Whether the page lost something since this was asked the last time."""
        return any("ERR_NETWORK_CHANGED" in text for text in (*self._console(), self.text))

    def fill(self, press: str, **fields: str) -> None:
        """Write into the fields, which are named by their ids, and press the button."""
        for name, text in fields.items():
            self.shown(f"#{name}")
            self.all(f"#{name}")[0].send_keys(text)
        self._filled = (press, fields)
        self.all(press)[0].click()

    def complaints(self) -> list[str]:
        """What the browser's console says is wrong since it was last asked, without networks that changed."""
        self._console()
        said, self._wrong = self._wrong, []
        # A page that lost a part of itself, as `shown` knows it, complains of that in more than one line.
        return [line for line in said if "ERR_NETWORK_CHANGED" not in line and "dynamically imported" not in line]

    def keep(self, name: str) -> Path:
        """A picture of what is to be seen now, as an artifact."""
        file = ARTIFACTS / f"{name}.png"
        self.chrome.save_screenshot(str(file))
        return file


@contextmanager
def chromium(tmp_path: Path, *, seconds: float = 240) -> Iterator[Browser]:
    """A browser with a profile of its own. What was to be seen when a test failed is printed, and kept as a picture."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("no chromium: sudo apt-get install -y chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.accept_insecure_certs = True  # who the certificate is from is proven elsewhere, with its CA
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    window = Browser(chrome, seconds)
    try:
        chrome.set_page_load_timeout(180)
        yield window
    except BaseException:
        print(chrome.current_url, window.text[:2000], *window.said, chrome.get_log("browser"), sep="\n")
        window.keep("failed")
        raise
    finally:
        chrome.quit()
