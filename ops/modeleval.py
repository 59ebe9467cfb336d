"""The user's own questions to several models, through the queue that everybody uses, and how the answers compare.

Agreement of two models is the mean over all questions of the words their answers share: F1 over lower-cased words
counted with repetitions, as question-answering benchmarks score an answer (SQuAD). 1 is the same words, 0 is none
in common. It says how alike two models answer, not which one is right.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from ops.console import KitError
from ops.modelserver import Answer

Ask = Callable[[str, str, Mapping[str, object]], Answer]


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a kilowatt-hour costs, in hundredths of a currency, and what the machine draws while it answers."""

    cents_per_kwh: int
    watts: int

    def of(self, seconds: float) -> float:
        """What that many seconds cost, in hundredths."""
        return self.watts / 1000 * seconds / 3600 * self.cents_per_kwh


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model over all questions. Times in seconds, lengths in tokens and characters; None: nothing to count.

    first_token_s is the median from sending to the first piece, queue included, the model being loaded. cents_per_1000
    is electricity for 1,000 tokens of answer, the reading of the questions included.
    """

    model: str
    questions: int
    failed: int
    tokens_per_s: float | None
    first_token_s: float | None
    load_s: float
    mean_tokens: float | None
    mean_characters: float | None
    cents_per_1000: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The scores, each pair's agreement, and every answer by model."""

    questions: tuple[str, ...]
    scores: tuple[Score, ...]
    agreement: Mapping[str, float | None]  # "a | b"
    answers: Mapping[str, tuple[Answer, ...]]

    def document(self) -> dict[str, Any]:
        """All of it, for a file."""
        rows = {
            model: [{key: value for key, value in asdict(answer).items() if key != "pieces"} for answer in answers]
            for model, answers in self.answers.items()
        }
        return {
            "questions": list(self.questions),
            "scores": [asdict(score) for score in self.scores],
            "agreement": dict(self.agreement),
            "answers": rows,
        }


def read_questions(path: Path) -> tuple[str, ...]:
    """Those of a file: a JSON list of texts, or else a line each, without blank lines and those that begin with #."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"{path} cannot be read: {error}.", "Name a text file with a question on each line.") from error
    if path.suffix == ".json":
        try:
            items = json.loads(text)
        except ValueError as error:
            raise KitError(f"{path} is no JSON: {error}.", 'Write ["first question", "second question"].') from error
        if not isinstance(items, list) or not all(isinstance(item, str) for item in cast(list[object], items)):
            raise KitError(f"{path} is no list of texts.", 'Write ["first question", "second question"].')
        found = tuple(item.strip() for item in cast(list[str], items) if item.strip())
    else:
        lines = (line.strip() for line in text.splitlines())
        found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise KitError(f"{path} has no questions.", "Write one on each line; lines that begin with # do not count.")
    return found


def run(
    ask: Ask,
    models: Sequence[str],
    questions: Sequence[str],
    *,
    max_tokens: int,
    price: Price | None,
    note: Callable[[str], None],
) -> Comparison:
    """Ask every model everything, model by model: each is loaded once, and not in anybody's measured time."""
    options: Mapping[str, object] = {"temperature": 0, "seed": 7, "num_predict": max_tokens}
    answers: dict[str, tuple[Answer, ...]] = {}
    loads: dict[str, float] = {}
    for model in models:
        note(f"{model}: loading")
        loads[model] = ask(model, "Hello", {**options, "num_predict": 1}).load_s
        found: list[Answer] = []
        for number, question in enumerate(questions, 1):
            note(f"{model}: question {number} of {len(questions)}")
            found.append(ask(model, question, options))
        answers[model] = tuple(found)
    return Comparison(
        questions=tuple(questions),
        scores=tuple(score(model, answers[model], loads[model], price) for model in models),
        agreement={f"{a} | {b}": agreement(answers[a], answers[b]) for a, b in combinations(models, 2)},
        answers=answers,
    )


def score(model: str, answers: Sequence[Answer], load_s: float, price: Price | None) -> Score:
    """What one model's answers come to; questions that failed count as failed and nowhere else."""
    good = [answer for answer in answers if not answer.error]
    tokens, seconds = sum(answer.tokens for answer in good), sum(answer.answer_s for answer in good)
    busy = seconds + sum(answer.prompt_s for answer in good)
    return Score(
        model=model,
        questions=len(answers),
        failed=len(answers) - len(good),
        tokens_per_s=tokens / seconds if seconds else None,
        first_token_s=statistics.median(answer.first_token_s for answer in good) if good else None,
        load_s=load_s,
        mean_tokens=tokens / len(good) if good else None,
        mean_characters=statistics.fmean(len(answer.text) for answer in good) if good else None,
        cents_per_1000=price.of(busy / tokens * 1000) if price and tokens else None,
    )


def agreement(first: Sequence[Answer], second: Sequence[Answer]) -> float | None:
    """Mean word F1 over the questions that both answered; None when there is none."""
    pairs = [(a.text, b.text) for a, b in zip(first, second, strict=True) if not a.error and not b.error]
    return statistics.fmean(word_f1(a, b) for a, b in pairs) if pairs else None


def word_f1(first: str, second: str) -> float:
    """Words in common, counted with repetitions, against the words of both. Two answers without words are alike."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (first, second))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def table(found: Comparison) -> list[tuple[str, ...]]:
    """The comparison for a person, a row per model."""
    rows = [("model", "tokens/s", "first token", "load", "length", "failed", "per 1,000 tokens")]
    rows += [
        (
            score.model,
            _number(score.tokens_per_s, "{:.1f}"),
            _number(score.first_token_s, "{:.2f} s"),
            f"{score.load_s:.1f} s",
            _number(score.mean_tokens, "{:.0f} tokens"),
            f"{score.failed} of {score.questions}",
            "unknown" if score.cents_per_1000 is None else f"{score.cents_per_1000 / 100:.4f}",
        )
        for score in found.scores
    ]
    return rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
