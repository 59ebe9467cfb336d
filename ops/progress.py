"""Progress for everything that may take longer than two seconds.

On a terminal the running steps share one line that is redrawn each second; elsewhere (CI, a log file) a step
that is not over after two seconds prints a line, and one every 30 seconds. Either way it ends with one line: a tick
or a cross, and how long it took.

    progress = Progress()
    with progress.step("building the Pulumi CLI") as step:
        step.note("142 of 1380 packages")
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

__all__ = ["Progress", "Step", "duration"]

_REDRAW_SECONDS = 1.0
_ANNOUNCE_SECONDS = 2.0
_HEARTBEAT_SECONDS = 30.0


def duration(seconds: float) -> str:
    """`seconds` for people: 0.4 s, 12 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Step:
    """One running piece of work; made by `Progress.step`."""

    def __init__(self, owner: Progress, title: str, started: float) -> None:
        self.title = title
        self.started = started
        self.detail = ""
        self.reported: float | None = None  # when a pipe last heard of it
        self._owner = owner

    def note(self, text: str) -> None:
        """What it is doing right now; shown beside the title, the last one also at the end of a failed step."""
        lines = text.strip().splitlines()
        self.detail = lines[-1].strip() if lines else ""
        self._owner.refresh()


class Progress:
    """Reports steps to `stream`; safe to use from several threads at once.

    NO_COLOR and TERM=dumb are honoured; a stream whose encoding cannot do ticks gets plain ASCII.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        tty: bool | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        heartbeat: float = _HEARTBEAT_SECONDS,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._stream = sys.stderr if stream is None else stream
        is_terminal = self._stream.isatty() if tty is None else tty
        self._live = is_terminal and environ.get("TERM") != "dumb"
        self._colour = self._live and not environ.get("NO_COLOR")
        self._clock = clock
        self._heartbeat = heartbeat
        self._lock = threading.RLock()
        self._running: list[Step] = []
        self._drawn = False
        self._ticker: threading.Thread | None = None
        self._wake = threading.Event()
        self._tick, self._cross, self._ellipsis, self._dot = self._symbols()

    def _symbols(self) -> tuple[str, str, str, str]:
        try:
            "✓✗…·".encode(getattr(self._stream, "encoding", None) or "ascii")
        except (UnicodeEncodeError, LookupError):
            return ("ok", "FAILED", "...", "-")
        return ("✓", "✗", "…", "·")

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Report `title` as running until the block ends; an exception makes it a failed step and goes on."""
        step = Step(self, title, self._clock())
        self._begin(step)
        try:
            yield step
        except BaseException:
            self._end(step, failed=True)
            raise
        self._end(step, failed=False)

    def line(self, text: str) -> None:
        """Print `text` without disturbing the live line."""
        with self._lock:
            self._erase()
            self._write(text + "\n")
            self._draw()

    def refresh(self) -> None:
        """Redraw the live line, or print the heartbeat of every step that has been silent for too long."""
        with self._lock:
            if self._live:
                self._draw()
                return
            now = self._clock()
            for step in self._running:
                if step.reported is None:
                    if now - step.started >= _ANNOUNCE_SECONDS:
                        step.reported = step.started
                        self._write(f"  {step.title} {self._ellipsis}\n")
                elif now - step.reported >= self._heartbeat:
                    step.reported = now
                    note = f": {step.detail}" if step.detail else ""
                    self._write(f"  {step.title} {self._dot} {duration(now - step.started)}{note}\n")

    def _begin(self, step: Step) -> None:
        with self._lock:
            self._running.append(step)
            self._draw()
            if self._ticker is None:
                self._wake.clear()
                self._ticker = threading.Thread(target=self._tick_on, args=(self._wake,), daemon=True)
                self._ticker.start()

    def _end(self, step: Step, *, failed: bool) -> None:
        with self._lock:
            self._running.remove(step)
            if not self._running:
                # A later step starts a ticker with an event of its own.
                self._wake.set()
                self._wake = threading.Event()
                self._ticker = None
            self._erase()
            mark = self._paint(self._cross, "31") if failed else self._paint(self._tick, "32")
            detail = f": {step.detail}" if failed and step.detail else ""
            self._write(f"{mark} {step.title} ({duration(self._clock() - step.started)}){detail}\n")
            self._draw()

    def _tick_on(self, stop: threading.Event) -> None:
        while not stop.wait(_REDRAW_SECONDS):
            self.refresh()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _draw(self) -> None:
        if not self._live or not self._running:
            return
        now = self._clock()
        parts: list[str] = []
        for step in self._running:
            note = f": {step.detail}" if step.detail else ""
            seconds = now - step.started
            took = f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
            parts.append(f"{step.title} {took}{note}")
        width = max(shutil.get_terminal_size().columns - 1, 20)
        text = f"{self._ellipsis} " + " | ".join(parts)
        if len(text) > width:
            text = text[: width - len(self._ellipsis)] + self._ellipsis
        self._write(f"\r\x1b[K{text}")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "ascii"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            # A closed pipe must not turn a working deployment into a failed one.
            self._live = False
