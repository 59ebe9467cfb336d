"""How much memory and disk a model takes, estimated from its name: weights, conversation, working space.

Where the estimate comes from (docs/adr/0011-budgets.md compares it with published sizes):

- weights = parameters x bits per weight / 8. Parameters are in the name ("8b"; "8x7b" is 56b), rounded by those who
  name models, so a tenth is added. Bits per weight are those llama.cpp's README of `quantize` measured (4.84 for
  Q4_K_M); without one in the name it is Q4_K_M, which Ollama's library gives, and for models below 2b Q8_0.
- A name without parameters is looked up in KNOWN, with the figures its authors published. One that is in neither is not
  guessed at: it counts nothing and is said to be unknown.
- conversation = tokens x 64 KiB x sqrt(billions of parameters), for 16 bits a number: at or above what the models of
  Llama 3 and Qwen 2.5 take with their grouped attention (1b 32, 3b 112, 8b 128, 14b 192, 70b 320 KiB).
- working space = 300 MB: the scores of 512 tokens over a vocabulary of 128,000 alone are 250. Models that only embed
  have a small vocabulary and keep no conversation: 100 MB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BILLION = 10**9
MIB = 2**20
ROUNDED_NAMES = 1.1
CONVERSATION_KIB = 64
WORKING_MB = 300
EMBEDDING_WORKING_MB = 100
DEFAULT_QUANTISATION = "q4_k_m"
SMALL_QUANTISATION = "q8_0"  # what the library gives of models below SMALL
SMALL = 2.0

# Bits per weight, most of them measured on Llama 2 7B (llama.cpp, examples/quantize). A trailing _s, _m or _l that is
# not here is as the name without it.
BITS: Mapping[str, float] = {
    "q2_k": 3.35,
    "q3_k_s": 3.50,
    "q3_k_m": 3.91,
    "q3_k_l": 4.27,
    "q3_k": 3.91,
    "q4_0": 4.55,
    "q4_1": 5.05,
    "q4_k_s": 4.58,
    "q4_k_m": 4.84,
    "q4_k": 4.84,
    "q5_0": 5.54,
    "q5_1": 6.04,
    "q5_k_s": 5.52,
    "q5_k_m": 5.68,
    "q5_k": 5.68,
    "q6_k": 6.56,
    "q8_0": 8.5,
    "mxfp4": 4.25,
    "fp16": 16.0,
    "f16": 16.0,
    "bf16": 16.0,
    "fp32": 32.0,
    "f32": 32.0,
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """billions: parameters. embeds: it gives vectors, and keeps no conversation."""

    name: str
    billions: float
    quantisation: str
    embeds: bool = False

    @property
    def weights_mb(self) -> int:
        """What its file takes on disk, and in memory once it is loaded."""
        return math.ceil(self.billions * BILLION * BITS[self.quantisation] / 8 / MIB)

    def memory_mb(self, context: int, cache_bits: int) -> int:
        """What it takes while loaded, with one conversation of `context` tokens."""
        if self.embeds:
            return self.weights_mb + EMBEDDING_WORKING_MB
        conversation = context * CONVERSATION_KIB / 1024 * math.sqrt(self.billions) * cache_bits / 16
        return self.weights_mb + math.ceil(conversation) + WORKING_MB


def _known(billions: float, quantisation: str, *, embeds: bool = False) -> Model:
    return Model(name="", billions=billions, quantisation=quantisation, embeds=embeds)


# Models whose names do not say it, or round it badly, as their authors publish them.
KNOWN: Mapping[str, Model] = {
    "llama3.2:1b": _known(1.24, "q8_0"),
    "llama3.2:3b": _known(3.21, "q4_k_m"),
    "llama3.2": _known(3.21, "q4_k_m"),
    "llama3.1": _known(8.03, "q4_k_m"),
    "llama3.1:8b": _known(8.03, "q4_k_m"),
    "mistral": _known(7.25, "q4_k_m"),
    "deepseek-r1": _known(8.19, "q4_k_m"),
    "nomic-embed-text": _known(0.137, "f16", embeds=True),
    "mxbai-embed-large": _known(0.334, "f16", embeds=True),
    "all-minilm": _known(0.023, "f16", embeds=True),
    "bge-m3": _known(0.567, "f16", embeds=True),
    "snowflake-arctic-embed2": _known(0.568, "f16", embeds=True),
    # Made here, with random weights (docs/airgap-images.md).
    "kit-tiny-chat": _known(0.001, "f32"),
    "kit-tiny-chat-b": _known(0.001, "f32"),
    "kit-tiny-embed": _known(0.006, "f16", embeds=True),
}

_SIZE = re.compile(r"(?:^|[-_.:])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?=$|[-_.:])")


def of(name: str) -> Model | None:
    """What a model's name says about it; None when it says nothing and nothing is known."""
    lowered = name.lower().rpartition("/")[2]
    base, _, tag = lowered.partition(":")
    quantisation = _quantisation(tag)
    token = _SIZE.search(tag)
    known = KNOWN.get(lowered.removesuffix(":latest")) or (
        KNOWN.get(f"{base}:{token[0].strip('-_.')}") if token else None
    )
    size = _billions(tag) or _billions(base)
    if known is None and not size:
        known = KNOWN.get(base)  # a version such as :v1.5 says nothing of its size
    if known is not None:
        return Model(
            name=name,
            billions=known.billions,
            quantisation=quantisation or known.quantisation,
            embeds=known.embeds,
        )
    if not size:
        return None
    usual = SMALL_QUANTISATION if size < SMALL else DEFAULT_QUANTISATION
    return Model(
        name=name, billions=size * ROUNDED_NAMES, quantisation=quantisation or usual, embeds="embed" in lowered
    )


def _billions(text: str) -> float:
    found = _SIZE.search(text)
    if not found:
        return 0.0
    size = float(found[2]) * int(found[1] or 1)
    return size / 1000 if found[3] == "m" else size


def _quantisation(tag: str) -> str:
    """The longest quantisation a tag names: 8b-instruct-q4_K_M -> q4_k_m; "" for none."""
    return max((name for name in BITS if re.search(rf"(?:^|[-_.]){name}(?=$|[-.])", tag)), key=len, default="")


def smaller(name: str) -> Iterator[str]:
    """Smaller models of the same kind that Ollama's library is known to have, the largest first."""
    base, _, tag = name.partition(":")
    found = of(name)
    if found is None or (tag and _billions(tag) == 0):
        return
    for candidate in RELATED.get(base, ()):
        other = of(candidate)
        if other and other.weights_mb < found.weights_mb:
            yield candidate


def _sizes(base: str, *sizes: str) -> tuple[str, ...]:
    return tuple(f"{base}:{size}" for size in sizes)


# In which sizes models come in Ollama's library, the largest first, and what comes nearest below them.
_LLAMA = (*_sizes("llama3.1", "70b", "8b"), *_sizes("llama3.2", "3b", "1b"))
RELATED: Mapping[str, tuple[str, ...]] = {
    "llama3.1": _LLAMA,
    "llama3.2": _LLAMA,
    "llama3.3": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": ("mistral:7b", *_LLAMA),
    "deepseek-r1": _sizes("deepseek-r1", "70b", "32b", "14b", "8b", "7b", "1.5b"),
    "qwen2.5": _sizes("qwen2.5", "72b", "32b", "14b", "7b", "3b", "1.5b", "0.5b"),
    "qwen2.5-coder": _sizes("qwen2.5-coder", "32b", "14b", "7b", "3b", "1.5b", "0.5b"),
    "qwen3": _sizes("qwen3", "32b", "14b", "8b", "4b", "1.7b", "0.6b"),
    "gemma3": _sizes("gemma3", "27b", "12b", "4b", "1b"),
}
