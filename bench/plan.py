"""How long the plan takes: settings, every service, every check, and the runtime derived from it.

    .venv/bin/python -m bench.plan [-n RUNS]

A plan has no peer; the figure to reach is 50 ms for everything.
"""

from __future__ import annotations

import argparse
import time

from bench.measure import Series, header, table
from ops.paths import ROOT
from ops.planview import load_plan
from stack.derive import runtime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.plan", description=__doc__)
    parser.add_argument("-n", type=int, default=30, help="runs per stack (30)")
    arguments = parser.parse_args()
    print(header("plan"))
    series: list[Series] = []
    load_plan(ROOT, "dev")  # imports and caches are the start of the program, not of the plan
    for stack in ("dev", "pi", "gpu"):
        plan, derived = Series(f"{stack}: files to plan"), Series(f"{stack}: plan to runtime")
        for _ in range(arguments.n):
            start = time.perf_counter()
            resolved = load_plan(ROOT, stack)
            middle = time.perf_counter()
            runtime.build(resolved)
            plan.values.append(middle - start)
            derived.values.append(time.perf_counter() - middle)
        series += [plan, derived]
    for one in series:
        one.values = [value * 1000 for value in one.values]
        one.name += " (ms)"
    print(table(series))


if __name__ == "__main__":
    main()
