"""./kit plan: the resolved plan, without any engine."""

from __future__ import annotations

import argparse
import json
import shutil

from ops import console, planview
from ops.session import Session


def run(arguments: argparse.Namespace) -> int:
    """0; a SpecError with every problem where there is no plan."""
    plan = Session(arguments.stack).plan()
    if arguments.json:
        console.say(json.dumps(planview.as_json(plan), indent=2))
    else:
        console.say(planview.table(plan, width=shutil.get_terminal_size((120, 40)).columns).rstrip("\n"))
    return 0
