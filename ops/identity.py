"""The realm's administration, as far as day-two work needs it: throw-away users, and a session as somebody."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import httpx

from stack.outputs import StackOutputs
from stack.proofs.context import Person, ProofError


@dataclass
class Administration:
    """The admin API, through `client`, at `base` (no trailing slash), as the stack's service client."""

    client: httpx.Client
    base: str
    outputs: StackOutputs
    _token: str = ""
    _until: float = 0.0
    _sessions: list[str] = field(default_factory=list[str])

    def create(self, person: Person, password: str) -> None:
        """A user that may log in at once and is asked for nothing more."""
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

    def become(self, username: str, visitor: httpx.Client) -> None:
        """Give `visitor` a session as this user, whose password and second factor stay their own business."""
        answer = self._call("GET", "/users", params={"username": username, "exact": "true"})
        users: list[dict[str, Any]] = answer.json()
        if not users:
            raise ProofError(f"the realm has no user {username}")
        answer = self._call("POST", f"/users/{users[0]['id']}/impersonation", json={})
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


def _session_id(token: str) -> str:
    """The session that a token of the issuer's own cookie belongs to."""
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return str(claims.get("sid") or claims.get("session_state"))
