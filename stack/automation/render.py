"""A template and the operator's parameters -> the workflow that n8n is given, its credentials without their content.

What is not known while planning (a secret, another service's address) is {"$file": name}: the import reads it from a
file beside it. Ids follow from names, so that a template is the same workflow at every `up`; those of nodes are
made the stack's own by the import, for they open doors.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from stack.automation import templates as found_templates
from stack.automation.check import known_names, unfit_value
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
from stack.model import (
    Database,
    DatabasePassword,
    DatabaseUser,
    File,
    FromSettings,
    InTemplate,
    Problem,
    Provided,
    Ref,
    Secret,
    SecretValue,
    ServiceSpec,
    Template,
    Value,
)
from stack.settings import Settings
from stack.words import did_you_mean, listed, shown

_IDS = uuid.UUID("7b1d6a52-5c1e-5e6f-9f0c-0d5d3b0c7a11")  # ours alone; ids are made from it and a name
KEY = "workflowParameters"
Parameters = Mapping[str, str | int | Ref]


def workflow_id(template: str) -> str:
    """The id that a template's workflow has in every n8n."""
    return "kit" + hashlib.sha256(f"workflow {template}".encode()).hexdigest()[:13]


def selected(settings: Settings) -> tuple[tuple[int, WorkflowTemplate], ...]:
    """The templates that the settings name, each with its place there. Unknown ones are left out: see problems()."""
    known = {template.name: template for template in found_templates.discover()}
    return tuple((index, known[name]) for index, name in enumerate(settings.workflows) if name in known)


# ------------------------------------------------------------------------------------------------- parameters


def parameters(template: WorkflowTemplate, settings: Settings) -> tuple[Parameters, list[Problem]]:
    """What each parameter is in this stack, and what is wrong with what the operator said."""
    values: dict[str, str | int | Ref] = {}
    wrong: list[Problem] = []
    for parameter in template.parameters:
        key = f"{template.name}.{parameter.name}"
        said = settings.workflow_parameters.get(key)
        value = _default(parameter, settings) if said is None else said
        where = f"{KEY} {key}"
        if value is None or (value == "" and said is None and not parameter.optional):
            what = f"is not set: {parameter.meaning}"
            wrong.append(Problem(where=where, what=what, fix=f'{KEY}: ["{key}=..."], {parameter.kind}'))
        elif isinstance(value, Ref):
            values[parameter.name] = value
        elif unfit := unfit_value(parameter, str(value)):
            wrong.append(Problem(where=where, what=f"{shown(value)} {unfit}", fix=parameter.meaning))
        else:
            values[parameter.name] = int(value) if parameter.kind is Kind.NUMBER and value != "" else str(value)
    return values, wrong


def _default(parameter: Parameter, settings: Settings) -> str | int | Ref | None:
    default = parameter.default
    return default.read(settings) if isinstance(default, FromSettings) else default


def problems(settings: Settings, running: Sequence[str] | None) -> list[Problem]:
    """What is wrong with the workflows of the settings. running: who runs workflows in this plan."""
    known = {template.name: template for template in found_templates.discover()}
    found: list[Problem] = []
    for index, name in enumerate(settings.workflows):
        if name not in known:
            fix = f"is no workflow template. {did_you_mean(name, known)}Templates: {listed(known)}"
            found.append(Problem(where=f"workflows[{index}]", what=shown(name), fix=fix))
    if settings.workflows and not running:
        fix = "add the profile automation, or take the workflows out"
        found.append(Problem(where="workflows", what="nothing in this stack runs workflows", fix=fix))
    for key in settings.workflow_parameters:
        template, _, parameter = key.partition(".")
        if template not in known:
            fix = f"{did_you_mean(template, known)}Templates: {listed(known)}"
            found.append(Problem(where=f"{KEY} {key}", what=f"there is no template {shown(template)}", fix=fix))
        elif template not in settings.workflows:
            fix = f"workflows: [{template}], or take it out"
            found.append(Problem(where=f"{KEY} {key}", what=f"{template} is not among the workflows", fix=fix))
        elif parameter not in (names := [item.name for item in known[template].parameters]):
            fix = f"{did_you_mean(parameter, names)}Parameters: {listed(names)}"
            found.append(Problem(where=f"{KEY} {key}", what=f"there is no parameter {shown(parameter)}", fix=fix))
    for _, template in selected(settings):
        found += parameters(template, settings)[1]
    return found


# --------------------------------------------------------------------------------------------------- documents


@dataclass(frozen=True)
class Bundle:
    """What the import is given: JSON, and the files it names, by name."""

    document: Mapping[str, Any]
    files: Mapping[str, Value]


class _Files:
    """Names for values that come as files; the same value has one name."""

    def __init__(self) -> None:
        self.files: dict[str, Value] = {}

    def named(self, name: str, value: Value) -> dict[str, str]:
        self.files[name] = value
        return {"$file": name}

    def filled(self, value: object, known: Parameters) -> Any:
        """The value with every slot, secret and address replaced."""
        match value:
            case Slot(name):
                return self.filled(known[name], known)
            case FromConfig(key, _):
                return self.named(f"secret-{key}", SecretValue(secret_name(key)))
            case RolePassword(database):
                return self.named(f"database-{database}", DatabasePassword(database))
            case RoleUser(database):
                return self.named(f"user-{database}", DatabaseUser(database))
            case Ref():
                wanted = replace(value, start=False)
                digest = hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]
                return self.named(f"address-{value.service}-{digest}", wanted)
            case Mapping():
                mapping = cast("Mapping[str, object]", value)
                return {key: self.filled(item, known) for key, item in mapping.items()}
            case list() | tuple():
                return [self.filled(item, known) for item in cast("Sequence[object]", value)]
            case _:
                return value


def document(
    template: WorkflowTemplate, known: Parameters, timezone: str, files: _Files | None = None
) -> dict[str, Any]:
    """The workflow as n8n takes it. Credentials are named; their ids are the import's to find."""
    files = files or _Files()
    kinds = {credential.name: credential.type for credential in template.credentials}
    return {
        "id": workflow_id(template.name),
        "name": template.name,
        "nodes": [_node(template, node, kinds, known, files) for node in template.nodes],
        "connections": _connections(template),
        "settings": {
            "executionOrder": "v1",
            "timezone": timezone,
            "saveDataSuccessExecution": "all" if template.keep_successes else "none",
        },
    }


def _node(
    template: WorkflowTemplate, node: Node, kinds: Mapping[str, str], known: Parameters, files: _Files
) -> dict[str, Any]:
    identity = str(uuid.uuid5(_IDS, f"{template.name}/{node.name}"))
    made: dict[str, Any] = {
        "id": identity,
        "name": node.name,
        "type": node.type,
        "typeVersion": node.version,
        "position": [220 * node.at[0], 180 * node.at[1]],
        "parameters": files.filled(node.parameters, known),
    }
    if node.credential:
        made["credentials"] = {kinds[node.credential]: {"name": node.credential}}
    if node.type.endswith((".webhook", "Trigger")) and node.type not in _NO_WEBHOOK:
        made["webhookId"] = identity
    if node.on_error:
        made["onError"] = "continueErrorOutput"
    elif node.carry_on:
        made["onError"] = "continueRegularOutput"
    if node.tries > 1:
        made |= {"retryOnFail": True, "maxTries": node.tries, "waitBetweenTries": node.wait_ms}
    if node.always_output:
        made["alwaysOutputData"] = True
    if node.once:
        made["executeOnce"] = True
    return made


_NO_WEBHOOK = frozenset({"n8n-nodes-base.scheduleTrigger", "n8n-nodes-base.errorTrigger"})


def _connections(template: WorkflowTemplate) -> dict[str, Any]:
    made: dict[str, dict[str, list[list[dict[str, Any]]]]] = {}
    for link in template.links:
        outputs = made.setdefault(link.source, {"main": []})["main"]
        outputs += [[] for _ in range(link.output + 1 - len(outputs))]
        outputs[link.output].append({"node": link.target, "type": "main", "index": 0})
    return made


def secret_name(config_key: str) -> str:
    """The name of the stack's secret behind a configuration key: telegramBotToken -> config-telegram-bot-token."""
    return "config-" + "".join(f"-{char.lower()}" if char.isupper() else char for char in config_key)


def bundle(settings: Settings) -> Bundle:
    """Everything that the settings select. Parameters that are wrong are left to problems()."""
    files = _Files()
    workflows: list[dict[str, Any]] = []
    credentials: dict[str, dict[str, Any]] = {}
    for _, template in selected(settings):
        known, wrong = parameters(template, settings)
        if wrong:
            continue
        workflows.append(document(template, known, settings.timezone, files))
        for credential in template.credentials:
            credentials[credential.name] = _credential(credential, known, files)
    ordered = [credentials[name] for name in sorted(credentials)]
    return Bundle({"workflows": workflows, "credentials": ordered}, files.files)


def _credential(credential: Credential, known: Parameters, files: _Files) -> dict[str, Any]:
    return {"name": credential.name, "type": credential.type, "data": files.filled(credential.fields, known)}


# ---------------------------------------------------------------------------------------------------- the plan


def with_workflows(spec: ServiceSpec, settings: Settings) -> ServiceSpec:
    """The service that runs workflows, with the job that imports them and what they ask for; any other as it is."""
    job = spec.workflow_importer
    if job is None:
        return spec
    made = bundle(settings)
    templates = [template for _, template in selected(settings)]
    keys = sorted({item.key for template in templates for item in template.config_keys})
    databases = dict.fromkeys(name for template in templates for name in template.databases)
    text = _json(made.document)
    files = [File(name="workflows.json", source=Template((text,)))]
    files += [File(name=f"values/{name}", source=Template((value,))) for name, value in sorted(made.files.items())]
    return replace(
        spec,
        jobs=(*spec.jobs, replace(job, files=(*job.files, *files))),
        secrets=(*spec.secrets, *(Secret(secret_name(key), Provided(key), InTemplate()) for key in keys)),
        databases=(*spec.databases, *(Database(name) for name in databases)),
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def unknown(name: str) -> Problem:
    """That there is no template of this name."""
    names = known_names(found_templates.discover())
    fix = f"{did_you_mean(name, names)}Templates: {listed(names)}"
    return Problem(where="template", what=f"there is no template {shown(name)}", fix=fix)
