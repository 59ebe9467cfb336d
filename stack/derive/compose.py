"""Plan -> a docker compose project of the same containers, volumes, networks and jobs.

What Pulumi adds (realm, clients, change markers) has no place in it: it is the peer that bench/ measures
against. Files arrive the way the stack delivers them: a one-shot service copies them into a volume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stack.derive.runtime import ContainerPlan, FilePlan, JobPlan, NetworkOfZone, Runtime, Text
from stack.model import CONFIG_DIR


@dataclass(frozen=True)
class ComposeProject:
    """The compose document (to be dumped as YAML) and the files it binds: relative path -> text."""

    document: Mapping[str, Any]
    files: Mapping[str, str]


def project(runtime: Runtime, name: str, read: Callable[[Text], str]) -> ComposeProject:
    """The compose project of a runtime. `read` gives a text with its secrets filled in.

    Bound files lie under ./files/<container or job>/; whoever writes them keeps them private.
    """
    services: dict[str, Any] = {}
    files: dict[str, str] = {}
    jobs = {job.name for job in runtime.jobs}
    for step in runtime.steps:
        for file in step.files:
            files[f"files/{step.name}/{file.name}"] = read(file.text)
        if isinstance(step, JobPlan):
            if step.grant:
                files[f"files/{step.name}/password"] = read(step.grant.password)
            if not step.reloads:  # compose restarts on change; nothing is reloaded
                services[step.name] = _job(step, jobs)
            continue
        delivery = f"{step.name}-files"
        needs = _depends(step.after, jobs)
        if step.files or step.ownership:
            services[delivery] = _delivery(step, runtime.tools_image)
            guards = runtime.guards(step)
            if guards:
                services[delivery]["depends_on"] = _depends(guards, jobs)
            needs[delivery] = {"condition": "service_completed_successfully"}
        services[step.name] = _container(step, needs, read)
    config_volumes = [step.config_volume for step in runtime.containers if step.config_volume]
    volumes = [volume.name for volume in runtime.volumes] + config_volumes
    document = {
        "name": name,
        "services": services,
        "networks": {n.name: _network(n) for n in runtime.networks},
        "volumes": {volume: {"name": volume} for volume in volumes},
    }
    return ComposeProject(document=document, files=files)


def _network(network: NetworkOfZone) -> dict[str, Any]:
    written: dict[str, Any] = {"name": network.name, "internal": network.internal, "labels": dict(network.labels)}
    if network.isolated:
        written["driver_opts"] = {"com.docker.network.bridge.enable_icc": "false"}
    return written


def delivery_script(files: tuple[FilePlan, ...], owner: str) -> str:
    """The shell that copies /in to /out with modes, and hands it to its reader."""
    lines = ["set -eu"]
    for file in files:
        folder = file.name.rpartition("/")[0]
        lines += [f"mkdir -p /out/{folder}"] if folder else []
        lines += [f"cp /in/{file.name} /out/{file.name}", f"chmod {file.mode} /out/{file.name}"]
    if files:
        lines.append(f"chown -R {owner} /out")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Compose reads $ as the start of a variable."""
    return text.replace("$", "$$")


def _depends(after: tuple[str, ...], jobs: set[str]) -> dict[str, Any]:
    return {
        name: {"condition": "service_completed_successfully" if name in jobs else "service_healthy"} for name in after
    }


def _delivery(step: ContainerPlan, tools_image: str) -> dict[str, Any]:
    volumes = [f"./files/{step.name}:/in:ro", f"{step.config_volume}:/out"] if step.files else []
    script = [delivery_script(step.files, step.user)]
    for number, owned in enumerate(step.ownership):
        volumes.append(f"{owned.volume}:/own/{number}")
        script.append(f"chown {owned.owner} /own/{number} && chmod {owned.mode} /own/{number}")
    return {
        "image": tools_image,
        "container_name": f"{step.name}-files",
        "user": "0:0",
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "cap_add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"],
        "command": ["/bin/sh", "-c", _escape("\n".join(script))],
        "volumes": volumes,
        "restart": "no",
        "labels": {**step.labels, "aikit.kind": "job"},
    }


def _container(step: ContainerPlan, needs: Mapping[str, Any], read: Callable[[Text], str]) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": step.image,
        "container_name": step.name,
        "user": step.user,
        "environment": {
            **{name: _escape(value) for name, value in step.env.items()},
            **{name: _escape(read(text)) for name, text in step.secret_env.items()},
        },
        "volumes": [f"{m.volume}:{m.path}{':ro' if m.read_only else ''}" for m in step.mounts],
        "networks": {n.network: {"aliases": list(n.aliases)} for n in step.networks},
        "ports": [f"{p.ip}:{p.external}:{p.internal}" for p in step.publish],
        "healthcheck": {
            "test": ["CMD", *(_escape(part) for part in step.health.argv)],
            "interval": f"{step.health.interval_s}s",
            "timeout": f"{step.health.timeout_s}s",
            "retries": step.health.retries,
            "start_period": f"{step.health.start_period_s}s",
        },
        "mem_limit": f"{step.limits.memory_mb}m",
        "memswap_limit": f"{step.limits.memory_mb}m",
        "cpus": step.limits.cpus,
        "pids_limit": step.limits.pids,
        "read_only": step.read_only,
        "tmpfs": [f"{path}:size={size}m" for path, size in step.tmpfs.items()],
        "cap_drop": ["ALL"],
        "cap_add": [name.removeprefix("CAP_") for name in step.capabilities],
        "security_opt": ["no-new-privileges"],
        "restart": "unless-stopped",
        "stop_grace_period": f"{step.stop_grace_s}s",
        "labels": dict(step.labels),
        "depends_on": dict(needs),
    }
    if step.limits.shm_mb:
        service["shm_size"] = f"{step.limits.shm_mb}m"
    if step.limits.cpuset:
        service["cpuset"] = step.limits.cpuset
    if step.entrypoint:
        service["entrypoint"] = [_escape(part) for part in step.entrypoint]
    if step.command:
        service["command"] = [_escape(part) for part in step.command]
    return {key: value for key, value in service.items() if value not in ({}, [])}


def _grant(step: JobPlan) -> dict[str, str]:
    """What components/database.py tells the database provider's job (DatabaseProvider in model.py)."""
    if step.grant is None:
        return {}
    extensions = " ".join(step.grant.extensions)
    return {"KIT_DATABASE": step.grant.database, "KIT_ROLE": step.grant.role, "KIT_EXTENSIONS": extensions}


def _job(step: JobPlan, jobs: set[str]) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": step.image,
        "container_name": step.name,
        "user": step.user,
        "environment": {name: _escape(value) for name, value in {**step.env, **_grant(step)}.items()},
        "volumes": [f"{m.volume}:{m.path}{':ro' if m.read_only else ''}" for m in step.mounts]
        + ([f"./files/{step.name}:{CONFIG_DIR}:ro"] if step.files else []),
        "mem_limit": f"{step.memory_mb}m",
        "memswap_limit": f"{step.memory_mb}m",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "restart": "no",
        "labels": dict(step.labels),
        "depends_on": _depends(step.after, jobs),
        "command": [_escape(part) for part in step.command],
    }
    if step.entrypoint:
        service["entrypoint"] = [_escape(part) for part in step.entrypoint]
    if step.networks:
        service["networks"] = {n.network: {"aliases": list(n.aliases)} for n in step.networks}
    else:
        service["network_mode"] = "none"
    return {key: value for key, value in service.items() if value not in ({}, [])}
