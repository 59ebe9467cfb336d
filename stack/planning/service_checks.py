"""What can be wrong within one service's file. Each check looks at one thing that no other looks at.

A check is a plain function from a Selection to every problem it finds; SERVICE_CHECKS is all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from stack.model import (
    EVERYBODY,
    REALM_ROLES,
    AsEnv,
    AsExport,
    AsFile,
    ByTarget,
    CaCertificate,
    ClientId,
    ClientSecret,
    Command,
    ContainerSpec,
    DatabasePassword,
    DatabaseUrl,
    DatabaseUser,
    FrontCertificate,
    Http,
    Job,
    LeafCertificates,
    Never,
    NoBackup,
    Overlap,
    OwnPath,
    OwnUrl,
    Problem,
    Provided,
    Ref,
    Role,
    SecretValue,
    ServiceSpec,
    Signed,
    Static,
    Tcp,
    Value,
)
from stack.planning.resolve import Mention, Selection, at, flatten, holders, mentions
from stack.words import did_you_mean, listed, shown

Check = Callable[[Selection], Iterator[Problem]]

# The programs with which derive/probe.py can tell whether a port answers.
HTTP_PROBES = ("curl", "wget", "bash", "python3", "node")
TCP_PROBES = ("bash", "nc", "python3", "node")

SHELLS = frozenset({"sh", "bash"})
RESERVED_FILES = frozenset({"start", "ca.pem"})  # delivered by the kit itself, beside env/<variable>

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MODE = re.compile(r"0[0-7]{3}")
_USER = re.compile(r"\d+:\d+")
_FUNCTION = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*:[a-z_]\w*")
_ROLE = re.compile(r"(?!postgres\Z|pg_)[a-z][a-z0-9_-]{0,62}")  # neither the superuser's name nor a reserved one
_CAPABILITY = re.compile(r"CAP_[A-Z_]+")


def names(selection: Selection) -> Iterator[Problem]:
    """Names become Docker and DNS names; two of a kind in one service would be one thing."""
    for spec in selection.chosen.values():
        kinds: tuple[tuple[str, list[str]], ...] = (
            ("containers", [item.name for item in spec.containers]),
            ("jobs", [item.name for item in spec.jobs]),
            ("volumes", [item.name for item in spec.volumes]),
            ("secrets", [item.name for item in spec.secrets]),
            ("routes", [item.name for item in spec.routes]),
            ("databases", [item.name for item in spec.databases]),
            ("ports", [port.name for container in spec.containers for port in container.ports]),
        )
        for kind, found in kinds:
            for name in sorted(set(found)):
                if not _NAME.fullmatch(name) or len(name) > 48 or (kind == "secrets" and name == "oidc"):
                    fix = "take lower-case letters, digits and dashes, beginning with a letter, at most 48"
                    yield Problem(where=at(spec, kind), what=f"{shown(name)} is no name", fix=fix)
                if found.count(name) > 1 and kind not in ("routes", "databases"):
                    fix = "give each a name of its own"
                    yield Problem(where=at(spec, kind), what=f"two are named {shown(name)}", fix=fix)
        if not spec.containers:
            yield Problem(where=at(spec), what="has no container", fix="a service runs something: add a ContainerSpec")


def limits(selection: Selection) -> Iterator[Problem]:
    """Every container needs limits for the target, and possible ones."""
    target = selection.host.target
    for spec in selection.chosen.values():
        for container in spec.containers:
            found = container.limits.get(target)
            where = at(spec, container.name, "limits")
            if found is None:
                fix = f"measure it and add Target.{target.name}: ResourceLimits(memory_mb=..., cpus=...)"
                yield Problem(where=where, what=f"none for target {target}", fix=fix)
            elif found.memory_mb < 6 or found.cpus <= 0 or found.pids < 1 or found.shm_mb < 0:
                fix = "memory_mb is at least 6, which is the engine's own minimum; cpus and pids are above 0"
                yield Problem(where=f"{where}.{target}", what="nothing could run in it", fix=fix)


def health(selection: Selection) -> Iterator[Problem]:
    """The probe must be able to run inside the image, and ask a port that is there."""
    for spec in selection.chosen.values():
        for container in spec.containers:
            test, image = container.health.test, container.image
            where = at(spec, container.name, "health")
            match test:
                case Command(argv):
                    needed = argv[:1] or ("",)
                case Http():
                    needed = HTTP_PROBES
                case Tcp():
                    needed = TCP_PROBES
            if not image.programs & set(needed):
                what = f"image {image.name} has no {' or '.join(needed)} to probe with"
                fix = f"it has {listed(image.programs)}: choose another test, or name the program in images.py"
                yield Problem(where=where, what=what, fix=fix)
            if not isinstance(test, Command) and test.port not in {port.name for port in container.ports}:
                yield no_port(where, f"container {container.name}", test.port, _port_names(container))


def elders(selection: Selection) -> Iterator[Problem]:
    """Containers that come first are others of the same service, and not in a circle."""
    for spec in selection.chosen.values():
        known = {container.name: container.after for container in spec.containers}
        for container in spec.containers:
            for name in container.after:
                where = at(spec, container.name, "after")
                if name not in known:
                    fix = f"{did_you_mean(name, known)}Containers: {listed(known)}"
                    yield Problem(where=where, what=f"there is no container {shown(name)}", fix=fix)
                elif container.name in _all_before(name, known):
                    fix = "let one of them start without the other"
                    yield Problem(where=where, what=f"{container.name} and {name} wait for each other", fix=fix)


def _all_before(name: str, after: Mapping[str, tuple[str, ...]]) -> set[str]:
    """A container and all that come before it."""
    found, waiting = {name}, [name]
    while waiting:
        for other in after.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def wrapper(selection: Selection) -> Iterator[Problem]:
    """Variables that may stand in no `docker inspect` cost a wrapper, which must know what to start, and a shell."""
    for spec in selection.chosen.values():
        for container in spec.containers:
            because = _why_wrapped(spec, container)
            if because and not (container.entrypoint or container.command):
                what = f"{because} needs the wrapper, which does not know what to start"
                fix = "spell out the image's own entrypoint and command here"
                yield Problem(where=at(spec, container.name), what=what, fix=fix)
            if because and not container.image.programs & SHELLS:
                what = f"{because} needs a shell, and image {container.image.name} has none"
                fix = "deliver it AsFile, or AsEnv with the reason why it may be seen"
                yield Problem(where=at(spec, container.name), what=what, fix=fix)


def _why_wrapped(spec: ServiceSpec, container: ContainerSpec) -> str:
    for name, value in container.env.items():
        if any(_known_late(single) or isinstance(single, DatabaseUser) for single in flatten(value)):
            return f"env.{name}"
    for secret in spec.secrets:
        if secret.to == container.name and isinstance(secret.delivery, AsExport):
            return f"secret {secret.name}"
    return "trust_ca" if container.trust_ca else ""


def _known_late(value: Value) -> bool:
    """Whether a value is unknown while planning: a secret or a certificate."""
    late = (DatabaseUrl, DatabasePassword, SecretValue, ClientSecret)
    late += (LeafCertificates, FrontCertificate, CaCertificate)
    return isinstance(value, late) or (isinstance(value, Ref) and bool(value.secrets))


def job_env(selection: Selection) -> Iterator[Problem]:
    """A job's variables are plain; what is secret comes as a file."""
    for spec in selection.chosen.values():
        for holder in holders(spec):
            if not isinstance(holder, Job):
                continue
            for name, value in holder.env.items():
                if any(_known_late(single) for single in flatten(value)):
                    fix = "give it to the job as a file: File(name=..., source=Template((...,)))"
                    where = at(spec, holder.name, "env", name)
                    yield Problem(where=where, what="is secret, and a job's variables can be seen", fix=fix)


def files(selection: Selection) -> Iterator[Problem]:
    """Delivered files: one of each name, none of ours, and a static one must be there."""
    for spec in selection.chosen.values():
        for holder in holders(spec):
            delivered = [(file.name, file.mode) for file in holder.files]
            reserved = RESERVED_FILES if isinstance(holder, ContainerSpec) else frozenset[str]()
            if spec.database_provider and holder in (spec.database_provider.job, spec.database_provider.retire):
                reserved = frozenset({"password", "previous"})
            if isinstance(holder, ContainerSpec):
                delivered += [
                    (secret.delivery.name, secret.delivery.mode)
                    for secret in spec.secrets
                    if isinstance(secret.delivery, AsFile) and secret.to == holder.name
                ]
            seen: set[str] = set()
            for name, mode in delivered:
                where = at(spec, holder.name, "files", name)
                if not _FILE.fullmatch(name) or len(name) > 100:
                    fix = "a relative path of letters, digits, dots and dashes, without '..'"
                    yield Problem(where=where, what="is no file name", fix=fix)
                elif name in reserved or (reserved and name.startswith("env/")):
                    yield Problem(where=where, what="is the kit's own file", fix="choose another name")
                if name in seen:
                    yield Problem(where=where, what="is delivered twice", fix="choose another name for one of them")
                seen.add(name)
                if not _MODE.fullmatch(mode):
                    yield Problem(where=where, what=f"{shown(mode)} is no mode", fix="write 0400, or another")
            yield from _sources(spec, holder)


def _sources(spec: ServiceSpec, holder: ContainerSpec | Job) -> Iterator[Problem]:
    for file in holder.files:
        where = at(spec, holder.name, "files", file.name)
        if isinstance(file.source, Static) and not (kept := file.source.path(spec.name)).is_file():
            fix = f"put it there, or correct the name {shown(file.source.name)}"
            yield Problem(where=where, what=f"stack/services/files/{kept.parent.name} has no such file", fix=fix)
        if isinstance(holder, ContainerSpec) and file.reload and not holder.reload:
            fix = f"give container {holder.name} the command that reloads it (reload=...), or let a change restart it"
            yield Problem(where=where, what="is to be reloaded, and nothing says how", fix=fix)


def mounts(selection: Selection) -> Iterator[Problem]:
    """A mount needs its volume, and a volume a mount."""
    for spec in selection.chosen.values():
        volumes = {volume.name for volume in spec.volumes}
        used: set[str] = set()
        for holder in holders(spec):
            paths: set[str] = set()
            for mount in holder.mounts:
                used.add(mount.volume)
                where = at(spec, holder.name, "mounts", mount.volume)
                if mount.volume not in volumes:
                    fix = f"{did_you_mean(mount.volume, volumes)}Volumes: {listed(volumes)}"
                    yield Problem(where=where, what="there is no such volume", fix=fix)
                if mount.path in paths:
                    fix = "each needs a path of its own"
                    yield Problem(where=where, what=f"{mount.path} is mounted twice", fix=fix)
                paths.add(mount.path)
        misspelt = used - volumes  # most likely what should have mounted the one that nothing mounts
        for volume in spec.volumes:
            if volume.name not in used and not misspelt:
                fix = "mount it where its data is written, or take it out"
                yield Problem(where=at(spec, "volumes", volume.name), what="is mounted nowhere", fix=fix)


def users(selection: Selection) -> Iterator[Problem]:
    """Users are numbers: they hold whatever the image's passwd file says."""
    for spec in selection.chosen.values():
        owners = [(holder.name, holder.user) for holder in holders(spec)]
        owners += [(f"volumes.{volume.name}", volume.owner) for volume in spec.volumes if volume.owner is not None]
        for path, user in owners:
            if not _USER.fullmatch(user):
                fix = "write numbers, such as 1000:1000"
                yield Problem(where=at(spec, path), what=f"{shown(user)} is no uid:gid", fix=fix)


def exceptions(selection: Selection) -> Iterator[Problem]:
    """An exception from a rule costs a reason."""
    for spec in selection.chosen.values():
        reasons: list[tuple[str, str]] = []
        for container in spec.containers:
            if container.writable:
                reasons.append((f"{container.name}.writable", container.writable.reason))
            for capability in container.capabilities:
                where = f"{container.name}.capabilities.{capability.name}"
                reasons.append((where, capability.reason))
                if not _CAPABILITY.fullmatch(capability.name):
                    fix = "write it as Docker does, such as CAP_CHOWN"
                    yield Problem(where=at(spec, where), what="is no capability", fix=fix)
        for volume in spec.volumes:
            if isinstance(volume.backup, NoBackup):
                reasons.append((f"volumes.{volume.name}.backup", volume.backup.reason))
        for secret in spec.secrets:
            if isinstance(secret.delivery, AsEnv):
                reasons.append((f"secrets.{secret.name}", secret.delivery.reason))
        for path, reason in reasons:
            if not reason.strip():
                what, fix = "is an exception without a reason", "say in a few words why it must be"
                yield Problem(where=at(spec, path), what=what, fix=fix)


def secrets(selection: Selection) -> Iterator[Problem]:
    """A secret goes to a container that is there; one that the operator provides must have been provided."""
    settings = selection.settings
    asked: dict[str, list[str]] = {}
    for spec in selection.chosen.values():  # nothing of a retired one reads any
        for secret in spec.secrets:
            if isinstance(secret.source, Provided) and secret.source.config_key not in settings.provided_secrets:
                asked.setdefault(secret.source.config_key, []).append(spec.name)
    for key, owners in sorted(asked.items()):
        fix = f"{', '.join(owners)} asks for it: pulumi config set --secret {key} -s {settings.stack}"
        yield Problem(where=key, what="is a secret that was not set", fix=fix)
    for spec in selection.chosen.values():
        containers = [container.name for container in spec.containers]
        variables = {(container.name, name) for container in spec.containers for name in container.env}
        for secret in spec.secrets:
            where = at(spec, "secrets", secret.name)
            if secret.to not in containers:
                fix = f"{did_you_mean(secret.to, containers)}Containers: {listed(containers)}"
                yield Problem(where=where, what=f"there is no container {shown(secret.to)}", fix=fix)
            if isinstance(secret.delivery, AsExport | AsEnv):
                variable = (secret.to, secret.delivery.variable)
                if variable in variables:
                    what, fix = f"{variable[1]} is set by something else too", "one variable holds one value"
                    yield Problem(where=where, what=what, fix=fix)
                variables.add(variable)


def signed(selection: Selection) -> Iterator[Problem]:
    """A signed token is made of a secret of the same service that is not itself one."""
    for spec in selection.chosen.values():
        keys = [secret.name for secret in spec.secrets if not isinstance(secret.source, Signed)]
        for secret in spec.secrets:
            if isinstance(secret.source, Signed):
                problem = absent(at(spec, "secrets", secret.name), "secret", secret.source.key, keys)
                if problem:
                    yield problem


def rotations(selection: Selection) -> Iterator[Problem]:
    """Who takes two of a secret has the jobs for it; who has the password of a role says as whom it logs in."""
    for spec in selection.chosen.values():
        jobs = [job.name for job in spec.jobs]
        for secret in spec.secrets:
            how = secret.rotates
            if isinstance(how, Overlap):
                for name in (how.accept, how.retire):
                    problem = absent(at(spec, "secrets", secret.name), "job", name, jobs)
                    if problem:
                        yield problem
            elif isinstance(how, Never) and not how.reason.strip():
                fix = "say in a few words why it must be"
                where = at(spec, "secrets", secret.name)
                yield Problem(where=where, what="is never rotated without a reason", fix=fix)
        said = {mention.value.database for mention in mentions(spec) if isinstance(mention.value, DatabaseUser)}
        open_ones = {database.name for database in spec.databases} - said
        for mention in mentions(spec):
            if isinstance(mention.value, DatabasePassword) and mention.value.database in open_ones:
                name = mention.value.database
                what = f"has the password of {shown(name)}, and a name of its own for whom it is of"
                fix = f"a rotation changes both: take the name from DatabaseUser({shown(name)})"
                yield Problem(where=at(spec, mention.path), what=what, fix=fix)


def databases(selection: Selection) -> Iterator[Problem]:
    """A database's further roles have passwords, names of their own, and its SQL is there."""
    taken: dict[str, str] = {}
    for spec in selection.chosen.values():
        for database in spec.databases:
            for role in (database.name, *database.logins):
                where = at(spec, "databases", database.name)
                if not _ROLE.fullmatch(role):
                    fix = "take lower-case letters, digits, dashes and underscores, and neither postgres nor pg_..."
                    yield Problem(where=where, what=f"{shown(role)} is no name of a role", fix=fix)
                owner = taken.setdefault(role, database.name)
                if owner != database.name:
                    fix = f"database {owner} has it: roles belong to the whole server, so each needs a name of its own"
                    yield Problem(where=where, what=f"role {shown(role)} is there twice", fix=fix)
            for role, secret in database.logins.items():
                where = at(spec, "databases", database.name, "logins", role)
                problem = absent(where, "secret", secret, (each.name for each in spec.secrets))
                if problem:
                    yield problem
            if database.setup and not Static(database.setup).path(spec.name).is_file():
                fix = f"it belongs to stack/services/files/{spec.name}/"
                where = at(spec, "databases", database.name, "setup")
                yield Problem(where=where, what=f"there is no file {shown(database.setup)}", fix=fix)


def own_values(selection: Selection) -> Iterator[Problem]:
    """What a service says of itself must exist: routes, databases, secrets, a client, a value for the target."""
    for spec in selection.chosen.values():
        for mention in mentions(spec):
            problem = own_value(selection, spec, mention)
            if problem:
                yield problem


def own_value(selection: Selection, spec: ServiceSpec, mention: Mention) -> Problem | None:
    where, target = at(spec, mention.path), selection.host.target
    match mention.value:
        case OwnUrl(name) | OwnPath(name):
            return absent(where, "route", name, (route.name for route in spec.routes))
        case DatabaseUrl(name) | DatabasePassword(name) | DatabaseUser(name):
            return absent(where, "database", name, (database.name for database in spec.databases))
        case SecretValue(name):
            return absent(where, "secret", name, (secret.name for secret in spec.secrets))
        case ClientId() | ClientSecret() if spec.oidc is None:
            return Problem(where=where, what="there is no OIDC client", fix="declare one: oidc=OidcClient(...)")
        case ByTarget(values) if target not in values:
            return Problem(where=where, what=f"has no value for target {target}", fix=f"add Target.{target.name}: ...")
        case _:
            return None


def absent(where: str, kind: str, name: str, known: Iterable[str]) -> Problem | None:
    there = sorted(known)
    if name in there:
        return None
    fix = f"{did_you_mean(name, there)}Its {kind}s: {listed(there)}"
    return Problem(where=where, what=f"the service has no {kind} {shown(name)}", fix=fix)


def ports(selection: Selection) -> Iterator[Problem]:
    """Routes, published ports and providers name ports that are there."""
    for spec in selection.chosen.values():
        there = [port.name for container in spec.containers for port in container.ports]
        for route in spec.routes:
            if route.port not in there and f"{route.port}-1" not in there:
                yield no_port(at(spec, "routes", route.name), "the service", route.port, there)
        for container in spec.containers:
            for publish in container.publish:
                if publish.port not in _port_names(container):
                    where = at(spec, container.name, "publish")
                    yield no_port(where, f"container {container.name}", publish.port, _port_names(container))
            numbers = [port.number for port in container.ports]
            for port in container.ports:
                if not 1 <= port.number <= 65535 or numbers.count(port.number) > 1:
                    fix = "ports are 1 to 65535, each once per container"
                    yield Problem(where=at(spec, container.name, "ports", port.name), what=str(port.number), fix=fix)


def _port_names(container: ContainerSpec) -> list[str]:
    return [port.name for port in container.ports]


def no_port(where: str, holder: str, name: str, there: Iterable[str]) -> Problem:
    known = sorted(there)
    fix = f"{did_you_mean(name, known)}Ports: {listed(known)}"
    return Problem(where=where, what=f"{holder} has no port {shown(name)}", fix=fix)


def publishing(selection: Selection) -> Iterator[Problem]:
    """Only the ingress publishes, and no two things the same port of the host."""
    taken: dict[int, str] = {}
    for spec in selection.chosen.values():
        for container in spec.containers:
            if container.publish and Role.INGRESS not in spec.roles:
                fix = "give the service a Route instead: only the ingress publishes ports"
                yield Problem(where=at(spec, container.name, "publish"), what="goes around the ingress", fix=fix)
            for publish in container.publish:
                port = publish.external(selection.settings)
                owner = f"{spec.name}'s {publish.port}"
                if port in taken:
                    fix = f"{taken[port]} has it already: each needs a port of its own"
                    yield Problem(where=at(spec, container.name, "publish"), what=f"port {port} of the host", fix=fix)
                taken.setdefault(port, owner)


def login(selection: Selection) -> Iterator[Problem]:
    """An OIDC client comes back to a route of its own service, by path."""
    for spec in selection.chosen.values():
        if spec.oidc is None:
            continue
        problem = absent(at(spec, "oidc.route"), "route", spec.oidc.route, (route.name for route in spec.routes))
        if problem:
            yield problem
        for name, grant in spec.oidc.roles.items():
            if grant not in (*REALM_ROLES, EVERYBODY):
                fix = f"goes to {listed(REALM_ROLES)}, or to everybody ({EVERYBODY})"
                yield Problem(where=at(spec, "oidc.roles", name), what=shown(grant), fix=fix)
        single = filter(None, (spec.oidc.logout_path, spec.oidc.backchannel_logout_path))
        for path in (*spec.oidc.redirect_paths, *single):
            if not path.startswith("/") or "*" in path:
                fix = "write an exact path beginning with /: the address comes from the route"
                yield Problem(where=at(spec, "oidc"), what=shown(path), fix=fix)


def providers(selection: Selection) -> Iterator[Problem]:
    """At most one service has each role, and it says how it serves it."""
    for role in Role:
        having = [name for name, spec in selection.chosen.items() if role in spec.roles]
        if len(having) > 1:
            fix = f"one is enough: without: [{', '.join(sorted(having)[1:])}]"
            yield Problem(where=f"role {role}", what=f"{' and '.join(sorted(having))} both have it", fix=fix)
    for spec in selection.chosen.values():
        for role, field_name in (
            (Role.DATABASE, "database_provider"),
            (Role.IDENTITY, "identity_provider"),
            (Role.FORWARD_AUTH, "forward_auth"),
        ):
            if (role in spec.roles) != (getattr(spec, field_name) is not None):
                fix = f"roles={{Role.{role.name}}} and {field_name}=... go together"
                what = f"and role {role}: one is there without the other"
                yield Problem(where=at(spec, field_name), what=what, fix=fix)
        there = [port.name for container in spec.containers for port in container.ports]
        if spec.database_provider and spec.database_provider.port not in there:
            yield no_port(at(spec, "database_provider"), "the service", spec.database_provider.port, there)
        identity = spec.identity_provider
        if identity and identity.port not in there:
            yield no_port(at(spec, "identity_provider"), "the service", identity.port, there)
        if identity:
            own = (secret.name for secret in spec.secrets)
            problem = absent(at(spec, "identity_provider"), "secret", identity.admin_secret, own)
            if problem:
                yield problem
        if spec.forward_auth:
            names = [route.name for route in spec.routes if route.port == spec.forward_auth.port]
            problem = absent(at(spec, "forward_auth"), "route at its port", spec.forward_auth.route, names)
            if problem:
                yield problem
        if Role.IDENTITY in spec.roles and not spec.routes:
            fix = "its first route is the issuer's address: add a Route"
            yield Problem(where=at(spec, "routes"), what="nobody could log in", fix=fix)


def proofs(selection: Selection) -> Iterator[Problem]:
    """A proof names its function as module:function."""
    for spec in selection.chosen.values():
        for proof in spec.proofs:
            for function in filter(None, (proof.run, proof.cleanup)):
                if not _FUNCTION.fullmatch(function):
                    where = at(spec, "proofs", proof.title)
                    yield Problem(where=where, what=shown(function), fix="name it as module:function")


SERVICE_CHECKS: tuple[Check, ...] = (
    names,
    limits,
    health,
    elders,
    wrapper,
    job_env,
    files,
    mounts,
    users,
    exceptions,
    secrets,
    signed,
    rotations,
    databases,
    own_values,
    ports,
    publishing,
    login,
    providers,
    proofs,
)
