"""Keycloak: one login for everything.

Upstream: keycloak/keycloak. Facts: docs/services/keycloak.md
"""

from dataclasses import replace

from stack import images
from stack.model import (
    FREE_TEXT,
    Access,
    Choice,
    ContainerSpec,
    Database,
    DatabasePassword,
    DatabaseUser,
    Encoding,
    File,
    FromSettings,
    Generated,
    HealthCheck,
    Http,
    IdentityProvider,
    ImageSource,
    InTemplate,
    Job,
    Never,
    OwnPath,
    OwnUrl,
    Port,
    Proof,
    Provided,
    Ref,
    ResourceLimits,
    Restart,
    Role,
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Template,
    Waf,
    WafExclusion,
    Writable,
    Zone,
)
from stack.realm import MAIL_PASSWORD_KEY, ProviderKind
from stack.settings import Settings

ADMIN_CLIENT = "kit-admin"
ADMIN = "admin"
BOOTSTRAP_CLIENT = "kit-bootstrap"
# Replaces the image's own options, of which only the collector's cannot be appended to. One collector thread and the
# quick compiler alone: a login is rare and short, starting is not. Liquibase, which makes the tables, would report that
# to its maker, and wait ten seconds for his name where it has no way out.
JAVA = {
    "JAVA_OPTS": (
        "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
        " -XX:InitialRAMPercentage=15 -XX:MaxRAMPercentage=50"
        " -XX:MetaspaceSize=96M -XX:MaxMetaspaceSize=256m -XX:+ExitOnOutOfMemoryError"
        " -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dsun.err.encoding=UTF-8"
        " -Dstdout.encoding=UTF-8 -Dstderr.encoding=UTF-8"
        " -Dliquibase.analytics.enabled=false"
        " -Djava.security.egd=file:/dev/urandom -Djdk.tls.rejectClientInitiatedRenegotiation=true"
    ),
}
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
spi-theme--folder--dir=/run/kit/themes
http-enabled=true
proxy-headers=xforwarded
cache=local

# Read once, when the master realm is made. The job `administration` retires it: docs/adr/0017-administration.md
bootstrap-admin-client-id={bootstrap_client}
bootstrap-admin-client-secret={bootstrap_secret}
""",
    database=Ref("postgres", "sql", template="jdbc:postgresql://{host}:{port}/keycloak"),
    user=DatabaseUser("keycloak"),
    password=DatabasePassword("keycloak", Encoding.PROPERTIES),
    url=OwnUrl("auth"),
    bootstrap_client=BOOTSTRAP_CLIENT,
    bootstrap_secret=SecretValue(BOOTSTRAP, Encoding.PROPERTIES),
)


# For the server alone: its program in the job below serves nobody, and would build itself anew for it.
AT_A_PATH = Template(
    (
        *CONFIG.parts,
        "\n# At a path of the domain. Also build options; health and metrics stay where they are.\n",
        "http-relative-path=",
        OwnPath("auth"),
        "\nhttp-management-relative-path=/\n",
    )
)


def _form(client: str, secret: str, *, previous: bool = False) -> Template:
    """The request for a token by client credentials."""
    form = f"grant_type=client_credentials&client_id={client}&client_secret={{secret}}"
    return Template.of(form, secret=SecretValue(secret, Encoding.URL, previous))


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


# How a job of it finds the administration.
ADMIN_API = {
    "KIT_HOST": Ref("keycloak", "http", template="{host}", start=False),
    "KIT_PORT": Ref("keycloak", "http", template="{port}", start=False),
    "KIT_PATH": OwnPath("auth"),
    "KIT_ADMIN": ADMIN_CLIENT,
}
API = File(name="api.sh", source=Static("api.sh"))


def _outside(spec: ServiceSpec, *secrets: Secret) -> ServiceSpec:
    """With a way out, and what is kept secret there."""
    main = spec.container()
    others = tuple(container for container in spec.containers if container is not main)
    why = "it sends mail, or asks another provider, and keeps what it knows in the database"
    main = replace(main, zones=main.zones | {Zone.EGRESS}, way_out=why)
    return replace(spec, containers=(main, *others), secrets=(*spec.secrets, *secrets))


def _at_a_path(spec: ServiceSpec) -> ServiceSpec:
    """Below a path of the domain: with the build that this takes, which no image carries."""
    main = spec.container()
    others = tuple(container for container in spec.containers if container is not main)
    files = tuple(replace(file, source=AT_A_PATH) if file.name == "keycloak.conf" else file for file in main.files)
    why = "the path is an option of its build, and no image carries a build for one: made at the first start"
    return replace(spec, containers=(replace(main, files=files, writable=Writable(why)), *others))


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


# The realm says whether it is used: both looks are there, and a change of it starts nothing again.
THEME = (
    File(name="themes/kit/login/theme.properties", source=Static("theme/theme.properties")),
    File(name="themes/kit/login/resources/css/kit.css", source=Static("theme/kit.css")),
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
            env=JAVA,
            files=(
                File(name="keycloak.conf", source=CONFIG),
                File(name="keycloak.sh", source=Static("keycloak.sh")),
                *THEME,
            ),
            tmpfs={"/tmp": 64, "/opt/keycloak/data": 64},
            health=HealthCheck(test=Http("management", "/health/ready"), interval_s=4, start_period_s=420),
            limits={
                Target.DEV: ResourceLimits(memory_mb=900, cpus=2, pids=512),
                Target.PI: ResourceLimits(memory_mb=836, cpus=2, pids=512),
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
                **JAVA,
                **ADMIN_API,
                "KIT_BOOTSTRAP": BOOTSTRAP_CLIENT,
            },
            files=(
                File(name="administration.sh", source=Static("administration.sh")),
                API,
                File(name="keycloak.conf", source=CONFIG),
                File(name="client.json", source=ADMINISTRATOR),
                File(name="admin.form", source=_form(ADMIN_CLIENT, ADMIN)),
                File(name="previous.form", source=_form(ADMIN_CLIENT, ADMIN, previous=True)),
                File(name="bootstrap.form", source=_form(BOOTSTRAP_CLIENT, BOOTSTRAP)),
            ),
            # For that program, only where nobody is let in: a Keycloak that starts without serving anybody. It takes 20
            # CPU-seconds, which were more than three minutes on a machine with thirty others waiting for each core.
            # The script by itself takes 5 MB.
            memory_mb=768,
            timeout_s=900,
            waits=True,
        ),
        Job(
            name="realm",
            image=images.KEYCLOAK,
            user="1000:0",
            entrypoint=("/bin/bash", "/run/kit/realm.sh"),
            command=(),
            zones=frozenset({Zone.APP}),
            env={**ADMIN_API, "KIT_REALM": FromSettings(lambda settings: settings.realm)},
            files=(
                File(name="realm.sh", source=Static("realm.sh")),
                API,
                File(name="admin.form", source=_form(ADMIN_CLIENT, ADMIN)),
            ),
            memory_mb=64,
            after_realm=True,
        ),
    ),
    secrets=(
        Secret(
            BOOTSTRAP,
            Generated(length=48),
            InTemplate(),
            rotates=Never("Keycloak reads it once, when its master realm is made, and it is refused since"),
        ),
        Secret(
            ADMIN,
            Generated(length=48),
            InTemplate(),
            rotates=Restart("nobody else has it: the program alone logs in with another one"),
        ),
    ),
    identity_provider=IdentityProvider(admin_client_id=ADMIN_CLIENT, admin_secret=ADMIN, port="http"),
    choices=(
        Choice(
            key="mailServer",
            read=_mail,
            options={"none": lambda spec: spec, "open": _outside, "login": lambda spec: _outside(spec, MAIL_PASSWORD)},
        ),
        *(_provider(kind) for kind in ProviderKind),
        Choice(
            key="paths",
            read=lambda settings: "path" if "auth" in settings.paths else "name",
            options={"name": lambda spec: spec, "path": _at_a_path},
        ),
    ),
    # Health and metrics live on the management port, which has no route; denied here too, should they move.
    routes=(
        Route(
            name="auth",
            port="http",
            access=Access.PUBLIC,
            movable=True,
            deny=("/metrics", "/health"),
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=("ARGS:password", "ARGS:password-new", "ARGS:password-confirm", "ARGS:client_secret"),
                        reason="A password or secret has whatever characters its owner chose, and is only ever hashed "
                        "or compared",
                    ),
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=("/admin/realms/",),
                        reason="The administration sends the realm as JSON: patterns, addresses, HTML of pages, "
                        "passwords. It answers to tokens of administrators alone",
                    ),
                ),
            ),
        ),
    ),
    proofs=(
        Proof("a new user logs in", "stack.proofs.keycloak:login"),
        Proof("its pages look as the stack says", "stack.proofs.keycloak:face"),
        Proof("health and metrics stay inside", "stack.proofs.keycloak:closed"),
        Proof("administrators are asked for a second factor", "stack.proofs.keycloak:second_factor"),
        Proof("nobody but the program administers", "stack.proofs.keycloak:administration"),
        Proof("its own clients have no more than they need", "stack.proofs.keycloak:own_clients"),
        Proof("nobody in the realm manages it", "stack.proofs.keycloak:management"),
    ),
)
