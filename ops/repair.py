"""Before Pulumi works on a stack: locks of ended runs, operations cut short, containers removed or stopped by hand.

Pulumi does not look at what really runs. What differs is refreshed here, and nothing else: a refresh of everything
would ask Keycloak, which is of no use while its container is the one that is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ops import console
from ops.console import KitError
from ops.enginestate import Damage, compare, docker_resources, foreign, look
from ops.progress import Progress
from ops.pulumirun import PARALLEL, Pulumi, clear_stale_locks
from ops.session import Session


def prepare(session: Session, pulumi: Pulumi, progress: Progress, log: Path) -> None:
    """Make state and engine agree. KitError when that is for a person to decide: `up --adopt` decides for the data."""
    for note in clear_stale_locks(session.state):
        progress.line(f"  {console.mark(console.WARN)} {note}")
    deployment = pulumi.export()
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
