"""The score that Mozilla's HTTP Observatory gives to a page's headers, by its published rules.

Source: github.com/mdn/mdn-http-observatory, src/grader (charts.js) and its documentation of the scoring: a page begins
with 100, each test adds or takes, and what is added counts only from 90 on. Taken over are the tests that follow from
headers alone: policy of contents, frames, referrers, types, transport. Not asked: cookies, other origins' scripts and
redirections, which a header does not tell; they are 0 for a page that does them well.
"""

from __future__ import annotations

from collections.abc import Mapping

GRADES = (
    *((100, "A+"), (90, "A"), (85, "A-"), (80, "B+"), (70, "B"), (65, "B-"), (60, "C+"), (50, "C"), (45, "C-")),
    *((40, "D+"), (30, "D"), (25, "D-"), (0, "F")),
)
SIX_MONTHS = 15768000
PRIVATE = {"no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin"}


def score(headers: Mapping[str, str]) -> int:
    """Points of a page with these headers, 0 or more."""
    found = {name.lower(): value for name, value in headers.items()}
    policy = _directives(found.get("content-security-policy", ""))
    changes = [_contents(policy), _frames(found, policy), _referrer(found), _transport(found)]
    changes.append(0 if found.get("x-content-type-options", "").lower() == "nosniff" else -5)
    lost = 100 + sum(change for change in changes if change < 0)
    return max(0, lost + (sum(change for change in changes if change > 0) if lost >= 90 else 0))


def grade(headers: Mapping[str, str]) -> str:
    """A+ to F."""
    points = score(headers)
    return next(letter for least, letter in GRADES if points >= least)


def _directives(policy: str) -> dict[str, set[str]]:
    parts = [part.split() for part in policy.lower().split(";") if part.strip()]
    return {words[0]: set(words[1:]) for words in parts}


def _contents(policy: Mapping[str, set[str]]) -> int:
    if not policy:
        return -25
    default = policy.get("default-src")
    scripts = policy.get("script-src", default)
    styles = policy.get("style-src", default)
    broad = {"*", "http:", "https:", "data:", "'unsafe-inline'"}
    objects = policy.get("object-src", default)
    # 'unsafe-inline' beside a nonce or hash is not read by browsers that know these.
    if scripts is None or objects is None or scripts & broad or objects & broad:
        return -20
    if "'unsafe-eval'" in scripts:
        return -10
    if styles is None or styles & broad:
        return 0
    return 10 if default == {"'none'"} else 5


def _frames(found: Mapping[str, str], policy: Mapping[str, set[str]]) -> int:
    if "frame-ancestors" in policy and not policy["frame-ancestors"] & {"*", "http:", "https:"}:
        return 5
    return 0 if found.get("x-frame-options", "").upper() in ("DENY", "SAMEORIGIN") else -20


def _referrer(found: Mapping[str, str]) -> int:
    said = found.get("referrer-policy", "").lower()
    if not said:
        return 0
    return 5 if said in PRIVATE else -5


def _transport(found: Mapping[str, str]) -> int:
    for part in found.get("strict-transport-security", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name.lower() == "max-age" and value.isdigit():
            return 0 if int(value) >= SIX_MONTHS else -10
    return -20
