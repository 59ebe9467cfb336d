"""./kit workflow: the templates, what n8n has of them, and how their runs went."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ops import cli, console
from ops.console import KitError
from ops.engine import DockerApi, EngineError
from ops.paths import ROOT
from ops.progress import duration
from ops.session import Session
from stack import settings as settings_module
from stack.automation import check, render, templates
from stack.automation.template import Parameter, WorkflowTemplate
from stack.model import FromSettings, Problem, Ref, SpecError
from stack.plan import Plan, PlannedService
from stack.settings import Settings
from stack.words import did_you_mean, listed

PROGRAM = Path(__file__).with_suffix(".js")


def run(arguments: argparse.Namespace) -> int:
    """0; 1 when what was asked for is not there, 2 when a file or a template has problems."""
    action = arguments.action or "list"
    if not arguments.action and arguments.name:
        fix = f"{did_you_mean(arguments.name, _ACTIONS)}./kit workflow [{'|'.join(_ACTIONS)}]"
        raise KitError(f'./kit workflow has no "{arguments.name}".', fix, code=2)
    if action in ("show", "export", "check", "remove") and not arguments.name:
        raise KitError(f"./kit workflow {action} needs a name.", "./kit workflow --help", code=2)
    cli.check_stack(ROOT, arguments.stack)
    return _ACTIONS[action](arguments)


# ------------------------------------------------------------------------------------------------------- n8n


def runner_of(plan: Plan) -> PlannedService:
    """The service that runs workflows. KitError when the plan has none."""
    for service in plan.running:
        if service.spec.workflow_importer:
            return service
    what = f"nothing in stack {plan.stack} runs workflows."
    raise KitError(what, "Add automation to its profiles, then ./kit up.")


def ask(plan: Plan, verb: str, **asked: object) -> Any:
    """What n8n answers its owner. KitError when it does not run, or does not like the question."""
    service = runner_of(plan)
    container = service.containers[0]
    request = json.dumps({"verb": verb, **asked, "owner": plan.settings.admin_email})
    api = DockerApi(plan.settings.docker_host)
    try:
        code, printed, complaints = api.execute(
            container.docker_name, ("node", "-e", PROGRAM.read_text(encoding="utf-8"), request), timeout=180
        )
    except EngineError as failed:
        raise KitError(
            f"{service.name} of stack {plan.stack} cannot be asked: {failed}", f"./kit up {plan.stack}"
        ) from None
    if code:
        words = " ".join((complaints or printed).split())[-300:]
        raise KitError(f"{service.name} says: {words or f'it ended with {code}'}", f"./kit status {plan.stack}")
    return json.loads(printed)


def _asked(session: Session, verb: str, **asked: object) -> Any:
    return ask(session.plan(), verb, **asked)


# ------------------------------------------------------------------------------------------------- templates


def _list(arguments: argparse.Namespace) -> int:
    """Every template, whether this stack selects it, and what n8n says of it where that can be asked."""
    settings = settings_of(arguments.stack)
    there, unknown = _there(arguments.stack)
    rows: list[dict[str, Any]] = []
    for template in templates.discover():
        found = there.pop(render.workflow_id(template.name), None)
        rows.append(
            {
                "name": template.name,
                "summary": template.summary,
                "selected": template.name in settings.workflows,
                "inN8n": None if unknown else found is not None,
                "active": None if unknown else bool(found and found["active"]),
            }
        )
    if arguments.json:
        console.say(json.dumps({"templates": rows, "others": list(there.values()), "problem": unknown}, indent=2))
        return 0
    cells = [("template", "selected", "in n8n", "what it does")]
    cells += [(row["name"], _yes(row["selected"]), _state(row), row["summary"]) for row in rows]
    for line in console.table(cells):
        console.say(f"  {line}")
    console.say()
    if unknown:
        console.note(f"n8n was not asked: {unknown}")
    elif there:
        others = ", ".join(sorted(str(item["name"]) for item in there.values()))
        console.note(f"Workflows of your own, which ./kit leaves alone: {others}")
    console.note(f"./kit workflow show TEMPLATE says how to select one for stack {arguments.stack}.")
    return 0


def settings_of(stack: str) -> Settings:
    """The settings, even of a stack that cannot be planned yet: its secrets may be what somebody looks for here."""
    return settings_module.from_files(ROOT, stack, overrides=Session(stack).overrides())


def _there(stack: str) -> tuple[dict[str, Mapping[str, Any]], str]:
    """n8n's workflows by id; or why it was not asked."""
    try:
        return {item["id"]: item for item in ask(Session(stack).plan(), "list")}, ""
    except KitError as problem:
        return {}, problem.what
    except SpecError:
        return {}, f"stack {stack} cannot be planned yet (./kit plan {stack})."


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _state(row: Mapping[str, Any]) -> str:
    if row["inN8n"] is None:
        return "?"
    return ("active" if row["active"] else "switched off") if row["inN8n"] else "no"


def _template(name: str) -> WorkflowTemplate:
    known = {template.name: template for template in templates.discover()}
    if name not in known:
        fix = f"{did_you_mean(name, known)}Templates: {listed(known)}"
        raise KitError(f'there is no template "{name}".', fix, code=2)
    return known[name]


def _show(arguments: argparse.Namespace) -> int:
    """A template: what it does, what it can be told, what it needs, and the workflow itself with --workflow."""
    template = _template(arguments.name)
    settings = settings_of(arguments.stack)
    values, wrong = render.parameters(template, settings)
    if arguments.workflow:
        if wrong:
            raise SpecError(f"{template.name} cannot be made for stack {settings.stack}", tuple(wrong))
        console.say(json.dumps(render.document(template, values, settings.timezone), indent=2, ensure_ascii=False))
        return 0
    if arguments.json:
        found = {
            "name": template.name,
            "summary": template.summary,
            "selected": template.name in settings.workflows,
            "parameters": [
                {
                    "name": item.name,
                    "kind": item.kind.value,
                    "meaning": item.meaning,
                    "default": _default(item),
                    "value": _shown(values.get(item.name)),
                }
                for item in template.parameters
            ],
            "secrets": [{"key": item.key, "meaning": item.meaning} for item in template.config_keys],
            "credentials": [{"name": item.name, "type": item.type} for item in template.credentials],
            "databases": list(template.databases),
        }
        console.say(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    console.say(f"{template.name}: {template.summary}")
    console.say()
    cells = [("parameter", "kind", "here", "meaning")]
    cells += [(p.name, p.kind.value, _shown(values.get(p.name)) or "not set", p.meaning) for p in template.parameters]
    for line in console.table(cells):
        console.say(f"  {line}")
    for title, lines in (
        ("credentials it gets in n8n", [f"{item.name} ({item.type})" for item in template.credentials]),
        ("databases of its own", list(template.databases)),
    ):
        if lines:
            console.say(f"\n  {title}: {', '.join(lines)}")
    _say_how(template, settings)
    return 0


def _say_how(template: WorkflowTemplate, settings: Settings) -> None:
    """What is to be done before the stack has it."""
    needed = [item for item in template.parameters if item.default is None and _unsaid(template, item, settings)]
    secrets = [item for item in template.config_keys if item.key not in settings.provided_secrets]
    if template.name in settings.workflows and not needed and not secrets:
        console.say(f"\nStack {settings.stack} selects it, and everything it needs is set.")
        return
    console.say("\nTo have it in this stack:")
    if template.name not in settings.workflows or needed:
        console.say(f"  in {settings_module.stack_file(settings.stack)}, under config:")
        console.say("    ai-kit:workflows:")
        for name in dict.fromkeys((*settings.workflows, template.name)):
            console.say(f"      - {name}")
        if needed:
            console.say("    ai-kit:workflowParameters:")
        for item in needed:
            console.say(f'      - "{template.name}.{item.name}=..."')
    for item in secrets:
        console.say(f"  pulumi config set --secret {item.key} -s {settings.stack}    # {item.meaning}")
    console.say(f"  ./kit up {settings.stack}")


def _unsaid(template: WorkflowTemplate, parameter: Parameter, settings: Settings) -> bool:
    return f"{template.name}.{parameter.name}" not in settings.workflow_parameters


def _default(parameter: Parameter) -> str | None:
    return None if isinstance(parameter.default, FromSettings) else _shown(parameter.default) or None


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case Ref(service, port):
            return f"{service} of this stack ({port})"
        case _:
            return str(value)


# ------------------------------------------------------------------------------------------ what n8n has


def _export(arguments: argparse.Namespace) -> int:
    """A workflow as JSON, without what belongs to this n8n; what else keeps it from being a template, on stderr."""
    found = _asked(Session(arguments.stack), "export", name=arguments.name)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    console.say(text)
    problems = check.exported_problems(arguments.name, text)
    if problems:
        count = f"{len(problems)} thing{'s' if len(problems) != 1 else ''}"
        what = f"{count} in it should not travel."
        console.complain(KitError(what, f"./kit workflow export {arguments.name} > FILE; ./kit workflow check FILE"))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    """How runs went, newest first. No data of any run is shown."""
    runs = _asked(Session(arguments.stack), "history", name=arguments.name or "", limit=arguments.limit)
    if arguments.json:
        console.say(json.dumps(runs, indent=2))
        return 0
    if not runs:
        console.say("No runs are written down. Workflows may keep failures only: docs/workflows.md")
        return 0
    cells = [("run", "workflow", "status", "began", "took", "failed")]
    for item in runs:
        took = "" if item["seconds"] is None else duration(float(item["seconds"]))
        began = _local(str(item["started"] or ""))
        cells.append((item["id"], item["workflow"], item["status"], began, took, item["error"]))
    for line in console.table(cells, right=frozenset({0, 4})):
        console.say(f"  {line}")
    return 0


def _local(moment: str) -> str:
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%d %b %H:%M:%S")
    except ValueError:
        return moment


def _remove(arguments: argparse.Namespace) -> int:
    """Delete one workflow from n8n, with its runs. One that the settings select would come back: that is refused."""
    session = Session(arguments.stack)
    plan = session.plan()
    if arguments.name in plan.settings.workflows:
        fix = f"Take it out of workflows in Pulumi.{plan.stack}.yaml first, then ./kit up {plan.stack}."
        raise KitError(f"{arguments.name} is among the workflows of stack {plan.stack}.", fix, code=2)
    removed = ask(plan, "remove", name=arguments.name)
    console.done(f"{arguments.name} ({removed['id']}) is gone, with its runs. Its credentials and databases stay.")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Whether a file can be a template: JSON as n8n exports it, or a template's Python file."""
    path = Path(arguments.name)
    if not path.is_file():
        raise KitError(f"there is no file {path}.", "Export one: ./kit workflow export NAME > FILE", code=2)
    if path.suffix == ".py":
        template = templates.read_file(path.resolve())
        problems = [template] if isinstance(template, Problem) else check.template_problems(template)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise KitError(f"{path} is no text.", "Give it JSON as n8n exports it, in UTF-8.", code=2) from None
        problems = check.exported_problems(path.name, text)
    if arguments.json:
        console.say(json.dumps([{"where": p.where, "what": p.what, "fix": p.fix} for p in problems], indent=2))
        return 2 if problems else 0
    if problems:
        raise SpecError(f"{path.name} cannot be a template yet", tuple(problems))
    console.done(f"{path.name} holds nothing of one installation.")
    return 0


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "history": _history,
    "remove": _remove,
    "check": _check,
}
