"""Looks for what seems to be a secret in files that git has, or is about to get: python3 -m ops.secretscan --help.

Standard library only and in a moment, for the hook in githooks/ and for the fast tests. gitleaks knows many more
kinds, and reads the history: the hook asks it too where it was built. Both take their exceptions from
.gitleaks.toml. A finding names file, line and kind, never the value.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXCEPTIONS = ".gitleaks.toml"

# What issues such secrets gives them a form that is easy to find, on purpose.
FORMS: dict[str, re.Pattern[str]] = {
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\n|\s)*([A-Za-z0-9+/=]{40,})"),
    "AWS key": re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    "GitHub token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b"),
    "GitLab token": re.compile(r"\b(glpat-[A-Za-z0-9_-]{20,})"),
    "Slack token": re.compile(r"\b(xox[abeoprs]-[A-Za-z0-9-]{20,})"),
    "Google API key": re.compile(r"\b(AIza[0-9A-Za-z_-]{35})\b"),
    "Google OAuth secret": re.compile(r"\b(GOCSPX-[0-9A-Za-z_-]{28})\b"),
    "Telegram bot token": re.compile(r"\b([0-9]{8,10}:AA[A-Za-z0-9_-]{33})\b"),
    "OpenAI key": re.compile(r"\b(sk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{32,})\b"),
    "JSON Web Token": re.compile(r"\b(eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,})"),
    "Pulumi token": re.compile(r"\b(pul-[0-9a-f]{40})\b"),
}

# A value beside a word that says what it is. What people write as an example has few different characters, or words.
ASSIGNED = re.compile(
    r"""(?ix)(?:pass(?:word|phrase|wd)|secret|token|api_?key|encryption_?key|credential)[a-z0-9_]*["'`]?
        \s*(?:=>|:=|[:=])\s*["'`]?([A-Za-z0-9+/=_.~!@#%^&*-]{16,})["'`]?(?:[\s,;)}\]]|$)"""
)
RANDOM_BITS = 3.6  # bits per character of a value: 16 random letters and digits have 3.7 or more, words 3.3 or less


@dataclass(frozen=True)
class Finding:
    """Where something stands that looks like a secret, and what kind it is."""

    file: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}"


@dataclass(frozen=True)
class Allowed:
    """An exception of .gitleaks.toml: files, or values, with the reason. both: such values in such files alone."""

    reason: str
    paths: tuple[re.Pattern[str], ...]
    values: tuple[re.Pattern[str], ...]
    both: bool = False

    def covers(self, file: str, value: str) -> bool:
        found = (any(path.search(file) for path in self.paths), any(text.search(value) for text in self.values))
        return all(found) if self.both else any(found)


def exceptions(root: Path = ROOT) -> tuple[Allowed, ...]:
    """What .gitleaks.toml lets through."""
    written = tomllib.loads((root / EXCEPTIONS).read_text(encoding="utf-8"))
    return tuple(
        Allowed(
            entry.get("description", ""),
            tuple(map(re.compile, entry.get("paths", ()))),
            tuple(map(re.compile, entry.get("regexes", ()))),
            entry.get("condition") == "AND",
        )
        for entry in written.get("allowlists", ())
    )


def findings(file: str, text: str, allowed: Iterable[Allowed] = ()) -> Iterator[Finding]:
    """What looks like a secret in a text."""
    seen: set[int] = set()
    patterns = [*FORMS.items(), ("value that looks random", ASSIGNED)]
    for kind, pattern in patterns:
        for match in pattern.finditer(text):
            value = match.group(1)
            if pattern is ASSIGNED and not looks_random(value):
                continue
            line = text.count("\n", 0, match.start(1)) + 1
            if line not in seen and not any(exception.covers(file, value) for exception in allowed):
                seen.add(line)
                yield Finding(file, line, kind)


def looks_random(value: str) -> bool:
    """Whether a generator made this, and no person: letters and digits mixed, and hardly any repeated."""
    if not (re.search(r"[0-9]", value) and re.search(r"[A-Za-z]", value)):
        return False
    if re.fullmatch(r"[a-z0-9]+([-_./][a-z0-9]+)+", value) or re.fullmatch(r"[A-Za-z_.]+[0-9]{0,3}", value):
        return False  # a path, a name with a number
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return bits >= RANDOM_BITS


def tracked(root: Path, *, staged: bool = False) -> dict[str, bytes]:
    """The files of the clone, or those that the next commit changes, as that commit will have them."""
    if staged:
        names = _git(root, "diff", "--cached", "--name-only", "-z", "--diff-filter=ACMR").split(b"\0")
        return {name.decode(): _git(root, "show", f":{name.decode()}") for name in names if name}
    listed = [name.decode() for name in _git(root, "ls-files", "-z").split(b"\0") if name]
    return {name: (root / name).read_bytes() for name in listed if (root / name).is_file()}


def scan(root: Path, *, staged: bool = False) -> list[Finding]:
    """What looks like a secret in the clone. Binary files are left to gitleaks."""
    allowed = exceptions(root)
    found: list[Finding] = []
    for name, content in tracked(root, staged=staged).items():
        if b"\0" not in content[:8192]:
            found += findings(name, content.decode("utf-8", errors="replace"), allowed)
    return found


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when something was found."""
    parser = argparse.ArgumentParser(prog="python3 -m ops.secretscan", description="Find secrets in tracked files.")
    parser.add_argument("--staged", action="store_true", help="only what the next commit changes")
    found = scan(ROOT, staged=parser.parse_args(arguments).staged)
    for finding in found:
        print(finding, file=sys.stderr)
    if found:
        print(
            "These look like secrets. Take them out: configuration takes secrets by `pulumi config set --secret`.\n"
            f"If one is none, say so with the reason in {EXCEPTIONS}. What was pushed has leaked: docs/security.md",
            file=sys.stderr,
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
