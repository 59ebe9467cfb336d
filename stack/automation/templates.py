"""Finds every template: each module in stack/workflows defines TEMPLATE, named as its file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

from stack.automation.check import template_problems
from stack.automation.template import WorkflowTemplate
from stack.model import Problem, SpecError

PACKAGE_DIR = Path(__file__).resolve().parent.parent / "workflows"


@cache
def discover() -> tuple[WorkflowTemplate, ...]:
    """Every template, by name. SpecError with every problem in every file."""
    return read(PACKAGE_DIR)


def read(directory: Path) -> tuple[WorkflowTemplate, ...]:
    """The templates of a folder."""
    found: list[WorkflowTemplate] = []
    problems: list[Problem] = []
    for path in sorted(directory.glob("*.py")):
        if not path.name.startswith("_"):
            template = read_file(path)
            if isinstance(template, WorkflowTemplate):
                found.append(template)
                problems += template_problems(template)
            else:
                problems.append(template)
    problems += _different_credentials(found)
    if problems:
        raise SpecError("The workflow templates cannot be used", tuple(problems))
    return tuple(found)


def read_file(path: Path) -> WorkflowTemplate | Problem:
    """The template in a file, or why there is none. What it holds is not checked here."""
    source = f"stack/workflows/{path.name}"
    name = path.stem.replace("_", "-")
    template = getattr(_module(path), "TEMPLATE", None)
    if not isinstance(template, WorkflowTemplate):
        fix = f'add TEMPLATE = WorkflowTemplate(name="{name}", ...)'
        return Problem(where=source, what="defines no TEMPLATE", fix=fix)
    if template.name != name:
        fix = f'a template is named as its file: name="{name}"'
        return Problem(where=source, what=f'TEMPLATE is named "{template.name}"', fix=fix)
    return replace(template, source=source)


def config_keys() -> frozenset[str]:
    """The configuration keys of the secrets that templates ask for."""
    return frozenset(item.key for template in discover() for item in template.config_keys)


def _module(path: Path) -> ModuleType:
    if path.parent == PACKAGE_DIR:
        return importlib.import_module(f"stack.workflows.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"_template_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _different_credentials(templates: list[WorkflowTemplate]) -> Iterator[Problem]:
    """Two templates that name the same credential mean the same one."""
    known: dict[str, tuple[str, object]] = {}
    for template in templates:
        for credential in template.credentials:
            owner, first = known.setdefault(credential.name, (template.name, credential))
            if first != credential:
                what = f'credential "{credential.name}" is another one in {owner}'
                yield Problem(where=template.source, what=what, fix="share one definition, or choose another name")
