"""Keys and usage of the unified API, in one SQLite file.

Standard library only: it runs in the official LiteLLM image, which brings no driver for another database. A key is
kept as its SHA-256: 32 random bytes need no slow hash, and nobody can read a key back. Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "sk-kit-"
DAY = 86_400
MOST_DAYS = 366
MOST_KEYS = 50
MOST_LABEL = 60
MOST_RATE = 100_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS people (sub TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    sub TEXT NOT NULL,
    label TEXT NOT NULL,
    rate INTEGER,
    made INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    used INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS keys_of ON keys (sub);
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL,
    sub TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0,
    cached INTEGER NOT NULL DEFAULT 0,
    limited INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, sub, key, model)
) STRICT;
"""
COUNTS = ("requests", "cached", "limited", "failed", "prompt_tokens", "completion_tokens")


class RefusedError(ValueError):
    """What was asked for cannot be; the text says why, for the person who asked."""


@dataclass(frozen=True)
class Key:
    """rate: requests per minute, None for no limit of its own. used: None when it never was."""

    id: str
    sub: str
    name: str
    label: str
    rate: int | None
    made: int
    ends: int
    used: int | None


class Store:
    """All threads of one process may use it. `now` is for tests."""

    def __init__(self, path: Path, copy: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """Open or make the file. Where it is missing and `copy` is there, that is where it starts from."""
        self._copy = copy
        self._now = now
        self._lock = threading.Lock()
        if copy is not None and copy.exists() and not path.exists():
            path.write_bytes(copy.read_bytes())
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        # What a power cut may cost is the last second of counting, never the file.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --------------------------------------------------------------------------------------------- people

    def remember(self, sub: str, name: str) -> None:
        """Who logged in, under the name they have now."""
        with self._change() as db:
            db.execute("INSERT INTO people VALUES (?, ?) ON CONFLICT DO UPDATE SET name = excluded.name", (sub, name))

    def people(self) -> list[dict[str, Any]]:
        """Everybody who ever logged in, with how many keys they have."""
        query = """
            SELECT sub, name, (SELECT count(*) FROM keys WHERE keys.sub = people.sub AND ends > ?) AS keys
            FROM people ORDER BY name, sub"""
        return self._rows(query, (self._time(),))

    def forget(self, sub: str) -> bool:
        """Remove a person with keys and usage. False when there was none."""
        with self._change() as db:
            db.execute("DELETE FROM keys WHERE sub = ?", (sub,))
            db.execute("DELETE FROM usage WHERE sub = ?", (sub,))
            return db.execute("DELETE FROM people WHERE sub = ?", (sub,)).rowcount > 0

    # ----------------------------------------------------------------------------------------------- keys

    def make_key(self, sub: str, label: str, days: int, rate: int | None) -> tuple[Key, str]:
        """A new key and its text, which is nowhere else. RefusedError says what is wrong with the wish."""
        label = " ".join(label.split())
        if not label or len(label) > MOST_LABEL or not label.isprintable():
            raise RefusedError(f"a key needs a label of 1 to {MOST_LABEL} characters: what it is for")
        if not 1 <= days <= MOST_DAYS:
            raise RefusedError(f"a key lasts 1 to {MOST_DAYS} days")
        if rate is not None and not 1 <= rate <= MOST_RATE:
            raise RefusedError(f"a key's rate is 1 to {MOST_RATE} requests per minute, or none")
        if len(self.keys(sub)) >= MOST_KEYS:
            raise RefusedError(f"{MOST_KEYS} keys are enough: end one first")
        key_id, text, made = secrets.token_hex(6), PREFIX + secrets.token_urlsafe(32), self._time()
        with self._change() as db:
            db.execute("DELETE FROM keys WHERE ends <= ?", (made - 30 * DAY,))
            db.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (key_id, _digest(text), sub, label, rate, made, made + days * DAY),
            )
        key = self.find(text)
        if key is None:
            raise RefusedError("log in again: nobody of that name is known any more")
        return key, text

    def keys(self, sub: str) -> list[Key]:
        """A person's keys that still open something, newest first."""
        query = "SELECT keys.*, name FROM keys JOIN people USING (sub) WHERE sub = ? AND ends > ? ORDER BY made DESC, id"
        return [_key(row) for row in self._rows(query, (sub, self._time()))]

    def end_key(self, sub: str, key_id: str) -> bool:
        """End one of a person's keys. False when they have none of that id."""
        with self._change() as db:
            return db.execute("DELETE FROM keys WHERE sub = ? AND id = ?", (sub, key_id)).rowcount > 0

    def find(self, text: str) -> Key | None:
        """The key of this text, when it is one and has not ended."""
        query = "SELECT keys.*, name FROM keys JOIN people USING (sub) WHERE hash = ? AND ends > ?"
        rows = self._rows(query, (_digest(text), self._time()))
        return _key(rows[0]) if rows else None

    # ---------------------------------------------------------------------------------------------- usage

    def count(self, sub: str, key: str, model: str, **counts: int) -> None:
        """Add to today's counts (COUNTS) of a person, a key (its id, "" for a token) and a model."""
        unknown = set(counts) - set(COUNTS)
        if unknown:
            raise TypeError(f"nothing is counted as {sorted(unknown)}")
        names = sorted(counts)
        columns = ", ".join(names)
        marks = ", ".join("?" for _ in names)
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in names)
        # The names are COUNTS', checked above; values never become part of the statement.
        statement = f"""
            INSERT INTO usage (day, sub, key, model, {columns}) VALUES (?, ?, ?, ?, {marks})
            ON CONFLICT DO UPDATE SET {sums}"""  # noqa: S608
        now = self._time()
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        with self._change() as db:
            db.execute(statement, (day, sub, key, model[:200], *(counts[name] for name in names)))
            db.execute("UPDATE keys SET used = ? WHERE id = ?", (now, key))

    def usage(self, sub: str | None, days: int = 30) -> list[dict[str, Any]]:
        """Counts per day, person and model, newest day first; of everybody when sub is None."""
        since = time.strftime("%Y-%m-%d", time.gmtime(self._time() - (days - 1) * DAY))
        sums = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
        query = f"""
            SELECT day, sub, coalesce(name, '') AS name, model, {sums}
            FROM usage LEFT JOIN people USING (sub) WHERE day >= ? AND (? IS NULL OR sub = ?)
            GROUP BY day, sub, model ORDER BY day DESC, name, model"""  # noqa: S608
        return self._rows(query, (since, sub, sub))

    def totals(self) -> list[dict[str, Any]]:
        """Counts per person and model since the beginning: what metrics show."""
        sums = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
        query = f"""
            SELECT coalesce(name, sub) AS name, model, {sums} FROM usage LEFT JOIN people USING (sub)
            GROUP BY sub, model ORDER BY name, model"""  # noqa: S608
        return self._rows(query, ())

    # --------------------------------------------------------------------------------------------- backup

    def snapshot(self) -> None:
        """Write a copy that is whole whenever it is read: the file itself is not, while it is written to."""
        if self._copy is None:
            return
        partial = self._copy.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        target = sqlite3.connect(partial)
        try:
            with self._lock:
                self._db.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        finally:
            target.close()
        partial.rename(self._copy)

    # -------------------------------------------------------------------------------------------- details

    def _time(self) -> int:
        return int(self._now())

    def _rows(self, query: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(query, values)]

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _key(row: dict[str, Any]) -> Key:
    return Key(**{name: row[name] for name in ("id", "sub", "name", "label", "rate", "made", "ends", "used")})
