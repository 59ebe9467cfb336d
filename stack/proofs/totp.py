"""The codes of authenticator apps (RFC 6238: HMAC-SHA1, six digits, 30 seconds), for whoever acts as a person."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

STEP_S = 30
DIGITS = 6


def code(key: bytes, at: float) -> str:
    """The code that an app with this key shows at a time, in seconds since 1970."""
    digest = hmac.new(key, int(at // STEP_S).to_bytes(8, "big"), hashlib.sha1).digest()
    start = digest[-1] & 0x0F
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


class Authenticator:
    """An app with one key. No code is given twice: where one was taken, the server takes it from nobody again."""

    def __init__(
        self, key: bytes, now: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.key = key
        self._now = now
        self._sleep = sleep
        self._last = -1

    def next(self) -> str:
        """A code that was not given yet: waits, up to half a minute, where this half minute's was."""
        if int(self._now() // STEP_S) <= self._last:
            self._sleep((self._last + 1) * STEP_S - self._now() + 0.5)
        at = self._now()
        self._last = int(at // STEP_S)
        return code(self.key, at)
