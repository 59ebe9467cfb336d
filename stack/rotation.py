"""How secrets are made anew: which generation each one has, by what the operator wrote, and what may be written.

A secret's generation is a number that only grows. What the state keeps of it is named by `resource_name`; the current
generation and the one before are kept, the older ones are gone. docs/adr/0019-rotation.md says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from stack.model import Never, Overlap, Problem, Provided, Reload, Restart, Rotates, Secret, ServiceSpec, Signed
from stack.words import did_you_mean, listed, shown

EVERYTHING = "*"  # in the configuration: every secret that can be rotated

# A variable set by ./kit, which has compared with the state already: for the program that takes another second. It is
# a JSON object of the numbers in the state, "owner/name" -> list.
CHECKED = "AIKIT_GENERATIONS_CHECKED"

DATABASE_PREFIX = "db:"
CLIENT = "oidc"

# The stack's own certificates, as if a service had them. The two of the authority are meant by their own names alone:
# people must do something before and after, and nothing that is said of many secrets at once may ask it of them.
TLS = "tls"
CA = "ca"
OLDEST = "oldest-ca"
LEAF = "leaf"
SIGNS = f"{TLS}/{CA}"
_APART = frozenset({SIGNS, f"{TLS}/{OLDEST}"})

UNDECIDED = Never("its service's file does not say how it is rotated")
SIGNED = "it is signed with {key}, and is made anew with that one"
PROVIDED = "the operator provides it: set another one with pulumi config set --secret {key}, then up"
ONE_LOGIN = Never("whoever keeps the databases of this stack cannot take two passwords")
LOGINS = Restart("new logins fail until the service is back; whoever is logged in stays so")


@dataclass(frozen=True)
class Wish:
    """What the operator wrote of a secret, or of several: the generation it has, and after how many days it is due."""

    number: int = 1
    days: int | None = None


def previous(generation: int) -> int:
    """The generation before; 0 is none."""
    return generation - 1


def kept(generation: int, held: Collection[int] = ()) -> tuple[int, ...]:
    """Which generations the state holds, the current one first; held: those that it has before. The first one stays."""
    return tuple(dict.fromkeys(number for number in (generation, before_of(generation, held), 1) if number > 0))


def before_of(generation: int, held: Collection[int] = ()) -> int:
    """The generation that was in use before; 0 is none. After a jump of numbers not the one below: nobody had that."""
    return max((number for number in held if number < generation), default=previous(generation))


def resource_name(owner: str, name: str, generation: int = 1) -> str:
    """What a generation of a secret is called in the state."""
    first = f"{owner}-{name.replace(':', '-')}"
    return first if generation == 1 else f"{first}-g{generation}"


def login_name(role: str, generation: int) -> str:
    """As whom to log in with a generation of a database role's password. No role has a dot of its own."""
    return role if generation == 1 else f"{role}.{generation}"


def how(secret: Secret, provided: Collection[str] = ()) -> Rotates:
    """How a declared secret is rotated. provided: config keys of secrets that the operator set."""
    source = secret.source
    if isinstance(source, Signed):
        return Never(SIGNED.format(key=source.key))
    if isinstance(source, Provided):
        return Never(PROVIDED.format(key=source.config_key))
    if source.config_key in provided:
        return Never(PROVIDED.format(key=source.config_key))
    return secret.rotates or UNDECIDED


def covers(name: str, owner: str, secret: str, keeper: str) -> bool:
    """Whether a name of the configuration means a secret: by its own name, its owner's, or who checks it."""
    if f"{owner}/{secret}" in _APART:
        return name == f"{owner}/{secret}"
    return name in (EVERYTHING, f"{owner}/{secret}", owner, keeper)


def wish(wishes: Mapping[str, Wish], owner: str, secret: str, keeper: str) -> Wish:
    """What all names that mean a secret say together: the highest number and the shortest time."""
    found = [each for name, each in wishes.items() if covers(name, owner, secret, keeper)]
    days = [each.days for each in found if each.days is not None]
    return Wish(number=max([1, *(each.number for each in found)]), days=min(days, default=None))


# ------------------------------------------------------------------------------------------------- how it is written


_NAME = r"\*|[a-z][a-z0-9-]*(/[a-z][a-z0-9-]*(:[a-z0-9-]+)?)?"
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_AGE = re.compile(r"([1-9][0-9]{0,3})([dw])")
_DAYS = {"d": 1, "w": 7}
LONGEST_DAYS = 3650

FORM = "is not NAME=NUMBER, NAME=AGE or NAME=NUMBER AGE, such as redis/password=2, n8n=90d or n8n=3 12w"


def parse(text: str) -> tuple[str, Wish]:
    """redis/password=2 90d -> the name and what is wished. ValueError completes the sentence '<text> ...'."""
    name, equals, said = text.partition("=")
    words = said.split()
    if not equals or not re.fullmatch(_NAME, name.strip()) or not 1 <= len(words) <= 2:
        raise ValueError(FORM)
    number, days = 1, None
    if _NUMBER.fullmatch(words[0]):
        number = int(words.pop(0))
    if words:
        found = _AGE.fullmatch(words[0])
        if not found or len(words) > 1:
            raise ValueError(f"{FORM}. Numbers begin at 1, ages are whole days (d) or weeks (w)")
        days = int(found[1]) * _DAYS[found[2]]
        if days > LONGEST_DAYS:
            raise ValueError(f"is an age of {days} days: {LONGEST_DAYS} at most")
    return name.strip(), Wish(number, days)


def written(name: str, wished: Wish) -> str:
    """What `parse` reads."""
    number = [] if wished.number == 1 and wished.days is not None else [str(wished.number)]
    age = [] if wished.days is None else [f"{wished.days}d"]
    return f"{name}={' '.join([*number, *age])}"


# -------------------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True)
class Candidate:
    """A secret as the checks see it."""

    owner: str
    name: str
    keeper: str
    rotates: Rotates

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


def candidates(
    specs: Iterable[ServiceSpec],
    provided: Collection[str],
    database: ServiceSpec | None,
    identity: ServiceSpec | None,
) -> Iterator[Candidate]:
    """Every secret of these services, those of database roles and OIDC clients included."""
    for spec in specs:
        for secret in spec.secrets:
            yield Candidate(spec.name, secret.name, spec.name, how(secret, provided))
        for item in spec.databases:
            keeper = database.name if database else spec.name
            yield Candidate(spec.name, f"{DATABASE_PREFIX}{item.name}", keeper, for_database(database))
        if spec.oidc:
            yield Candidate(spec.name, CLIENT, identity.name if identity else spec.name, LOGINS)


def certificates() -> tuple[Candidate, ...]:
    """The stack's own certificates."""
    return (
        Candidate(
            TLS,
            CA,
            TLS,
            Restart(
                "what asks the front door from inside starts again; browsers trust the old one and the new one until "
                f"{TLS}/{OLDEST} is rotated: import the new ca.pem before that"
            ),
        ),
        Candidate(
            TLS,
            OLDEST,
            TLS,
            Restart("what asks the front door from inside starts again; who did not import the new ca.pem is shut out"),
        ),
        Candidate(TLS, LEAF, TLS, Reload()),
    )


def numbers(text: str) -> dict[str, tuple[int, ...]]:
    """What CHECKED says, {} where it says nothing."""
    found: object = json.loads(text)
    if not isinstance(found, dict):
        return {}
    return {str(name): tuple(held) for name, held in cast("dict[str, list[int]]", found).items()}


def certificate_name(name: str, generation: int) -> str:
    """What a generation of the CA or of its leaf is called in the state."""
    return name if generation == 1 else f"{name}-g{generation}"


def authorities(wishes: Mapping[str, Wish]) -> tuple[int, int]:
    """The CA that signs, and the oldest one that is trusted: the same, or the one before."""
    return tuple(wish(wishes, TLS, name, TLS).number for name in (CA, OLDEST))  # pyright: ignore[reportReturnType]


def for_database(keeper: ServiceSpec | None) -> Rotates:
    """How the password of a database's role is rotated."""
    provider = keeper.database_provider if keeper else None
    if provider is None or provider.retire is None:
        return ONE_LOGIN
    return Overlap(accept=provider.job.name, retire=provider.retire.name)


def wrong(wishes: Mapping[str, Wish], known: Collection[Candidate]) -> Iterator[Problem]:
    """Names that mean nothing, and what is never rotated."""
    names = {str(each) for each in known} | {each.owner for each in known} | {each.keeper for each in known}
    for index, (name, wished) in enumerate(wishes.items()):
        where = f"rotation[{index}]"
        meant = [each for each in known if covers(name, each.owner, each.name, each.keeper)]
        if name != EVERYTHING and not meant:
            fix = f"is no secret of this stack. {did_you_mean(name, names)}./kit rotate --list shows them. The line of "
            fix += "something that was turned off can go"
            yield Problem(where=where, what=shown(name), fix=fix)
            continue
        refused = [each for each in meant if isinstance(each.rotates, Never)]
        if meant and len(refused) == len(meant) and (wished.number > 1 or wished.days is not None):
            reasons = listed({each.rotates.reason for each in refused if isinstance(each.rotates, Never)})
            yield Problem(where=where, what=f"{shown(name)} is not rotated by a number", fix=reasons)


def overlapping(wishes: Mapping[str, Wish]) -> Iterator[Problem]:
    """Two CAs are trusted at most: the one that signs, and the one before."""
    signs, oldest = authorities(wishes)
    if oldest > signs:
        yield Problem(
            where="rotation",
            what=f"{TLS}/{OLDEST}={oldest} is newer than the CA that signs, {TLS}/{CA}={signs}",
            fix=f"raise {TLS}/{CA} first; end the trust in the older one when all have imported the new ca.pem",
        )
    elif signs - oldest > 1:
        yield Problem(
            where="rotation",
            what=f"{TLS}/{CA}={signs} would be the third CA: {TLS}/{OLDEST} is still {oldest}",
            fix=f"end the trust in the older one first: {TLS}/{OLDEST}={signs - 1}, up, and then {TLS}/{CA}={signs}",
        )


def too_early(recorded: Mapping[str, int], now: Mapping[str, int]) -> Iterator[Problem]:
    """Whoever trusts the CA that the state has would be shut out at once."""
    has, oldest = recorded.get(f"{TLS}/{CA}", 0), now.get(f"{TLS}/{OLDEST}", 1)
    if 0 < has < oldest:
        yield Problem(
            where="rotation",
            what=f"{TLS}/{OLDEST}={oldest}, and the CA that everybody trusts now is {has}",
            fix=f"write {TLS}/{CA}={has + 1} and {TLS}/{OLDEST}={has}, up, import the new ca.pem; then end the old one",
        )


def lost(recorded: Mapping[str, int], now: Collection[str]) -> Iterator[Problem]:
    """Secrets that the state has and that this configuration would take out of it."""
    for name, number in sorted(recorded.items()):
        if name not in now:
            owner = name.partition("/")[0]
            yield Problem(
                where="services",
                what=f"{name} is in use in its generation {number}, and nothing here declares it any more",
                fix=f"its data would be shut for good: keep it with retired: [{owner}] (./kit up does so by itself)",
            )


def backwards(recorded: Mapping[str, int], now: Mapping[str, int]) -> tuple[Problem, ...]:
    """Numbers that are lower than what the state has. Names as owner/secret."""
    return tuple(
        Problem(
            where="rotation",
            what=f"{name} would go back from {before} to {now[name]}",
            fix=f"the older one is gone, and may be known to others: write {name}={before} or more",
        )
        for name, before in sorted(recorded.items())
        if name in now and now[name] < before
    )


def meaning(rotates: Rotates) -> str:
    """What a rotation means, for people."""
    match rotates:
        case Overlap():
            return "no gap"
        case Reload():
            return "no gap"
        case Restart(notice):
            return f"restart: {notice}"
        case Never(reason):
            return f"refused: {reason}"
