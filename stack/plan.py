"""The plan: what runs where and why, decided from settings, host and services without touching an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stack import certificates, rotation
from stack.model import (
    ContainerSpec,
    Database,
    Generated,
    HostProfile,
    ImagePin,
    ImageSource,
    Never,
    OidcClient,
    Owned,
    Proof,
    Provided,
    ResourceLimits,
    Role,
    Rotates,
    Route,
    Secret,
    ServiceSpec,
    Signed,
    SpecError,
    Volume,
    standin_in,
)
from stack.planning import stack_checks
from stack.planning.limits import limits_of
from stack.planning.resolve import Selection, holders, resolve
from stack.planning.service_checks import SERVICE_CHECKS
from stack.settings import Settings, stack_file


@dataclass(frozen=True, order=True)
class SecretKey:
    """The identity of a secret: who owns it and its name. Names with a colon are implied: db:<database>, oidc."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """What has a generation. keeper: the service that checks it.

    generation: the one in use, 1 at first. previous: the one that was in use before it, 0 for none. days: after how
    many it is due.
    """

    key: SecretKey
    rotates: Rotates
    keeper: str
    generation: int = 1
    previous: int = 0
    days: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedSecret(Numbered):
    """A secret of the stack: of a service, of a database role (db:<name>), or of an OIDC client (oidc).

    passing: it may leave the state again.
    """

    source: Generated | Provided | Signed
    handed_out: bool = False
    passing: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedContainer:
    """A container with everything that depends on host and settings decided.

    `docker_name` is unique on the host (kit-<stack>-<service>[-<container>]); `host_name` is its DNS name inside
    the stack (<service>[-<container>]); `image` the reference to run; `local_image`: built here, never pulled.
    `limits` are what it gets, which may differ from what its file declares (planning/limits.py).
    """

    service: str
    spec: ContainerSpec
    docker_name: str
    host_name: str
    image: str
    local_image: bool
    limits: ResourceLimits
    declared: ResourceLimits

    @property
    def emulated(self) -> bool:
        """Whether a CPU limit or pinned cores gave way because the plan's machine is only tried here."""
        return (self.declared.cpus, self.declared.cpuset) != (self.limits.cpus, self.limits.cpuset)


@dataclass(frozen=True, kw_only=True)
class PlannedService:
    """A selected service. `why`: "profile chat", or the services that need it. retired: only its data is kept."""

    spec: ServiceSpec
    why: tuple[str, ...]
    containers: tuple[PlannedContainer, ...]
    starts_after: tuple[str, ...]
    retired: bool = False

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def memory_mb(self) -> int:
        return sum(container.limits.memory_mb for container in self.containers)

    @property
    def cpus(self) -> float:
        return sum(container.limits.cpus for container in self.containers)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that will be, in start order. Made by build(); read by derive/, deploy.py and ops/.

    left_out: services that a chosen profile would bring and this source of images cannot give, each with the reason.
    held: the generations in the state, "owner/name" -> numbers; {} before the first `up`, and where nobody looked.
    """

    settings: Settings
    host: HostProfile
    services: tuple[PlannedService, ...]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    held: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    @property
    def stack(self) -> str:
        return self.settings.stack

    @property
    def running(self) -> tuple[PlannedService, ...]:
        """The services whose containers run: none while the stack is down."""
        if self.settings.down:
            return ()
        return tuple(service for service in self.services if not service.retired)

    def service(self, name: str) -> PlannedService:
        """The selected service of that name. KeyError when there is none."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(f"no service {name!r} in the plan")

    def provider(self, role: Role) -> PlannedService | None:
        """The selected, not retired service that has the role."""
        return next((s for s in self.services if role in s.spec.roles and not s.retired), None)

    def keeper(self, role: Role) -> PlannedService | None:
        """Who checks the role's secrets: also one that is retired, whose secrets keep their numbers."""
        return self.provider(role) or next((s for s in self.services if role in s.spec.roles), None)

    @property
    def routes(self) -> tuple[Owned[Route], ...]:
        return tuple(Owned(s.name, route) for s in self.services if not s.retired for route in s.spec.routes)

    @property
    def databases(self) -> tuple[Owned[Database], ...]:
        return tuple(Owned(s.name, item) for s in self.services if not s.retired for item in s.spec.databases)

    @property
    def oidc_clients(self) -> tuple[Owned[OidcClient], ...]:
        return tuple(Owned(s.name, s.spec.oidc) for s in self.services if s.spec.oidc and not s.retired)

    @property
    def volumes(self) -> tuple[Owned[Volume], ...]:
        """Of retired services as well: their data is kept."""
        return tuple(Owned(s.name, item) for s in self.services for item in s.spec.volumes)

    @property
    def proofs(self) -> tuple[Owned[Proof], ...]:
        return tuple(Owned(s.name, item) for s in self.services if not s.retired for item in s.spec.proofs)

    def standins(self, *names: str) -> tuple[str, ...]:
        """The stand-ins that run in place of these services, or of any: their images' names. See model.STANDIN."""
        specs = [s.spec for s in self.services if not s.retired and (s.name in names or not names)]
        used = (image_reference(self.settings, holder.image)[0] for spec in specs for holder in holders(spec))
        return tuple(sorted({name for name in map(standin_in, used) if name}))

    @property
    def secrets(self) -> tuple[PlannedSecret, ...]:
        """Declared and implied ones, of retired services as well: data is often useless without its key."""
        found: list[PlannedSecret] = []
        database_server, login = self.keeper(Role.DATABASE), self.keeper(Role.IDENTITY)
        for service in self.services:
            spec = service.spec
            for secret in spec.secrets:
                found.append(self._declared(spec, secret))
            for database in spec.databases:
                keeper = database_server.spec if database_server else spec
                key = database_secret(spec.name, database.name)
                found.append(self._implied(key, rotation.for_database(keeper), keeper.name))
            if spec.oidc:
                keeper = login.spec if login else spec
                found.append(self._implied(client_secret(spec.name), rotation.LOGINS, keeper.name))
        return tuple(found)

    @property
    def certificates(self) -> tuple[Numbered, ...]:
        """The authority, the oldest authority that is trusted, and the certificate of the front door."""
        found: list[Numbered] = []
        for each in rotation.certificates():
            wish = rotation.wish(self.settings.rotation, each.owner, each.name, each.keeper)
            key = SecretKey(each.owner, each.name)
            found.append(
                Numbered(
                    key=key, rotates=each.rotates, keeper=each.keeper, generation=wish.number,
                    previous=rotation.before_of(wish.number), days=wish.days,
                )
            )  # fmt: skip
        return tuple(found)

    @property
    def public_chain(self) -> bool:
        """Whether everybody outside trusts the front door's certificate by itself: what HSTS may rely on."""
        return certificates.public_chain(self.settings)

    @property
    def authorities(self) -> tuple[int, int]:
        """Generations of the CA: the one that signs, and the oldest that is trusted."""
        return rotation.authorities(self.settings.rotation)

    @property
    def leaf(self) -> int:
        """The generation of the front door's certificate and key."""
        return next(each.generation for each in self.certificates if each.key.name == rotation.LEAF)

    def secret(self, key: SecretKey) -> PlannedSecret:
        """The secret of that key. KeyError when there is none."""
        for secret in self.secrets:
            if secret.key == key:
                return secret
        raise KeyError(f"no secret {key} in the plan")

    def _declared(self, spec: ServiceSpec, secret: Secret) -> PlannedSecret:
        how = rotation.how(secret, self.settings.provided_secrets)
        made = self._made(SecretKey(spec.name, secret.name), secret.source, how, spec.name)
        return replace(made, handed_out=secret.handed_out, passing=secret.passing)

    def _implied(self, key: SecretKey, how: Rotates, keeper: str) -> PlannedSecret:
        return self._made(key, Generated(length=32), how, keeper)

    def _made(self, key: SecretKey, source: Generated | Provided | Signed, how: Rotates, keeper: str) -> PlannedSecret:
        if isinstance(how, Never):
            return PlannedSecret(key=key, source=source, rotates=how, keeper=keeper)
        wish = rotation.wish(self.settings.rotation, key.owner, key.name, keeper)
        held = self.held.get(str(key), ())
        number = wish.number
        if held and not {key.owner, keeper} <= {service.name for service in self.running}:
            # Its server would not be told. Raised twice meanwhile, the one that it knows would be gone.
            number = min(number, max(held))
        before = rotation.before_of(number, held)
        return PlannedSecret(
            key=key, source=source, rotates=how, keeper=keeper, generation=number, previous=before, days=wish.days
        )

    def path(self, route: Route) -> str:
        """The path of the domain that a route is at, without a trailing slash; "" for one with a host name."""
        return self.settings.paths.get(route.name, "")

    def host_name(self, route: Route) -> str:
        """The public host name of a route, without a port. Routes at paths share one: the domain."""
        return self.settings.domain if self.path(route) else f"{route.name}.{self.settings.domain}"

    @property
    def host_names(self) -> tuple[str, ...]:
        """Every public host name, without a port: of each route, and the domain itself where a path of it leads on."""
        named = dict.fromkeys(self.host_name(owned.item) for owned in self.routes)
        if any(owned.item.prefix for owned in self.routes):
            named[self.settings.domain] = None
        return tuple(named)

    def origin(self, route: Route) -> str:
        """Whence a browser calls a route's pages: scheme, host, and the port only where it is not 443."""
        port = "" if self.settings.https_port == 443 else f":{self.settings.https_port}"
        return f"https://{self.host_name(route)}{port}"

    def url(self, route: Route) -> str:
        """The public URL of a route, without a trailing slash."""
        return self.origin(route) + self.path(route)


def database_secret(owner: str, database: str) -> SecretKey:
    """The password of a database's role."""
    return SecretKey(owner, f"{rotation.DATABASE_PREFIX}{database}")


def client_secret(owner: str) -> SecretKey:
    """The secret of a service's OIDC client."""
    return SecretKey(owner, rotation.CLIENT)


def docker_prefix(stack: str) -> str:
    """What every Docker name of a stack starts with."""
    return f"kit-{stack}-"


def volume_name(stack: str, service: str, volume: str) -> str:
    """The Docker name of a service's data volume."""
    return f"{docker_prefix(stack)}{service}-{volume}"


def image_reference(settings: Settings, pin: ImagePin) -> tuple[str, bool]:
    """The reference to run for a pin, and whether it was built here. "airgap:<name>" before anything was built."""
    if settings.images is ImageSource.REGISTRY:
        locked = settings.image_locks.get(pin.tagged)
        return (f"{pin.tagged}@{locked.digest}" if locked and not pin.digest else pin.reference), False
    return settings.airgap_images.get(pin.name, f"airgap:{pin.name}"), True


def build(settings: Settings, host: HostProfile, services: tuple[ServiceSpec, ...]) -> Plan:
    """Resolve the selected services into a Plan, or raise one SpecError with every problem found."""
    subject = f"{stack_file(settings.stack)} cannot be planned"
    selection = resolve(settings, host, services)
    found = [*selection.problems]
    for check in (*SERVICE_CHECKS, *stack_checks.STACK_CHECKS):
        found += check(selection)
    if found:
        raise SpecError(subject, tuple(found))
    plan = _plan(selection)
    found += stack_checks.derived(plan, selection)
    if found:
        raise SpecError(subject, tuple(found))
    return plan


def _plan(selection: Selection) -> Plan:
    settings, host = selection.settings, selection.host
    running = tuple(
        PlannedService(
            spec=spec,
            why=selection.why[name],
            containers=tuple(_container(settings, host, spec, container) for container in spec.containers),
            starts_after=selection.starts_after[name],
        )
        for name, spec in selection.chosen.items()
    )
    kept = tuple(
        PlannedService(spec=spec, why=("retired",), containers=(), starts_after=(), retired=True)
        for spec in selection.retired
    )
    return Plan(settings=settings, host=host, services=running + kept, left_out=selection.left_out)


def _container(
    settings: Settings, host: HostProfile, service: ServiceSpec, container: ContainerSpec
) -> PlannedContainer:
    image, local = image_reference(settings, container.image)
    host_name = stack_checks.host_name(service.name, container.name)
    return PlannedContainer(
        service=service.name,
        spec=container,
        docker_name=f"{docker_prefix(settings.stack)}{host_name}",
        host_name=host_name,
        image=image,
        local_image=local,
        limits=_limits(settings, host, service, container),
        declared=container.limits[host.target],
    )


def _limits(settings: Settings, host: HostProfile, service: ServiceSpec, container: ContainerSpec) -> ResourceLimits:
    found = limits_of(settings, host, service, container)
    if found is None:
        raise LookupError(f"{service.name} {container.name} has no limits for {host.target}")
    return found
