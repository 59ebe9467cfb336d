"""Supabase's core: users, and a REST API over a database whose rows are private, behind one gateway.

Upstream: supabase/auth, PostgREST/postgrest. Facts: docs/services/supabase.md

The gateway (the main container) is the only one with a route: it lets through who has one of the stack's two keys.
"""

from stack import images
from stack.derive.haproxy import LOG_FORMAT, RESOLVERS, SERVER_DEFAULTS
from stack.model import (
    FREE_TEXT,
    Access,
    ClientId,
    ClientSecret,
    Command,
    ContainerSpec,
    Database,
    Encoding,
    File,
    FromSettings,
    Generated,
    Headers,
    HealthCheck,
    Http,
    InTemplate,
    Issuer,
    OidcClient,
    OwnUrl,
    Port,
    Profile,
    Proof,
    Ref,
    ResourceLimits,
    Restart,
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Signed,
    Target,
    Template,
    Waf,
    WafExclusion,
    Zone,
)
from stack.settings import Settings

# What clients of Supabase expect in front of its services, and what of that no key is asked for: addresses that mails
# and the identity provider lead browsers to. Each of these decides by a code of its own.
AUTH, REST = "/auth/v1/", "/rest/v1/"
OPEN = ("/auth/v1/authorize", "/auth/v1/callback", "/auth/v1/verify", "/auth/v1/.well-known/jwks.json")

GATEWAY = Template.of(
    """\
# Made by stack/services/supabase.py. Edits here are lost.
global
    log stdout format raw local0 info
    maxconn 1024

defaults
    mode http
    log global
    log-format {log}
    option dontlognull
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    http-error status 503 content-type application/json string '{{"message":"This service is starting"}}' \
hdr Retry-After 5
{resolvers}
frontend api
    bind :8000
    # Asked by the engine and by the front door, which lets nobody else ask it.
    http-request set-log-level silent if {{ path /healthz }}
    http-request return status 200 content-type text/plain string ok if {{ path /healthz }}
    declare capture request len 64
    http-request capture req.hdr(host) id 0
    acl open path -m str {open}
    acl has_key req.fhdr(apikey) -m found
    acl known_key req.fhdr(apikey) -m str -f /run/kit/keys
    # A browser asks beforehand, without a key. Pages of any origin may call: keys and tokens are headers, not cookies.
    http-request return status 204 hdr Access-Control-Allow-Origin * \
hdr Access-Control-Allow-Methods "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" \
hdr Access-Control-Allow-Headers "%[req.fhdr(access-control-request-headers)]" hdr Access-Control-Max-Age 3600 \
if {{ method OPTIONS }} {{ req.hdr(origin) -m found }} {{ req.hdr(access-control-request-method) -m found }}
    http-request return status 401 content-type application/json hdr Access-Control-Allow-Origin * \
string '{{"message":"No API key found in request"}}' if !open !has_key
    http-request return status 401 content-type application/json hdr Access-Control-Allow-Origin * \
string '{{"message":"Invalid authentication credentials"}}' if !open !known_key
    # Who brings only a key is who the key says.
    http-request set-header Authorization "Bearer %[req.fhdr(apikey)]" if !open !{{ req.hdr(authorization) -m found }}
    http-request del-header apikey
    http-request return status 404 content-type application/json string '{{"message":"no Route matched"}}' \
unless {{ path -m beg {auth} {rest} }}
    use_backend auth if {{ path -m beg {auth} }}
    use_backend rest if {{ path -m beg {rest} }}

backend auth
    http-request replace-path ^{auth}(.*) /\\1
    server auth {auth_server} {defaults}

backend rest
    http-request replace-path ^{rest}(.*) /\\1
    server rest {rest_server} {defaults}
""",
    log=LOG_FORMAT,
    resolvers=RESOLVERS,
    open=" ".join(OPEN),
    auth=AUTH,
    rest=REST,
    auth_server=Ref("supabase", "auth", template="{host}:{port}"),
    rest_server=Ref("supabase", "rest", template="{host}:{port}"),
    defaults=SERVER_DEFAULTS,
)

ADDRESS = Ref("postgres", "sql", template="{host}:{port}")


def _as(role: str, secret: str) -> Template:
    """The database's URL for one of its further roles."""
    return Template.of(
        "postgres://{role}:{password}@{address}/supabase",
        role=role,
        password=SecretValue(secret, Encoding.URL),
        address=ADDRESS,
    )


def _site(settings: Settings) -> str:
    """Where a login leads that names no place: the first app; without one, upstream's default, one being written."""
    return settings.supabase_sites[0] if settings.supabase_sites else "http://localhost:3000"


def _sites(settings: Settings) -> str:
    """Where a login may lead: each app, and what is below it."""
    return ",".join(pattern for site in settings.supabase_sites for pattern in (site, f"{site.rstrip('/')}/**"))


SERVICE = ServiceSpec(
    name="supabase",
    summary="Users and a REST API over private rows",
    profiles=frozenset(
        {
            Profile(
                "supabase", "A backend for apps of one's own: users, and a REST API over tables that are private by row"
            )
        }
    ),
    containers=(
        ContainerSpec(
            image=images.HAPROXY,
            user="99:99",
            zones=frozenset({Zone.APP}),
            ports=(Port("http", 8000),),
            command=("haproxy", "-f", "/run/kit/haproxy.cfg"),
            files=(
                File(name="haproxy.cfg", source=GATEWAY),
                # Tokens have no character that means anything to its reader.
                File(
                    name="keys",
                    source=Template.of(
                        "{anon}\n{service}\n", anon=SecretValue("anon-key"), service=SecretValue("service-key")
                    ),
                ),
            ),
            tmpfs={"/tmp": 8},
            health=HealthCheck(test=Http("http", "/healthz"), interval_s=3, start_period_s=10),
            limits={
                Target.DEV: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
                Target.PI: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
                Target.GPU: ResourceLimits(memory_mb=128, cpus=1, pids=64),
            },
            stop_grace_s=5,
        ),
        ContainerSpec(
            name="auth",
            image=images.SUPABASE_AUTH,
            user="1000:1000",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("auth", 9999),),
            entrypoint=("auth",),
            env={
                "GOTRUE_API_HOST": "0.0.0.0",
                "GOTRUE_API_PORT": "9999",
                "API_EXTERNAL_URL": OwnUrl("supabase", "/auth/v1"),
                "GOTRUE_SITE_URL": FromSettings(_site),
                "GOTRUE_URI_ALLOW_LIST": FromSettings(_sites),
                "GOTRUE_DB_DRIVER": "postgres",
                "GOTRUE_DB_DATABASE_URL": _as("supabase_auth_admin", "auth-password"),
                "GOTRUE_DB_MAX_POOL_SIZE": "5",
                "GOTRUE_JWT_SECRET": SecretValue("jwt-secret"),
                "GOTRUE_JWT_EXP": "3600",
                "GOTRUE_JWT_AUD": "authenticated",
                "GOTRUE_JWT_DEFAULT_GROUP_NAME": "authenticated",
                "GOTRUE_JWT_ADMIN_ROLES": "service_role",
                # Whoever has the service key makes users. A stranger with the public key makes none.
                "GOTRUE_DISABLE_SIGNUP": "true",
                "GOTRUE_EXTERNAL_EMAIL_ENABLED": "true",
                "GOTRUE_EXTERNAL_PHONE_ENABLED": "false",
                "GOTRUE_EXTERNAL_ANONYMOUS_USERS_ENABLED": "false",
                "GOTRUE_PASSWORD_MIN_LENGTH": "10",
                # No mail leaves the machine: a user's address is as the administrator says.
                "GOTRUE_MAILER_AUTOCONFIRM": "true",
                "GOTRUE_RATE_LIMIT_HEADER": "X-Forwarded-For",
                # The stack's own login.
                "GOTRUE_EXTERNAL_KEYCLOAK_ENABLED": "true",
                "GOTRUE_EXTERNAL_KEYCLOAK_CLIENT_ID": ClientId(),
                "GOTRUE_EXTERNAL_KEYCLOAK_SECRET": ClientSecret(),
                "GOTRUE_EXTERNAL_KEYCLOAK_URL": Issuer(),
                "GOTRUE_EXTERNAL_KEYCLOAK_REDIRECT_URI": OwnUrl("supabase", "/auth/v1/callback"),
                "GOMEMLIMIT": "96MiB",
            },
            tmpfs={"/tmp": 16},
            trust_ca=True,
            health=HealthCheck(test=Http("auth", "/health"), interval_s=3, start_period_s=120),
            limits={
                Target.DEV: ResourceLimits(memory_mb=128, cpus=1, pids=128),
                Target.PI: ResourceLimits(memory_mb=128, cpus=1, pids=128),
                Target.GPU: ResourceLimits(memory_mb=256, cpus=2, pids=128),
            },
        ),
        ContainerSpec(
            name="rest",
            image=images.SUPABASE_REST,
            user="1000:1000",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("rest", 3000),),
            env={
                "PGRST_DB_URI": "@/run/kit/database-url",
                "PGRST_JWT_SECRET": "@/run/kit/jwt-secret",
                "PGRST_DB_SCHEMAS": "public,kit_proof",
                "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
                "PGRST_DB_ANON_ROLE": "anon",
                "PGRST_DB_MAX_ROWS": "1000",
                "PGRST_DB_POOL": "5",
                "PGRST_SERVER_PORT": "3000",
                "PGRST_ADMIN_SERVER_PORT": "3001",
                # Only the probe asks it; with the default, which is no address, the probe refuses to run.
                "PGRST_ADMIN_SERVER_HOST": "127.0.0.1",
                "PGRST_OPENAPI_SERVER_PROXY_URI": OwnUrl("supabase", "/rest/v1"),
            },
            files=(
                File(name="database-url", source=_as("authenticator", "rest-password")),
                File(name="jwt-secret", source=Template((SecretValue("jwt-secret"),))),
            ),
            health=HealthCheck(test=Command(("postgrest", "--ready")), interval_s=3, start_period_s=60),
            limits={
                Target.DEV: ResourceLimits(memory_mb=192, cpus=1, pids=128),
                Target.PI: ResourceLimits(memory_mb=192, cpus=1, pids=128),
                Target.GPU: ResourceLimits(memory_mb=384, cpus=2, pids=128),
            },
            # The tables of the auth service are there before anybody's policies are read.
            after=("auth",),
        ),
    ),
    secrets=(
        # Who has it can be anybody here: made anew, both keys and all sessions end.
        Secret(
            "jwt-secret",
            Generated(length=64),
            InTemplate(),
            shared=True,
            rotates=Restart(
                "every session ends, and both keys that were handed out are others: ./kit status --show-login"
            ),
        ),
        Secret(
            "anon-key",
            Signed(key="jwt-secret", claims={"iss": "supabase", "role": "anon"}),
            InTemplate(),
            shared=True,
            handed_out=True,
        ),
        Secret(
            "service-key",
            Signed(key="jwt-secret", claims={"iss": "supabase", "role": "service_role"}),
            InTemplate(),
            shared=True,
            handed_out=True,
        ),
        Secret(
            "auth-password",
            Generated(length=32),
            InTemplate(),
            rotates=Restart("new connections to the database fail until the services are back"),
        ),
        Secret(
            "rest-password",
            Generated(length=32),
            InTemplate(),
            rotates=Restart("new connections to the database fail until the services are back"),
        ),
        Secret(
            "admin-password",
            Generated(length=32),
            InTemplate(),
            shared=True,
            rotates=Restart("new connections to the database fail until the services are back"),
        ),
    ),
    databases=(
        Database(
            "supabase",
            logins={
                "authenticator": "rest-password",
                "supabase_auth_admin": "auth-password",
                "supabase_admin": "admin-password",
            },
            setup="setup.sql",
        ),
    ),
    routes=(
        Route(
            name="supabase",
            port="http",
            access=Access.MACHINE,
            paths=(AUTH, REST),
            headers=Headers.nothing(),
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=FREE_TEXT,
                        paths=(REST,),
                        reason="Filters of PostgREST look like SQL, and rows hold any text. It writes statements from "
                        "names that it knows and values that it binds",
                    ),
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=("ARGS:json.password",),
                        paths=(AUTH,),
                        reason="A password has whatever characters its owner chose, and is only ever hashed",
                    ),
                ),
            ),
        ),
    ),
    oidc=OidcClient(route="supabase", redirect_paths=("/auth/v1/callback",), roles={"admin": "admin", "user": "*"}),
    proofs=(
        Proof(
            "a user sees their own rows and nobody else's",
            "stack.proofs.supabase:rows",
            "stack.proofs.supabase:cleanup",
        ),
        Proof("without a key, and for strangers, it is closed", "stack.proofs.supabase:closed"),
    ),
)
