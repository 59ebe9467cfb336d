"""A realm with its clients over the admin API, as the components make it: for trials without Pulumi."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from components.flows import BROWSER, DIRECT_GRANT, FLOWS, SECOND_FACTOR_ROLE, Step
from stack.derive.oidc import Audience, ClientPlan
from stack.realm import ADMIN_GROUP

Call = Callable[..., httpx.Response]


def make(
    base: str,
    ca_pem: str,
    credentials: tuple[str, str],
    realm: str,
    clients: Sequence[tuple[ClientPlan, str]],
    *,
    face: Mapping[str, str],
) -> None:
    """The realm, each client with its secret, and `admin-user`. Replaces a realm of that name. face: how it looks."""
    import ssl

    with httpx.Client(verify=ssl.create_default_context(cadata=ca_pem), timeout=300, trust_env=False) as http:
        token = http.post(
            f"{base}/realms/master/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", "client_id": credentials[0], "client_secret": credentials[1]},
        )
        http.headers["Authorization"] = f"Bearer {token.raise_for_status().json()['access_token']}"

        def call(method: str, path: str, json: Any = None) -> httpx.Response:
            return http.request(method, f"{base}/admin/realms{path}", json=json)

        call("DELETE", f"/{realm}")
        call("POST", "", {"realm": realm, "enabled": True, "sslRequired": "all", **face}).raise_for_status()
        new_token = http.post(
            f"{base}/realms/master/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", "client_id": credentials[0], "client_secret": credentials[1]},
            headers={"Authorization": ""},
        )
        http.headers["Authorization"] = f"Bearer {new_token.raise_for_status().json()['access_token']}"
        logins(call, realm)
        call(
            "POST",
            f"/{realm}/users",
            {
                "username": "admin-user",
                "email": "admin@kit.localhost",
                "emailVerified": True,
                "firstName": "Admin",
                "lastName": "User",
                "enabled": True,
                "credentials": [{"type": "password", "value": "correct horse", "temporary": False}],
            },
        ).raise_for_status()
        admin = call("GET", f"/{realm}/users?username=admin-user&exact=true").json()[0]["id"]
        default = call("GET", f"/{realm}").json()["defaultRole"]["id"]
        for client, secret in clients:
            created = call(
                "POST",
                f"/{realm}/clients",
                {
                    "clientId": client.client_id,
                    "secret": secret,
                    "rootUrl": client.root_url,
                    "redirectUris": list(client.redirect_uris),
                    "webOrigins": list(client.web_origins),
                    "publicClient": False,
                    "standardFlowEnabled": True,
                    "directAccessGrantsEnabled": False,
                    "attributes": {
                        "pkce.code.challenge.method": "S256",
                        "post.logout.redirect.uris": "##".join(client.post_logout_redirect_uris),
                        "backchannel.logout.url": client.backchannel_logout_url,
                        "backchannel.logout.session.required": "true",
                    },
                    "protocolMappers": [
                        {
                            "name": "roles",
                            "protocol": "openid-connect",
                            "protocolMapper": "oidc-usermodel-client-role-mapper",
                            "config": {
                                "usermodel.clientRoleMapping.clientId": client.client_id,
                                "claim.name": "roles",
                                "multivalued": "true",
                                "jsonType.label": "String",
                                "id.token.claim": "true",
                                "access.token.claim": "true",
                                "userinfo.token.claim": "true",
                            },
                        }
                    ],
                },
            )
            internal = created.raise_for_status().headers["location"].rsplit("/", 1)[-1]
            for role in client.roles:
                call("POST", f"/{realm}/clients/{internal}/roles", {"name": role.name}).raise_for_status()
                found = call("GET", f"/{realm}/clients/{internal}/roles/{role.name}").json()
                if role.audience is Audience.EVERYBODY:
                    call("POST", f"/{realm}/roles-by-id/{default}/composites", [found]).raise_for_status()
                else:
                    call("POST", f"/{realm}/users/{admin}/role-mappings/clients/{internal}", [found]).raise_for_status()


def logins(call: Call, realm: str) -> None:
    """The flows that people log in by, as components/flows.py makes them, and the group that it asks more of."""
    base = f"/{realm}"
    call("POST", f"{base}/roles", {"name": SECOND_FACTOR_ROLE}).raise_for_status()
    role = call("GET", f"{base}/roles/{SECOND_FACTOR_ROLE}").json()
    group = call("POST", f"{base}/groups", {"name": ADMIN_GROUP}).raise_for_status()
    call("POST", f"{base}/groups/{_made(group)}/role-mappings/realm", [role]).raise_for_status()
    for alias in (BROWSER, DIRECT_GRANT):
        flow = {"alias": alias, "providerId": "basic-flow", "topLevel": True, "builtIn": False}
        call("POST", f"{base}/authentication/flows", flow).raise_for_status()
        _steps(call, base, alias, FLOWS[alias][1])
    call("PUT", base, {"browserFlow": BROWSER, "directGrantFlow": DIRECT_GRANT}).raise_for_status()


def _steps(call: Call, base: str, parent: str, steps: Sequence[Any]) -> None:
    flows = f"{base}/authentication/flows"
    for index, step in enumerate(steps, start=1):
        executions = f"{flows}/{parent}/executions"
        if isinstance(step, Step):
            made = call("POST", f"{executions}/execution", {"provider": step.authenticator}).raise_for_status()
            execution = _made(made)
        else:
            sub = {"alias": step.alias, "type": "basic-flow", "provider": "", "description": ""}
            flow = _made(call("POST", f"{executions}/flow", sub).raise_for_status())
            execution = next(each["id"] for each in call("GET", executions).json() if each.get("flowId") == flow)
        said = {"id": execution, "requirement": step.requirement, "priority": 10 * index}
        call("PUT", executions, said).raise_for_status()
        if not isinstance(step, Step):
            _steps(call, base, step.alias, step.steps)
        elif step.config:
            config = {"alias": f"{parent}-{step.authenticator}", "config": dict(step.config)}
            call("POST", f"{base}/authentication/executions/{execution}/config", config).raise_for_status()


def _made(answer: httpx.Response) -> str:
    return answer.headers["location"].rsplit("/", 1)[-1]
