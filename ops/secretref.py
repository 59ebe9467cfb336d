"""docs/reference/secrets.md, made from the services' files: pytest --update-goldens writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stack import catalog, targets
from stack import plan as planning
from stack.automation import templates
from stack.derive import runtime
from stack.derive.runtime import ContainerPlan, JobPlan, Runtime, Text
from stack.derive.values import FrontPiece, LeafPiece, SecretPiece
from stack.model import CONFIG_DIR, Generated, Provided, ServiceSpec, Signed, Target
from stack.plan import Plan, PlannedSecret, SecretKey, docker_prefix
from stack.settings import Settings

HEAD = """\
<!-- Made from the services' files by ops/secretref.py. Change them there, then: pytest --update-goldens -->
# Secrets

Every secret of a stack that has every service, and everybody who gets to read it. A stack has those of its own
services. What to do when one leaks, and what none of this protects: [the security guide](../security.md).

*file*: on a volume of that container alone, mode 0400, owned by its user. *variable*: read from such a file by a
wrapper as the program starts, and then in the variables of its processes, which root on the host and the same user
inside can read; `docker inspect` does not show it. *job*: uploaded into a container that runs once.
`db:` is the password of a database's role, `oidc` the secret of a login client.

| secret | where it comes from | read by |
|---|---|---|
"""

WORKFLOWS = """
## Secrets of workflows

Set by the operator when the workflow is selected; written into n8n's credentials, which its database holds encrypted.

| config key | what it is |
|---|---|
"""

STACK = "x"
NO_CONTAINER = "no container: `up` tells the service, which keeps it in its own data"
CERTIFICATES = "private key of the certificates"


def everything() -> tuple[Plan, ...]:
    """Plans with every service, each secret provided that can be: one plain, and one more per option of a choice."""
    services = catalog.discover()
    plans = [_plan(services)]
    for spec in services:
        for option in (option for choice in spec.choices for option in choice.options.values()):
            chosen = replace(option(spec), choices=())
            plans.append(_plan(tuple(chosen if each.name == spec.name else each for each in services)))
    return tuple(plans)


def _plan(services: tuple[ServiceSpec, ...]) -> Plan:
    settings = Settings(
        stack=STACK,
        target=Target.GPU,
        profiles=tuple(catalog.profiles(services)),
        services=tuple(spec.name for spec in services if spec.certificate_provider),  # needed by a choice alone
        provided_secrets=catalog.provided_keys(services),
        memory_mb=2**20,
        disk_gb=2**12,
        gpu_memory_mb=2**16,
        cpus=256,
    )
    return planning.build(settings, targets.profile(settings), services)


def render(plans: tuple[Plan, ...]) -> str:
    """The page of all their secrets."""
    readers: dict[SecretKey | None, list[str]] = {}
    for plan in plans:
        for key, ways in read_by(runtime.build(plan)).items():
            known = readers.setdefault(key, [])
            known += [way for way in ways if way not in known]
    secrets = {secret.key: secret for plan in plans for secret in plan.secrets}
    lines: list[str] = []
    for _, secret in sorted(secrets.items()):
        lines.append(f"| {secret.key} | {_source(secret)} | {_list(readers.get(secret.key, ()))} |\n")
    lines.append(f"| {CERTIFICATES} | made once, renewed before it ends | {_list(readers.get(None, ()))} |\n")
    return HEAD + "".join(lines) + WORKFLOWS + "".join(_workflows())


def read_by(built: Runtime) -> dict[SecretKey | None, list[str]]:
    """Who gets each secret, and how; under None the private key of the stack's certificates."""
    found: dict[SecretKey | None, list[str]] = {}
    for step in built.steps:
        name = step.name.removeprefix(docker_prefix(STACK))
        for text, how in _texts(step):
            for piece in text:
                if isinstance(piece, SecretPiece | LeafPiece | FrontPiece):
                    ways = found.setdefault(piece.key if isinstance(piece, SecretPiece) else None, [])
                    if (way := f"{name}: {how}") not in ways:
                        ways.append(way)
    return found


def _texts(step: ContainerPlan | JobPlan) -> Iterator[tuple[Text, str]]:
    for file in step.files:
        if isinstance(step, JobPlan):
            yield file.text, "job"
        elif file.name.startswith("env/"):
            yield file.text, f"variable `{file.name.removeprefix('env/')}`"
        else:
            yield file.text, f"file `{CONFIG_DIR}/{file.name}`"
    if isinstance(step, ContainerPlan):
        for variable, text in step.secret_env.items():
            yield text, f"**plain variable `{variable}`**, in `docker inspect` too"
    elif step.grant:
        yield step.grant.password, "job"


def _source(secret: PlannedSecret) -> str:
    match secret.source:
        case Generated(config_key=key):
            return f"generated, or `{key}` of the operator" if key else "generated"
        case Provided(config_key=key):
            return f"`{key}` of the operator"
        case Signed(key=key):
            return f"signed with {secret.key.owner}/{key}"


def _list(ways: list[str] | tuple[str, ...]) -> str:
    return "; ".join(ways) if ways else NO_CONTAINER


def _workflows() -> Iterator[str]:
    seen = {item.key: item.meaning for template in templates.discover() for item in template.config_keys}
    for key, meaning in sorted(seen.items()):
        yield f"| `{key}` | {meaning} |\n"
