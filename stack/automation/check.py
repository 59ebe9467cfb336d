"""What must not be in a template, and in a workflow that is to become one: pure, and everything at once.

A template travels: into other people's stacks, and into a repository. So it holds nothing of one installation: no
secret, no person, no id that one n8n gave, no address. What differs is a parameter; what is secret is a credential, by
name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from stack.automation.template import (
    Credential,
    FromConfig,
    Kind,
    Node,
    Parameter,
    RolePassword,
    RoleUser,
    Slot,
    WorkflowTemplate,
)
from stack.model import FromSettings, Problem, Ref
from stack.words import did_you_mean, listed, shown

# What a secret looks like when it is one of the well-known kinds, and what kind.
TOKENS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("a Telegram bot token", re.compile(r"\b\d{6,12}:[A-Za-z0-9_-]{30,}")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    (
        "a Google token or secret",
        re.compile(r"\bya29\.[\w-]{10,}|\b1//0[\w-]{10,}|\bGOCSPX-[\w-]{10,}|\bAIza[\w-]{30,}"),
    ),
    (
        "an API key",
        re.compile(
            r"\bsk-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
            r"|\bxox[abeprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{20,}"
        ),
    ),
    ("a bearer token", re.compile(r"\b(?:Bearer|Basic)\s+(?!token\b)[A-Za-z0-9._~+/=-]{12,}")),
)
MAIL = re.compile(r"[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
# Chats and people of Telegram have nine digits and more, groups a minus before them.
CHAT = re.compile(r"(?<![\w.-])-?\d{9,14}(?![\w.])")
URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'`<>]*", re.IGNORECASE)
WORDS_FOR_SECRETS = r"(?:access_?token|token|api_?key|key|secret|password|passwd|pwd|auth|signature|sig|code)"
URL_SECRET = re.compile(rf"://[^/\s@]*:[^/\s@]+@|[?&]{WORDS_FOR_SECRETS}=(?!\{{\{{|=|&|$)[^&\s]+", re.IGNORECASE)
SECRET_NAME = re.compile(
    r"(?:^|[_a-z])(?:password|passwd|secret|api_?key|access_?key|private_?key|access_?token|auth_?token|bearer_?token)$"
    r"|^(?:token|authorization)$",
    re.IGNORECASE,
)
CHAT_NAME = re.compile(r"^(?:chat|user)_?ids?$", re.IGNORECASE)
FOREIGN_VARIABLE = re.compile(r"\$(?:env|vars|secrets)\b|\bprocess\s*\.\s*env\b")
NODE_NAMED = re.compile(r"""\$(?:node\[|items\(|\()\s*(["'])((?:(?!\1).)*)\1""")
# What n8n's expressions know, and what of it this file's writers may use; also what Code nodes may.
KNOWN_VARIABLES = frozenset(
    f"${name}"
    for name in (
        *("json", "input", "node", "items", "now", "today", "execution", "workflow", "runIndex", "itemIndex"),
        *("prevNode", "evaluateExpression"),
        *("parameter", "binary", "jmespath", "if", "ifEmpty", "max", "min", "position", "pageCount", "request"),
        *("response", "fromAI", "self"),
    )
)
VARIABLE = re.compile(r"(?<![\w$`\\'\"])\$[A-Za-z_]\w*")
INSTANCE = re.compile(r"\b[0-9a-f]{64}\b")

PREFIXES = ("n8n-nodes-base.", "@n8n/n8n-nodes-langchain.")
# Not allowed to workflows of a stack (docs/services/n8n.md), or open doors to the machine.
FORBIDDEN_NODES = frozenset({"executeCommand", "localFileTrigger", "readWriteFile", "ssh", "readBinaryFile"})
OF_ONE_INSTANCE = ("id", "versionId", "activeVersionId", "shared", "homeProject", "usedCredentials", "parentFolder")
WEBHOOK = "n8n-nodes-base.webhook"

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PARAMETER = re.compile(r"[a-z][a-zA-Z0-9]{0,39}")
_CONFIG_KEY = re.compile(r"[a-z][a-zA-Z0-9]{2,39}")
_DATABASE = re.compile(r"[a-z][a-z0-9-]{0,40}")


# ---------------------------------------------------------------------------------------------- a whole template


def template_problems(template: WorkflowTemplate) -> list[Problem]:
    """Everything that is wrong with a template."""
    where = template.source or f"template {template.name}"
    found: list[Problem] = []
    if not _NAME.fullmatch(template.name) or len(template.name) > 40:
        fix = "lower-case words with dashes between them, at most 40 characters"
        found.append(Problem(where=where, what=f"{shown(template.name)} is no name", fix=fix))
    if not template.summary.strip():
        found.append(Problem(where=where, what="has no summary", fix="say in one line what it does"))
    if not template.nodes:
        found.append(Problem(where=where, what="has no node", fix="a workflow does something: add Node(...)"))
    found += _graph(where, [node.name for node in template.nodes], template)
    found += _parameters(where, template)
    found += _credentials(where, template)
    for name in template.databases:
        if not _DATABASE.fullmatch(name):
            fix = "lower-case letters, digits and dashes"
            found.append(Problem(where=f"{where} databases", what=f"{shown(name)} is no name", fix=fix))
    names = [node.name for node in template.nodes]
    for node in template.nodes:
        place = f"{where} {node.name}"
        found += _node_type(place, node.type)
        found += _values(place, node.parameters, names)
        found += _webhook(place, node)
    return found


def _graph(where: str, names: Sequence[str], template: WorkflowTemplate) -> Iterator[Problem]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(where=where, what=f"two nodes are named {shown(name)}", fix="give each a name of its own")
    linked: set[str] = set()
    for link in template.links:
        for end in (link.source, link.target):
            linked.add(end)
            if end not in names:
                fix = f"{did_you_mean(end, names)}Nodes: {listed(names)}"
                yield Problem(where=f"{where} links", what=f"there is no node {shown(end)}", fix=fix)
    for name in names:
        if len(names) > 1 and name not in linked:
            yield Problem(where=f"{where} {name}", what="is linked to nothing", fix="link it, or take it out")


def _parameters(where: str, template: WorkflowTemplate) -> Iterator[Problem]:
    declared = [parameter.name for parameter in template.parameters]
    used = list(slots([node.parameters for node in template.nodes]))
    used += list(slots([credential.fields for credential in template.credentials]))
    for name in sorted(set(used) - set(declared)):
        fix = f"{did_you_mean(name, declared)}Declare it: Parameter(name={name!r}, ...)"
        yield Problem(where=f"{where} parameters", what=f"there is no parameter {shown(name)}", fix=fix)
    for parameter in template.parameters:
        place = f"{where} parameters.{parameter.name}"
        if not _PARAMETER.fullmatch(parameter.name):
            yield Problem(where=place, what="is no name", fix="letters and digits, beginning with a small letter")
        if declared.count(parameter.name) > 1:
            yield Problem(where=place, what="stands there twice", fix="take one out")
        if parameter.name not in used:
            yield Problem(where=place, what="is used nowhere", fix="put Slot(...) where its value belongs, or drop it")
        if not parameter.meaning.strip():
            yield Problem(where=place, what="has no meaning", fix="say what it is for")
        if parameter.default is not None and not isinstance(parameter.default, Ref | FromSettings):
            unfit = unfit_value(parameter, str(parameter.default))
            if unfit:
                yield Problem(where=place, what=f"its default {shown(parameter.default)} {unfit}", fix="correct it")
            yield from _text(place, str(parameter.default), urls=False)


def _credentials(where: str, template: WorkflowTemplate) -> Iterator[Problem]:
    known = [credential.name for credential in template.credentials]
    asked = {node.credential for node in template.nodes if node.credential}
    for node in template.nodes:
        if node.credential and node.credential not in known:
            fix = f"{did_you_mean(node.credential, known)}Declare it: Credential(name={node.credential!r}, ...)"
            yield Problem(
                where=f"{where} {node.name}", what=f"there is no credential {shown(node.credential)}", fix=fix
            )
    for credential in template.credentials:
        place = f"{where} credentials.{credential.name}"
        if credential.name not in asked:
            yield Problem(where=place, what="is used by no node", fix="take it out")
        if known.count(credential.name) > 1:
            yield Problem(where=place, what="stands there twice", fix="take one out")
        yield from _fields(place, credential, credential.fields, template)


def _fields(
    where: str, credential: Credential, fields: Mapping[str, Any], template: WorkflowTemplate
) -> Iterator[Problem]:
    for name, value in fields.items():
        place = f"{where}.{name}"
        match value:
            case FromConfig(key, meaning):
                if not _CONFIG_KEY.fullmatch(key):
                    yield Problem(where=place, what=f"{shown(key)} is no configuration key", fix="write it camelCase")
                if not meaning.strip():
                    yield Problem(where=place, what="does not say where to get it", fix="FromConfig(key, meaning)")
            case RolePassword(database) | RoleUser(database):
                if database not in template.databases:
                    fix = f"databases=({database!r},)"
                    yield Problem(where=place, what=f"there is no database {shown(database)}", fix=fix)
            case Mapping():
                yield from _fields(place, credential, cast("Mapping[str, Any]", value), template)
            case str():
                if value and SECRET_NAME.search(name) and name != "access_token":
                    fix = "FromConfig(key, meaning): the operator sets it"
                    yield Problem(where=place, what="is the content of a credential", fix=fix)
                elif name == "access_token" and value != "expired":
                    yield Problem(where=place, what="is a token", fix='write "expired": n8n asks for one')
                yield from _text(place, value, urls=False)
            case _:
                pass


def _node_type(where: str, type_: str) -> Iterator[Problem]:
    prefix = next((prefix for prefix in PREFIXES if type_.startswith(prefix)), "")
    if not prefix:
        fix = "use nodes that n8n ships: community packages are not installed"
        yield Problem(where=where, what=f"{shown(type_)} is no node of n8n's own", fix=fix)
    elif type_.removeprefix(prefix) in FORBIDDEN_NODES:
        fix = "workflows run no programs and read no files of the machine"
        yield Problem(where=where, what=f"{type_} is not allowed", fix=fix)


def _webhook(where: str, node: Node) -> Iterator[Problem]:
    if node.type != WEBHOOK or node.open.strip():
        return
    if not node.credential or node.parameters.get("authentication", "none") == "none":
        fix = 'authentication="headerAuth" with a credential, or open="why it asks nobody who they are"'
        yield Problem(where=where, what="is a webhook that anybody may call", fix=fix)


# --------------------------------------------------------------------------------------------- values in nodes


def slots(value: object) -> Iterator[str]:
    """The parameters that are asked for, wherever in a value."""
    if isinstance(value, Slot):
        yield value.parameter
    elif isinstance(value, Mapping):
        for item in cast("Mapping[object, object]", value).values():
            yield from slots(item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[object]", value):
            yield from slots(item)


def _values(where: str, value: object, names: Sequence[str], key: str = "") -> Iterator[Problem]:
    """Everything in a node's parameters that belongs to one installation."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, object]", value)
        if mapping.get("__rl") and isinstance(mapping.get("value"), str) and mapping.get("mode") in ("list", "id"):
            chosen = str(mapping["value"])
            if chosen and not chosen.startswith("="):
                fix = "name it by an expression, or make it a parameter"
                yield Problem(where=where, what=f"{key} points to {shown(chosen)}, an id of one installation", fix=fix)
        header = str(mapping.get("name", ""))
        for name, item in mapping.items():
            # Headers and the like come as {"name": ..., "value": ...}.
            inner = header if name == "value" and header else name
            yield from _values(f"{where}.{name}", item, names, inner)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("Sequence[object]", value)):
            yield from _values(f"{where}[{index}]", item, names, key)
    elif isinstance(value, str):
        yield from _text(where, value)
        yield from _variables(where, value, names)
        literal = value and not value.startswith("=")
        if literal and SECRET_NAME.search(key):
            fix = "a credential holds it: Credential(...) with FromConfig(...)"
            yield Problem(where=where, what="is a secret", fix=fix)
        if literal and CHAT_NAME.search(key):
            fix = "take it from what came in, or from a database: ={{ $json.chat }}"
            yield Problem(where=where, what=f"{shown(value)} is somebody's chat", fix=fix)
        if key == "errorWorkflow" and value:
            fix = "an Error Trigger in the same workflow needs no id"
            yield Problem(where=where, what="names a workflow by its id", fix=fix)
    elif isinstance(value, int) and not isinstance(value, bool) and CHAT_NAME.search(key) and value:
        yield Problem(where=where, what=f"{value} is somebody's chat", fix="take it from what came in")


def _text(where: str, text: str, *, urls: bool = True) -> Iterator[Problem]:
    """What no text may hold. The secret itself is not repeated."""
    secret = False
    for kind, pattern in TOKENS:
        if pattern.search(text):
            secret = True
            fix = "take it out, change it where it is valid (it has been seen), and use a credential"
            yield Problem(where=where, what=f"holds {kind}", fix=fix)
    if not secret and URL_SECRET.search(text):
        secret = True
        fix = "take it out and use a credential"
        yield Problem(where=where, what="holds an address with a secret in it", fix=fix)
    if not secret and (found := MAIL.search(text)):
        yield Problem(where=where, what=f"holds the mail address {found[0]}", fix="make it a parameter")
    elif urls and not secret and (found := URL.search(text)):
        fix = "make it a parameter of kind ADDRESS, and its path an expression"
        yield Problem(where=where, what=f"holds the address {found[0][:60]}", fix=fix)
    if not secret and (found := CHAT.search(text)):
        fix = "people and chats are learned (/setup) and kept in a database"
        yield Problem(where=where, what=f"holds {found[0]}, which looks like a chat's or a person's id", fix=fix)
    if INSTANCE.search(text):
        yield Problem(where=where, what="holds the id of another n8n", fix="take it out")


def _variables(where: str, text: str, names: Sequence[str]) -> Iterator[Problem]:
    if found := FOREIGN_VARIABLE.search(text):
        fix = "workflows see no variables of the machine: make it a parameter"
        yield Problem(where=where, what=f"reads {found[0]}", fix=fix)
    for _, name in NODE_NAMED.findall(text):
        if name not in names:
            fix = f"{did_you_mean(name, names)}Nodes: {listed(names)}"
            yield Problem(where=where, what=f"there is no node {shown(name)}", fix=fix)
    for variable in sorted(set(VARIABLE.findall(text)) - KNOWN_VARIABLES):
        if not FOREIGN_VARIABLE.match(variable):
            fix = f"{did_you_mean(variable, KNOWN_VARIABLES)}n8n knows {', '.join(sorted(KNOWN_VARIABLES)[:6])}, ..."
            yield Problem(where=where, what=f"{variable} is no variable of n8n", fix=fix)


# -------------------------------------------------------------------------------------------- an exported file


def exported_problems(where: str, text: str) -> list[Problem]:
    """What keeps a workflow that was exported from n8n (JSON) from becoming a template."""
    try:
        document = json.loads(text)
    except ValueError as error:
        return [Problem(where=where, what=f"is no JSON: {error}", fix="export it again: ./kit workflow export NAME")]
    nodes = cast("dict[str, Any]", document).get("nodes") if isinstance(document, dict) else None
    if not isinstance(nodes, list) or not isinstance(document, dict):
        fix = 'an exported workflow is an object with "nodes" and "connections"'
        return [Problem(where=where, what="is no workflow", fix=fix)]
    workflow = cast("dict[str, Any]", document)
    found: list[Problem] = []
    for key in OF_ONE_INSTANCE:
        if workflow.get(key):
            found.append(Problem(where=where, what=f'"{key}" belongs to the n8n it came from', fix="take it out"))
    meta = workflow.get("meta")
    if isinstance(meta, dict) and "instanceId" in meta:
        found.append(Problem(where=f"{where} meta", what="holds the id of another n8n", fix="take it out"))
    if workflow.get("pinData"):
        found.append(Problem(where=f"{where} pinData", what="holds data of somebody's runs", fix="take it out"))
    if workflow.get("staticData"):
        found.append(Problem(where=f"{where} staticData", what="holds what a trigger remembers", fix="take it out"))
    found += list(_values(f"{where} settings", workflow.get("settings") or {}, []))
    items = [cast("dict[str, Any]", node) for node in cast("list[object]", nodes) if isinstance(node, dict)]
    names = [str(node.get("name")) for node in items]
    for node in items:
        place = f"{where} {node.get('name')}"
        found += _node_type(place, str(node.get("type")))
        for kind, credential in cast("dict[str, Any]", node.get("credentials") or {}).items():
            if isinstance(credential, dict) and cast("dict[str, Any]", credential).get("id"):
                fix = "keep the name alone: the import finds the credential by it"
                found.append(Problem(where=place, what=f"credential {kind} has an id of another n8n", fix=fix))
        if node.get("webhookId"):
            fix = "take it out: the import gives each webhook its own"
            found.append(Problem(where=place, what="has a webhook id of another n8n", fix=fix))
        found += list(_values(place, node.get("parameters"), names))
        settings = cast("dict[str, Any]", node.get("parameters") or {})
        if node.get("type") == WEBHOOK and settings.get("authentication", "none") == "none":
            fix = "set its authentication, and keep the key in a credential"
            found.append(Problem(where=place, what="is a webhook that anybody may call", fix=fix))
    return found


# ------------------------------------------------------------------------------------------------- parameters

_ADDRESS = re.compile(r"https?://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?")
_PATH = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*(/[a-z0-9]+([-_][a-z0-9]+)*){0,5}")
_NAMES = re.compile(r"[^\s,;=\"'`$\\{}<>][^,;=\"'`$\\{}<>]{0,49}(,\s*[^\s,;=\"'`$\\{}<>][^,;=\"'`$\\{}<>]{0,49}){0,49}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,199}")


def unfit_value(parameter: Parameter, value: str) -> str:
    """Why a parameter cannot be this, completing the sentence '<value> ...'. "" when it can."""
    if value == "":
        return "" if parameter.optional else "is empty"
    if value.lstrip().startswith("=") or "{{" in value:
        return "looks like an expression of n8n, and a value is none"
    match parameter.kind:
        case Kind.NUMBER:
            fits = re.fullmatch(r"0|-?[1-9]\d{0,9}", value) and parameter.low <= int(value) <= parameter.high
            return "" if fits else f"is no whole number from {parameter.low:,} to {parameter.high:,}"
        case Kind.ADDRESS:
            return "" if _ADDRESS.fullmatch(value) else "is no address such as https://api.example/v1, without a secret"
        case Kind.PATH:
            return "" if _PATH.fullmatch(value) else "is no path such as summarise or reports/daily"
        case Kind.NAMES:
            return "" if _NAMES.fullmatch(value) else "is no list of names such as work, bills, family"
        case Kind.MODEL:
            return "" if _MODEL.fullmatch(value) else "is no model name such as llama3.2:1b"
        case Kind.TEXT:
            fits = len(value) <= 2000 and value.isprintable()
            return "" if fits else "is no text of one line and at most 2,000 characters"


def known_names(templates: Iterable[WorkflowTemplate]) -> list[str]:
    """The names of templates, for messages."""
    return [template.name for template in templates]
