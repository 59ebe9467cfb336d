"""The realm's rules, login flows and other providers, on a real Keycloak, by the real engine and provider.

A second real Keycloak is the other provider. People are browsers: httpx with forms, and a headless Chromium where a
passkey is needed.
"""

from __future__ import annotations

import re
import secrets
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx
import pytest

from components.flows import BROWSER, DIRECT_GRANT, FLOWS, RESET
from ops import frontdoor
from ops.identity import Administration
from stack.outputs import StackOutputs
from stack.proofs import totp
from stack.proofs.context import Person, ProofError
from tests.live.browser import chromium
from tests.live.pulumi_project import Project, docker
from tests.live.trial import Authority

pytestmark = pytest.mark.live

PORT, OTHER_PORT = 20181, 20182
HOST, OTHER = "auth.lab", "https://other.lab:8443"
ISSUER, OTHER_ISSUER = f"https://{HOST}/realms/kit", f"{OTHER}/realms/company"
SECRET = secrets.token_urlsafe(24)
OTHER_SECRET = "s'e\"c$r{e}t ü%20&=+/" + secrets.token_hex(6)
MAIL_SECRET = 'p"a$s;s ü%' + secrets.token_hex(6)
PASSWORD = "correct horse battery"

PROGRAM = """
from components.flows import Flows, FlowsArgs
from components.identity_provider import Endpoints, IdentityProvider, IdentityProviderArgs
from components.keycloak import KeycloakAccess, KeycloakAccessArgs
from components.oidc_client import OidcClient, OidcClientArgs
from components.realm import AdminUser, Realm, RealmArgs, Smtp
from components.secret import DigestKey

access = KeycloakAccess("access", KeycloakAccessArgs(url={url!r}, client_id="kit-admin", client_secret={admin!r}))
opts = ResourceOptions(providers=[access.provider])
realm = Realm(
    "realm",
    RealmArgs(
        realm="kit", display_name={display!r}, protect=False, login_failures={failures},
        digest_key=DigestKey("key").value,
        smtp=Smtp(host={mail!r}, port={mail_port}, sender="login@kit.localhost", tls="none") if {mail!r} else None,
        admin=AdminUser(username="admin-user", email="admin@kit.localhost", password={password!r}),
    ),
    opts,
)
required = {{"admins": realm.admin_group_id, "users": realm.everybody_group_id}}
flows = Flows(
    "login",
    FlowsArgs(
        realm=realm, required_of={{name: required[name] for name in {required!r}}},
        mail=bool({mail!r}), brokers={brokers},
    ),
    opts,
)
if {brokers}:
    IdentityProvider(
        "provider-oidc",
        IdentityProviderArgs(
            realm=realm, flows=flows, kind="oidc", client_id="kit", client_secret={secret!r}, display_name="Company",
            endpoints=Endpoints(**{endpoints!r}),
        ),
        opts,
    )
    IdentityProvider(
        "provider-github",
        IdentityProviderArgs(realm=realm, flows=flows, kind="github", client_id="g", client_secret="s"),
        opts,
    )
    IdentityProvider(
        "provider-google",
        IdentityProviderArgs(realm=realm, flows=flows, kind="google", client_id="g", client_secret="s"),
        opts,
    )
"""

ENDPOINTS = {
    "issuer": OTHER_ISSUER,
    **{
        name: f"{OTHER_ISSUER}/protocol/openid-connect/{path}"
        for name, path in {"authorize": "auth", "token": "token", "keys": "certs", "userinfo": "userinfo"}.items()
    },
}


def program(
    display: str = "kit",
    failures: int = 10,
    required: tuple[str, ...] = ("admins",),
    mail: tuple[str, int] = ("", 0),
    brokers: bool = True,
) -> str:
    return PROGRAM.format(
        url=f"http://127.0.0.1:{PORT}",
        admin=SECRET,
        display=display,
        failures=failures,
        required=required,
        mail=mail[0],
        mail_port=mail[1],
        brokers=brokers,
        password=PASSWORD,
        secret=OTHER_SECRET,
        endpoints=ENDPOINTS,
    )


class Roads(httpx.BaseTransport):
    """Leads both names to their servers on this machine: ours over plain HTTP, as its front door does."""

    def __init__(self, ca_pem: str) -> None:
        self._plain = httpx.HTTPTransport(trust_env=False)
        self._secure = httpx.HTTPTransport(verify=ssl.create_default_context(cadata=ca_pem), trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers, extensions = httpx.Headers(request.headers), dict(request.extensions)
        if request.url.host == HOST:
            headers.update({"x-forwarded-proto": "https", "x-forwarded-host": HOST, "x-forwarded-port": "443"})
            url, road = request.url.copy_with(scheme="http", host="127.0.0.1", port=PORT), self._plain
        else:
            assert request.url.host == "other.lab", f"a person was led to {request.url}"
            extensions["sni_hostname"] = "other.lab"
            url, road = request.url.copy_with(host="127.0.0.1", port=OTHER_PORT), self._secure
        return road.handle_request(
            httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=extensions)
        )


@dataclass
class Realms:
    """Both servers, as their administrators see them, and browsers at them."""

    ca_pem: str
    administration: Administration
    made: list[httpx.Client] = field(default_factory=list)

    def browser(self) -> httpx.Client:
        client = httpx.Client(transport=Roads(self.ca_pem), follow_redirects=True, timeout=60, trust_env=False)
        self.made.append(client)
        return client

    def ours(self, method: str, path: str, **request: Any) -> Any:
        answer = self.administration._call(method, path, **request)
        return answer.json() if answer.content else None

    def person(self, name: str, *groups: str, **more: Any) -> None:
        for old in self.ours("GET", "/users", params={"username": name, "exact": "true"}):
            self.ours("DELETE", f"/users/{old['id']}")
        self.administration.create(Person(name, f"{name}@kit.localhost"), PASSWORD, groups)

    def log_in(self, name: str, second: frontdoor.SecondFactor | None = None) -> None:
        """In a browser of its own, up to the code for the account page. ProofError says what came instead."""
        answer = frontdoor.authorize(self.browser(), account(), ISSUER, name, PASSWORD, second)
        assert "code=" in answer.headers["location"]

    def flow(self) -> str:
        return self.administration.realm()["browserFlow"]

    def asked(self, name: str) -> bool:
        """Whether a person who has none yet is asked for a second factor."""
        try:
            self.log_in(name)
        except ProofError as refused:
            assert "Mobile Authenticator" in str(refused), refused
            return True
        return False


def account(hint: str = "") -> str:
    query = {
        "client_id": "account-console",
        "redirect_uri": f"{ISSUER}/account/",
        "response_type": "code",
        "scope": "openid",
        "code_challenge": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
        "code_challenge_method": "S256",
        **({"kc_idp_hint": hint} if hint else {}),
    }
    return f"{ISSUER}/protocol/openid-connect/auth?{urlencode(query)}"


@pytest.fixture(scope="module")
def realms(
    shared_project: Project, images: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Realms]:
    """Two Keycloaks on one PostgreSQL: ours, with the realm of the program, and the other provider."""
    prefix = shared_project.prefix
    authority = Authority(tmp_path_factory.mktemp("authority"), ("other.lab",))
    docker("network", "create", f"{prefix}-kc")
    docker(
        *["run", "-d", "--name", f"{prefix}-postgres", "--network", f"{prefix}-kc"],
        *["-e", "POSTGRES_USER=keycloak", "-e", "POSTGRES_PASSWORD=keycloak", images("postgres")],
    )
    database = ["exec", f"{prefix}-postgres", "psql", "-h", "127.0.0.1", "-U", "keycloak", "-c"]
    _eventually(lambda: "CREATE" in docker(*database, "CREATE DATABASE other", check=False))
    common = [
        *["--network", f"{prefix}-kc", "-m", "1g", "--restart", "on-failure:10"],
        *["-e", "KC_BOOTSTRAP_ADMIN_CLIENT_ID=kit-admin", "-e", f"KC_BOOTSTRAP_ADMIN_CLIENT_SECRET={SECRET}"],
        *["-e", "KC_DB_USERNAME=keycloak", "-e", "KC_DB_PASSWORD=keycloak", "-e", "KC_HTTP_ENABLED=true"],
    ]
    address = f"jdbc:postgresql://{prefix}-postgres"
    ours, other = f"{prefix}-keycloak", f"{prefix}-other"
    docker(
        *["create", "--name", ours, *common, "-p", f"127.0.0.1:{PORT}:8080", "-e", f"KC_DB_URL={address}/keycloak"],
        *["-e", "KC_HOSTNAME_STRICT=false", "-e", "KC_PROXY_HEADERS=xforwarded"],
        *["-e", "KC_TRUSTSTORE_PATHS=/certificates/ca.pem", images("keycloak"), "start", "--optimized"],
    )
    docker(
        *["create", "--name", other, *common, "-p", f"127.0.0.1:{OTHER_PORT}:8443", "--network-alias", "other.lab"],
        *["-e", f"KC_DB_URL={address}/other", "-e", f"KC_HOSTNAME={OTHER}"],
        *["-e", "KC_HTTPS_CERTIFICATE_FILE=/certificates/leaf.crt"],
        *["-e", "KC_HTTPS_CERTIFICATE_KEY_FILE=/certificates/leaf.key"],
        *[images("keycloak"), "start", "--optimized"],
    )
    (authority.folder / "leaf.key").chmod(0o644)  # of this test alone
    for container in (ours, other):
        authority.folder.chmod(0o755)
        docker("cp", str(authority.folder), f"{container}:/certificates")
        docker("start", container)
    outputs = StackOutputs(
        urls={},
        ca_pem=authority.ca_pem,
        realm="kit",
        issuer=ISSUER,
        admin_url=f"http://127.0.0.1:{PORT}",
        admin_client_id="kit-admin",
        admin_client_secret=SECRET,
        admin_user="admin-user",
        admin_password=PASSWORD,
    )
    road = httpx.Client(transport=Roads(authority.ca_pem), timeout=60, trust_env=False)
    found = Realms(ca_pem=authority.ca_pem, administration=Administration(road, f"https://{HOST}", outputs))
    try:
        with found.browser() as visitor:
            for url in (f"https://{HOST}/realms/master", f"{OTHER}/realms/master"):
                _eventually(lambda url=url: visitor.get(url).status_code == 200, seconds=600)
        yield found
    except AssertionError:
        print(docker("logs", "--tail", "60", ours), docker("logs", "--tail", "60", other))
        raise
    finally:
        for client in (road, *found.made):
            client.close()


@pytest.fixture
def project(shared_project: Project, realms: Realms) -> Project:
    """The project, with its realm made."""
    if not shared_project.program:
        shared_project.program = program()
        made = shared_project.up()
        assert made.ok, str(made)
    return shared_project


@pytest.fixture(scope="module")
def other(realms: Realms) -> Callable[..., Any]:
    """The other provider's administration: a realm with our client in it, and people."""
    http = realms.browser()

    def call(method: str, path: str, json: Any = None) -> Any:
        token = http.post(
            f"{OTHER}/realms/master/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", "client_id": "kit-admin", "client_secret": SECRET},
        ).json()["access_token"]
        answer = http.request(
            method, f"{OTHER}/admin/realms{path}", json=json, headers={"Authorization": f"Bearer {token}"}
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    call("POST", "", {"realm": "company", "enabled": True})
    call(
        "POST",
        "/company/clients",
        {
            "clientId": "kit",
            "secret": OTHER_SECRET,
            "redirectUris": [f"{ISSUER}/broker/oidc/endpoint"],
            "standardFlowEnabled": True,
            "attributes": {"pkce.code.challenge.method": "S256"},
        },
    )
    for name, mail in (("hanna", "hanna@company.example"), ("mallory", "admin@kit.localhost")):
        call(
            "POST",
            "/company/users",
            {
                "username": name,
                "email": mail,
                "firstName": name,
                "lastName": "Other",
                "enabled": True,
                "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
            },
        )
    return call


def _eventually(look: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if look():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError("it did not come to be")


# ------------------------------------------------------------------------------------------------------- flows


class TestFlows:
    def test_a_second_up_and_a_refresh_change_nothing(self, project: Project) -> None:
        for result in (project.up(), project.refresh(), project.up(), project.preview()):
            assert result.quiet, str(result)

    def test_the_steps_are_in_the_order_in_which_they_stand(self, project: Project, realms: Realms) -> None:
        """Trap 2.6: each with a priority of its own, or the order is chance."""
        executions = realms.ours("GET", f"/authentication/flows/{BROWSER}/executions")
        assert [(each["level"], each.get("providerId") or each["displayName"]) for each in executions] == [
            (0, "auth-cookie"),
            (0, "identity-provider-redirector"),
            (0, f"{BROWSER}-forms"),
            (1, "auth-username-password-form"),
            (1, f"{BROWSER}-second"),
            (2, "conditional-user-configured"),
            (2, "webauthn-authenticator"),
            (2, "auth-otp-form"),
            (1, f"{BROWSER}-enrol"),
            (2, "conditional-user-role"),
            (2, "conditional-sub-flow-executed"),
            (2, "auth-otp-form"),
        ]
        for alias in FLOWS:
            if alias == RESET:
                continue  # there is no mail server yet
            levels: dict[int, list[int]] = {}
            for each in realms.ours("GET", f"/authentication/flows/{alias}/executions"):
                for deeper in [level for level in levels if level > each["level"]]:
                    del levels[deeper]
                siblings = levels.setdefault(each["level"], [])
                assert each["priority"] not in siblings, (alias, each["displayName"])
                siblings.append(each["priority"])

    def test_the_realm_is_as_asked(self, project: Project, realms: Realms) -> None:
        realm = realms.administration.realm()
        assert (realm["browserFlow"], realm["directGrantFlow"]) == (BROWSER, DIRECT_GRANT)
        assert realm["otpPolicyCodeReusable"] is False
        assert realm["resetPasswordAllowed"] is realm["verifyEmail"] is False
        headers = realm["browserSecurityHeaders"]
        assert "frame-ancestors 'self'" in headers["contentSecurityPolicy"]
        assert headers["xFrameOptions"] == "SAMEORIGIN"
        page = realms.browser().get(account())
        assert page.headers["x-frame-options"] == "SAMEORIGIN"
        assert page.headers["referrer-policy"] == "no-referrer"

    def test_nobody_gets_a_token_by_sending_a_password(self, project: Project, realms: Realms) -> None:
        said = {"grant_type": "password", "client_id": "admin-cli", "username": "admin-user", "password": PASSWORD}
        answer = realms.browser().post(f"{ISSUER}/protocol/openid-connect/token", data=said)
        assert answer.status_code == 401
        assert "access_token" not in answer.text


class TestSecondFactor:
    def test_an_administrator_sets_one_up_at_the_first_login_and_needs_it_ever_after(
        self, project: Project, realms: Realms
    ) -> None:
        assert realms.asked("admin-user")
        second = frontdoor.SecondFactor()
        realms.log_in("admin-user", second)
        assert second.app
        with pytest.raises(ProofError):
            realms.log_in("admin-user")
        realms.log_in("admin-user", second)

        used = totp.code(second.app.key, second.app._last * totp.STEP_S)
        for said in (used, "000000"):
            with pytest.raises(ProofError, match=r"[Ii]nvalid"):
                realms.log_in("admin-user", frontdoor.SecondFactor(_Says(said)))

    def test_codes_of_an_app_two_hours_off_are_refused_and_nothing_changes(
        self, project: Project, realms: Realms
    ) -> None:
        """A phone, or a server, whose clock is wrong: it is said at the login, and whoever has the right time is in."""
        realms.person("boss", "admins")
        second = frontdoor.SecondFactor()
        realms.log_in("boss", second)
        assert second.app
        user = realms.administration.user_id("boss")
        before = realms.ours("GET", f"/users/{user}/credentials")
        for off in (-7200, 7200):
            said = totp.code(second.app.key, time.time() + off)
            with pytest.raises(ProofError, match=r"Invalid authenticator code"):
                realms.log_in("boss", frontdoor.SecondFactor(_Says(said)))
        assert realms.ours("GET", f"/users/{user}/credentials") == before
        # Two wrong ones within a second are taken for a program's, and the person waits a minute.
        realms.ours("DELETE", f"/attack-detection/brute-force/users/{user}")
        realms.log_in("boss", second)

    def test_everybody_else_may(self, project: Project, realms: Realms) -> None:
        realms.person("person")
        assert not realms.asked("person")

    def test_who_lost_it_is_let_in_again(self, project: Project, realms: Realms) -> None:
        """What ./kit unlock does."""
        realms.person("boss", "admins")
        second = frontdoor.SecondFactor()
        realms.log_in("boss", second)
        with pytest.raises(ProofError):
            realms.log_in("boss", frontdoor.SecondFactor(_Says("123456")))
        taken = realms.administration.free(realms.administration.user_id("boss"))
        assert "the authenticator app kit" in taken
        assert realms.asked("boss")

    def test_everyone_is_a_change_of_groups_alone(self, project: Project, realms: Realms) -> None:
        realms.person("person")
        project.program = program(required=("admins", "users"))
        changed = project.up()
        assert changed.ok, str(changed)
        assert {step.type.rsplit(":", 1)[-1] for step in changed.steps} == {"GroupRoles"}
        assert realms.asked("person")
        project.program = program(required=())
        assert project.up().ok
        realms.person("boss", "admins")
        assert not realms.asked("boss")
        project.program = program()
        assert project.up().ok
        assert realms.asked("boss")
        assert not realms.asked("person")

    def test_a_passkey_is_a_second_factor(self, project: Project, realms: Realms, tmp_path: Path) -> None:
        """Headless Chromium with a virtual authenticator, at the server's own port: localhost is secure to browsers."""
        from selenium.webdriver.common.virtual_authenticator import VirtualAuthenticatorOptions

        realms.person("keyholder")
        user = realms.administration.user_id("keyholder")
        found = realms.ours("GET", f"/users/{user}")
        realms.ours("PUT", f"/users/{user}", json={**found, "requiredActions": ["webauthn-register"]})
        realms.ours("PUT", "", json={**realms.administration.realm(), "sslRequired": "none"})
        try:
            with chromium(tmp_path) as window:
                chrome = window.chrome
                key = VirtualAuthenticatorOptions()
                key.has_user_verification = key.is_user_verified = True
                chrome.add_virtual_authenticator(key)
                base = f"http://localhost:{PORT}/realms/kit"
                start = account().replace(ISSUER, base).replace(urlencode({"": ISSUER})[1:], urlencode({"": base})[1:])

                def log_in() -> None:
                    window.open(start)
                    window.fill("#kc-login", username="keyholder", password=PASSWORD)

                def arrived() -> bool:
                    return chrome.current_url.startswith(f"{base}/account")

                log_in()
                window.shown("#registerWebAuthn")
                window.all("#registerWebAuthn")[0].click()
                window.until(lambda: _accepts_name(chrome) or arrived())
                window.until(arrived)
                kinds = [each["type"] for each in realms.ours("GET", f"/users/{user}/credentials")]
                assert sorted(kinds) == ["password", "webauthn"]

                realms.ours("POST", f"/users/{user}/logout")
                chrome.delete_all_cookies()
                log_in()
                window.shown("#authenticateWebAuthnButton")
                window.all("#authenticateWebAuthnButton")[0].click()
                window.until(arrived)

                realms.ours("POST", f"/users/{user}/logout")
                chrome.delete_all_cookies()
                chrome.remove_virtual_authenticator()
                log_in()
                window.shown("#authenticateWebAuthnButton")
                assert not arrived()
        finally:
            realms.ours("PUT", "", json={**realms.administration.realm(), "sslRequired": "all"})


class _Says(totp.Authenticator):
    """An app that shows what it is told."""

    def __init__(self, said: str) -> None:
        super().__init__(b"")
        self.said = said

    def next(self) -> str:
        return self.said


def _accepts_name(page: Any) -> bool:
    """A passkey is given a name: the page asks for one by a dialog of the browser."""
    from selenium.common.exceptions import NoAlertPresentException

    try:
        page.switch_to.alert.accept()
    except NoAlertPresentException:
        return False
    return True


# ----------------------------------------------------------------------------------------- trap 2.5: the binding


def urn_of(project: Project, kind: str) -> str:
    return next(each["urn"] for each in project.export()["deployment"]["resources"] if each["type"].endswith(kind))


class TestBinding:
    def never_refreshed(self, project: Project, realms: Realms) -> None:
        """The state as it is after the realm was made: it has Keycloak's own flow, which came before ours. A refresh
        would have taught it better, and there would be no trap."""
        realm = realms.administration.realm()
        realms.ours("PUT", "", json={**realm, "browserFlow": "browser"})
        refreshed = project.refresh("--target", urn_of(project, "realm:Realm"))
        assert refreshed.ok, str(refreshed)
        realms.ours("PUT", "", json={**realm, "browserFlow": BROWSER})

    def test_a_realm_that_is_edited_twice_still_asks(self, project: Project, realms: Realms) -> None:
        realms.person("boss", "admins")
        self.never_refreshed(project, realms)
        for display, failures in (("edited", 10), ("edited again", 7)):
            project.program = program(display=display, failures=failures)
            edited = project.up()
            assert edited.ok, str(edited)
            assert "update" in edited.ops("realm")
            realm = realms.administration.realm()
            assert (realm["displayName"], realm["failureFactor"]) == (display, failures)
            assert (realm["browserFlow"], realm["directGrantFlow"]) == (BROWSER, DIRECT_GRANT)
            assert realms.asked("boss")
            assert project.up().quiet
        assert project.refresh().quiet
        project.program = program()
        assert project.up().ok
        assert realms.flow() == BROWSER

    def test_without_the_trigger_the_provider_drops_it(self, project: Project, realms: Realms) -> None:
        """That the trap is there, so that the test above says something."""
        self.never_refreshed(project, realms)
        project.program = program(display="dropped").replace(
            "required =", "realm.rules_digest = pulumi.Output.from_input('the same')\nrequired ="
        )
        assert project.up().ok  # the trigger changes once more, to this
        project.program = project.program.replace("'dropped'", "'dropped again'")
        edited = project.up()
        assert edited.ok, str(edited)
        assert realms.flow() == "browser"
        project.program = program()
        assert project.up().ok
        assert realms.flow() == BROWSER

    def test_dropped_by_hand_it_is_seen_by_a_refresh_and_bound_again(self, project: Project, realms: Realms) -> None:
        """What ./kit up does by itself (ops/flowguard.py)."""
        realms.person("boss", "admins")
        realms.ours("PUT", "", json={**realms.administration.realm(), "browserFlow": "browser"})
        assert not realms.asked("boss")
        assert project.up().quiet  # the engine does not look
        seen = project.refresh("--target", urn_of(project, "bindings:Bindings"))
        assert seen.ok, str(seen)
        assert seen.changes.get("update") == 1
        bound = project.up()
        assert bound.ok, str(bound)
        assert realms.flow() == BROWSER
        assert realms.asked("boss")
        assert project.up().quiet

    def test_the_flow_cannot_be_deleted_while_it_is_bound(self, project: Project, realms: Realms) -> None:
        """Trap 2.6."""
        flows = realms.ours("GET", "/authentication/flows")
        ours = next(flow["id"] for flow in flows if flow["alias"] == BROWSER)
        with pytest.raises(ProofError, match=r"answered [45]"):
            realms.ours("DELETE", f"/authentication/flows/{ours}")
        assert realms.flow() == BROWSER


# ------------------------------------------------------------------------------------------------ other providers


class TestOtherProviders:
    """In the order of a friendship: met, come again, impersonated, ended."""

    def at_the_other(self, realms: Realms, name: str) -> tuple[httpx.Client, httpx.Response]:
        """Through the button of our login page, and the password there."""
        visitor = realms.browser()
        page = visitor.get(account())
        button = re.search(r'id="social-oidc"[^>]*href="([^"]+)"', page.text)
        assert button, page.text[:3000]
        assert "Company" in page.text
        theirs = visitor.get(urljoin(str(page.url), unescape(button[1])))
        assert str(theirs.url).startswith(OTHER_ISSUER), theirs.url
        form = frontdoor.login_form(theirs, OTHER_ISSUER)
        assert form
        return visitor, visitor.post(form, data={"username": name, "password": PASSWORD, "credentialId": ""})

    def test_a_person_comes_from_there_and_is_one_of_everybody(
        self, project: Project, realms: Realms, other: Callable[..., Any]
    ) -> None:
        for _ in range(2):
            _, page = self.at_the_other(realms, "hanna")
            assert str(page.url).startswith(f"{ISSUER}/account"), page.text[:2000]
        user = realms.administration.user_id("hanna")
        groups = realms.ours("GET", f"/users/{user}/groups")
        assert [group["name"] for group in groups] == ["users"]
        assert realms.ours("GET", f"/users/{user}")["emailVerified"] is False  # whatever was said there

    def test_an_account_that_there_is_stays_its_owners(
        self, project: Project, realms: Realms, other: Callable[..., Any]
    ) -> None:
        """Somebody typed the administrator's mail address over there."""
        visitor, page = self.at_the_other(realms, "mallory")
        assert page.url.host == HOST
        assert "already exists" in page.text
        forms = frontdoor.forms_of(page, ISSUER)
        assert forms
        link = urljoin(str(page.url), next(iter(forms.actions.values())))
        page = visitor.post(link, data={"submitAction": "linkAccount"})
        form = frontdoor.login_form(page, ISSUER)
        assert form, page.text[:2000]  # the password of the account, not of the other one's
        page = visitor.post(form, data={"username": "admin-user", "password": "a guess"})
        assert frontdoor.login_form(page, ISSUER)
        admin = realms.administration.user_id("admin-user")
        assert realms.ours("GET", f"/users/{admin}/federated-identity") == []

    def test_an_administrator_from_there_is_asked_for_a_second_factor(
        self, project: Project, realms: Realms, other: Callable[..., Any]
    ) -> None:
        user = realms.administration.user_id("hanna")
        admins = next(g["id"] for g in realms.ours("GET", "/groups") if g["name"] == "admins")
        realms.ours("PUT", f"/users/{user}/groups/{admins}")
        visitor, page = self.at_the_other(realms, "hanna")
        assert "kc-totp-settings-form" in page.text
        page = frontdoor.SecondFactor().answer(visitor, page, ISSUER)
        assert str(page.url).startswith(f"{ISSUER}/account")
        realms.ours("DELETE", f"/users/{user}/groups/{admins}")

    def test_google_and_github_are_asked_with_our_redirect(self, project: Project, realms: Realms) -> None:
        for alias, host in (("google", "accounts.google.com"), ("github", "github.com")):
            visitor = realms.browser()
            visitor.follow_redirects = False
            page = visitor.get(account(alias))
            for _ in range(5):
                if urlsplit(page.headers["location"]).hostname == host:
                    break
                page = visitor.get(urljoin(str(page.url), page.headers["location"]))
            leads = urlsplit(page.headers["location"])
            assert leads.hostname == host
            assert parse_qs(leads.query)["redirect_uri"] == [f"{ISSUER}/broker/{alias}/endpoint"]

    def test_revoked_there_it_is_said_and_passwords_here_still_do(
        self, project: Project, realms: Realms, other: Callable[..., Any]
    ) -> None:
        client = next(each for each in other("GET", "/company/clients") if each["clientId"] == "kit")
        other("PUT", f"/company/clients/{client['id']}", {**client, "secret": "another"})
        _, page = self.at_the_other(realms, "hanna")
        assert page.url.host == HOST
        assert page.status_code in (400, 502)
        assert "Unexpected error when authenticating with identity provider" in unescape(page.text)
        other("PUT", f"/company/clients/{client['id']}", {**client, "enabled": False})
        visitor = realms.browser()
        page = visitor.get(account("oidc"))
        assert page.status_code == 400, page.url
        realms.person("person")
        realms.log_in("person")

    def test_unreachable_it_keeps_nobody_else_out(
        self, project: Project, realms: Realms, other: Callable[..., Any]
    ) -> None:
        docker("stop", "-t", "5", f"{project.prefix}-other")
        realms.person("person")
        realms.log_in("person")
        assert project.up().quiet

    def test_without_providers_nothing_of_them_stays(self, project: Project, realms: Realms) -> None:
        project.program = program(brokers=False)
        without = project.up()
        assert without.ok, str(without)
        assert realms.ours("GET", "/identity-provider/instances") == []
        aliases = {flow["alias"] for flow in realms.ours("GET", "/authentication/flows")}
        assert aliases & set(FLOWS) == {BROWSER, DIRECT_GRANT}
        assert realms.flow() == BROWSER


# ----------------------------------------------------------------------------------------------------------- mail


class _Mailbox(socketserver.StreamRequestHandler):
    """A mail server that takes whatever comes."""

    mails: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.say("220 mailbox")
        while line := self.rfile.readline().decode().strip():
            word = line.split(" ")[0].upper()
            if word == "DATA":
                self.say("354 go on")
                mail: list[str] = []
                while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    mail.append(text)
                self.mails.append("\n".join(mail))
            self.say("221 bye" if word == "QUIT" else "250 fine")
            if word == "QUIT":
                return

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class TestMail:
    def test_whoever_reads_the_mail_still_lacks_the_second_factor(self, project: Project, realms: Realms) -> None:
        gateway = docker(
            "network", "inspect", f"{project.prefix}-kc", "--format", "{{(index .IPAM.Config 0).Gateway}}"
        ).strip()
        with socketserver.ThreadingTCPServer((gateway, 0), _Mailbox) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            project.program = program(brokers=False, mail=(gateway, server.server_address[1]))
            made = project.up()
            assert made.ok, str(made)
            assert project.up().quiet
            realm = realms.administration.realm()
            assert (realm["resetCredentialsFlow"], realm["browserFlow"]) == (RESET, BROWSER)
            assert realm["resetPasswordAllowed"] is realm["verifyEmail"] is True
            realms.person("boss", "admins")
            second = frontdoor.SecondFactor()
            realms.log_in("boss", second)
            visitor = realms.browser()
            page = visitor.get(account())
            forgot = re.search(r'href="([^"]*reset-credentials[^"]*)"', page.text)
            assert forgot, page.text[:2000]
            page = visitor.get(urljoin(str(page.url), unescape(forgot[1])))
            forms = frontdoor.forms_of(page, ISSUER)
            assert forms
            visitor.post(urljoin(str(page.url), forms.actions["kc-reset-password-form"]), data={"username": "boss"})
            _eventually(lambda: bool(_Mailbox.mails))
            mail = _Mailbox.mails[-1].replace("=\n", "").replace("=3D", "=")
            link = re.search(rf"https://{HOST}/realms/kit/login-actions/action-token\S+", mail)
            assert link, mail
            page = visitor.get(link[0])
            assert "kc-otp-login-form" in page.text, page.text[:3000]
            assert "password-new" not in page.text
            page = second.answer(visitor, page, ISSUER)
            assert "password-new" in page.text, page.text[:3000]
            server.shutdown()
        project.program = program(brokers=False)
        assert project.up().ok
        assert realms.administration.realm()["resetCredentialsFlow"] == "reset credentials"
        assert realms.flow() == BROWSER


def test_no_secret_is_in_the_plain_part_of_the_state(project: Project) -> None:
    from tests.live.leaks import find_leaks

    project.program = program(mail=("mail.example.org", 587)).replace(
        'tls="none")', f'tls="starttls", user="me", password={MAIL_SECRET!r})'
    )
    made = project.up()
    assert made.ok, str(made)
    hidden = {"other": OTHER_SECRET, "admin": SECRET, "mail": MAIL_SECRET, "password": PASSWORD}
    assert find_leaks(hidden, state=project.export(), containers=[]) == []


def test_the_realm_goes_with_all_of_it(project: Project, realms: Realms) -> None:
    project.unprotect()  # the key of the digests
    gone = project.destroy()
    assert gone.ok, str(gone)
    with pytest.raises(ProofError, match="404"):
        realms.administration.realm()
