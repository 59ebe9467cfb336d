"""A service file's values -> texts whose secret parts are still names: nothing secret is known here."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from stack.model import (
    ByTarget,
    CaCertificate,
    ClientId,
    ClientSecret,
    DatabasePassword,
    DatabaseUrl,
    DatabaseUser,
    Encoding,
    FromSettings,
    FrontCertificate,
    Issuer,
    LeafCertificates,
    OwnPath,
    OwnUrl,
    Ref,
    Role,
    Route,
    RouteUrl,
    SecretValue,
    ServiceSpec,
    Template,
    Value,
)
from stack.plan import Plan, PlannedService, SecretKey, client_secret, database_secret
from stack.rotation import login_name


@dataclass(frozen=True)
class SecretPiece:
    """A secret in the middle of a text, written in `encoding`. previous: the one before it, "" where there is none."""

    key: SecretKey
    encoding: Encoding = Encoding.RAW
    previous: bool = False


class LoginPiece(str):
    """As whom somebody logs in: known, but delivered with the password, as a file, and not in a container's variables.

    A container that crashes between the delivery of new files and its replacement starts with what belongs together.
    """

    __slots__ = ()


@dataclass(frozen=True)
class CaPiece:
    """The stack's CA certificate, PEM: public, but known only once it is made."""


@dataclass(frozen=True)
class LeafPiece:
    """Private key and chain for all host names, PEM: secret."""


@dataclass(frozen=True)
class FrontPiece:
    """Private key and chain that the operator brings, PEM: secret."""


Piece = str | SecretPiece | CaPiece | LeafPiece | FrontPiece
Text = tuple[Piece, ...]


def is_plain(text: Text) -> bool:
    """Whether the text is known now and may stand in a variable: no secret, login or certificate in it."""
    return all(isinstance(piece, str) and not isinstance(piece, LoginPiece) for piece in text)


def plain(text: Text) -> str:
    """The text as a string. TypeError when a part of it is not known while planning."""
    hidden = [piece for piece in text if not isinstance(piece, str)]
    if hidden:
        raise TypeError(f"not known while planning: {hidden[0]}")
    return "".join(piece for piece in text if isinstance(piece, str))


def issuer_url(plan: Plan) -> str:
    """The realm's issuer: the identity provider's first route, the same for browsers and containers."""
    provider = plan.provider(Role.IDENTITY)
    if provider is None:
        raise LookupError("no selected service has the identity role")
    return f"{plan.url(provider.spec.routes[0])}/realms/{plan.settings.realm}"


def route_named(spec: ServiceSpec, name: str) -> Route:
    """The service's route of that name. KeyError when it has none."""
    for route in spec.routes:
        if route.name == name:
            return route
    raise KeyError(f"{spec.name} has no route {name!r}")


def managed_name(host_name: str) -> str:
    """The name that a container has on the management network alone."""
    return f"{host_name}.manage"


def endpoint(service: PlannedService, port: str) -> tuple[str, int]:
    """DNS name and number of a service's named port. KeyError when no container of it has one."""
    spec, found = service.spec.endpoint(port)
    return next(c.host_name for c in service.containers if c.spec.name == spec.name), found.number


def resolve(plan: Plan, owner: PlannedService, value: Value | Template) -> Text:
    """What a value stands for in the files and variables of `owner`. The plan was checked, so look-ups succeed."""
    match value:
        case str():
            return (value,)
        case Template(parts):
            return tuple(piece for part in parts for piece in resolve(plan, owner, part))
        case OwnUrl(route, path):
            return (plan.url(route_named(owner.spec, route)) + path,)
        case OwnPath(route, otherwise):
            return (plan.path(route_named(owner.spec, route)) or otherwise,)
        case RouteUrl(service, route, path):
            return (plan.url(route_named(plan.service(service).spec, route)) + path,)
        case Issuer(path):
            return (issuer_url(plan) + path,)
        case Ref():
            return _ref(plan, value)
        case DatabaseUrl(database, scheme):
            host, port = _database_endpoint(plan)
            password = SecretPiece(database_secret(owner.name, database), Encoding.URL)
            return (f"{scheme}://{_user(plan, owner.name, database)}:", password, f"@{host}:{port}/{database}")
        case DatabasePassword(database, encoding):
            return (SecretPiece(database_secret(owner.name, database), encoding),)
        case DatabaseUser(database):
            return (LoginPiece(_user(plan, owner.name, database)),)
        case SecretValue(secret, encoding, previous):
            return (SecretPiece(SecretKey(owner.name, secret), encoding, previous),)
        case ClientId():
            return (owner.name,)
        case ClientSecret(encoding):
            return (SecretPiece(client_secret(owner.name), encoding),)
        case FromSettings(read):
            return (read(plan.settings),)
        case ByTarget(values):
            return (values[plan.host.target],)
        case CaCertificate():
            return (CaPiece(),)
        case LeafCertificates():
            return (LeafPiece(),)
        case FrontCertificate():
            return (FrontPiece(),)


def _user(plan: Plan, owner: str, database: str) -> str:
    return login_name(database, plan.secret(database_secret(owner, database)).generation)


def _database_endpoint(plan: Plan) -> tuple[str, int]:
    provider = plan.provider(Role.DATABASE)
    if provider is None or provider.spec.database_provider is None:
        raise LookupError("no selected service has the database role")
    return endpoint(provider, provider.spec.database_provider.port)


def _ref(plan: Plan, ref: Ref) -> Text:
    target = plan.service(ref.service)
    host, port = endpoint(target, ref.port)
    known = {"host": host, "port": str(port)}
    pieces: list[Piece] = []
    for literal, name, _, _ in Formatter().parse(ref.template):
        if literal:
            pieces.append(literal)
        if name in known:
            pieces.append(known[name])
        elif name:
            pieces.append(SecretPiece(SecretKey(ref.service, name), ref.encoding))
    return tuple(pieces)
