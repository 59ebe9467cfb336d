"""Plan -> what is asked of an ACME server (RFC 8555), as files that a shell reads."""

from __future__ import annotations

from stack import certificates
from stack.derive.values import endpoint
from stack.model import Challenge, Role
from stack.plan import Plan


def names(plan: Plan) -> str:
    """The names to be signed for, one a line.

    With DNS-01 a wildcard, so that a service more is no order more: an authority gives a week's number of them only.
    """
    domain = plan.settings.domain
    hosts = plan.host_names or (domain,)
    if plan.settings.acme_challenge is Challenge.DNS_01:
        hosts = (domain, f"*.{domain}")
    return "".join(f"{host}\n" for host in sorted(hosts))


def order(plan: Plan) -> str:
    """Who is asked and how: NAME=value, each value checked by the settings to be one plain word."""
    settings = plan.settings
    said = {
        "DIRECTORY": settings.acme_directory,
        "CHALLENGE": str(settings.acme_challenge),
        "DNS": settings.acme_dns,
        "DNS_WAIT": str(settings.acme_dns_wait or ""),
        "DOOR_HOST": "",
        "DOOR_PORT": "",
    }
    ingress = plan.provider(Role.INGRESS)
    if ingress and settings.acme_challenge is Challenge.HTTP_01:
        host, port = endpoint(ingress, PLAIN)
        said |= {"DOOR_HOST": host, "DOOR_PORT": str(port)}
    return "".join(f"{name}='{value}'\n" for name, value in said.items())


PLAIN = "http"  # the ingress's port for what is not encrypted


def roots(plan: Plan) -> str:
    """Whom to believe that it is the ACME server, beside the public roots."""
    return (certificates.roots_pem(plan.settings) if not plan.settings.down else "") or "# The public ones alone.\n"
