"""The vectors, as the services inside use them: no route leads to them, so a job of their own does the asking."""

from __future__ import annotations

from stack.proofs.context import ProofContext


def vectors(ctx: ProofContext) -> None:
    """Without the key, and with a wrong one, nothing is answered; with it three vectors are written, found, removed."""
    ctx.step("write, find and remove vectors, with the key and without")
    ctx.note(ctx.run_job("vectors"))
