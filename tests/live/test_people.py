"""People, roles and logouts, and the retired first credential: the real Keycloak, Open WebUI and engine.

The servers stand as everywhere in this layer, with hostile secrets. Pulumi makes the realm from a configuration, by
what deploy.py does after the servers are up.
"""

from __future__ import annotations

import argparse
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from ops import frontdoor, people
from ops.console import KitError
from ops.engine import DockerApi
from ops.identity import administration
from ops.repair import left, refuse_to_forget
from stack.derive import waf
from stack.derive.oidc import clients
from stack.plan import SecretKey
from stack.proofs import logins
from stack.proofs.context import ProofError
from stack.proofs.open_webui import LOGIN_PATH
from stack.settings import load
from tests.live import standing
from tests.live.auditors import installed
from tests.live.pulumi_project import Project, Result
from tests.live.standing import Standing
from tests.live.trial import docker, eventually

pytestmark = pytest.mark.live

STACK = "ppl"
PORTS = {"httpPort": 18682, "httpsPort": 18683, "adminPort": 18684}
ADMIN = SecretKey("keycloak", "admin")
BOOTSTRAP = "kit-bootstrap"
OURS = "kit-admin"
KCWARDEN = "kcwarden==0.18.1"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    ports: dict[str, Any] = {
        "http_port": PORTS["httpPort"],
        "https_port": PORTS["httpsPort"],
        "admin_port": PORTS["adminPort"],
    }
    with standing.stack(STACK, tmp_path_factory.mktemp("people"), "chat", "api", start=False, **ports) as made:
        # Everything but the models: nobody asks a question here.
        made.trial.up(
            [step.name.removeprefix(f"kit-{STACK}-") for step in made.trial.runtime.steps if "ollama" not in step.name]
        )
        yield made


# -------------------------------------------------------------------------------------------- who administers


class Master:
    """The master realm, as one of its clients."""

    def __init__(self, up: Standing, client: str = OURS, secret: str = "") -> None:
        outputs = up.outputs
        context = ssl.create_default_context(cadata=outputs.ca_pem)
        self.http = httpx.Client(base_url=outputs.admin_url, verify=context, timeout=60, trust_env=False)
        self.login = self.http.post(
            "/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "client_credentials",
                "client_id": client,
                "client_secret": secret or outputs.admin_client_secret,
            },
        )
        if self.login.is_success:
            self.http.headers["Authorization"] = f"Bearer {self.login.json()['access_token']}"

    def __call__(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self.http.request(method, f"/admin/realms/master{path}", **arguments)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def client(self, name: str) -> str:
        """The id of a client, "" when there is none."""
        found = self("GET", "/clients", params={"clientId": name})
        return str(found[0]["id"]) if found else ""

    def make(self, name: str, secret: str, *, role: bool = True) -> None:
        """A service client, as the first start makes one."""
        form = {"clientId": name, "secret": secret, "serviceAccountsEnabled": True, "standardFlowEnabled": False}
        self("POST", "/clients", json=form)
        account = self("GET", f"/clients/{self.client(name)}/service-account-user")["id"]
        if role:
            self("POST", f"/users/{account}/role-mappings/realm", json=[self("GET", "/roles/admin")])


def bootstrap_secret(up: Standing) -> str:
    return up.trial.secret("keycloak", "bootstrap")


def alone(up: Standing) -> None:
    """The program's client gets in, the first credential does not, and there is nobody else."""
    refused = Master(up, BOOTSTRAP, bootstrap_secret(up)).login
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    master = Master(up)
    assert master.login.status_code == 200, master.login.text
    assert not master.client(BOOTSTRAP)
    assert [user["username"] for user in master("GET", "/roles/admin/users")] == [f"service-account-{OURS}"]
    assert master("GET", "/users/count") == 0
    services = [each["clientId"] for each in master("GET", "/clients") if each.get("serviceAccountsEnabled")]
    assert services == [OURS]


def administer(up: Standing) -> str:
    """Run the job; its last line."""
    return up.trial.run(up.job("keycloak-administration")).strip().splitlines()[-1]


def test_the_first_credential_is_dead_after_the_first_start(up: Standing) -> None:
    alone(up)
    begin = time.monotonic()
    assert administer(up) == f"{OURS} administers alone; {BOOTSTRAP} is refused"
    print(f"once more: {time.monotonic() - begin:.1f} s")
    alone(up)


def before_the_upgrade(up: Standing) -> None:
    """What stacks have that were made before: the first credential administers, ours is not there."""
    Master(up).make(BOOTSTRAP, bootstrap_secret(up))
    first = Master(up, BOOTSTRAP, bootstrap_secret(up))
    first("DELETE", f"/clients/{first.client(OURS)}")


def without_its_role(up: Standing) -> None:
    """Cut short between the client and its role."""
    before_the_upgrade(up)
    Master(up, BOOTSTRAP, bootstrap_secret(up)).make(OURS, up.outputs.admin_client_secret, role=False)


def both(up: Standing) -> None:
    """Cut short before the old one went."""
    Master(up).make(BOOTSTRAP, bootstrap_secret(up))


def another_secret(up: Standing) -> None:
    """An old state beside newer data, with the first credential still there."""
    before_the_upgrade(up)
    Master(up, BOOTSTRAP, bootstrap_secret(up)).make(OURS, "that of another time")


def neither(up: Standing) -> None:
    """A database from another time: no credential of ours is known in it."""
    master = Master(up)
    master("PUT", f"/clients/{master.client(OURS)}", json={"secret": "that of another time"})


def left_behind(up: Standing) -> None:
    """Cut short while the way through the database was open."""
    Master(up).make("kit-recovery-left", "known to nobody")


@pytest.mark.parametrize(
    "found",
    [before_the_upgrade, without_its_role, both, another_secret, neither, left_behind],
    ids=lambda f: f.__name__,
)
def test_whatever_it_finds_it_ends_alike(up: Standing, found: Any) -> None:
    found(up)
    begin = time.monotonic()
    assert administer(up) == f"{OURS} administers alone; {BOOTSTRAP} is refused"
    print(f"{found.__name__}: {time.monotonic() - begin:.1f} s")
    alone(up)


def test_killed_anywhere_it_goes_on_from_there(up: Standing) -> None:
    job = up.job("keycloak-administration")
    seen: set[str] = set()
    for tenths in range(1, 14, 2):
        before_the_upgrade(up)
        docker("rm", "-f", job.name, check=False)
        _start(up, kill_after=tenths / 10)
        seen.add(_state(up))
        assert administer(up) == f"{OURS} administers alone; {BOOTSTRAP} is refused"
        alone(up)
    print(f"cut short in the states: {sorted(seen)}")


def _start(up: Standing, *, kill_after: float) -> None:
    """The job, killed so many seconds after its start."""
    job = up.job("keycloak-administration")

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if docker("inspect", "-f", "{{.State.Running}}", job.name, check=False).strip() == "true":
                time.sleep(kill_after)
                docker("kill", job.name, check=False)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    with suppress(RuntimeError):  # killed, as it should be
        up.trial.run(job)
    killer.join()


def _state(up: Standing) -> str:
    ours = Master(up).login.is_success
    first = Master(up, BOOTSTRAP, bootstrap_secret(up)).login.is_success
    return f"ours {'in' if ours else 'out'}, the first {'in' if first else 'out'}"


def test_somebody_elses_administrator_is_named_and_left_alone(up: Standing) -> None:
    master = Master(up)
    master.make("somebodys", "their secret")
    master("POST", "/users", json={"username": "hand-made", "enabled": True})
    said = administer(up)
    assert "service-account-somebodys" in said and "1 people" in said and "alone" not in said
    assert master.client("somebodys")
    master("DELETE", f"/clients/{master.client('somebodys')}")
    master("DELETE", f"/users/{master('GET', '/users')[0]['id']}")
    assert "alone" in administer(up)


def test_up_notices_a_database_that_does_not_know_our_credential(up: Standing) -> None:
    api, exported = DockerApi(), up.outputs.to_dict()
    assert not people.readmit(api, up.plan, exported)
    neither(up)
    assert people.readmit(api, up.plan, exported)
    alone(up)


# ------------------------------------------------------------------------------------------- people and groups

PROGRAM = """
import json
from dataclasses import replace
from pathlib import Path
from stack import plan, targets
from stack.catalog import discover
from stack.deploy import Deployment
from stack.derive import runtime
from stack.model import REALM_ROLES
from stack.plan import SecretKey
from stack.settings import load

given = json.loads(Path({file!r}).read_text(encoding="utf-8"))

def wider(spec):
    # Nobody's roles are those of the realm yet: the chat gets them as well, to see who gets which.
    return replace(spec, oidc=replace(spec.oidc, roles={{**spec.oidc.roles, **REALM_ROLES}}))

class Identity(Deployment):
    def __init__(self, planned):
        self.plan, self.runtime = planned, replace(runtime.build(planned), after_realm=())  # the test's own
        known = given["secrets"].items()
        self.secrets = {{SecretKey(*key.split("/", 1)): Output.secret(value) for key, value in known}}
        self.admin_password, self.digest_key = Output.secret("correct horse battery"), Output.secret("any")
        self.trusted = Output.from_input(given["ca"])
        self.volumes, self.steps = {{}}, {{}}

    def _identity_data(self, service):
        return None

settings = load({stack!r}, given["config"])
services = tuple(wider(spec) if spec.name == "open-webui" else spec for spec in discover())
Identity(plan.build(settings, targets.profile(settings), services))._identity()
"""

ANNA = {
    "username": "anna",
    "email": "anna@home.example",
    "firstName": "Anna",
    "lastName": "O'Hara-Müller",
    "role": "editor",
    "groups": ["research"],
}
BEN = {"username": "ben", "email": "ben@home.example", "firstName": "Ben", "lastName": "Ω", "role": "viewer"}
CARA = {"username": "cara.x", "email": "Cara@home.example", "firstName": "Cara", "lastName": "C", "role": "admin"}


class Realm:
    """The realm as a configuration makes it."""

    def __init__(self, up: Standing, project: Project) -> None:
        self.up = up
        self.project = project
        self.config: dict[str, Any] = {
            "secondFactor": "optional",  # what is asked beyond a password is test_realm.py's
            "target": "dev",
            "profiles": ["chat", "api"],
            "images": "airgap",
            **PORTS,
            "groups": ["research", "choir"],
            "people": [ANNA, BEN, CARA],
        }

    def bring_up(self, **changes: Any) -> Result:
        self.config |= changes
        keys = [secret.key for secret in self.up.plan.secrets]
        given = {
            "config": self.config,
            "ca": self.up.outputs.ca_pem,
            "secrets": {str(key): self.up.trial.secret(key.owner, key.name) for key in keys},
        }
        file = self.project.directory / "given.json"
        file.write_text(json.dumps(given), encoding="utf-8")
        self.project.program = PROGRAM.format(file=str(file), stack=STACK)
        return self.project.up()

    def admin(self) -> Any:
        return administration(self.up.plan, self.up.outputs)

    def claims(self, username: str) -> dict[str, Any]:
        """What the chat would be told about a user."""
        with self.admin() as admin:
            call = admin._call  # pyright: ignore[reportPrivateUsage]
            client = call("GET", "/clients", params={"clientId": "open-webui"}).json()[0]["id"]
            user = admin.user(username)
            assert user
            path = f"/clients/{client}/evaluate-scopes/generate-example-userinfo"
            return call("GET", path, params={"userId": user["id"], "scope": "openid"}).json()

    @property
    def session(self) -> Any:
        """A stack as the verb sees it."""
        exported = self.up.outputs.to_dict()
        return SimpleNamespace(stack=STACK, ready_pulumi=lambda: None, outputs=lambda _: exported)

    def kit(self, action: str, name: str, **more: Any) -> int:
        """./kit people, on the plan of the present configuration."""
        from stack import plan as planning
        from stack import targets
        from stack.catalog import discover

        settings = load(STACK, self.config)
        plan = planning.build(settings, targets.profile(settings), discover())
        arguments = argparse.Namespace(name=name, **{"reset": False, "json": False, "yes_delete": None, **more})
        return people._ACTIONS[action](self.session, plan, arguments)  # pyright: ignore[reportPrivateUsage]

    def browser(self) -> httpx.Client:
        return frontdoor.browser(self.up.plan.settings.domain, "127.0.0.1", self.up.outputs.ca_pem)

    @property
    def chat(self) -> str:
        return self.up.outputs.urls["chat"]

    def enter(self, username: str, password: str) -> httpx.Client:
        """Somebody in the chat, in a browser of their own."""
        visitor = self.browser()
        frontdoor.log_in(visitor, self.chat + LOGIN_PATH, self.up.outputs.issuer, username, password)
        return self.seated(visitor)

    def seated(self, visitor: httpx.Client) -> httpx.Client:
        token = next((cookie.value for cookie in visitor.cookies.jar if cookie.name == "token"), None)
        assert token, "no session in the chat"
        visitor.base_url = self.chat
        visitor.headers["Authorization"] = f"Bearer {token}"
        return visitor

    def first_login(self, username: str, given: str, chosen: str) -> httpx.Client:
        """The first login: the given password, then the page that asks for one of their own."""
        visitor = self.browser()
        page = visitor.get(self.chat + LOGIN_PATH)
        form = frontdoor.login_form(page, self.up.outputs.issuer)
        assert form
        page = visitor.post(form, data={"username": username, "password": given, "credentialId": ""})
        found = re.search(r'id="kc-passwd-update-form"[^>]*action="([^"]*)"', page.text)
        assert found, page.text[:2000]
        action = urljoin(str(page.url), unescape(found.group(1)))
        visitor.post(action, data={"password-new": chosen, "password-confirm": chosen})
        return self.seated(visitor)


@pytest.fixture(scope="module")
def realm(up: Standing, shared_project: Project) -> Realm:
    up.settle()
    made = Realm(up, shared_project)
    begin = time.monotonic()
    first = made.bring_up()
    assert first.ok, str(first)
    print(f"realm, clients, people: {time.monotonic() - begin:.1f} s")
    # Whoever comes first becomes the chat's administrator: as after every `up`, that is the permanent one.
    made.enter("admin-user", "correct horse battery")
    for job in up.trial.runtime.after_realm:
        assert "put right: account (no PKCE,offline tokens)" in up.trial.run(job)
    return made


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """The password that was printed."""
    found = re.search(r"password\s+(\S+)", capsys.readouterr().out)
    assert found
    return found.group(1)


CHOSEN = "Anna's own: correct horse 1"


class TestPeople:
    """In the order of a life."""

    def test_a_second_up_and_a_refresh_change_nothing(self, realm: Realm) -> None:
        for result in (realm.project.up(), realm.project.refresh(), realm.project.up(), realm.project.preview()):
            assert result.quiet, str(result)

    def test_each_has_the_roles_up_to_their_own(self, realm: Realm) -> None:
        told = {name: realm.claims(name) for name in ("anna", "ben", "cara.x", "admin-user")}
        roles = {name: sorted(claims["roles"]) for name, claims in told.items()}
        assert roles == {
            "anna": ["editor", "user", "viewer"],
            "ben": ["user", "viewer"],
            "cara.x": ["admin", "editor", "user", "viewer"],
            "admin-user": ["admin", "editor", "user", "viewer"],
        }
        assert sorted(told["anna"]["groups"]) == ["editors", "research", "users"]
        assert sorted(told["ben"]["groups"]) == ["users", "viewers"]
        assert (told["anna"]["given_name"], told["anna"]["family_name"]) == ("Anna", "O'Hara-Müller")
        assert told["anna"]["email_verified"] is True

    def test_somebody_made_by_hand_has_what_they_had(self, realm: Realm) -> None:
        with realm.admin() as admin:
            admin._call("POST", "/users", json={"username": "hand", "email": "h@x.example", "enabled": True})
        assert realm.claims("hand")["roles"] == ["user"]
        assert realm.claims("hand")["groups"] == ["users"]

    def test_the_first_password_is_shown_once_and_must_be_changed(
        self, realm: Realm, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert realm.kit("password", "anna") == 0
        stale = shown(capsys)
        assert realm.kit("password", "anna") == 0
        given = shown(capsys)
        assert given != stale and len(given) >= 12
        with pytest.raises(ProofError, match="did not let the user in"):
            frontdoor.log_in(realm.browser(), realm.chat + LOGIN_PATH, realm.up.outputs.issuer, "anna", stale)
        session = realm.first_login("anna", given, CHOSEN)
        me = session.get("/api/v1/auths/").json()
        assert (me["email"], me["role"]) == ("anna@home.example", "user")
        assert given not in json.dumps(realm.project.export()) and given not in json.dumps(realm.project.outputs())

    def test_a_password_of_ones_own_is_never_shown_or_changed(
        self, realm: Realm, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(KitError, match="password of their own"):
            realm.kit("password", "anna")
        assert realm.kit("list", "") == 0
        listed = capsys.readouterr().out
        assert re.search(r"anna .* configuration .*their own", listed) and re.search(r"ben .*none yet", listed)
        assert re.search(r"hand .*by hand", listed)
        for result in (realm.project.up(), realm.project.refresh(), realm.project.up()):
            assert result.ok
        assert realm.enter("anna", CHOSEN).get("/api/v1/auths/").status_code == 200

    def test_an_edit_keeps_what_is_theirs(self, realm: Realm, capsys: pytest.CaptureFixture[str]) -> None:
        """Another address and role: the password, the groups given by hand and what they are asked for stay."""
        assert realm.kit("password", "ben") == 0
        given = shown(capsys)
        with realm.admin() as admin:
            call = admin._call
            anna = admin.user("anna")
            choir = next(g for g in call("GET", "/groups", params={"search": "choir"}).json())
            call("PUT", f"/users/{anna['id']}/groups/{choir['id']}")
        ben = {**BEN, "email": "ben@elsewhere.example"}
        anna = {**ANNA, "role": "viewer", "lastName": "Other"}
        assert realm.bring_up(people=[anna, ben, CARA]).ok
        assert sorted(realm.claims("anna")["roles"]) == ["user", "viewer"]
        assert sorted(realm.claims("anna")["groups"]) == ["choir", "research", "users", "viewers"]
        assert realm.project.refresh().ok
        assert realm.project.up().quiet
        assert realm.claims("anna")["groups"].count("choir") == 1
        assert realm.enter("anna", CHOSEN).get("/api/v1/auths/").status_code == 200
        # What was given must still be changed at the first login, and is.
        realm.first_login("ben", given, "Ben's own: battery staple 2")

    def test_a_logout_at_the_provider_ends_every_session_in_the_chat(self, realm: Realm) -> None:
        here, there = realm.enter("anna", CHOSEN), realm.enter("anna", CHOSEN)
        logins.leave(here, realm.up.outputs.issuer, "open-webui")
        took = [_ended(session) for session in (here, there)]
        print(f"after a logout at the identity provider: {[f'{1000 * each:.0f} ms' for each in took]}")
        assert max(took) < 5
        assert frontdoor.login_form(here.get(realm.chat + LOGIN_PATH), realm.up.outputs.issuer)

    def test_a_logout_in_one_app_ends_the_session_in_the_other(self, realm: Realm) -> None:
        issuer, api = realm.up.outputs.issuer, realm.up.outputs.urls["api"]
        chat = realm.enter("anna", CHOSEN)
        page = chat.get(f"{api}/me/login")
        assert "Keys for the unified API" in page.text
        assert chat.get(f"{api}/me/keys", headers={"Authorization": ""}).status_code == 200
        # Out of the API: Keycloak asks, tells the chat, and leads back to where it began.
        page = chat.get(f"{api}/me/logout")
        done = logins.confirm(chat, page)
        assert frontdoor.login_form(done, issuer), done.url
        print(f"out of the chat after a logout at the API: {1000 * _ended(chat):.0f} ms")
        # Out of the chat: the API knows it, though its cookie is still there.
        chat = realm.enter("anna", CHOSEN)
        chat.get(f"{api}/me/login")
        assert chat.get(f"{api}/me/keys", headers={"Authorization": ""}).status_code == 200
        time.sleep(1.1)  # a session begun in the second of a logout ends with it
        chat.get(chat.post("/api/v1/auths/signout").json()["redirect_url"], follow_redirects=False)
        assert chat.get(f"{api}/me/keys", headers={"Authorization": ""}).status_code == 401

    @pytest.mark.parametrize("token", ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."])
    def test_nobody_else_logs_people_out(self, realm: Realm, token: str) -> None:
        with realm.browser() as stranger:
            for url in (
                f"{realm.chat}/oauth/backchannel-logout",
                realm.up.outputs.urls["api"] + "/me/backchannel-logout",
            ):
                assert stranger.post(url, data={"logout_token": token}).status_code == 400, url

    def test_signed_out_by_an_administrator(self, realm: Realm) -> None:
        session = realm.enter("anna", CHOSEN)
        begin = time.monotonic()
        assert realm.kit("logout", "anna") == 0
        _ended(session)
        print(f"./kit people logout: {1000 * (time.monotonic() - begin):.0f} ms")

    def test_a_logout_in_the_chat_ends_the_providers_session(self, realm: Realm) -> None:
        session = realm.enter("anna", CHOSEN)
        answer = session.post("/api/v1/auths/signout").json()
        page = session.get(answer["redirect_url"])
        assert str(page.url).startswith(realm.chat), page.url
        assert frontdoor.login_form(session.get(realm.chat + LOGIN_PATH), realm.up.outputs.issuer)

    def test_locked_out(self, realm: Realm) -> None:
        session = realm.enter("anna", CHOSEN)
        locked = {**ANNA, "role": "viewer", "lastName": "Other", "enabled": False}
        assert realm.bring_up(people=[locked, realm.config["people"][1], CARA]).ok
        from stack import plan as planning
        from stack import targets
        from stack.catalog import discover

        settings = load(STACK, realm.config)
        plan = planning.build(settings, targets.profile(settings), discover())
        people.sign_out_locked(plan, realm.up.outputs.to_dict())
        _ended(session)
        with pytest.raises(ProofError, match="did not let the user in"):
            frontdoor.log_in(realm.browser(), realm.chat + LOGIN_PATH, realm.up.outputs.issuer, "anna", CHOSEN)
        with pytest.raises(KitError, match="locked out"):
            realm.kit("password", "anna", reset=True)
        assert realm.bring_up(people=[{**locked, "enabled": True}, realm.config["people"][1], CARA]).ok
        assert realm.enter("anna", CHOSEN).get("/api/v1/auths/").status_code == 200

    def test_a_forgotten_password_is_made_anew_by_name(self, realm: Realm, capsys: pytest.CaptureFixture[str]) -> None:
        session = realm.enter("anna", CHOSEN)
        assert realm.kit("password", "anna", reset=True) == 0
        _ended(session)
        realm.first_login("anna", shown(capsys), CHOSEN + " again")

    def test_nobody_is_deleted_by_leaving_the_configuration(self, realm: Realm) -> None:
        everybody = realm.config["people"]
        refused = realm.bring_up(people=everybody[1:], groups=["choir"])
        assert not refused.ok
        assert any("protected" in error for error in refused.errors), str(refused)
        assert realm.claims("anna")
        deployment = realm.project.export()["deployment"]
        assert set(left(deployment)) == {"anna", "ben", "cara.x", "research", "choir"}
        from stack import plan as planning
        from stack import targets
        from stack.catalog import discover

        settings = load(STACK, realm.config)
        plan = planning.build(settings, targets.profile(settings), discover())
        with pytest.raises(KitError, match="anna, research left the configuration") as caught:
            refuse_to_forget(deployment, plan)
        assert "./kit people remove anna" in str(caught.value.fix)
        # By name, they are: the protection of those two goes, and nobody else's.
        for urns in (left(deployment)["anna"], left(deployment)["research"]):
            for urn in urns:
                realm.project._cli("state", "unprotect", urn, "--stack", "test", "--yes")
        gone = realm.bring_up()
        assert gone.ok, str(gone)
        with realm.admin() as admin:
            assert admin.user("anna") is None
            assert {"ben", "cara.x", "hand", "admin-user"} <= {user["username"] for user in admin.users()}
        assert realm.project.up().quiet

    def test_clients_let_in_by_code_with_pkce_at_exact_addresses_only(self, realm: Realm) -> None:
        with realm.admin() as admin:
            found = {each["clientId"]: each for each in admin._call("GET", "/clients").json()}
        for planned in clients(realm.up.plan):
            client = found[planned.client_id]
            off = ("implicitFlowEnabled", "directAccessGrantsEnabled", "serviceAccountsEnabled", "publicClient")
            assert not any(client[name] for name in off), client
            assert client["fullScopeAllowed"] is False
            attributes = client["attributes"]
            assert attributes["pkce.code.challenge.method"] == "S256"
            assert attributes.get("oauth2.device.authorization.grant.enabled") in (None, "false")
            assert client["redirectUris"] == list(planned.redirect_uris)
            assert attributes["post.logout.redirect.uris"] == "##".join(planned.post_logout_redirect_uris)
            assert attributes["backchannel.logout.url"] == planned.backchannel_logout_url

    def test_a_redirect_to_another_host_is_refused(self, realm: Realm) -> None:
        issuer = realm.up.outputs.issuer
        query = {"client_id": "open-webui", "response_type": "code", "scope": "openid"}
        with realm.browser() as visitor:
            for uri in (
                "https://evil.example/oauth/oidc/callback",
                f"{realm.chat}/oauth/oidc/callback/../x",
                realm.chat,
            ):
                answer = visitor.get(f"{issuer}/protocol/openid-connect/auth", params={**query, "redirect_uri": uri})
                # Some look like an attack to the firewall already.
                by_issuer = answer.status_code == 400 and "redirect_uri" in answer.text
                assert by_issuer or (answer.status_code == 403 and waf.REFUSED in answer.headers), uri
            leaving = {"client_id": "open-webui", "post_logout_redirect_uri": "https://evil.example/"}
            answer = visitor.get(f"{issuer}/protocol/openid-connect/logout", params=leaving)
            assert answer.status_code == 400 or waf.REFUSED in answer.headers, answer.url

    def test_inside_the_chat_a_viewer_may_not_what_an_administrator_may(self, realm: Realm) -> None:
        with realm.admin() as admin:
            for name in ("ben", "cara.x"):
                admin.set_password(admin.user_id(name), CHOSEN)
        for name, role, status in (("ben", "user", 401), ("cara.x", "admin", 200)):
            session = realm.enter(name, CHOSEN)
            assert session.get("/api/v1/auths/").json()["role"] == role
            for path in ("/api/v1/users/", "/api/v1/auths/admin/config", "/api/v1/configs/export"):
                assert session.get(path).status_code == status, f"{name} {path}"

    def test_kcwarden_finds_nothing(self, realm: Realm, tmp_path: Path) -> None:
        """The rules of a tool made for it, from MEDIUM on, over the realm as it stands: no exception for any client."""
        with realm.admin() as admin:
            exported = admin._call(
                "POST", "/partial-export", params={"exportClients": "true", "exportGroupsAndRoles": "true"}
            ).json()
        file = tmp_path / "realm.json"
        file.write_text(json.dumps(exported), encoding="utf-8")
        found = _kcwarden(file)
        # Whether the server is the newest it asks the internet: the lock of images answers that, and `./kit images`.
        told = [
            f"{each['severity']} {each['entity']}: {each['short_description']}"
            for each in found
            if each["reporting_auditor"] != "KeycloakVersionShouldBeUpToDate"
        ]
        assert told == []

    def test_its_own_clients_lose_what_nobody_needs_and_nothing_else(self, realm: Realm) -> None:
        """However often the job runs, and whoever gave it back in between."""
        job = realm.up.job("keycloak-realm")
        with realm.admin() as admin:

            def looks() -> dict[str, Any]:
                return {each["clientId"]: each for each in admin._call("GET", "/clients").json()}

            before = looks()
            assert realm.up.trial.run(job).strip() == "Keycloak's own clients have what they need and no more"
            assert looks() == before
            scopes = {each["name"]: each["id"] for each in admin._call("GET", "/client-scopes").json()}
            for name in ("admin-cli", "broker", "account"):
                path = f"/clients/{before[name]['id']}"
                kind = "default" if name == "account" else "optional"
                admin._call("PUT", f"{path}/{kind}-client-scopes/{scopes['offline_access']}")
            changed = {**before["admin-cli"], "directAccessGrantsEnabled": True}
            changed.pop("optionalClientScopes")
            admin._call("PUT", f"/clients/{changed['id']}", json=changed)
            account = before["account"]
            without = {**account["attributes"], "pkce.code.challenge.method": ""}
            admin._call("PUT", f"/clients/{account['id']}", json={"clientId": "account", "attributes": without})
            said = realm.up.trial.run(job)
            for words in ("account (no PKCE,", "admin-cli (password grant,", "broker (offline tokens)"):
                assert words in said, said
            assert looks() == before

    def test_who_was_given_the_realms_management_by_hand_is_seen(self, realm: Realm) -> None:
        """A role of realm-management: to a person, to a group, inside a role; and permissions without any role."""
        holds, said = realm.up.prove("keycloak")
        assert "nobody in the realm manages it" in said
        assert "can be changed by" not in said
        with realm.admin() as admin:
            call = admin._call
            management = call("GET", "/clients", params={"clientId": "realm-management"}).json()[0]["id"]
            role = call("GET", f"/clients/{management}/roles/manage-users").json()
            user = admin.user_id("hand")
            group = next(each["id"] for each in call("GET", "/groups").json() if each["name"] == "editors")
            call("POST", "/roles", json={"name": "helper"})
            helper = call("GET", "/roles/helper").json()
            body = admin.realm()
            steps: list[tuple[str, tuple[str, str, Any], tuple[str, str, Any]]] = [
                (
                    "user hand (manage-users)",
                    ("POST", f"/users/{user}/role-mappings/clients/{management}", [role]),
                    ("DELETE", f"/users/{user}/role-mappings/clients/{management}", [role]),
                ),
                (
                    "group editors (manage-users)",
                    ("POST", f"/groups/{group}/role-mappings/clients/{management}", [role]),
                    ("DELETE", f"/groups/{group}/role-mappings/clients/{management}", [role]),
                ),
                (
                    "role helper",
                    ("POST", f"/roles-by-id/{helper['id']}/composites", [role]),
                    ("DELETE", f"/roles-by-id/{helper['id']}/composites", [role]),
                ),
                (
                    "permissions of administrators",
                    ("PUT", "", {**body, "adminPermissionsEnabled": True}),
                    ("PUT", "", {**body, "adminPermissionsEnabled": False}),
                ),
            ]
            for words, do, undo in steps:
                call(do[0], do[1], json=do[2])
                try:
                    holds, said = realm.up.prove("keycloak")
                    assert not holds and words in said, said
                finally:
                    call(undo[0], undo[1], json=undo[2])
            call("DELETE", "/roles/helper")


def _kcwarden(realm: Path) -> list[dict[str, Any]]:
    """What the auditor finds from MEDIUM on."""
    program = installed(KCWARDEN, "kcwarden")
    # The vendored check of the newest release asks the internet, which has to fail at once and not after retries.
    environment = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:9", "HOME": str(realm.parent)}
    argv = [str(program), "audit", "--format", "json", "--min-severity", "MEDIUM", str(realm)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def _ended(session: httpx.Client) -> float:
    """How many seconds until the chat no longer knows the session."""
    begin = time.monotonic()
    eventually(lambda: session.get("/api/v1/auths/").status_code == 401, 30)
    return time.monotonic() - begin
