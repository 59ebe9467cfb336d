"""./kit unlock: let a person in again whose phone is gone, or who typed too many wrong passwords."""

from __future__ import annotations

import argparse

import httpx

from ops import console
from ops.console import KitError
from ops.identity import administration
from ops.session import Session
from stack.model import Role
from stack.outputs import StackOutputs
from stack.proofs.context import ProofError


def run(arguments: argparse.Namespace) -> int:
    """0 when nothing keeps the person out any more."""
    session = Session(arguments.stack)
    plan = session.plan()
    if plan.provider(Role.IDENTITY) is None:
        raise KitError(f"stack {session.stack} has no login.")
    outputs = StackOutputs.from_dict(session.outputs(session.ready_pulumi()))
    with administration(plan, outputs) as admin:
        try:
            taken = admin.free(admin.user_id(arguments.name))
        except ProofError as error:
            raise KitError(str(error)) from error
        except httpx.HTTPError as error:
            raise KitError(f"the login does not answer: {error}", f"./kit up {session.stack}") from error
    for what in taken:
        console.done(f"removed: {what}")
    if not taken:
        console.note(f"nothing kept {arguments.name} out but the password; sessions were ended")
    console.say(f"{arguments.name} logs in with the password, and sets up a second factor where one is asked for.")
    return 0
