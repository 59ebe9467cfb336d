"""Comparing models, recording versions, refusing what cannot be: the parts of ./kit model that need no engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import model, modeleval, modeljob, modelrecord
from ops.cli import main, parse
from ops.console import KitError
from ops.modelrecord import Recorded
from ops.modelserver import Answer, Model
from stack import catalog
from stack.model import Target
from stack.plan import Plan, build
from stack.settings import Settings
from stack.targets import profile

ROOT = Path(__file__).resolve().parents[2]
CATALOG = catalog.discover()
OLD, NEW = "a" * 64, "b" * 64


def plan(**changes: object) -> Plan:
    room = {"memory_mb": 16384, "model_memory_mb": 8192}
    settings = Settings(stack="t", target=Target.DEV, **{**room, **changes})  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), CATALOG)


def there(name: str, digest: str = OLD, size: int = 2**30) -> Model:
    return Model(name=name, digest=digest, size=size, parameters="1B", quantization="Q4_K_M")


# ------------------------------------------------------------------------------------------------- comparing


def test_questions_are_lines_or_a_json_list(tmp_path: Path) -> None:
    lines, items = tmp_path / "q.txt", tmp_path / "q.json"
    lines.write_text("# mine\n\nWhat is it? \nWhy?\n", encoding="utf-8")
    items.write_text('["What is it?", "Two\\nlines", " "]', encoding="utf-8")
    assert modeleval.read_questions(lines) == ("What is it?", "Why?")
    assert modeleval.read_questions(items) == ("What is it?", "Two\nlines")


@pytest.mark.parametrize(
    ("name", "text"), [("q.txt", "# none\n"), ("q.json", "{}"), ("q.json", "[1]"), ("q.json", "x")]
)
def test_a_file_without_questions_is_refused_with_a_way_out(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(KitError) as caught:
        modeleval.read_questions(tmp_path / name)
    assert caught.value.fix
    with pytest.raises(KitError, match="cannot be read"):
        modeleval.read_questions(tmp_path / "missing")


@given(st.text(), st.text())
def test_agreement_is_symmetric_and_between_none_and_all(a: str, b: str) -> None:
    assert modeleval.word_f1(a, b) == modeleval.word_f1(b, a)
    assert 0 <= modeleval.word_f1(a, b) <= 1
    assert modeleval.word_f1(a, a) == 1


def test_agreement_counts_words_as_often_as_they_stand_there() -> None:
    assert modeleval.word_f1("The sky is blue", "the SKY is, blue!") == 1
    assert modeleval.word_f1("yes yes", "yes") == pytest.approx(2 / 3)
    assert modeleval.word_f1("yes", "no") == 0


def answer(text: str, tokens: int, seconds: float, *, first: float = 0.1, error: str = "") -> Answer:
    return Answer(
        text=text, tokens=tokens, answer_s=seconds, prompt_s=seconds, first_token_s=first, error=error, load_s=2.0
    )


def test_scores_leave_out_what_failed_and_say_so() -> None:
    given_answers = [answer("one two", 10, 1.0), answer("three", 30, 1.0, first=0.3), answer("", 0, 0, error="full")]
    score = modeleval.score("m", given_answers, 2.0, modeleval.Price(cents_per_kwh=36, watts=100))
    assert (score.questions, score.failed) == (3, 1)
    assert score.tokens_per_s == 20
    assert score.first_token_s == pytest.approx(0.2)
    assert score.mean_tokens == 20
    # 4 s for 40 tokens are 100 s for 1,000; 100 W for 100 s are 1/360 kWh.
    assert score.cents_per_1000 == pytest.approx(0.1)


def test_without_a_price_it_is_unknown_and_without_answers_there_is_nothing() -> None:
    silent = modeleval.score("m", [answer("", 0, 0, error="gone")], 0, None)
    assert silent.tokens_per_s is None and silent.first_token_s is None and silent.cents_per_1000 is None
    assert modeleval.agreement([answer("", 0, 0, error="gone")], [answer("x", 1, 1)]) is None


def test_each_model_is_loaded_before_it_is_timed_and_asked_everything() -> None:
    asked: list[tuple[str, str, object]] = []

    def ask(name: str, prompt: str, options: Mapping[str, object]) -> Answer:
        asked.append((name, prompt, options["num_predict"]))
        return answer(f"{name} says {prompt}", 5, 1.0)

    found = modeleval.run(ask, ["a", "b"], ["q1", "q2"], max_tokens=9, price=None, note=lambda _: None)
    assert [item for item in asked if item[2] == 1] == [("a", "Hello", 1), ("b", "Hello", 1)]
    assert [item[:2] for item in asked if item[2] == 9] == [("a", "q1"), ("a", "q2"), ("b", "q1"), ("b", "q2")]
    assert found.agreement == {"a | b": pytest.approx(2 / 3)}
    assert json.loads(json.dumps(found.document()))["answers"]["a"][0]["text"] == "a says q1"
    assert modeleval.table(found)[1][-1] == "unknown"


# ------------------------------------------------------------------------------------------------- recording


def test_a_version_is_recorded_once_and_a_change_is_said() -> None:
    first, moved = modelrecord.updated({}, [there("a:1b")], ["a:1b"], "2026-01-01T00:00:00")
    assert moved == [] and first["a:1b"].since == "2026-01-01T00:00:00"
    again, moved = modelrecord.updated(first, [there("a:1b")], ["a:1b"], "2026-02-02T00:00:00")
    assert again == first and moved == []
    other, moved = modelrecord.updated(first, [there("a:1b", NEW)], ["a:1b"], "2026-02-02T00:00:00")
    assert other["a:1b"].since == "2026-02-02T00:00:00"
    assert moved == [f"a:1b is {NEW[:12]} now; it was {OLD[:12]} since 2026-01-01"]


def test_what_left_both_the_list_and_the_server_is_forgotten() -> None:
    before = {name: Recorded(digest=OLD, size=1, since="x") for name in ("a:1b", "b:latest", "c:1b")}
    after, _ = modelrecord.updated(before, [there("a:1b"), there(f"a:1b-kept-{OLD[:12]}")], ["a:1b", "b"], "now")
    assert sorted(after) == ["a:1b", "b:latest"]


# ------------------------------------------------------------------------------------------------- the list


def test_the_list_shows_the_wanted_the_kept_and_the_missing() -> None:
    found = [there("a:1b"), there(f"a:1b-kept-{NEW[:12]}", NEW), there("old:3b")]
    recorded = {
        "a:1b": Recorded(digest=NEW, size=5 * 2**20, since="2026"),
        "e:latest": Recorded(digest=OLD, size=0, since="x"),
    }
    rows = model.overview(plan(models=("a:1b", "gone:1b"), embedding_model="e"), found, {"a:1b": 2**30}, recorded)
    by_name = {row["name"]: row for row in rows}
    assert [row["name"] for row in rows] == ["a:1b", "gone:1b", "e:latest", "old:3b"]
    assert by_name["a:1b"]["versions_kept"] == [NEW[:12]] and by_name["a:1b"]["changed"]
    assert by_name["a:1b"]["loaded_mb"] == 1024
    assert not by_name["gone:1b"]["there"] and by_name["old:3b"]["use"] == "kept"
    lines = [line.split() for line in model.table(rows)]
    assert lines[2] == ["before", NEW[:12]]
    assert lines[3][:4] == ["gone:1b", "chat", "not", "there"]
    assert lines[4][:5] == ["e:latest", "embedding", f"({OLD[:12]})", "0", "MB"]


def test_what_something_depends_on_stays() -> None:
    chosen = plan(models=("a:1b", "b:1b"), embedding_model="e")
    for name, rest, said in (("e", ["a:1b"], "finds the documents"), ("a:1b", [], "only model to chat with")):
        with pytest.raises(KitError, match=said):
            model.refuse_needed(chosen, name, rest)
    model.refuse_needed(chosen, "a:1b", ["b:1b"])


def test_what_does_not_fit_is_refused_with_figures() -> None:
    with pytest.raises(KitError) as caught:
        model.refuse_too_large(plan(), "big:70b", 40_000, "by its name about")
    assert "40,000 MB" in caught.value.what and "8,192 MB" in caught.value.what and "--anyway" in caught.value.fix
    model.refuse_too_large(plan(), "small:1b", 800, "by its name about")
    model.refuse_too_large(plan(), "unknown", None, "by its name about")


def test_a_version_is_named_by_its_first_digits() -> None:
    versions = ["abc123abc123", "abd123abc123"]
    assert model.matching("a:1b", "ABC", versions) == "abc123abc123"
    for asked, said in (("ab", "has 2 kept versions"), ("f", "has no kept version")):
        with pytest.raises(KitError, match=said):
            model.matching("a:1b", asked, versions)
    with pytest.raises(KitError) as caught:
        model.matching("a:1b", "f", [])
    assert "refresh" in caught.value.fix


@pytest.mark.parametrize("name", ["", "a b", "$(x)", "a;b", "../x", "a:b:c", "é", "a:1b-kept-0123456789ab", "x" * 201])
def test_no_other_text_is_a_models_name(name: str) -> None:
    with pytest.raises(KitError):
        model.checked(name)


def test_the_job_for_one_model_is_the_stacks_own_and_as_confined() -> None:
    job = modeljob.job_of(plan(models=("a:1b",)))
    made = modeljob.container(job, "b:1b", refresh=True)
    assert "KIT_MODELS=b:1b" in made["Env"] and "KIT_REFRESH=1" in made["Env"] and "KIT_THREADS=2" in made["Env"]
    assert made["HostConfig"]["CapDrop"] == ["ALL"] and made["HostConfig"]["ReadonlyRootfs"]
    assert made["HostConfig"]["NetworkMode"] == "kit-t-model" and made["User"] == "1000:1000"
    assert made["Labels"]["aikit.kind"] == "job"
    assert made["Cmd"][0].startswith("#!/bin/bash")


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("list", {"action": "list", "stack": "dev", "json": False}),
        ("add llama3.2:3b pi --refresh", {"name": "llama3.2:3b", "stack": "pi", "refresh": True, "anyway": False}),
        ("add --refresh llama3.2:3b --anyway pi", {"name": "llama3.2:3b", "stack": "pi", "refresh": True}),
        ("eval --json q.txt --models a,b gpu", {"file": "q.txt", "models": "a,b", "stack": "gpu", "json": True}),
        ("remove a gpu --version abc", {"name": "a", "stack": "gpu", "version": "abc"}),
        ("switch a abc", {"name": "a", "version": "abc", "stack": "dev"}),
        ("eval q.txt --models a,b --max-tokens 5 --json", {"file": "q.txt", "models": "a,b", "max_tokens": 5}),
    ],
)
def test_the_words_of_the_command(line: str, expected: dict[str, object]) -> None:
    _, arguments = parse(["model", *line.split()], ROOT)
    assert {name: getattr(arguments, name) for name in expected} == expected


@pytest.mark.parametrize("line", ["", "lst", "add", "switch a", "eval q --max-tokens 0", "list nowhere", "eval"])
def test_what_the_command_does_not_take_is_refused_with_help(line: str) -> None:
    with pytest.raises(KitError) as caught:
        parse(["model", *line.split()], ROOT)
    assert caught.value.code == 2 and caught.value.fix


@pytest.mark.parametrize("action", ["list", "add", "remove", "switch", "eval"])
def test_every_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["model", action, "--help"])
    assert left.value.code == 0 and "STACK" in capsys.readouterr().out
