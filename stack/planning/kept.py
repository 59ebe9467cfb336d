"""What of a stack's state belongs to services that are not selected any more: it is kept, and nothing of it runs."""

from __future__ import annotations

from collections.abc import Iterable, Set

from stack import rotation
from stack.model import Problem, ServiceSpec
from stack.plan import Plan, docker_prefix, volume_name


def persistent_names(stack: str, spec: ServiceSpec) -> frozenset[str]:
    """What a service has that outlives it, as Pulumi's state calls it: data volumes, and secrets.

    Secrets by their first generation, which is kept beside the later ones.
    """
    volumes = {volume_name(stack, spec.name, volume.name) for volume in spec.volumes}
    secrets = {rotation.resource_name(each.owner, each.name) for each in rotation.candidates((spec,), (), None, None)}
    return frozenset(volumes | secrets)


def kept(plan: Plan, catalog: Iterable[ServiceSpec], lasting: Set[str]) -> tuple[str, ...]:
    """The services that have something in the state and are not in the plan. lasting: names of what stays there."""
    selected = {service.name for service in plan.services}
    return tuple(
        sorted(
            spec.name for spec in catalog if spec.name not in selected and persistent_names(plan.stack, spec) & lasting
        )
    )


def unclaimed(plan: Plan, lasting: Set[str]) -> tuple[Problem, ...]:
    """The data volumes in the state that no service has any more, such as one whose file is gone."""
    prefix = docker_prefix(plan.stack)
    known = {name for service in plan.services for name in persistent_names(plan.stack, service.spec)}
    return tuple(
        Problem(
            where=f"volume {name}",
            what="is in the state, and no service of stack/services has it any more",
            fix="put the service's file back, or give the volume up: pulumi state unprotect and pulumi state delete "
            "take it out of the state and leave it on the host",
        )
        for name in sorted(lasting)
        if name.startswith(prefix) and name not in known
    )
