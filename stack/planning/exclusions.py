"""What a route says to the firewall: every exclusion has a reason, and takes out no more than it names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stack.model import Problem, Route, WafExclusion
from stack.planning.resolve import Selection, at

_ID = re.compile(r"9[0-9]{5}")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{2,80}")
_TARGET = re.compile(r"[A-Z_]+(:[A-Za-z0-9_.\[\]/*-]+)?")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")
_WORDS = 3  # of a reason, at the least


def exclusions(selection: Selection) -> Iterator[Problem]:
    """What is wrong with what the routes say to the firewall, whether there is one or not."""
    for spec in selection.chosen.values():
        for route in spec.routes:
            where = f"{at(spec, 'routes', route.name)}.waf"
            for exclusion in route.waf.exclusions:
                for what, fix in _faults(exclusion):
                    yield Problem(where=where, what=what, fix=fix)
            for what, fix in _sizes(route):
                yield Problem(where=where, what=what, fix=fix)


def _faults(exclusion: WafExclusion) -> Iterator[tuple[str, str]]:
    named = f"the exclusion of {exclusion.rule or 'nothing'}"
    if len(exclusion.reason.split()) < _WORDS:
        yield f"{named} has no reason", "say in a sentence why this is no attack here: who reads it, and what for"
    if not (_ID.fullmatch(exclusion.rule) or _TAG.fullmatch(exclusion.rule)):
        yield f"{named} names no rule", "name one by its id (942100), or those with a tag (attack-sqli)"
    elif not exclusion.targets and not _ID.fullmatch(exclusion.rule):
        yield f"{named} takes out whole rules by a tag", "name the targets that they do not look at, such as ARGS:text"
    if exclusion.plain_query and not exclusion.paths:
        yield f"{named} asks for a plain query everywhere", "name the paths at which bodies may be anything"
    for target in exclusion.targets:
        if not _TARGET.fullmatch(target):
            yield f"{named} has the target {target!r}", "write it as ModSecurity does: ARGS, ARGS:text, XML:/*"
    for path in exclusion.paths:
        if not _PATH.fullmatch(path):
            yield f"{named} has the path {path!r}", "write one beginning with /, of letters, digits, dots and dashes"


def _sizes(route: Route) -> Iterator[tuple[str, str]]:
    if not 1 <= route.waf.text_kb <= max(1, route.body_mb) * 1024:
        yield f"text_kb {route.waf.text_kb}", "1 to what body_mb allows"
