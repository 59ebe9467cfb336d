#!/usr/bin/env python3
"""Writes tiny GGUF models with random weights: nothing is trained, but a server really runs them.

    mkgguf.py chat SEED OUT.gguf    llama architecture, 2 layers of 64, byte-fallback vocabulary
    mkgguf.py embed SEED OUT.gguf   bert architecture, 1 layer of 768, word pieces, mean pooling

The same seed gives the same file on every machine; another seed gives other weights, so other answers.
Only the standard library: the GGUF format (version 3) is a header, typed key-value pairs, the
tensors' names and shapes, and their data at multiples of 32 bytes.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, cast

ALIGNMENT = 32
WORDS = (
    *("the", "a", "and", "of", "to", "in", "is", "it", "you", "that", "for", "on", "are", "with", "as", "at", "be"),
    *("this", "have", "from", "or", "one", "had", "by", "but", "kit", "model", "answer", "question", "hello"),
    *("world", "server", "test", "data", "local", "yes", "no", "time", "day", "work"),
)
SPACE = "\u2581"


class Kind(IntEnum):
    """GGUF's value types, those used here."""

    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9


class Token(IntEnum):
    """GGUF's token types, those used here."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


Value = int | float | bool | str | list[str] | list[int] | list[float]


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _scalar(kind: Kind, value: int | float | bool | str) -> bytes:
    if kind is Kind.STRING:
        return _string(str(value))
    return struct.pack({Kind.UINT32: "<I", Kind.INT32: "<i", Kind.FLOAT32: "<f", Kind.BOOL: "<?"}[kind], value)


def _kind(value: int | float | bool | str) -> Kind:
    if isinstance(value, bool):
        return Kind.BOOL
    if isinstance(value, int):
        return Kind.UINT32
    return Kind.FLOAT32 if isinstance(value, float) else Kind.STRING


@dataclass
class Model:
    """One file: metadata keys of the architecture are written without its prefix."""

    architecture: str
    random: random.Random
    pairs: list[tuple[str, Value]] = field(default_factory=list["tuple[str, Value]"])
    tensors: list[tuple[str, tuple[int, ...], array[float]]] = field(
        default_factory=list["tuple[str, tuple[int, ...], array[float]]"]
    )

    def set(self, key: str, value: Value) -> None:
        self.pairs.append((key, value))

    def arch(self, key: str, value: Value) -> None:
        self.set(f"{self.architecture}.{key}", value)

    def constant(self, name: str, size: int, value: float) -> None:
        self.tensors.append((name, (size,), array("f", [value]) * size))

    def weights(self, name: str, rows: int, columns: int, scale: float) -> array[float]:
        """A matrix of normally distributed numbers; returned so that the caller may change rows."""
        gauss = self.random.gauss
        data = array("f", (gauss(0.0, scale) for _ in range(rows * columns)))
        self.tensors.append((name, (rows, columns), data))
        return data

    def write(self, path: Path) -> None:
        with path.open("wb") as out:
            out.write(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.pairs) + 1))
            for key, value in [("general.architecture", self.architecture), *self.pairs]:
                out.write(_string(key))
                self._value(out, value)
            offset = 0
            for name, shape, data in self.tensors:
                out.write(_string(name) + struct.pack("<I", len(shape)))
                # GGUF lists the fastest dimension first; type 0 is 32-bit float.
                out.write(b"".join(struct.pack("<Q", size) for size in reversed(shape)))
                out.write(struct.pack("<IQ", 0, offset))
                offset += len(data) * 4 + -len(data) * 4 % ALIGNMENT
            for _, _, data in self.tensors:
                out.write(b"\0" * (-out.tell() % ALIGNMENT))
                stored = data
                if sys.byteorder == "big":
                    stored = array("f", data)
                    stored.byteswap()
                out.write(stored.tobytes())
            out.write(b"\0" * (-out.tell() % ALIGNMENT))

    @staticmethod
    def _value(out: BinaryIO, value: Value) -> None:
        if isinstance(value, list):
            items = cast("list[int | float | str]", value)
            # Token types are signed in every writer of the format.
            kind = Kind.INT32 if isinstance(items[0], int) else _kind(items[0])
            out.write(struct.pack("<IIQ", Kind.ARRAY, kind, len(items)))
            for item in items:
                out.write(_scalar(kind, item))
            return
        kind = _kind(value)
        out.write(struct.pack("<I", kind) + _scalar(kind, value))


def chat(seed: int) -> Model:
    # 32 a head: an 8-bit conversation cache, as on the pi and gpu targets, is kept in blocks of 32.
    layers, width, heads, inner = 2, 64, 2, 128
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [Token.UNKNOWN, Token.CONTROL, Token.CONTROL, *[Token.BYTE] * 256]
    scores = [0.0] * len(tokens)
    pieces = [SPACE, *(chr(code) for code in range(97, 123)), *(SPACE + word for word in WORDS)]
    tokens += pieces
    types += [Token.NORMAL] * len(pieces)
    scores += [-float(rank) for rank in range(len(pieces))]

    model = Model("llama", random.Random(seed))  # noqa: S311 (weights, not secrets)
    model.set("general.name", "kit-tiny-chat")
    model.set("general.file_type", 0)
    for key, value in {
        "vocab_size": len(tokens),
        "context_length": 4096,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        "rope.dimension_count": width // heads,
    }.items():
        model.arch(key, value)
    model.arch("attention.layer_norm_rms_epsilon", 1e-5)
    model.set("tokenizer.ggml.model", "llama")
    model.set("tokenizer.ggml.tokens", tokens)
    model.set("tokenizer.ggml.scores", scores)
    model.set("tokenizer.ggml.token_type", [int(kind) for kind in types])
    for key, value in {"bos": 1, "eos": 2, "unknown": 0}.items():
        model.set(f"tokenizer.ggml.{key}_token_id", value)

    model.weights("token_embd.weight", len(tokens), width, 0.08)
    head = model.weights("output.weight", len(tokens), width, 0.08)
    for row in range(259):
        # Mostly words, seldom raw bytes, and no early end.
        factor = 0.0 if row < 3 else 0.02
        for column in range(row * width, (row + 1) * width):
            head[column] *= factor
    model.constant("output_norm.weight", width, 1.0)
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    shapes |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    for layer in range(layers):
        for name, (rows, columns) in shapes.items():
            model.weights(f"blk.{layer}.{name}.weight", rows, columns, 0.08)
        for name in ("attn_norm", "ffn_norm"):
            model.constant(f"blk.{layer}.{name}.weight", width, 1.0)
    return model


def embed(seed: int) -> Model:
    layers, width, heads, inner, context = 1, 768, 4, 128, 512
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in (*range(97, 123), *range(48, 58))]
    pieces = [
        *(SPACE + letter for letter in letters),
        *(SPACE + word for word in WORDS if len(word) > 1),
        *letters,
        *(SPACE + ".,!?:;-'\"()/"),
    ]
    tokens = list(dict.fromkeys([*special, *pieces]))

    model = Model("bert", random.Random(seed))  # noqa: S311 (weights, not secrets)
    model.set("general.name", "kit-tiny-embed")
    model.set("general.file_type", 0)
    for key, value in {
        "vocab_size": len(tokens),
        "context_length": context,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        # 1 is mean pooling.
        "pooling_type": 1,
    }.items():
        model.arch(key, value)
    model.arch("attention.layer_norm_epsilon", 1e-12)
    model.arch("attention.causal", False)
    model.set("tokenizer.ggml.model", "bert")
    model.set("tokenizer.ggml.tokens", tokens)
    model.set(
        "tokenizer.ggml.token_type",
        [int(Token.CONTROL)] * len(special) + [int(Token.NORMAL)] * (len(tokens) - len(special)),
    )
    model.set("tokenizer.ggml.token_type_count", 2)
    ids = {"unknown": 1, "cls": 2, "bos": 2, "eos": 3, "seperator": 3, "padding": 0, "mask": 4}
    for key, value in ids.items():
        model.set(f"tokenizer.ggml.{key}_token_id", value)

    model.weights("token_embd.weight", len(tokens), width, 0.8)
    model.weights("position_embd.weight", context, width, 0.008)
    model.weights("token_types.weight", 2, width, 0.008)
    model.constant("token_embd_norm.weight", width, 1.0)
    model.constant("token_embd_norm.bias", width, 0.0)
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    shapes |= {"ffn_up": (inner, width), "ffn_down": (width, inner)}
    for layer in range(layers):
        for name, (rows, columns) in shapes.items():
            model.weights(f"blk.{layer}.{name}.weight", rows, columns, 0.08)
            model.constant(f"blk.{layer}.{name}.bias", rows, 0.0)
        for name in ("attn_output_norm", "layer_output_norm"):
            model.constant(f"blk.{layer}.{name}.weight", width, 1.0)
            model.constant(f"blk.{layer}.{name}.bias", width, 0.0)
    return model


def main(arguments: list[str]) -> int:
    makers = {"chat": chat, "embed": embed}
    if len(arguments) != 3 or arguments[0] not in makers or not arguments[1].isdecimal():
        print(__doc__, file=sys.stderr)
        return 2
    makers[arguments[0]](int(arguments[1])).write(Path(arguments[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
