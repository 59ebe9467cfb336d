"""Which models a stack has, by which names they answer, and how they are tuned to the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stack.model import Target
from stack.settings import Settings

# Made from files in an air-gapped image where no model can be fetched: random weights, real inference. Two to chat
# with, so that a proof can tell them apart. ./kit puts them into the settings when it finds that out.
TINY_PREFIX = "kit-tiny-"
TINY_CHAT = ("kit-tiny-chat", "kit-tiny-chat-b")
TINY_EMBEDDING = "kit-tiny-embed"

# What fits the target's memory limit of Ollama with its context beside it.
CHAT: Mapping[Target, tuple[str, ...]] = {
    Target.DEV: ("llama3.2:1b",),
    Target.PI: ("llama3.2:1b",),
    Target.GPU: ("llama3.1:8b", "deepseek-r1:14b"),
}
EMBEDDING = "nomic-embed-text:v1.5"  # 768 dimensions, 274 MB

# Threads of a model that computes on the processor. Ollama takes them from the model (PARAMETER num_thread), from no
# variable, and left alone counts the machine's cores and not the container's share: more threads than the limit admits
# wait for each other. As many as the container may use, and on the gpu box two more: there the card computes, and the
# threads mostly wait for it.
THREADS: Mapping[Target, int] = {Target.DEV: 2, Target.PI: 3, Target.GPU: 8}

KEPT = "-kept-"  # between a tag and the version that it had


@dataclass(frozen=True, kw_only=True)
class Share:
    """A model behind a name, and how many of a hundred questions it gets."""

    model: str
    percent: int


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A name that stands for several models. The shares are 100 together."""

    name: str
    shares: tuple[Share, ...]


def chat(settings: Settings) -> tuple[str, ...]:
    """The models to chat with, the default one first."""
    return settings.models or CHAT[settings.target]


def embedding(settings: Settings) -> str:
    """The model that turns documents into vectors."""
    return settings.embedding_model or EMBEDDING


def all_of(settings: Settings) -> tuple[str, ...]:
    """Every model the stack needs, each once."""
    return tuple(dict.fromkeys((*chat(settings), embedding(settings))))


def aliases(settings: Settings) -> tuple[Alias, ...]:
    """The names that stand for several models, in the order of the settings; for whoever routes by model."""
    return tuple(
        Alias(name=name, shares=tuple(Share(model=model, percent=share) for model, share in shares.items()))
        for name, shares in settings.model_aliases.items()
    )


def threads(settings: Settings) -> int:
    """How many threads a model gets on this target."""
    return THREADS[settings.target]


def tagged(model: str) -> str:
    """The name with its tag, as the server lists it."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"


def kept_name(model: str, version: str) -> str:
    """The name under which a version of a model stays when its own name moves on."""
    return f"{tagged(model)}{KEPT}{version}"


def kept(name: str) -> tuple[str, str] | None:
    """The model and version that a kept name stands for; None for any other name."""
    found = re.fullmatch(rf"(.+:.+){KEPT}([0-9a-f]{{12}})", name)
    return (found[1], found[2]) if found else None
