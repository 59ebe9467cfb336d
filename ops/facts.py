"""Gathers what doctor.py decides about: everything at once, nothing changed, no question without a time limit."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ops import imagelock, pulumirun, source, subnets
from ops.certificates import shown
from ops.console import KitError
from ops.doctor import EngineFacts, Facts, GpuFacts, Passphrase, PortUse
from ops.engine import EngineError
from ops.enginestate import STACK_LABEL, compare, docker_resources, foreign, look
from ops.planview import used_images
from ops.session import Session
from ops.stackstate import SALT, lost_passphrase
from stack.plan import Plan, image_reference

T = TypeVar("T")
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


def gather(session: Session, plan: Plan | None, *, ask_registries: bool = True) -> Facts:
    """Every fact about the machine, the engine and the stack's state.

    ask_registries costs seconds where none answers; without it they count as answering.
    """
    remote = bool(session.docker_host)
    with ThreadPoolExecutor(max_workers=6, thread_name_prefix="facts") as pool:
        engine = pool.submit(engine_facts, session)
        state = pool.submit(_state, session)
        toolchain = pool.submit(_toolchain, session)
        registries = pool.submit(_registries, session, plan if ask_registries else None)
        unresolved = pool.submit(_unresolved, plan)
        found, trouble = engine.result()
        ports = _ports(session, plan) if found and plan and not remote else ()
        facts_of_state = state.result()
        versions, missing = toolchain.result()
        return Facts(
            engine=found,
            trouble=trouble,
            remote=remote,
            page_size=os.sysconf("SC_PAGESIZE"),
            arch=_ARCHES.get(platform.machine(), platform.machine()),
            year=datetime.now(UTC).year,
            engine_free_mb=_free_mb(found.root) if found and not remote else None,
            state_free_mb=_free_mb(str(session.state.home)),
            state_directory=str(session.state.home),
            ports=ports,
            unresolved=unresolved.result(),
            toolchain=versions,
            toolchain_missing=missing,
            images=session.chosen_images or source.REGISTRY,
            registries_silent=registries.result()[0],
            outside_s=registries.result()[1],
            written_s=_written(session),
            locks_gone=_gone(session, plan) if found else (),
            certificate=shown(plan) if plan else None,
            gpu=gpu_facts() if plan and plan.host.gpu and not remote else None,
            **facts_of_state,
            **(_damage(session) if found else {}),
        )


# ------------------------------------------------------------------------------------------------------- engine


def engine_facts(session: Session) -> tuple[EngineFacts | None, tuple[str, str]]:
    """What the engine says about itself, or why it does not answer and what to do."""
    try:
        info = session.docker.get("/info")
        version = session.docker.get("/version")
        images = session.docker.get("/images/json")
        networks = session.docker.get("/networks")
    except EngineError as error:
        return None, (error.what, error.fix)
    found = subnets.count(info, networks, () if session.docker_host else subnets.routes_of())
    return replace(_facts_of(info, version, images), subnets=found), ("", "")


def _facts_of(info: dict[str, Any], version: dict[str, Any], images: list[dict[str, Any]]) -> EngineFacts:
    held = {name for image in images for key in ("RepoTags", "RepoDigests") for name in image.get(key) or []}
    api = str(version.get("ApiVersion", "0.0")).split(".")
    runtimes = set(info.get("Runtimes") or {})
    if info.get("CDISpecDirs") and any(Path(directory).glob("*nvidia*") for directory in info["CDISpecDirs"]):
        runtimes.add("cdi")
    return EngineFacts(
        version=str(info.get("ServerVersion", "?")),
        api=(int(api[0]), int(api[1])),
        memory_limit=bool(info.get("MemoryLimit")),
        memory_mb=int(info.get("MemTotal", 0)) // 2**20,
        cpus=int(info.get("NCPU", 0)),
        arch=_ARCHES.get(str(info.get("Architecture")), str(info.get("Architecture"))),
        runtimes=frozenset(runtimes),
        system=str(info.get("OperatingSystem", "")),
        root=str(info.get("DockerRootDir", "/var/lib/docker")),
        skew_s=_skew(str(info.get("SystemTime", ""))),
        images=frozenset(held),
    )


def _skew(engine_time: str) -> float:
    """Seconds by which the engine's clock is ahead of ours; 0 when it does not say."""
    try:
        there = datetime.fromisoformat(engine_time)
    except ValueError:
        return 0.0
    return there.timestamp() - time.time()


def _damage(session: Session) -> dict[str, Any]:
    """Whether the state and what is on the host can belong together."""
    checkpoint = session.state.checkpoint
    pulumi = _pulumi_or_none(session)
    if checkpoint is None or pulumi is None or not session.state.exists():
        engine = look(session.docker.get, session.stack)
        return {"foreign": foreign((), engine)} if session.state.exists() is False else {}
    try:
        resources = docker_resources(pulumi.export())
    except KitError:
        return {}
    engine = look(session.docker.get, session.stack)
    return {"foreign": foreign(resources, engine), "lost_volumes": compare(resources, engine).lost}


# -------------------------------------------------------------------------------------------------------- ports


def wanted_ports(plan: Plan) -> list[tuple[str, int]]:
    """The host's addresses and ports that the plan publishes."""
    return sorted(
        {
            (
                "127.0.0.1" if publish.loopback_only else plan.settings.bind_address,
                publish.external(plan.settings),
            )
            for service in plan.running
            for container in service.containers
            for publish in container.spec.publish
        },
        key=lambda item: item[1],
    )


def _ports(session: Session, plan: Plan) -> tuple[PortUse, ...]:
    published = [
        (int(port["PublicPort"]), container)
        for container in session.docker.get("/containers/json")
        for port in container.get("Ports") or []
        if port.get("PublicPort")
    ]
    result: list[PortUse] = []
    for address, port in wanted_ports(plan):
        by = next((container for number, container in published if number == port), None)
        if by:
            labels = by.get("Labels") or {}
            name = (by.get("Names") or ["/?"])[0].lstrip("/")
            result.append(
                PortUse(address=address, port=port, stack=labels.get(STACK_LABEL, ""), holder=f"container {name}")
            )
            continue
        taken, missing = _taken(address, port)
        holder = (_holder(port) or "another program") if taken else ""
        result.append(PortUse(address=address, port=port, holder=holder, address_missing=missing))
    return tuple(result)


def _taken(address: str, port: int) -> tuple[bool, bool]:
    """Whether somebody listens there, and whether the address is missing on this machine."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False, True
            if error.errno == errno.EACCES:  # a low port, which the engine may use though we may not
                return _answers(address, port), False
            return error.errno == errno.EADDRINUSE, False
    return False, False


def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=0.5):
        return True
    return False


def _holder(port: int) -> str:
    """'nginx (pid 812)' for the process that listens, "" where it cannot be seen (other users' processes)."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(os.readlink(entry) in inodes for entry in directory.iterdir()):
                program = (directory.parent / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{program} (pid {directory.parent.name})"
    return ""


# -------------------------------------------------------------------------------------------------------- others


def _free_mb(path: str) -> int | None:
    """What a user can still write there, at the nearest directory that exists."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free // 2**20
    except OSError:
        return None


def _toolchain(session: Session) -> tuple[dict[str, str], tuple[str, ...]]:
    toolchain = session.toolchain_or_none()
    if toolchain is None:
        return {}, ("Pulumi",)
    return {"pulumi": toolchain.version, "plugins": toolchain.plugin_mode}, ()


def _gone(session: Session, plan: Plan | None) -> tuple[imagelock.Gone, ...]:
    """Locked images that can be had nowhere any more."""
    if plan is None or session.chosen_images == source.AIRGAP:
        return ()
    references = ((pin, image_reference(plan.settings, pin)[0].partition("@")[2]) for pin in used_images(plan))
    locked = [(pin, digest) for pin, digest in references if digest]
    return imagelock.gone(locked, session.docker.get("/images/json")) if locked else ()


def gpu_facts(root: Path = Path("/")) -> GpuFacts:
    """What this machine says about an NVIDIA card, without starting anything of the vendor's."""
    devices = list((root / "sys/bus/pci/devices").glob("*/vendor"))
    card = any(_first_line(path) == "0x10de" for path in devices)
    driver = _first_line(root / "proc/driver/nvidia/version")
    version = re.search(r"\s(\d+(?:\.\d+)+)\s", f"{driver} ")
    program = "nvidia-ctk" if root == Path("/") else str(root / "usr/bin/nvidia-ctk")
    return GpuFacts(
        card=card if devices else None,
        driver=version[1] if version else driver,
        smi=shutil.which("nvidia-smi") is not None if root == Path("/") else (root / "usr/bin/nvidia-smi").exists(),
        toolkit=shutil.which(program) is not None,
    )


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
    except (OSError, IndexError):
        return ""


def _registries(session: Session, plan: Plan | None) -> tuple[tuple[str, ...], float | None]:
    """Those that do not answer, and by how much the clocks of those that do are ahead of ours: of the nearest one."""
    if plan is None or session.chosen_images == source.AIRGAP:
        return (), None
    found = source.probe(source.registry_hosts(pin.repository for pin in used_images(plan)))
    clocks = [item.clock_s for item in found if item.clock_s is not None]
    return tuple(item.host for item in found if not item.answers), min(clocks, key=abs, default=None)


def _written(session: Session) -> float | None:
    """By how much the time at which the state was last written is ahead of ours; None where there is no such file."""
    checkpoint = session.state.checkpoint
    with contextlib.suppress(OSError):
        return checkpoint.stat().st_mtime - time.time() if checkpoint else None
    return None


def _unresolved(plan: Plan | None) -> tuple[str, ...]:
    if plan is None or plan.settings.domain.endswith("localhost"):
        return ()
    names = plan.host_names
    return tuple(name for name, known in zip(names, _at_once(_resolves, names), strict=True) if not known)


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, 443))
    except OSError:
        return False


def _at_once(function: Callable[[str], T], items: Iterable[str]) -> list[T]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, items))


def _pulumi_or_none(session: Session) -> pulumirun.Pulumi | None:
    toolchain = session.toolchain_or_none()
    if toolchain is None or session.state.passphrase_lost():
        return None
    return session.pulumi(toolchain)


def _state(session: Session) -> dict[str, Any]:
    """What can be said about the state's passphrase and locks."""
    state = session.state
    fits, problem = _passphrase(session)
    result: dict[str, Any] = {"passphrase": fits, "passphrase_problem": problem}
    for lock in state.locks():
        if pulumirun.abandoned(lock):
            result["stale_locks"] = result.get("stale_locks", 0) + 1
        else:
            result["lock_problem"] = pulumirun.held(lock)
    return result


def _passphrase(session: Session) -> tuple[Passphrase | None, tuple[str, str]]:
    state = session.state
    if state.passphrase_lost():
        return Passphrase.UNFIT, lost_passphrase(state.home / "passphrase", state.stack)
    if state.exists() is False:
        return Passphrase.NEW, ("", "")
    pulumi = _pulumi_or_none(session)
    if pulumi is None:
        return None, ("", "")
    try:
        salt = state.operator_config().get(SALT) or state.merged_config().get(SALT) or pulumi.recorded_salt()
        if salt and not pulumi.passphrase_fits({SALT: salt}):
            return Passphrase.UNFIT, pulumirun.wrong_passphrase(state)
    except KitError as error:
        return Passphrase.UNFIT, (error.what, error.fix)
    return Passphrase.FITS, ("", "")
