"""Before Pulumi works on a stack: locks of ended runs, operations cut short, containers removed or stopped by hand.

Pulumi does not look at what really runs. What differs is refreshed here, and nothing else: a refresh of everything
would ask Keycloak, which is of no use while its container is the one that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops import console
from ops.console import KitError
from ops.enginestate import Damage, compare, docker_resources, foreign, look
from ops.progress import Progress
from ops.pulumirun import PARALLEL, Pulumi, clear_stale_locks
from ops.session import Session
from stack.model import Role
from stack.plan import Plan


def prepare(session: Session, pulumi: Pulumi, progress: Progress, log: Path, plan: Plan | None = None) -> None:
    """Make state and engine agree. KitError when that is for a person to decide, or when people left the plan.

    `up --adopt` decides for the data.
    """
    for note in clear_stale_locks(session.state):
        progress.line(f"  {console.mark(console.WARN)} {note}")
    deployment = pulumi.export()
    if plan:
        refuse_to_forget(deployment, plan)
    pending = deployment.get("pending_operations") or []
    if pending:
        drop_pending(pulumi, deployment)
        progress.line(f"  {console.mark(console.WARN)} an earlier run was cut short (steps: {len(pending)}): going on")
    resources = docker_resources(deployment)
    engine = look(session.docker.get, session.stack)
    if not pending and (why := foreign(resources, engine)):
        if not session.adopt:
            raise KitError(
                f"this state knows nothing of stack {session.stack}, but {why}.",
                "One of:\n"
                "- go back to the state that made it: point PULUMI_BACKEND_URL (or XDG_STATE_HOME) at it\n"
                f"- that state is lost: ./kit up {session.stack} --adopt keeps the data and gives it new credentials\n"
                f"- give its data up: ./kit down {session.stack} --data",
            )
        progress.line(f"  {console.mark(console.WARN)} {why}: it gets this state's credentials, and loses nothing")
    damage = compare(resources, engine)
    if damage.lost:
        raise KitError(
            f"data is gone: {', '.join(damage.lost)} is in the state, but no longer on this host.",
            f"Restore it from a backup; or give the stack's data up and start anew: ./kit down {session.stack} --data",
        )
    if damage:
        mend(session, pulumi, damage, progress, log)


def drop_pending(pulumi: Pulumi, deployment: dict[str, Any]) -> None:
    """Forget operations that were cut short: what they made in the engine carries our label and is found by it."""
    pulumi.import_({**deployment, "pending_operations": []})


def mend(session: Session, pulumi: Pulumi, damage: Damage, progress: Progress, log: Path) -> None:
    """Remove what is in the way (never a volume), and have Pulumi look at what is gone."""
    for reason in damage.reasons:
        progress.line(f"  {console.mark(console.WARN)} {reason.removeprefix(session.prefix)}: repairing")
    for id_, _ in damage.remove_containers:
        session.docker.remove_container(id_)
    for id_, _ in damage.remove_networks:
        session.docker.remove_network(id_)
    if not damage.refresh:
        return
    targets = [argument for urn in damage.refresh for argument in ("--target", urn)]
    with progress.step("looking at what is gone"):
        code = pulumi.follow(
            "refresh", "--yes", "--skip-preview", "--parallel", PARALLEL, *targets, log=log, feed=lambda _: None
        )
    if code != 0:
        raise KitError("the state could not be brought up to date with what runs.", f"Details: {log}")


def left(deployment: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """URNs of the users and groups that the program made for the configuration, by name."""
    found: dict[str, tuple[str, ...]] = {}
    for resource in deployment.get("resources") or []:
        kind, _, name = str(resource["urn"]).rpartition("::")[2].partition("-")
        made = resource.get("type") in ("keycloak:index/user:User", "keycloak:index/group:Group")
        if made and kind in ("person", "group") and name:
            found[name] = (*found.get(name, ()), str(resource["urn"]))
    return found


def refuse_to_forget(deployment: Mapping[str, Any], plan: Plan) -> None:
    """KitError when somebody is in the state, protected, and no longer in the configuration."""
    protected = {str(each["urn"]) for each in deployment.get("resources") or [] if each.get("protect")}
    wanted = {*(person.username for person in plan.settings.people), *plan.settings.groups}
    gone = sorted(name for name, urns in left(deployment).items() if name not in wanted and protected & set(urns))
    if gone and plan.provider(Role.IDENTITY):
        raise KitError(
            f"{', '.join(gone)} left the configuration: nobody is deleted by that.",
            "To lock a person out and keep the account: leave them in, with enabled: false.\n"
            f"To delete for good: ./kit people remove {gone[0]} --stack {plan.stack}",
        )
