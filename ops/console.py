"""What a person sees: plain lines, colours only on a terminal, errors without tracebacks. Standard library only."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

OK, WARN, FAIL, NOTE = "✓", "!", "✗", "·"
_COLOURS = {OK: "32", WARN: "33", FAIL: "31", NOTE: "2"}


class KitError(Exception):
    """Something a person can act on: what is wrong, and how to go on. Shown as it is, without a traceback."""

    def __init__(self, what: str, fix: str = "", *, code: int = 1) -> None:
        self.what = what
        self.fix = fix
        self.code = code
        super().__init__(what)

    def render(self) -> str:
        """The message, with each line of the way out indented below it."""
        return "\n".join([self.what, *(f"      {line}" for line in self.fix.splitlines())])


def colourful(stream: TextIO) -> bool:
    """Whether to colour: a terminal, and nobody asked for plain text."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    """The text in a colour (an SGR code) where the stream takes one."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and colourful(stream or sys.stdout) else text


def mark(symbol: str, stream: TextIO | None = None) -> str:
    """A coloured symbol."""
    return paint(symbol, _COLOURS.get(symbol, ""), stream)


def say(text: str = "") -> None:
    """A line on standard output, at once even into a pipe."""
    print(text, flush=True)


def note(text: str) -> None:
    """Something that is good to know."""
    say(f"  {mark(NOTE)} {text}")


def done(text: str, seconds: float | None = None) -> None:
    """Something that worked, and how long it took when that was worth a thought."""
    took = f"  {paint(duration(seconds), '2')}" if seconds is not None and seconds >= 0.05 else ""
    say(f"  {mark(OK)} {text}{took}")


def warn(text: str) -> None:
    """Something that works, but not as well as it could."""
    say(f"  {mark(WARN)} {text}")


def complain(error: KitError) -> None:
    """An error, on standard error."""
    print(f"{mark(FAIL, sys.stderr)} {error.render()}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def megabytes(count: float) -> str:
    """1,234 MB."""
    return f"{count:,.0f} MB"


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Aligned columns, two spaces apart; `right` lists the columns that are right-aligned. No trailing blanks."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


class Waiting:
    """One thing that takes a while. `text` may change; it shows after two seconds, and again every 15 in a pipe."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._thread = threading.Thread(target=self._show, daemon=True)

    def _show(self) -> None:
        wait = 2.0
        while not self._stop.wait(wait):
            seconds = time.monotonic() - self._started
            if self._live:
                print(f"\r\x1b[2K  … {self.text}  {duration(seconds)}", end="", flush=True)
                wait = 0.2
            else:
                say(f"  … {self.text}  {duration(seconds)}")
                wait = 15.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> float:
        """Take the line away; the seconds it took."""
        self._stop.set()
        self._thread.join()
        if self._live:
            print("\r\x1b[2K", end="", flush=True)
        return time.monotonic() - self._started


@contextmanager
def waiting(text: str, finished: str | None = None) -> Iterator[Waiting]:
    """Show that something is going on, and a tick with the time when it ends well ("" for no tick)."""
    line = Waiting(text)
    line.start()
    try:
        yield line
    except BaseException:
        line.stop()
        raise
    seconds = line.stop()
    message = text if finished is None else finished
    if message:
        done(message, seconds)
