"""The services of a plan as a service catalogue (Consul's agent configuration) names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from typing import Any

from stack import zones
from stack.model import Zone
from stack.plan import Plan, PlannedContainer, PlannedService

INTERVAL_S = 30
TIMEOUT_S = 5


def definitions(own: str, reach: Set[Zone]) -> Callable[[Plan], str]:
    """What makes the definitions for a catalogue named `own` that stands in the zones `reach`.

    One service per service of the plan, an instance of it per port of each container, tagged with the port's name.
    Its address is the container's name inside the stack. A check opens a connection, and only where the catalogue
    shares a zone with the container: others are listed without one, and Consul counts those as healthy without having
    looked.
    """

    def make(plan: Plan) -> str:
        found = [
            _instance(service, container, port.name, port.number, reach)
            for service in plan.running
            if service.name != own
            for container in service.containers
            for port in container.spec.ports
        ]
        return json.dumps({"services": found}, indent=2, sort_keys=True) + "\n"

    return make


def _instance(
    service: PlannedService, container: PlannedContainer, port: str, number: int, reach: Set[Zone]
) -> dict[str, Any]:
    shared = zones.shared(container.spec.zones, reach)
    instance: dict[str, Any] = {
        "id": f"{container.host_name}-{port}",
        "name": service.name,
        "address": container.host_name,
        "port": number,
        "tags": sorted({port, container.spec.name}),
        "meta": {
            "summary": service.spec.summary,
            "zones": " ".join(sorted(container.spec.zones)),
            "declared-in": service.spec.source,
        },
    }
    if shared:
        instance["check"] = {
            "name": f"{container.host_name} takes connections at {number}",
            "tcp": f"{container.host_name}:{number}",
            "interval": f"{INTERVAL_S}s",
            "timeout": f"{TIMEOUT_S}s",
        }
    return instance
