"""Every secret of a stack, looked for wherever anybody but its containers could read: none is there, planted ones are.

One full run of ./kit with every service, workflow and provider there is; what the operator sets is hostile. The places:
tests/live/leaks.py.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import planview, secretscan
from stack import catalog
from stack.automation import templates
from stack.automation.template import Kind
from stack.derive import compose
from stack.derive import runtime as derived
from stack.derive.models import TINY_CHAT, TINY_EMBEDDING
from stack.derive.runtime import Runtime, Text
from tests.live import leaks
from tests.live.kitclone import ROOT, Clone, Outcome, engine_of, free_ports
from tests.live.leaks import Needles, Passing, Place
from tests.live.pulumi_project import docker
from tests.live.trial import HOSTILE

pytestmark = pytest.mark.live

STACK = "leaktest"
SERVICES = catalog.discover()
PROFILES = list(catalog.profiles(SERVICES))
# Everything that the operator may set. Each with an end of its own: what is tried elsewhere stands in the tests' files.
PROVIDED = {
    key: (HOSTILE if number % 2 else HOSTILE[::-1]) + secrets.token_hex(8)
    for number, key in enumerate(sorted(catalog.provided_keys(SERVICES)))
}
NOWHERE = "https://company.invalid"
# A bot is only switched on once its server was told where to call: tests/live/test_workflows.py has one that answers.
OFFLINE = [
    template
    for template in templates.discover()
    if "telegramBotToken" not in {item.key for item in template.config_keys}
]
# What asks for them. Nobody of these answers, or is asked: logins and mails are tried elsewhere.
ASKING = {
    "identityProviders": [
        "google = kit",
        "github = kit",
        f"oidc = kit issuer={NOWHERE} authorize={NOWHERE}/a token={NOWHERE}/t keys={NOWHERE}/k",
    ],
    "mailServer": "starttls://kit@mail.company.invalid:587",
    "mailFrom": "kit@company.invalid",
    "models": list(TINY_CHAT),
    "embeddingModel": TINY_EMBEDDING,
    "workflows": [template.name for template in OFFLINE],
    "workflowParameters": [
        f"{template.name}.{parameter.name}={NOWHERE if parameter.kind is Kind.ADDRESS else 'kit_tester'}"
        for template in OFFLINE
        for parameter in template.parameters
        if parameter.default is None or (parameter.kind is Kind.ADDRESS and isinstance(parameter.default, str))
    ],
}


@dataclass
class Run:
    """A stack that was brought up by ./kit, and all that was seen meanwhile."""

    clone: Clone
    since: float
    first: Outcome
    secrets: dict[str, str] = field(default_factory=dict[str, str])
    passing: Passing = field(default_factory=Passing)
    said: dict[str, str] = field(default_factory=dict[str, str])
    runtime: Runtime | None = None

    @property
    def home(self) -> Path:
        return self.clone.state_home / "ai-kit"

    @property
    def planned(self) -> Runtime:
        assert self.runtime
        return self.runtime

    def quietly(self, *arguments: str) -> str:
        """Plain Pulumi, whose output is kept nowhere."""
        outcome = self.clone.pulumi(*arguments, "--stack", STACK)
        kept = (
            self.clone.log / f"{self.clone.count:02d}-pulumi-{'-'.join(word.strip('-') for word in arguments[:2])}.log"
        )
        kept.unlink(missing_ok=True)
        assert outcome.code == 0, f"pulumi {arguments[0]} failed"
        return outcome.text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The full run. Nothing of it is on the host before and after."""
    if os.geteuid() != 0:
        pytest.skip("other users' processes and the engine's files are root's to read")
    artifacts = ROOT / "artifacts" / "leaks"
    shutil.rmtree(artifacts, ignore_errors=True)
    home = tmp_path_factory.mktemp("leaks")
    clone = Clone(directory=home / "clone", state_home=home / "state", log=artifacts)
    http, https, admin = free_ports(3)
    ports = {"httpPort": http, "httpsPort": https, "adminPort": admin}
    clone.write_stack(STACK, **ports, profiles=PROFILES, memoryMb=22528, **ASKING)
    remove(clone)
    try:
        since = time.time()
        provide(clone)
        with Passing() as passing:
            first = clone.kit("up", STACK, timeout=2400)
        made = Run(clone, since, first, passing=passing)
        if first.code == 0:
            learn(made)
        yield made
    finally:
        remove(clone)


def provide(clone: Clone) -> None:
    """Set what the operator has, as docs/guide.md says: encrypted, in the stack's file, which is committed."""
    from ops import toolchain
    from ops.progress import Progress
    from ops.session import Session

    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(clone.state_home)
    try:
        toolchain.ensure(Progress(), toolchain.sdk_versions())
        pulumi = Session(STACK, clone.directory).ready_pulumi()
    finally:
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before

    def call(*arguments: str, stdin: str | None = None) -> None:
        command = [pulumi.program, *arguments, "--stack", STACK, "--non-interactive"]
        done = subprocess.run(
            command, cwd=clone.directory, env=pulumi.environment, input=stdin, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr.replace(stdin or "\0", "...")

    call("stack", "init", "--no-select")
    for key, value in PROVIDED.items():
        call("config", "set", "--secret", key, stdin=value)
    clone.commit()


def learn(run: Run) -> None:
    """Every secret, and what commands say that are asked for none."""
    passphrase = (run.home / "passphrase").read_text(encoding="utf-8").strip()
    exported = json.loads(run.quietly("stack", "export", "--show-secrets"))
    run.secrets = leaks.secrets_of(exported, PROVIDED, passphrase)
    run.runtime = derived.build(planview.load_plan(run.clone.directory, STACK, _overrides(run)))
    run.said = {
        "./kit up": run.first.text,
        "./kit up again": run.clone.kit("up", STACK, "--no-prove").text,
        "./kit status": run.clone.kit("status", STACK).text,
        "./kit plan": run.clone.kit("plan", STACK, "--json").text,
        "pulumi stack export": run.quietly("stack", "export"),
        "pulumi stack output": run.quietly("stack", "output", "--json"),
        "./kit preview": run.clone.kit("preview", STACK, "--diff", "--refresh").text,
    }


def _overrides(run: Run) -> dict[str, Any]:
    """What ./kit decided beside the stack's file."""

    def config(file: Path) -> dict[str, Any]:
        return yaml.safe_load(file.read_text(encoding="utf-8"))["config"]

    own = config(run.clone.directory / f"Pulumi.{STACK}.yaml")
    merged = config(run.home / "stacks" / STACK / f"Pulumi.{STACK}.yaml")
    return {key.partition(":")[2]: value for key, value in merged.items() if key not in own}


def remove(clone: Clone) -> None:
    if not engine_of(STACK).empty:
        clone.kit("down", STACK, "--data", "--yes-delete", STACK)


# ------------------------------------------------------------------------------------------------------- places


def said(run: Run) -> Iterable[Place]:
    return leaks.texts(**run.said)


def composed(run: Run) -> Iterable[Place]:
    """The exported compose file. What it binds lies beside it, in private files."""

    def read(text: Text) -> str:
        return "".join(piece if isinstance(piece, str) else f"<{type(piece).__name__}>" for piece in text)

    document = compose.project(run.planned, STACK, read).document
    return leaks.texts(compose=json.dumps(document, ensure_ascii=False))


PLACES: dict[str, Callable[[Run], Iterable[Place]]] = {
    "git": lambda run: leaks.git_history(run.clone.directory),
    "work tree": lambda run: leaks.files_below(
        run.clone.directory, "clone", but=[run.clone.directory / ".git", run.clone.directory / ".venv"]
    ),
    # The state with its history, the merged configuration, choices, logs and event logs of every run.
    "state directory": lambda run: leaks.files_below(run.home, "state", but=[run.home / "passphrase"]),
    "kept outputs": lambda run: leaks.files_below(run.clone.log, "artifacts"),
    "said": said,
    "docker": lambda run: leaks.described(STACK),
    "logs": lambda run: leaks.logs(STACK),
    "events": lambda run: [leaks.events(STACK, run.since)],
    "processes": lambda run: leaks.processes(STACK, leaks.declared_variables(run.planned)),
    # Of every process that there was meanwhile: those of the jobs, of ./kit and of Pulumi.
    "command lines": lambda run: [run.passing.command_lines],
    "variables": lambda run: run.passing.variables(STACK, leaks.declared_variables(run.planned)),
    "layers": lambda run: leaks.layers(STACK),
    "compose": composed,
    "journal": lambda run: leaks.journal(run.since),
}


def test_the_stack_is_up(run: Run) -> None:
    assert run.first.code == 0, run.first.text


def test_every_service_is_in_it(run: Run) -> None:
    """The catalogue's: a new one is looked at without being named here. But for those that cannot be had here, as ./kit
    says; what no profile has comes with what needs it.
    """
    plan = planview.load_plan(run.clone.directory, STACK, _overrides(run))
    running = {service.name for service in plan.running}
    assert {spec.name for spec in SERVICES if spec.profiles} - running == set(plan.left_out)


def test_every_secret_is_known(run: Run) -> None:
    """One generated or provided for each of the plan's, the certificates' keys, and the passphrase."""
    assert set(PROVIDED) <= {name.removeprefix("config ") for name in run.secrets}
    plan = planview.load_plan(run.clone.directory, STACK, _overrides(run))
    known = set(run.secrets)
    for secret in plan.secrets:
        name = f"{secret.key.owner}-{secret.key.name.replace(':', '-')}"
        provided = getattr(secret.source, "config_key", "") in PROVIDED
        assert provided or name in known or any(str(secret.key) in each for each in known), name
    assert {"digest-key", "admin-user", "the passphrase"} <= known
    assert sum("privateKeyPem" in name for name in known) >= 2


def test_the_search_finds_them_where_they_may_be(run: Run) -> None:
    """In the files delivered to containers: a search that finds nothing at all would prove nothing."""
    files: list[Place] = []
    for name in docker("ps", "--filter", f"label=aikit.stack={STACK}", "--format", "{{.Names}}").split():
        pid = docker("inspect", "--format", "{{.State.Pid}}", name).strip()
        delivered = Path("/proc") / pid / "root" / "run" / "kit"
        files += leaks.files_below(delivered, name)
    found = {leak.secret for leak in Needles(run.secrets).search(files)}
    assert "config openaiApiKey" in found
    assert len({name.split()[0] for name in found}) > 5, found


# As it makes its cluster, PostgreSQL's image has the superuser's first password in variables. Nothing ever takes
# that password: the superuser comes over the server's own socket alone (docs/security.md).
WORTHLESS = {
    f"postgres-superuser-password (plain) in variable {variable} of kit-{STACK}-postgres"
    for variable in ("PGPASSWORD", "POSTGRES_PASSWORD")
}


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_in_plain(place: str, run: Run) -> None:
    read = list(PLACES[place](run))
    # There may be no journal, and a container that may write nothing has nothing in its layer.
    assert any(each.content for each in read) or place in ("journal", "layers"), f"nothing was read of {place}"
    found = {str(leak) for leak in Needles(run.secrets).search(read)}
    assert found - (WORTHLESS if place == "variables" else set()) == set()


def test_gitleaks_finds_nothing_in_what_is_exported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(run.said["pulumi stack export"], encoding="utf-8")
    found = gitleaks("dir", tmp_path)
    assert [(finding["RuleID"], finding["Match"]) for finding in found] == []


# ------------------------------------------------------------------------------------------------------ planted

PLANTED = f"Pl4nted-s'ecret$ü\"x <&>{secrets.token_hex(8)}"


@pytest.fixture
def planted(run: Run) -> Iterator[None]:
    """A container, a volume, a network and an image with the secret in everything that can hold one."""
    name = f"{STACK}-planted"
    label = ["--label", f"aikit.stack={STACK}", "--label", f"note={PLANTED}"]
    says = 'printf "%s\\n" "$P"; printf "%s\\n" "$P" >&2; printf %s "$P" >/layer; sleep 300; :'
    clear(name)
    try:
        docker("volume", "create", *label, name)
        docker("network", "create", "--internal", *label, name)
        docker("create", "--name", f"{name}-image", run.planned.tools_image, "true")
        docker("commit", "--message", PLANTED, f"{name}-image", f"{name}:1")
        docker("run", "-d", "--name", name, *label, "-e", f"P={PLANTED}", f"{name}:1", "sh", "-c", says, PLANTED)
        time.sleep(1)
        yield
    finally:
        clear(name)


def clear(name: str) -> None:
    for container in (name, f"{name}-image"):
        docker("rm", "-f", "-v", container, check=False)
    docker("volume", "rm", "-f", name, check=False)
    docker("network", "rm", name, check=False)
    docker("image", "rm", "-f", f"{name}:1", check=False)


WANTED: Mapping[str, tuple[str, ...]] = {
    "docker": ("Config.Env", "Config.Cmd", "Config.Labels", "volume", "network", "image"),
    "logs": ("log of",),
    "events": ("the engine's events",),
    "processes": ("arguments of", "variable P of"),
    "layers": ("layer of",),
}


@pytest.mark.parametrize("place", WANTED)
def test_what_is_planted_in_docker_is_found(place: str, run: Run, planted: None) -> None:
    found = [leak.where for leak in Needles({"planted": PLANTED}).search(PLACES[place](run))]
    for where in WANTED[place]:
        assert any(each.startswith(where) for each in found), f"not in {where}: {found}"


def test_what_is_planted_in_one_of_a_logs_streams_is_found(run: Run) -> None:
    for stream in ("1", "2"):
        name = f"{STACK}-planted-stream"
        docker("rm", "-f", name, check=False)
        try:
            label = ["--label", f"aikit.stack={STACK}"]
            docker(
                "run",
                "-i",
                "--name",
                name,
                *label,
                run.planned.tools_image,
                "sh",
                "-c",
                f"cat >&{stream}",
                stdin=PLANTED,
            )
            assert Needles({"planted": PLANTED}).search(leaks.logs(STACK)), f"not in stream {stream}"
        finally:
            docker("rm", "-f", name, check=False)


def test_what_was_committed_once_is_found(run: Run) -> None:
    """Although it was taken back before anybody pushed it."""
    file = run.clone.directory / "notes.txt"
    file.write_text(PLANTED, encoding="utf-8")
    assert Needles({"planted": PLANTED}).search(PLACES["work tree"](run))
    run.clone.commit()
    file.unlink()
    run.clone.commit()
    assert not Needles({"planted": PLANTED}).search(PLACES["work tree"](run))
    assert Needles({"planted": PLANTED}).search(PLACES["git"](run))


@pytest.mark.parametrize("where", ["stacks/{0}/logs/up.log", "stacks/{0}/choices.json", "backend/.pulumi/x.json.gz"])
@pytest.mark.parametrize("form", ["plain", "base64", "url", "json of Go", "hex"])
def test_what_is_planted_in_the_state_directory_is_found(where: str, form: str, run: Run) -> None:
    import gzip

    file = run.home / where.format(STACK)
    before = file.read_bytes() if file.exists() else None
    written = f"password={leaks.forms(PLANTED)[form]}&".encode()
    file.write_bytes(gzip.compress(written) if file.suffix == ".gz" else written)
    try:
        found = Needles({"planted": PLANTED}).search(PLACES["state directory"](run))
        assert [leak.where for leak in found] == [f"state/{where.format(STACK)}"]
    finally:
        file.unlink() if before is None else file.write_bytes(before)


def test_a_passing_command_line_is_seen() -> None:
    with Passing() as passing:
        subprocess.run(["sh", "-c", "sleep 0.3; :", PLANTED], check=True)
    assert Needles({"planted": PLANTED}).search([passing.command_lines])


def test_a_passing_variable_is_seen(run: Run) -> None:
    """Of a job's program that runs for a moment, in its own container."""
    image = run.planned.tools_image
    with Passing() as passing:
        docker("run", "--rm", "-i", image, "sh", "-c", "read -r P; P=$P sleep 0.3; :", stdin=PLANTED)
    found = Needles({"planted": PLANTED}).search(passing.variables(STACK, {}))
    assert [leak.where.split()[:2] for leak in found] == [["variable", "P"]]


def test_what_commands_and_compose_say_is_searched(run: Run) -> None:
    spoilt = Run(run.clone, run.since, run.first, said={"./kit up": f"the password is {PLANTED}"}, runtime=run.runtime)
    assert Needles({"planted": PLANTED}).search(PLACES["said"](spoilt))
    assert Needles({"planted": PLANTED}).search(leaks.texts(compose=json.dumps({"environment": {"P": PLANTED}})))


# ----------------------------------------------------------------------------------------------------- gitleaks


def gitleaks(*arguments: str | Path) -> list[dict[str, Any]]:
    """What gitleaks finds: a list of findings, the values left out."""
    from ops import toolchain
    from ops.progress import Progress

    binary = toolchain.ensure_gitleaks(Progress())
    command = [str(binary), *map(str, arguments), "--config", str(ROOT / secretscan.EXCEPTIONS), "--redact"]
    command += ["--no-banner", "--report-format", "json", "--report-path", "-", "--exit-code", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 7), done.stderr
    return json.loads(done.stdout or "[]") or []


def test_gitleaks_finds_nothing_in_the_history() -> None:
    """Of what is checked out: other branches speak for themselves."""
    assert gitleaks("git", ROOT, "--log-opts=HEAD") == []


def test_gitleaks_finds_what_is_planted_in_a_history(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        name = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "notes").write_text(f"token = {fake_token()}\n", encoding="utf-8")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    (tmp_path / "notes").unlink()
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    assert [finding["File"] for finding in gitleaks("git", tmp_path)] == ["notes"]
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"deployment": {"inputs": {"key": fake_token()}}}), encoding="utf-8")
    assert [finding["File"] for finding in gitleaks("dir", state)] == [str(state)]


def test_who_sets_the_hook_up_as_documented_cannot_commit_a_secret(tmp_path: Path) -> None:
    """One that gitleaks alone knows: the hook asks it as well. What is refused is not repeated."""
    from ops import toolchain
    from ops.progress import Progress

    toolchain.ensure_gitleaks(Progress())
    planted = "np" + "m_" + "x7Kq2mVb9RtL4wZs8NcJ1yHd6PfG3aQeTu5o"
    assert not list(secretscan.findings("notes", planted))
    command = "git config core.hooksPath githooks"
    assert f"`{command}`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    clone = Clone(directory=tmp_path / "clone", state_home=tmp_path / "state", log=tmp_path / "log").directory

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        name = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *name, *words], cwd=clone, capture_output=True, text=True, check=False)

    assert git(*command.split()[1:]).returncode == 0
    (clone / "notes").write_text("nothing in it\n", encoding="utf-8")
    git("add", "-A")
    assert git("commit", "-q", "-m", "without").returncode == 0
    (clone / "notes").write_text(f"see {planted} there\n", encoding="utf-8")
    git("add", "-A")
    refused = git("commit", "-q", "-m", "with")
    assert refused.returncode != 0 and "notes" in refused.stdout + refused.stderr
    assert planted not in refused.stdout + refused.stderr
    assert planted not in git("log", "-p", "-1").stdout


def fake_token() -> str:
    """Made in pieces, so that it stands in no file."""
    return "gh" + "p_" + "x7Kq2mVb9RtL4wZs8NcJ1yHd6PfG3aQeTu5o"
