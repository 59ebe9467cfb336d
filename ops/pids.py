"""The one limit the Docker provider has no argument for: how many processes a container may have.

The program writes it down as the label aikit.pids; here the engine is told. It survives restarts of container and
host, and the provider neither reads nor changes it. After a plain `pulumi up` it is missing until the next ./kit up.
"""

from __future__ import annotations

from ops.engine import DockerApi
from ops.enginestate import look

PIDS_LABEL = "aikit.pids"


def apply(docker: DockerApi, stack: str) -> tuple[str, ...]:
    """Set the limit on every container of the stack that asks for another one than it has; their names."""
    changed: list[str] = []
    for container in look(docker.get, stack).containers:
        wanted = container.labels.get(PIDS_LABEL, "")
        if not wanted.isdigit() or container.state != "running":
            continue
        if docker.get(f"/containers/{container.id}/json")["HostConfig"].get("PidsLimit") != int(wanted):
            docker.post(f"/containers/{container.id}/update", {"PidsLimit": int(wanted)})
            changed.append(container.name)
    return tuple(changed)
