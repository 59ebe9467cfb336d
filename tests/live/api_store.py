"""Checks of kit_store on a real PostgreSQL. Run inside the LiteLLM container, which has it and its driver: see
tests/live/test_litellm.py. Each check has a schema of its own in the service's database; prints the names that held.
"""

# pyright: basic, reportMissingImports=false

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import kit_store as kit
import psycopg

URL = Path("/run/kit/env/KIT_DATABASE").read_text(encoding="utf-8")
HOSTILE = "a'b\"c$d${e}\\f`g h#i%j%s;--é€😀/*"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def fresh() -> Iterator[tuple[kit.Store, Clock]]:
    clock = Clock()
    store, schema = kit.Store(URL, now=clock), f"check_{secrets.token_hex(4)}"
    store._connection().execute(f"CREATE SCHEMA {schema}; SET search_path TO {schema}; {kit.SCHEMA}")
    store.remember("ann", "Ann")
    try:
        yield store, clock
    finally:
        with psycopg.connect(URL, autocommit=True) as db:
            db.execute(f"DROP SCHEMA {schema} CASCADE")
        store.close()


def refused(*wish: object) -> bool:
    with fresh() as (store, _):
        try:
            store.make_key(*wish)  # pyright: ignore[reportArgumentType]
        except kit.RefusedError:
            return store.keys("ann") == []
    return False


def check_a_key_opens_until_it_is_ended() -> None:
    with fresh() as (store, _):
        key, text = store.make_key("ann", "laptop", 90, None)
        assert text.startswith("sk-kit-") and len(text) == len("sk-kit-") + 43
        assert store.find(text) == key and key.name == "Ann"
        assert not store.find(text[:-1]) and not store.find(text + "x") and not store.find("")
        assert store.end_key("ann", key.id) and not store.end_key("ann", key.id)
        assert not store.find(text) and store.keys("ann") == []


def check_a_key_opens_until_its_last_second() -> None:
    with fresh() as (store, clock):
        key, text = store.make_key("ann", "laptop", 2, 5)
        clock.now = key.ends - 1
        found = store.find(text)
        assert found and found.rate == 5
        clock.now = key.ends
        assert not store.find(text) and store.keys("ann") == []


def check_nobody_ends_the_key_of_somebody_else() -> None:
    with fresh() as (store, _):
        store.remember("bob", "Bob")
        key, text = store.make_key("ann", "laptop", 90, None)
        assert not store.end_key("bob", key.id) and store.find(text)


def check_the_database_holds_no_key() -> None:
    with fresh() as (store, _):
        _, text = store.make_key("ann", "laptop", 90, None)
        rows = str(store._rows("SELECT * FROM keys, people", ()))
        assert text not in rows and text[7:] not in rows


def check_what_cannot_be_is_refused() -> None:
    for label in ("", "  ", "x" * 61, "a\0b", "a\u202eb"):
        assert refused("ann", label, 1, None), repr(label)
    for days, rate in ((0, None), (367, None), (1, 0), (1, -3), (1, 100_001)):
        assert refused("ann", "x", days, rate), (days, rate)
    assert refused("nobody", "x", 1, None)


def check_nobody_fills_the_table_with_keys() -> None:
    with fresh() as (store, _):
        for _ in range(kit.MOST_KEYS):
            store.make_key("ann", "x", 1, None)
        try:
            store.make_key("ann", "x", 1, None)
        except kit.RefusedError as problem:
            assert "end one first" in str(problem)
        else:
            raise AssertionError("one more was made")


def check_hostile_names_and_models_are_only_text() -> None:
    with fresh() as (store, _):
        store.remember(HOSTILE, HOSTILE)
        key, text = store.make_key(HOSTILE, HOSTILE, 1, None)
        store.count(HOSTILE, key.id, HOSTILE + "\0", requests=1)
        found = store.find(text)
        assert found and found.label == HOSTILE and store.usage(HOSTILE)[0]["model"] == HOSTILE
        assert store.forget(HOSTILE) and store.usage(None) == [] and not store.find(text)


def check_usage_adds_up_by_day_person_and_model() -> None:
    with fresh() as (store, clock):
        store.remember("bob", "Bob")
        for _ in range(2):
            store.count("ann", "k1", "m", requests=1, prompt_tokens=10, completion_tokens=3)
        store.count("ann", "k2", "m", requests=1, cached=1)
        store.count("bob", "", "m", limited=1)
        store.count("nobody", "", "m", requests=1)
        clock.now += kit.DAY
        store.count("ann", "", "n", failed=1)
        ann = [(row["model"], row["requests"], row["cached"], row["prompt_tokens"]) for row in store.usage("ann")]
        assert ann == [("n", 0, 0, 0), ("m", 3, 1, 20)], ann
        assert {row["name"] for row in store.usage(None)} == {"Ann", "Bob"}
        assert [row["model"] for row in store.usage("ann", days=1)] == ["n"]
        totals = [(row["name"], row["model"], row["completion_tokens"]) for row in store.totals()]
        assert totals == [("Ann", "m", 6), ("Ann", "n", 0), ("Bob", "m", 0)], totals
        with suppress(TypeError):
            store.count("ann", "", "m", spent=1)
            raise AssertionError("something unknown was counted")


def check_when_a_key_was_used_is_known() -> None:
    with fresh() as (store, clock):
        key, _ = store.make_key("ann", "laptop", 90, None)
        assert key.used is None
        clock.now += 7
        store.count("ann", key.id, "m", requests=1)
        assert store.keys("ann")[0].used == int(clock.now)


def check_counts_of_many_threads_all_arrive() -> None:
    with fresh() as (store, _):
        threads = [
            threading.Thread(target=lambda: [store.count("ann", "", "m", requests=1) for _ in range(25)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.usage("ann")[0]["requests"] == 200


def check_a_connection_that_was_cut_is_made_again() -> None:
    with fresh() as (store, _):
        backend = store._connection().info.backend_pid
        with psycopg.connect(URL, autocommit=True) as db:
            db.execute("SELECT pg_terminate_backend(%s)", (backend,))
        assert isinstance(store.people(), list)  # of the service's own schema: a new connection knows no other


def check_a_database_that_is_away_is_said() -> None:
    store = kit.Store("postgresql://x:y@127.0.0.1:1/x")
    try:
        store.find("sk-kit-x")
    except kit.AwayError:
        return
    raise AssertionError("nobody was told")


for name, check in sorted(globals().items()):
    if name.startswith("check_"):
        check()
        print(name)
