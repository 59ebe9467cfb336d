"""The table in docs/rotation.md, made from the catalogue: pytest --update-goldens writes it."""

from __future__ import annotations

from collections.abc import Iterator

from stack import catalog, rotation
from stack.model import Role

BEGIN = "<!-- Made from the services' files: pytest --update-goldens -->"
END = "<!-- Until here -->"
HEAD = "| secret | rotating it |\n|---|---|\n"


def filled(page: str) -> str:
    """The page with its table as the catalogue says now. ValueError when its marks are not there."""
    head, found, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not found or not end:
        raise ValueError("the page has lost the marks of its table")
    return f"{head}{BEGIN}\n{HEAD}{''.join(_rows())}{END}{tail}"


def _rows() -> Iterator[str]:
    services = catalog.discover()
    having = {role: next((spec for spec in services if role in spec.roles), None) for role in Role}
    found = [
        *rotation.candidates(services, (), having[Role.DATABASE], having[Role.IDENTITY]),
        *rotation.certificates(),
    ]
    for each in sorted(found, key=str):
        yield f"| `{each}` | {rotation.meaning(each.rotates)} |\n"
