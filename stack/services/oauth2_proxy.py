"""oauth2-proxy: the login for services that have none of their own, on behalf of the front door.

Upstream: oauth2-proxy/oauth2-proxy. Facts: docs/services/oauth2-proxy.md

The front door asks it about each request of a route with Access.SSO or ADMIN (stack/derive/forward_auth.py); no
service's traffic goes through it. One cookie for all such routes, so one login and one logout for all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stack import images
from stack.derive import forward_auth
from stack.model import (
    Access,
    CaCertificate,
    ClientSecret,
    ContainerSpec,
    Derived,
    Encoding,
    File,
    ForwardAuth,
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
    Proof,
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
    Zone,
)

if TYPE_CHECKING:
    from stack.plan import Plan

COOKIE = "__Secure-kit-login"  # by this prefix browsers take it over TLS alone
CALLBACK = "/oauth2/callback"


def config(plan: Plan) -> Template:
    """Its whole configuration: the routes it may lead back to come from the plan."""
    hosts = (plan.origin(owned.item).removeprefix("https://") for owned in forward_auth.guarded(plan))
    back = ", ".join(f'"{host}"' for host in dict.fromkeys(hosts))
    return Template.of(
        """\
# Derived from the plan. Edits here are lost.
http_address = "0.0.0.0:4180"
metrics_address = "0.0.0.0:44180"
# Nothing that a request says about itself is believed: no X-Forwarded-* header counts, whoever sends it. What it would
# learn from them is written here.
reverse_proxy = false
# Its own address, for who has nowhere to go back to: a login, and a word that it worked.
upstreams = ["static://200"]
# Exemptions are the front door's, by exact path. None here.
skip_provider_button = true
custom_templates_dir = "/run/kit/pages"

provider = "oidc"
provider_display_name = "Single sign-on"
client_id = "oauth2-proxy"
client_secret_file = "/run/kit/client-secret"
code_challenge_method = "S256"
scope = "openid email profile"
redirect_url = "{callback}"
oidc_issuer_url = "{issuer}"
# Where the issuer has these is known, so it starts before the realm is made, and while the issuer is away.
skip_oidc_discovery = true
login_url = "{issuer}/protocol/openid-connect/auth"
redeem_url = "{issuer}/protocol/openid-connect/token"
oidc_jwks_url = "{issuer}/protocol/openid-connect/certs"
backend_logout_url = "{issuer}/protocol/openid-connect/logout?id_token_hint={{id_token}}"
insecure_oidc_skip_nonce = false
# An address that nobody has verified is nobody's: services know people by it.
insecure_oidc_allow_unverified_email = false
oidc_groups_claim = "groups"
# Who may log in is for the realm to say, who may open what for the front door.
email_domains = ["*"]
set_xauthrequest = true

# Back to exactly these after a login: no other host, no other port.
whitelist_domains = [{back}]
encode_state = true

cookie_name = "{cookie}"
cookie_secret_file = "/run/kit/cookie-secret"
cookie_domains = [".{domain}"]
cookie_secure = true
cookie_httponly = true
cookie_samesite = "lax"
# As long as the realm's sessions at the most. What is older than a minute is renewed: the realm is asked whether there
# still is a session, and which groups the person is in.
cookie_expire = "24h"
cookie_refresh = "1m"
cookie_csrf_per_request = true
cookie_csrf_per_request_limit = 16
# Tokens of Keycloak are too long for a cookie: the cookie is a ticket, and the key to what is stored under it.
session_store_type = "redis"
redis_connection_url = "{store}"

# One line per login; none per request, which the front door writes.
request_logging = false
silence_ping_logging = true
""",
        callback=OwnUrl("login", CALLBACK),
        issuer=Issuer(),
        back=back,
        cookie=COOKIE,
        domain=FromSettings(lambda settings: settings.domain),
        store=Ref("redis", "redis", template="redis://:{password}@{host}:{port}/1", secrets=("password",)),
    )


SERVICE = ServiceSpec(
    name="oauth2-proxy",
    summary="The login of services that have none",
    roles=frozenset({Role.FORWARD_AUTH}),
    needs=("redis",),
    containers=(
        ContainerSpec(
            image=images.OAUTH2_PROXY,
            user="65532:65532",
            zones=frozenset({Zone.APP, Zone.DATA}),
            ports=(Port("http", 4180), Port("metrics", 44180)),
            command=("--config", "/run/kit/oauth2-proxy.cfg"),
            env={
                # All of its calls go to the issuer, one of them by a client that no option tells of another CA.
                "SSL_CERT_FILE": "/run/kit/ca.crt",
                "GOMEMLIMIT": "24MiB",
            },
            files=(
                File(name="oauth2-proxy.cfg", source=Derived(config)),
                File(name="ca.crt", source=Template((CaCertificate(),)), mode="0444"),
                File(name="client-secret", source=Template((ClientSecret(),))),
                File(name="cookie-secret", source=Template((SecretValue("cookie-secret", Encoding.BASE64URL_32),))),
                File(name="pages/error.html", source=Static("error.html")),
            ),
            # It can read its sessions: without them it lets nobody in.
            health=HealthCheck(test=Http("http", "/ready"), interval_s=3, start_period_s=30),
            # 8 MB after the live tests.
            limits={
                Target.DEV: ResourceLimits(memory_mb=64, cpus=1, pids=64),
                Target.PI: ResourceLimits(memory_mb=32, cpus=1, pids=64),
                Target.GPU: ResourceLimits(memory_mb=96, cpus=1, pids=64),
            },
        ),
    ),
    secrets=(
        Secret(
            "cookie-secret",
            Generated(length=48),
            InTemplate(),
            rotates=Restart("who uses a page behind this login goes through Keycloak once more, without being asked"),
        ),
    ),
    oidc=OidcClient(route="login", redirect_paths=(CALLBACK,)),
    forward_auth=ForwardAuth(
        port="http",
        route="login",
        cookie=COOKIE,
        check="/oauth2/auth?allowed_groups={groups}",
        start="/oauth2/start",
        sign_out="/oauth2/sign_out",
    ),
    # What it says to the front door is for nobody else.
    routes=(
        Route(
            name="login",
            port="http",
            access=Access.PUBLIC,
            paths=("/", "/oauth2/start", CALLBACK, "/oauth2/sign_out"),
            # Its only page is error.html, with its style in it.
            headers=replace(Headers.nothing(), csp=f"{Headers.nothing().csp}; style-src 'unsafe-inline'"),
        ),
    ),
    proofs=(
        Proof("each route with a login asks for it, and takes nobody's word", "stack.proofs.oauth2_proxy:asked"),
        Proof("administrators' pages open for them alone", "stack.proofs.oauth2_proxy:roles"),
        Proof("nobody is led to another host, and it answers nobody else", "stack.proofs.oauth2_proxy:closed"),
    ),
)
