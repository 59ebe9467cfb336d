"""Which models a stack has: those its settings name, else a default that fits the machine."""

from __future__ import annotations

from collections.abc import Mapping

from stack.model import Target
from stack.settings import Settings

# Made from files in an air-gapped image where no model can be fetched: random weights, real inference. Two to chat
# with, so that a proof can tell them apart. ./kit puts them into the settings when it finds that out.
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
    return settings.models or CHAT[settings.target]


def embedding(settings: Settings) -> str:
    """The model that turns documents into vectors."""
    return settings.embedding_model or EMBEDDING


def all_of(settings: Settings) -> tuple[str, ...]:
    """Every model the stack needs, each once."""
    return tuple(dict.fromkeys((*chat(settings), embedding(settings))))
