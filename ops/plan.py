"""./kit plan: the resolved plan, without any engine."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from ops import console, planview
from ops.session import Session


def run(arguments: argparse.Namespace) -> int:
    """0; a SpecError with every problem where there is no plan."""
    session = Session(arguments.stack)
    plan = session.plan()
    session.check_certificates(plan)
    measured = planview.footprints(session.root, plan.host.target)
    if arguments.json:
        console.say(json.dumps(planview.as_json(plan, measured), indent=2))
    else:
        width = shutil.get_terminal_size((120, 40)).columns
        text = planview.table(plan, width=width, bars=sys.stdout.isatty(), measured=measured)
        console.say(text.rstrip("\n"))
    return 0
