"""n8n in queue mode with the real PostgreSQL, Redis and front door, started with plain docker, every secret hostile.

What it does not prove: that Pulumi carries the runtime out. Keycloak is not started: nothing here logs in.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ops import frontdoor, prove
from ops.progress import Progress
from ops.prove import Steps
from stack import plan as planning
from stack import targets
from stack.catalog import discover
from stack.derive import runtime, values
from stack.derive.runtime import ContainerPlan, JobPlan
from stack.model import ImageSource, Target
from stack.outputs import StackOutputs
from stack.plan import Plan, SecretKey
from stack.proofs import n8n
from stack.settings import Settings
from tests.live import trial
from tests.live.leaks import leaks_in
from tests.live.trial import HOSTILE, Authority, Trial, docker

pytestmark = pytest.mark.live

STACK = "flow"
NEEDED = ("haproxy", "waf", "postgres", "database-n8n", "database-credentials", "redis-queue", "redis", "oauth2-proxy")
OWN = ("n8n-key", "n8n", "n8n-worker-1", "n8n-runner-1", "n8n-owner")
# The proof that wants people: tests/live/test_forward_auth.py has some.
LOGIN = "stack.proofs.n8n:login"
# Programs for Node, which is all that the images have.
KILL_RUNNER = """
for (const pid of fs.readdirSync('/proc').filter(Number)) {
  try {
    const words = fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    if (words.includes('dist/start.js') && Number(pid) !== process.pid) process.kill(Number(pid), 'SIGKILL');
  } catch {}
}
"""
ALL_VARIABLES = """
for (const pid of fs.readdirSync('/proc').filter(Number)) {
  try { console.log(fs.readFileSync(`/proc/${pid}/environ`, 'utf8')) } catch {}
}
"""
CLAIM = """
const body = JSON.stringify({ email: 'eve@example.org', firstName: 'E', lastName: 'E', password: 'Aa1aaaaaaaaa' });
const headers = { 'content-type': 'application/json' };
fetch('http://127.0.0.1:5678/rest/owner/setup', { method: 'POST', headers, body }).then((a) => console.log(a.status));
"""
RUNS = "select status from execution_entity order by id"
OWNER_PASSWORD = f"aA1{HOSTILE}"[:60]  # n8n wants a digit, a capital letter, and at most 64 characters


class Flow:
    """n8n, up, with what it needs."""

    def __init__(self, plan: Plan, running: Trial) -> None:
        self.plan = plan
        self.trial = running
        self.outputs = StackOutputs(
            urls={owned.item.name: plan.url(owned.item) for owned in plan.routes},
            ca_pem=running.authority.ca_pem,
            realm=plan.settings.realm,
            issuer=values.issuer_url(plan),
            admin_url=f"https://127.0.0.1:{plan.settings.admin_port}",
            admin_client_id="not used",
            admin_client_secret="not used",
            admin_user="not used",
            admin_password="not used",
        )

    def name(self, container: str) -> str:
        return f"kit-{STACK}-{container}"

    def container(self, name: str) -> ContainerPlan:
        return next(c for c in self.trial.runtime.containers if c.name == self.name(name))

    def job(self, name: str) -> JobPlan:
        return next(job for job in self.trial.runtime.jobs if job.name == self.name(name))

    def restart(self, name: str) -> None:
        docker("restart", "-t", "40", self.name(name))
        self.trial.wait_healthy(self.container(name))

    def prove(self) -> tuple[dict[str, str], str]:
        """n8n's proofs, and what each failed with ("" for none); what a person read. Ends with the clean-up."""
        stream = io.StringIO()
        run = prove._Run(self.outputs, self.plan, Steps(Progress(stream, tty=False, environ={})))
        try:
            tried = [
                run.attempt("n8n", proof.title, target)
                for proof in self.plan.service("n8n").spec.proofs
                if proof.run != LOGIN
                for target in (proof.run, proof.cleanup)
                if target
            ]
        finally:
            run.close()
        print(stream.getvalue())
        return {outcome.title: outcome.problem for outcome in tried if outcome.problem}, stream.getvalue()

    def context(self) -> prove._Context:
        run = prove._Run(self.outputs, self.plan, Steps(Progress(io.StringIO(), tty=False, environ={})))
        return prove._Context(run, "n8n")

    def sql(self, query: str) -> list[str]:
        psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "n8n", "-Atc", query)
        return docker("exec", self.name("postgres"), *psql).split("\n")[:-1]

    def browser(self) -> httpx.Client:
        return frontdoor.browser(self.plan.settings.domain, "127.0.0.1", self.outputs.ca_pem)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    from airgap import images

    names = ("haproxy", "waf", "keycloak", "n8n", "n8n-runners", "oauth2-proxy", "postgres", "redis", "tools")
    built = {name: image.reference for name, image in images.ensure(names).items()}
    settings = Settings(
        stack=STACK,
        target=Target.DEV,
        profiles=("automation",),
        http_port=18562,
        https_port=18563,
        admin_port=18564,
        images=ImageSource.AIRGAP,
        airgap_images=built,
    )
    plan = planning.build(settings, targets.profile(settings), discover())
    hosts = tuple(plan.host_name(owned.item) for owned in plan.routes)
    authority = Authority(tmp_path_factory.mktemp("authority"), hosts)
    hostile = {secret.key: HOSTILE for secret in plan.secrets}
    hostile[SecretKey("n8n", "owner-password")] = OWNER_PASSWORD
    running = Trial(runtime.build(plan), authority, values=hostile)
    running.down()
    try:
        running.up(only=(*NEEDED, *OWN))
        yield Flow(plan, running)
    finally:
        running.down()


@pytest.fixture
def workflow(flow: Flow) -> Iterator[tuple[str, str]]:
    """The proof's workflow, published, by its id and the path of its webhook."""
    context = flow.context()
    path = f"{context.prefix}test"
    identity = n8n.make(context, path)
    try:
        yield identity, path
    finally:
        n8n.cleanup(context)


def call(flow: Flow, path: str, timeout: float = 60) -> httpx.Response:
    with flow.browser() as browser:
        question = {"a": 6, "b": 7, "word": "x"}
        return browser.post(f"{flow.outputs.urls['n8n']}/webhook/{path}", json=question, timeout=timeout)


def test_it_is_proven_and_nothing_stays_behind(flow: Flow) -> None:
    failed, text = flow.prove()
    assert not failed, text
    assert "run by n8n-worker-1" in text
    assert flow.sql("select count(*) from workflow_entity") == ["0"]
    assert flow.sql("select count(*) from execution_entity") == ["0"]


def test_it_is_the_worker_that_runs_it(flow: Flow, workflow: tuple[str, str]) -> None:
    """Without workers a call waits; nobody else runs it. When they are back it is answered."""
    _, path = workflow
    docker("pause", flow.name("n8n-worker-1"))
    try:
        with pytest.raises(httpx.ReadTimeout):
            call(flow, path, timeout=8)
        assert flow.sql(RUNS) == ["new"]
    finally:
        docker("unpause", flow.name("n8n-worker-1"))
    trial.eventually(lambda: flow.sql(RUNS) == ["success"], 60)
    assert call(flow, path).json()["product"] == 42


def test_code_runs_in_the_runner_and_nowhere_else(flow: Flow, workflow: tuple[str, str]) -> None:
    """Without the runner the workflow does not end; with it again, it does, without anybody's help."""
    _, path = workflow
    assert call(flow, path).json()["product"] == 42
    docker("stop", flow.name("n8n-runner-1"))
    try:
        with pytest.raises(httpx.ReadTimeout):
            call(flow, path, timeout=8)
    finally:
        docker("start", flow.name("n8n-runner-1"))
    flow.trial.wait_healthy(flow.container("n8n-runner-1"))
    assert call(flow, path).json()["product"] == 42


def test_a_runner_that_is_killed_is_started_again(flow: Flow, workflow: tuple[str, str]) -> None:
    _, path = workflow
    docker("exec", flow.name("n8n-runner-1"), "node", "-e", KILL_RUNNER)
    assert call(flow, path).json()["product"] == 42
    assert "the runner ended (SIGKILL)" in docker("logs", flow.name("n8n-runner-1"))


def test_a_worker_that_restarts_gets_its_runner_back(flow: Flow, workflow: tuple[str, str]) -> None:
    _, path = workflow
    flow.restart("n8n-worker-1")
    trial.eventually(lambda: call(flow, path).status_code == 200, 60)


def test_the_runner_reaches_neither_data_nor_internet(flow: Flow) -> None:
    networks = json.loads(docker("inspect", flow.name("n8n-runner-1")))[0]["NetworkSettings"]["Networks"]
    assert set(networks) == {f"kit-{STACK}-app"}
    look = "require('dns').lookup('postgres', (e) => console.log(e ? e.code : 'found'))"
    assert docker("exec", flow.name("n8n-runner-1"), "node", "-e", look).strip() in ("ENOTFOUND", "EAI_AGAIN")


def test_no_secret_is_in_inspect_env_or_logs(flow: Flow) -> None:
    secrets = {str(key): value for key, value in flow.trial.values.items()}
    for step in flow.trial.runtime.steps:
        if not step.name.startswith(flow.name("n8n")):
            continue
        for kind in ("inspect", "logs"):
            assert not leaks_in(docker(kind, step.name, check=False), f"{kind} {step.name}", secrets)
    for container in ("n8n", "n8n-worker-1", "n8n-runner-1"):
        seen = docker("exec", flow.name(container), "node", "-e", ALL_VARIABLES)
        assert "NODE_ENV" in seen or "HOME" in seen
        assert not leaks_in(seen, f"the variables of {container}", secrets)


def test_another_encryption_key_is_refused_before_anything_is_touched(flow: Flow) -> None:
    """The job that comes first says no, in words that help and without either key; n8n keeps running."""
    job = flow.job("n8n-key")
    before = json.loads(docker("inspect", flow.name("n8n")))[0]["State"]["StartedAt"]
    other = Trial(flow.trial.runtime, flow.trial.authority, values={**flow.trial.values})
    other.values[SecretKey("n8n", "encryption-key")] = "another key altogether, 32 bytes and more"
    try:
        with pytest.raises(RuntimeError) as refused:
            other.run(job)
    finally:
        print(flow.trial.run(job))
    text = str(refused.value)
    assert "made with another encryption key" in text and "n8nEncryptionKey" in text
    assert HOSTILE not in text and "another key altogether" not in text
    assert json.loads(docker("inspect", flow.name("n8n")))[0]["State"]["StartedAt"] == before
    command = re.search(r"docker run (.*?) \\\n\s+-p '(.*?)'", text, re.DOTALL)
    assert command is not None
    shown = docker("run", *command[1].split(), "-p", command[2])
    assert shown.removesuffix("\n") == HOSTILE  # the way out does lead out


def test_n8n_itself_would_stop_over_and_over(flow: Flow) -> None:
    """Why the job is there: with a wrong key the container never gets healthy."""
    plan = flow.container("n8n")
    config = f"kit-{STACK}-wrong-config"
    changed = replace(
        plan,
        name=f"kit-{STACK}-wrong",
        config_volume=config,
        mounts=tuple(replace(m, volume=config) if m.volume == plan.config_volume else m for m in plan.mounts),
        networks=tuple(replace(n, aliases=("wrong",)) for n in plan.networks),
        ownership=(),
    )
    wrong = Trial(flow.trial.runtime, flow.trial.authority, values={**flow.trial.values})
    wrong.values[SecretKey("n8n", "encryption-key")] = "another key altogether, 32 bytes and more"
    try:
        wrong.start(changed)
        trial.eventually(lambda: "ismatching encryption key" in docker("logs", changed.name, check=False), 90)
    finally:
        docker("rm", "-f", "-v", changed.name, check=False)
        docker("volume", "rm", "-f", config, check=False)


def test_a_restart_keeps_the_workflow(flow: Flow, workflow: tuple[str, str]) -> None:
    _, path = workflow
    flow.restart("n8n")
    trial.eventually(lambda: call(flow, path).status_code == 200, 60)


def test_the_instance_has_its_owner_and_nobody_else_can_claim_it(flow: Flow) -> None:
    assert flow.sql('select email from "user"') == [flow.plan.settings.admin_email]
    assert docker("exec", flow.name("n8n"), "node", "-e", CLAIM).strip() == "400"
    assert "n8n has its owner" in flow.trial.run(flow.job("n8n-owner"))


def test_what_an_interrupted_proof_left_is_removed_by_the_next(flow: Flow) -> None:
    context = flow.context()
    n8n.make(context, f"{context.prefix}left")
    assert flow.sql("select count(*) from workflow_entity") == ["1"]
    assert not flow.prove()[0]
    assert flow.sql("select count(*) from workflow_entity") == ["0"]


def test_what_is_broken_is_named(flow: Flow) -> None:
    docker("stop", flow.name("n8n-worker-1"))
    try:
        context = flow.context()
        problem: Any = None
        original, n8n.PATIENCE_S = n8n.PATIENCE_S, 5
        try:
            n8n.webhook(context)
        except Exception as failed:
            problem = failed
        finally:
            n8n.PATIENCE_S = original
            n8n.cleanup(context)
    finally:
        docker("start", flow.name("n8n-worker-1"))
        flow.trial.wait_healthy(flow.container("n8n-worker-1"))
    assert problem is not None and context.current.startswith("a call to /webhook/")


def test_the_queue_answers_only_who_knows_its_password(flow: Flow) -> None:
    ask = ("redis-cli", "-h", "127.0.0.1")
    assert "NOAUTH" in docker("exec", flow.name("redis-queue"), *ask, "keys", "*")
    policy = docker("exec", flow.name("redis-queue"), "grep", "maxmemory-policy", "/run/kit/redis.conf")
    assert policy.split()[1] == "noeviction"


def test_times_and_memory_are_written_down(flow: Flow) -> None:
    """No bound: what the documents say comes from here, on a machine that does nothing else."""
    for name in ("redis-queue", "n8n", "n8n-worker-1", "n8n-runner-1"):
        container = flow.name(name)
        print(f"{name} {flow.trial.started[container]:.1f} s {trial.memory_mb(container):.0f} MB")
