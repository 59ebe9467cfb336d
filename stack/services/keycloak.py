"""Keycloak: one login for everything.

Upstream: keycloak/keycloak. Facts: docs/services/keycloak.md
"""

from stack import images
from stack.model import (
    Access,
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
    Job,
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

ADMIN_CLIENT = "kit-admin"
ADMIN = "admin"
BOOTSTRAP_CLIENT = "kit-bootstrap"
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

# Read once, when the master realm is made. The job `administration` retires it: docs/adr/0017-administration.md
bootstrap-admin-client-id={bootstrap_client}
bootstrap-admin-client-secret={bootstrap_secret}
""",
    database=Ref("postgres", "sql", template="jdbc:postgresql://{host}:{port}/keycloak"),
    password=DatabasePassword("keycloak", Encoding.PROPERTIES),
    url=OwnUrl("auth"),
    bootstrap_client=BOOTSTRAP_CLIENT,
    bootstrap_secret=SecretValue(BOOTSTRAP, Encoding.PROPERTIES),
)


def _form(client: str, secret: str) -> Template:
    """The request for a token by client credentials."""
    form = f"grant_type=client_credentials&client_id={client}&client_secret={{secret}}"
    return Template.of(form, secret=SecretValue(secret, Encoding.URL))


# The program's own service client in the master realm.
ADMINISTRATOR = Template(
    (
        f'{{"clientId": "{ADMIN_CLIENT}", "name": "ai-kit", "description": "Administers for the program",'
        ' "enabled": true, "publicClient": false, "serviceAccountsEnabled": true, "fullScopeAllowed": true,'
        ' "standardFlowEnabled": false, "implicitFlowEnabled": false, "directAccessGrantsEnabled": false,'
        # Its rights are looked up at each request, not read from the token: a realm that was just made is seen whole.
        ' "attributes": {"client.use.lightweight.access.token.enabled": "true"},'
        ' "secret": ',
        SecretValue(ADMIN, Encoding.JSON),
        "}",
    )
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
    jobs=(
        Job(
            name="administration",
            image=images.KEYCLOAK,  # its own program is the way in when no credential is known
            user="1000:0",
            entrypoint=("/bin/bash", "/run/kit/administration.sh"),
            command=(),
            zones=frozenset({Zone.APP, Zone.DATA}),
            env={
                "KIT_HOST": Ref("keycloak", "http", template="{host}"),
                "KIT_PORT": Ref("keycloak", "http", template="{port}"),
                "KIT_ADMIN": ADMIN_CLIENT,
                "KIT_BOOTSTRAP": BOOTSTRAP_CLIENT,
            },
            files=(
                File(name="administration.sh", source=Static("administration.sh")),
                File(name="keycloak.conf", source=CONFIG),
                File(name="client.json", source=ADMINISTRATOR),
                File(name="admin.form", source=_form(ADMIN_CLIENT, ADMIN)),
                File(name="bootstrap.form", source=_form(BOOTSTRAP_CLIENT, BOOTSTRAP)),
            ),
            memory_mb=640,  # for that program; the script by itself takes 5
        ),
    ),
    secrets=(
        Secret(BOOTSTRAP, Generated(length=48), InTemplate()),
        Secret(ADMIN, Generated(length=48), InTemplate()),
    ),
    identity_provider=IdentityProvider(admin_client_id=ADMIN_CLIENT, admin_secret=ADMIN, port="http"),
    # Health and metrics live on the management port, which has no route; denied here too, should they move.
    routes=(Route(name="auth", port="http", access=Access.PUBLIC, deny=("/metrics", "/health")),),
    proofs=(
        Proof("a new user logs in", "stack.proofs.keycloak:login"),
        Proof("health and metrics stay inside", "stack.proofs.keycloak:closed"),
        Proof("nobody but the program administers", "stack.proofs.keycloak:administration"),
    ),
)
