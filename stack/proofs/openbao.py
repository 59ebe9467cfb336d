"""The secrets' server, as the services inside use it: no route leads to it, so a job of its own does the asking."""

from __future__ import annotations

from stack.proofs.context import ProofContext


def secrets(ctx: ProofContext) -> None:
    """A secret is written and read by policy and refused without; a database login is let in, taken back, refused."""
    ctx.step("write and read a secret, with the right to and without; take a database login, and give it back")
    said = ctx.run_job("access")
    ctx.note(said.strip().splitlines()[-1])
