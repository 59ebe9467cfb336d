"""Estimates of models from their names: near what is published, never below it by much, and nothing made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.derive import models as chosen
from stack.model import Target
from stack.planning import models
from tests import factories as make

# File sizes in MB (10**6 bytes) as Ollama's library lists them, or the models' authors for this quantisation.
PUBLISHED = {
    "llama3.2:1b": 1300,
    "llama3.2:3b": 2000,
    "llama3.2": 2000,
    "llama3.1:8b": 4900,
    "deepseek-r1:14b": 9000,
    "deepseek-r1:7b": 4700,
    "qwen2.5-coder:14b": 9000,
    "nomic-embed-text": 274,
    "nomic-embed-text:v1.5": 274,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_weights_are_near_what_is_published(name: str, published: int) -> None:
    found = models.of(name)
    assert found
    size = found.weights_mb * models.MIB / 10**6
    assert 0.97 * published <= size <= 1.15 * published


@pytest.mark.parametrize(
    ("name", "billions", "quantisation"),
    [
        ("llama3.1:8b-instruct-q4_K_M", 8.03, "q4_k_m"),
        ("llama3.1:8b-instruct-q8_0", 8.03, "q8_0"),
        ("mistral:7b-instruct-v0.3-q4_0", 7.7, "q4_0"),
        ("mixtral:8x7b", 61.6, "q4_k_m"),
        ("qwen2.5:0.5b", 0.55, "q8_0"),
        ("gemma3:270m", 0.297, "q8_0"),
        ("hf.co/someone/Some-Model-3B-GGUF:Q5_K_S", 3.3, "q5_k_s"),
        ("llama3.3:70b-instruct-fp16", 77.0, "fp16"),
        ("mistral", 7.25, "q4_k_m"),
        ("mistral:latest", 7.25, "q4_k_m"),
    ],
)
def test_a_name_says_parameters_and_quantisation(name: str, billions: float, quantisation: str) -> None:
    found = models.of(name)
    assert found
    assert found.billions == pytest.approx(billions)
    assert found.quantisation == quantisation


@pytest.mark.parametrize("name", ["phi3:mini", "somebody/thing", "gemma3n:e4b", "model:b", "x:v1.5", ""])
def test_a_name_that_says_nothing_is_not_guessed_at(name: str) -> None:
    assert models.of(name) is None


def test_what_embeds_keeps_no_conversation() -> None:
    found = models.of("nomic-embed-text")
    assert found and found.memory_mb(10**6, 16) == found.weights_mb + models.EMBEDDING_WORKING_MB


@given(st.floats(0.1, 200), st.integers(512, 131072), st.sampled_from([4, 8, 16]))
def test_more_of_anything_takes_more(billions: float, context: int, bits: int) -> None:
    found = models.Model(name="x", billions=billions, quantisation="q4_k_m")
    larger = models.Model(name="x", billions=billions * 2, quantisation="q4_k_m")
    assert found.weights_mb < found.memory_mb(context, bits)
    assert found.memory_mb(context, bits) < larger.memory_mb(context, bits)
    assert found.memory_mb(context, bits) <= found.memory_mb(context * 2, bits)


# Bytes per token of a conversation with 16-bit numbers: layers x key-value heads x size of a head x 2 x 2.
CONVERSATIONS = {1.24: 16 * 8 * 64 * 4, 3.21: 28 * 8 * 128 * 4, 8.03: 32 * 8 * 128 * 4, 14.8: 48 * 8 * 128 * 4}


@pytest.mark.parametrize(("billions", "per_token"), CONVERSATIONS.items())
def test_conversations_are_not_underestimated(billions: float, per_token: int) -> None:
    found = models.Model(name="x", billions=billions, quantisation="q4_k_m")
    estimate = found.memory_mb(4096, 16) - found.weights_mb - models.WORKING_MB
    assert estimate * models.MIB >= per_token * 4096


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("llama3.2:3b", ["llama3.2:1b"]),
        ("llama3.2", ["llama3.2:1b"]),
        ("llama3.2:1b", []),
        ("llama3.1:8b", ["llama3.2:3b", "llama3.2:1b"]),
        ("llama3.1:8b-instruct-q4_K_M", ["llama3.2:3b", "llama3.2:1b"]),
        ("deepseek-r1:14b", ["deepseek-r1:8b", "deepseek-r1:7b", "deepseek-r1:1.5b"]),
        ("nomic-embed-text", []),
        ("unknown:7b", []),
    ],
)
def test_what_is_offered_is_smaller_and_of_the_same_family(name: str, offered: list[str]) -> None:
    assert list(models.smaller(name)) == offered


@pytest.mark.parametrize("target", list(Target))
def test_the_defaults_are_models_that_can_be_estimated(target: Target) -> None:
    for name in chosen.all_of(make.settings(target=target)):
        assert models.of(name), name
