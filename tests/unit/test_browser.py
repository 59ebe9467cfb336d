"""What the browser tests lean on: a page exchanged while it is read is read again, a browser that is gone is told."""

from __future__ import annotations

from typing import Any, cast

import pytest
from selenium.common.exceptions import InvalidSessionIdException, TimeoutException, WebDriverException

from tests.live.browser import Browser


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.live.browser.time.sleep", lambda _: None)


def window(seconds: float) -> Browser:
    return Browser(cast("Any", None), seconds)


def test_a_page_exchanged_while_it_is_read_is_read_again() -> None:
    answers: list[Exception | bool] = [WebDriverException("unhandled inspector error"), False, True]

    def condition() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    window(60).until(condition)
    assert not answers


def test_what_the_browser_said_last_is_told_when_the_time_is_over() -> None:
    def condition() -> bool:
        raise WebDriverException("unhandled inspector error")

    with pytest.raises(TimeoutException, match=r"no #totp; the browser: unhandled inspector error"):
        window(0).until(condition, "no #totp")


def test_a_browser_that_is_gone_is_not_waited_for() -> None:
    def condition() -> bool:
        raise InvalidSessionIdException("no session")

    with pytest.raises(InvalidSessionIdException):
        window(60).until(condition)
