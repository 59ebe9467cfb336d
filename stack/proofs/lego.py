"""The certificate that an authority outside has signed."""

from __future__ import annotations

from stack import x509
from stack.model import CertificateSource
from stack.proofs.context import ProofContext, wait_for
from stack.proofs.presented import presented

SIGNING = 180  # seconds: an authority is asked once the front door is up, and asks back


def signed(ctx: ProofContext) -> None:
    """The front door shows what somebody else than the stack's CA has signed, for each name."""
    if ctx.plan.settings.certificates is not CertificateSource.ACME:
        ctx.note("nothing is asked for: another source of certificates is chosen")
        return
    own = {each.subject for each in x509.chain(ctx.outputs.ca_pem)}
    for host in ctx.plan.host_names:
        ctx.step(f"certificate of {host}")
        found = wait_for(lambda host=host: _signed(ctx, host, own), SIGNING, "no authority has signed a certificate")
        ctx.note(found.issuer_title)


def _signed(ctx: ProofContext, host: str, own: set[bytes]) -> x509.Certificate | None:
    found = presented(ctx.address, ctx.plan.settings.https_port, host)
    return None if found.issuer in own or not found.covers(host) else found
