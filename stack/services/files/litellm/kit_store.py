"""Keys and usage of the unified API, in the service's own PostgreSQL database.

A key is kept as its SHA-256: 32 random bytes need no slow hash, and nobody can read a key back. Times are Unix seconds.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

PREFIX = "sk-kit-"
DAY = 86_400
MOST_DAYS = 366
MOST_KEYS = 50
MOST_LABEL = 60
MOST_RATE = 100_000

# A database that does not answer costs a request a few seconds, never the process.
PATIENCE = {"connect_timeout": 3, "tcp_user_timeout": 5000, "options": "-c statement_timeout=5000 -c lock_timeout=3000"}

SCHEMA = """
CREATE TABLE IF NOT EXISTS people (sub text PRIMARY KEY, name text NOT NULL);
CREATE TABLE IF NOT EXISTS keys (
    id text PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    sub text NOT NULL REFERENCES people ON DELETE CASCADE,
    label text NOT NULL,
    rate integer,
    made bigint NOT NULL,
    ends bigint NOT NULL,
    used bigint
);
CREATE INDEX IF NOT EXISTS keys_of ON keys (sub);
CREATE TABLE IF NOT EXISTS logouts (sub text PRIMARY KEY, at bigint NOT NULL);
CREATE TABLE IF NOT EXISTS usage (
    day date NOT NULL,
    sub text NOT NULL REFERENCES people ON DELETE CASCADE,
    key text NOT NULL,
    model text NOT NULL,
    requests bigint NOT NULL DEFAULT 0,
    cached bigint NOT NULL DEFAULT 0,
    limited bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, sub, key, model)
);
"""
COUNTS = ("requests", "cached", "limited", "failed", "prompt_tokens", "completion_tokens")
SUMS = ", ".join(f"sum({name})::bigint AS {name}" for name in COUNTS)


class RefusedError(ValueError):
    """What was asked for cannot be; the text says why, for the person who asked."""


class AwayError(RuntimeError):
    """The database does not answer."""


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
    """All threads of one process may use it; each call is a transaction. AwayError when the database is gone.

    `now` is for tests.
    """

    def __init__(self, url: str, now: Callable[[], float] = time.time) -> None:
        self._url = url
        self._now = now
        self._lock = threading.Lock()
        self._db: psycopg.Connection[dict[str, Any]] | None = None

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    # --------------------------------------------------------------------------------------------- people

    def remember(self, sub: str, name: str) -> None:
        """Who logged in, under the name they have now."""
        query = "INSERT INTO people VALUES (%s, %s) ON CONFLICT (sub) DO UPDATE SET name = excluded.name"
        self._run(query, (sub, name))

    def people(self) -> list[dict[str, Any]]:
        """Everybody who ever logged in, with how many keys they have."""
        query = """
            SELECT sub, name, (SELECT count(*) FROM keys WHERE keys.sub = people.sub AND ends > %s) AS keys
            FROM people ORDER BY name, sub"""
        return self._rows(query, (self._time(),))

    def forget(self, sub: str) -> bool:
        """Remove a person with keys and usage. False when there was none."""
        return self._run("DELETE FROM people WHERE sub = %s", (sub,)) > 0

    def log_out(self, sub: str) -> None:
        """From now on sessions that are there already hold no longer."""
        query = "INSERT INTO logouts VALUES (%s, %s) ON CONFLICT (sub) DO UPDATE SET at = excluded.at"
        self._run(query, (sub, self._time()))

    def logged_out(self, sub: str) -> int:
        """When a person last logged out; -1 for never."""
        found = self._rows("SELECT at FROM logouts WHERE sub = %s", (sub,))
        return int(found[0]["at"]) if found else -1

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
        self._run("DELETE FROM keys WHERE ends <= %s", (made - 30 * DAY,))
        # Nobody who was forgotten meanwhile gets one: then nothing is inserted.
        query = """
            INSERT INTO keys (id, hash, sub, label, rate, made, ends)
            SELECT %s, %s, sub, %s, %s, %s, %s FROM people WHERE sub = %s"""
        if not self._run(query, (key_id, _digest(text), label, rate, made, made + days * DAY, sub)):
            raise RefusedError("log in again: nobody of that name is known any more")
        key = self.find(text)
        if key is None:
            raise RefusedError("the key was ended in the same moment")
        return key, text

    def keys(self, sub: str) -> list[Key]:
        """A person's keys that still open something, newest first."""
        query = """
            SELECT keys.*, name FROM keys JOIN people USING (sub) WHERE sub = %s AND ends > %s
            ORDER BY made DESC, id"""
        return [_key(row) for row in self._rows(query, (sub, self._time()))]

    def end_key(self, sub: str, key_id: str) -> bool:
        """End one of a person's keys. False when they have none of that id."""
        return self._run("DELETE FROM keys WHERE sub = %s AND id = %s", (sub, key_id)) > 0

    def find(self, text: str) -> Key | None:
        """The key of this text, when it is one and has not ended."""
        query = "SELECT keys.*, name FROM keys JOIN people USING (sub) WHERE hash = %s AND ends > %s"
        rows = self._rows(query, (_digest(text), self._time()))
        return _key(rows[0]) if rows else None

    # ---------------------------------------------------------------------------------------------- usage

    def count(self, sub: str, key: str, model: str, **counts: int) -> None:
        """Add to today's counts (COUNTS) of a person, a key (its id, "" for a token) and a model.

        Somebody who was forgotten meanwhile is not counted.
        """
        unknown = set(counts) - set(COUNTS)
        if unknown:
            raise TypeError(f"nothing is counted as {sorted(unknown)}")
        now = self._time()
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        # The names are COUNTS', checked above; values never become part of the statement.
        names = ", ".join(COUNTS)
        sums = ", ".join(f"{name} = usage.{name} + excluded.{name}" for name in COUNTS)
        query = f"""
            INSERT INTO usage (day, sub, key, model, {names})
            SELECT %s, sub, %s, %s, %s, %s, %s, %s, %s, %s FROM people WHERE sub = %s
            ON CONFLICT (day, sub, key, model) DO UPDATE SET {sums}"""  # noqa: S608
        self._run(query, (day, key, model[:200], *(counts.get(name, 0) for name in COUNTS), sub))
        if key:
            self._run("UPDATE keys SET used = %s WHERE id = %s", (now, key))

    def usage(self, sub: str | None, days: int = 30) -> list[dict[str, Any]]:
        """Counts per day, person and model, newest day first; of everybody when sub is None."""
        since = time.strftime("%Y-%m-%d", time.gmtime(self._time() - (days - 1) * DAY))
        query = f"""
            SELECT day::text, sub, name, model, {SUMS} FROM usage JOIN people USING (sub)
            WHERE day >= %s AND (%s::text IS NULL OR sub = %s)
            GROUP BY day, sub, name, model ORDER BY day DESC, name, model"""  # noqa: S608
        return self._rows(query, (since, sub, sub))

    def totals(self) -> list[dict[str, Any]]:
        """Counts per person and model since the beginning: what metrics show."""
        query = f"""
            SELECT name, model, {SUMS} FROM usage JOIN people USING (sub)
            GROUP BY sub, name, model ORDER BY name, model"""  # noqa: S608
        return self._rows(query, ())

    # -------------------------------------------------------------------------------------------- details

    def _time(self) -> int:
        return int(self._now())

    def _rows(self, query: str, values: tuple[object, ...]) -> list[dict[str, Any]]:
        return self._ask(query, values).fetchall()

    def _run(self, query: str, values: tuple[object, ...]) -> int:
        """How many rows changed."""
        return self._ask(query, values).rowcount

    def _ask(self, query: str, values: tuple[object, ...]) -> psycopg.Cursor[dict[str, Any]]:
        """One statement, in a transaction of its own; once more when a connection turns out to be gone."""
        # Somebody's text may hold what no database takes: then it is nobody's.
        clean = tuple(value.replace("\0", "") if isinstance(value, str) else value for value in values)
        with self._lock:
            for attempt in (1, 2):
                fresh = self._db is None
                try:
                    return self._connection().execute(query, clean)
                except psycopg.OperationalError as problem:
                    if self._db is not None and self._db.closed:
                        self._db = None
                    if fresh or attempt == 2 or self._db is not None:
                        raise AwayError(type(problem).__name__) from None
        raise AwayError("unreachable")

    def _connection(self) -> psycopg.Connection[dict[str, Any]]:
        if self._db is None:
            made = psycopg.connect(self._url, autocommit=True, row_factory=dict_row, **PATIENCE)
            made.execute(SCHEMA)
            self._db = made
        return self._db


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _key(row: dict[str, Any]) -> Key:
    return Key(**{name: row[name] for name in ("id", "sub", "name", "label", "rate", "made", "ends", "used")})
