"""The stack's CA as its owner meets it: the file to import, and what is left to do while two of them are trusted."""

from __future__ import annotations

import shlex

from ops.session import Session
from stack import rotation
from stack.plan import Plan

LAST_LINE = "-----END CERTIFICATE-----\n"


def newest(bundle: str) -> str:
    """The first certificate of a bundle: programs that import a file may take only one of it, or none of two."""
    first, end, _ = bundle.partition(LAST_LINE)
    return f"{first}{end}" if end else bundle


def overlap(session: Session, plan: Plan) -> list[str]:
    """What the owner must do while an older CA is trusted beside the newer one; [] otherwise."""
    signs, oldest = plan.authorities
    if signs == oldest:
        return []
    name = "" if session.stack == "dev" else f" {session.stack}"
    return [
        f"new CA      CA {signs} signs, CA {oldest} is trusted too. Import {shlex.quote(str(session.state.ca_file))}",
        "            wherever the old one is: browsers, phones, programs. When all have it, end the old one:",
        f"            ./kit rotate {rotation.TLS}/{rotation.OLDEST}{name}",
    ]
