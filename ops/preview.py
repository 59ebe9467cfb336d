"""./kit preview: what `up` would change."""

from __future__ import annotations

import argparse

from ops import console, planview
from ops.pulumirun import Pulumi, clear_stale_locks
from ops.repair import refuse_to_forget
from ops.session import Session


def run(arguments: argparse.Namespace) -> int:
    """Pulumi's own exit code."""
    session = Session(arguments.stack)
    plan = session.plan()  # its problems first, all at once
    session.check_certificates(plan)
    pulumi: Pulumi = session.ready_pulumi()
    clear_stale_locks(session.state)
    if text := planview.retired(plan):
        console.note(text)
    if pulumi.known():
        refuse_to_forget(pulumi.export(), plan)
    for text in session.moved(plan):
        console.warn(text)
    session.write_config(pulumi)
    flags = {
        "--refresh": arguments.refresh,
        "--diff": arguments.diff,
        "--expect-no-changes": arguments.expect_no_changes,
    }
    return pulumi.through("preview", *(flag for flag, wanted in flags.items() if wanted))
