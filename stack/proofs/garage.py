"""Object storage, as the services inside use it: no route leads to it, so a job of its own does the asking."""

from __future__ import annotations

from stack.proofs.context import ProofContext


def objects(ctx: ProofContext) -> None:
    """An object is written, read and removed with signed requests; unsigned and wrongly signed ones are refused."""
    ctx.step("write, read and remove an object, and try it without the key")
    ctx.note(ctx.run_job("bucket"))
