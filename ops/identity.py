"""The realm's administration, as far as day-two work needs it: throw-away users, a session as somebody, passwords."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import httpx

from ops import frontdoor
from stack import certificates
from stack.outputs import StackOutputs
from stack.plan import Plan
from stack.proofs.context import Person, ProofError

_KINDS = {"otp": "the authenticator app", "webauthn": "the passkey", "webauthn-passwordless": "the passkey"}


@dataclass
class Administration:
    """The admin API, through `client`, at `base` (no trailing slash), as the stack's service client."""

    client: httpx.Client
    base: str
    outputs: StackOutputs
    _bearer_token: str = ""
    _until: float = 0.0
    _sessions: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def realm(self) -> dict[str, Any]:
        """The realm: its rules, and the flows that are bound."""
        return self._call("GET", "").json()

    def create(self, person: Person, password: str, groups: Sequence[str] = ()) -> None:
        """A user that may log in at once and is asked for nothing more, in these groups beside everybody's."""
        self._call(
            "POST",
            "/users",
            json={
                "username": person.username,
                "email": person.email,
                "emailVerified": True,
                "firstName": "Proof",
                "lastName": "Of Use",
                "enabled": True,
                "requiredActions": [],
                "groups": [f"/{group}" for group in groups],
                "credentials": [{"type": "password", "value": password, "temporary": False}],
            },
        )

    def found(self, prefix: str) -> dict[str, str]:
        """Ids by name of the users whose names start with `prefix`."""
        answer = self._call(
            "GET", "/users", params={"search": f"{prefix}*", "max": "1000", "briefRepresentation": "true"}
        )
        users: list[dict[str, Any]] = answer.json()
        return {user["username"]: user["id"] for user in users if user["username"].startswith(prefix)}

    def get(self, path: str) -> httpx.Response:
        """What stands at a path below the realm, whatever the answer is but for a refusal."""
        return self._call("GET", path, allow=(404,))

    def set_password(self, user_id: str, password: str) -> None:
        """One that stays."""
        credential = {"type": "password", "value": password, "temporary": False}
        self._call("PUT", f"/users/{user_id}/reset-password", json=credential)

    def remove(self, user_id: str) -> None:
        self._call("DELETE", f"/users/{user_id}", allow=(404,))

    def user_id(self, username: str) -> str:
        """The id of the user of exactly that name; ProofError when there is none."""
        user = self.user(username)
        if user is None:
            raise ProofError(f"the realm has no user {username}")
        return str(user["id"])

    def free(self, user_id: str) -> list[str]:
        """Take away what keeps a person out who still knows the password; what that was.

        The second factors, and the wait after wrong passwords. Sessions end: somebody else may have one of them.
        """
        taken: list[str] = []
        locked: dict[str, Any] = self._call("GET", f"/attack-detection/brute-force/users/{user_id}").json()
        if locked.get("disabled") or locked.get("numFailures"):
            self._call("DELETE", f"/attack-detection/brute-force/users/{user_id}")
            taken.append("the wait after wrong passwords")
        credentials: list[dict[str, Any]] = self._call("GET", f"/users/{user_id}/credentials").json()
        for credential in credentials:
            if credential["type"] != "password":
                self._call("DELETE", f"/users/{user_id}/credentials/{credential['id']}")
                label = credential.get("userLabel") or "without a name"
                taken.append(f"{_KINDS.get(credential['type'], credential['type'])} {label}")
        self.sign_out(user_id)
        return taken

    def become(self, username: str, visitor: httpx.Client) -> None:
        """Give `visitor` a session as this user, whose password and second factor stay their own business."""
        user_id = self.user_id(username)
        answer = self._call("POST", f"/users/{user_id}/impersonation", json={})
        host = httpx.URL(self.outputs.issuer).host
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel.value:
                    visitor.cookies.set(name, morsel.value, domain=host, path=morsel["path"] or "/")
                if name == "KEYCLOAK_IDENTITY" and morsel.value:
                    self._sessions.append((user_id, _session_id(morsel.value)))

    def leave(self) -> None:
        """End every session that become() made, but those whose end an application would be told of.

        An application that hears of a logout ends all sessions of that person there, and the person behind this one
        did not log out. Nobody has the cookies of a session that is left; it ends by itself when it has idled.
        """
        while self._sessions:
            user_id, session_id = self._sessions.pop()
            sessions: list[dict[str, Any]] = self._call("GET", f"/users/{user_id}/sessions").json()
            names = next((session["clients"].values() for session in sessions if session["id"] == session_id), ())
            if not any(self._hears_of_logouts(name) for name in names):
                self._call("DELETE", f"/sessions/{session_id}", allow=(404,))

    def _hears_of_logouts(self, client_id: str) -> bool:
        found: list[dict[str, Any]] = self._call("GET", "/clients", params={"clientId": client_id}).json()
        return any((client.get("attributes") or {}).get("backchannel.logout.url") for client in found)

    # ---------------------------------------------------------------------------------------------------- people

    def user(self, username: str) -> dict[str, Any] | None:
        """A user as the admin API describes them; None when there is none of that name."""
        answer = self._call("GET", "/users", params={"username": username, "exact": "true"})
        users: list[dict[str, Any]] = answer.json()
        return users[0] if users else None

    def users(self) -> list[dict[str, Any]]:
        """Everybody, by name."""
        found: list[dict[str, Any]] = []
        while page := self._call("GET", "/users", params={"first": str(len(found)), "max": "500"}).json():
            found += page
        return found

    def groups(self, user_id: str) -> tuple[str, ...]:
        """Names of the groups a user is in."""
        found: list[dict[str, Any]] = self._call("GET", f"/users/{user_id}/groups", params={"max": "1000"}).json()
        return tuple(sorted(group["name"] for group in found))

    def has_password(self, user_id: str) -> bool:
        """Whether a user has any password, chosen or given."""
        found: list[dict[str, Any]] = self._call("GET", f"/users/{user_id}/credentials").json()
        return any(credential["type"] == "password" for credential in found)

    def give_password(self, user_id: str, password: str) -> None:
        """A password that must be changed at the next login. Second factors stay."""
        body = {"type": "password", "value": password, "temporary": True}
        self._call("PUT", f"/users/{user_id}/reset-password", json=body)

    def sign_out(self, user_id: str) -> None:
        """End every session of a user. Applications that listen are told."""
        self._call("POST", f"/users/{user_id}/logout", json={})

    def known(self) -> bool:
        """Whether the identity provider takes the stack's credential. ProofError when it answers neither way."""
        answer = self._token()
        if answer.status_code not in (200, 400, 401):
            raise ProofError(f"the identity provider answered {answer.status_code} to a login")
        return answer.is_success

    def _call(self, method: str, path: str, *, allow: tuple[int, ...] = (), **request: Any) -> httpx.Response:
        url = f"{self.base}/admin/realms/{self.outputs.realm}{path}"
        headers = {"Authorization": f"Bearer {self._bearer()}"}
        answer = self.client.request(method, url, headers=headers, **request)
        if not answer.is_success and answer.status_code not in allow:
            words = " ".join(answer.text.split())[:200]
            raise ProofError(f"the realm's administration answered {answer.status_code} to {method} {path}: {words}")
        return answer

    def _bearer(self) -> str:
        if time.monotonic() > self._until:
            answer = self._token()
            if not answer.is_success:
                raise ProofError(f"the stack's service client cannot log in: {answer.status_code} {answer.text[:200]}")
            granted: dict[str, Any] = answer.json()
            self._bearer_token = granted["access_token"]
            self._until = time.monotonic() + granted["expires_in"] / 2
        return self._bearer_token

    def _token(self) -> httpx.Response:
        return self.client.post(
            f"{self.base}/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.outputs.admin_client_id,
                "client_secret": self.outputs.admin_client_secret,
            },
        )


@contextmanager
def administration(plan: Plan, outputs: StackOutputs) -> Iterator[Administration]:
    """The administration of a stack that is up."""
    trusted = certificates.trusted_outside(plan.settings, outputs.ca_pem)
    with frontdoor.browser(plan.settings.domain, frontdoor.address_of(plan), trusted) as client:
        yield Administration(client, administered_at(outputs), outputs)


def administered_at(outputs: StackOutputs) -> str:
    """The base URL: the listener for this machine where it answers (local engine or tunnel), else the front door."""
    url = httpx.URL(outputs.admin_url)
    if frontdoor.answers(url.host, url.port or 443):
        return outputs.admin_url.rstrip("/")
    return outputs.issuer.split("/realms/")[0]


def _session_id(token: str) -> str:
    """The session that a token of the issuer's own cookie belongs to."""
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return str(claims.get("sid") or claims.get("session_state"))
