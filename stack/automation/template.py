"""The vocabulary of workflow templates: typed, frozen, and without anything that belongs to one installation.

A value that the operator decides is a Slot, and takes the whole place of a value: nothing is ever pasted into a text or
a program, so no value can turn into one. Secrets stand in credentials only, as the configuration key that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from stack.model import FromSettings, Ref


class Kind(StrEnum):
    """What a parameter may be."""

    TEXT = "text"
    NUMBER = "number"  # whole, between `low` and `high`
    ADDRESS = "address"  # http(s)://host[:port][/path], nothing secret in it
    PATH = "path"  # of a webhook: words and dashes between slashes
    NAMES = "names"  # words with commas between them; the workflow gets them so
    MODEL = "model"  # one of Ollama's


Default = str | int | Ref | FromSettings | None


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Something the operator may decide: `workflowParameters: [<template>.<name>=<value>]`.

    default None: it must be said. low and high bound numbers. optional: it may be empty.
    """

    name: str
    kind: Kind
    meaning: str
    default: Default
    low: int = 0
    high: int = 1_000_000
    optional: bool = False


@dataclass(frozen=True)
class Slot:
    """Where a parameter's value goes."""

    parameter: str


@dataclass(frozen=True)
class FromConfig:
    """A secret that the operator sets: `pulumi config set --secret <key>`. `meaning` says where to get it."""

    key: str
    meaning: str


@dataclass(frozen=True)
class RolePassword:
    """The password of the role of one of the template's databases."""

    database: str


@dataclass(frozen=True)
class RoleUser:
    """As whom to log in to one of the template's databases, with the password of its role."""

    database: str


Field = str | int | bool | Slot | FromConfig | RolePassword | RoleUser | Ref


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A credential that the import makes in n8n, by name and n8n's type. Templates with the same one share it."""

    name: str
    type: str
    fields: Mapping[str, Field | Mapping[str, Field]]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node. `at` is its column and row in the editor. credential: by name.

    open: why a webhook asks nobody who they are. on_error: its failures leave through a second output. carry_on: they
    leave as items with `error`, in their place. tries: so often, `wait_ms` apart.
    """

    name: str
    type: str
    version: float
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    at: tuple[int, int] = (0, 0)
    credential: str = ""
    on_error: bool = False
    carry_on: bool = False
    tries: int = 1
    wait_ms: int = 1000
    always_output: bool = False
    once: bool = False
    open: str = ""


@dataclass(frozen=True)
class Link:
    """From a node's output to a node. The output after the last regular one is that of failures."""

    source: str
    target: str
    output: int = 0


def chain(*names: str) -> tuple[Link, ...]:
    """Each node's first output to the next node."""
    return tuple(Link(source, target) for source, target in pairwise(names))


@dataclass(frozen=True, kw_only=True)
class WorkflowTemplate:
    """A workflow that anybody's stack can have. `name` equals its file's name. databases: its own, with a role each.

    keep_successes: n8n keeps the data of runs that went well, for ./kit workflow history.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    credentials: tuple[Credential, ...] = ()
    databases: tuple[str, ...] = ()
    keep_successes: bool = True
    source: str = field(default="", compare=False)

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name. KeyError when there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(f"{self.name} has no parameter {name!r}")

    @property
    def config_keys(self) -> tuple[FromConfig, ...]:
        """The secrets it needs from the operator, each once."""
        found = {item.key: item for credential in self.credentials for item in _flat(credential.fields)}
        return tuple(found.values())


def _flat(fields: Mapping[str, Any]) -> list[FromConfig]:
    found: list[FromConfig] = []
    for value in fields.values():
        if isinstance(value, FromConfig):
            found.append(value)
        elif isinstance(value, Mapping):
            found += _flat(value)  # pyright: ignore[reportUnknownArgumentType]
    return found


# ------------------------------------------------------------------------------------------- common pieces


def gathered(name: str, at: tuple[int, int], **values: Any) -> Node:
    """A node that adds values (slots, or expressions of n8n) to what passes: the way of parameters into programs."""
    assignments = [
        {"id": f"{name}-{key}", "name": key, "value": value, "type": "string"} for key, value in values.items()
    ]
    parameters = {"assignments": {"assignments": assignments}, "includeOtherFields": True, "options": {}}
    return Node(name=name, type="n8n-nodes-base.set", version=3.4, at=at, parameters=parameters)


def is_true(expression: str) -> Mapping[str, Any]:
    """The parameters of an If node (2.2) that asks one expression: true leaves by its first output."""
    options = {"caseSensitive": True, "leftValue": "", "typeValidation": "loose", "version": 2}
    asked = {
        "id": "asked",
        "leftValue": expression,
        "rightValue": "",
        "operator": {"type": "boolean", "operation": "true", "singleValue": True},
    }
    return {"conditions": {"options": options, "conditions": [asked], "combinator": "and"}, "options": {}}


def program(name: str, at: tuple[int, int], text: str, *, each: bool = False) -> Node:
    """A Code node: JavaScript that runs in the task runner, over all items or over `each`."""
    mode = "runOnceForEachItem" if each else "runOnceForAllItems"
    return Node(
        name=name,
        type="n8n-nodes-base.code",
        version=2,
        at=at,
        parameters={"mode": mode, "jsCode": text.strip("\n") + "\n"},
    )


def query(name: str, at: tuple[int, int], sql: str, values: str = "", *, credential: str, **more: Any) -> Node:
    """A statement for PostgreSQL. `values`: an expression that gives the list for $1, $2, ...: never text in SQL."""
    options = {"queryReplacement": f"={{{{ {values} }}}}"} if values else {}
    parameters = {"operation": "executeQuery", "query": sql.strip("\n") + "\n", "options": options}
    return Node(
        name=name,
        type="n8n-nodes-base.postgres",
        version=2.6,
        at=at,
        parameters=parameters,
        credential=credential,
        **more,
    )


OAUTH = "oAuth2Api"


def request(
    name: str,
    at: tuple[int, int],
    url: str,
    *,
    method: str = "GET",
    query_values: Mapping[str, str] | None = None,
    body: str = "",
    credential: str = "",
    timeout_ms: int = 30_000,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Node:
    """An HTTP request whose answer, status and headers included, goes on whatever its status is."""
    parameters: dict[str, Any] = {
        "method": method,
        "url": url,
        "options": {
            "timeout": timeout_ms,
            "redirect": {"redirect": {"followRedirects": False}},
            "response": {"response": {"fullResponse": True, "neverError": True}},
            **(options or {}),
        },
    }
    if credential:
        parameters |= {"authentication": "genericCredentialType", "genericAuthType": OAUTH}
    if query_values:
        listed = [{"name": key, "value": value} for key, value in query_values.items()]
        parameters |= {"sendQuery": True, "queryParameters": {"parameters": listed}}
    if body:
        parameters |= {"sendBody": True, "specifyBody": "json", "jsonBody": f"={{{{ {body} }}}}"}
    return Node(
        name=name,
        type="n8n-nodes-base.httpRequest",
        version=4.2,
        at=at,
        parameters=parameters,
        credential=credential,
        **more,
    )


def answer(name: str, at: tuple[int, int], body: str, status: str) -> Node:
    """What a webhook's caller is told. `body` and `status`: expressions for the JSON and its HTTP status."""
    return Node(
        name=name,
        type="n8n-nodes-base.respondToWebhook",
        version=1.1,
        parameters={
            "respondWith": "json",
            "responseBody": f"={{{{ {body} }}}}",
            "options": {"responseCode": f"={{{{ {status} }}}}"},
        },
        at=at,
    )


def gmail_account(address: str = "gmailTokenUrl") -> Credential:
    """Access to one Gmail mailbox. The parameter `address` says where its tokens come from."""
    return Credential(
        name="Gmail",
        type=OAUTH,
        fields={
            "grantType": "authorizationCode",
            "accessTokenUrl": Slot(address),
            "authUrl": Slot("gmailConsentUrl"),
            "clientId": FromConfig("gmailClientId", "the client's id, of console.cloud.google.com, APIs, Credentials"),
            "clientSecret": FromConfig("gmailClientSecret", "the same client's secret"),
            "scope": "https://www.googleapis.com/auth/gmail.modify",
            "authQueryParameters": "access_type=offline",
            "authentication": "body",
            # n8n asks for the first access token with this: nobody has to click through a consent page in it.
            "oauthTokenData": {
                "token_type": "Bearer",
                "access_token": "expired",
                "refresh_token": FromConfig("gmailRefreshToken", "the mailbox's refresh token (docs/workflows.md)"),
            },
        },
    )


GMAIL_PARAMETERS = (
    Parameter(
        name="gmailUrl",
        kind=Kind.ADDRESS,
        meaning="Gmail's API, without a path",
        default="https://gmail.googleapis.com",
    ),
    Parameter(
        name="gmailTokenUrl",
        kind=Kind.ADDRESS,
        meaning="where Gmail's access tokens come from",
        default="https://oauth2.googleapis.com/token",
    ),
    Parameter(
        name="gmailConsentUrl",
        kind=Kind.ADDRESS,
        meaning="where Gmail's owner agrees, should the credential be connected again in n8n",
        default="https://accounts.google.com/o/oauth2/v2/auth",
    ),
)


def model_parameters(queue: Ref) -> tuple[Parameter, ...]:
    """Where a template asks a model, and which: `queue` is where the stack's own models are asked."""
    return (
        Parameter(
            name="ollamaUrl",
            kind=Kind.ADDRESS,
            meaning="where the model is; the stack's own queue unless said",
            default=queue,
        ),
        Parameter(
            name="model",
            kind=Kind.MODEL,
            meaning="which model; the stack's first unless said",
            # "" when it names none
            default=FromSettings(lambda settings: settings.models[0] if settings.models else ""),
        ),
    )
