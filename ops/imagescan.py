"""./kit images scan: known vulnerabilities of every image of a stack, by Trivy or Grype, against a budget.

Nothing passes that was not looked at: no scanner, no vulnerability database, one that is too old, an answer that is not
understood, or an image in which no package was recognized, each ends it with exit code 3. 1 is over the budget.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ops import console
from ops.console import KitError
from stack.model import ImageSource, Problem, SpecError
from stack.plan import image_reference
from stack.words import did_you_mean

if TYPE_CHECKING:
    from ops.session import Session

FILE = "images.scan.yaml"
SEVERITIES = ("critical", "high", "medium", "low", "negligible", "unknown")
LONGEST_DAYS = 365  # that somebody may look away for
PATIENCE_S = 1800  # for one image: a first one fetches the database
NOT_JUDGED = 3


# --------------------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True, kw_only=True)
class Ignore:
    """A finding that does not count until the end of a day. image: "" is every one."""

    id: str
    image: str
    reason: str
    until: date


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What FILE says: severity -> most findings of an image, and what does not count."""

    budget: Mapping[str, int]
    only_fixable: bool = True
    database_days: int = 7
    ignore: tuple[Ignore, ...] = ()


KEYS = ("budget", "only_fixable", "database_days", "ignore")
IGNORE_KEYS = ("id", "image", "reason", "until")


def limits(text: str, today: date, images: Iterable[str] = ()) -> Limits:
    """The limits that a text of FILE's form sets. SpecError with everything that is wrong with it."""
    problems: list[Problem] = []
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(FILE, (Problem(where=FILE, what=f"is no YAML: {error}", fix="mend it"),)) from error
    document: Mapping[str, Any] = read if isinstance(read, dict) else {}

    def wrong(where: str, what: str, fix: str) -> None:
        problems.append(Problem(where=where, what=what, fix=fix))

    for key in document:
        if key not in KEYS:
            wrong(str(key), "is no key", did_you_mean(str(key), KEYS) or f"one of {', '.join(KEYS)}")
    budget = document.get("budget")
    if not isinstance(budget, dict) or not budget:
        wrong("budget", "is missing: nothing would ever fail", "budget: {critical: 0, high: 0}")
        budget = {}
    for severity, most in budget.items():
        if severity not in SEVERITIES:
            wrong(f"budget.{severity}", "is no severity", f"one of {', '.join(SEVERITIES)}")
        elif not isinstance(most, int) or isinstance(most, bool) or most < 0:
            wrong(f"budget.{severity}", f"{most!r} is no number of findings", "0 or more")
    only_fixable = document.get("only_fixable", True)
    if not isinstance(only_fixable, bool):
        wrong("only_fixable", f"is {only_fixable!r}", "true or false")
    days = document.get("database_days", 7)
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= 30:
        wrong("database_days", f"is {days!r}", "a number from 1 to 30")
    listed = document.get("ignore") or []
    if not isinstance(listed, list):
        wrong("ignore", "is no list", "one entry for each: id, reason, until")
        listed = []
    known = frozenset(images)
    ignored = [_ignore(f"ignore[{index}]", item, today, known, wrong) for index, item in enumerate(listed)]
    if problems:
        raise SpecError(FILE, tuple(problems))
    return Limits(
        budget=dict(budget),
        only_fixable=only_fixable,
        database_days=days,
        ignore=tuple(item for item in ignored if item),
    )


def _ignore(
    where: str, item: Any, today: date, images: frozenset[str], wrong: Callable[[str, str, str], None]
) -> Ignore | None:
    if not isinstance(item, dict):
        wrong(where, "is no entry", "id, reason, until, and image where it is for one alone")
        return None
    for key in item:
        if key not in IGNORE_KEYS:
            wrong(f"{where}.{key}", "is no key", f"one of {', '.join(IGNORE_KEYS)}")
    name, reason, until = str(item.get("id") or ""), str(item.get("reason") or "").strip(), item.get("until")
    image = str(item.get("image") or "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:_-]{3,}", name):
        wrong(f"{where}.id", f"{name!r} names no finding", "as the scanner calls it: CVE-2026-0001, GHSA-...")
    if len(reason) < 10:
        wrong(f"{where}.reason", "is missing", "why the finding does no harm here, in words that convince a stranger")
    if image and images and image not in images:
        wrong(f"{where}.image", f"there is no image {image}", did_you_mean(image, images) or "./kit images lists them")
    if isinstance(until, datetime) or not isinstance(until, date):
        wrong(f"{where}.until", "is no day" if until else "is missing", "until: YYYY-MM-DD, the last day it holds")
        return None
    if until > today + timedelta(days=LONGEST_DAYS):
        wrong(
            f"{where}.until", f"{until} is more than a year away", f"a day within {LONGEST_DAYS} days; look again then"
        )
    return Ignore(id=name, image=image, reason=reason, until=until)


# -------------------------------------------------------------------------------------------------------- answers


class Unjudged(Exception):  # noqa: N818 - it is a verdict
    """Why an image could not be looked at, or not well enough to say anything."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One vulnerability of one package. fixed: the version that mends it, "" where none does."""

    id: str
    severity: str
    package: str
    installed: str
    fixed: str


def read_trivy(text: str) -> tuple[Finding, ...]:
    """The findings in what `trivy image --format json --list-all-pkgs` prints. Unjudged for anything else."""
    document = _object(text, "Trivy")
    if document.get("SchemaVersion") != 2:
        raise Unjudged(f"Trivy answered in schema {document.get('SchemaVersion')!r}, and 2 is known here")
    results = document.get("Results") or []
    if not any(result.get("Packages") or result.get("Vulnerabilities") for result in results):
        raise Unjudged("Trivy recognized no package in it, which says nothing about what is in it")
    return tuple(
        Finding(
            id=str(item["VulnerabilityID"]),
            severity=_severity(item.get("Severity")),
            package=str(item.get("PkgName", "")),
            installed=str(item.get("InstalledVersion", "")),
            fixed=str(item.get("FixedVersion") or ""),
        )
        for result in results
        for item in result.get("Vulnerabilities") or []
    )


def read_grype(text: str) -> tuple[Finding, ...]:
    """The findings in what `grype -o json` prints. Unjudged for anything else."""
    document = _object(text, "Grype")
    if (document.get("descriptor") or {}).get("name") != "grype" or not isinstance(document.get("matches"), list):
        raise Unjudged("what Grype answered is not what it is known to answer")
    found: list[Finding] = []
    for match in document["matches"]:
        about, package = match["vulnerability"], match["artifact"]
        fix = about.get("fix") or {}
        found.append(
            Finding(
                id=str(about["id"]),
                severity=_severity(about.get("severity")),
                package=str(package.get("name", "")),
                installed=str(package.get("version", "")),
                fixed=", ".join(map(str, fix.get("versions") or [])) if fix.get("state") == "fixed" else "",
            )
        )
    return tuple(found)


def _object(text: str, who: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise Unjudged(f"{who} printed no JSON: {text[:80]!r}") from error
    if not isinstance(document, dict):
        raise Unjudged(f"{who} printed JSON that is no report")
    return document


def _severity(word: object) -> str:
    """As here; what is not known counts as unknown, which a budget may limit like any other."""
    text = str(word or "unknown").lower()
    return text if text in SEVERITIES else "unknown"


# ------------------------------------------------------------------------------------------------------ judgement


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one image: findings that count, by severity; over: severities beyond the budget; the rest does not count."""

    image: str
    reference: str
    counted: Mapping[str, int]
    over: tuple[str, ...]
    findings: tuple[Finding, ...]
    ignored: tuple[str, ...]
    without_fix: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of a stack. expired, unused: entries of the list of what is ignored."""

    scanner: str
    verdicts: tuple[Verdict, ...]
    unjudged: Mapping[str, str]
    expired: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return bool(self.verdicts) and not (self.unjudged or self.expired or any(each.over for each in self.verdicts))

    @property
    def code(self) -> int:
        if self.passed:
            return 0
        return NOT_JUDGED if self.unjudged or not self.verdicts else 1


def judge(
    scanner: str,
    found: Mapping[str, tuple[str, tuple[Finding, ...]]],
    unjudged: Mapping[str, str],
    rules: Limits,
    today: date,
) -> Report:
    """What the findings mean. found: image -> its reference and findings. An ignore past its day ignores nothing."""
    living = [item for item in rules.ignore if item.until >= today]
    used: set[Ignore] = set()
    verdicts: list[Verdict] = []
    for image, (reference, findings) in sorted(found.items()):
        ignored: list[str] = []
        counting: list[Finding] = []
        for finding in dict.fromkeys(findings):  # one package may be found in several layers
            fitting = [item for item in living if item.id == finding.id and item.image in ("", image)]
            used |= set(fitting)
            if fitting:
                ignored.append(f"{finding.id} until {max(item.until for item in fitting)}: {fitting[0].reason}")
            else:
                counting.append(finding)
        without = [finding for finding in counting if rules.only_fixable and not finding.fixed]
        counted = Counter(finding.severity for finding in counting if finding not in without)
        verdicts.append(
            Verdict(
                image=image,
                reference=reference,
                counted={severity: counted[severity] for severity in SEVERITIES if counted[severity]},
                over=tuple(s for s in SEVERITIES if s in rules.budget and counted[s] > rules.budget[s]),
                findings=tuple(sorted(set(counting) - set(without), key=_order)),
                ignored=tuple(sorted(set(ignored))),
                without_fix=len(without),
            )
        )
    return Report(
        scanner=scanner,
        verdicts=tuple(verdicts),
        unjudged=dict(unjudged),
        expired=tuple(_entry(item) for item in rules.ignore if item.until < today),
        unused=tuple(_entry(item) for item in living if item not in used) if not unjudged else (),
    )


def _entry(item: Ignore) -> str:
    return f"{item.id}{f' of {item.image}' if item.image else ''}, until {item.until}"


def _order(finding: Finding) -> tuple[int, str, str]:
    return SEVERITIES.index(finding.severity), finding.id, finding.package


def render(report: Report, rules: Limits) -> list[str]:
    """The report for a person."""
    allowed = ", ".join(f"{most} {severity}" for severity, most in rules.budget.items())
    lines = [
        f"Scanned with {report.scanner}. An image may have: {allowed}"
        + " (that a newer package mends)." * rules.only_fixable
    ]
    for each in report.verdicts:
        counts = ", ".join(f"{count} {severity}" for severity, count in each.counted.items()) or "nothing that counts"
        more = f"; {each.without_fix} without a fix" if each.without_fix else ""
        more += f"; {len(each.ignored)} ignored" if each.ignored else ""
        lines.append(f"  {console.mark(console.FAIL if each.over else console.OK)} {each.image}: {counts}{more}")
        lines += [
            f"      {finding.severity} {finding.id}: {finding.package} {finding.installed}"
            + (f", mended in {finding.fixed}" if finding.fixed else "")
            for finding in each.findings
            if finding.severity in each.over
        ]
        lines += [f"      ignored: {text}" for text in each.ignored]
    for image, why in sorted(report.unjudged.items()):
        lines.append(f"  {console.mark(console.FAIL)} {image}: not judged: {why}")
    lines += [f"  {console.mark(console.FAIL)} {FILE}: the day is over: {entry}" for entry in report.expired]
    lines += [f"  {console.mark(console.WARN)} {FILE}: nothing has it any more: {entry}" for entry in report.unused]
    return lines


# -------------------------------------------------------------------------------------------------------- scanner


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """A program, and how it is asked. built: from its own words, when its database was made."""

    name: str
    program: str
    argv: Callable[[str], list[str]]
    read: Callable[[str], tuple[Finding, ...]]
    prepare: tuple[str, ...]
    status: tuple[str, ...]
    built: Callable[[str], str]


def _trivy(program: str) -> Scanner:
    options = ["--quiet", "--format", "json", "--scanners", "vuln", "--list-all-pkgs", "--skip-db-update"]
    return Scanner(
        name="Trivy",
        program=program,
        argv=lambda reference: [program, "image", *options, reference],
        read=read_trivy,
        prepare=("image", "--download-db-only", "--quiet"),
        status=("version", "--format", "json"),
        built=lambda text: str((_object(text, "Trivy").get("VulnerabilityDB") or {}).get("UpdatedAt") or ""),
    )


def _grype(program: str) -> Scanner:
    return Scanner(
        name="Grype",
        program=program,
        argv=lambda reference: [program, f"docker:{reference}", "--quiet", "--output", "json"],
        read=read_grype,
        prepare=("db", "update"),
        status=("db", "status", "--output", "json"),
        built=lambda text: str(_object(text, "Grype").get("built") or ""),
    )


SCANNERS: Mapping[str, Callable[[str], Scanner]] = {"trivy": _trivy, "grype": _grype}
VARIABLE = "AIKIT_SCANNER"


def choose(environ: Mapping[str, str] = os.environ) -> Scanner:
    """The scanner that VARIABLE names by its path, or the first on PATH. KitError when there is none."""
    wanted = environ.get(VARIABLE, "")
    if wanted:
        found = shutil.which(wanted)
        kind = next((name for name in SCANNERS if name in Path(wanted).name), "")
        if not found or not kind:
            raise KitError(
                f"{VARIABLE} is {wanted}, which is no program called trivy or grype. Nothing was judged.",
                "let it name one of them, or take it away: those on PATH are found by themselves",
                code=NOT_JUDGED,
            )
        return SCANNERS[kind](found)
    for name, make in SCANNERS.items():
        if found := shutil.which(name, path=environ.get("PATH")):
            return make(found)
    raise KitError(
        "There is neither Trivy nor Grype here. Nothing was judged, and nothing passes.",
        "install one: https://trivy.dev or https://github.com/anchore/grype, as its own pages say",
        code=NOT_JUDGED,
    )


def _ask(argv: list[str], environ: Mapping[str, str] | None = None) -> str:
    """What the program printed. Unjudged with its last words when it fails."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise Unjudged(f"{Path(argv[0]).name} did not end within {PATIENCE_S} s") from error
    except OSError as error:
        raise Unjudged(f"{argv[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise Unjudged(f"{Path(argv[0]).name} ended with {done.returncode}: {_last_words(done.stderr or done.stdout)}")
    return done.stdout


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def _last_words(text: str) -> str:
    lines = [_COLOUR.sub("", line).strip() for line in text.splitlines()]
    return " ".join(next(([line] for line in reversed(lines) if line), ["without a word"]))[-400:]


def database(scanner: Scanner, days: int, now: datetime) -> str:
    """The day on which the scanner's database was made, once it was fetched. Unjudged: there is none, or an old one."""
    trouble = ""
    try:
        _ask([scanner.program, *scanner.prepare])
    except Unjudged as error:
        trouble = str(error)  # the one that is there may do
    try:
        built = scanner.built(_ask([scanner.program, *scanner.status]))
        made = datetime.fromisoformat(built) if built else None
    except (Unjudged, ValueError):
        made = None
    if made is None:
        raise Unjudged(f"{scanner.name} has no vulnerability database{f': {trouble}' if trouble else ''}")
    age = now - (made if made.tzinfo else made.replace(tzinfo=UTC))
    if age > timedelta(days=days):
        why = f", and a newer one could not be had: {trouble}" if trouble else ""
        raise Unjudged(f"the database of {scanner.name} is {age.days} days old{why}")
    return made.date().isoformat()


# ----------------------------------------------------------------------------------------------------------- verb


def references(session: Session) -> dict[str, str]:
    """The images of a stack as the engine knows them, by name."""
    from ops.planview import used_images

    plan = session.plan()
    if session.chosen_images == ImageSource.AIRGAP:
        built = session.built_images()
        return {pin.name: built[pin.name] for pin in used_images(plan) if pin.name in built}
    return {pin.name: image_reference(plan.settings, pin)[0] for pin in used_images(plan)}


def scan(scanner: Scanner, images: Mapping[str, str]) -> Iterator[tuple[str, tuple[Finding, ...] | str]]:
    """Each image with its findings, or why it could not be judged; one after the other: a scan takes a gigabyte."""
    for image, reference in sorted(images.items()):
        try:
            yield image, scanner.read(_ask(scanner.argv(reference), {"GRYPE_DB_AUTO_UPDATE": "false"}))
        except (Unjudged, KeyError, TypeError, AttributeError) as error:
            yield image, str(error) or f"{scanner.name} answered something else than it is known to"


def run(session: Session, arguments: argparse.Namespace, now: datetime | None = None) -> int:
    """0: within the budget. 1: not. 3: could not be judged, which is no pass either."""
    now = now or datetime.now(UTC)
    images = references(session)
    try:
        text = (session.root / FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise KitError(
            f"{FILE}: {error.strerror}: there is no budget to hold the images to.",
            "git checkout " + FILE,
            code=NOT_JUDGED,
        ) from error
    rules = limits(text, now.date(), _every_image())
    try:
        scanner = choose()
        made = database(scanner, rules.database_days, now)
    except KitError as error:
        if not arguments.json:
            raise
        console.say(json.dumps({"stack": session.stack, "passed": False, "not_judged": error.what}, indent=2))
        return NOT_JUDGED
    except Unjudged as error:
        if arguments.json:
            console.say(json.dumps({"stack": session.stack, "passed": False, "not_judged": str(error)}, indent=2))
            return NOT_JUDGED
        fix = (
            "Scan where its database can be fetched (CI does: .github/workflows/images.yml), or bring one along as the "
            "scanner's own pages say."
        )
        raise KitError(f"{error}. Nothing was judged, and nothing passes.", fix, code=NOT_JUDGED) from error
    found: dict[str, tuple[str, tuple[Finding, ...]]] = {}
    unjudged: dict[str, str] = {}
    for image, result in scan(scanner, images):
        if isinstance(result, str):
            unjudged[image] = result
        else:
            found[image] = (images[image], result)
    report = judge(f"{scanner.name}, database of {made}", found, unjudged, rules, now.date())
    if arguments.json:
        console.say(json.dumps({"stack": session.stack, "passed": report.passed, **asdict(report)}, indent=2))
        return report.code
    for line in render(report, rules):
        console.say(line)
    if not report.passed:
        console.say()
        raise KitError(
            "The images of this stack do not pass." if report.code == 1 else "Not every image could be judged.",
            f"Take newer releases (./kit images says which there are), or say in {FILE} why a finding does no harm, "
            "and until when."
            if report.code == 1
            else "Nothing passes that was not looked at.",
            code=report.code,
        )
    return 0


def _every_image() -> frozenset[str]:
    """Names of all images that any service has: what is ignored for one may belong to another stack."""
    from stack import images
    from stack.model import ImagePin

    return frozenset(value.name for value in vars(images).values() if isinstance(value, ImagePin))
