"""The graph, as the services inside use it: no route leads to it, so a job of its own does the asking."""

from __future__ import annotations

from stack.proofs.context import ProofContext


def graph(ctx: ProofContext) -> None:
    """Two nodes and what leads from one to the other are written, found and removed, with the stack's password."""
    ctx.step("write, find and remove two nodes")
    ctx.note(ctx.run_job("graph"))
