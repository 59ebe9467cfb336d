"""`./kit up --adopt`: a state that is new takes over what an older, lost one made, and nothing of it is lost.

Volumes are taken by name, the jobs of the database and of Keycloak give them this state's credentials. What is left
is the realm: Pulumi would make it anew, and Keycloak refuses what is there. So everything but the realm is brought up
first; then whatever of the realm is there already is imported; the `up` that follows brings it to the configuration.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from ops import console, deploying
from ops.console import KitError
from ops.identity import Administration, administration
from ops.progress import Progress
from ops.pulumirun import Pulumi
from ops.session import Session
from stack.model import Role
from stack.outputs import StackOutputs
from stack.plan import Plan

REALM = "keycloak:index/realm:Realm"
# Ask KEYCLOAK for the JSON at a path below /admin/realms/<realm>; None when there is none.
Ask = Callable[[str], Any]


@dataclass(frozen=True)
class Planned:
    """Something that Pulumi would create, and what it says about it. `needs`: per property, the URNs it comes from."""

    urn: str
    type: str
    name: str
    parent: str
    provider: str
    inputs: Mapping[str, Any]
    needs: Mapping[str, tuple[str, ...]]


def realm(session: Session, pulumi: Pulumi, plan: Plan, progress: Progress, log: Path) -> StackOutputs | None:
    """Import what is there of the realm. The outputs where there was one, None where there is nothing to adopt."""
    if plan.provider(Role.IDENTITY) is None:
        return None
    without = ("--exclude", f"urn:**{REALM}**", "--exclude-dependents")
    deploying.update(session, pulumi, progress, log, f"stack {session.stack}, without its realm", *without)
    outputs = StackOutputs.from_dict(session.outputs(pulumi))
    with administration(plan, outputs) as admin:
        ask = asking(admin)
        if ask("") is None:
            return None
        with progress.step("looking at what is there of the realm"):
            steps = planned(json.loads(preview(pulumi)))
            found = ids(steps, outputs.realm, ask)
        with progress.step(f"taking over the realm: {len(found)} of {len(steps)}"):
            bring_in(session, pulumi, steps, found)
    return outputs


def password(plan: Plan, outputs: StackOutputs) -> None:
    """The first administrator gets the password of this state: nobody knows the one of the lost state."""
    with administration(plan, outputs) as admin:
        user = admin.found(outputs.admin_user).get(outputs.admin_user)
        if user:
            admin.set_password(user, outputs.admin_password)
            console.note(f"{outputs.admin_user} has a new password: ./kit status --show-login")


def preview(pulumi: Pulumi) -> str:
    """What Pulumi would do, as JSON."""
    config = str(pulumi.state.config_file)
    return pulumi.run("preview", "--json", "--stack", pulumi.state.stack, "--config-file", config)


def planned(preview: Mapping[str, Any]) -> dict[str, Planned]:
    """What of Keycloak would be created, by URN."""
    found: dict[str, Planned] = {}
    for step in preview.get("steps") or []:
        new = cast(dict[str, Any], step.get("newState") or {})
        if step.get("op") == "create" and str(new.get("type", "")).startswith("keycloak:"):
            found[step["urn"]] = Planned(
                urn=step["urn"],
                type=new["type"],
                name=step["urn"].rpartition("::")[2],
                parent=str(new.get("parent", "")),
                provider=str(new.get("provider", "")).rpartition("::")[0],
                inputs=new.get("inputs") or {},
                needs={key: tuple(urns) for key, urns in (new.get("propertyDependencies") or {}).items() if urns},
            )
    return found


def ids(steps: Mapping[str, Planned], realm: str, ask: Ask) -> dict[str, str]:
    """The import ids of those that are there, by URN. Parents are looked up before what is in them."""
    uuids: dict[str, str] = {}
    found: dict[str, str] = {}
    configs: dict[str, str] = {}  # of executions, by the execution

    def uuid(item: Planned, of: str) -> str:
        return next((uuids[urn] for urn in item.needs.get(of, ()) if urn in uuids), "")

    def note(item: Planned, entries: Any, key: str, value: object, path: str) -> None:
        for entry in entries or []:
            if entry.get(key) == value:
                uuids[item.urn] = entry["id"]
                found[item.urn] = f"{realm}/{path}{entry['id']}"

    for item in sorted(steps.values(), key=_rank):
        kind = item.type.rpartition(":")[2]
        if item.inputs.get("import"):
            continue  # the provider itself takes over what Keycloak made
        if item.type == REALM:
            found[item.urn] = realm
        elif kind == "Group":
            note(item, ask("/groups?max=1000"), "name", item.inputs.get("name"), "")
        elif kind == "User":
            name = item.inputs.get("username")
            note(item, ask(f"/users?exact=true&username={name}"), "username", name, "")
        elif kind == "Client":
            name = item.inputs.get("clientId")
            note(item, ask(f"/clients?clientId={name}"), "clientId", name, "")
        elif kind == "ClientScope":
            note(item, ask("/client-scopes"), "name", item.inputs.get("name"), "")
        elif kind == "Role":
            client = uuid(item, "clientId")
            if client or "clientId" not in item.needs:
                roles = ask(f"/clients/{client}/roles" if client else "/roles")
                note(item, roles, "name", item.inputs.get("name"), "")
        elif kind == "Flow":
            note(item, ask("/authentication/flows"), "alias", item.inputs.get("alias"), "")
        elif kind in ("Subflow", "Execution"):
            parent = _alias(item, steps)
            key, id_, name = ("displayName", "flowId", "alias") if kind == "Subflow" else _EXECUTION
            for entry in ask(f"/authentication/flows/{quote(parent, safe='')}/executions") or []:
                if entry.get("level") == 0 and entry.get(key) == item.inputs.get(name):
                    uuids[item.urn] = entry["id"]
                    found[item.urn] = f"{realm}/{parent}/{entry[id_]}"
                    configs[entry["id"]] = entry.get("authenticationConfig") or ""
        elif kind == "ExecutionConfig":
            execution = uuid(item, "executionId")
            if configs.get(execution):
                found[item.urn] = f"{realm}/{execution}/{configs[execution]}"
        elif kind.endswith("IdentityProvider"):
            alias = item.inputs.get("alias") or kind.removesuffix("IdentityProvider").lower()
            if ask(f"/identity-provider/instances/{alias}"):
                found[item.urn] = f"{realm}/{alias}"
        elif kind.endswith("ProtocolMapper"):
            for of, part in (("clientId", "clients"), ("clientScopeId", "client-scopes")):
                if owner := uuid(item, of):
                    mappers = ask(f"/{part}/{owner}/protocol-mappers/models")
                    path = f"{part.removesuffix('s')}/{owner}/"
                    note(item, mappers, "name", item.inputs.get("name"), path)
    return found


def _rank(item: Planned) -> tuple[int, str]:
    """The realm, then what others are in, then those."""
    kind = item.type.rpartition(":")[2]
    order = (("Realm",), ("Client", "ClientScope", "Group", "Flow"), ("Subflow",), ("Execution",))
    return (next((rank for rank, kinds in enumerate(order) if kind in kinds), len(order)), item.urn)


_EXECUTION = ("providerId", "id", "authenticator")


def _alias(item: Planned, steps: Mapping[str, Planned]) -> str:
    """The alias of the flow that something is a step of."""
    if alias := item.inputs.get("parentFlowAlias"):
        return str(alias)
    parents = (steps[urn] for urn in item.needs.get("parentFlowAlias", ()) if urn in steps)
    return next((str(parent.inputs.get("alias", "")) for parent in parents), "")


def import_file(steps: Mapping[str, Planned], found: Mapping[str, str]) -> dict[str, Any]:
    """What `pulumi import` reads: names for the URNs, and the resources."""
    names: dict[str, str] = {}
    resources: list[dict[str, str]] = []
    for urn in sorted(found, key=lambda urn: _rank(steps[urn])):
        item = steps[urn]
        entry = {"type": item.type, "name": item.name, "id": found[urn]}
        for role, of in (("parent", item.parent), ("provider", item.provider)):
            if of:
                names.setdefault(of, f"{role}-{len(names)}")
                entry[role] = names[of]
        resources.append(entry)
    return {"nameTable": {name: urn for urn, name in names.items()}, "resources": resources}


def bring_in(session: Session, pulumi: Pulumi, steps: Mapping[str, Planned], found: Mapping[str, str]) -> None:
    """Have Pulumi import them."""
    with tempfile.TemporaryDirectory(dir=session.state.directory) as directory:
        file = Path(directory) / "import.json"
        file.write_text(json.dumps(import_file(steps, found)), encoding="utf-8")
        flags = ("--yes", "--skip-preview", "--protect=false", "--generate-code=false", "--suppress-outputs")
        config = str(session.state.config_file)
        pulumi.run("import", "--file", str(file), *flags, "--stack", session.stack, "--config-file", config)


def asking(admin: Administration) -> Ask:
    """GET below the realm, None for what is not there."""

    def ask(path: str) -> Any:
        answer: httpx.Response = admin.get(path)
        if answer.status_code == 404:
            return None
        if not answer.is_success:
            raise KitError(f"Keycloak answered {answer.status_code} to {path or 'the realm'}.", "Run the same again.")
        return answer.json()

    return ask
