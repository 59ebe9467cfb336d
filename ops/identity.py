"""The realm's administration, as far as day-two work needs it: throw-away users, and a session as somebody."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import httpx

from ops import frontdoor
from stack.outputs import StackOutputs
from stack.proofs.context import Person, ProofError

_KINDS = {"otp": "the authenticator app", "webauthn": "the passkey", "webauthn-passwordless": "the passkey"}


@dataclass
class Administration:
    """The admin API, through `client`, at `base` (no trailing slash), as the stack's service client."""

    client: httpx.Client
    base: str
    outputs: StackOutputs
    _token: str = ""
    _until: float = 0.0
    _sessions: list[str] = field(default_factory=list[str])

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

    def remove(self, user_id: str) -> None:
        self._call("DELETE", f"/users/{user_id}", allow=(404,))

    def user_id(self, username: str) -> str:
        """The id of the user of exactly that name; ProofError when there is none."""
        users: list[dict[str, Any]] = self._call("GET", "/users", params={"username": username, "exact": "true"}).json()
        if not users:
            raise ProofError(f"the realm has no user {username}")
        return str(users[0]["id"])

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
        self._call("POST", f"/users/{user_id}/logout")
        return taken

    def become(self, username: str, visitor: httpx.Client) -> None:
        """Give `visitor` a session as this user, whose password and second factor stay their own business."""
        answer = self._call("POST", f"/users/{self.user_id(username)}/impersonation", json={})
        host = httpx.URL(self.outputs.issuer).host
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel.value:
                    visitor.cookies.set(name, morsel.value, domain=host, path=morsel["path"] or "/")
                if name == "KEYCLOAK_IDENTITY" and morsel.value:
                    self._sessions.append(_session_id(morsel.value))

    def leave(self) -> None:
        """End every session that become() made."""
        while self._sessions:
            self._call("DELETE", f"/sessions/{self._sessions.pop()}", allow=(404,))

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
            answer = self.client.post(
                f"{self.base}/realms/master/protocol/openid-connect/token",
                data={
                    "grant_type": "client_credentials",
                    "client_id": self.outputs.admin_client_id,
                    "client_secret": self.outputs.admin_client_secret,
                },
            )
            if not answer.is_success:
                raise ProofError(f"the stack's service client cannot log in: {answer.status_code} {answer.text[:200]}")
            granted: dict[str, Any] = answer.json()
            self._token = granted["access_token"]
            self._until = time.monotonic() + granted["expires_in"] / 2
        return self._token


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
