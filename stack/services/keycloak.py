"""Keycloak: one login for everything.

Upstream: keycloak/keycloak. Facts: docs/services/keycloak.md
"""

from stack import images
from stack.model import (
    Access,
    ContainerSpec,
    Database,
    DatabasePassword,
    DatabaseUser,
    Encoding,
    File,
    Generated,
    HealthCheck,
    Http,
    IdentityProvider,
    ImageSource,
    InTemplate,
    Never,
    OwnUrl,
    Port,
    Proof,
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
db-username={user}
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
    user=DatabaseUser("keycloak"),
    password=DatabasePassword("keycloak", Encoding.PROPERTIES),
    url=OwnUrl("auth"),
    admin_client=ADMIN_CLIENT,
    admin_secret=SecretValue(BOOTSTRAP, Encoding.PROPERTIES),
)

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
    secrets=(
        Secret(
            BOOTSTRAP,
            Generated(length=48),
            InTemplate(),
            rotates=Never("Keycloak reads it once, when its master realm is made"),
        ),
    ),
    identity_provider=IdentityProvider(admin_client_id=ADMIN_CLIENT, admin_secret=BOOTSTRAP, port="http"),
    # Health and metrics live on the management port, which has no route; denied here too, should they move.
    routes=(Route(name="auth", port="http", access=Access.PUBLIC, deny=("/metrics", "/health")),),
    proofs=(
        Proof("a new user logs in", "stack.proofs.keycloak:login"),
        Proof("health and metrics stay inside", "stack.proofs.keycloak:closed"),
    ),
)
