"""docs/reference/exceptions.md, made from the services' files: pytest --update-goldens writes it."""

from __future__ import annotations

from collections.abc import Iterable

from stack import policy
from stack.model import ImageSource, ServiceSpec

HEAD = """\
<!-- Made from the services' files and stack/policy.py by ops/exceptionref.py. Change them there, then:
     pytest --update-goldens -->
# Exceptions

What every container of every service keeps to, and each exception with its reason. The rules are functions in
`stack/policy.py`: the tests ask them about all that is registered for every target, and
`pulumi preview --policy-pack policy` about what is about to be ([security guide](../security.md#containers)).

## Rules

"""

SERVICES = """
## Exceptions of services

Each is a field with a reason in the service's own file. Nothing else of these containers is excepted.

| container | rule it breaks | why |
|---|---|---|
"""

KINDS = """
## Exceptions of what runs once

Jobs and deliveries of files end before, or soon after, the service that they are for starts.

| who | rule they break | why |
|---|---|---|
"""


def render(services: Iterable[ServiceSpec]) -> str:
    """The page of all rules and exceptions."""
    titles = {**{rule: title for rule, (title, _) in policy.RULES.items()}, **policy.PLANNED}
    rules = "".join(f"- {title}.\n" for title in titles.values())
    rows: dict[tuple[str, str], list[str]] = {}
    for item in sorted(policy.exemptions(services), key=lambda item: (item.container, item.rule)):
        only = item.sources != frozenset(ImageSource)
        where = f" (images from: {', '.join(sorted(item.sources))})" if only else ""
        rows.setdefault((item.container, item.rule), []).append(f"{item.reason}{where}")
    lines = [f"| {who} | {titles[rule]} | {'; '.join(why)} |\n" for (who, rule), why in rows.items()]
    kinds = [f"| {item.who} | {titles[item.rule]} | {item.reason} |\n" for item in policy.GENERAL]
    return HEAD + rules + SERVICES + "".join(lines) + KINDS + "".join(kinds)
