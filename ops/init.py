"""./kit init: a new stack by a few questions, or by flags alone. Nothing is written before everything is decided."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ops import console, planview
from ops.console import KitError
from ops.paths import ROOT
from stack import catalog, project, targets
from stack import plan as planning
from stack import settings as settings_module
from stack.automation import render, templates
from stack.automation.check import unfit_value
from stack.automation.template import WorkflowTemplate
from stack.model import Problem, SpecError, Target
from stack.plan import Plan
from stack.settings import KEYS, Kind, Settings, stack_file

SECTION = "ai-kit"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Something to decide: a configuration key, what a person is asked, and what there is to choose from."""

    key: str
    text: str
    choices: Callable[[], Mapping[str, str]] = dict
    wanted: Callable[[Mapping[str, Any]], bool] = lambda answers: True


def _targets() -> Mapping[str, str]:
    return {
        Target.DEV.value: "the computer in front of you",
        Target.PI.value: "a Raspberry Pi 5",
        Target.GPU.value: "a machine with an NVIDIA card",
    }


def _profiles() -> Mapping[str, str]:
    return catalog.profiles(catalog.discover())


def _run_workflows(names: Iterable[str]) -> bool:
    """Whether one of the profiles brings who runs workflows."""
    able = [spec for spec in catalog.discover() if spec.workflow_importer]
    return any(profile.name in names for spec in able for profile in spec.profiles)


def _templates() -> Mapping[str, str]:
    return {template.name: template.summary for template in templates.discover()}


QUESTIONS: tuple[Question, ...] = (
    Question(key="target", text="What kind of machine is it?", choices=_targets),
    Question(key="profiles", text="What is it for?", choices=_profiles),
    Question(key="domain", text="What shall all its host names end in?"),
    Question(key="adminEmail", text="What is the administrator's mail address?"),
    Question(key="models", text="Which models, by their names in Ollama's library?"),
    Question(
        key="workflows",
        text="Which workflow templates?",
        choices=_templates,
        wanted=lambda answers: _run_workflows(answers["profiles"]),
    ),
)


def run(arguments: argparse.Namespace) -> int:
    """0 once the file is written; 2 with every problem, and nothing written, when that could not be planned."""
    return create(arguments, ROOT, interactive=sys.stdin.isatty() and not arguments.yes)


def create(arguments: argparse.Namespace, root: Path, *, interactive: bool, ask: Callable[[str], str] = input) -> int:
    """What run() does, in any folder and with anybody to ask."""
    stack = arguments.name
    path = root / stack_file(stack)
    refuse_existing(path)
    answers = given(arguments, root)
    if interactive:
        console.say(f"A new stack, {stack}. Enter takes what is in brackets; Ctrl-C leaves everything as it was.\n")
        interview(stack, answers, set(answers) & _said(arguments), root, ask)
    answers.setdefault("workflowParameters", [])
    for key in [key for key, value in answers.items() if value == []]:
        del answers[key]
    plan, secrets = decide(root, stack, answers)
    text = rendered(stack, answers)
    width = shutil.get_terminal_size((120, 40)).columns
    console.say(planview.table(plan, width=width, bars=sys.stdout.isatty()).rstrip("\n"))
    console.say()
    if interactive and not _yes(ask, f"Write {path.name}?"):
        console.note("Nothing was written.")
        return 0
    write_new(path, text)
    console.done(f"{path.name} is written.")
    for key, meaning in secrets:
        console.note(f"before the first up: pulumi config set --secret {key} -s {stack}    # {meaning}")
    console.say(f"\nNext: ./kit up {stack}")
    return 0


def refuse_existing(path: Path) -> None:
    """KitError when the stack has a file already."""
    if path.exists() or path.is_symlink():
        raise KitError(
            f"{path.name} is there already, and is not overwritten.", "Choose another name, or edit it.", code=2
        )


# ---------------------------------------------------------------------------------------------------- answers


def given(arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The answers that flags give, and the defaults for all other questions."""
    schema = project.schema(root)
    defaults: dict[str, Any] = {
        "target": guess_target(),
        "profiles": list(schema["profiles"]["default"]),
        "domain": schema["domain"]["default"],
        "models": ["llama3.2:1b"],
        "workflows": [],
    }
    defaults["adminEmail"] = f"admin@{arguments.domain or defaults['domain']}"
    answers = {**defaults, **{key: value for key, value in _flags(arguments).items() if value is not None}}
    for text in arguments.set:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS:
            fix = "--set KEY=VALUE, for any key of docs/reference/config.md; lists with commas"
            raise KitError(f'--set "{text}" names no configuration key.', fix, code=2)
        answers[key] = as_kind(key, value)
    if arguments.parameter:
        answers["workflowParameters"] = list(arguments.parameter)
    return answers


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "target": arguments.target,
        "profiles": _words(arguments.profiles),
        "domain": arguments.domain,
        "adminEmail": arguments.admin_email,
        "models": _words(arguments.models),
        "workflows": _words(arguments.workflows),
    }


def _said(arguments: argparse.Namespace) -> set[str]:
    """The keys that flags decided: nobody is asked for them."""
    return {key for key, value in _flags(arguments).items() if value is not None} | {
        text.partition("=")[0] for text in arguments.set
    }


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def as_kind(key: str, text: str) -> Any:
    """A typed text as the value of a key. What it means is settings.load's to say."""
    match KEYS[key].kind:
        case Kind.ARRAY:
            return _words(text)
        case Kind.INTEGER if text.lstrip("-").isdigit():
            return int(text)
        case Kind.BOOLEAN if text in ("true", "false"):
            return text == "true"
        case _:
            return text


def guess_target() -> str:
    """The kind of this machine, as far as it shows."""
    with suppress(OSError):
        if "Raspberry Pi" in Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace"):
            return Target.PI.value
    if platform.system() == "Linux" and Path("/dev/nvidia0").exists():
        return Target.GPU.value
    return Target.DEV.value


def interview(stack: str, answers: dict[str, Any], decided: set[str], root: Path, ask: Callable[[str], str]) -> None:
    """Ask what flags did not decide; again, while an answer does not fit."""
    for question in QUESTIONS:
        if question.key in decided or not question.wanted(answers):
            continue
        if question.key == "adminEmail":
            answers["adminEmail"] = f"admin@{answers['domain']}"
        for name, meaning in question.choices().items():
            console.say(f"    {name:<20} {meaning}")
        _ask_key(stack, question.key, question.text, answers, root, ask)
        console.say()
    known = {template.name: template for template in templates.discover()}
    for name in answers["workflows"]:
        _ask_parameters(known[name], answers, ask)


def _ask_key(stack: str, key: str, text: str, answers: dict[str, Any], root: Path, ask: Callable[[str], str]) -> None:
    default = answers[key]
    shown = ", ".join(default) if isinstance(default, list) else str(default)
    while True:
        said = _answer(ask, f"{text} [{shown or 'none'}] ")
        value = default if not said else as_kind(key, "" if said == "none" else said)
        wrong = [problem for problem in _wrong_keys(root, stack, {**answers, key: value}) if _about(problem, key)]
        if key == "workflows":
            wrong += [render.unknown(name) for name in value if name not in _templates()]
        if not wrong:
            answers[key] = value
            return
        for problem in wrong:
            console.say(f"    {problem.what} {problem.fix}")


def _ask_parameters(template: WorkflowTemplate, answers: dict[str, Any], ask: Callable[[str], str]) -> None:
    """Those parameters of a workflow that have no default."""
    listed_ = answers.setdefault("workflowParameters", [])
    for parameter in template.parameters:
        key = f"{template.name}.{parameter.name}"
        if parameter.default is not None or any(item.startswith(f"{key}=") for item in listed_):
            continue
        while True:
            said = _answer(ask, f"{template.name}: {parameter.meaning}: ")
            unfit = unfit_value(parameter, said)
            if not unfit:
                listed_.append(f"{key}={said}")
                break
            console.say(f"    {said!r} {unfit}")


def _answer(ask: Callable[[str], str], prompt: str) -> str:
    try:
        return ask(prompt).strip()
    except EOFError:
        raise KitError("nobody answers.", "Give the answers as flags: ./kit init --help", code=2) from None


def _yes(ask: Callable[[str], str], question: str) -> bool:
    return _answer(ask, f"{question} [Y/n] ").lower() in ("", "y", "yes")


def _about(problem: Problem, key: str) -> bool:
    return problem.where == key or problem.where.startswith(f"{key}[")


# --------------------------------------------------------------------------------------------------- decisions


def _wrong_keys(root: Path, stack: str, answers: Mapping[str, Any]) -> Sequence[Problem]:
    try:
        _settings(root, stack, answers)
    except SpecError as error:
        return error.problems
    return ()


def _settings(root: Path, stack: str, answers: Mapping[str, Any]) -> Settings:
    defaults = {name: entry["default"] for name, entry in project.schema(root).items() if "default" in entry}
    return settings_module.load(stack, {**defaults, **answers}, from_engine=False)


def decide(root: Path, stack: str, answers: Mapping[str, Any]) -> tuple[Plan, list[tuple[str, str]]]:
    """The plan of the answers, and the secrets to set before the first `up`. SpecError with every problem."""
    services = catalog.discover()
    settings = _settings(root, stack, answers)
    # Secrets cannot be set before the stack has its file: they are told about, and are no problem here.
    assumed = replace(settings, provided_secrets=catalog.provided_keys(services))
    plan = planning.build(assumed, targets.profile(assumed), services)
    meanings = {item.key: item.meaning for _, template in render.selected(settings) for item in template.config_keys}
    return plan, sorted(meanings.items())


# ------------------------------------------------------------------------------------------------------- file


def rendered(stack: str, answers: Mapping[str, Any]) -> str:
    """The stack's file. JSON texts are YAML's too, so that no answer can become anything else."""
    lines = [f"# Stack {stack}, made by ./kit init. Every key and its default: docs/reference/config.md", "config:"]
    for key in KEYS:
        if key not in answers:
            continue
        value = answers[key]
        if isinstance(value, list):
            lines.append(f"  {SECTION}:{key}:")
            lines += [f"    - {_scalar(item)}" for item in value]
        else:
            lines.append(f"  {SECTION}:{key}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    text = str(value)
    plain = isinstance(value, str) and text.replace("-", "").isalnum() and text[0].isalpha()
    if plain and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off"):
        return text
    written = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in written)


def write_new(path: Path, text: str) -> None:
    """Write the whole file or nothing, and never over another."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(name, 0o644)
        try:
            os.link(name, path)
        except FileExistsError:
            refuse_existing(path)
    finally:
        os.unlink(name)
