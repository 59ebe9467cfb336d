"""People and groups as the configuration names them: what may stand there, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from stack.model import PEOPLE, ROLE_GROUPS, Problem, SpecError
from stack.words import did_you_mean, listed, shown

ADMIN_USER = "admin-user"
"""Permanent, an administrator of the apps, made by the program."""

THROW_AWAY = "kit-prove-"
"""What the names of the people begin with that proofs make and remove."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
# What Keycloak takes as well, also once there is a mail server: then it wants plain letters before the @.
MAIL = rf"(?=[^@]{{1,64}}@)[A-Za-z0-9_%+'-]+(?:\.[A-Za-z0-9_%+'-]+)*@{_LABEL}(?:\.{_LABEL})*"

_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{2,62}")  # Keycloak's profile asks for three characters
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# What Keycloak's profile of a user refuses in names, and no control characters.
_PERSON_NAME = re.compile(
    r"[^<>&\"$%!#?\u00a7;*~/\\|^=\[\]{}()\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]{1,255}"
)
_FIELDS = ("username", "email", "firstName", "lastName", "role", "groups", "enabled")


class RealmRole(StrEnum):
    """What a person may do in the stack. Each includes the ones after it."""

    ADMIN = "admin"
    EDITOR = "editor"
    VIEWER = "viewer"


# Groups that the program makes itself: one of each role, and the one that everybody is in.
RESERVED_GROUPS = (*ROLE_GROUPS.values(), PEOPLE)


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who may log in.

    email: in small letters, as Keycloak keeps it. groups: names of the stack's own groups. enabled: may they now.
    """

    username: str
    email: str
    first_name: str
    last_name: str
    role: RealmRole
    groups: tuple[str, ...] = ()
    enabled: bool = True


def person(value: Mapping[str, object]) -> Person:
    """One entry of `people`. SpecError with every problem, each `where` relative to the entry."""
    found: list[Problem] = []

    def problem(field: str, value: object, fix: str) -> None:
        found.append(Problem(where=f".{field}", what=shown(value), fix=fix))

    def text(field: str, pattern: re.Pattern[str], meaning: str) -> str:
        given = value.get(field)
        if given is None:
            found.append(Problem(where=f".{field}", what="is not set", fix=f"every person has a {meaning}"))
        elif not isinstance(given, str):
            problem(field, given, "is no text: put it in quotes")
        elif not pattern.fullmatch(given) or given != given.strip():
            problem(field, given, f"is no {meaning}")
        else:
            return given
        return ""

    for unknown in sorted(set(value) - set(_FIELDS)):
        fix = f"{did_you_mean(unknown, _FIELDS)}A person has: {listed(_FIELDS)}"
        found.append(Problem(where=f".{unknown}", what="is nothing that is known of a person", fix=fix))
    username = text("username", _USERNAME, "user name: three or more of a to z, digits, dots and dashes, such as anna")
    if username == ADMIN_USER or username.startswith((THROW_AWAY, "service-account-")):
        problem("username", username, "is reserved: the program has a user of that name itself. Choose another")
    email = text("email", re.compile(MAIL), "mail address, such as anna@home.example")
    first = text("firstName", _PERSON_NAME, "first name")
    last = text("lastName", _PERSON_NAME, "last name")
    role = value.get("role")
    known = [each.value for each in RealmRole]
    if role is None:
        found.append(Problem(where=".role", what="is not set", fix=f"say what they may do: {listed(known)}"))
    elif role not in known:
        problem("role", role, f"is no role. {did_you_mean(str(role), known)}Roles: {listed(known)}")
    enabled = value.get("enabled", True)
    if not isinstance(enabled, bool):
        problem("enabled", enabled, "is neither true nor false")
    groups = _groups(value.get("groups", []), found)
    if found:
        raise SpecError("a person cannot be read", tuple(found))
    return Person(
        username=username,
        email=email.lower(),
        first_name=first,
        last_name=last,
        role=RealmRole(str(role)),
        groups=groups,
        enabled=enabled is True,
    )


def _groups(value: object, found: list[Problem]) -> tuple[str, ...]:
    if not isinstance(value, list):
        found.append(Problem(where=".groups", what=shown(value), fix="is no list: write [a, b]"))
        return ()
    names: list[str] = []
    for index, name in enumerate(cast("list[object]", value)):
        where = f".groups[{index}]"
        if not isinstance(name, str):
            found.append(Problem(where=where, what=shown(name), fix="is no text: put it in quotes"))
        elif name.lower() in RESERVED_GROUPS:
            fix = "comes with a role and is not given by itself: say role"
            found.append(Problem(where=where, what=shown(name), fix=fix))
        elif name in names:
            found.append(Problem(where=where, what=shown(name), fix="stands there twice: take one out"))
        else:
            names.append(name)
    return tuple(names)


def group(name: str) -> str:
    """One entry of `groups`. ValueError whose text completes the sentence '<name> ...'."""
    if name.lower() in RESERVED_GROUPS:
        raise ValueError("is a group of every stack already: choose another name")
    if not _GROUP.fullmatch(name):
        raise ValueError("is no group's name: letters, digits, dots and dashes, such as research")
    return name


def together(people: Sequence[Person], groups: Sequence[str], admin_email: str) -> Iterator[Problem]:
    """What is wrong only when all of them are seen: names and addresses are given once, groups are known."""
    names: dict[str, int] = {}
    mails = {admin_email.lower(): f"the address of {ADMIN_USER} (adminEmail)"}
    folded: dict[str, str] = {}
    for index, name in enumerate(groups):
        if folded.setdefault(name.lower(), name) != name:
            fix = f"is {folded[name.lower()]} in other letters: choose another name"
            yield Problem(where=f"groups[{index}]", what=shown(name), fix=fix)
    for index, one in enumerate(people):
        where = f"people[{index}]"
        if one.username in names:
            fix = f"is people[{names[one.username]}] already: each person stands there once"
            yield Problem(where=f"{where}.username", what=shown(one.username), fix=fix)
        names.setdefault(one.username, index)
        if one.username in groups:
            fix = "is a group's name as well, and ./kit people remove could not tell them apart: choose another"
            yield Problem(where=f"{where}.username", what=shown(one.username), fix=fix)
        mail = one.email.lower()
        if mail in mails:
            fix = f"is {mails[mail]} already: a person is known by their address, and has one of their own"
            yield Problem(where=f"{where}.email", what=shown(one.email), fix=fix)
        mails.setdefault(mail, f"the address of people[{index}]")
        for number, name in enumerate(one.groups):
            if name not in groups:
                fix = f"is not in groups. {did_you_mean(name, groups)}Add it there"
                yield Problem(where=f"{where}.groups[{number}]", what=shown(name), fix=fix)


def mapping(value: Any) -> Mapping[str, object] | None:
    """The value as a mapping with text keys; None when it is none."""
    if not isinstance(value, Mapping):
        return None
    items = cast("Mapping[object, object]", value)
    return {str(key): item for key, item in items.items()} if all(isinstance(key, str) for key in items) else None
