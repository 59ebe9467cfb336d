"""The kinds of credentials that the store of workflows keeps, and what people type -> what the store is given.

Pure. The store itself (encryption, versions, audit log, whether a value is good) is a program of the service that runs
workflows; the fields are those of n8n's credential types, so that what is stored is what n8n is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from stack.automation import render
from stack.model import Problem, SpecError
from stack.settings import Settings
from stack.words import did_you_mean, listed, shown

LONGEST = 16_384  # characters of a value: more than any token, less than a mistaken file


@dataclass(frozen=True, kw_only=True)
class Input:
    """One secret that a person gives. field: its place in the data, with dots. also: its names in files of the issuer.

    pattern: what every one looks like, as a regular expression, where that is known.
    """

    name: str
    meaning: str
    field: str
    also: tuple[str, ...] = ()
    pattern: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredKind:
    """type: n8n's name of it. data: what n8n needs beside the secrets; a template of the stack may say otherwise."""

    name: str
    type: str
    inputs: tuple[Input, ...]
    data: Mapping[str, Any]


_TOKEN_DATA = {"token_type": "Bearer", "access_token": "expired"}

KINDS: Mapping[str, StoredKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            StoredKind(
                name="telegram",
                type="telegramApi",
                inputs=(
                    Input(
                        name="token",
                        meaning="the bot's token, of @BotFather in Telegram",
                        field="accessToken",
                        pattern=r"[0-9]+:[A-Za-z0-9_-]+",
                    ),
                ),
                data={"baseUrl": "https://api.telegram.org"},
            ),
            StoredKind(
                name="gmail-oauth",
                type="oAuth2Api",
                inputs=(
                    Input(name="clientId", meaning="the OAuth client's id", field="clientId", also=("client_id",)),
                    Input(
                        name="clientSecret",
                        meaning="the same client's secret",
                        field="clientSecret",
                        also=("client_secret",),
                    ),
                    Input(
                        name="refreshToken",
                        meaning="the mailbox's refresh token (docs/workflows.md)",
                        field="oauthTokenData.refresh_token",
                        also=("refresh_token",),
                    ),
                ),
                data={
                    "grantType": "authorizationCode",
                    "accessTokenUrl": "https://oauth2.googleapis.com/token",
                    "authUrl": "https://accounts.google.com/o/oauth2/v2/auth",
                    "scope": "https://www.googleapis.com/auth/gmail.modify",
                    "authQueryParameters": "access_type=offline",
                    "authentication": "body",
                    "oauthTokenData": _TOKEN_DATA,
                },
            ),
            StoredKind(
                name="generic", type="", inputs=(Input(name="value", meaning="the secret", field="value"),), data={}
            ),
        )
    }
)
HEADER_TYPE = "httpHeaderAuth"  # what n8n calls a generic one with the name of a header

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


def name_problem(name: str) -> str:
    """What is wrong with a name, "" when nothing is. n8n takes 3 to 128 characters."""
    if not 3 <= len(name) <= 100:
        return "has fewer than 3 or more than 100 characters"
    if not name.isprintable() or name != name.strip():
        return "has a blank at an end, or a character that does not print"
    if name.startswith("-"):
        return "begins with a dash"
    return ""


def kind_named(name: str) -> StoredKind:
    """The kind. SpecError when there is none."""
    if name not in KINDS:
        fix = f"{did_you_mean(name, KINDS)}Kinds: {listed(KINDS)}"
        raise _wrong("--kind", f"{shown(name)} is no kind of credential", fix)
    return KINDS[name]


def parsed(kind: StoredKind, text: str) -> Mapping[str, str]:
    """What came on standard input, by names of inputs: one value as it is, several as a JSON object.

    Of one value the line's end is not part. SpecError when it is something else.
    """
    if len(text) > 4 * LONGEST:
        raise _wrong("standard input", "is longer than any credential", "is it the right file?")
    if len(kind.inputs) == 1:
        return {kind.inputs[0].name: text.removesuffix("\n").removesuffix("\r")}
    names = [item.name for item in kind.inputs]
    example = "{" + ", ".join(f'"{name}": "..."' for name in names) + "}"
    said = _object(text)
    if said is not None and len(said) == 1 and {"web", "installed"} & said.keys():  # a file of Google's console
        said = _object(json.dumps(next(iter(said.values()))))
    if said is None:
        raise _wrong("standard input", f"is no JSON object, and a {kind.name} has several values", example)
    found: dict[str, str] = {}
    for item in kind.inputs:
        for name in (item.name, *item.also):
            value = said.get(name)
            if isinstance(value, str):
                found.setdefault(item.name, value)
    if not found:
        raise _wrong("standard input", f"has none of {', '.join(names)}", example)
    return found


def _object(text: str) -> dict[str, Any] | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def problems(kind: StoredKind, said: Mapping[str, str], *, all_of_them: bool) -> list[Problem]:
    """What is wrong with the values. No message has any part of one. all_of_them: none may be missing."""
    found: list[Problem] = []
    for item in kind.inputs:
        value = said.get(item.name, "")
        if not value:
            if all_of_them or len(kind.inputs) == 1:
                found.append(Problem(where=item.name, what="is empty", fix=f"it is {item.meaning}"))
        elif len(value) > LONGEST:
            what = f"has {len(value):,} characters, {LONGEST:,} at most"
            found.append(Problem(where=item.name, what=what, fix="is it the right file?"))
        elif item.pattern and not re.fullmatch(item.pattern, value):
            what = f"does not look like one ({len(value)} characters)"
            found.append(Problem(where=item.name, what=what, fix=f"it is {item.meaning}, without anything around it"))
        elif any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            found.append(Problem(where=item.name, what="is no text in UTF-8", fix="encode it, as base64 perhaps"))
    if not found and not any(said.values()):
        names = listed(item.name for item in kind.inputs)
        found.append(Problem(where=kind.name, what="nothing new was said", fix=f"at least one of {names}"))
    return found


def secrets(kind: StoredKind, said: Mapping[str, str]) -> dict[str, Any]:
    """The values in their places; those that were not said are left out."""
    data: dict[str, Any] = {}
    for item in kind.inputs:
        if value := said.get(item.name):
            *parents, last = item.field.split(".")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
    return data


def patch(kind: StoredKind, said: Mapping[str, str]) -> dict[str, Any]:
    """What a rotation changes. n8n asks for an access token with the new values at once."""
    changed = secrets(kind, said)
    if kind.name == "gmail-oauth":
        changed["oauthTokenData"] = {**_TOKEN_DATA, **changed.get("oauthTokenData", {})}
    return changed


def data(kind: StoredKind, name: str, said: Mapping[str, str], settings: Settings, header: str = "") -> dict[str, Any]:
    """All that a new credential is. Where the stack's templates have one of that name, its addresses are theirs."""
    result = merged(kind.data, _addresses(kind, name, settings))
    if header:
        if kind.name != "generic":
            raise _wrong("--header", f"a {kind.name} is not sent in a header", "leave it out, or take --kind generic")
        if not _HEADER.fullmatch(header):
            raise _wrong("--header", f"{shown(header)} is no name of a header", "letters, digits and dashes")
        result["name"] = header
    return merged(result, secrets(kind, said))


def _addresses(kind: StoredKind, name: str, settings: Settings) -> Mapping[str, Any]:
    """What the configuration says of a template's credential of this name and kind, its secrets left out."""
    for sketch in render.bundle(settings).document["credentials"]:
        if sketch["name"] == name and sketch["type"] == kind.type:
            return {key: value for key, value in sketch["data"].items() if isinstance(value, str)}
    # Another name: the addresses of its kind all the same, which are where the stack's templates go.
    for sketch in render.bundle(settings).document["credentials"]:
        if sketch["type"] == kind.type:
            return {key: value for key, value in sketch["data"].items() if isinstance(value, str)}
    return {}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` laid over `old`, mapping by mapping."""
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        result[key] = merged(cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", value)) if both else value
    return result


def _wrong(where: str, what: str, fix: str) -> SpecError:
    return SpecError("the credential cannot be stored", (Problem(where=where, what=what, fix=fix),))
