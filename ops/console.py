"""What a person sees: plain lines, colours only on a terminal, errors without tracebacks. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from ops.progress import duration

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
