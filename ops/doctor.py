"""Pre-flight: is this machine fit for this plan? Facts are gathered in facts.py; deciding about them is pure.

Every finding says what was looked at, what is wrong, and the command or setting that mends it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ops import console
from ops.certificates import Shown, mending
from ops.console import KitError
from ops.engine import EngineError
from ops.imagelock import Gone
from ops.planview import used_images
from ops.subnets import Subnets
from stack.derive import runtime
from stack.model import Arch, ImageSource, Problem
from stack.plan import Plan

if TYPE_CHECKING:
    from ops.session import Session

MINIMUM_API = (1, 41)  # what Debian 12 ships, and what the tests run on
MINIMUM_STATE_MB = 200
BUILD_MB = 8000  # bases, build caches and the images that are made of them, where none can be pulled
EARLIEST_YEAR = 2026  # a clock before the first release is a clock that was never set
MAX_SKEW_S = 30


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding. `name` is what was looked at; `fix` is empty when nothing is wrong. why: what it would lead to."""

    name: str
    level: Level
    what: str
    fix: str = ""
    why: str = ""


class Passphrase(StrEnum):
    """Whether the passphrase opens the stack's secrets."""

    NEW = "new"  # there are none yet
    FITS = "fits"
    UNFIT = "unfit"  # wrong, or gone


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What the engine says about itself."""

    version: str
    api: tuple[int, int]
    memory_limit: bool
    memory_mb: int
    cpus: int
    arch: str
    runtimes: frozenset[str]
    system: str
    root: str
    skew_s: float
    images: frozenset[str] = frozenset()  # references and ids it holds
    subnets: Subnets | None = None


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What a machine says about an NVIDIA card. card: None where it cannot be seen. driver: "" when none is loaded."""

    card: bool | None = None
    driver: str = ""
    smi: bool = False
    toolkit: bool = False


@dataclass(frozen=True, kw_only=True)
class PortUse:
    """A host port the plan wants, and who has it: "" nobody, a stack's name, or somebody else."""

    address: str
    port: int
    stack: str = ""
    holder: str = ""
    address_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that was found out about a machine. None: could not or need not be found out."""

    engine: EngineFacts | None
    trouble: tuple[str, str] = ("", "")  # why the engine does not answer, and what to do
    remote: bool = False
    page_size: int = 4096
    arch: str = "amd64"
    year: int = EARLIEST_YEAR
    engine_free_mb: int | None = None
    state_free_mb: int | None = None
    state_directory: str = ""
    ports: tuple[PortUse, ...] = ()
    unresolved: tuple[str, ...] = ()
    toolchain: Mapping[str, str] = field(default_factory=dict)
    toolchain_missing: tuple[str, ...] = ()
    passphrase: Passphrase | None = Passphrase.FITS  # None: cannot be said before the toolchain is there
    passphrase_problem: tuple[str, str] = ("", "")
    lock_problem: tuple[str, str] = ("", "")
    stale_locks: int = 0
    images: str = "registry"
    registries_silent: tuple[str, ...] = ()
    outside_s: float | None = None  # by how much clocks outside are ahead of ours
    written_s: float | None = None  # by how much the time at which the state was last written is ahead of ours
    foreign: str = ""
    lost_volumes: tuple[str, ...] = ()
    locks_gone: tuple[Gone, ...] = ()
    certificate: Shown | None = None  # None: nothing answers, as before the first `up`
    gpu: GpuFacts | None = None  # None: another machine's, or not needed


def examine(facts: Facts, plan: Plan | None, stack: str) -> tuple[Check, ...]:
    """Every finding about this machine for this plan; what needs no plan where the plan has problems of its own."""
    return tuple(_all(facts, plan, stack))


def problems(checks: Iterable[Check]) -> tuple[Problem, ...]:
    """The failed checks, as problems to report together with those of the plan."""
    return tuple(
        Problem(where=check.name, what=check.what, fix=check.fix) for check in checks if check.level is Level.FAIL
    )


def _all(facts: Facts, plan: Plan | None, stack: str) -> Iterator[Check]:
    yield from _engine(facts)
    if facts.engine:
        yield from _engine_fits(facts.engine)
    if facts.engine and plan:
        yield from _plan_fits(facts.engine, plan)
        if plan.host.gpu:
            yield graphics_card(facts.gpu, facts.engine)
        yield from _locks(facts, facts.engine, plan)
    if plan:
        yield from _disk(facts, plan)
        yield from _ports(facts, plan)
        yield from _names(facts, plan)
        yield from _certificate(facts, plan)
    yield from _state_disk(facts)
    yield _clock(facts)
    yield from _page_size(facts, plan)
    yield from _toolchain(facts)
    yield from _state(facts, stack)
    yield _images(facts)


def _certificate(facts: Facts, plan: Plan) -> Iterator[Check]:
    """Never more than a warning: `up`, which refuses what fails here, is what mends it."""
    if facts.certificate is None:
        return
    if facts.certificate.short:
        yield _warn("certificate", facts.certificate.sentence(), mending(plan))
    else:
        yield _ok("certificate", facts.certificate.sentence())


def _ok(name: str, what: str) -> Check:
    return Check(name=name, level=Level.OK, what=what)


def _warn(name: str, what: str, fix: str) -> Check:
    return Check(name=name, level=Level.WARN, what=what, fix=fix)


def _fail(name: str, what: str, fix: str) -> Check:
    return Check(name=name, level=Level.FAIL, what=what, fix=fix)


# ------------------------------------------------------------------------------------------------------- engine


def _engine(facts: Facts) -> Iterator[Check]:
    name = "docker"
    if facts.trouble[0]:
        yield _fail(name, *facts.trouble)
    if facts.engine:
        engine = facts.engine
        version = ".".join(map(str, engine.api))
        if engine.api < MINIMUM_API:
            wanted = ".".join(map(str, MINIMUM_API))
            yield _fail(name, f"{engine.version} speaks API {version}, {wanted} is needed", "upgrade the Docker engine")
        else:
            yield _ok(name, f"{engine.version} (API {version}) on {engine.system or engine.arch}")


def _engine_fits(engine: EngineFacts) -> Iterator[Check]:
    if engine.memory_limit:
        yield _ok("memory cgroup", "limits apply")
    else:
        yield _fail(
            "memory cgroup",
            "is off: memory limits would be ignored and one service could starve all others",
            "append `cgroup_enable=memory cgroup_memory=1` to the one line of /boot/firmware/cmdline.txt, then reboot",
        )
    if abs(engine.skew_s) > MAX_SKEW_S:
        yield _fail(
            "clock",
            f"the engine's is {abs(engine.skew_s):.0f} s {'ahead' if engine.skew_s > 0 else 'behind'}",
            "logins and certificates need the right time on both machines: sudo timedatectl set-ntp true",
        )


def _plan_fits(engine: EngineFacts, plan: Plan) -> Iterator[Check]:
    yield _memory(engine, plan)
    yield from _processors(engine, plan)
    if engine.subnets:
        yield _networks(engine.subnets, plan)
    arches = {str(arch) for arch in plan.host.arches}
    if engine.arch not in arches:
        yield _fail(
            "architecture",
            f"the engine is {engine.arch}, target {plan.host.target} is {' or '.join(sorted(arches))}",
            f"pulumi config set target <target> -s {plan.stack}, with one that has {engine.arch}",
        )
    else:
        yield _ok("architecture", engine.arch)


def _memory(engine: EngineFacts, plan: Plan) -> Check:
    wanted = sum(service.memory_mb for service in plan.running)
    given = engine.memory_mb - plan.host.reserve_mb
    if wanted > given:
        return _fail(
            "memory",
            f"{wanted:,} MB wanted, the machine has {given:,} to give "
            f"({engine.memory_mb:,} less {plan.host.reserve_mb:,} for the system)",
            f"take services out (ai-kit:without) or choose smaller models; ai-kit:memoryMb: {engine.memory_mb} makes "
            "the plan know",
        )
    return _ok("memory", f"{wanted:,} of {given:,} MB")


SPARE_NETWORKS = 2  # a warning below: whatever else runs here makes some too


def _networks(subnets: Subnets, plan: Plan) -> Check:
    """Whether the engine has a range of addresses for each network that is still to be made."""
    missing = len({network.name for network in runtime.build(plan).networks} - subnets.networks)
    left = f"{subnets.free} of {subnets.total} address ranges are free"
    fix = (
        "remove networks that nothing uses: docker network ls shows all, docker network prune takes those without "
        'containers; or give the engine more: "default-address-pools": [{"base": "10.201.0.0/16", "size": 24}] in '
        "/etc/docker/daemon.json (a range that nothing else here uses), then restart Docker"
    )
    if subnets.free < missing:
        return _fail("networks", f"{left}, the stack needs {missing}", fix)
    if subnets.free - missing < SPARE_NETWORKS:
        return _warn("networks", f"{left}, and the stack takes {missing}" if missing else left, fix)
    return _ok("networks", f"{left}, the stack takes {missing}" if missing else left)


def _processors(engine: EngineFacts, plan: Plan) -> Iterator[Check]:
    wrong = False
    for service in plan.running:
        for container in service.containers:
            limits = container.limits
            highest = max((int(n) for n in limits.cpuset.replace("-", ",").split(",") if n), default=-1)
            if limits.cpus > engine.cpus or highest >= engine.cpus:
                wrong = True
                wanted = f"CPUs {limits.cpuset}" if highest >= 0 else f"{limits.cpus:g} CPUs"
                yield _fail(
                    "cpus",
                    f"{container.host_name} may use {wanted}, the machine has {engine.cpus}",
                    f"the engine would refuse it: choose another target, or only try this one here with ai-kit:cpus: "
                    f"{engine.cpus} and ai-kit:emulate: true",
                )
    if not wrong:
        yield _ok("cpus", str(engine.cpus))


CONFIGURE = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"


def graphics_card(gpu: GpuFacts | None, engine: EngineFacts) -> Check:
    """Which link is missing: the card, its driver, the toolkit, or the engine's runtime. Each has another fix."""
    runtimes = engine.runtimes & {"nvidia", "cdi"}
    if gpu is None:  # another machine: only its engine can be asked
        if runtimes:
            return _ok("gpu", "the engine has the NVIDIA runtime")
        fix = f"on that machine: nvidia-smi must work, then nvidia-container-toolkit, then {CONFIGURE}"
        return _fail("gpu", "the engine has no NVIDIA runtime", fix)
    if gpu.card is False and not gpu.driver:
        fix = "put one in, pass it through to this virtual machine, or choose a target without: ai-kit:target"
        return _fail("gpu", "there is no NVIDIA card in this machine (nothing of vendor 10de on the PCI bus)", fix)
    if not gpu.driver and gpu.smi:
        fix = "reboot; if that does not help, its module was not built for this kernel: sudo dkms status says so"
        return _fail("gpu", "the NVIDIA driver is installed and not loaded (no /proc/driver/nvidia)", fix)
    if not gpu.driver:
        fix = "install it the way your system does (Debian: nvidia-driver, Ubuntu: ubuntu-drivers install), then reboot"
        return _fail("gpu", "there is no NVIDIA driver on this machine", fix)
    if not gpu.toolkit and not runtimes:
        fix = f"install nvidia-container-toolkit (NVIDIA's repository has it), then: {CONFIGURE}"
        return _fail("gpu", f"driver {gpu.driver} is there, and nothing that hands the card to containers", fix)
    if not runtimes:
        return _fail("gpu", "the toolkit is installed, and the engine does not know its runtime", CONFIGURE)
    if not gpu.toolkit:
        fix = f"install nvidia-container-toolkit again, then: {CONFIGURE}"
        return _warn("gpu", f"the engine names runtime {', '.join(sorted(runtimes))}, and nvidia-ctk is not there", fix)
    return _ok("gpu", f"driver {gpu.driver}, runtime {', '.join(sorted(runtimes))}")


def _locks(facts: Facts, engine: EngineFacts, plan: Plan) -> Iterator[Check]:
    """Locked images that can be had nowhere, and those that are not made for this machine."""
    anew = "take what the tag is now, after a look at why: ./kit images lock"
    for item in facts.locks_gone:
        what = f"{item.registry} no longer has {item.digest[:19]}, to which {item.tagged} is locked"
        yield _fail(f"image {item.tagged}", what, anew)
    if plan.settings.images is not ImageSource.REGISTRY:
        return
    for pin in used_images(plan):
        lock = plan.settings.image_locks.get(pin.tagged)
        if lock and engine.arch in {arch.value for arch in Arch} and engine.arch not in lock.arches:
            what = f"is locked to {lock.digest[:19]}, which is made for {', '.join(sorted(lock.arches))} only"
            yield _fail(f"image {pin.tagged}", what, anew)


# -------------------------------------------------------------------------------------------------- machine


def missing_images(facts: Facts, plan: Plan) -> dict[str, int]:
    """Images the engine does not hold yet, with their size in MB."""
    held = facts.engine.images if facts.engine else frozenset[str]()
    sizes: dict[str, int] = {}
    for service in plan.running:
        for container in service.containers:
            if not held_by(held, container.image):
                sizes[container.image] = container.spec.image.size_mb
    return sizes


def held_by(held: frozenset[str], reference: str) -> bool:
    """Whether the engine holds an image: it lists Docker Hub's without their registry."""
    name, _, digest = reference.partition("@")
    short = name.removeprefix("docker.io/").removeprefix("library/")
    candidates = {name, short}
    if digest:
        candidates = {f"{candidate.rsplit(':', 1)[0]}@{digest}" for candidate in candidates}
    return bool(candidates & held)


def _disk(facts: Facts, plan: Plan) -> Iterator[Check]:
    if facts.engine_free_mb is not None and facts.engine:
        missing = missing_images(facts, plan)
        need = BUILD_MB if missing and facts.images == "airgap" else sum(missing.values())
        need += 1000  # databases, logs, and room to breathe
        where = facts.engine.root
        if facts.engine_free_mb < need:
            yield _fail(
                "disk",
                f"{facts.engine_free_mb:,} MB free at {where}, about {need:,} are needed",
                "free some: docker system df shows what the engine holds, docker image prune drops unused images",
            )
        else:
            yield _ok("disk", f"{facts.engine_free_mb:,} MB free at {where}, about {need:,} needed")


def _state_disk(facts: Facts) -> Iterator[Check]:
    if facts.state_free_mb is not None and facts.state_free_mb < MINIMUM_STATE_MB:
        yield _fail(
            "disk",
            f"{facts.state_free_mb:,} MB free at {facts.state_directory}, where the state is written",
            f"free at least {MINIMUM_STATE_MB} MB: a state that is cut short is lost",
        )


def _ports(facts: Facts, plan: Plan) -> Iterator[Check]:
    keys = {
        plan.settings.http_port: "httpPort",
        plan.settings.https_port: "httpsPort",
        plan.settings.admin_port: "adminPort",
    }
    free: list[str] = []
    for use in facts.ports:
        key = keys.get(use.port, "the port")
        other = f"set another: pulumi config set {key} <port> -s {plan.stack}"
        if use.address_missing:
            yield _fail(
                "bindAddress", f"{use.address} is no address of this machine", "ip -brief address lists those it has"
            )
        elif use.stack and use.stack != plan.stack:
            yield _fail(f"port {use.port}", f"is used by stack {use.stack}", other)
        elif use.holder and use.stack != plan.stack:
            yield _fail(f"port {use.port}", f"is used by {use.holder}", f"stop it, or {other}")
        else:
            free.append(str(use.port))
    if free:
        yield _ok("ports", f"{', '.join(free)} free or ours")


def _names(facts: Facts, plan: Plan) -> Iterator[Check]:
    domain = plan.settings.domain
    if domain == "localhost" or domain.endswith(".localhost"):
        yield _ok("names", f"browsers resolve *.{domain} to this machine by themselves")
    elif facts.unresolved:
        yield _warn(
            "names",
            f"{', '.join(facts.unresolved)} {'does' if len(facts.unresolved) == 1 else 'do'} not resolve here",
            f"add *.{domain} to your DNS, or on each client to /etc/hosts, pointing at this machine",
        )
    else:
        yield _ok("names", f"*.{domain} resolves")


def _clock(facts: Facts) -> Check:
    if facts.year < EARLIEST_YEAR:
        return _fail(
            "clock",
            f"says it is {facts.year}: certificates made now would not be valid",
            "sudo timedatectl set-ntp true",
        )
    if facts.outside_s is not None and abs(facts.outside_s) > MAX_SKEW_S:
        return _fail(
            "clock",
            f"is {abs(facts.outside_s):.0f} s {'behind' if facts.outside_s > 0 else 'ahead of'} that of others",
            "tokens, certificates and codes of authenticator apps need the right time: sudo timedatectl set-ntp true",
        )
    if facts.outside_s is None and facts.written_s is not None and facts.written_s > MAX_SKEW_S:
        # Which of the two was wrong nobody says here: a machine without a battery for its clock loses time while off.
        return _warn(
            "clock",
            f"is {facts.written_s:.0f} s behind the time of the last deployment: it is wrong now, or was then",
            "tokens, certificates and codes of authenticator apps need the right time: sudo timedatectl set-ntp true",
        )
    return _ok("clock", "plausible" if facts.outside_s is None else "right")


def _page_size(facts: Facts, plan: Plan | None) -> Iterator[Check]:
    if facts.remote:
        return
    unfit = [pin.name for pin in used_images(plan) if facts.page_size not in pin.page_sizes] if plan else []
    if unfit:
        yield _fail(
            "page size",
            f"the kernel uses {facts.page_size // 1024} KiB pages, and {', '.join(unfit)} cannot run with them",
            "kernel=kernel8.img in /boot/firmware/config.txt and a reboot give 4 KiB; or leave out what needs them",
        )
    elif not facts.remote and facts.arch == Arch.ARM64 and facts.page_size > 4096:
        yield _warn(
            "page size",
            f"the kernel uses {facts.page_size // 1024} KiB pages: programs built for 4 KiB ones end with "
            '"Unsupported system page size"',
            "this plan's images are said to run with both; if one does not, kernel=kernel8.img in "
            "/boot/firmware/config.txt and a reboot give 4 KiB",
        )


# ---------------------------------------------------------------------------------------------------- state


def _toolchain(facts: Facts) -> Iterator[Check]:
    if facts.toolchain:
        yield _ok("toolchain", ", ".join(f"{name} {version}" for name, version in facts.toolchain.items()))
    if facts.toolchain_missing:
        yield _warn("toolchain", f"{', '.join(facts.toolchain_missing)} not there yet", "./kit up installs it")


def _state(facts: Facts, stack: str) -> Iterator[Check]:
    if facts.passphrase is Passphrase.UNFIT:
        yield _fail("passphrase", *facts.passphrase_problem)
    elif facts.passphrase is Passphrase.FITS:
        yield _ok("passphrase", "opens the state")
    if facts.lock_problem[0]:
        yield _fail("state", *facts.lock_problem)
    elif facts.stale_locks:
        yield _warn("state", "is locked by a run that ended without giving it back", "./kit up takes the lock away")
    else:
        yield _ok("state", "not locked")
    if facts.foreign:
        yield _fail(
            "state",
            f"knows nothing of stack {stack}, but {facts.foreign}",
            f"point PULUMI_BACKEND_URL (or XDG_STATE_HOME) at its state; if that is lost, ./kit up {stack} --adopt "
            f"keeps the data and gives it new credentials; or give its data up: ./kit down {stack} --data",
        )
    for name in facts.lost_volumes:
        yield _fail(
            f"volume {name}",
            "holds data according to the state, and is gone from this host",
            f"restore it from a backup; or give the stack's data up and start anew: ./kit down {stack} --data",
        )


def _images(facts: Facts) -> Check:
    if facts.images == "registry" and facts.registries_silent:
        return _warn(
            "images",
            f"{', '.join(facts.registries_silent)} did not answer",
            "what the engine holds already will do; images that are missing cannot be pulled until it answers",
        )
    return _ok("images", "built here, of package registries" if facts.images == "airgap" else "from the registry")


# ------------------------------------------------------------------------------------------------------ verb


def render(checks: Iterable[Check]) -> list[str]:
    """The findings as lines for a person."""
    marks = {Level.OK: console.OK, Level.WARN: console.WARN, Level.FAIL: console.FAIL}
    found = tuple(checks)
    width = max((len(check.name) for check in found), default=0)
    lines: list[str] = []
    for check in found:
        lines.append(f"  {console.mark(marks[check.level])} {check.name.ljust(width)}  {check.what}")
        lines += [f"    {' ' * width}  {text}" for text in (check.why, check.fix) if text]
    return lines


def _advice(session: Session) -> tuple[Check, ...]:
    """What stands under the stack: of this machine, which the engine must be on."""
    from ops import hostchecks, hostfacts

    try:
        containers = session.docker.get("/containers/json")
    except EngineError:  # which has a check of its own
        containers = []
    return hostchecks.examine(hostfacts.gather(containers))


def run(arguments: argparse.Namespace) -> int:
    """./kit doctor: every check, changing nothing."""
    from ops.facts import gather
    from ops.session import Session

    session = Session(arguments.stack)
    plan, wrong = session.plan_or_problems()
    checks = examine(gather(session, plan), plan, arguments.stack)
    checks += tuple(Check(name=p.where, level=Level.FAIL, what=p.what, fix=p.fix) for p in wrong)
    failed = sum(check.level is Level.FAIL for check in checks)
    advice = () if session.docker_host else _advice(session)
    if arguments.json:
        console.say(json.dumps([asdict(check) for check in (*checks, *advice)], indent=2))
        return 1 if failed else 0
    for line in render(checks):
        console.say(line)
    console.say()
    if advice:
        console.say("The machine itself. Nothing of this keeps a stack from coming up, or is changed by it:")
        console.say()
        for line in render(advice):
            console.say(line)
        console.say()
    if failed:
        raise KitError(f"{failed} of {len(checks)} checks failed.", "Mend them and run ./kit doctor again.")
    console.say(f"This machine is fit for stack {arguments.stack}.")
    return 0
