"""The service catalogue, as the services inside use it: its page waits for its login (the front door answers 403)."""

from __future__ import annotations

from stack.proofs.context import ProofContext, ProofError


def catalogue(ctx: ProofContext) -> None:
    """There is a leader; what the plan runs is what is found; without a token nothing is, and nothing is written.

    What somebody registered is not looked at: the job names what carries the plan's mark, and the catalogue itself.
    """
    ctx.step("ask for the leader and for services, with and without a token")
    said = ctx.run_job("access")
    found = set(said.partition("token alone:")[2].split())
    ctx.step("compare what was found with the plan")
    expected = {
        service.name for service in ctx.plan.running if any(container.spec.ports for container in service.containers)
    }
    if missing := sorted(expected - found):
        raise ProofError(f"not in the catalogue: {', '.join(missing)}")
    if strange := sorted(found - expected):
        raise ProofError(f"in the catalogue, and not in the plan: {', '.join(strange)}")
    ctx.note(f"{len(found)} services found, nothing without a token")
