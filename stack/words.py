"""How messages are worded: suggestions, lists, sizes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'Did you mean "x"? ' when something known is close, else nothing."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f'Did you mean "{close[0]}"? ' if close else ""


def listed(words: Iterable[str]) -> str:
    """'a, b, c' in order, 'none' for nothing."""
    return ", ".join(sorted(words)) or "none"


def mb(size: int) -> str:
    """A size in MB with thousands separated."""
    return f"{size:,} MB"


def shown(value: object, limit: int = 60) -> str:
    """A value as the operator wrote it, in one short line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"
