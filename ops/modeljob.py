"""Runs the stack's own model job for one model, as `up` runs it for the list, and shows what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ops.console import KitError
from ops.engine import ApiError, DockerApi, EngineError
from ops.session import Session
from stack.derive import runtime
from stack.derive.runtime import JobPlan
from stack.derive.values import plain
from stack.plan import Plan

_LIST = "KIT_MODELS"


def job_of(plan: Plan) -> JobPlan:
    """The job that has models on the server. KitError when the stack has none."""
    for job in runtime.build(plan).jobs:
        if _LIST in job.env:
            return job
    raise KitError(f"stack {plan.stack} has no job that fetches models.", "./kit plan")


def fetch(session: Session, plan: Plan, model: str, *, refresh: bool, note: Callable[[str], None]) -> list[str]:
    """Have `model` on the server; newer weights under the same name with `refresh`. What the job said."""
    job = job_of(plan)
    name = f"{job.name}-one"
    docker = session.docker
    docker.remove_container(name, grace=0)
    try:
        docker.post(f"/containers/create?name={name}", container(job, model, refresh=refresh))
    except ApiError as error:
        if error.status == 404:
            raise KitError(f"the image {job.image} is not there yet.", f"./kit up {session.stack}") from error
        raise
    try:
        docker.post(f"/containers/{name}/start")
        said = _follow(docker, name, note, job.timeout_s)
        code = int(docker.post(f"/containers/{name}/wait", timeout=30)["StatusCode"])
    finally:
        docker.remove_container(name, grace=1)
    if code != 0:
        raise KitError(f"{model} is not to be had (exit code {code}).", "\n".join(said[-4:]))
    return said


def container(job: JobPlan, model: str, *, refresh: bool) -> dict[str, Any]:
    """The job's container for one model, in the engine's words. Its script, which holds no secret, is an argument."""
    script = "\n".join(plain(file.text) for file in job.files)
    env = {**job.env, _LIST: model, "KIT_REFRESH": "1" if refresh else ""}
    return {
        "Image": job.image,
        "User": job.user,
        "Entrypoint": ["/bin/bash", "-c"],
        "Cmd": [script],
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": dict(job.labels),
        "HostConfig": {
            "NetworkMode": job.networks[0].network,
            "Memory": job.memory_mb * 2**20,
            "MemorySwap": job.memory_mb * 2**20,
            "PidsLimit": 128,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=64m,mode=1777"},  # noqa: S108 - inside the container
            "Init": True,
        },
    }


def _follow(docker: DockerApi, name: str, note: Callable[[str], None], timeout_s: float) -> list[str]:
    """Its lines as they come, until it ends. KitError when that takes too long."""
    said: list[str] = []
    trouble: list[EngineError] = []

    def read() -> None:
        rest = ""
        try:
            for text in docker.stream_logs(name):
                *lines, rest = (rest + text).split("\n")
                for line in filter(str.strip, lines):
                    said.append(line.rstrip())
                    note(line.strip())
        except EngineError as error:
            trouble.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise KitError(f"it took longer than {timeout_s / 3600:.0f} h.", "Run it again: what is there is kept.")
    if trouble:
        raise trouble[0]
    return said
