"""Plan -> exactly what each container and job is made of. deploy.py and derive/compose.py only carry it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from stack import images, rotation
from stack.derive import probe
from stack.derive.order import critical_first
from stack.derive.values import (
    CaPiece,
    FrontPiece,
    LeafPiece,
    Piece,
    SecretPiece,
    Text,
    is_plain,
    managed_name,
    plain,
    resolve,
)
from stack.model import (
    CONFIG_DIR,
    AsEnv,
    AsExport,
    AsFile,
    ContainerSpec,
    Derived,
    File,
    Job,
    Mount,
    Overlap,
    Owned,
    Ref,
    ResourceLimits,
    Role,
    Static,
    Template,
    Value,
    Zone,
)
from stack.plan import (
    Database,
    Plan,
    PlannedContainer,
    PlannedSecret,
    PlannedService,
    SecretKey,
    database_secret,
    docker_prefix,
    image_reference,
    volume_name,
)
from stack.planning.leases import AGENT
from stack.zones import ZONES

__all__ = ["CaPiece", "FrontPiece", "LeafPiece", "Piece", "SecretPiece", "Text"]


# Becomes the image's own program after exporting what may stand in no `docker inspect`. The x keeps trailing
# newlines, which $(...) would drop. The bundle: the system's CAs where the image has them, and the stack's.
START_SCRIPT = f"""#!/bin/sh
set -eu
for file in {CONFIG_DIR}/env/*; do
    [ -f "$file" ] || continue
    value=$(cat "$file"; printf x)
    export "${{file##*/}}=${{value%x}}"
done
if [ -f {CONFIG_DIR}/ca.pem ]; then
    bundle=/tmp/kit-ca-bundle.pem
    : >"$bundle"
    for system in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        if [ -f "$system" ]; then cat "$system" >>"$bundle"; break; fi
    done
    cat {CONFIG_DIR}/ca.pem >>"$bundle"
    export SSL_CERT_FILE="$bundle" REQUESTS_CA_BUNDLE="$bundle" CURL_CA_BUNDLE="$bundle"
fi
exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class FilePlan:
    """A file for CONFIG_DIR/<name>. restarts: a change of it replaces the container."""

    name: str
    text: Text
    mode: str
    restarts: bool


@dataclass(frozen=True, kw_only=True)
class MountPlan:
    """A named volume (its Docker name) in a container."""

    volume: str
    path: str
    read_only: bool


@dataclass(frozen=True, kw_only=True)
class OwnershipPlan:
    """Who the top directory of a volume belongs to (uid:gid) and its mode, set before the container starts.

    seeded: what the image has at the volume's path is copied into it while it is empty.
    """

    volume: str
    owner: str
    mode: str
    seeded: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """A zone's network (its Docker name) and the names the container has there."""

    zone: Zone
    network: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PublishPlan:
    internal: int
    external: int
    ip: str


@dataclass(frozen=True, kw_only=True)
class HealthPlan:
    """The Docker health check: argv and seconds."""

    argv: tuple[str, ...]
    interval_s: int
    timeout_s: int
    retries: int
    start_period_s: int


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """A long-running container, decided to the last argument. `config_volume` is "" when it has no files.

    `after`: docker names of containers (healthy) and jobs (succeeded) that come first. `secret_env` is the
    exception that AsEnv costs: everything else that is secret is in `files`.
    """

    service: str
    name: str
    image: str
    local_image: bool
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    secret_env: Mapping[str, Text]
    files: tuple[FilePlan, ...]
    config_volume: str
    mounts: tuple[MountPlan, ...]
    ownership: tuple[OwnershipPlan, ...]
    networks: tuple[NetworkPlan, ...]
    publish: tuple[PublishPlan, ...]
    health: HealthPlan
    limits: ResourceLimits
    read_only: bool
    tmpfs: Mapping[str, int]
    capabilities: tuple[str, ...]
    labels: Mapping[str, str]
    stop_grace_s: int
    wait_s: int
    after: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GrantPlan:
    """A database and its role, for the database provider's job: what it gets on top of its own arguments."""

    database: str
    role: str
    extensions: tuple[str, ...]
    password: Text


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """A one-shot container, decided to the last argument. It runs again when anything of it changes.

    `files` are uploaded into it. `triggers` are further inputs. `grant`: the database it makes, if it makes one.
    `reloads`: docker name of the container that it has read its files again, "" for none; it shares its processes
    and runs when files that need no restart change. `waits_for`: docker names of containers that it may be started
    beside, as it waits for them by itself.
    """

    service: str
    name: str
    image: str
    local_image: bool
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    files: tuple[FilePlan, ...]
    mounts: tuple[MountPlan, ...]
    networks: tuple[NetworkPlan, ...]
    memory_mb: int
    timeout_s: int
    labels: Mapping[str, str]
    after: tuple[str, ...]
    triggers: tuple[Text, ...]
    waits_for: tuple[str, ...] = ()
    grant: GrantPlan | None = None
    reloads: str = ""


@dataclass(frozen=True, kw_only=True)
class NetworkOfZone:
    zone: Zone
    name: str
    internal: bool
    isolated: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class DataVolume:
    """A volume that outlives its containers. passing: it goes when the service has it no more."""

    service: str
    name: str
    labels: Mapping[str, str]
    passing: bool = False


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """All of a plan's networks, data volumes, containers and jobs. Each step comes after what it needs.

    after_realm: jobs that are no steps: the realm, which these wait for, is no container.
    """

    networks: tuple[NetworkOfZone, ...]
    volumes: tuple[DataVolume, ...]
    steps: tuple[ContainerPlan | JobPlan, ...]
    tools_image: str  # delivers files and sets owners
    tools_local: bool
    rotated: Mapping[SecretKey, str]  # secrets of a later generation -> the job that has their server take it
    after_realm: tuple[JobPlan, ...] = ()

    @property
    def containers(self) -> tuple[ContainerPlan, ...]:
        return tuple(step for step in self.steps if isinstance(step, ContainerPlan))

    @property
    def jobs(self) -> tuple[JobPlan, ...]:
        return tuple(step for step in self.steps if isinstance(step, JobPlan))

    def guards(self, container: ContainerPlan) -> tuple[str, ...]:
        """The service's own jobs that come before the container: unless they succeed, not even its files change."""
        return tuple(job.name for job in self.jobs if job.service == container.service and job.name in container.after)

    def accepted(self, container: ContainerPlan) -> tuple[str, ...]:
        """Jobs after which the rotated secrets in a container's files are taken: before, it gets none of them.

        One that crashes in between starts with the files that are there.
        """
        found = {self.rotated[key] for key in secrets_held(container) if key in self.rotated}
        return tuple(name for name in container.after if name in found)

    def needed(self, container: ContainerPlan) -> tuple[str, ...]:
        """Containers that it needs before it starts, directly or through jobs.

        Their files go first: with everything delivered at once, what the rest waits for arrives with the last.
        """
        jobs = {job.name: job for job in self.jobs}
        found: set[str] = set()
        todo = list(container.after)
        while todo:
            name = todo.pop()
            if name in jobs:
                todo += jobs[name].after
            else:
                found.add(name)
        return tuple(sorted(found - {container.name}))


def build(plan: Plan) -> Runtime:
    """The runtime of a checked plan. Nothing but data volumes while the stack is down."""
    steps: dict[str, ContainerPlan | JobPlan] = {}
    for service in plan.running:
        for container in service.containers:
            planned = _container(plan, service, container)
            steps[planned.name] = planned
            if container.spec.reload:
                reload = _reload(plan, service, container, planned)
                steps[reload.name] = reload
        for job in service.spec.jobs:
            if not job.after_realm and not _waits_for_rotation(plan, service, job):
                planned_job = _job(plan, service, job)
                steps[planned_job.name] = planned_job
    if plan.running:
        for owned in plan.databases:
            database_job = _database_job(plan, owned)
            steps[database_job.name] = database_job
    rotated = _accepting(plan) if plan.running else {}
    steps = {name: _after_accepting(step, rotated, steps) for name, step in steps.items()}
    for retire in _retiring(plan, rotated, tuple(steps.values())):
        steps[retire.name] = retire
    ordered = critical_first({name: [need for need in _known(step) if need in steps] for name, step in steps.items()})
    tools_image, tools_local = image_reference(plan.settings, images.TOOLS)
    used = {network.zone for step in steps.values() for network in step.networks}
    return Runtime(
        networks=tuple(_network(plan, zone) for zone in Zone if zone in used),
        volumes=tuple(
            DataVolume(
                service=owned.owner,
                name=volume_name(plan.stack, owned.owner, owned.item.name),
                labels=_labels(plan, owned.owner, "volume"),
                passing=owned.item.passing,
            )
            for owned in plan.volumes
        ),
        steps=tuple(steps[name] for name in ordered),
        tools_image=tools_image,
        tools_local=tools_local,
        rotated=rotated,
        after_realm=tuple(
            _job(plan, service, job) for service in plan.running for job in service.spec.jobs if job.after_realm
        ),
    )


def _known(step: ContainerPlan | JobPlan) -> tuple[str, ...]:
    """What is registered before a step: what it comes after, and what it waits for by itself."""
    return (*step.after, *step.waits_for) if isinstance(step, JobPlan) else step.after


def secrets_in(text: Text) -> frozenset[SecretKey]:
    """The secrets a text is made of; those of before left aside."""
    return frozenset(piece.key for piece in text if isinstance(piece, SecretPiece) and not piece.previous)


def _accepting(plan: Plan) -> dict[SecretKey, str]:
    """The secrets of a later generation that servers take beside the one before -> the job that has them do so."""
    found: dict[SecretKey, str] = {}
    running = {service.name for service in plan.running}
    for secret in plan.secrets:
        if (
            isinstance(secret.rotates, Overlap)
            and secret.generation > 1
            and {secret.key.owner, secret.keeper} <= running
        ):
            found[secret.key] = _accept_job(plan, secret, secret.rotates)
    return found


def _after_accepting(
    step: ContainerPlan | JobPlan,
    rotated: Mapping[SecretKey, str],
    steps: Mapping[str, ContainerPlan | JobPlan],
) -> ContainerPlan | JobPlan:
    """The step after the jobs that have servers take its rotated secrets, where these do not come after it."""
    jobs = sorted({rotated[key] for key in secrets_held(step) if key in rotated} - {step.name})
    first = tuple(name for name in jobs if step.name not in steps[name].after and name not in step.after)
    return replace(step, after=(*step.after, *first)) if first else step


def _accept_job(plan: Plan, secret: PlannedSecret, how: Overlap) -> str:
    if database := _database_of(secret):
        return database_job_name(plan, database)
    return f"{docker_prefix(plan.stack)}{secret.key.owner}-{how.accept}"


def _database_of(secret: PlannedSecret) -> str:
    """The database whose role has the secret as its password, "" for any other secret."""
    name = secret.key.name
    return name.removeprefix(rotation.DATABASE_PREFIX) if name.startswith(rotation.DATABASE_PREFIX) else ""


def _retiring(
    plan: Plan, rotated: Mapping[SecretKey, str], steps: Iterable[ContainerPlan | JobPlan]
) -> Iterator[JobPlan]:
    """For each rotated secret the job that ends the one before, after all that has the new one."""
    for key, accept in rotated.items():
        secret = plan.secret(key)
        holders = [step.name for step in steps if step.name != accept and key in secrets_held(step)]
        after = tuple(dict.fromkeys([accept, *holders]))
        if isinstance(secret.rotates, Overlap):
            if database := _database_of(secret):
                yield _database_retire_job(plan, secret, database, after)
            else:
                owner = plan.service(key.owner)
                job = next(job for job in owner.spec.jobs if job.name == secret.rotates.retire)
                planned = _job(plan, owner, job)
                yield replace(planned, after=tuple(dict.fromkeys([*planned.after, *after])))


def secrets_held(step: ContainerPlan | JobPlan) -> frozenset[SecretKey]:
    """The secrets that a container or job is given, those of before left aside."""
    texts = [file.text for file in step.files]
    texts += step.secret_env.values() if isinstance(step, ContainerPlan) else step.triggers
    return frozenset(key for text in texts for key in secrets_in(text))


def _waits_for_rotation(plan: Plan, service: PlannedService, job: Job) -> bool:
    """Whether a job ends what a rotation replaces: it comes last, and only after one."""
    return any(how.retire == job.name for how, _ in _own_rotations(plan, service))


def _own_rotations(plan: Plan, service: PlannedService) -> Iterator[tuple[Overlap, int]]:
    for secret in plan.secrets:
        own = secret.key.owner == service.name and not _database_of(secret)
        if own and isinstance(secret.rotates, Overlap):
            yield secret.rotates, secret.generation


def network_name(plan: Plan, zone: Zone) -> str:
    """The Docker name of a zone's network."""
    return f"{docker_prefix(plan.stack)}{zone}"


def database_job_name(plan: Plan, database: str) -> str:
    """The Docker name of the job that makes a database."""
    return f"{docker_prefix(plan.stack)}database-{database}"


def _labels(plan: Plan, service: str, kind: str) -> Mapping[str, str]:
    return {"aikit.stack": plan.stack, "aikit.service": service, "aikit.kind": kind}


def _network(plan: Plan, zone: Zone) -> NetworkOfZone:
    return NetworkOfZone(
        zone=zone,
        name=network_name(plan, zone),
        internal=ZONES[zone].internal,
        isolated=ZONES[zone].isolated,
        labels={"aikit.stack": plan.stack, "aikit.kind": "network"},
    )


def _container(plan: Plan, service: PlannedService, container: PlannedContainer) -> ContainerPlan:
    spec = container.spec
    env, exports, secret_env = _environment(plan, service, spec)
    files = _files(plan, service, spec, exports)
    entrypoint, command = spec.entrypoint, spec.command
    if any(file.name == "start" for file in files):
        entrypoint, command = ("/bin/sh", f"{CONFIG_DIR}/start"), spec.entrypoint + spec.command
    config_volume = f"{container.docker_name}-config" if files else ""
    mounts = (*_mounts(plan, service, spec.mounts), *_certificates(plan, spec))
    if config_volume:
        mounts += (MountPlan(volume=config_volume, path=CONFIG_DIR, read_only=True),)
    return ContainerPlan(
        service=service.name,
        name=container.docker_name,
        image=container.image,
        local_image=container.local_image,
        user=spec.user,
        entrypoint=entrypoint,
        command=command,
        env=env,
        secret_env=secret_env,
        files=files,
        config_volume=config_volume,
        mounts=mounts,
        ownership=_ownership(plan, service, spec),
        networks=_networks(plan, service, spec.zones, container.host_name, publishes=bool(spec.publish)),
        publish=tuple(
            PublishPlan(
                internal=next(port.number for port in spec.ports if port.name == publish.port),
                external=publish.external(plan.settings),
                ip="127.0.0.1" if publish.loopback_only else plan.settings.bind_address,
            )
            for publish in spec.publish
        ),
        health=HealthPlan(
            argv=probe.argv(spec.health, spec.ports, spec.image),
            interval_s=spec.health.interval_s,
            timeout_s=probe.timeout_s(spec.health, spec.image),
            retries=spec.health.retries,
            start_period_s=spec.health.start_period_s,
        ),
        limits=container.limits,
        read_only=not (spec.writable and plan.settings.images in spec.writable.sources),
        tmpfs=spec.tmpfs,
        capabilities=tuple(capability.name for capability in spec.capabilities),
        labels=_labels(plan, service.name, "service"),
        stop_grace_s=spec.stop_grace_s,
        wait_s=spec.wait_s,
        after=_before_container(plan, service, spec),
    )


def _before_container(plan: Plan, service: PlannedService, spec: ContainerSpec) -> tuple[str, ...]:
    """Docker names of what must be there before a container: what it names, its elders, the jobs that come first."""
    elders = [container.docker_name for container in service.containers if container.spec.name in spec.after]
    jobs = [_job_name(plan, service, job) for job in service.spec.jobs if job.first]
    provider = plan.provider(Role.LOGINS)
    if spec.name == AGENT and provider and provider.spec.login_provider:
        made = provider.spec.login_provider.job
        jobs += [_job_name(plan, provider, job) for job in provider.spec.jobs if job.name == made]
    names = (*_after(plan, service, _values_of(plan, spec), uses_databases=True), *elders, *jobs)
    certificates = plan.provider(Role.CERTIFICATES)
    if spec.certificates and certificates:
        names += tuple(container.docker_name for container in certificates.containers)
    return tuple(dict.fromkeys(names))


def _environment(
    plan: Plan, service: PlannedService, spec: ContainerSpec
) -> tuple[dict[str, str], dict[str, Text], dict[str, Text]]:
    """Plain variables, those to export from files, and the AsEnv exceptions."""
    env: dict[str, str] = {}
    exports: dict[str, Text] = {}
    secret_env: dict[str, Text] = {}
    for name, value in spec.env.items():
        text = resolve(plan, service, value)
        if is_plain(text):
            env[name] = plain(text)
        else:
            exports[name] = text
    for secret in service.spec.secrets:
        if secret.to != spec.name:
            continue
        text = (SecretPiece(SecretKey(service.name, secret.name)),)
        if isinstance(secret.delivery, AsExport):
            exports[secret.delivery.variable] = text
        elif isinstance(secret.delivery, AsEnv):
            secret_env[secret.delivery.variable] = text
    return env, exports, secret_env


def _files(
    plan: Plan, service: PlannedService, spec: ContainerSpec, exports: Mapping[str, Text]
) -> tuple[FilePlan, ...]:
    files = [
        _file(plan, service, file, restarts=not (file.live or (file.reload and spec.reload))) for file in spec.files
    ]
    for secret in service.spec.secrets:
        if secret.to == spec.name and isinstance(secret.delivery, AsFile):
            text = (SecretPiece(SecretKey(service.name, secret.name)),)
            files.append(FilePlan(name=secret.delivery.name, text=text, mode=secret.delivery.mode, restarts=True))
    files += [FilePlan(name=f"env/{name}", text=text, mode="0400", restarts=True) for name, text in exports.items()]
    if spec.trust_ca:
        files.append(FilePlan(name="ca.pem", text=(CaPiece(),), mode="0444", restarts=True))
    if exports or spec.trust_ca:
        files.append(FilePlan(name="start", text=(START_SCRIPT,), mode="0500", restarts=True))
    return tuple(sorted(files, key=lambda file: file.name))


def _file(plan: Plan, service: PlannedService, file: File, *, restarts: bool) -> FilePlan:
    match file.source:
        case Static():
            text: Text = (file.source.path(service.name).read_text(encoding="utf-8"),)
        case Derived(make):
            text = resolve(plan, service, make(plan))
        case Template():
            text = resolve(plan, service, file.source)
    return FilePlan(name=file.name, text=text, mode=file.mode, restarts=restarts)


def _mounts(plan: Plan, service: PlannedService, mounts: Iterable[Mount]) -> tuple[MountPlan, ...]:
    return tuple(
        MountPlan(
            volume=volume_name(plan.stack, service.name, mount.volume), path=mount.path, read_only=mount.read_only
        )
        for mount in mounts
    )


def _certificates(plan: Plan, spec: ContainerSpec) -> Iterator[MountPlan]:
    """The volume of whoever gets certificates, for who hands them out."""
    provider = plan.provider(Role.CERTIFICATES)
    if spec.certificates and provider and provider.spec.certificate_provider:
        name = volume_name(plan.stack, provider.name, provider.spec.certificate_provider.volume)
        yield MountPlan(volume=name, path=spec.certificates, read_only=True)


def _ownership(plan: Plan, service: PlannedService, spec: ContainerSpec) -> tuple[OwnershipPlan, ...]:
    mounted = {mount.volume for mount in spec.mounts}
    return tuple(
        OwnershipPlan(
            volume=volume_name(plan.stack, service.name, volume.name),
            owner=volume.owner or spec.user,
            mode=volume.mode,
            seeded=volume.seeded,
        )
        for volume in service.spec.volumes
        if volume.name in mounted
    )


def _networks(
    plan: Plan, service: PlannedService, zones: Iterable[Zone], host_name: str, *, publishes: bool = False
) -> tuple[NetworkPlan, ...]:
    """The ingress also answers, inside, to every public host name: browsers and containers use the same URLs."""
    own = (host_name,) if host_name else ()
    public: tuple[str, ...] = ()
    managed: tuple[str, ...] = ()
    if publishes and Role.INGRESS in service.spec.roles:
        public, managed = plan.host_names, (managed_name(host_name),)
    return tuple(
        NetworkPlan(
            zone=zone,
            network=network_name(plan, zone),
            # No name where nobody may call: Docker would answer with that address as well.
            aliases=(() if ZONES[zone].isolated else own)
            + (public if zone not in (Zone.EDGE, Zone.EGRESS, Zone.MANAGE) else ())
            + (managed if zone is Zone.MANAGE else ()),
        )
        for zone in sorted(zones)
    )


def _values_of(plan: Plan, spec: ContainerSpec | Job) -> Iterator[Value]:
    """Every single value a container or job mentions, templates and derived files taken apart."""
    for value in spec.env.values():
        yield from _flatten(value)
    for file in spec.files:
        if isinstance(file.source, Template):
            yield from _flatten(file.source)
        elif isinstance(file.source, Derived):
            made = file.source.make(plan)
            yield from _flatten(made)


def _flatten(value: Value | Template) -> Iterator[Value]:
    if isinstance(value, Template):
        for part in value.parts:
            yield from _flatten(part)
    else:
        yield value


def _after(plan: Plan, service: PlannedService, values: Iterable[Value], *, uses_databases: bool) -> tuple[str, ...]:
    """Docker names of what must be there first: referenced containers, own databases, needed services."""
    names: list[str] = []
    for value in values:
        if isinstance(value, Ref) and value.start:
            names += [
                container.docker_name
                for container in plan.service(value.service).containers
                if any(port.name == value.port for port in container.spec.ports)
            ]
    for need in service.spec.needs:
        names += [container.docker_name for container in plan.service(need).containers]
    if uses_databases:
        names += [database_job_name(plan, database.name) for database in service.spec.databases]
    return tuple(dict.fromkeys(names))


def _generation(plan: Plan, service: PlannedService, job: Job) -> dict[str, str]:
    """What the jobs of a secret that overlaps are told."""
    for how, generation in _own_rotations(plan, service):
        if job.name in (how.accept, how.retire):
            return {"KIT_GENERATION": str(generation)}
    return {}


def _job(plan: Plan, service: PlannedService, job: Job) -> JobPlan:
    own = () if job.first else tuple(container.docker_name for container in service.containers)
    uses_databases = bool(service.spec.databases) and not job.first
    needed = _after(plan, service, _values_of(plan, job), uses_databases=uses_databases)
    after, waits_for = (needed, own) if job.waits else (own + needed, ())
    files = [_file(plan, service, file, restarts=True) for file in job.files]
    planned = _job_plan(
        plan,
        service,
        job,
        name=_job_name(plan, service, job),
        env={
            **{name: plain(resolve(plan, service, value)) for name, value in job.env.items()},
            **_generation(plan, service, job),
        },
        files=tuple(file for file in files if not _empty(plan, file)),
        after=tuple(dict.fromkeys(after)),
        triggers=tuple(resolve(plan, service, value) for value in job.triggers),
    )
    return replace(planned, waits_for=waits_for)


def _empty(plan: Plan, file: FilePlan) -> bool:
    """Whether a file would hold nothing but the secret before one that was never rotated: no engine uploads that."""
    return all(
        isinstance(piece, SecretPiece) and piece.previous and plan.secret(piece.key).generation == 1
        for piece in file.text
    )


def _job_name(plan: Plan, service: PlannedService, job: Job) -> str:
    return f"{docker_prefix(plan.stack)}{service.name}-{job.name}"


def _database_job(plan: Plan, owned: Owned[Database]) -> JobPlan:
    """The database provider's job, once per database, with the role's password as a file."""
    provider = plan.provider(Role.DATABASE)
    if provider is None or provider.spec.database_provider is None:
        raise LookupError("no selected service has the database role")
    job = provider.spec.database_provider.job
    database = owned.item
    generation = plan.secret(database_secret(owned.owner, database.name)).generation
    grant = GrantPlan(
        database=database.name,
        role=database.name,
        extensions=database.extensions,
        password=(SecretPiece(database_secret(owned.owner, database.name)),),
    )
    planned = _job_plan(
        plan,
        provider,
        job,
        name=database_job_name(plan, database.name),
        env={
            **{name: plain(resolve(plan, provider, value)) for name, value in job.env.items()},
            **({"KIT_REPLICATION": "1"} if database.replication else {}),
            **({"KIT_MAKES_LOGINS": "1"} if database.makes_logins else {}),
            **({"KIT_LOGINS_BY": maker} if (maker := _login_maker(plan, owned)) else {}),
            "KIT_USER": rotation.login_name(database.name, generation),
        },
        files=tuple(_file(plan, provider, file, restarts=True) for file in job.files) + _setup(owned),
        after=tuple(container.docker_name for container in provider.containers),
        triggers=(),
    )
    return replace(planned, grant=grant)


def _login_maker(plan: Plan, owned: Owned[Database]) -> str:
    """The role that makes logins to a leased database, "" where nobody does."""
    provider = plan.provider(Role.LOGINS)
    if provider is None or owned.item.leased is None:
        return ""
    return next(database.name for database in provider.spec.databases if database.makes_logins)


def _database_retire_job(plan: Plan, secret: PlannedSecret, database: str, after: tuple[str, ...]) -> JobPlan:
    """The database provider's other job: the role's older logins are refused, and that is proven."""
    provider = plan.service(secret.keeper)
    job = provider.spec.database_provider.retire if provider.spec.database_provider else None
    if job is None:
        raise LookupError(f"{secret.keeper} cannot end a login")
    pieces = {"password": SecretPiece(secret.key), "previous": SecretPiece(secret.key, previous=True)}
    files = tuple(FilePlan(name=name, text=(piece,), mode="0400", restarts=True) for name, piece in pieces.items())
    return _job_plan(
        plan,
        provider,
        job,
        name=f"{database_job_name(plan, database)}-{job.name}",
        env={
            **{name: plain(resolve(plan, provider, value)) for name, value in job.env.items()},
            "KIT_DATABASE": database,
            "KIT_ROLE": database,
            "KIT_USER": rotation.login_name(database, secret.generation),
            "KIT_PREVIOUS_USER": rotation.login_name(database, secret.previous),
        },
        files=tuple(_file(plan, provider, file, restarts=True) for file in job.files) + files,
        # Its own server first: a new one may have found another volume, in which the old login is back.
        after=tuple(dict.fromkeys([*(container.docker_name for container in provider.containers), *after])),
        triggers=(),
    )


def _setup(owned: Owned[Database]) -> tuple[FilePlan, ...]:
    """What a database asks for beyond itself and its role: the passwords of further roles, and SQL."""
    files = [
        FilePlan(name=f"logins/{role}", text=(SecretPiece(SecretKey(owned.owner, secret)),), mode="0400", restarts=True)
        for role, secret in sorted(owned.item.logins.items())
    ]
    if owned.item.setup:
        text = Static(owned.item.setup).path(owned.owner).read_text(encoding="utf-8")
        files.append(FilePlan(name="setup.sql", text=(text,), mode="0400", restarts=True))
    return tuple(files)


def _job_plan(
    plan: Plan,
    service: PlannedService,
    job: Job,
    *,
    name: str,
    env: Mapping[str, str],
    files: tuple[FilePlan, ...],
    after: tuple[str, ...],
    triggers: tuple[Text, ...],
) -> JobPlan:
    image, local = image_reference(plan.settings, job.image)
    return JobPlan(
        service=service.name,
        name=name,
        image=image,
        local_image=local,
        user=job.user,
        entrypoint=job.entrypoint,
        command=job.command,
        env=env,
        files=files,
        mounts=_mounts(plan, service, job.mounts),
        networks=_networks(plan, service, job.zones, ""),
        memory_mb=job.memory_mb,
        timeout_s=job.timeout_s,
        labels=_labels(plan, service.name, "job"),
        after=after,
        triggers=triggers,
    )


def _reload(plan: Plan, service: PlannedService, container: PlannedContainer, planned: ContainerPlan) -> JobPlan:
    """Checks the delivered files with the container's own image and has its process read them again."""
    spec = container.spec
    return JobPlan(
        service=service.name,
        name=f"{container.docker_name}-reload",
        image=planned.image,
        local_image=planned.local_image,
        user=spec.user,
        entrypoint=(),
        command=spec.reload,
        env={},
        files=(),
        mounts=tuple(mount for mount in planned.mounts if mount.path == CONFIG_DIR or mount.path == spec.certificates),
        networks=(),
        memory_mb=128,
        timeout_s=60,
        labels=_labels(plan, service.name, "job"),
        after=(planned.name,),
        triggers=(),
        reloads=planned.name,
    )
