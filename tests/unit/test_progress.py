"""What progress looks like on a terminal, in a pipe, without colours, and where ticks cannot be written."""

from __future__ import annotations

import io
import threading

import pytest

from ops.progress import Progress, duration


class Clock:
    """Time that only passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._encoding

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_in_a_pipe() -> None:
    out, clock = Terminal(), Clock()
    progress = Progress(out, tty=False, environ={}, clock=clock)
    with progress.step("building") as step:
        step.note("1 of 2")
        clock.now += 2
        step.note("1 of 2")
        clock.now += 29
        step.note("2 of 2")
        clock.now += 1
        step.note("linking")  # the next line is due 30 s after the last
    assert out.getvalue().splitlines() == ["  building …", "  building · 31 s: 2 of 2", "✓ building (32 s)"]


def test_in_a_pipe_what_is_soon_over_takes_one_line() -> None:
    out, clock = Terminal(), Clock()
    with Progress(out, tty=False, environ={}, clock=clock).step("looking") as step:
        clock.now += 1.9
        step.note("almost")
    assert out.getvalue() == "✓ looking (1.9 s)\n"


def test_failure_goes_on_and_keeps_the_last_note() -> None:
    out = Terminal()
    progress = Progress(out, tty=False, environ={}, clock=Clock())

    def fail() -> None:
        with progress.step("building") as step:
            step.note("first\nlinking\n")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert out.getvalue() == "✗ building (0.0 s): linking\n"


def test_on_a_terminal_one_line_is_redrawn() -> None:
    out, clock = Terminal(), Clock()
    progress = Progress(out, environ={}, clock=clock)
    with progress.step("building") as step:
        clock.now += 3
        step.note("half")
    text = out.getvalue()
    assert "\r\x1b[K… building 3 s: half" in text
    assert text.count("\n") == 1
    assert text.endswith("\r\x1b[K\x1b[32m✓\x1b[0m building (3.0 s)\n")


def test_no_colour_when_asked() -> None:
    out = Terminal()
    with Progress(out, environ={"NO_COLOR": "1"}, clock=Clock()).step("building"):
        pass
    assert "\x1b[3" not in out.getvalue()
    assert out.getvalue().endswith("✓ building (0.0 s)\n")


def test_dumb_terminal_gets_lines() -> None:
    out = Terminal()
    with Progress(out, environ={"TERM": "dumb"}, clock=Clock()).step("building"):
        pass
    assert "\r" not in out.getvalue()


def test_plain_ascii_where_nothing_else_can_be_written() -> None:
    out = Terminal("ascii")
    with Progress(out, tty=False, environ={}, clock=Clock()).step("größer"):
        pass
    assert out.getvalue() == "ok gr??er (0.0 s)\n"


def test_long_notes_do_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    with Progress(out, environ={}, clock=Clock()).step("building") as step:
        step.note("x" * 200)
    assert all(len(part.removeprefix("\x1b[K")) <= 40 for part in out.getvalue().split("\r") if "…" in part)


def test_a_line_between_does_not_tear_the_live_one() -> None:
    out = Terminal()
    progress = Progress(out, environ={}, clock=Clock())
    with progress.step("building"):
        progress.line("a warning")
    assert "\r\x1b[Ka warning\n" in out.getvalue()


def test_steps_of_many_threads() -> None:
    out = Terminal()
    progress = Progress(out, tty=False, environ={})

    def work(number: int) -> None:
        with progress.step(f"step {number}") as step:
            step.note("note")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = out.getvalue().splitlines()
    assert sorted(line.split()[2] for line in lines if line.startswith("✓")) == sorted(map(str, range(20)))
    assert len(lines) == 20


def test_a_closed_pipe_is_no_failure() -> None:
    out = io.StringIO()
    progress = Progress(out, tty=False, environ={})
    with progress.step("building"):
        out.close()
