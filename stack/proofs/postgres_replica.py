"""The second copy of the database follows the first."""

from __future__ import annotations

import re

from stack.proofs.context import ProofContext, ProofError

ALLOWED_MS = 1000


def lag(ctx: ProofContext) -> None:
    """A row written on the primary is read from the replica less than a second later."""
    ctx.step("a row from the first copy to the second")
    words = ctx.run_job("lag")
    found = re.search(r"(\d+) ms behind", words)
    if found is None:
        raise ProofError(f"the job said no figure: {words}")
    if int(found[1]) >= ALLOWED_MS:
        raise ProofError(f"the second copy is {found[1]} ms behind, less than {ALLOWED_MS} are allowed")
    ctx.note(f"{found[1]} ms")
