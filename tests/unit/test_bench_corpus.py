"""The prompts of bench.attacks: the same from the same folders, of every kind, and none left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench import corpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind, endings in corpus.KINDS.items():
        for number, ending in enumerate(endings):
            text = "\n".join(f"{kind} {number} line {line}: '; DROP TABLE x; -- <b>{{}}</b>" for line in range(90))
            (tmp_path / f"{kind}{number}{ending}").write_text(text, encoding="utf-8")
    (tmp_path / "short.sql").write_text("SELECT 1;\n")
    (tmp_path / "binary.sql").write_bytes(b"\xff\xfe" * 100)
    return tmp_path


def test_the_same_folders_give_the_same_prompts(folder: Path) -> None:
    first = corpus.compose([folder], 200)
    assert first == corpus.compose([folder], 200) and corpus.digest(first) == corpus.digest(list(first))
    assert corpus.digest(first) != corpus.digest(corpus.compose([folder], 200, seed=1))
    assert not [prompt for prompt in first if prompt.source.name in ("short.sql", "binary.sql")]
    assert all(prompt.text.count("line") for prompt in first)
    assert max(len(prompt.text) for prompt in first) <= corpus.LONGEST + 200


def test_each_kind_has_its_share(folder: Path) -> None:
    kinds = Counter(prompt.kind for prompt in corpus.compose([folder], 1000))
    assert set(kinds) == set(corpus.SHARES) and sum(corpus.SHARES.values()) == 100
    assert all(abs(kinds[kind] - 10 * share) < 50 for kind, share in corpus.SHARES.items()), kinds


def test_without_texts_there_are_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text to quote"):
        corpus.compose([tmp_path])


def test_a_prompt_is_sent_as_it_is(folder: Path) -> None:
    prompt = corpus.compose([folder], 1)[0].text
    requests = list(corpus.sent(prompt, 7))
    assert {request.route for request in requests} == {"chat", "api"}
    for request in requests:
        assert json.dumps(prompt) in json.dumps(request.body), request.path
