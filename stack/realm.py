"""What the operator may say about the realm beyond numbers: who needs a second factor, who else logs people in, who
sends its mail. Text as it stands in the configuration in, frozen values out; ValueError completes '<value> ...'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from stack.model import PEOPLE, ROLE_GROUPS
from stack.words import did_you_mean, listed

BROWSER_FLOW = "kit-browser"  # by which people log in; components/flows.py makes it
ADMIN_GROUP = ROLE_GROUPS["admin"]
EVERYBODY_GROUP = PEOPLE

# The languages that Keycloak's own pages are in, as a Keycloak 26.5 lists them.
LANGUAGES = frozenset(
    {
        "ar",
        "az",
        "ca",
        "cs",
        "da",
        "de",
        "el",
        "en",
        "es",
        "eu",
        "fa",
        "fi",
        "fr",
        "hr",
        "hu",
        "it",
        "ja",
        "kk",
        "ko",
        "ky",
        "lt",
        "lv",
        "nl",
        "no",
        "pl",
        "pt",
        "pt-BR",
        "ro",
        "ru",
        "sk",
        "sl",
        "sv",
        "th",
        "tr",
        "uk",
        "zh-CN",
        "zh-TW",
    }
)


class SecondFactor(StrEnum):
    """Who must log in with a second factor. Everybody may."""

    ADMINS = "admins"
    EVERYONE = "everyone"
    OPTIONAL = "optional"


class LoginTheme(StrEnum):
    """What the login's pages look like: as the stack's own, or as the login server makes them."""

    KIT = "kit"
    PLAIN = "plain"


class ProviderKind(StrEnum):
    """Who else may log people in. The kind is the provider's alias as well: redirect URIs are made of it."""

    GOOGLE = "google"
    GITHUB = "github"
    OIDC = "oidc"


@dataclass(frozen=True, kw_only=True)
class ExternalProvider:
    """A provider that people may log in through. endpoints, name: of kind oidc alone."""

    kind: ProviderKind
    client_id: str
    endpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    name: str = ""

    @property
    def secret_key(self) -> str:
        """The config key of its client secret."""
        return f"{self.kind}ClientSecret"


@dataclass(frozen=True, kw_only=True)
class MailServer:
    """Who sends mail for the realm. tls: starttls, tls or none. user "": no login there, and no password."""

    host: str
    port: int
    tls: str
    user: str = ""


MAIL_PASSWORD_KEY = "mailPassword"  # noqa: S105

_URL = re.compile(r"https://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/%+-]*)?")
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,255}")
# As we write them, and as the provider's own description calls them.
_NEEDED = {"issuer": "issuer", "authorize": "authorization_endpoint", "token": "token_endpoint", "keys": "jwks_uri"}
_MORE = ("userinfo", "logout", "name")
_MAIL = re.compile(r"(starttls|tls|none)://(?:([^\s/:]+)@)?([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):(\d{1,5})")


def parse_provider(value: str) -> tuple[str, ExternalProvider]:
    """google = CLIENT_ID, or oidc = CLIENT_ID issuer=URL authorize=URL token=URL keys=URL [userinfo= logout= name=]."""
    said, equals, rest = (part.strip() for part in value.partition("="))
    if not equals:
        raise ValueError("is not KIND = CLIENT_ID, such as google = 1234.apps.googleusercontent.com")
    kinds = [kind.value for kind in ProviderKind]
    if said not in kinds:
        raise ValueError(f"is of no kind of provider that there is. {did_you_mean(said, kinds)}Kinds: {listed(kinds)}")
    kind = ProviderKind(said)
    client_id, *words = rest.split() or [""]
    if not _CLIENT_ID.fullmatch(client_id) or client_id.partition("=")[0] in (*_NEEDED, *_MORE):
        raise ValueError(f"says no client ID: {kind} = CLIENT_ID, as the provider gave it to you")
    if kind is not ProviderKind.OIDC:
        if words:
            raise ValueError(f"says more than the client ID: the addresses of {kind} are known")
        return kind, ExternalProvider(kind=kind, client_id=client_id)
    said_of = dict(_word(word) for word in words)
    if missing := [f"{name}= ({_NEEDED[name]})" for name in _NEEDED if name not in said_of]:
        raise ValueError(f"lacks {', '.join(missing)}: its .well-known/openid-configuration has them")
    name = said_of.pop("name", "").replace("_", " ")
    return kind, ExternalProvider(
        kind=kind, client_id=client_id, endpoints=MappingProxyType(said_of), name=name or "Single sign-on"
    )


def _word(word: str) -> tuple[str, str]:
    name, equals, said = word.partition("=")
    if not equals or name not in (*_NEEDED, *_MORE):
        raise ValueError(
            f"has {word!r}, which is none of {listed((*_NEEDED, *_MORE))}. {did_you_mean(name, _NEEDED)}".strip()
        )
    if name != "name" and not _URL.fullmatch(said):
        raise ValueError(f"has {name}={said}, which is no HTTPS address: passwords' worth goes over that line")
    if name == "name" and not re.fullmatch(r"[\w-]{1,40}", said):
        raise ValueError(f"has {word!r}: a name is letters, digits, - and _, which is shown as a space")
    return name, said


def parse_mail(value: str) -> MailServer:
    """starttls://user@mail.example.org:587"""
    found = _MAIL.fullmatch(value)
    if not found or not 0 < int(found[5]) < 65536:
        raise ValueError(
            "is no mail server: TLS://[USER@]HOST:PORT, where TLS is starttls, tls or none, such as"
            " starttls://me@mail.example.org:587. An @ in the user's name is fine; the password is a secret of its own:"
            f" pulumi config set --secret {MAIL_PASSWORD_KEY}"
        )
    return MailServer(host=found[3], port=int(found[5]), tls=found[1], user=found[2] or "")
