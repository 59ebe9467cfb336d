"""In which order steps are registered: nothing before what it needs, and first what most of the rest waits for.

The engine starts whatever is ready in the order in which it hears of it, and a small machine has few processors:
with the database among the last, everything that needs it would wait for containers that nothing waits for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter


def critical_first(needs: Mapping[str, Collection[str]]) -> list[str]:
    """The names, each after its needs; of those that may come next, the one with the longest chain behind it.

    needs: name -> names that come first, each of them a name of the mapping. graphlib.CycleError when they go in
    circles.
    """
    sorter = TopologicalSorter(needs)
    behind = dict.fromkeys(needs, 0)
    for name in reversed(list(TopologicalSorter(needs).static_order())):
        for need in needs[name]:
            behind[need] = max(behind[need], behind[name] + 1)
    sorter.prepare()
    ready: list[str] = []
    ordered: list[str] = []
    while sorter.is_active():
        ready += sorter.get_ready()
        ready.sort(key=lambda name: (-behind[name], name))
        following = ready.pop(0)
        ordered.append(following)
        sorter.done(following)
    return ordered
