"""The only reader of the stack's configuration: raw values in, a frozen Settings or every problem at once out.

Values come from the engine (`from_pulumi`: all strings) or from the files (`from_files`: YAML, no engine needed);
`load` is the one place that knows what they mean. Pulumi.yaml says the same to Pulumi; a test holds the two together.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
import zoneinfo
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from stack import lock
from stack import people as persons
from stack.certificates import LETS_ENCRYPT
from stack.model import (
    EVERY_PAGE_SIZE,
    CertificateSource,
    Challenge,
    ImageLock,
    ImageSource,
    Problem,
    RateClass,
    SpecError,
    Target,
)
from stack.realm import (
    LANGUAGES,
    ExternalProvider,
    LoginTheme,
    MailServer,
    SecondFactor,
    parse_mail,
    parse_provider,
)
from stack.rotation import Wish
from stack.rotation import parse as parse_rotation
from stack.words import did_you_mean, listed, shown

if TYPE_CHECKING:
    import pulumi

PROJECT = "ai-kit"
FRONT_PORT = 10443  # where the published port for HTTPS arrives inside the front door


class WafMode(StrEnum):
    """What becomes of a request that looks like an attack. Not on and off: to YAML these are true and false."""

    BLOCK = "block"  # 403
    DETECT = "detect"  # it is logged, and goes on
    NONE = "none"  # nobody looks: no firewall is started


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator decided. One field per config key of Pulumi.yaml (camelCase there), plus the stack's name.

    Sizes are MB unless the name says GB; None means: as the target's profile says.
    """

    stack: str
    target: Target
    domain: str = "kit.localhost"
    bind_address: str = "127.0.0.1"
    http_port: int = 8080
    https_port: int = 8443
    admin_port: int = 8444
    certificates: CertificateSource = CertificateSource.OWN_CA
    certificate_chain: str = ""
    certificate_key: str = ""
    certificate_roots: str = ""
    acme_directory: str = LETS_ENCRYPT
    acme_challenge: Challenge = Challenge.HTTP_01
    acme_dns: str = ""
    acme_dns_wait: int | None = None
    paths: Mapping[str, str] = field(default_factory=dict[str, str])
    rate_classes: Mapping[str, RateClass] = field(default_factory=dict[str, RateClass])
    sticky: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ("chat",)
    services: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    waf: WafMode = WafMode.BLOCK
    waf_paranoia: int = 1
    models: tuple[str, ...] = ()
    embedding_model: str = ""
    model_aliases: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    ollama_backends: tuple[str, ...] = ()
    chat_language: str = "en"
    chat_page_settings: bool = False
    vector_store: str = "pgvector"
    electricity_cents: int | None = None
    power_watts: int | None = None
    n8n_workers: int | None = None
    workflows: tuple[str, ...] = ()
    workflow_parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    timezone: str = "UTC"
    docker_host: str | None = None
    memory_mb: int | None = None
    reserve_mb: int | None = None
    monitoring_mb: int | None = None
    cpus: float | None = None
    disk_gb: int | None = None
    model_memory_mb: int | None = None
    gpu_memory_mb: int | None = None
    page_size: int | None = None
    emulate: bool = False
    images: ImageSource = ImageSource.REGISTRY
    airgap_images: Mapping[str, str] = field(default_factory=dict[str, str])
    image_locks: Mapping[str, ImageLock] = field(default_factory=dict[str, ImageLock])
    built_locks: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    rotation: Mapping[str, Wish] = field(default_factory=dict[str, Wish])
    realm: str = "kit"
    admin_email: str = "admin@kit.localhost"
    second_factor: SecondFactor = SecondFactor.ADMINS
    password_length: int = 12
    login_failures: int = 10
    session_idle_minutes: int = 600
    session_max_minutes: int = 1440
    token_minutes: int = 5
    event_days: int = 30
    login_language: str = "en"
    login_title: str = "ai-kit"
    login_theme: LoginTheme = LoginTheme.KIT
    identity_providers: Mapping[str, ExternalProvider] = field(default_factory=dict[str, ExternalProvider])
    mail_server: MailServer | None = None
    mail_from: str = ""
    people: tuple[persons.Person, ...] = ()
    groups: tuple[str, ...] = ()
    api_requests_per_minute: int = 60
    api_webhook: str = ""
    openai_url: str = "https://api.openai.com/v1"
    openai_models: tuple[str, ...] = ("gpt-4o-mini",)
    supabase_sites: tuple[str, ...] = ()
    down: bool = False
    adopt: bool = False
    provided_secrets: frozenset[str] = frozenset()


# No dash: kit-dev-x-y must be service x-y of stack dev, and nothing of a stack dev-x.
STACK_NAME = r"[a-z][a-z0-9]{0,30}"


def stack_file(stack: str) -> str:
    """The name of a stack's configuration file."""
    return f"Pulumi.{stack}.yaml"


# --------------------------------------------------------------------------------------- what each key may be


class Kind(StrEnum):
    """The types Pulumi knows for configuration."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    ARRAY = "array"
    OBJECT = "object"  # of a list's items


class UnfitError(ValueError):
    """A value is not what its key takes; the text completes the sentence '<value> ...'."""


Check = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Key:
    """A configuration key. `check` turns a value (an item, of an array) into what Settings holds, or raises UnfitError.

    `unset` is what stands in Pulumi.yaml for "nothing said": Pulumi requires every declared key that has no default.
    """

    field: str
    kind: Kind
    check: Check
    unset: object = None
    items: Kind = Kind.STRING

    @property
    def name(self) -> str:
        """The key as it is written: camelCase."""
        first, *rest = self.field.split("_")
        return first + "".join(word.capitalize() for word in rest)


@dataclass(frozen=True)
class RetiredKey:
    """A key of an earlier version: what to write instead, and why it went."""

    replacement: str
    reason: str


def _matching(pattern: str, meaning: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise UnfitError(f"is no {meaning}")
        return value

    return check


def _between(low: int, high: int, unit: str) -> Check:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise UnfitError(f"is out of range: {unit}, {low:,} to {high:,}")
        return value

    return check


def _one_of(kind: type[StrEnum], noun: str) -> Check:
    def check(value: str) -> StrEnum:
        try:
            return kind(value)
        except ValueError:
            known = [member.value for member in kind]
            raise UnfitError(
                f"is no {noun}. {did_you_mean(value, known)}{noun.capitalize()}s: {listed(known)}"
            ) from None

    return check


def _domain(value: str) -> str:
    labels = value.split(".")
    fits = len(value) <= 200 and all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in labels)
    if not fits or labels[-1].isdigit():
        raise UnfitError("is no domain: lower-case letters, digits and dashes between dots, such as home.example")
    return value


def _address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise UnfitError("is no IP address, such as 127.0.0.1, 0.0.0.0 (everywhere) or the host's own") from None
    return value


def _file(value: str) -> str:
    """A path by itself: what lies there is looked at when it is needed (stack/certificates.py)."""
    if not re.fullmatch(r"/[^\x00-\x1f]+", value):
        raise UnfitError("is no whole path: begin with /, such as /etc/ssl/private/home.key")
    return value


def _timezone(value: str) -> str:
    # This machine may know fewer zones than the images, or none: then the form has to do.
    known = zoneinfo.available_timezones()
    if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", value) or (known and value not in known):
        raise UnfitError(f"is no time zone, such as Europe/Berlin or UTC. {did_you_mean(value, known)}".rstrip())
    return value


def _docker_host(value: str) -> str:
    if not re.fullmatch(r"unix:///\S+|ssh://([\w.-]+@)?[\w.-]+(:\d{1,5})?", value):
        raise UnfitError("is neither unix:///path nor ssh://user@host: over plain TCP anybody would be root there")
    return value


def _reference(value: str) -> tuple[str, str]:
    name, equals, reference = value.partition("=")
    if not equals or not _IMAGE_NAME.fullmatch(name) or not re.fullmatch(r"\S+", reference):
        raise UnfitError("is not name=reference, such as redis=ai-kit/redis:8.0")
    return name, reference


def _workflow_parameter(value: str) -> tuple[str, str]:
    name, equals, said = value.partition("=")
    if not equals or not re.fullmatch(r"[a-z][a-z0-9-]*\.[a-zA-Z0-9]+", name):
        raise UnfitError("is not template.parameter=value, such as summarise-url.model=llama3.2:1b")
    return name, said


def _language(value: str) -> str:
    if value not in LANGUAGES:
        near = did_you_mean(value, LANGUAGES)
        raise UnfitError(f"is no language of the login's pages. {near}They are in: {listed(sorted(LANGUAGES))}")
    return value


def _path(value: str) -> tuple[str, str]:
    """auth = /keycloak -> the route, and its path."""
    name, equals, path = (part.strip() for part in value.partition("="))
    if not equals or not re.fullmatch(r"[a-z][a-z0-9-]*", name) or not re.fullmatch(r"/[a-z][a-z0-9-]{0,30}", path):
        raise UnfitError("is not ROUTE = /PATH, such as auth = /keycloak: one word of small letters, digits and dashes")
    return name, path


def _rate_class(value: str) -> tuple[str, RateClass]:
    """api = api -> the route, and how often one client may ask it."""
    name, equals, rate = (part.strip() for part in value.partition("="))
    if not equals or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise UnfitError("is not ROUTE = CLASS, such as api = api")
    return name, cast("RateClass", _one_of(RateClass, "rate class")(rate))


def _proxy(value: str) -> str:
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        raise UnfitError("is no address or network, such as 192.168.1.5 or 10.0.0.0/24") from None
    if network.prefixlen == 0:
        raise UnfitError("is everybody: anyone could then say to be anyone")
    return str(network)


_ROUTE = _matching(r"[a-z][a-z0-9-]*", "route, such as chat")
_MAIL = _matching(persons.MAIL, "mail address, such as me@home.example")
# A colon ends the name in the link that authenticator apps read.
_TITLE = _matching(
    r"[^\s<>\":\\\x00-\x1f](?:[^<>\":\\\x00-\x1f]{0,58}[^\s<>\":\\\x00-\x1f])?",
    'title: 1 to 60 characters, none of them < > " : or \\',
)
_IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_SERVICE = _matching(r"[a-z][a-z0-9-]*", "service name: lower-case letters, digits and dashes")
_PROFILE = _matching(r"[a-z][a-z0-9-]*", "profile")
_WORKFLOW = _matching(r"[a-z][a-z0-9-]*", "template's name: lower-case letters, digits and dashes")
_MODEL_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_MODEL = _matching(
    rf"(?=.{{1,200}}\Z){_MODEL_WORD}(/{_MODEL_WORD})*(:{_MODEL_WORD})?", "model name, such as llama3.2:1b"
)
_PORT = _between(1, 65535, "a port")


def _alias(value: str) -> tuple[str, Mapping[str, int]]:
    """assistant = llama3.2:1b 80, qwen2.5:3b 20 -> the name, and each model's share in percent."""
    name, equals, text = (part.strip() for part in value.partition("="))
    pairs = [part.split() for part in text.split(",")]
    wrong = "is not NAME = MODEL SHARE, MODEL SHARE, such as assistant = llama3.2:1b 80, qwen2.5:3b 20"
    if not equals or any(len(pair) != 2 or not re.fullmatch(r"[1-9][0-9]{0,2}", pair[1]) for pair in pairs):
        raise UnfitError(f"{wrong}. Shares are whole percents")
    shares = {_MODEL(model): int(share) for model, share in pairs}
    if len(shares) < 2 or len(shares) != len(pairs):
        raise UnfitError("is no choice: a name needs two models or more, each once")
    if sum(shares.values()) != 100:
        raise UnfitError(f"has shares of {sum(shares.values())} percent together: make it 100")
    return _MODEL(name), MappingProxyType(shares)


def _backend(value: str) -> str:
    """http://HOST:PORT -> HOST:PORT."""
    found = re.fullmatch(r"http://([a-z0-9]([a-z0-9.-]*[a-z0-9])?)(?::([0-9]{1,5}))?/?", value)
    if not found or not 0 < int(found[3] or 11434) < 65536:
        raise UnfitError("is not http://HOST:PORT, such as http://192.168.1.20:11434, with nothing behind it")
    return f"{found[1]}:{int(found[3] or 11434)}"


def _same(value: Any) -> Any:
    return value


def _group(value: str) -> str:
    try:
        return persons.group(value)
    except ValueError as unfit:
        raise UnfitError(str(unfit)) from None


def _page_size(value: int) -> int:
    if value not in EVERY_PAGE_SIZE:
        raise UnfitError(f"is no page size: {' or '.join(map(str, sorted(EVERY_PAGE_SIZE)))} (getconf PAGESIZE)")
    return value


def _parsed(parse: Callable[[str], Any]) -> Check:
    def check(value: str) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise UnfitError(str(error)) from None

    return check


KEYS: Mapping[str, Key] = MappingProxyType(
    {
        key.name: key
        for key in (
            Key(field="target", kind=Kind.STRING, check=_one_of(Target, "target")),
            Key(field="domain", kind=Kind.STRING, check=_domain),
            Key(field="bind_address", kind=Kind.STRING, check=_address),
            Key(field="http_port", kind=Kind.INTEGER, check=_PORT),
            Key(field="https_port", kind=Kind.INTEGER, check=_PORT),
            Key(field="admin_port", kind=Kind.INTEGER, check=_PORT),
            Key(field="certificates", kind=Kind.STRING, check=_one_of(CertificateSource, "source of certificates")),
            Key(field="certificate_chain", kind=Kind.STRING, check=_file, unset=""),
            Key(field="certificate_key", kind=Kind.STRING, check=_file, unset=""),
            Key(field="certificate_roots", kind=Kind.STRING, check=_file, unset=""),
            Key(
                field="acme_directory",
                kind=Kind.STRING,
                check=_matching(
                    r"https://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?", f"HTTPS URL, such as {LETS_ENCRYPT}"
                ),
            ),
            Key(field="acme_challenge", kind=Kind.STRING, check=_one_of(Challenge, "challenge")),
            Key(
                field="acme_dns",
                kind=Kind.STRING,
                # Which there are, and what each wants to know: https://go-acme.github.io/lego/dns/
                check=_matching(r"[a-z][a-z0-9-]{0,30}", "DNS provider of lego, such as cloudflare"),
                unset="",
            ),
            Key(field="acme_dns_wait", kind=Kind.INTEGER, check=_between(1, 3600, "seconds"), unset=0),
            Key(field="paths", kind=Kind.ARRAY, check=_path),
            Key(field="rate_classes", kind=Kind.ARRAY, check=_rate_class),
            Key(field="sticky", kind=Kind.ARRAY, check=_ROUTE),
            Key(field="trusted_proxies", kind=Kind.ARRAY, check=_proxy),
            Key(field="profiles", kind=Kind.ARRAY, check=_PROFILE),
            Key(field="services", kind=Kind.ARRAY, check=_SERVICE),
            Key(field="without", kind=Kind.ARRAY, check=_SERVICE),
            Key(field="retired", kind=Kind.ARRAY, check=_SERVICE),
            Key(field="waf", kind=Kind.STRING, check=_one_of(WafMode, "mode")),
            Key(field="waf_paranoia", kind=Kind.INTEGER, check=_between(1, 4, "a paranoia level")),
            Key(field="models", kind=Kind.ARRAY, check=_MODEL),
            Key(field="embedding_model", kind=Kind.STRING, check=_MODEL, unset=""),
            Key(field="model_aliases", kind=Kind.ARRAY, check=_alias),
            Key(field="ollama_backends", kind=Kind.ARRAY, check=_backend),
            Key(
                field="chat_language",
                kind=Kind.STRING,
                check=_matching(r"[a-z]{2,3}(-[A-Z]{2}|-[A-Z][a-z]{3})?", "language, such as en, de or pt-BR"),
            ),
            Key(field="chat_page_settings", kind=Kind.BOOLEAN, check=_same),
            Key(
                field="vector_store",
                kind=Kind.STRING,
                # Which there are says the file of the service that keeps something there.
                check=_matching(r"[a-z][a-z0-9-]*", "store of vectors, such as pgvector"),
            ),
            Key(field="electricity_cents", kind=Kind.INTEGER, check=_between(1, 10_000, "hundredths"), unset=0),
            Key(field="power_watts", kind=Kind.INTEGER, check=_between(1, 100_000, "watts"), unset=0),
            Key(field="n8n_workers", kind=Kind.INTEGER, check=_between(1, 32, "workers"), unset=0),
            Key(field="workflows", kind=Kind.ARRAY, check=_WORKFLOW),
            Key(field="workflow_parameters", kind=Kind.ARRAY, check=_workflow_parameter),
            Key(field="timezone", kind=Kind.STRING, check=_timezone),
            Key(field="docker_host", kind=Kind.STRING, check=_docker_host, unset=""),
            Key(field="memory_mb", kind=Kind.INTEGER, check=_between(512, 16_777_216, "MB"), unset=0),
            Key(field="reserve_mb", kind=Kind.INTEGER, check=_between(1, 16_777_216, "MB"), unset=0),
            Key(field="monitoring_mb", kind=Kind.INTEGER, check=_between(1, 16_777_216, "MB"), unset=0),
            Key(field="cpus", kind=Kind.INTEGER, check=_between(1, 4096, "CPUs"), unset=0),
            Key(field="disk_gb", kind=Kind.INTEGER, check=_between(1, 1_048_576, "GB"), unset=0),
            Key(field="model_memory_mb", kind=Kind.INTEGER, check=_between(64, 16_777_216, "MB"), unset=0),
            Key(field="gpu_memory_mb", kind=Kind.INTEGER, check=_between(256, 16_777_216, "MB"), unset=0),
            Key(field="page_size", kind=Kind.INTEGER, check=_page_size, unset=0),
            Key(field="emulate", kind=Kind.BOOLEAN, check=_same),
            Key(field="images", kind=Kind.STRING, check=_one_of(ImageSource, "image source")),
            Key(field="airgap_images", kind=Kind.ARRAY, check=_reference),
            Key(field="image_locks", kind=Kind.ARRAY, check=_parsed(lock.parse_registry)),
            Key(field="built_locks", kind=Kind.ARRAY, check=_parsed(lock.parse_built)),
            Key(field="rotation", kind=Kind.ARRAY, check=_parsed(parse_rotation)),
            Key(
                field="realm",
                kind=Kind.STRING,
                check=_matching(
                    r"(?!master\Z)[a-z][a-z0-9-]{0,35}",
                    'realm name: lower-case letters, digits and dashes, and not "master", which is Keycloak\'s own',
                ),
            ),
            Key(
                field="admin_email",
                kind=Kind.STRING,
                check=_MAIL,
            ),
            Key(field="second_factor", kind=Kind.STRING, check=_one_of(SecondFactor, "choice")),
            # 24: so long is the administrator's first password.
            Key(field="password_length", kind=Kind.INTEGER, check=_between(8, 24, "characters")),
            Key(field="login_failures", kind=Kind.INTEGER, check=_between(3, 100, "wrong passwords")),
            Key(field="session_idle_minutes", kind=Kind.INTEGER, check=_between(5, 43_200, "minutes")),
            Key(field="session_max_minutes", kind=Kind.INTEGER, check=_between(5, 525_600, "minutes")),
            Key(field="token_minutes", kind=Kind.INTEGER, check=_between(1, 60, "minutes")),
            Key(field="event_days", kind=Kind.INTEGER, check=_between(1, 3650, "days")),
            Key(field="login_language", kind=Kind.STRING, check=_language),
            Key(field="login_title", kind=Kind.STRING, check=_TITLE),
            Key(field="login_theme", kind=Kind.STRING, check=_one_of(LoginTheme, "theme")),
            Key(field="identity_providers", kind=Kind.ARRAY, check=_parsed(parse_provider)),
            Key(field="mail_server", kind=Kind.STRING, check=_parsed(parse_mail), unset=""),
            Key(field="mail_from", kind=Kind.STRING, check=_MAIL, unset=""),
            Key(field="people", kind=Kind.ARRAY, items=Kind.OBJECT, check=persons.person),
            Key(field="groups", kind=Kind.ARRAY, check=_group),
            Key(field="api_requests_per_minute", kind=Kind.INTEGER, check=_between(0, 100_000, "requests")),
            Key(
                field="api_webhook",
                kind=Kind.STRING,
                check=_matching(
                    r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[\x21-\x7e]*)?", "URL, such as http://n8n:5678/webhook/x"
                ),
                unset="",
            ),
            Key(
                field="openai_url",
                kind=Kind.STRING,
                check=_matching(
                    r"https://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?",
                    "HTTPS URL, such as https://api.openai.com/v1",
                ),
            ),
            Key(field="openai_models", kind=Kind.ARRAY, check=_MODEL),
            Key(
                field="supabase_sites",
                kind=Kind.ARRAY,
                check=_matching(
                    r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?",
                    "address, such as https://app.example.org",
                ),
            ),
            Key(field="down", kind=Kind.BOOLEAN, check=_same),
            Key(field="adopt", kind=Kind.BOOLEAN, check=_same),
        )
    }
)

# Written as lists of name=value.
MAPPINGS = frozenset(
    {
        "paths",
        "rate_classes",
        "workflow_parameters",
        "airgap_images",
        "image_locks",
        "built_locks",
        "model_aliases",
        "identity_providers",
        "rotation",
    }
)

# Keys of earlier versions. A retired key is refused, naming what to write instead.
RETIRED: Mapping[str, RetiredKey] = MappingProxyType({})


def default_of(key: Key) -> object:
    """What a key is when nobody says anything, as it is written in Pulumi.yaml. MISSING when it must be said."""
    found = next(item for item in fields(Settings) if item.name == key.field)
    default: object = found.default
    if found.default_factory is not MISSING:
        default = []  # mappings are written as lists
    if default is None:
        return key.unset
    if isinstance(default, tuple):
        return [str(item) for item in cast("tuple[object, ...]", default)]
    return str(default) if isinstance(default, StrEnum) else default


# ------------------------------------------------------------------------------------------------------- load


def load(
    stack: str,
    raw: Mapping[str, object],
    secret_keys: Collection[str] = frozenset(),
    provided_keys: Collection[str] = frozenset(),
    *,
    profiles: Collection[str] | None = None,
    retired: Mapping[str, RetiredKey] = RETIRED,
    from_engine: bool = True,
) -> Settings:
    """Settings from raw values by key (without namespace), or one SpecError with every problem in them.

    from_engine: lists may arrive as JSON text, as the engine hands them over; in a file Pulumi refuses that.

    secret_keys: those whose values are encrypted. provided_keys: those under which services expect secrets. No
    message ever shows the value of either. profiles: those that there are, where that is to be checked.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    if not re.fullmatch(STACK_NAME, stack):
        problems.append(_stack_name_problem(stack))
    for name in sorted(set(raw) - set(KEYS) - set(provided_keys)):
        problems.append(_unknown(stack, name, [*KEYS, *provided_keys], retired))
    for name, key in KEYS.items():
        if name not in raw:
            if default_of(key) is MISSING:
                problems.append(
                    Problem(where=name, what="is not set", fix=f"say which: pulumi config set {name} VALUE -s {stack}")
                )
        elif name in secret_keys:
            fix = f"it is no secret and is needed in plain text: pulumi config set {name} VALUE -s {stack}"
            problems.append(Problem(where=name, what="is encrypted", fix=fix))
        else:
            _read(key, raw[name], values, problems, from_engine)
    problems += _profiles(values.get("profiles", ()), profiles)
    provided = _provided(stack, raw, secret_keys, provided_keys, problems)
    unreadable = {problem.where for problem in problems}
    problems += [problem for problem in _together(values) if problem.where not in unreadable]
    if problems:
        raise SpecError(f"{stack_file(stack)} cannot be planned", tuple(problems))
    return Settings(stack=stack, provided_secrets=provided, **values)


def _stack_name_problem(stack: str) -> Problem:
    fix = "is no stack name: a lower-case letter, then up to 30 letters and digits, and no dash"
    return Problem(where="stack", what=shown(stack), fix=fix)


def _unknown(stack: str, name: str, known: Collection[str], retired: Mapping[str, RetiredKey]) -> Problem:
    if name in retired:
        gone = retired[name]
        return Problem(where=name, what="is no longer a key", fix=f"{gone.reason}. Write {gone.replacement} instead")
    fix = f"{did_you_mean(name, known)}To take it out: pulumi config rm {name} -s {stack}"
    return Problem(where=name, what="is no key of this project", fix=fix)


def _read(key: Key, value: object, values: dict[str, Any], problems: list[Problem], from_engine: bool) -> None:
    """Put what the key's value means into values, or what is wrong with it into problems."""
    try:
        if key.kind is Kind.ARRAY and isinstance(value, str) and not from_engine:
            raise UnfitError("is no list: write [a, b]")
        plain = _plain(key.kind, value)
    except UnfitError as unfit:
        problems.append(Problem(where=key.name, what=shown(value), fix=str(unfit)))
        return
    if isinstance(plain, list):
        _read_list(key, cast("list[object]", plain), values, problems)
        return
    if key.unset is not None and plain == key.unset:
        return
    try:
        values[key.field] = key.check(plain)
    except UnfitError as unfit:
        problems.append(Problem(where=key.name, what=shown(value), fix=str(unfit)))


def _read_list(key: Key, items: list[object], values: dict[str, Any], problems: list[Problem]) -> None:
    found: list[Any] = []
    seen: set[object] = set()
    for index, item in enumerate(items):
        where = f"{key.name}[{index}]"
        try:
            checked = key.check(_plain(key.items, item))
        except UnfitError as unfit:
            problems.append(Problem(where=where, what=shown(item), fix=str(unfit)))
            continue
        except SpecError as several:
            problems += (replace(problem, where=where + problem.where) for problem in several.problems)
            continue
        identity: object = checked[0] if key.field in MAPPINGS else checked
        if identity in seen:
            problems.append(Problem(where=where, what=shown(item), fix="stands there twice: take one out"))
        seen.add(identity)
        found.append(checked)
    values[key.field] = MappingProxyType(dict(found)) if key.field in MAPPINGS else tuple(found)


def _plain(kind: Kind, value: object) -> object:
    """The value in its kind's Python type. The engine hands everything over as text, arrays as JSON."""
    match kind:
        case Kind.STRING if isinstance(value, str):
            return value
        case Kind.STRING:
            raise UnfitError("is no text: put it in quotes")
        case Kind.BOOLEAN if isinstance(value, bool):
            return value
        case Kind.BOOLEAN:
            if value in ("true", "false"):
                return value == "true"
            raise UnfitError("is neither true nor false")
        case Kind.INTEGER if isinstance(value, int) and not isinstance(value, bool):
            return value
        case Kind.INTEGER:
            if isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value):
                return int(value)
            raise UnfitError("is no whole number")
        case Kind.ARRAY:
            return _array(value)
        case Kind.OBJECT:
            found = persons.mapping(value)
            if found is None:
                raise UnfitError("is no mapping: write {name: value, name: value}")
            return found


def _array(value: object) -> list[object]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise UnfitError("is no list: write [a, b]") from None
    if not isinstance(value, list):
        raise UnfitError("is no list: write [a, b]")
    return cast("list[object]", value)


def _provided(
    stack: str,
    raw: Mapping[str, object],
    secret_keys: Collection[str],
    provided_keys: Collection[str],
    problems: list[Problem],
) -> frozenset[str]:
    """The secrets the operator set, of those that services expect. One in clear text is a problem."""
    present = frozenset(provided_keys) & set(raw)
    fix = f"pulumi config set --secret {{}} -s {stack}"
    for name in sorted(present):
        if name not in secret_keys:
            what = "is a secret and stands there in clear text"
            problems.append(Problem(where=name, what=what, fix=f"change it, for it has been seen: {fix.format(name)}"))
        elif raw[name] == "":
            problems.append(Problem(where=name, what="is an empty secret", fix=fix.format(name)))
    return present


def _profiles(chosen: tuple[str, ...], known: Collection[str] | None) -> Iterator[Problem]:
    for index, name in enumerate(chosen):
        if known is not None and name not in known:
            fix = f"is no profile. {did_you_mean(name, known)}Profiles: {listed(known)}"
            yield Problem(where=f"profiles[{index}]", what=shown(name), fix=fix)


def _together(values: Mapping[str, Any]) -> list[Problem]:
    """What is wrong only when keys are seen together."""
    problems: list[Problem] = []
    ports: dict[int, str] = {}
    for name in ("httpPort", "httpsPort", "adminPort"):
        key = KEYS[name]
        port = cast("int", values.get(key.field, default_of(key)))
        if port in ports:
            problems.append(
                Problem(where=name, what=str(port), fix=f"is {ports[port]} already: each needs a port of its own")
            )
        ports.setdefault(port, name)
    for index, name in enumerate(values.get("retired", ())):
        if name in values.get("without", ()):
            fix = 'stands in "without" as well. "without" never had it, "retired" keeps the data it had: choose one'
            problems.append(Problem(where=f"retired[{index}]", what=shown(name), fix=fix))
    problems += _paths(values.get("paths", {}))
    problems += _aliases(values.get("model_aliases", {}), values.get("models", ()))
    problems += _certificates(values)
    problems += _sessions(values)
    problems += _mail(values)
    mail = values.get("admin_email", default_of(KEYS["adminEmail"]))
    problems += persons.together(values.get("people", ()), values.get("groups", ()), mail)
    return problems


def _certificates(values: Mapping[str, Any]) -> Iterator[Problem]:
    """What a source of certificates needs is there, and what only another one reads is not."""
    source = values.get("certificates", CertificateSource.OWN_CA)
    if source is CertificateSource.FILES:
        for name in ("certificateChain", "certificateKey"):
            if not values.get(KEYS[name].field):
                fix = "say where it lies, outside the clone: /etc/ssl/private/home.pem"
                yield Problem(where=name, what="is not set", fix=fix)
    if source is CertificateSource.ACME and values.get("acme_challenge") is Challenge.DNS_01:
        if not values.get("acme_dns"):
            fix = "say who serves your names, as lego calls them: https://go-acme.github.io/lego/dns/"
            yield Problem(where="acmeDns", what="is not set", fix=fix)
    else:
        for name in ("acmeDns", "acmeDnsWait"):
            if source is CertificateSource.ACME and values.get(KEYS[name].field):
                fix = "nobody reads it with acmeChallenge: http-01. Take it out, or write acmeChallenge: dns-01"
                yield Problem(where=name, what=shown(str(values[KEYS[name].field])), fix=fix)
    read_by = {
        "certificate_chain": (CertificateSource.FILES,),
        "certificate_key": (CertificateSource.FILES,),
        "certificate_roots": (CertificateSource.FILES, CertificateSource.ACME),
        "acme_directory": (CertificateSource.ACME,),
        "acme_challenge": (CertificateSource.ACME,),
        "acme_dns": (CertificateSource.ACME,),
        "acme_dns_wait": (CertificateSource.ACME,),
    }
    for key in KEYS.values():
        wanted = read_by.get(key.field)
        if wanted and source not in wanted and values.get(key.field, default_of(key)) not in (default_of(key), None):
            fix = f"nobody reads it with certificates: {source}. Take it out, or write certificates: {wanted[-1]}"
            yield Problem(where=key.name, what=shown(str(values[key.field])), fix=fix)
    if source is not CertificateSource.OWN_CA and values.get("https_port") == FRONT_PORT:
        fix = f"choose another: at {FRONT_PORT} the front door cannot tell who comes from outside"
        yield Problem(where="httpsPort", what=str(FRONT_PORT), fix=fix)


def _paths(paths: Mapping[str, str]) -> Iterator[Problem]:
    """Each path leads to one route."""
    owners: dict[str, str] = {}
    for index, (name, path) in enumerate(paths.items()):
        if path in owners:
            yield Problem(where=f"paths[{index}]", what=path, fix=f"leads to {owners[path]} already: choose another")
        owners.setdefault(path, name)


def _sessions(values: Mapping[str, Any]) -> Iterator[Problem]:
    """A token ends before the session that it was given for, and an unused session before a used one."""
    order = ("tokenMinutes", "sessionIdleMinutes", "sessionMaxMinutes")
    for name, longer in itertools.pairwise(order):
        minutes, limit = (cast("int", values.get(KEYS[each].field, default_of(KEYS[each]))) for each in (name, longer))
        if minutes > limit:
            fix = f"is longer than {longer}, which is {limit}: make it {limit} or less, or that one more"
            yield Problem(where=name, what=str(minutes), fix=fix)


def _mail(values: Mapping[str, Any]) -> Iterator[Problem]:
    """A server and a sender, or neither."""
    if values.get("mail_server") and not values.get("mail_from"):
        yield Problem(
            where="mailFrom", what="is not set", fix="say who the mails of mailServer come from: login@home.example"
        )
    if values.get("mail_from") and not values.get("mail_server"):
        fix = "say who sends the mails: starttls://me@mail.example.org:587, or take mailFrom out"
        yield Problem(where="mailServer", what="is not set", fix=fix)


def _aliases(aliases: Mapping[str, Mapping[str, int]], known: tuple[str, ...]) -> Iterator[Problem]:
    """A name that stands for several models is none of theirs, and each of them is in `models`."""
    for index, (name, shares) in enumerate(aliases.items()):
        where = f"modelAliases[{index}]"
        if name in known:
            yield Problem(where=where, what=shown(name), fix="is a model of its own: choose another name")
        for model in sorted(set(shares) - set(known)):
            fix = f"is not in models. {did_you_mean(model, known)}Add it there: names are for models that the stack has"
            yield Problem(where=where, what=shown(model), fix=fix)


# ---------------------------------------------------------------------------------------------------- sources


def from_pulumi(provided_keys: Collection[str] | None = None, profiles: Collection[str] | None = None) -> Settings:
    """Settings of the stack that the engine is running. provided_keys, profiles: those of every service when None."""
    import pulumi
    from pulumi.runtime.config import CONFIG, is_config_secret

    prefix = f"{pulumi.get_project()}:"
    ours = {name: value for name, value in CONFIG.get().items() if name.startswith(prefix)}
    return _locked(
        Path(__file__).resolve().parent.parent,
        lambda: load(
            pulumi.get_stack(),
            {name.removeprefix(prefix): value for name, value in ours.items()},
            frozenset(name.removeprefix(prefix) for name in ours if is_config_secret(name)),
            _known_provided(provided_keys),
            profiles=_known_profiles(profiles),
        ),
    )


def provided_secret(config_key: str) -> pulumi.Output[str]:
    """The value of a secret the operator set; it stays a secret. Only inside a program that the engine runs."""
    import pulumi

    return pulumi.Config().require_secret(config_key)


def from_files(
    root: Path,
    stack: str,
    provided_keys: Collection[str] | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
    *,
    profiles: Collection[str] | None = None,
) -> Settings:
    """Settings of a stack from Pulumi.yaml's defaults and the stack's file, without an engine.

    Encrypted values count as set and are not decrypted. `overrides` replace keys of the file.
    """
    from stack import project

    if not re.fullmatch(STACK_NAME, stack):
        raise SpecError("There is no such stack", (_stack_name_problem(stack),))
    raw, secret_keys = project.stack_config(root, stack)
    return _locked(
        root,
        lambda: load(
            stack,
            {**raw, **overrides},
            secret_keys - set(overrides),
            _known_provided(provided_keys),
            profiles=_known_profiles(profiles),
            from_engine=False,
        ),
    )


def _locked(root: Path, read: Callable[[], Settings]) -> Settings:
    """The settings with the locks of the clone, which win over those of the configuration: people commit them."""
    try:
        locks, wrong = lock.read(root), ()
    except SpecError as error:
        locks, wrong = lock.Locks(), error.problems
    try:
        found = read()
    except SpecError as error:
        raise SpecError(error.subject, (*error.problems, *wrong)) from None
    if wrong:
        raise SpecError(f"{stack_file(found.stack)} cannot be planned", wrong)
    return replace(
        found,
        image_locks=MappingProxyType({**found.image_locks, **locks.registry}),
        built_locks=MappingProxyType({**found.built_locks, **locks.built}),
    )


def _known_provided(provided_keys: Collection[str] | None) -> Collection[str]:
    if provided_keys is not None:
        return provided_keys
    from stack import catalog

    return catalog.provided_keys(catalog.discover())


def _known_profiles(profiles: Collection[str] | None) -> Collection[str]:
    if profiles is not None:
        return profiles
    from stack import catalog

    return catalog.profiles(catalog.discover())
