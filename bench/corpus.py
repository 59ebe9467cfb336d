"""Benign prompts, put together from texts that nobody wrote for this: what people paste into a chat about their work.

Each is a question and some lines of a file, from folders that are named by whoever asks. Which file, which lines and
which question is drawn with a fixed seed, so that the same folders give the same prompts. No prompt was looked at and
taken out, and none was made up to pass.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 20261122
LONGEST = 6000  # characters: what somebody pastes; longer prompts are for tests/live/test_waf.py

# Of a hundred prompts: what rules of a firewall take for attacks first.
SHARES: dict[str, int] = {
    "sql": 20,
    "shell": 20,
    "markup": 15,
    "script": 15,
    "python": 10,
    "js": 10,
    "system": 5,
    "text": 5,
}
KINDS: dict[str, tuple[str, ...]] = {
    "sql": (".sql",),
    "shell": (".sh", ".bash"),
    "markup": (".html", ".htm", ".xml", ".svg"),
    "script": (".php", ".rb", ".pl", ".pm", ".lua", ".ps1"),
    "python": (".py",),
    "js": (".js", ".ts", ".mjs"),
    "system": (".go", ".c", ".java", ".rs", ".yaml", ".yml", ".toml", ".conf"),
    "text": (".md", ".rst", ".txt"),
}
ASKED = (
    "What does this do?\n\n{}",
    "Explain this to a beginner, line by line:\n```\n{}\n```",
    "Find the bug in here, please.\n\n{}",
    'Why does this fail with "permission denied"?\n```{}```',
    "Rewrite this in Python:\n\n{}",
    "Is this safe? What could an attacker do with it?\n\n{}",
    "Review this as a senior engineer would. Be strict!\n\n~~~\n{}\n~~~",
    "Translate the comments into German; leave the code alone:\n{}",
    "I get a syntax error somewhere in this; where?\n\n{}\n\nThanks :-)",
    "Write tests for this:\n\n{}",
    "Make it faster & shorter (it's too slow):\n\n{}",
    "Was macht dieser Code? Erkläre ihn auf Deutsch.\n\n{}",
)


@dataclass(frozen=True)
class Prompt:
    """A question. kind: of SHARES. source: the file it quotes."""

    kind: str
    source: Path
    text: str


def compose(folders: Sequence[Path], count: int = 1000, seed: int = SEED) -> list[Prompt]:
    """`count` prompts. A kind that the folders have nothing of is left out, and the others have more of them."""
    files = _files(folders)
    kinds = [kind for kind in SHARES if files[kind]]
    if not kinds:
        raise ValueError(f"no text to quote in {', '.join(map(str, folders))}")
    chance = random.Random(seed)  # noqa: S311  reproducible is what it should be
    drawn = chance.choices(kinds, weights=[SHARES[kind] for kind in kinds], k=count)
    return [_prompt(chance, kind, files[kind]) for kind in drawn]


def digest(prompts: Sequence[Prompt]) -> str:
    """What says that two runs sent the same."""
    return hashlib.sha256("\0".join(prompt.text for prompt in prompts).encode()).hexdigest()[:12]


def _files(folders: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    kind_of = {ending: kind for kind, endings in KINDS.items() for ending in endings}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            kind = kind_of.get(path.suffix.lower())
            ours = path.relative_to(folder).parts
            if "site-packages" in ours or any(part.startswith(".") for part in ours):
                continue  # what happens to be installed or made there is another thing on each machine
            if kind and path.is_file() and not path.is_symlink() and _lines(path):
                found[kind].append(path)
    return found


def _lines(path: Path) -> list[str]:
    """The lines of a text; [] for what is none, or has nothing to ask about."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return lines if sum(map(len, lines)) >= 80 else []


def _prompt(chance: random.Random, kind: str, files: Sequence[Path]) -> Prompt:
    path = chance.choice(files)
    lines = _lines(path)
    length = chance.randint(3, 60)
    begin = chance.randrange(max(1, len(lines) - length + 1))
    quoted = "\n".join(lines[begin : begin + length])[:LONGEST]
    return Prompt(kind, path, chance.choice(ASKED).format(quoted))


# --------------------------------------------------------------------------------------------- as programs send them


@dataclass(frozen=True)
class Sent:
    """A request as a program sends it."""

    route: str
    path: str
    body: dict[str, object]


def sent(prompt: str, number: int) -> Iterator[Sent]:
    """The requests by which a prompt reaches a model: as the chat's page sends and keeps it, and as programs ask."""
    message = {"role": "user", "content": prompt}
    turns = [{"role": "system", "content": "You are a helpful assistant."}, message]
    chat, asked, answer = (f"{number:08x}-0000-4000-8000-{part:012x}" for part in (1, 2, 3))
    model = "qwen3:4b"
    yield Sent(
        "chat",
        "/api/chat/completions",
        {
            "stream": True,
            "model": model,
            "messages": turns,
            "params": {},
            "tool_servers": [],
            "features": {"image_generation": False, "code_interpreter": False, "web_search": False, "memory": False},
            "variables": {"{{USER_NAME}}": "Zoë O'Neil", "{{CURRENT_DATETIME}}": "2026-11-22 08:00:00"},
            "model_item": {"id": model, "object": "model", "owned_by": "ollama"},
            "session_id": "Qx7-aZ_0",
            "chat_id": chat,
            "id": answer,
            "background_tasks": {"title_generation": True, "tags_generation": True, "follow_up_generation": True},
        },
    )
    kept = {
        "id": asked,
        "parentId": None,
        "childrenIds": [answer],
        "role": "user",
        "content": prompt,
        "models": [model],
    }
    empty = {"id": answer, "parentId": asked, "childrenIds": [], "role": "assistant", "content": "", "model": model}
    whole = {
        "id": "",
        "title": prompt[:60],
        "models": [model],
        "params": {},
        "history": {"messages": {asked: kept, answer: empty}, "currentId": answer},
        "messages": [kept, empty],
        "tags": [],
        "timestamp": 1795334400000,
    }
    yield Sent("chat", "/api/v1/chats/new", {"chat": whole, "folder_id": None})
    yield Sent("chat", f"/api/v1/chats/{chat}", {"chat": whole})
    yield Sent("chat", "/api/v1/tasks/title/completions", {"model": model, "messages": [message], "chat_id": chat})
    tool = {
        "type": "function",
        "function": {"name": "run", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}},
    }
    yield Sent("api", "/v1/chat/completions", {"model": model, "messages": turns, "stream": True, "tools": [tool]})
    yield Sent("api", "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 256})
    yield Sent("api", "/v1/embeddings", {"model": "embed", "input": [prompt, prompt[:200]]})
    yield Sent("api", "/v1/responses", {"model": model, "input": [message], "store": False})
