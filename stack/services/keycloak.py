"""Keycloak: one login for everything.

Upstream: keycloak/keycloak. Facts: docs/services/keycloak.md
"""

from dataclasses import replace

from stack import images
from stack.model import (
    Access,
    Choice,
    ContainerSpec,
    Database,
    DatabasePassword,
    Encoding,
    File,
    Generated,
    HealthCheck,
    Http,
    IdentityProvider,
    ImageSource,
    InTemplate,
    OwnUrl,
    Port,
    Proof,
    Provided,
    Ref,
    ResourceLimits,
    Role,
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Writable,
    Zone,
)
from stack.realm import MAIL_PASSWORD_KEY, ProviderKind
from stack.settings import Settings

ADMIN_CLIENT = "kit-bootstrap"
BOOTSTRAP = "bootstrap"

CONFIG = Template.of(
    """\
# Build options: the air-gapped image was built with exactly these.
db=postgres
health-enabled=true
metrics-enabled=true

# Run options.
db-url={database}
db-username=keycloak
db-password={password}
db-pool-max-size=20
hostname={url}
http-enabled=true
proxy-headers=xforwarded
cache=local

# Read once, when the master realm is made. The service client is what the program administers with.
bootstrap-admin-client-id={admin_client}
bootstrap-admin-client-secret={admin_secret}
""",
    database=Ref("postgres", "sql", template="jdbc:postgresql://{host}:{port}/keycloak"),
    password=DatabasePassword("keycloak", Encoding.PROPERTIES),
    url=OwnUrl("auth"),
    admin_client=ADMIN_CLIENT,
    admin_secret=SecretValue(BOOTSTRAP, Encoding.PROPERTIES),
)


def _outside(spec: ServiceSpec, *secrets: Secret) -> ServiceSpec:
    """With a way out, and what is kept secret there."""
    main = spec.container()
    others = tuple(container for container in spec.containers if container is not main)
    why = "it sends mail, or asks another provider, and keeps what it knows in the database"
    main = replace(main, zones=main.zones | {Zone.EGRESS}, way_out=why)
    return replace(spec, containers=(main, *others), secrets=(*spec.secrets, *secrets))


def _mail(settings: Settings) -> str:
    if settings.mail_server is None:
        return "none"
    return "login" if settings.mail_server.user else "open"


def _provider(kind: ProviderKind) -> Choice:
    """Whether people may log in through a provider of this kind: the server asks it by itself, with its secret."""
    secret = Secret(f"{kind}-client", Provided(f"{kind}ClientSecret"), InTemplate())
    return Choice(
        key="identityProviders",
        read=lambda settings: kind if kind in settings.identity_providers else "none",
        options={"none": lambda spec: spec, kind: lambda spec: _outside(spec, secret)},
    )


MAIL_PASSWORD = Secret("mail", Provided(MAIL_PASSWORD_KEY), InTemplate())

SERVICE = ServiceSpec(
    name="keycloak",
    summary="One login for everything",
    roles=frozenset({Role.IDENTITY}),
    containers=(
        ContainerSpec(
            image=images.KEYCLOAK,
            user="1000:0",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("http", 8080), Port("management", 9000)),
            entrypoint=("/bin/bash", "/run/kit/keycloak.sh"),
            env={
                # Replaces the image's own options, of which only the collector's cannot be appended to. One
                # collector thread and the quick compiler alone: a login is rare and short, starting is not.
                "JAVA_OPTS": (
                    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
                    " -XX:InitialRAMPercentage=15 -XX:MaxRAMPercentage=50"
                    " -XX:MetaspaceSize=96M -XX:MaxMetaspaceSize=256m -XX:+ExitOnOutOfMemoryError"
                    " -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dsun.err.encoding=UTF-8"
                    " -Dstdout.encoding=UTF-8 -Dstderr.encoding=UTF-8"
                    " -Djava.security.egd=file:/dev/urandom -Djdk.tls.rejectClientInitiatedRenegotiation=true"
                ),
            },
            files=(
                File(name="keycloak.conf", source=CONFIG),
                File(name="keycloak.sh", source=Static("keycloak.sh")),
            ),
            tmpfs={"/tmp": 64, "/opt/keycloak/data": 64},
            health=HealthCheck(test=Http("management", "/health/ready"), interval_s=4, start_period_s=420),
            limits={
                Target.DEV: ResourceLimits(memory_mb=1024, cpus=2, pids=512),
                Target.PI: ResourceLimits(memory_mb=900, cpus=2, pids=512),
                Target.GPU: ResourceLimits(memory_mb=1024, cpus=2, pids=512),
            },
            writable=Writable(
                "the official image carries no build for a database and makes one at its first start",
                sources=frozenset({ImageSource.REGISTRY}),
            ),
            stop_grace_s=30,
            wait_s=600,  # a first start on a Pi builds the image's options and makes a hundred tables
        ),
    ),
    databases=(Database("keycloak"),),
    secrets=(Secret(BOOTSTRAP, Generated(length=48), InTemplate()),),
    identity_provider=IdentityProvider(admin_client_id=ADMIN_CLIENT, admin_secret=BOOTSTRAP, port="http"),
    choices=(
        Choice(
            key="mailServer",
            read=_mail,
            options={"none": lambda spec: spec, "open": _outside, "login": lambda spec: _outside(spec, MAIL_PASSWORD)},
        ),
        *(_provider(kind) for kind in ProviderKind),
    ),
    # Health and metrics live on the management port, which has no route; denied here too, should they move.
    routes=(Route(name="auth", port="http", access=Access.PUBLIC, deny=("/metrics", "/health")),),
    proofs=(
        Proof("a new user logs in", "stack.proofs.keycloak:login"),
        Proof("health and metrics stay inside", "stack.proofs.keycloak:closed"),
        Proof("administrators are asked for a second factor", "stack.proofs.keycloak:second_factor"),
    ),
)
