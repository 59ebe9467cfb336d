"""./kit prove: act as a user through the front door of a stack that is up."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ops.console import KitError
from ops.progress import Progress
from ops.session import Session
from stack.model import Role
from stack.outputs import StackOutputs
from stack.plan import Plan


def run(arguments: argparse.Namespace) -> int:
    """0 when every proof passed, 1 otherwise."""
    session = Session(arguments.stack)
    return 0 if prove(session, session.plan(), session.outputs(session.ready_pulumi())) else 1


def prove(session: Session, plan: Plan, exported: Mapping[str, Any]) -> bool:
    """Run every proof of the plan; whether all passed."""
    from ops import prove as proofs

    if plan.provider(Role.IDENTITY) is None:
        raise KitError(f"stack {session.stack} cannot be proven: proofs act as a user, and it has no login.")
    try:
        outputs = StackOutputs.from_dict(exported)
    except ValueError as error:
        raise KitError(f"stack {session.stack} cannot be proven: {error}", f"./kit up {session.stack}") from error
    return proofs.prove(outputs, plan, Progress())
