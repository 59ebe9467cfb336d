"""No tracked file holds a secret, the hook refuses one, and the reference of secrets is what the services say."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import secretref, secretscan
from ops.secretscan import Allowed, findings, looks_random
from stack import catalog

# In pieces: a whole one in this file would be found.
RANDOM = "x7Kq2mVb9RtL4wZs" + "8NcJ1yHd6PfG3aQe"
PLANTED = {
    "private key": "-----BEGIN EC " + "PRIVATE KEY-----\nMHcCAQEEI" + RANDOM + RANDOM + "\n",
    "private key in JSON": '"-----BEGIN ' + "PRIVATE KEY-----\\nMHcCAQEEI" + RANDOM + RANDOM + '\\n"',
    "AWS key": "AKIA" + "Q3EGR5TZ7WXV2LPN",
    "GitHub token": "ghp" + "_" + RANDOM + "Tu5o",
    "Slack token": "xoxb" + "-123456789012-" + RANDOM,
    "Google API key": "AIza" + RANDOM + "Tu5",
    "Telegram bot token": "123456789" + ":AA" + RANDOM + "T",
    "OpenAI key": "sk-proj" + "-" + RANDOM,
    "JSON Web Token": ".".join(("eyJhbGci" + "OiJIUzI1NiJ9", "eyJyb2xl" + "IjoiYW5vbiJ9", RANDOM)),
    "value that looks random": f'password = "{RANDOM}"',
    "in YAML": f"telegramBotSecret: {RANDOM}",
    "in JSON": f'{{"apiKey": "{RANDOM}"}}',
    "in a shell": f"export API_TOKEN={RANDOM}",
}
HARMLESS = (
    'Secret("session-key", Generated(length=48), AsExport("WEBUI_SECRET_KEY"))',
    "POSTGRES_PASSWORD_FILE=/run/kit/superuser-password",
    "password: correct-horse-battery-staple",
    "  ai-kit:openaiApiKey:\n    secure: v1:abcdefghijkl:0123456789",
    "token = secrets.token_urlsafe(32)",
    "sha256:8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
    "-----BEGIN CERTIFICATE-----\nMHcCAQEEI",
    "the header -----BEGIN " + "PRIVATE KEY----- alone says nothing",
)


def test_no_tracked_file_holds_a_secret(root: Path) -> None:
    assert [str(finding) for finding in secretscan.scan(root)] == []


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_is_found(kind: str) -> None:
    found = list(findings("notes", f"first line\n{PLANTED[kind]}\n"))
    assert [finding.line for finding in found][:1] == [2] or (kind.startswith("private key") and len(found) == 1)
    assert all(RANDOM not in str(finding) for finding in found), "a finding names no value"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert list(findings("notes", text)) == []


def test_what_people_write_does_not_look_random() -> None:
    assert not any(
        map(looks_random, ("change-me-please-1", "aaaaaaaaaaaaaaaaaaaa1", "docs/services/n8n.md", "Password12345"))
    )
    assert looks_random(RANDOM)


def test_every_exception_says_why_and_is_a_narrow_one(root: Path) -> None:
    written = tomllib.loads((root / secretscan.EXCEPTIONS).read_text(encoding="utf-8"))
    assert set(written) == {"title", "extend", "allowlists"}
    for entry in written["allowlists"]:
        assert len(entry["description"]) > 20, entry
        assert set(entry) <= {"description", "paths", "regexes", "condition", "regexTarget"}
        for pattern in (*entry.get("paths", ()), *entry.get("regexes", ())):
            assert pattern.startswith("^") and pattern.endswith("$") and ".*" not in pattern, pattern


def test_an_exception_covers_a_file_or_a_value() -> None:
    import re

    text = f'password = "{RANDOM}"'
    assert list(findings("notes", text))
    assert not list(findings("notes", text, [Allowed("why", (), (re.compile(f"^{RANDOM}$"),))]))
    assert not list(findings("notes", text, [Allowed("why", (re.compile("^notes$"),), ())]))
    assert list(findings("other", text, [Allowed("why", (re.compile("^notes$"),), ())]))
    both = [Allowed("why", (re.compile("^notes$"),), (re.compile("^[0-9]+$"),), both=True)]
    assert list(findings("notes", text, both))


def test_the_hook_refuses_a_commit_with_a_secret(root: Path, tmp_path: Path) -> None:
    def git(*words: str) -> subprocess.CompletedProcess[str]:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    for name in ("ops/__init__.py", "ops/secretscan.py", "githooks/pre-commit", secretscan.EXCEPTIONS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    git("init", "-q")
    git("config", "core.hooksPath", "githooks")
    git("add", "-A")
    first = git("commit", "-q", "-m", "without")
    assert first.returncode == 0, first.stderr
    (tmp_path / "notes").write_text(PLANTED["GitHub token"], encoding="utf-8")
    assert git("commit", "-q", "--allow-empty", "-m", "not staged").returncode == 0
    git("add", "notes")
    refused = git("commit", "-q", "-m", "with")
    assert refused.returncode != 0
    assert "notes:1: GitHub token" in refused.stderr
    assert RANDOM not in refused.stderr


def test_the_reference_of_secrets_is_current(golden: Callable[[str, str], None]) -> None:
    golden("docs/reference/secrets.md", secretref.render(secretref.everything()))


def test_every_secret_has_readers_that_are_known() -> None:
    """One that nobody reads is no use; a plain variable costs a reason, and no service has one now."""
    page = secretref.render(secretref.everything())
    rows = [line for line in page.splitlines() if line.startswith("| ") and "/" in line.split("|")[1]]
    # Those that a service has for a choice of the operator may go into its data, and no file. No others.
    always = {f"{spec.name}/{secret.name}" for spec in catalog.discover() for secret in spec.secrets}
    assert not [row for row in rows if secretref.NO_CONTAINER in row and row.split()[1] in always]
    assert "plain variable" not in page


def test_the_page_has_every_secret_of_the_catalogue() -> None:
    """Those too that a choice of the operator adds, and those of workflows: each with who reads it."""
    page = secretref.render(secretref.everything())
    services = catalog.discover()
    for spec in services:
        options = [option(spec) for choice in spec.choices for option in choice.options.values()]
        for secret in (secret for each in (spec, *options) for secret in each.secrets):
            assert f"| {spec.name}/{secret.name} |" in page
        for database in spec.databases:
            assert f"| {spec.name}/db:{database.name} |" in page
    for key in catalog.provided_keys(services):
        assert f"`{key}`" in page
