"""Components on the real servers they are for: HAProxy reloads, Keycloak gets a realm and its clients."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.live.leaks import find_leaks
from tests.live.pulumi_project import Project, Result, docker, inspect

pytestmark = pytest.mark.live

PORT = 18089
URL = f"http://127.0.0.1:{PORT}"
ADMIN_SECRET = secrets.token_urlsafe(24)
CLIENT_SECRET = "s'e\"c$r{e}t\\ ü%20&=+/" + secrets.token_hex(6)

PROGRAM = """
from components.keycloak import KeycloakAccess, KeycloakAccessArgs
from components.oidc_client import OidcClient, OidcClientArgs
from components.realm import AdminUser, Realm, RealmArgs
from components.secret import GeneratedSecret, SecretArgs
from components.certificate import CaArgs, CertificateAuthority

password = GeneratedSecret("admin-user", SecretArgs(length=24)).value
ca = CertificateAuthority("ca", CaArgs(common_name="test"))
access = KeycloakAccess(
    "access",
    KeycloakAccessArgs(url={url!r}, client_id="kit-admin", client_secret={admin!r}, ca_pem=ca.ca_pem),
)
opts = ResourceOptions(providers=[access.provider])
realm = Realm(
    "realm",
    RealmArgs(
        realm="kit", display_name={display!r},
        admin=AdminUser(username="admin-user", email="admin@kit.localhost", password=password),
    ),
    opts,
)
for name in ("chat", "flow"):
    OidcClient(
        f"client-{{name}}",
        OidcClientArgs(
            realm=realm, client_id=name, client_secret={secret!r}, root_url=f"https://{{name}}.kit.localhost",
            redirect_uris=[f"https://{{name}}.kit.localhost/oauth/oidc/callback"],
            web_origins=[f"https://{{name}}.kit.localhost"],
            post_logout_redirect_uris=[f"https://{{name}}.kit.localhost/"],
            roles={{"admin": "admin", "user": "*"}},
        ),
        opts,
    )
pulumi.export("password", password)
"""


def program(display: str = "kit") -> str:
    return PROGRAM.format(url=URL, admin=ADMIN_SECRET, secret=CLIENT_SECRET, display=display)


HAPROXY = """
from components.common import Attachment, VolumeMount
from components.files import DeliveredFile, FileDelivery, FileDeliveryArgs
from components.host import Host, HostArgs
from components.network import Network, NetworkArgs
from components.reload import Reload, ReloadArgs
from components.secret import DigestKey
from components.service import Limits, Probe, PublishedPort, Service, ServiceArgs
from components.volume import DataVolume, VolumeArgs

opts = ResourceOptions(providers=[Host("host", HostArgs()).provider])
key = DigestKey("digest-key").value
config = DataVolume("config", VolumeArgs(volume_name=f"{{PREFIX}}-config", labels={{}}, protect=False), opts)
edge = Network("edge", NetworkArgs(network_name=f"{{PREFIX}}-edge", internal=False, labels={{}}), opts)
mounts = [VolumeMount(volume=config.volume_name, path="/run/kit", read_only=True)]
files = FileDelivery(
    "files",
    FileDeliveryArgs(
        container_name=f"{{PREFIX}}-files", image={tools!r}, volume_name=config.volume_name, uid_gid="99:99",
        digest_key=key, files=[DeliveredFile(name="haproxy.cfg", content={config!r}, restarts=False)],
    ),
    opts,
)
proxy = Service(
    "proxy",
    ServiceArgs(
        container_name=f"{{PREFIX}}-proxy", image={haproxy!r}, user="99:99", limits=Limits(memory_mb=128, cpus=0.5),
        health=Probe(argv=["haproxy", "-c", "-q", "-f", "/run/kit/haproxy.cfg"], interval_s=1),
        command=["haproxy", "-f", "/run/kit/haproxy.cfg"], mounts=mounts, restart_digest=files.restart_digest,
        networks=[Attachment(network=edge.network_name)], after=[files.done],
        publish=[PublishedPort(internal=8080, external={port}, ip="127.0.0.1")],
    ),
    opts,
)
Reload(
    "reload",
    ReloadArgs(
        container_name=f"{{PREFIX}}-reload", target=proxy.container_name, image={haproxy!r}, user="99:99",
        command=["sh", "-c", "haproxy -c -f /run/kit/haproxy.cfg && kill -USR2 1"], mounts=mounts,
        reload_digest=files.reload_digest, digest_key=key, after=[proxy.done],
    ),
    opts,
)
"""

CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend front
    bind :8080
    http-request return status 200 content-type text/plain {answer}
"""


def test_haproxy_takes_a_new_config_without_a_new_container(project: Project, images: Callable[[str], str]) -> None:
    port = 18088

    def up(answer: str) -> Result:
        config = CONFIG.format(answer=answer)
        project.program = HAPROXY.format(tools=images("tools"), haproxy=images("haproxy"), config=config, port=port)
        return project.up()

    def says() -> str:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=10, trust_env=False).text

    def eventually(text: str) -> bool:
        deadline = time.monotonic() + 20
        while says() != text and time.monotonic() < deadline:
            time.sleep(0.2)
        return says() == text

    made = up("string one")
    assert made.ok, str(made)
    assert eventually("one")
    container = inspect([f"{project.prefix}-proxy"])[0]["Id"]

    assert up("string two").ok
    assert eventually("two")

    wrong = up("strong three")
    assert not wrong.ok
    assert "job reload failed" in wrong.errors[0]
    assert "strong" in wrong.errors[0]
    assert says() == "two"
    assert inspect([f"{project.prefix}-proxy"])[0]["Id"] == container

    assert up("string four").ok
    assert eventually("four")
    assert inspect([f"{project.prefix}-proxy"])[0]["Id"] == container
    assert project.up().quiet
    assert project.refresh().quiet


class Admin:
    """Keycloak's admin API, as the program's own service client."""

    def __init__(self) -> None:
        self.http = httpx.Client(base_url=URL, timeout=60, trust_env=False)

    def __call__(self, method: str, path: str, **arguments: Any) -> Any:
        token = self.http.post(
            "/realms/master/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", "client_id": "kit-admin", "client_secret": ADMIN_SECRET},
        ).json()["access_token"]
        answer = self.http.request(
            method, f"/admin/realms/kit{path}", headers={"Authorization": f"Bearer {token}"}, **arguments
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def claims(self, client: str, user: str, kind: str = "userinfo") -> dict[str, Any]:
        """What Keycloak would tell the client about the user."""
        client_id = self("GET", "/clients", params={"clientId": client})[0]["id"]
        user_id = self("GET", "/users", params={"username": user, "exact": "true"})[0]["id"]
        path = f"/clients/{client_id}/evaluate-scopes/generate-example-{kind}"
        return self("GET", path, params={"userId": user_id, "scope": "openid"})


@pytest.fixture(scope="module")
def server(shared_project: Project, images: Callable[[str], str]) -> str:
    """A Keycloak of its own on a PostgreSQL of its own."""
    prefix = shared_project.prefix
    name, database = f"{prefix}-keycloak", f"{prefix}-postgres"
    docker("network", "create", f"{prefix}-kc")
    docker(
        *["run", "-d", "--name", database, "--network", f"{prefix}-kc"],
        *["-e", "POSTGRES_USER=keycloak", "-e", "POSTGRES_PASSWORD=keycloak", images("postgres")],
    )
    docker(
        *["run", "-d", "--name", name, "--network", f"{prefix}-kc", "-p", f"127.0.0.1:{PORT}:8080", "-m", "1g"],
        *["--restart", "on-failure:10"],  # comes before its database is ready
        *["-e", "KC_BOOTSTRAP_ADMIN_CLIENT_ID=kit-admin", "-e", f"KC_BOOTSTRAP_ADMIN_CLIENT_SECRET={ADMIN_SECRET}"],
        *["-e", f"KC_DB_URL=jdbc:postgresql://{database}/keycloak", "-e", "KC_DB_USERNAME=keycloak"],
        *["-e", "KC_DB_PASSWORD=keycloak", "-e", "KC_HTTP_ENABLED=true", "-e", "KC_HOSTNAME_STRICT=false"],
        *[images("keycloak"), "start", "--optimized"],
    )
    _answers(name)
    return name


def _answers(name: str) -> None:
    deadline = time.monotonic() + 600  # builds may be running beside it
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{URL}/realms/master", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise AssertionError(docker("logs", "--tail", "40", name))


class TestKeycloak:
    """In the order of a life: made, used, left alone, unreachable, back, changed."""

    @pytest.fixture
    def project(self, shared_project: Project, server: str) -> Project:
        if not shared_project.program:
            shared_project.program = program()
            made = shared_project.up()
            assert made.ok, str(made)
        return shared_project

    def test_a_second_up_and_a_refresh_change_nothing(self, project: Project) -> None:
        for result in (project.up(), project.refresh(), project.up(), project.preview()):
            assert result.quiet, str(result)

    def test_roles_and_groups_arrive_flat(self, project: Project) -> None:
        admin = Admin()
        for kind in ("userinfo", "id-token", "access-token"):
            claims = admin.claims("chat", "admin-user", kind)
            assert sorted(claims["roles"]) == ["admin", "user"], kind
            assert sorted(claims["groups"]) == ["admins", "users"], kind
        token = admin.claims("chat", "admin-user", "access-token")
        assert "chat" in token["aud"]
        assert "flow" not in token["resource_access"]

    def test_a_new_user_gets_what_everybody_gets_and_no_more(self, project: Project) -> None:
        admin = Admin()
        person = {"username": "person", "email": "p@kit.localhost", "firstName": "P", "lastName": "N", "enabled": True}
        admin("POST", "/users", json=person)
        claims = admin.claims("chat", "person")
        assert claims["roles"] == ["user"]
        assert claims["groups"] == ["users"]
        # Hand-made people are not the program's to remove.
        assert project.refresh().ok
        assert project.up().quiet
        assert admin.claims("chat", "person")["roles"] == ["user"]

    def test_the_client_allows_the_code_flow_with_pkce_and_nothing_else(self, project: Project) -> None:
        client = Admin()("GET", "/clients", params={"clientId": "chat"})[0]
        assert client["standardFlowEnabled"] is True
        for off in ("implicitFlowEnabled", "directAccessGrantsEnabled", "serviceAccountsEnabled", "publicClient"):
            assert client[off] is False, off
        assert client["fullScopeAllowed"] is False
        assert client["attributes"]["pkce.code.challenge.method"] == "S256"
        assert client["secret"] == CLIENT_SECRET
        assert client["redirectUris"] == ["https://chat.kit.localhost/oauth/oidc/callback"]
        assert {"profile", "email", "roles", "web-origins", "basic"} <= set(client["defaultClientScopes"])

    def test_the_realm_is_as_asked(self, project: Project) -> None:
        realm = Admin()("GET", "")
        assert realm["sslRequired"] == "all"
        assert realm["registrationAllowed"] is False
        assert realm["bruteForceProtected"] is True
        assert realm["failureFactor"] == 10
        assert realm["eventsEnabled"] is True
        assert realm["browserFlow"] == "browser"

    def test_no_secret_is_in_the_plain_part_of_the_state(self, project: Project) -> None:
        secrets_ = {"client": CLIENT_SECRET, "admin": ADMIN_SECRET, "password": project.outputs()["password"]}
        assert find_leaks(secrets_, state=project.export(), containers=[]) == []

    def test_while_keycloak_is_down_an_unchanged_realm_asks_it_nothing(self, project: Project, server: str) -> None:
        docker("stop", "-t", "5", server)
        try:
            for result in (project.preview(), project.up()):
                assert result.quiet, str(result)
            project.program = program(display="changed")
            changed = project.up()
            assert not changed.ok
            assert changed.ops("realm") == {"update"}
        finally:
            docker("start", server)
            _answers(server)
        again = project.up()
        assert again.ok, str(again)
        assert Admin()("GET", "")["displayName"] == "changed"
        # A realm that was edited still logs people in by the flow it had (trap 2.5).
        assert Admin()("GET", "")["browserFlow"] == "browser"
        assert project.up().quiet
