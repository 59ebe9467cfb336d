"""Small valid things to break: a host, settings, a service, a catalog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stack.model import (
    Access,
    Arch,
    AsExport,
    BackupSet,
    ClientId,
    ClientSecret,
    ContainerSpec,
    Database,
    DatabaseProvider,
    DatabaseUrl,
    Generated,
    HealthCheck,
    HostProfile,
    Http,
    IdentityProvider,
    ImagePin,
    Issuer,
    Job,
    Mount,
    OidcClient,
    OwnUrl,
    Port,
    Profile,
    Proof,
    Publish,
    Ref,
    ResourceLimits,
    Role,
    Route,
    Secret,
    ServiceSpec,
    Target,
    Volume,
    Zone,
)
from stack.settings import Settings

IMAGE = ImagePin(
    name="thing",
    repository="registry.example/thing",
    tag="1.2.3",
    arches=frozenset(Arch),
    programs=frozenset({"sh", "curl"}),
    size_mb=100,
)


def limits(**changes: Any) -> dict[Target, ResourceLimits]:
    """The same limits on every target."""
    return dict.fromkeys(Target, replace(ResourceLimits(memory_mb=100, cpus=0.5), **changes))


def one_arch(arch: Arch) -> ImagePin:
    """An image for one architecture only."""
    return replace(IMAGE, name="one-arch", arches=frozenset({arch}))


def container(**changes: Any) -> ContainerSpec:
    """A container that serves HTTP in the app zone."""
    base = ContainerSpec(
        image=IMAGE,
        user="1000:1000",
        zones=frozenset({Zone.APP}),
        ports=(Port("http", 8080),),
        command=("serve",),
        health=HealthCheck(test=Http("http", "/health")),
        limits=limits(),
    )
    return replace(base, **changes)


def service(name: str, **changes: Any) -> ServiceSpec:
    """A service of one such container."""
    source = f"stack/services/{name.replace('-', '_')}.py"
    base = ServiceSpec(name=name, summary=f"The {name}", containers=(container(),), source=source)
    return replace(base, **changes)


def front(**changes: Any) -> ServiceSpec:
    """The ingress."""
    box = container(
        zones=frozenset({Zone.EDGE, Zone.APP}),
        ports=(Port("http", 8080), Port("https", 8443)),
        publish=(
            Publish("http", lambda settings: settings.http_port),
            Publish("https", lambda settings: settings.https_port),
        ),
    )
    return service("front", **{"roles": frozenset({Role.INGRESS}), "containers": (box,), **changes})


def login(**changes: Any) -> ServiceSpec:
    """The identity provider, which keeps its users in the database."""
    box = container(zones=frozenset({Zone.APP, Zone.DATA}), env={"DB": DatabaseUrl("login"), "URL": OwnUrl("auth")})
    given = {
        "roles": frozenset({Role.IDENTITY}),
        "containers": (box,),
        "databases": (Database("login"),),
        "secrets": (Secret("bootstrap", Generated(), AsExport("BOOTSTRAP")),),
        "identity_provider": IdentityProvider(admin_client_id="kit", admin_secret="bootstrap", port="http"),
        "routes": (Route(name="auth", port="http", access=Access.PUBLIC),),
    }
    return service("login", **{**given, **changes})


def base(**changes: Any) -> ServiceSpec:
    """The database."""
    box = container(zones=frozenset({Zone.DATA}), ports=(Port("sql", 5432),), mounts=(Mount("data", "/data"),))
    box = replace(box, health=HealthCheck(test=Http("sql", "/")))
    job = Job(name="make", image=IMAGE, user="1000:1000", command=("make",), mounts=(Mount("data", "/data"),))
    given = {
        "roles": frozenset({Role.DATABASE}),
        "containers": (box,),
        "volumes": (Volume("data", BackupSet.files()),),
        "database_provider": DatabaseProvider(job=job, port="sql"),
    }
    return service("base", **{**given, **changes})


def cache(**changes: Any) -> ServiceSpec:
    """Shares its password."""
    given = {
        "containers": (container(zones=frozenset({Zone.DATA})),),
        "secrets": (Secret("password", Generated(), AsExport("PASSWORD"), shared=True),),
    }
    return service("cache", **{**given, **changes})


def app(**changes: Any) -> ServiceSpec:
    """What people came for: asks all the others for something."""
    box = container(
        zones=frozenset({Zone.APP, Zone.DATA}),
        env={
            "URL": OwnUrl("app"),
            "DB": DatabaseUrl("app"),
            "CACHE": Ref("cache", "http", template="redis://:{password}@{host}:{port}", secrets=("password",)),
            "ISSUER": Issuer(),
            "CLIENT": ClientId(),
            "CLIENT_SECRET": ClientSecret(),
        },
        mounts=(Mount("data", "/data"),),
    )
    given = {
        "profiles": frozenset({Profile("chat")}),
        "containers": (box,),
        "databases": (Database("app"),),
        "volumes": (Volume("data", BackupSet.files()),),
        "routes": (Route(name="app", port="http", access=Access.APP),),
        "oidc": OidcClient(route="app", redirect_paths=("/callback",), roles={"user": "*"}),
        "proofs": (Proof("it answers", "stack.proofs.app:answers"),),
    }
    return service("app", **{**given, **changes})


def catalog(**replaced: ServiceSpec) -> tuple[ServiceSpec, ...]:
    """The five services, some replaced: catalog(app=app(oidc=None))."""
    every: Mapping[str, ServiceSpec] = {
        "app": app(),
        "base": base(),
        "cache": cache(),
        "front": front(),
        "login": login(),
    }
    return tuple({**every, **replaced}.values())


def with_container(spec: ServiceSpec, **changes: Any) -> ServiceSpec:
    """The service with its first container changed."""
    first, *rest = spec.containers
    return replace(spec, containers=(replace(first, **changes), *rest))


def settings(**changes: Any) -> Settings:
    return replace(Settings(stack="dev", target=Target.DEV), **changes)


def host(**changes: Any) -> HostProfile:
    base = HostProfile(
        target=Target.DEV,
        arches=frozenset({Arch.AMD64}),
        docker_host=None,
        memory_mb=4096,
        reserve_mb=1024,
        cpus=4,
        disk_gb=20,
        gpu=False,
        page_size=4096,
    )
    return replace(base, **changes)
