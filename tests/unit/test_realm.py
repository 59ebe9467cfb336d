"""What may be said about the realm, what is refused, and what follows for the plan. No engine, no server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ops import flowguard, frontdoor
from ops.console import KitError
from ops.identity import Administration
from stack import plan as planning
from stack import realm, targets
from stack.catalog import discover, provided_keys
from stack.model import SpecError, Target, Zone
from stack.proofs import keycloak as proofs
from stack.proofs import totp
from stack.proofs.context import ProofError
from stack.settings import Settings, load

OIDC = (
    "oidc = kit issuer=https://login.example/realms/x authorize=https://login.example/a token=https://login.example/t"
    " keys=https://login.example/k name=Our_company"
)


def problems(**raw: object) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        load("dev", {"target": "dev", **raw}, profiles=("chat",))
    return [(problem.where, problem.what, problem.fix) for problem in caught.value.problems]


def test_what_is_said_about_providers_and_mail_is_taken() -> None:
    said = load(
        "dev",
        {
            "target": "dev",
            "identityProviders": ["google = 12.apps.example", "github=abc", OIDC],
            "mailServer": "starttls://me@home.example@mail.example.org:587",
            "mailFrom": "login@home.example",
            "secondFactor": "everyone",
        },
        profiles=("chat",),
    )
    assert [each.secret_key for each in said.identity_providers.values()] == [
        "googleClientSecret",
        "githubClientSecret",
        "oidcClientSecret",
    ]
    company = said.identity_providers["oidc"]
    assert (company.client_id, company.name) == ("kit", "Our company")
    assert company.endpoints["keys"] == "https://login.example/k"
    assert said.mail_server == realm.MailServer(
        host="mail.example.org", port=587, tls="starttls", user="me@home.example"
    )
    assert said.second_factor is realm.SecondFactor.EVERYONE


REFUSED: list[tuple[str, object, str]] = [
    ("identityProviders", ["facebook = x"], "is of no kind of provider that there is"),
    ("identityProviders", ["gogle = x"], 'Did you mean "google"'),
    ("identityProviders", ["google"], "is not KIND = CLIENT_ID"),
    ("identityProviders", ["google ="], "says no client ID"),
    ("identityProviders", ["google = x issuer=https://y"], "the addresses of google are known"),
    ("identityProviders", ["oidc = kit"], "lacks issuer= (issuer), authorize= (authorization_endpoint)"),
    (
        "identityProviders",
        ["oidc = kit issuer=http://x authorize=https://x token=https://x keys=https://x"],
        "no HTTPS",
    ),
    ("identityProviders", ["oidc = kit isuer=https://x"], "is none of"),
    ("identityProviders", ["google = a", "google = b"], "stands there twice"),
    ("mailServer", "mail.example.org", "is no mail server"),
    ("mailServer", "smtp://mail.example.org:25", "is no mail server"),
    ("mailServer", "tls://mail.example.org:99999", "is no mail server"),
    ("secondFactor", "always", "is no choice"),
    ("passwordLength", 4, "8 to 24"),
    ("loginFailures", 0, "3 to 100"),
    ("tokenMinutes", 90, "1 to 60"),
    ("eventDays", 0, "1 to 3,650"),
    ("loginLanguage", "klingon", "is no language"),
    ("loginTitle", "My: stack", "is no title"),
    ("loginTitle", "<b>home</b>", "is no title"),
    ("loginTitle", " home", "is no title"),
    ("loginTitle", "x" * 61, "is no title"),
    ("loginTheme", "dark", "is no theme"),
]


@pytest.mark.parametrize(("key", "value", "fix"), REFUSED)
def test_refused(key: str, value: object, fix: str) -> None:
    more = {"mailFrom": "login@home.example"} if key == "mailServer" else {}
    found = [problem for problem in problems(**{key: value, **more}) if problem[0].startswith(key)]
    assert len(found) == 1
    assert fix in found[0][2]


def test_everything_wrong_about_times_and_mail_is_said_at_once() -> None:
    found = problems(
        tokenMinutes=30,
        sessionIdleMinutes=20,
        sessionMaxMinutes=10,
        mailServer="tls://mail.example.org:465",
        secondFactor="admin",
    )
    assert [where for where, _, _ in found] == ["secondFactor", "tokenMinutes", "sessionIdleMinutes", "mailFrom"]
    assert "is longer than sessionMaxMinutes, which is 10" in found[2][2]
    assert [where for where, _, _ in problems(mailFrom="a@b.c")] == ["mailServer"]


# ------------------------------------------------------------------------------------------------------- the plan


def planned(provided: frozenset[str] = frozenset(), **changes: Any) -> planning.Plan:
    settings = Settings(stack="dev", target=Target.DEV, models=("llama3.2:1b",), provided_secrets=provided, **changes)
    return planning.build(settings, targets.profile(settings), discover())


PROVIDERS = dict(map(realm.parse_provider, ["google = x", OIDC]))
MAIL = realm.parse_mail("starttls://me@mail.example.org:587")


def test_the_login_goes_outside_only_where_it_has_to() -> None:
    def zones(plan: planning.Plan) -> frozenset[Zone]:
        return plan.service("keycloak").spec.container().zones

    assert Zone.EGRESS not in zones(planned())
    assert Zone.EGRESS in zones(planned(frozenset({"mailPassword"}), mail_server=MAIL, mail_from="a@b.c"))
    both = planned(frozenset({"googleClientSecret", "oidcClientSecret"}), identity_providers=PROVIDERS)
    assert Zone.EGRESS in zones(both)
    assert {str(secret.key) for secret in both.secrets} >= {"keycloak/google-client", "keycloak/oidc-client"}
    assert "keycloak/github-client" not in {str(secret.key) for secret in both.secrets}


def test_missing_secrets_are_refused_together_with_the_commands_that_set_them() -> None:
    with pytest.raises(SpecError) as caught:
        planned(identity_providers=PROVIDERS, mail_server=MAIL, mail_from="a@b.c")
    said = caught.value.render()
    for key in ("googleClientSecret", "oidcClientSecret", "mailPassword"):
        assert f"pulumi config set --secret {key}" in said
    assert len(caught.value.problems) == 3


def test_the_keys_of_secrets_that_a_choice_brings_are_known() -> None:
    assert provided_keys(discover()) >= {
        "googleClientSecret",
        "githubClientSecret",
        "oidcClientSecret",
        realm.MAIL_PASSWORD_KEY,
    }


# --------------------------------------------------------------------------------------------------------- codes


# RFC 6238, appendix B, the last six of its eight digits.
@pytest.mark.parametrize(
    ("at", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_the_standard(at: int, code: str) -> None:
    assert totp.code(b"12345678901234567890", at) == code


def test_an_app_gives_no_code_twice() -> None:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    app = totp.Authenticator(b"key", lambda: now[0], sleep)
    first, second = app.next(), app.next()
    assert first != second
    assert 1020 <= now[0] < 1021


# --------------------------------------------------------------------------------------------------------- clock


def test_a_clock_that_is_off_is_said() -> None:
    answer = httpx.Response(200, headers={"date": "Sat, 21 Nov 2026 20:00:00 GMT"})
    exact = 1795291200.0
    proofs.right_time(answer, exact + 5)
    proofs.right_time(httpx.Response(200))
    with pytest.raises(ProofError, match="7200 s ahead of"):
        proofs.right_time(answer, exact - 7200)
    with pytest.raises(ProofError, match="7200 s behind"):
        proofs.right_time(answer, exact + 7200)


# ---------------------------------------------------------------------------------------------- who manages the realm

MANAGEMENT = "m1"


class Realm:
    """What a proof is told of a realm in which nobody manages anything, but for `answers`."""

    def __init__(self, answers: dict[str, Any], **realm: Any) -> None:
        self._realm = realm
        self._answers: dict[str, Any] = {
            "/clients": [{"id": MANAGEMENT, "clientId": "realm-management"}, {"id": "c2", "clientId": "chat"}],
            f"/clients/{MANAGEMENT}/roles": [{"name": "manage-users"}, {"name": "realm-admin"}],
            "/roles": [{"id": "r1", "name": "admin"}, {"id": "r2", "name": "default-roles-kit", "composite": True}],
            **answers,
        }

    def step(self, title: str) -> None:
        pass

    def realm(self) -> dict[str, Any]:
        return self._realm

    def administered(self, path: str) -> Any:
        return self._answers.get(path.partition("?")[0])


def test_nobody_manages_the_realm() -> None:
    proofs.management(Realm({}))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("path", "said", "named"),
    [
        (f"/clients/{MANAGEMENT}/roles/manage-users/users", [{"username": "eve"}], r"user eve \(manage-users\)"),
        (f"/clients/{MANAGEMENT}/roles/realm-admin/groups", [{"name": "friends"}], r"group friends \(realm-admin\)"),
        (f"/roles-by-id/r2/composites/clients/{MANAGEMENT}", [{"name": "realm-admin"}], "role default-roles-kit"),
    ],
)
def test_whoever_manages_the_realm_is_named(path: str, said: list[dict[str, str]], named: str) -> None:
    with pytest.raises(ProofError, match=named):
        proofs.management(Realm({path: said}))  # pyright: ignore[reportArgumentType]


def test_a_role_of_a_client_that_contains_one_is_named() -> None:
    inside = {
        "/clients/c2/roles": [{"id": "r9", "name": "helper", "composite": True}],
        f"/roles-by-id/r9/composites/clients/{MANAGEMENT}": [{"name": "view-users"}],
    }
    with pytest.raises(ProofError, match="role helper"):
        proofs.management(Realm(inside))  # pyright: ignore[reportArgumentType]


def test_permissions_without_roles_are_named() -> None:
    with pytest.raises(ProofError, match="permissions of administrators"):
        proofs.management(Realm({}, adminPermissionsEnabled=True))  # pyright: ignore[reportArgumentType]


# --------------------------------------------------------------------------------------------------------- guard


class Bound:
    """What the realm says, time after time, and what was done meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *flows: str) -> None:
        self.flows = list(flows)
        self.done: list[str] = []

        def bound(*_: object) -> str:
            return self.flows.pop(0)

        def did(what: str) -> Callable[..., None]:
            return lambda *_, **__: self.done.append(what)

        monkeypatch.setattr(flowguard, "bound", bound)
        monkeypatch.setattr(flowguard, "refresh", did("refresh"))
        monkeypatch.setattr(flowguard.deploying, "update", did("update"))

    def hold(self) -> None:
        outputs = dict.fromkeys(
            [
                "caPem",
                "realm",
                "issuer",
                "adminUrl",
                "adminClientId",
                "adminClientSecret",
                "adminUser",
                "adminPassword",
            ],
            "x",
        )
        anything: Any = None
        flowguard.hold(anything, planned(), anything, {**outputs, "urls": {}}, anything, anything)


def test_the_flow_that_is_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Bound(monkeypatch, realm.BROWSER_FLOW)
    seen.hold()
    assert seen.done == []


def test_another_flow_is_said_and_ours_bound_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Bound(monkeypatch, "browser", realm.BROWSER_FLOW)
    seen.hold()
    assert seen.done == ["refresh", "update"]
    assert "'browser', which asks administrators for a password alone" in "".join(capsys.readouterr())


def test_a_flow_that_cannot_be_bound_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KitError, match="a password alone lets administrators in"):
        Bound(monkeypatch, "browser", "browser").hold()


# ---------------------------------------------------------------------------------------------------- forms, unlock


SETTINGS_PAGE = """
<form id="kc-totp-settings-form" action="/realms/kit/login-actions/required-action?x=1&amp;y=2" method="post">
<input type="text" id="totp" name="totp"><input type="hidden" name="totpSecret" value="abc&amp;d"></form>
"""
CODE_PAGE = '<form id="kc-otp-login-form" action="/realms/kit/login-actions/authenticate"><input name="otp"></form>'


def test_an_app_is_set_up_and_then_asked() -> None:
    issuer = "https://auth.kit.localhost/realms/kit"
    said: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        said.append(request.content)
        return httpx.Response(200, text="in")

    second = frontdoor.SecondFactor()
    with httpx.Client(transport=httpx.MockTransport(handle)) as visitor:
        for text in (SETTINGS_PAGE, CODE_PAGE):
            page = httpx.Response(200, text=text, request=httpx.Request("GET", f"{issuer}/login-actions/x"))
            if second.app:
                second.app = totp.Authenticator(second.app.key)  # of another half minute
            second.answer(visitor, page, issuer)
    assert second.app
    assert second.app.key == b"abc&d"
    assert b"totpSecret=abc%26d" in said[0]
    assert said[1].startswith(b"otp=")
    with pytest.raises(ProofError, match="not ours"):
        frontdoor.SecondFactor().answer(visitor, page, issuer)


def test_unlocking_takes_everything_but_the_password() -> None:
    calls: list[tuple[str, str]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append((request.method, request.url.path.rsplit("/realms/kit", 1)[-1]))
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": "t", "expires_in": 60})
        if request.url.path.endswith("/brute-force/users/u") and request.method == "GET":
            return httpx.Response(200, json={"disabled": True, "numFailures": 12})
        if request.url.path.endswith("/credentials"):
            return httpx.Response(
                200,
                json=[
                    {"id": "1", "type": "password"},
                    {"id": "2", "type": "otp", "userLabel": "phone"},
                    {"id": "3", "type": "webauthn"},
                ],
            )
        return httpx.Response(204)

    from tests.unit.test_proofs import OUTPUTS

    with httpx.Client(transport=httpx.MockTransport(handle)) as client:
        taken = Administration(client, "https://auth.kit.localhost", OUTPUTS).free("u")
    assert taken == ["the wait after wrong passwords", "the authenticator app phone", "the passkey without a name"]
    assert [path for method, path in calls if method == "DELETE"] == [
        "/attack-detection/brute-force/users/u",
        "/users/u/credentials/2",
        "/users/u/credentials/3",
    ]
    assert ("POST", "/users/u/logout") in calls
