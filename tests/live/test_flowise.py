"""Flowise on its real image with the real PostgreSQL, Ollama, queue and front door, and hostile secrets.

Proves that a flow is made and called through the front door, that nobody else gets in, that what runs code is closed,
and that flows and credentials outlive a kill. What it does not prove: single sign-on at the front door.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from ops import frontdoor, prove
from ops.progress import Progress
from ops.prove import Steps
from stack.derive.runtime import ContainerPlan, JobPlan
from stack.plan import Plan, SecretKey
from stack.proofs import flowise
from stack.proofs.context import ProofError
from tests.live import standing, trial
from tests.live.leaks import leaks_in
from tests.live.standing import Standing
from tests.live.trial import docker

pytestmark = pytest.mark.live

STACK = "flowise"
OWNER = SecretKey("flowise", "owner-password")

# As the owner, inside: whether code or a program can be run, and what became of a credential.
ASK = """
const fs = require('node:fs');
const [email, ...calls] = process.argv.slice(1);
const url = 'http://127.0.0.1:3000/api/v1/';
const headers = { 'content-type': 'application/json', 'x-forwarded-proto': 'https', 'x-request-from': 'internal' };
(async () => {
  const password = fs.readFileSync('/run/kit/owner-password', 'utf8');
  const login = await fetch(url + 'auth/login', { method: 'POST', headers, body: JSON.stringify({ email, password }) });
  headers.cookie = login.headers.getSetCookie().map((line) => line.split(';')[0]).join('; ');
  const told = [];
  for (const call of calls) {
    const [method, path, body] = JSON.parse(call);
    const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
    told.push([answer.status, await answer.text()]);
  }
  console.log(JSON.stringify(told));
})();
"""

# The names of nodes whose own file asks for a sandbox or for a program. A helper beside it is not looked at.
RUNS_CODE = """
const fs = require('node:fs');
const path = require('node:path');
const top = '/usr/local/lib/node_modules/flowise-components/dist/nodes';
const names = new Set();
for (const file of fs.readdirSync(top, { recursive: true }).filter((name) => name.endsWith('.js'))) {
  const text = fs.readFileSync(path.join(top, file), 'utf8');
  const found = /^        this\\.name = '([^']+)'/m.exec(text);
  if (!found || !text.includes('nodeClass:')) continue;
  if (/executeJavaScriptCode|'stdio'\\)|child_process|NodeVM/.test(text)) names.add(found[1]);
}
console.log(JSON.stringify([...names]));
"""


class Flow:
    """Flowise, up, with what it needs."""

    def __init__(self, up: Standing) -> None:
        self.up = up
        self.name = up.name("flowise")

    @property
    def server(self) -> ContainerPlan:
        return next(step for step in self.up.trial.runtime.containers if step.service == "flowise")

    @property
    def owner(self) -> JobPlan:
        return next(step for step in self.up.trial.runtime.jobs if step.name.endswith("flowise-owner"))

    def context(self, plan: Plan | None = None) -> prove._Context:
        run = prove._Run(self.up.outputs, plan or self.up.plan, Steps(Progress(io.StringIO(), tty=False, environ={})))
        return prove._Context(run, "flowise")

    def ask(self, *calls: tuple[object, ...]) -> list[tuple[int, str]]:
        words = (self.up.plan.settings.admin_email, *(json.dumps(call) for call in calls))
        return [tuple(each) for each in json.loads(docker("exec", self.name, "node", "-e", ASK, *words))]  # pyright: ignore

    def call(self, flow: dict[str, str]) -> httpx.Response:
        with frontdoor.browser(self.up.plan.settings.domain, "127.0.0.1", self.up.outputs.ca_pem) as browser:
            url = f"{self.up.outputs.urls['flowise']}/api/v1/prediction/{flow['id']}"
            headers = {"Authorization": f"Bearer {flow['key']}"}
            return browser.post(url, json={"question": "Why?"}, headers=headers, timeout=120)

    def sql(self, query: str) -> list[str]:
        psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "flowise", "-Atc", query)
        return docker("exec", self.up.name("postgres"), *psql).split("\n")[:-1]


def closed_nodes(flow: Flow) -> list[str]:
    return flow.server.env["DISABLED_NODES"].split(",")


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    with standing.stack(
        STACK,
        tmp_path_factory.mktemp("authority"),
        "flows",
        plain=lambda key: key == OWNER,  # Flowise takes letters, digits and some signs, and nothing else
        http_port=18702,
        https_port=18703,
        admin_port=18704,
    ) as up:
        up.make_realm()  # where the proofs look for throw-away users that somebody left
        up.settle("flowise")
        yield Flow(up)


@pytest.fixture
def made(flow: Flow) -> Iterator[dict[str, str]]:
    """A flow of the proof's making, and its key."""
    context = flow.context()
    try:
        yield flowise.make(context, f"{context.prefix}test")
    finally:
        flowise.cleanup(context)


def test_it_is_proven_and_nothing_stays_behind(flow: Flow) -> None:
    holds, text = flow.up.prove("flowise")
    assert holds, text
    assert flow.sql("select count(*) from chat_flow") == ["0"]
    assert flow.sql("select count(*) from apikey where \"keyName\" like 'kit-%'") == ["0"]


def test_a_kill_keeps_the_flow(flow: Flow, made: dict[str, str]) -> None:
    assert flow.call(made).json()["text"]
    docker("kill", flow.name)
    docker("start", flow.name)
    flow.up.restarted("flowise")
    assert flow.call(made).json()["text"]


def test_it_stops_when_asked(flow: Flow) -> None:
    docker("stop", flow.name)
    state = json.loads(docker("inspect", flow.name))[0]["State"]
    docker("start", flow.name)
    flow.up.restarted("flowise")
    assert state["ExitCode"] in (0, 143)


def test_a_credential_is_written_down_encrypted_and_read_again(flow: Flow) -> None:
    plain = {"openAIApiKey": "sk-of-somebody-1234567890"}
    wish = {"name": "test", "credentialName": "openAIApi", "plainDataObj": plain}
    ((status, text),) = flow.ask(("POST", "credentials", wish))
    assert status == 200, text
    identity = json.loads(text)["id"]
    try:
        (stored,) = flow.sql('select "encryptedData" from credential')
        assert stored and "sk-of-somebody" not in stored
        docker("restart", flow.name)
        flow.up.restarted("flowise")
        ((status, text),) = flow.ask(("GET", f"credentials/{identity}"))
        assert status == 200 and json.loads(text)["plainDataObj"]["openAIApiKey"]
    finally:
        flow.ask(("DELETE", f"credentials/{identity}"))


def test_no_code_and_no_program_is_run_for_anybody(flow: Flow) -> None:
    code = {"javascriptFunction": "return process.version", "functionInputVariables": "{}"}
    program = {
        "name": "customMCP",
        "loadMethod": "listActions",
        "inputs": {
            "mcpServerConfig": '{"command": "node", "args": ["-e", "require(\'fs\').writeFileSync(\'/tmp/x\', \'\')"]}'
        },
    }
    told = flow.ask(("POST", "node-custom-function", code), ("POST", "node-load-method/customMCP", program))
    assert "v24" not in told[0][1] and told[0][0] >= 400, told
    assert told[1][0] >= 400, told
    assert docker("exec", flow.name, "sh", "-c", "ls /tmp/x 2>/dev/null || true").strip() == ""


def test_the_owner_is_made_once_and_nobody_else_signs_up(flow: Flow) -> None:
    assert flow.sql('select email from "user"') == [flow.up.plan.settings.admin_email]
    assert "Flowise has its owner" in flow.up.trial.run(flow.owner)
    context = flow.context()
    assert flowise._owner(context, verb="claim", email="eve@example.org")["status"] == 400
    assert flow.sql('select count(*) from "user"') == ["1"]


def test_an_owner_who_is_not_there_is_named(flow: Flow) -> None:
    """As after a change of adminEmail, which the owner does not follow."""
    plan = flow.up.plan
    moved = replace(plan, settings=replace(plan.settings, admin_email="moved@example.org"))
    with pytest.raises(ProofError, match=r"Flowise has no owner moved@example\.org with the stack's password"):
        flowise._owner(flow.context(moved), verb="nodes")


def test_a_wrong_password_is_refused(flow: Flow) -> None:
    program = """
        const url = 'http://127.0.0.1:3000/api/v1/auth/login';
        const body = JSON.stringify({ email: process.argv[1], password: 'aA1!wrongwrong' });
        const headers = { 'content-type': 'application/json' };
        fetch(url, { method: 'POST', headers, body }).then((answer) => console.log(answer.status));
    """
    told = docker("exec", flow.name, "node", "-e", program, flow.up.plan.settings.admin_email).strip()
    assert told == "401"


def test_no_secret_is_in_inspect_or_logs(flow: Flow) -> None:
    secrets = {str(key): value for key, value in flow.up.trial.values.items()}
    for name in (flow.name, flow.owner.name):
        for kind in ("inspect", "logs"):
            assert not leaks_in(docker(kind, name, check=False), f"{kind} {name}", secrets)
    assert not leaks_in(docker("top", flow.name, "-eo", "pid,args"), "top", secrets)


def test_it_reaches_no_internet_and_has_no_capability(flow: Flow) -> None:
    state = json.loads(docker("inspect", flow.name))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "1000:1000"
    networks = set(state["NetworkSettings"]["Networks"])
    assert networks == {f"kit-{STACK}-app", f"kit-{STACK}-data"}
    for network in networks:
        assert json.loads(docker("network", "inspect", network))[0]["Internal"]


def test_no_other_node_of_the_image_runs_code_or_a_program(flow: Flow) -> None:
    """A later version may bring more of them: each that uses a sandbox or starts a program is one of ours."""
    assert set(json.loads(docker("exec", flow.name, "node", "-e", RUNS_CODE))) <= set(closed_nodes(flow))


def test_times_and_memory_are_written_down(flow: Flow) -> None:
    used = trial.memory_mb(flow.name)
    print(f"flowise: {used:.0f} MB, start {flow.up.trial.started[flow.name]:.1f} s")
    assert not used > 0.9 * flow.server.limits.memory_mb
