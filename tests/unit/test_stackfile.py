"""Editing one list in the operator's file: nothing else moves, and what cannot be done safely is not done."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ops.console import KitError
from ops.stackfile import EditError, save_items, save_list, with_items, with_list

NAMES = st.lists(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}(:[A-Za-z0-9._-]{1,6})?", fullmatch=True),
    min_size=1,
    max_size=6,
    unique=True,
)

BLOCK = """\
# The machine in front of you.
config:
  ai-kit:target: dev   # a comment
  ai-kit:models:
    - llama3.2:1b  # small
    # the better one
    - qwen2.5:3b
  ai-kit:embeddingModel: nomic-embed-text
encryptionsalt: v1:abc
"""


def test_an_item_is_added_below_the_last_one_and_nothing_else_moves() -> None:
    changed = with_list(BLOCK, "ai-kit", "models", ["llama3.2:1b", "qwen2.5:3b", "phi4:14b"])
    assert changed == BLOCK.replace("    - qwen2.5:3b\n", "    - qwen2.5:3b\n    - phi4:14b\n")


def test_an_item_goes_with_its_line_and_nothing_else_moves() -> None:
    changed = with_list(BLOCK, "ai-kit", "models", ["qwen2.5:3b"])
    assert changed == BLOCK.replace("    - llama3.2:1b  # small\n", "")


def test_a_list_in_brackets_stays_one() -> None:
    text = "config:\n  models: [a, 'b']  # mine\n  target: dev\n"
    assert with_list(text, "ai-kit", "models", ["a", "c:1b"]) == "config:\n  models: [a, c:1b]  # mine\n  target: dev\n"


def test_a_missing_list_is_added_to_the_block_of_keys() -> None:
    above, below = "# top\nconfig:\n  ai-kit:target: dev\n", "\n# below\nencryptionsalt: v1:abc\n"
    changed = with_list(above + below, "ai-kit", "models", ["a:1b", "b"])
    assert changed == f"{above}  ai-kit:models:\n    - a:1b\n    - b\n{below}"


def test_a_missing_list_at_the_end_of_a_file_without_a_line_break() -> None:
    assert with_list("config:\n  target: dev", "ai-kit", "models", ["a"]) == (
        "config:\n  target: dev\n  ai-kit:models:\n    - a\n"
    )


@pytest.mark.parametrize("name", ["1", "1.5", "true", "null", "0x1"])
def test_a_name_that_looks_like_something_else_stays_a_text(name: str) -> None:
    text = with_list("config:\n  models:\n  - a\n", "ai-kit", "models", ["a", name])
    assert yaml.safe_load(text.replace(name, f"{name}")) is not None
    assert f"'{name}'" in text or name == "0x1"


@pytest.mark.parametrize(
    "text",
    [
        "config: {models: [a]}\n",  # no block to add to is one thing, a list in it another: see below
        "config:\n  models:\n    - a\n    - {b: c}\n",
        "config:\n  models: one\n",
        "config:\n  models:\n    - a\n  ai-kit:models:\n    - a\n",
        "- no mapping\n",
        "config:\n  models: [a, # mine\n    b]\n",
    ],
)
def test_what_is_not_understood_is_refused_or_right(text: str) -> None:
    try:
        changed = with_list(text, "ai-kit", "models", ["a", "z"])
    except EditError:
        return
    assert yaml.safe_load(changed)["config"]["models"] == ["a", "z"]


@given(NAMES, NAMES)
def test_whatever_stood_there_the_new_list_is_read_back(before: list[str], added: list[str]) -> None:
    kept = before[::2]
    wanted = [*kept, *(name for name in added if name not in before)]
    text = "config:\n  target: dev\n  models:\n" + "".join(f'    - "{name}"\n' for name in before) + "  domain: x.y\n"
    changed = with_list(text, "ai-kit", "models", wanted)
    assert changed.startswith("config:\n  target: dev\n  models:\n") and changed.endswith("  domain: x.y\n")


def test_a_refused_edit_leaves_the_file_and_says_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text("config:\n  models: one\n", encoding="utf-8")
    with pytest.raises(KitError) as caught:
        save_list(path, "ai-kit", "models", ["a", "b"])
    assert "  - a\n  - b" in caught.value.fix
    assert path.read_text(encoding="utf-8") == "config:\n  models: one\n"


def test_a_saved_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(BLOCK, encoding="utf-8")
    path.chmod(0o644)
    save_list(path, "ai-kit", "models", ["llama3.2:1b"])
    assert path.stat().st_mode & 0o777 == 0o644
    assert "qwen" not in path.read_text(encoding="utf-8")


def first_part(text: str) -> str:
    return text.partition("=")[0]


def test_an_item_of_the_same_name_is_written_in_its_place() -> None:
    text = "config:\n  ai-kit:rotation:\n    - redis=2  # after the leak\n    - n8n=90d\n  ai-kit:target: dev\n"
    changed = with_items(
        text, "ai-kit", "rotation", same=first_part, items={"redis": "redis=3", "qdrant/key": "qdrant/key=2"}
    )
    assert changed == text.replace("redis=2 ", "redis=3 ").replace("n8n=90d\n", "n8n=90d\n    - qdrant/key=2\n")


def test_items_in_brackets_and_in_no_list_yet() -> None:
    text = "config:\n  ai-kit:rotation: ['redis=2', n8n=1]\n"
    assert with_items(text, "ai-kit", "rotation", same=first_part, items={"redis": "redis=3 90d"}) == (
        "config:\n  ai-kit:rotation: [redis=3 90d, n8n=1]\n"
    )
    assert with_items(
        "config:\n  ai-kit:target: dev\n", "ai-kit", "rotation", same=first_part, items={"*": "*=90d"}
    ) == ("config:\n  ai-kit:target: dev\n  ai-kit:rotation:\n    - '*=90d'\n")


def test_items_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("config: {ai-kit:target: dev}\n", encoding="utf-8")
    with pytest.raises(KitError) as refused:
        save_items(file, "ai-kit", "rotation", same=first_part, items={"redis": "redis=3"})
    assert "  - redis=3" in refused.value.fix
    assert file.read_text(encoding="utf-8") == "config: {ai-kit:target: dev}\n"
