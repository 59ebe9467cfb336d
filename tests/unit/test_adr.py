"""The index of decisions."""

from __future__ import annotations

import re

from ops.paths import ROOT

FOLDER = ROOT / "docs" / "adr"


def test_every_decision_is_in_the_index_and_under_its_own_number() -> None:
    index = (FOLDER / "0000-how-we-decide.md").read_text(encoding="utf-8")
    pages = {path.name[:4]: path for path in sorted(FOLDER.glob("[0-9]*.md")) if path.name[:4] != "0000"}
    assert re.findall(r"^\| (\d{4}) \|", index, re.MULTILINE) == list(pages)
    for number, path in pages.items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert re.match(rf"# 0*{int(number)}\. ", first), f"{path.name} begins with {first!r}"
