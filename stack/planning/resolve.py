"""Settings and services -> which services, why, and in which order. Collects problems, raises none."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from stack.automation.render import with_workflows
from stack.model import (
    Access,
    ContainerSpec,
    DatabasePassword,
    DatabaseUrl,
    DatabaseUser,
    HostProfile,
    Issuer,
    Job,
    Problem,
    Ref,
    Role,
    RouteUrl,
    ServiceSpec,
    Target,
    Template,
    Value,
    Zone,
)
from stack.planning.choices import settled, unknown
from stack.planning.leases import leased
from stack.planning.replicas import expanded
from stack.settings import Settings, WafMode
from stack.words import did_you_mean, listed, shown


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One value in a container or job of a service, and where it stands there."""

    path: str
    holder: ContainerSpec | Job
    value: Value

    @property
    def zones(self) -> frozenset[Zone]:
        return self.holder.zones


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen of a catalog. `chosen` runs, in start order; `problems` are those met while choosing.

    left_out: what the profiles would bring and the source of images cannot give, with the reason.
    """

    settings: Settings
    host: HostProfile
    catalog: Mapping[str, ServiceSpec]
    chosen: Mapping[str, ServiceSpec]
    why: Mapping[str, tuple[str, ...]]
    retired: tuple[ServiceSpec, ...]
    providers: Mapping[Role, str]
    starts_after: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]
    problems: tuple[Problem, ...]

    def provider(self, role: Role) -> ServiceSpec | None:
        """The chosen service that has the role."""
        name = self.providers.get(role)
        return self.chosen[name] if name else None


def at(spec: ServiceSpec, *path: str) -> str:
    """Where something stands in a service's file."""
    return " ".join([spec.source or f"service {spec.name}", ".".join(path)]).strip()


def flatten(value: Value | Template) -> Iterator[Value]:
    """The single values of a value, templates taken apart."""
    if isinstance(value, Template):
        for part in value.parts:
            yield from flatten(part)
    else:
        yield value


def holders(spec: ServiceSpec) -> Iterator[ContainerSpec | Job]:
    """Everything of a service that becomes a container, the database provider's job included."""
    yield from spec.containers
    yield from spec.jobs
    if spec.database_provider:
        yield spec.database_provider.job
        if spec.database_provider.retire:
            yield spec.database_provider.retire


def mentions(spec: ServiceSpec) -> Iterator[Mention]:
    """Every value a service mentions in variables, files and triggers. Derived files need a plan: see checks.py."""
    for holder in holders(spec):
        for name, value in holder.env.items():
            for single in flatten(value):
                yield Mention(path=f"{holder.name}.env.{name}", holder=holder, value=single)
        for file in holder.files:
            if isinstance(file.source, Template):
                for single in flatten(file.source):
                    yield Mention(path=f"{holder.name}.files.{file.name}", holder=holder, value=single)
        if isinstance(holder, Job):
            for value in holder.triggers:
                yield Mention(path=f"{holder.name}.triggers", holder=holder, value=value)


# What a stack does without where nobody can have it: what asks for a login then stays shut, and the plan says so.
OPTIONAL = frozenset({Role.FORWARD_AUTH, Role.FIREWALL})


def direct_needs(spec: ServiceSpec) -> dict[str, str]:
    """The services a service names, each with the place that names it first."""
    found: dict[str, str] = {}
    for name in spec.needs:
        found.setdefault(name, "needs")
    for mention in mentions(spec):
        if isinstance(mention.value, Ref | RouteUrl):
            found.setdefault(mention.value.service, mention.path)
    found.pop(spec.name, None)
    return found


def needed_roles(spec: ServiceSpec) -> frozenset[Role]:
    """The roles that somebody else must have for this service to work."""
    values = [mention.value for mention in mentions(spec)]
    roles: set[Role] = set()
    if spec.routes:
        roles |= {Role.INGRESS, Role.FIREWALL}
    asks_for_login = any(route.access in (Access.SSO, Access.ADMIN) for route in spec.routes)
    if spec.oidc or asks_for_login or any(isinstance(value, Issuer) for value in values):
        roles.add(Role.IDENTITY)
    if asks_for_login:
        roles.add(Role.FORWARD_AUTH)
    if spec.databases or any(isinstance(value, DatabaseUrl | DatabasePassword | DatabaseUser) for value in values):
        roles.add(Role.DATABASE)
    if any(container.certificates for container in spec.containers):
        roles.add(Role.CERTIFICATES)
    return frozenset(roles) - spec.roles


def resolve(settings: Settings, host: HostProfile, services: Iterable[ServiceSpec]) -> Selection:
    """Settle choices, count out replicas, select by profile and target, close over needs, find the start order."""
    given = tuple(services)
    catalog = {spec.name: with_workflows(expanded(settled(spec, settings), settings), settings) for spec in given}
    closure = _Closure(settings, host.target, catalog)
    closure.run()
    maker = closure.providers.get(Role.LOGINS)
    chosen = {name: leased(catalog[name], catalog[maker] if maker else None) for name in sorted(closure.chosen)}
    edges = {name: start_edges(spec, chosen, closure.providers) for name, spec in chosen.items()}
    order, cycles = start_order(edges)
    problems = [
        *_unknown_names(settings, catalog),
        *unknown(given, settings),
        *closure.problems(),
        *(_cycle_problem(chosen, cycle) for cycle in cycles),
    ]
    return Selection(
        settings=settings,
        host=host,
        catalog=catalog,
        chosen={name: chosen[name] for name in order},
        why={name: closure.why(name) for name in order},
        retired=tuple(catalog[name] for name in sorted(set(settings.retired)) if name in catalog),
        providers=closure.providers,
        starts_after={name: tuple(other for other in order if other in edges[name]) for name in order},
        left_out=closure.left_out(),
        problems=tuple(problems),
    )


class _Closure:
    """The smallest set that holds what the profiles ask for and, of each member, what it needs."""

    def __init__(self, settings: Settings, target: Target, catalog: Mapping[str, ServiceSpec]) -> None:
        self.settings = settings
        self.target = target
        self.catalog = catalog
        self.out = {*settings.without, *settings.retired}
        self.wanted = {
            spec.name: {profile.name for profile in spec.profiles} & set(settings.profiles) for spec in catalog.values()
        }
        self.roles = {name: needed_roles(spec) for name, spec in catalog.items()}
        self.chosen: set[str] = set()
        self.requesters: dict[str, set[str]] = {}
        self.providers: dict[Role, str] = {}
        self.unmet: list[Problem] = []

    def run(self) -> None:
        named = {name for name in self.settings.services if name in self.catalog}
        for name in named:
            self.requesters.setdefault(name, set())  # where it cannot be had, that is said below
        asked = [name for name, profiles in self.wanted.items() if profiles or name in named]
        self._add(name for name in asked if self._possible(name))
        while unmet := [role for role in Role if role not in self.providers and self._role_users(role)]:
            # One with a choice comes last: what the others bring may settle it.
            role = next((role for role in unmet if not self._must_choose(role)), unmet[0])
            self.providers[role] = self._provide(role)
        self.providers = {role: name for role, name in self.providers.items() if name}
        for role, name in self.providers.items():
            for user in self._role_users(role):
                self.requesters.setdefault(name, set()).add(user)
        for role in Role:  # a provider that nobody asked for still is one
            holder = next((name for name in sorted(self.chosen) if role in self.catalog[name].roles), None)
            if holder:
                self.providers.setdefault(role, holder)

    def why(self, name: str) -> tuple[str, ...]:
        """The profiles it was asked for by and whether it was named, else the services that need it."""
        asked = [f"profile {profile}" for profile in sorted(self.wanted[name])]
        asked += ["named"] if name in self.settings.services else []
        return tuple(asked) or tuple(sorted(self.requesters[name]))

    def problems(self) -> Iterator[Problem]:
        """What is needed and cannot be had."""
        yield from self.unmet
        for name in sorted(self.requesters):
            if name in self.chosen or name not in self.catalog:
                continue
            users = sorted(self.requesters[name])
            if not users:
                yield from self._named(name)
                continue
            need = "needs" if len(users) == 1 else "need"
            for key in ("without", "retired"):
                names: tuple[str, ...] = getattr(self.settings, key)
                if name in names:
                    fix = f"{', '.join(users)} {need} it: take that out as well, or keep {name}"
                    yield Problem(where=f"{key}[{names.index(name)}]", what=shown(name), fix=fix)
            if name not in self.out:
                spec = self.catalog[name]
                fix = f"{', '.join(users)} {need} it: leave that out here (without: [{', '.join(users)}])"
                what = self._cannot(spec) or f"does not run on {self.target}, only on {listed(spec.targets)}"
                yield Problem(where=at(spec), what=what, fix=fix)

    def _named(self, name: str) -> Iterator[Problem]:
        """What keeps a service out that nobody but the operator asks for."""
        where = f"services[{self.settings.services.index(name)}]"
        for key in ("without", "retired"):
            if name in getattr(self.settings, key):
                fix = f'stands in "{key}" as well: take it out of one of them'
                yield Problem(where=where, what=shown(name), fix=fix)
        if name not in self.out:
            spec = self.catalog[name]
            if self.target in spec.targets:
                fix = f"{self._cannot(spec)}: take it out, or choose images: registry for a new stack"
            else:
                fix = f"runs on {listed(spec.targets)} only, and this is {self.target}: take it out"
            yield Problem(where=where, what=shown(name), fix=fix)

    def left_out(self) -> dict[str, str]:
        """What was asked for by profile, could run on this target, and has no image here; with the reason."""
        source = self.settings.images
        return {
            name: spec.unavailable[source]
            for name, spec in sorted(self.catalog.items())
            if self.wanted[name] and name not in self.out and self.target in spec.targets and source in spec.unavailable
        }

    def _cannot(self, spec: ServiceSpec) -> str:
        """Why a service cannot be had; "" where it can."""
        if self._switched_off(spec):
            return f"is switched off (waf: {WafMode.NONE})"
        reason = spec.unavailable.get(self.settings.images)
        return f"cannot be had with images: {self.settings.images} ({reason})" if reason else ""

    def _switched_off(self, spec: ServiceSpec) -> bool:
        return Role.FIREWALL in spec.roles and self.settings.waf is WafMode.NONE

    def _possible(self, name: str) -> bool:
        spec = self.catalog[name]
        if self._switched_off(spec):
            return False
        return name not in self.out and self.target in spec.targets and self.settings.images not in spec.unavailable

    def _add(self, names: Iterable[str]) -> None:
        """Choose services and all they name, as far as they can be had."""
        waiting = sorted(names)
        while waiting:
            name = waiting.pop()
            if name in self.chosen:
                continue
            self.chosen.add(name)
            for needed, path in direct_needs(self.catalog[name]).items():
                self.requesters.setdefault(needed, set()).add(name)
                if needed not in self.catalog:
                    fix = f"{did_you_mean(needed, self.catalog)}Services: {listed(self.catalog)}"
                    where = at(self.catalog[name], path)
                    self.unmet.append(Problem(where=where, what=f"there is no service {shown(needed)}", fix=fix))
                elif self._possible(needed):
                    waiting.append(needed)

    def _role_users(self, role: Role) -> list[str]:
        return [name for name in sorted(self.chosen) if role in self.roles[name]]

    def _candidates(self, role: Role) -> list[str]:
        """Who could have the role: those chosen already, else whoever can be had."""
        able = [name for name in sorted(self.catalog) if role in self.catalog[name].roles and self._possible(name)]
        return [name for name in able if name in self.chosen] or able

    def _must_choose(self, role: Role) -> bool:
        candidates = self._candidates(role)
        return len(candidates) > 1 and not self.chosen & set(candidates)

    def _provide(self, role: Role) -> str:
        """Find and choose who has the role. "", with a problem noted, when nobody or more than one could."""
        candidates, users = self._candidates(role), self._role_users(role)
        if candidates and not self._must_choose(role):
            self._add(candidates[:1])
            return candidates[0]
        if candidates:
            others = ", ".join(candidates[1:])
            what = f"{' and '.join(candidates)} can all be the {role}"
            fix = f"{', '.join(users)} asks for one: choose by leaving the others out (without: [{others}])"
            self.unmet.append(Problem(where=f"role {role}", what=what, fix=fix))
            return ""
        if role in OPTIONAL:
            return ""
        holders_of = [name for name, spec in self.catalog.items() if role in spec.roles]
        for name in holders_of:
            self.requesters.setdefault(name, set()).update(users)
        if not holders_of:
            fix = f"{', '.join(users)} asks for it: one service must have roles={{Role.{role.name}}}"
            self.unmet.append(Problem(where=f"role {role}", what="no service has it", fix=fix))
        return ""


def _unknown_names(settings: Settings, catalog: Mapping[str, ServiceSpec]) -> Iterator[Problem]:
    for key in ("services", "without", "retired"):
        names: tuple[str, ...] = getattr(settings, key)
        for index, name in enumerate(names):
            if name not in catalog:
                fix = f"is no service. {did_you_mean(name, catalog)}Services: {listed(catalog)}"
                yield Problem(where=f"{key}[{index}]", what=shown(name), fix=fix)


def start_edges(spec: ServiceSpec, chosen: Mapping[str, ServiceSpec], providers: Mapping[Role, str]) -> Set[str]:
    """What must be up before a service starts: needs, Refs unless start=False, its database."""
    names = set(spec.needs)
    names |= {m.value.service for m in mentions(spec) if isinstance(m.value, Ref) and m.value.start}
    first = needed_roles(spec) & {Role.DATABASE, Role.CERTIFICATES}
    names |= {providers[role] for role in first if role in providers}
    return {name for name in names if name in chosen and name != spec.name}


def start_order(edges: Mapping[str, Set[str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Names so that each comes after its edges, alphabetical where free; and the cycles, whose members come last."""
    waits = {name: set(after) for name, after in edges.items()}
    ready = [name for name, after in waits.items() if not after]
    heapq.heapify(ready)
    order: list[str] = []
    cycles: list[tuple[str, ...]] = []
    done: set[str] = set()
    while len(done) < len(waits):
        if not ready:
            cycle = _cycle({name: after - done for name, after in waits.items() if name not in done})
            cycles.append(cycle)
            for member in cycle:
                waits[member] = set()
                heapq.heappush(ready, member)
        name = heapq.heappop(ready)
        if name in done:
            continue
        order.append(name)
        done.add(name)
        for other, after in waits.items():
            if name in after:
                after.discard(name)
                if not after and other not in done:
                    heapq.heappush(ready, other)
    return tuple(order), tuple(cycles)


def _cycle(edges: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """One cycle of a graph in which everything waits, from its first name on."""
    path: list[str] = []
    name = min(edges)
    while name not in path:
        path.append(name)
        name = min(edges[name])
    cycle = path[path.index(name) :]
    start = cycle.index(min(cycle))
    return tuple(cycle[start:] + cycle[:start])


def _cycle_problem(chosen: Mapping[str, ServiceSpec], cycle: tuple[str, ...]) -> Problem:
    chain = " waits for ".join([*cycle, cycle[0]])
    return Problem(
        where=at(chosen[cycle[0]]),
        what=f"never starts: {chain}",
        fix="break the circle: start=False on the Ref that may be answered later",
    )
