"""What can be wrong between services, and between them and the host. STACK_CHECKS is all of it.

`derived` is the one that needs a plan: it looks at the files that are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from string import Formatter
from typing import TYPE_CHECKING

from stack import images, rotation
from stack.automation import render
from stack.model import (
    ROLE_GROUPS,
    Access,
    ContainerSpec,
    DatabaseUrl,
    Derived,
    Headers,
    HostProfile,
    ImagePin,
    ImageSource,
    Issuer,
    Job,
    Problem,
    RateClass,
    Ref,
    Role,
    RouteUrl,
    ServiceSpec,
    SpecError,
    Template,
    Zone,
)
from stack.planning import budget
from stack.planning.exclusions import exclusions
from stack.planning.resolve import Mention, Selection, at, flatten, holders, mentions
from stack.planning.service_checks import Check, absent, no_port, own_value
from stack.settings import Settings
from stack.words import did_you_mean, listed, shown
from stack.zones import ZONES, badly_joined, may_reach, shared

if TYPE_CHECKING:
    from stack.plan import Plan


_OPEN = re.compile(r"(/[A-Za-z0-9_-]+)+/")
_PREFIX = re.compile(r"/[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def references(selection: Selection) -> Iterator[Problem]:
    """A Ref needs a port, shared secrets, a whole template, and a network both are in."""
    for spec in selection.chosen.values():
        for mention in mentions(spec):
            if isinstance(mention.value, Ref):
                yield from _reference(selection, at(spec, mention.path), mention.zones, mention.value)
            elif isinstance(mention.value, RouteUrl) and mention.value.service in selection.catalog:
                routes = (route.name for route in selection.catalog[mention.value.service].routes)
                problem = absent(at(spec, mention.path), "route", mention.value.route, routes)
                if problem:
                    yield problem


def _reference(selection: Selection, where: str, zones: frozenset[Zone], ref: Ref) -> Iterator[Problem]:
    other = selection.chosen.get(ref.service) or selection.catalog.get(ref.service)
    if other is None:
        return  # reported where services are selected
    try:
        container, _ = other.endpoint(ref.port)
    except KeyError:
        yield no_port(where, ref.service, ref.port, (port.name for each in other.containers for port in each.ports))
    else:
        yield from _meeting(where, zones, ref.service, container)
    given = {secret.name for secret in other.secrets if secret.shared}
    for name in ref.secrets:
        if name not in given:
            fix = f"{did_you_mean(name, given)}Shared ones: {listed(given)}"
            yield Problem(where=where, what=f"{ref.service} shares no secret {shown(name)}", fix=fix)
    try:
        fields = {name for _, name, _, _ in Formatter().parse(ref.template) if name is not None}
    except ValueError as error:
        fix = "write {host}, {port} and the names of secrets in braces"
        yield Problem(where=where, what=f"{shown(ref.template)}: {error}", fix=fix)
        return
    for name in sorted(fields - {"host", "port"} - set(ref.secrets)):
        fix = "the template may name host, port and what stands in secrets=(...)"
        yield Problem(where=where, what=f"{{{name}}} stands for nothing", fix=fix)


def _meeting(where: str, zones: frozenset[Zone], service: str, container: ContainerSpec) -> Iterator[Problem]:
    """Whether a member of zones meets a container of a service in a network."""
    if shared(zones, container.zones):
        return
    theirs = container.zones - {Zone.EGRESS}
    what = f"is in {listed(zones)}, {service} in {listed(theirs)}: they share no network"
    if may_reach(zones, theirs):
        fix = f"add {' or '.join(f'Zone.{zone.name}' for zone in sorted(theirs))} to its zones"
    else:
        open_to = {source for zone in theirs for source in ZONES[zone].reachable_from}
        fix = f"{listed(theirs)} may be reached from {listed(open_to)} only (zones.py)"
    yield Problem(where=where, what=what, fix=fix)


def databases(selection: Selection) -> Iterator[Problem]:
    """Who uses a database meets its server, and no two services have one of the same name."""
    owners: dict[str, str] = {}
    for spec in selection.chosen.values():
        for database in spec.databases:
            if database.name in owners:
                fix = f"{owners[database.name]} has it already: each needs a name of its own"
                where = at(spec, "databases", database.name)
                yield Problem(where=where, what="there would be two of that name", fix=fix)
            owners.setdefault(database.name, spec.name)
    server = selection.provider(Role.DATABASE)
    if server is None or server.database_provider is None:
        return
    try:
        container, _ = server.endpoint(server.database_provider.port)
    except KeyError:
        return  # reported with the provider
    for spec in selection.chosen.values():
        seen: set[str] = set()
        for mention in mentions(spec):
            if isinstance(mention.value, DatabaseUrl) and mention.holder.name not in seen:
                seen.add(mention.holder.name)
                yield from _meeting(at(spec, mention.path), mention.zones, server.name, container)


def issuer(selection: Selection) -> Iterator[Problem]:
    """Who logs people in asks the issuer, which it reaches through the ingress."""
    ingress = selection.provider(Role.INGRESS)
    front = next((item for item in ingress.containers if item.publish), None) if ingress else None
    if ingress is None or front is None:
        return
    for spec in selection.chosen.values():
        if spec.oidc is None:
            continue
        asking = next((mention for mention in mentions(spec) if isinstance(mention.value, Issuer)), None)
        if asking and not shared(asking.zones, front.zones) - {Zone.EDGE}:
            what = f"is in {listed(asking.zones)}, where the ingress does not answer for the issuer"
            fix = "add Zone.APP to its zones: browsers and containers use the same address"
            yield Problem(where=at(spec, asking.path), what=what, fix=fix)


def routes(selection: Selection) -> Iterator[Problem]:
    """Each host name has one owner."""
    owners: dict[str, str] = {}
    for spec in selection.chosen.values():
        for route in spec.routes:
            if route.name in owners:
                host = f"{route.name}.{selection.settings.domain}"
                fix = f"{owners[route.name]} has that host name already: choose another"
                yield Problem(where=at(spec, "routes", route.name), what=host, fix=fix)
            owners.setdefault(route.name, spec.name)
            if route.rate not in tuple(RateClass):
                fix = f"{did_you_mean(str(route.rate), RateClass)}Rate classes: {listed(RateClass)}"
                what = f"there is no rate class {shown(route.rate)}"
                yield Problem(where=at(spec, "routes", route.name), what=what, fix=fix)
            if route.body_mb < 1:
                fix = "say how many MB a request may have, 1 or more"
                yield Problem(where=at(spec, "routes", route.name), what=f"body_mb {route.body_mb}", fix=fix)
            for name in _badly_said(route.headers):
                fix = "take line breaks, \" and ' out" if name != "csp" else 'take line breaks and " out'
                what = f"headers.{name} cannot be sent"
                yield Problem(where=at(spec, "routes", route.name), what=what, fix=fix)
            for path in route.deny:
                if not path.startswith("/"):
                    fix = "write a path beginning with /"
                    yield Problem(where=at(spec, "routes", route.name), what=f"deny {shown(path)}", fix=fix)
            for path in route.paths:
                if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", path):
                    fix = "write a path beginning with /, of letters, digits, dots and dashes"
                    yield Problem(where=at(spec, "routes", route.name), what=f"paths {shown(path)}", fix=fix)
            for path in route.open:
                if not _OPEN.fullmatch(path):
                    fix = "write whole folders, such as /webhook/: what begins alike must not be open by accident"
                    yield Problem(where=at(spec, "routes", route.name), what=f"open {shown(path)}", fix=fix)
                if route.access not in (Access.SSO, Access.ADMIN):
                    fix = "only a route with Access.SSO or ADMIN has a login to be spared: take it out"
                    what = f"open {shown(path)}, and its access is {route.access}"
                    yield Problem(where=at(spec, "routes", route.name), what=what, fix=fix)


def _badly_said(headers: Headers) -> Iterator[str]:
    """The headers that would end where they should not."""
    for each in fields(headers):
        if re.search(r"[^\x20-\x7e]|[\"\\$%]", getattr(headers, each.name)):
            yield each.name


def tuned(selection: Selection) -> Iterator[Problem]:
    """What the settings say of routes is said of routes that are there."""
    settings = selection.settings
    known = {route.name for spec in selection.catalog.values() for route in spec.routes}
    known |= {route.name for spec in selection.chosen.values() for route in spec.routes}
    for key, names in (("rateClasses", tuple(settings.rate_classes)), ("sticky", settings.sticky)):
        for index, name in enumerate(names):
            if name not in known:
                fix = f"{did_you_mean(name, known)}Routes: {listed(sorted(known))}"
                yield Problem(where=f"{key}[{index}]", what=f"no service has a route {shown(name)}", fix=fix)


def moved(selection: Selection) -> Iterator[Problem]:
    """Only routes that are there, and of services that can be at a path, are moved to one."""
    known = {route.name: (spec, route) for spec in selection.catalog.values() for route in spec.routes}
    known |= {route.name: (spec, route) for spec in selection.chosen.values() for route in spec.routes}
    movable = sorted(name for name, (_, route) in known.items() if route.movable)
    for index, name in enumerate(selection.settings.paths):
        where, some = f"paths[{index}]", f"Those that can be at a path: {listed(movable)}"
        if name not in known:
            yield Problem(
                where=where, what=f"no service has a route {shown(name)}", fix=did_you_mean(name, known) + some
            )
        elif name not in movable:
            what = f"{known[name][0].name} can be at a host name of its own only"
            yield Problem(where=where, what=what, fix=f"take {name} out. {some}")


def prefixes(selection: Selection) -> Iterator[Problem]:
    """A prefix is one folder, of one service, and what the route says of paths lies below it."""
    owners = {path: f"paths ({name})" for name, path in selection.settings.paths.items()}
    for spec in selection.chosen.values():
        for route in spec.routes:
            if not route.prefix:
                continue
            where = at(spec, "routes", route.name)
            if not _PREFIX.fullmatch(route.prefix):
                fix = "write one folder without a slash at the end, such as /wiki, in lower case"
                yield Problem(where=where, what=f"prefix {shown(route.prefix)}", fix=fix)
                continue
            if route.prefix in owners:
                fix = f"{owners[route.prefix]} has that path of the domain already: choose another"
                yield Problem(where=where, what=f"{selection.settings.domain}{route.prefix}", fix=fix)
            owners.setdefault(route.prefix, spec.name)
            said = (*route.paths, *route.open, *filter(None, (route.logout,)))
            for path in said:
                if not f"{path}/".startswith(f"{route.prefix}/"):
                    fix = f"the service answers below {route.prefix}/ alone: write the path with it"
                    yield Problem(where=where, what=f"{shown(path)} is not below {route.prefix}", fix=fix)


def logins(selection: Selection) -> Iterator[Problem]:
    """What a route says about the login in front of it fits, and nobody has to log in in order to log in."""
    for spec in selection.chosen.values():
        shared_secrets = [secret.name for secret in spec.secrets if secret.shared]
        for route in spec.routes:
            where = at(spec, "routes", route.name)
            with_login = route.access in (Access.SSO, Access.ADMIN)
            if with_login and {Role.IDENTITY, Role.FORWARD_AUTH} & spec.roles:
                fix = "people log in there: give it Access.PUBLIC"
                yield Problem(where=where, what=f"its access is {route.access}", fix=fix)
            if not with_login and (route.roles or route.logout or route.voucher):
                fix = "roles, logout and voucher belong to a login at the ingress: take them out, or take Access.SSO"
                yield Problem(where=where, what=f"its access is {route.access}", fix=fix)
            if route.roles and route.access is Access.ADMIN:
                fix = "Access.ADMIN is for administrators alone: take the roles out, or take Access.SSO"
                yield Problem(where=where, what=f"roles {listed(route.roles)}", fix=fix)
            for role in route.roles:
                problem = absent(where, "role", role, ROLE_GROUPS)
                if problem:
                    yield problem
            if route.logout and not re.fullmatch(r"/[A-Za-z0-9._~/-]+", route.logout):
                fix = "write an exact path beginning with /, of letters, digits, dots and dashes"
                yield Problem(where=where, what=f"logout {shown(route.logout)}", fix=fix)
            problem = absent(where, "shared secret", route.voucher, shared_secrets) if route.voucher else None
            if problem:
                yield problem


def aliases(selection: Selection) -> Iterator[Problem]:
    """A name for several models needs somebody who reads it: a queue of connections does not look into questions."""
    if selection.settings.model_aliases and not any(Role.MODEL_API in spec.roles for spec in selection.chosen.values()):
        able = [spec for spec in selection.catalog.values() if Role.MODEL_API in spec.roles]
        profiles = sorted({profile.name for spec in able for profile in spec.profiles})
        ways = f"add the profile {' or '.join(profiles)}, or " if profiles else ""
        what = f"{listed(selection.settings.model_aliases)}: no service of this stack routes by model"
        yield Problem(where="modelAliases", what=what, fix=f"{ways}take the names out and ask the models by their own")


def zones(selection: Selection) -> Iterator[Problem]:
    """A container in two networks joins them: only where one may reach the other. None runs in no network."""
    for spec in selection.chosen.values():
        for holder in holders(spec):
            bad = badly_joined(holder.zones)
            if bad:
                what = f"would join {bad[0]} and {bad[1]}"
                fix = "keep it in zones of which one may reach the other (zones.py)"
                yield Problem(where=at(spec, holder.name, "zones"), what=what, fix=fix)
            if isinstance(holder, ContainerSpec) and not holder.zones:
                fix = "nobody could reach it: name one"
                yield Problem(where=at(spec, holder.name, "zones"), what="are empty", fix=fix)
            reason = holder.way_out if isinstance(holder, ContainerSpec) else ""
            both = {Zone.DATA, Zone.EGRESS} <= holder.zones
            if both and not bad and not reason.strip():
                fix = "keep one of the two, or say why it must be (way_out=...)"
                yield Problem(where=at(spec, holder.name, "zones"), what="lead from data to the outside", fix=fix)
            elif reason and not both:
                fix = "take it out: it is an exception for a container in the data and the egress zone"
                yield Problem(where=at(spec, holder.name, "way_out"), what="excuses nothing", fix=fix)


def docker_names(selection: Selection) -> Iterator[Problem]:
    """Containers and jobs share one set of names on the host, volumes another; the same for files' volumes."""
    taken: dict[tuple[str, str], str] = {}
    for kind, name, owner in _docker_names(selection):
        if (kind, name) in taken and taken[kind, name] != owner:
            fix = f"{taken[kind, name]} has that name already: rename one of them"
            yield Problem(where=owner, what=f"would be the {kind} kit-{selection.settings.stack}-{name}", fix=fix)
        taken.setdefault((kind, name), owner)


def _docker_names(selection: Selection) -> Iterator[tuple[str, str, str]]:
    for spec in (*selection.chosen.values(), *selection.retired):
        for volume in spec.volumes:
            yield "volume", f"{spec.name}-{volume.name}", at(spec, "volumes", volume.name)
    for spec in selection.chosen.values():
        for container in spec.containers:
            own = host_name(spec.name, container.name)
            yield "container", own, at(spec, container.name)
            yield "volume", f"{own}-config", at(spec, container.name)
            if container.reload:
                yield "container", f"{own}-reload", at(spec, container.name, "reload")
        for job in spec.jobs:
            yield "container", f"{spec.name}-{job.name}", at(spec, "jobs", job.name)
    for name in sorted({database.name for spec in selection.chosen.values() for database in spec.databases}):
        yield "container", f"database-{name}", f"database {name}"


def host_name(service: str, container: str) -> str:
    """A container's DNS name inside the stack."""
    return service if container == "main" else f"{service}-{container}"


def pins(selection: Selection) -> Iterator[Problem]:
    """Every image must exist for the host's architectures; built locally, it must have been built."""
    settings, host = selection.settings, selection.host
    used: dict[str, tuple[ImagePin, str]] = {images.TOOLS.name: (images.TOOLS, "file delivery")}
    for spec in selection.chosen.values():
        for holder in holders(spec):
            used.setdefault(holder.image.name, (holder.image, spec.name))
    for name, (pin, user) in sorted(used.items()):
        if host.arches - pin.arches:
            what = f"image {name} is not made for {listed(host.arches - pin.arches)}"
            fix = f"{user} needs it on {host.target}: take another image, or leave {user} out"
            yield Problem(where=f"stack/images.py {name}", what=what, fix=fix)
        yield from _pages(host, pin, user)
        yield from _locks(settings, host, pin, user)
        if settings.images is ImageSource.AIRGAP and settings.airgap_images and name not in settings.airgap_images:
            fix = f"{user} needs it: let ./kit up build the images, or add {name}=REFERENCE"
            yield Problem(where="airgapImages", what=f"has no image {shown(name)}", fix=fix)


def _pages(host: HostProfile, pin: ImagePin, user: str) -> Iterator[Problem]:
    if host.page_size not in pin.page_sizes:
        sizes = " or ".join(f"{size // 1024} KiB" for size in sorted(pin.page_sizes))
        fix = (
            f"{user} needs it: boot the 4 KiB kernel (kernel=kernel8.img in /boot/firmware/config.txt, reboot) and say "
            f"so with pageSize: 4096, or leave {user} out"
        )
        what = f"image {pin.name} runs with {sizes} pages only, and this kernel has {host.page_size // 1024} KiB"
        yield Problem(where=f"stack/images.py {pin.name}", what=what, fix=fix)


def _locks(settings: Settings, host: HostProfile, pin: ImagePin, user: str) -> Iterator[Problem]:
    """What was locked must be what is planned, and made for the host."""
    lock = settings.image_locks.get(pin.tagged)
    if settings.images is ImageSource.REGISTRY and lock:
        missing = host.arches - lock.arches
        # On a target of two architectures the machine has one of them: doctor looks at which.
        if missing == host.arches:
            what = f"{pin.tagged} as locked is made for {listed(lock.arches)}, and not for {listed(missing)}"
            fix = f"lock what the tag is now (./kit images lock), or leave {user} out"
            yield Problem(where=f"images.lock.json {pin.name}", what=what, fix=fix)
        if pin.digest and pin.digest != lock.digest:
            what = f"is locked to {_short(lock.digest)}, and stack/images.py pins {_short(pin.digest)}"
            fix = "one of them is wrong: take the digest out of stack/images.py, or lock it anew (./kit images lock)"
            yield Problem(where=f"images.lock.json {pin.name}", what=what, fix=fix)
    hashes = settings.built_locks.get(pin.name)
    built = settings.airgap_images.get(pin.name, "") if settings.images is ImageSource.AIRGAP else ""
    if hashes and built and built.rpartition("-")[2] not in hashes:
        what = f"its recipe now makes {built.rpartition('-')[2]}, and {listed(hashes)} is locked"
        fix = f"take the recipe back (git diff airgap/images/{pin.name}), or lock what it makes now: ./kit images lock"
        yield Problem(where=f"images.lock.json {pin.name}", what=what, fix=fix)


def _short(digest: str) -> str:
    return digest[:19]


def workflows(selection: Selection) -> Iterator[Problem]:
    """The settings name workflows that are there, with parameters that fit, and something runs them."""
    runs = [name for name, spec in selection.chosen.items() if spec.workflow_importer]
    yield from render.problems(selection.settings, runs)


def rotations(selection: Selection) -> Iterator[Problem]:
    """What is to be rotated is there and can be."""
    settings = selection.settings

    def keeper(role: Role) -> ServiceSpec | None:
        return selection.provider(role) or next((spec for spec in selection.retired if role in spec.roles), None)

    known = rotation.candidates(
        (*selection.chosen.values(), *selection.retired),
        settings.provided_secrets,
        keeper(Role.DATABASE),
        keeper(Role.IDENTITY),
    )
    yield from rotation.wrong(settings.rotation, (*known, *rotation.certificates()))
    yield from rotation.overlapping(settings.rotation)


STACK_CHECKS: tuple[Check, ...] = (
    workflows,
    references,
    databases,
    issuer,
    routes,
    exclusions,
    moved,
    tuned,
    prefixes,
    logins,
    aliases,
    rotations,
    zones,
    docker_names,
    pins,
    budget.processors,
    budget.graphics,
    budget.disk,
    budget.memory,
    budget.monitoring,
    budget.held_models,
    budget.card_memory,
    budget.alternatives,
)


# ------------------------------------------------------------------------------------------- what needs a plan


def derived(plan: Plan, selection: Selection) -> Iterator[Problem]:
    """Derived files can be made, and what they mention is there. Only for a plan that has no other problem."""
    for spec in selection.chosen.values():
        for holder in holders(spec):
            for file in holder.files:
                if isinstance(file.source, Derived):
                    yield from _derived_file(plan, selection, spec, holder, file.name, file.source)


def _derived_file(
    plan: Plan, selection: Selection, spec: ServiceSpec, holder: ContainerSpec | Job, name: str, source: Derived
) -> Iterator[Problem]:
    path = f"{holder.name}.files.{name}"
    try:
        made = source.make(plan)
    except (LookupError, SpecError) as error:
        fix = "what it is derived from is not in this plan: correct the function, or the service's needs"
        yield Problem(where=at(spec, path), what=f"cannot be made: {error}", fix=fix)
        return
    for value in flatten(made if isinstance(made, Template) else Template((made,))):
        mention = Mention(path=path, holder=holder, value=value)
        if isinstance(value, Ref) and value.service not in selection.chosen:
            fix = f"{did_you_mean(value.service, selection.chosen)}In this plan: {listed(selection.chosen)}"
            yield Problem(where=at(spec, path), what=f"there is no service {shown(value.service)}", fix=fix)
        elif isinstance(value, Ref):
            yield from _reference(selection, at(spec, path), holder.zones, value)
        problem = own_value(selection, spec, mention)
        if problem:
            yield problem
