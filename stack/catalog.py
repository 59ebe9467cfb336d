"""Finds every service: each module in services/ defines SERVICE, named as its file. There is no list to keep."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from stack.automation import templates
from stack.model import Problem, ServiceSpec, Signed, SpecError

PACKAGE_DIR = Path(__file__).resolve().parent / "services"


def discover(package_dir: Path | None = None) -> tuple[ServiceSpec, ...]:
    """Every service, by name. SpecError when a file does not define one as it must.

    `source` of each is its file, relative to the project. A file that cannot be imported raises its own
    exception: the traceback shows the line to its author.
    """
    directory = package_dir or PACKAGE_DIR
    found: list[ServiceSpec] = []
    problems: list[Problem] = []
    for path in sorted(directory.glob("*.py")):
        if path.name.startswith("_"):
            continue
        spec = _service(path, _module(path, standard=package_dir is None))
        if isinstance(spec, Problem):
            problems.append(spec)
        else:
            found.append(spec)
    problems += _profile_problems(found)
    if problems:
        raise SpecError("The services cannot be read", tuple(problems))
    return tuple(sorted(found, key=lambda spec: spec.name))


def provided_keys(services: Iterable[ServiceSpec]) -> frozenset[str]:
    """The config keys under which services expect secrets from the operator, or take them; workflows' included."""
    services = tuple(services)
    made_of = (spec for each in services for spec in (each, *_options(each)))
    sources = (secret.source for spec in made_of for secret in spec.secrets)
    found = (source.config_key for source in sources if not isinstance(source, Signed))
    of_workflows = templates.config_keys() if any(spec.workflow_importer for spec in services) else frozenset[str]()
    return frozenset(key for key in found if key) | of_workflows


def _options(spec: ServiceSpec) -> Iterator[ServiceSpec]:
    """The service as each option of its choices alone would have it."""
    return (option(spec) for choice in spec.choices for option in choice.options.values())


def members(services: Iterable[ServiceSpec], profile: str) -> list[ServiceSpec]:
    """The services that say they belong to a profile. What these need comes with them."""
    return [spec for spec in services if profile in {each.name for each in spec.profiles}]


def profiles(services: Iterable[ServiceSpec]) -> Mapping[str, str]:
    """What each profile is for, by its name."""
    members = sorted({profile for spec in services for profile in spec.profiles})
    return {profile.name: profile.summary for profile in members if profile.summary}


def _profile_problems(services: Iterable[ServiceSpec]) -> Iterator[Problem]:
    """A profile is described by one of its services, and by one alone."""
    found: dict[str, list[ServiceSpec]] = {}
    for spec in services:
        for profile in spec.profiles:
            found.setdefault(profile.name, [])
            if profile.summary:
                found[profile.name].append(spec)
    for name, speakers in sorted(found.items()):
        if not speakers:
            fix = f'say it in one of its services: Profile("{name}", "...")'
            first = members(services, name)[0]
            yield Problem(where=first.source, what=f'nobody says what profile "{name}" is for', fix=fix)
        if len(speakers) > 1:
            fix = f'leave it to one of them: Profile("{name}") in the others'
            what = f'profile "{name}" is described in {" and ".join(spec.source for spec in speakers)}'
            yield Problem(where=speakers[1].source, what=what, fix=fix)


def _module(path: Path, *, standard: bool) -> ModuleType:
    """The module of a file: a member of stack.services, or a loose one outside of sys.modules."""
    if standard:
        return importlib.import_module(f"stack.services.{path.stem}")
    name = f"_catalog_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def _service(path: Path, module: ModuleType) -> ServiceSpec | Problem:
    source = f"stack/services/{path.name}"
    name = path.stem.replace("_", "-")
    spec = getattr(module, "SERVICE", None)
    if not isinstance(spec, ServiceSpec):
        return Problem(where=source, what="defines no SERVICE", fix=f'add SERVICE = ServiceSpec(name="{name}", ...)')
    if spec.name != name:
        return Problem(
            where=source,
            what=f'SERVICE is named "{spec.name}"',
            fix=f'a service is named as its file: name="{name}", or move it to {spec.name.replace("-", "_")}.py',
        )
    return replace(spec, source=source)
