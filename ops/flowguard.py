"""After every deployment: people log in by the stack's own flow, the one that asks for a second factor.

A program that changes the realm in one step and binds the flow in another can be cut short in between, and anybody
with the realm's administration can bind another. Pulumi does not look; so this does, puts it right, and fails the run
where it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from ops import console, deploying
from ops.console import KitError
from ops.identity import administration
from ops.progress import Progress
from ops.pulumirun import PARALLEL, Pulumi
from ops.session import Session
from stack.model import Role
from stack.outputs import StackOutputs
from stack.plan import Plan
from stack.proofs.context import ProofError
from stack.realm import BROWSER_FLOW

BINDINGS = "keycloak:authentication/bindings:Bindings"


def hold(
    session: Session, plan: Plan, pulumi: Pulumi, exported: Mapping[str, Any], progress: Progress, log: Path
) -> None:
    """Bind the stack's flow again where another one is bound. KitError when it then still is, or nobody can say."""
    if plan.provider(Role.IDENTITY) is None or plan.settings.down:
        return
    outputs = StackOutputs.from_dict(exported)
    flow = bound(plan, outputs)
    if flow == BROWSER_FLOW:
        return
    console.warn(
        f"people log in by the flow {flow!r}, which asks administrators for a password alone: binding ours again"
    )
    refresh(pulumi, log)
    deploying.update(session, pulumi, progress, log, "binding the login flow")
    flow = bound(plan, outputs)
    if flow != BROWSER_FLOW:
        raise KitError(
            f"people log in by the flow {flow!r} instead of {BROWSER_FLOW!r}: a password alone lets administrators in.",
            "Somebody, or something, binds it again and again: look at the realm's admin events, then ./kit up again.",
        )


def after_failure(session: Session, plan: Plan, pulumi: Pulumi, progress: Progress, log: Path) -> None:
    """A run that failed may have changed the realm and not bound our flow again. Raises nothing: its failure counts."""
    if plan.provider(Role.IDENTITY) is None or plan.settings.down:
        return
    with suppress(KitError, KeyError, TypeError, ValueError):
        if bound(plan, StackOutputs.from_dict(pulumi.outputs())) == BROWSER_FLOW:
            return
        console.warn("the failed run left a login that asks for a password alone: binding ours again")
        refresh(pulumi, log)
        deploying.update(session, pulumi, progress, log, "binding the login flow", *targets(pulumi))


def bound(plan: Plan, outputs: StackOutputs) -> str:
    """The flow by which the realm logs people in."""
    with administration(plan, outputs) as admin:
        try:
            realm = admin.realm()
        except (httpx.HTTPError, ProofError) as error:
            raise KitError(
                f"nobody can say whether administrators are asked for a second factor: {error}",
                "./kit status says more",
            ) from error
    return str(realm.get("browserFlow"))


def targets(pulumi: Pulumi) -> list[str]:
    """Flags that have Pulumi work on what binds the flow alone; none where the state has nothing of it."""
    resources: list[dict[str, Any]] = pulumi.export().get("resources") or []
    return [word for each in resources if each["type"] == BINDINGS for word in ("--target", str(each["urn"]))]


def refresh(pulumi: Pulumi, log: Path) -> None:
    """Have Pulumi look at what is bound, and at nothing else."""
    only = targets(pulumi)
    if not only:
        raise KitError("the state knows nothing of the login flow that should be bound.", f"Details: {log}")
    code = pulumi.follow(
        "refresh", "--yes", "--skip-preview", "--parallel", PARALLEL, *only, log=log, feed=lambda _: None
    )
    if code != 0:
        raise KitError("the state of the login flow could not be brought up to date.", f"Details: {log}")
