"""Encodings: what a reader decodes is what was encoded. The readers here are models, each checked by hand against
the real one; tests/live/test_services.py asks the real servers with one hostile secret."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stack.derive.encode import encode
from stack.model import Encoding

HOSTILE = "a'b\"c$d${e}\\f`g h#i%j{k}é€😀;&|<>!*?~@:/[]=+,^\\\n"
ANYTHING = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
# What the readers treat specially, close together.
AWKWARD = st.text(st.sampled_from("\\${}\"' \n\r\t#:=!%@/n0xu"), max_size=12)
SECRETS = ANYTHING | AWKWARD


def read_raw(text: str) -> str:
    return text


def read_redis(text: str) -> str:
    """One double-quoted argument, as Redis splits a line of its configuration."""
    assert text[0] == text[-1] == '"'
    assert "\n" not in text, "a line break ends the directive"
    body, out, at = text[1:-1], bytearray(), 0
    while at < len(body):
        if body[at] != "\\":
            assert body[at] != '"', "the argument ends early"
            out += body[at].encode()
            at += 1
        elif body[at + 1] == "x" and re.fullmatch("[0-9a-fA-F]{2}", body[at + 2 : at + 4]):
            out.append(int(body[at + 2 : at + 4], 16))
            at += 4
        else:
            out += {"n": b"\n", "r": b"\r", "t": b"\t", "b": b"\b", "a": b"\a"}.get(body[at + 1], body[at + 1].encode())
            at += 2
    return out.decode()


def read_properties(text: str) -> str:
    """A value of keycloak.conf: java.util.Properties, then the expressions of SmallRye Config.

    Both as Keycloak 26.5 showed them with `show-config`: `\\\\$` and `$$` are a dollar sign, `${` begins an expression.
    """
    assert "\n" not in text, "a line break ends the value"
    assert text == text.lstrip(" \t\f"), "white space in front of a value is dropped"
    units: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1] == "u":
            units.append(chr(int(text[at + 2 : at + 6], 16)))
            at += 6
        elif text[at] == "\\":
            units.append({"n": "\n", "r": "\r", "t": "\t", "f": "\f"}.get(text[at + 1], text[at + 1]))
            at += 2
        else:
            units.append(text[at])
            at += 1
    plain = "".join(units).encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    out, at = "", 0
    while at < len(plain):
        if plain[at : at + 2] in ("\\$", "$$"):
            out += "$"
            at += 2
        else:
            assert plain[at : at + 2] != "${", "an expression begins"
            out += plain[at]
            at += 1
    return out


def read_argument(text: str) -> str:
    """A quoted word of java.io.StreamTokenizer: after a backslash a letter it knows, octal digits, or itself."""
    assert text[0] == text[-1] == '"'
    out, at, end = "", 1, len(text) - 1
    while at < end:
        if text[at] != "\\":
            assert text[at] not in '"\n\r', "the word ends here"
            out += text[at]
            at += 1
            continue
        digits = re.match(r"[0-3][0-7]{0,2}|[4-7][0-7]?", text[at + 1 : end])
        if digits:
            out += chr(int(digits[0], 8))
            at += 1 + len(digits[0])
        else:
            letters = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
            out += letters.get(text[at + 1], text[at + 1])
            at += 2
    return out


READERS: dict[Encoding, Callable[[str], str]] = {
    Encoding.RAW: read_raw,
    Encoding.URL: unquote,
    Encoding.REDIS: read_redis,
    Encoding.PROPERTIES: read_properties,
    Encoding.JSON: json.loads,
    Encoding.ARGUMENT: read_argument,
}


# Nobody reads the secret out of these: each has a form that a program asks for.
FORMS: dict[Encoding, str] = {
    Encoding.HEX_32: "[0-9a-f]{64}",
    Encoding.BASE64_32: "[A-Za-z0-9+/]{43}=",
    Encoding.BASE64URL_32: "[A-Za-z0-9_-]{43}",
    Encoding.UUID: "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    Encoding.NAME_24: "[0-9a-f]{24}",
}


def test_every_encoding_has_a_reader_or_a_form() -> None:
    assert set(READERS) | set(FORMS) == set(Encoding)


@pytest.mark.parametrize("encoding", FORMS)
@given(secret=SECRETS, other=SECRETS)
@example(secret=HOSTILE, other=HOSTILE + " ")
def test_a_one_way_encoding_has_its_form_and_follows_from_the_secret_alone(
    encoding: Encoding, secret: str, other: str
) -> None:
    text = encode(secret, encoding)
    assert re.fullmatch(FORMS[encoding], text)
    assert text == encode(secret, encoding)
    assert (text == encode(other, encoding)) == (secret == other)


def test_what_may_be_seen_is_no_part_of_what_may_not() -> None:
    assert encode("x", Encoding.NAME_24) not in encode("x", Encoding.HEX_32)
    assert len({encode("x", encoding)[:8] for encoding in FORMS}) == len(FORMS)


def test_one_way_encodings_stay_as_they_are() -> None:
    """Another text is another key: objects would be lost to whoever has the old one."""
    assert encode("x", Encoding.HEX_32) == "4dbf0f1654bbb5f56e5bed26e0d45d2c9e89cd3e8e7ffd6e3527a5dd7421e8a0"
    assert encode("x", Encoding.UUID) == "acdb0578-01f0-4cfc-b0a7-4b0120eeb544"


@pytest.mark.parametrize("encoding", READERS)
@given(secret=SECRETS)
@example(secret=HOSTILE)
@example(secret="")
@example(secret="\\$")
@example(secret="$$")
@example(secret="\\\\${x}")
@example(secret=" leading and trailing ")
def test_the_reader_gets_back_what_was_written(encoding: Encoding, secret: str) -> None:
    assert READERS[encoding](encode(secret, encoding)) == secret


@given(secret=SECRETS)
@example(secret=HOSTILE)
def test_a_password_never_leaks_into_the_rest_of_a_url(secret: str) -> None:
    parts = urlsplit(f"postgresql://role:{encode(secret, Encoding.URL)}@host:5432/database")
    assert (parts.hostname, parts.port, parts.path, parts.query, parts.fragment) == ("host", 5432, "/database", "", "")
    assert unquote(parts.password or "") == secret


@given(secret=SECRETS)
def test_files_that_are_read_line_by_line_stay_ascii_and_one_line(secret: str) -> None:
    for encoding in (Encoding.REDIS, Encoding.PROPERTIES):
        text = encode(secret, encoding)
        assert text.isascii() and text.isprintable()


@pytest.mark.parametrize("encoding", Encoding)
def test_nul_is_refused_because_nothing_could_hold_it(encoding: Encoding) -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode("a\0b", encoding)


def test_what_generated_secrets_are_made_of_stays_readable() -> None:
    assert encode("aZ09", Encoding.PROPERTIES) == encode("aZ09", Encoding.URL) == "aZ09"
    assert encode("aZ09", Encoding.REDIS) == '"aZ09"'
