"""Which models a stack has: those its settings name, else a default that fits the machine."""

from __future__ import annotations

from collections.abc import Mapping

from stack.model import ImageSource, Target
from stack.settings import Settings

# Made from files in the air-gapped image: random weights, real inference. Two, so that a proof can tell them apart.
TINY_CHAT = ("kit-tiny-chat", "kit-tiny-chat-b")
TINY_EMBEDDING = "kit-tiny-embed"

# What fits the target's memory limit of Ollama with its context beside it.
CHAT: Mapping[Target, tuple[str, ...]] = {
    Target.DEV: ("llama3.2:1b",),
    Target.PI: ("llama3.2:1b",),
    Target.GPU: ("llama3.1:8b", "deepseek-r1:14b"),
}
EMBEDDING = "nomic-embed-text:v1.5"  # 768 dimensions, 274 MB


def chat(settings: Settings) -> tuple[str, ...]:
    """The models to chat with, the default one first."""
    if settings.models:
        return settings.models
    return TINY_CHAT if settings.images is ImageSource.AIRGAP else CHAT[settings.target]


def embedding(settings: Settings) -> str:
    """The model that turns documents into vectors."""
    if settings.embedding_model:
        return settings.embedding_model
    return TINY_EMBEDDING if settings.images is ImageSource.AIRGAP else EMBEDDING


def all_of(settings: Settings) -> tuple[str, ...]:
    """Every model the stack needs, each once."""
    return tuple(dict.fromkeys((*chat(settings), embedding(settings))))
