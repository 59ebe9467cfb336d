"""The front door's certificate as it is met from here: how long it lasts, and whether the operator's was renewed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from ops.frontdoor import address_of
from ops.session import Session
from stack import certificates
from stack.certificates import ALERT_DAYS
from stack.model import CertificateSource, Role
from stack.plan import Plan
from stack.proofs.presented import presented

OUTPUT = "frontCertificate"  # what the last `up` delivered of the operator's files: certificates.fingerprint()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What somebody who comes from outside is shown. days: left, negative when it has ended."""

    signed_by: str
    ends: datetime
    days: float

    @property
    def short(self) -> bool:
        """Whether renewal has failed for long enough to be told."""
        return self.days < ALERT_DAYS

    def sentence(self) -> str:
        """What it is, for people."""
        left = f"{self.days:.0f} days left" if self.days >= 1 else f"{self.days * 24:.0f} hours left"
        if self.days <= 0:
            left = f"ended {-self.days:.0f} days ago"
        return f"{left}, until {self.ends:%Y-%m-%d}, signed by {self.signed_by or 'nobody who says a name'}"


def shown(plan: Plan, now: datetime | None = None) -> Shown | None:
    """The certificate of the front door's first name, verified or not. None where nothing answers."""
    if not plan.running or not plan.host_names:
        return None
    try:
        found = presented(address_of(plan), plan.settings.https_port, plan.host_names[0])
    except (OSError, ValueError):
        return None
    left = found.days_left(now or datetime.now(UTC))
    return Shown(signed_by=found.issuer_title, ends=found.not_after, days=left)


def mending(plan: Plan) -> str:
    """What to do about one that lasts too short."""
    name = "" if plan.stack == "dev" else f" {plan.stack}"
    match plan.settings.certificates:
        case CertificateSource.OWN_CA:
            return f"./kit up{name} renews it"
        case CertificateSource.FILES:
            return f"renew {plan.settings.certificate_chain} where you had it from, then: ./kit up{name}"
        case CertificateSource.ACME:
            return f"its renewal fails, and says why: docker logs kit-{plan.stack}-{authority_client(plan)}"


def authority_client(plan: Plan) -> str:
    """The host name of the container that asks the authority outside."""
    provider = plan.provider(Role.CERTIFICATES)
    return provider.containers[0].host_name if provider else ""


def lines(plan: Plan, found: Shown | None) -> tuple[list[str], list[str]]:
    """What `status` says: to be noted, and to be warned of."""
    if found is None:
        return [], []
    said = f"certificate {found.sentence()}"
    return ([], [f"{said}: {mending(plan)}"]) if found.short else ([said], [])


def renewed(session: Session, plan: Plan) -> bool:
    """Whether the operator's files are others than those that the last `up` delivered."""
    if plan.settings.certificates is not CertificateSource.FILES:
        return False
    try:
        now = certificates.fingerprint(plan.settings)
    except OSError:
        return False  # `up` says what is wrong with them
    return _outputs(session).get(OUTPUT) not in (None, now)


def _outputs(session: Session) -> Mapping[str, Any]:
    for resource in session.recorded.deployment.get("resources") or ():
        if resource.get("type") == "pulumi:pulumi:Stack":
            return cast("Mapping[str, Any]", resource.get("outputs") or {})
    if session.state.checkpoint is None:
        pulumi = session.ready_pulumi()
        return pulumi.outputs() if pulumi.known() else {}
    return {}
