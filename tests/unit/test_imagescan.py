"""The image scan: what scanners answer is read as it is meant, budgets are kept, and nothing passes unseen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ops import imagescan
from ops.console import KitError
from ops.imagescan import Finding, Ignore, Limits, Unjudged, judge, limits, read_grype, read_trivy
from stack.model import ImageSource, SpecError

TODAY = date(2026, 11, 22)
ROOT = Path(__file__).resolve().parents[2]

# As Trivy 0.68 prints it, shortened: one layer of Debian packages, one of Python's without findings.
TRIVY = {
    "SchemaVersion": 2,
    "ArtifactName": "registry.example/thing:1",
    "Metadata": {"OS": {"Family": "debian", "Name": "12.8"}},
    "Results": [
        {
            "Target": "registry.example/thing:1 (debian 12.8)",
            "Class": "os-pkgs",
            "Type": "debian",
            "Packages": [{"ID": "libexpat1@2.5.0-1", "Name": "libexpat1", "Version": "2.5.0-1"}],
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2024-45491",
                    "PkgName": "libexpat1",
                    "InstalledVersion": "2.5.0-1",
                    "FixedVersion": "2.5.0-1+deb12u1",
                    "Status": "fixed",
                    "Severity": "CRITICAL",
                },
                {
                    "VulnerabilityID": "CVE-2023-52425",
                    "PkgName": "libexpat1",
                    "InstalledVersion": "2.5.0-1",
                    "Status": "affected",
                    "Severity": "HIGH",
                },
            ],
        },
        {"Target": "Python", "Class": "lang-pkgs", "Type": "python-pkg", "Packages": [{"Name": "pip"}]},
    ],
}
# As Grype 0.121 prints it, shortened.
GRYPE = {
    "matches": [
        {
            "vulnerability": {
                "id": "GHSA-9wx4-h78v-vm56",
                "severity": "Medium",
                "fix": {"versions": ["2.32.0"], "state": "fixed"},
            },
            "artifact": {"name": "requests", "version": "2.31.0", "type": "python"},
        },
        {
            "vulnerability": {
                "id": "CVE-2011-3374",
                "severity": "Negligible",
                "fix": {"versions": [], "state": "not-fixed"},
            },
            "artifact": {"name": "apt", "version": "2.6.1", "type": "deb"},
        },
    ],
    "source": {"type": "image"},
    "distro": {"name": "debian", "version": "12"},
    "descriptor": {"name": "grype", "version": "0.121.2"},
}
EXPAT = Finding(
    id="CVE-2024-45491", severity="critical", package="libexpat1", installed="2.5.0-1", fixed="2.5.0-1+deb12u1"
)
UNFIXED = replace(EXPAT, id="CVE-2023-52425", severity="high", fixed="")


# ------------------------------------------------------------------------------------------------------- answers


def test_trivy_is_read() -> None:
    assert read_trivy(json.dumps(TRIVY)) == (EXPAT, UNFIXED)


def test_grype_is_read() -> None:
    assert read_grype(json.dumps(GRYPE)) == (
        Finding(id="GHSA-9wx4-h78v-vm56", severity="medium", package="requests", installed="2.31.0", fixed="2.32.0"),
        Finding(id="CVE-2011-3374", severity="negligible", package="apt", installed="2.6.1", fixed=""),
    )


def test_a_severity_nobody_knows_is_unknown_and_not_dropped() -> None:
    changed = json.loads(json.dumps(TRIVY))
    changed["Results"][0]["Vulnerabilities"][0]["Severity"] = "CATASTROPHIC"
    changed["Results"][0]["Vulnerabilities"][1].pop("Severity")
    assert [finding.severity for finding in read_trivy(json.dumps(changed))] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        (read_trivy, ""),
        (read_trivy, "FATAL something"),
        (read_trivy, "[]"),
        (read_trivy, "{}"),
        (read_trivy, json.dumps({**TRIVY, "SchemaVersion": 3})),
        (read_trivy, json.dumps({**TRIVY, "Results": []})),  # nothing recognized is not nothing wrong
        (read_trivy, json.dumps({**TRIVY, "Results": [{"Target": "x"}]})),
        (read_grype, json.dumps(TRIVY)),
        (read_grype, json.dumps({"descriptor": {"name": "grype"}})),
        (read_grype, "null"),
    ],
)
def test_what_is_not_understood_is_no_clean_bill(read: Callable[[str], object], answer: str) -> None:
    with pytest.raises(Unjudged):
        read(answer)


# ------------------------------------------------------------------------------------------------------ judgement

RULES = Limits(budget={"critical": 0, "high": 1})


def judged(
    rules: Limits = RULES, unjudged: dict[str, str] | None = None, **found: tuple[Finding, ...]
) -> imagescan.Report:
    images = {name: (f"registry.example/{name}:1", findings) for name, findings in found.items()}
    return judge("Trivy", images, unjudged or {}, rules, TODAY)


def high(number: int, fixed: str = "2") -> Finding:
    return Finding(id=f"CVE-2026-{number:04}", severity="high", package="thing", installed="1", fixed=fixed)


def test_within_the_budget_passes_and_one_more_does_not() -> None:
    assert judged(thing=(high(1),)).code == 0
    report = judged(thing=(high(1), high(2)), other=(high(1),))
    assert report.code == 1
    assert {each.image: each.over for each in report.verdicts} == {"thing": ("high",), "other": ()}


def test_a_budget_is_each_images_own() -> None:
    assert judged(one=(high(1),), two=(high(2),)).passed


def test_the_same_finding_twice_counts_once() -> None:
    assert judged(thing=(high(1), high(1))).passed


def test_what_nobody_mends_counts_only_where_that_is_asked_for() -> None:
    several = tuple(high(number, fixed="") for number in range(5))
    assert judged(thing=several).passed
    assert judged(thing=several).verdicts[0].without_fix == 5
    assert judged(replace(RULES, only_fixable=False), thing=several).code == 1


def test_a_severity_without_a_budget_is_only_listed() -> None:
    medium = tuple(replace(high(number), severity="medium") for number in range(9))
    report = judged(thing=medium)
    assert report.passed and report.verdicts[0].counted == {"medium": 9}


def ignore(**changes: Any) -> Ignore:
    return replace(Ignore(id=EXPAT.id, image="", reason="nothing of it is reached", until=TODAY), **changes)


def test_an_ignore_holds_to_the_end_of_its_day_and_fails_afterwards() -> None:
    assert judged(replace(RULES, ignore=(ignore(),)), thing=(EXPAT,)).passed
    yesterday = replace(RULES, ignore=(ignore(until=date(2026, 11, 21)),))
    report = judged(yesterday, thing=(EXPAT,))
    assert report.code == 1 and report.expired and report.verdicts[0].over == ("critical",)
    # Also where the finding is gone: what is over is taken out of the list.
    assert judged(yesterday, thing=()).code == 1


def test_an_ignore_is_of_its_image_and_one_that_is_for_nothing_is_named() -> None:
    rules = replace(RULES, ignore=(ignore(image="thing"),))
    report = judged(rules, thing=(EXPAT,), other=(EXPAT,))
    assert [each.over for each in report.verdicts] == [("critical",), ()]  # other, thing
    assert judged(rules, other=()).unused == ("CVE-2024-45491 of thing, until 2026-11-22",)


def test_nothing_passes_that_was_not_looked_at() -> None:
    report = judged(unjudged={"other": "no package"}, thing=())
    assert not report.passed and report.code == 3
    assert judged().code == 3, "no image at all"
    over = judged(unjudged={"other": "no package"}, thing=(EXPAT,))
    assert over.code == 3
    text = "\n".join(imagescan.render(over, RULES))
    assert "other: not judged: no package" in text and "CVE-2024-45491: libexpat1 2.5.0-1, mended in" in text


# --------------------------------------------------------------------------------------------------------- limits


def test_the_file_of_this_project_is_fit() -> None:
    rules = limits((ROOT / imagescan.FILE).read_text(encoding="utf-8"), TODAY)
    assert rules.budget["critical"] == 0 and rules.budget["high"] == 0


def test_a_file_is_read() -> None:
    text = """
    budget: {critical: 0, high: 3}
    only_fixable: false
    database_days: 3
    ignore:
      - {id: CVE-2026-0001, image: thing, reason: it is never called here, until: 2026-12-31}
    """
    assert limits(text, TODAY, ["thing"]) == Limits(
        budget={"critical": 0, "high": 3},
        only_fixable=False,
        database_days=3,
        ignore=(Ignore(id="CVE-2026-0001", image="thing", reason="it is never called here", until=date(2026, 12, 31)),),
    )


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("budget: [", "images.scan.yaml"),
        ("", "budget"),
        ("budget: {}", "budget"),
        ("budget: {criticl: 0}", "budget.criticl"),
        ("budget: {critical: -1}", "budget.critical"),
        ("budget: {critical: yes}", "budget.critical"),
        ("budget: {critical: 0}\nbudgets: {}", "budgets"),
        ("budget: {critical: 0}\nonly_fixable: maybe", "only_fixable"),
        ("budget: {critical: 0}\ndatabase_days: 365", "database_days"),
        ("budget: {critical: 0}\nignore: all", "ignore"),
        ("budget: {critical: 0}\nignore: [CVE-2026-0001]", "ignore[0]"),
        ("budget: {critical: 0}\nignore: [{id: CVE-2026-0001, until: 2026-12-01}]", "ignore[0].reason"),
        ("budget: {critical: 0}\nignore: [{id: CVE-2026-0001, reason: it does no harm}]", "ignore[0].until"),
        (
            "budget: {critical: 0}\nignore: [{id: CVE-2026-0001, reason: it does no harm, until: soon}]",
            "ignore[0].until",
        ),
        (
            "budget: {critical: 0}\nignore: [{id: CVE-2026-0001, reason: it does no harm, until: 2036-01-01}]",
            "ignore[0].until",
        ),
        (
            "budget: {critical: 0}\nignore: [{id: '*', reason: it does no harm, until: 2026-12-01}]",
            "ignore[0].id",
        ),
        (
            "budget: {critical: 0}\nignore: [{id: CVE-1-1, image: thin, reason: it does no harm, until: 2026-12-01}]",
            "ignore[0].image",
        ),
        (
            "budget: {critical: 0}\nignore: [{id: CVE-1-1, if: x, reason: it does no harm, until: 2026-12-01}]",
            "ignore[0].if",
        ),
    ],
)
def test_a_file_that_is_wrong_says_where(text: str, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        limits(text, TODAY, ["thing"])
    assert [problem.where for problem in caught.value.problems] == [where]


# --------------------------------------------------------------------------------------------- scanners and verb

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def program(folder: Path, name: str, script: str) -> str:
    """A scanner that answers as it is told. It stands for the answers alone: the real one is tried in tests/live."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def trivy(
    folder: Path, *, made: str = "2026-11-22T06:00:00.123456789Z", update: str = "exit 0", answer: str = ""
) -> None:
    (folder / "answer").write_text(answer or json.dumps(TRIVY), encoding="utf-8")
    version = json.dumps({"Version": "0.68.1", **({"VulnerabilityDB": {"UpdatedAt": made}} if made else {})})
    script = f"""
    case "$1 $2" in
        'image --download-db-only') {update} ;;
        'version --format') echo '{version}' ;;
        *) cat '{folder}/answer' ;;
    esac
    """
    program(folder, "trivy", script)


class Outcome(SimpleNamespace):
    code: int
    said: str


@pytest.fixture
def scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """What ./kit images scan does with the programs in a folder, for a stack of one image."""
    (tmp_path / imagescan.FILE).write_text("budget: {critical: 0, high: 0}\n", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv(imagescan.VARIABLE, raising=False)
    monkeypatch.setattr(imagescan, "references", lambda session: {"thing": "registry.example/thing:1"})
    session = cast(Any, SimpleNamespace(stack="dev", root=tmp_path, chosen_images=ImageSource.REGISTRY))

    def scan(as_json: bool = False) -> Outcome:
        try:
            code = imagescan.run(session, argparse.Namespace(json=as_json), NOW)
            end = ""
        except KitError as error:
            code, end = error.code, error.render()
        return Outcome(code=code, said=capsys.readouterr().out + end)

    return scan


def test_no_scanner_is_no_pass(scanned: Callable[..., Outcome]) -> None:
    outcome = scanned()
    assert outcome.code == 3 and "Nothing was judged" in outcome.said
    assert json.loads(scanned(as_json=True).said)["passed"] is False


def test_no_database_is_no_pass(scanned: Callable[..., Outcome], tmp_path: Path) -> None:
    trivy(tmp_path, made="", update="echo 'FATAL  cannot fetch the database' >&2; exit 1")
    outcome = scanned()
    assert outcome.code == 3
    assert "Trivy has no vulnerability database: trivy ended with 1: FATAL  cannot fetch the database" in outcome.said
    told = json.loads(scanned(as_json=True).said)
    assert told["passed"] is False and "no vulnerability database" in told["not_judged"]


def test_an_old_database_is_no_pass_and_one_that_is_there_will_do(
    scanned: Callable[..., Outcome], tmp_path: Path
) -> None:
    clean = json.dumps({**TRIVY, "Results": [{"Packages": [{"Name": "x"}]}]})
    trivy(tmp_path, made="2026-11-01T00:00:00Z", update="exit 1", answer=clean)
    outcome = scanned()
    assert outcome.code == 3 and "21 days old" in outcome.said
    trivy(tmp_path, made="2026-11-20T00:00:00Z", update="exit 1", answer=clean)
    assert scanned().code == 0


def test_over_the_budget(scanned: Callable[..., Outcome], tmp_path: Path) -> None:
    trivy(tmp_path)
    outcome = scanned()
    assert outcome.code == 1 and "critical CVE-2024-45491: libexpat1" in outcome.said
    told = json.loads(scanned(as_json=True).said)
    assert told["passed"] is False
    assert told["verdicts"][0]["counted"] == {"critical": 1} and told["verdicts"][0]["without_fix"] == 1


def test_an_answer_that_is_no_report_is_no_pass(scanned: Callable[..., Outcome], tmp_path: Path) -> None:
    for answer in ("nonsense", json.dumps({**TRIVY, "Results": None}), '{"SchemaVersion": 2, "Results": [7]}'):
        trivy(tmp_path, answer=answer)
        outcome = scanned()
        assert outcome.code == 3 and "not judged" in outcome.said


def test_a_budget_that_is_gone_is_no_pass(scanned: Callable[..., Outcome], tmp_path: Path) -> None:
    trivy(tmp_path)
    (tmp_path / imagescan.FILE).unlink()
    assert scanned().code == 3


def test_grype_serves_as_well(scanned: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(json.dumps(GRYPE), encoding="utf-8")
    status = json.dumps({"schemaVersion": "v6.1.0", "built": "2026-11-22T06:11:12Z", "valid": True})
    script = f"""case "$1 $2" in 'db update') ;; 'db status') echo '{status}' ;; *) cat '{tmp_path}/answer' ;; esac"""
    program(tmp_path, "grype", script)
    outcome = scanned()
    assert outcome.code == 0 and "Grype, database of 2026-11-22" in outcome.said


def test_a_scanner_is_named_by_a_variable(tmp_path: Path) -> None:
    path = program(tmp_path, "grype", "exit 0")
    assert imagescan.choose({imagescan.VARIABLE: path, "PATH": ""}).name == "Grype"
    for wrong in ("/no/such/trivy", program(tmp_path, "clair", "exit 0")):
        with pytest.raises(KitError) as caught:
            imagescan.choose({imagescan.VARIABLE: wrong, "PATH": str(tmp_path)})
        assert caught.value.code == 3
