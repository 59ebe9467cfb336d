"""The workflow templates in a real n8n (queue mode) with PostgreSQL, Redis, the front door and a model by Ollama.

Gmail, Telegram and the page on the internet are stand-ins (standin_mail.js), and prove nothing about the real ones.
Nothing here is about Pulumi: the job that imports runs as it would, with plain docker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops import frontdoor, workflows
from ops.console import KitError
from stack import plan as planning
from stack import targets
from stack.automation import render, templates
from stack.catalog import discover
from stack.derive import models, runtime
from stack.model import ImageSource, Target
from stack.plan import Plan, SecretKey
from stack.settings import Settings
from tests.live import trial
from tests.live.leaks import leaks_in
from tests.live.trial import HOSTILE, Authority, Trial, docker

pytestmark = pytest.mark.live

STACK = "wfl"
PORT = 18970
STANDIN = f"kit-{STACK}-standin"
SELECTED = ("summarise-url", "gmail-to-telegram", "classify-inbox")
BEFORE = (
    *("haproxy", "postgres", "database-n8n", "database-gmail-to-telegram", "redis-queue", "ollama", "ollama-queue"),
    *("ollama-models", "n8n-key", "n8n", "n8n-worker-1", "n8n-runner-1", "n8n-owner"),
)
KEY = "k'ey\"$d${e}\\f`g#;&|<>"  # as hostile as a header can be
BOT = "1234:standin-token"
OWNER_PASSWORD = f"aA1{HOSTILE}"[:60]
HOST = "http://standin:8080"
PARAMETERS = {
    "gmail-to-telegram.people": "alice_tg, @Bob_tg",
    "gmail-to-telegram.gmailUrl": HOST,
    "gmail-to-telegram.gmailTokenUrl": f"{HOST}/token",
    "gmail-to-telegram.telegramUrl": HOST,
    "gmail-to-telegram.checkSeconds": "5",
    "gmail-to-telegram.noticeAfter": "1",
    "classify-inbox.gmailUrl": HOST,
    "classify-inbox.gmailTokenUrl": f"{HOST}/token",
    "classify-inbox.labels": "bees, other",
    "classify-inbox.minutes": "1",
}


class Flows:
    """n8n, up, with the templates in it."""

    def __init__(self, plan: Plan, running: Trial) -> None:
        self.plan = plan
        self.trial = running
        self.control = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=10, trust_env=False)
        self.browser = frontdoor.browser(plan.settings.domain, "127.0.0.1", running.authority.ca_pem)
        self.url = next(plan.url(owned.item) for owned in plan.routes if owned.owner == "n8n")

    @property
    def state(self) -> dict[str, Any]:
        return self.control.get("/_state").json()

    def do(self, **changes: object) -> None:
        self.control.post("/_do", json=changes).raise_for_status()

    def mail(self, identity: str, subject: str, sender: str = "Ann <ann@example.org>") -> None:
        body = {"id": identity, "subject": subject, "from": sender, "snippet": "Bees &amp; flowers"}
        self.control.post("/_mail", json=body).raise_for_status()

    def say(self, username: str, user: int, text: str, kind: str = "private", token: str | None = None) -> int:
        """A message to the bot, as Telegram would bring it: through the front door."""
        hook = self.state["webhook"]
        message = {"message_id": 1, "from": {"id": user, "username": username}, "text": text, "date": 0}
        update = {"update_id": 1, "message": {**message, "chat": {"id": user + 1000, "type": kind}}}
        headers = {"x-telegram-bot-api-secret-token": hook["secret_token"] if token is None else token}
        return self.browser.post(hook["url"], json=update, headers=headers).status_code

    def sent(self, user: int) -> list[str]:
        return [item["text"] for item in self.state["sent"] if item["chat"] == str(user + 1000)]

    def sql(self, database: str, query: str) -> list[str]:
        psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", database, "-Atc", query)
        return docker("exec", f"kit-{STACK}-postgres", *psql).split("\n")[:-1]

    def importing(self, settings: Settings | None = None) -> str:
        """Run the job that imports, with these settings; what it said."""
        plan = planning.build(settings, targets.profile(settings), discover()) if settings else self.plan
        job = next(job for job in runtime.build(plan).jobs if job.name.endswith("n8n-workflows"))
        return self.trial.run(job)

    def n8n(self, verb: str, **asked: object) -> Any:
        return workflows.ask(self.plan, verb, **asked)


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flows]:
    from airgap import images

    names = ("haproxy", "keycloak", "n8n", "n8n-runners", "oauth2-proxy", "ollama", "postgres", "redis")
    names += ("tools", "tiny-models")
    built = {name: image.reference for name, image in images.ensure(names).items()}
    settings = Settings(
        stack=STACK,
        target=Target.DEV,
        profiles=("automation",),
        workflows=SELECTED,
        workflow_parameters=PARAMETERS,
        models=models.TINY_CHAT,
        embedding_model=models.TINY_EMBEDDING,
        http_port=18962,
        https_port=18963,
        admin_port=18964,
        images=ImageSource.AIRGAP,
        airgap_images=built,
        provided_secrets=templates.config_keys(),
    )
    plan = planning.build(settings, targets.profile(settings), discover())
    hosts = tuple(plan.host_name(owned.item) for owned in plan.routes)
    authority = Authority(tmp_path_factory.mktemp("authority"), hosts)
    hostile = {secret.key: HOSTILE for secret in plan.secrets}
    hostile[SecretKey("n8n", "owner-password")] = OWNER_PASSWORD
    hostile[SecretKey("n8n", render.secret_name("summariseUrlKey"))] = KEY
    hostile[SecretKey("n8n", render.secret_name("telegramBotToken"))] = BOT
    hostile[SecretKey("n8n", render.secret_name("gmailClientId"))] = "client-of-the-standin"
    running = Trial(runtime.build(plan), authority, values=hostile)
    docker("rm", "-f", "-v", STANDIN, check=False)
    running.down()
    try:
        running.up(only=BEFORE)
        program = (Path(__file__).parent / "standin_mail.js").read_text(encoding="utf-8")
        expected = json.dumps({"refresh": HOSTILE, "secret": HOSTILE, "bot": BOT})
        argv = ["run", "-d", "--name", STANDIN, "--network", f"kit-{STACK}-edge", "-p", f"127.0.0.1:{PORT}:8080"]
        image = built["n8n"]
        docker(*argv, "-e", f"EXPECTED={expected}", "--entrypoint", "node", image, "-e", program)
        aliases = ("--alias", "standin", "--alias", "page.standin.test")
        docker("network", "connect", *aliases, f"kit-{STACK}-app", STANDIN)
        found = Flows(plan, running)
        trial.eventually(lambda: _answers(found), 30)
        log = found.importing()
        print(log)
        assert all(f"{name}: active" in log for name in SELECTED), log
        yield found
    finally:
        docker("rm", "-f", "-v", STANDIN, check=False)
        running.down()


def _answers(flows: Flows) -> bool:
    try:
        return bool(flows.state)
    except httpx.HTTPError:
        return False


# -------------------------------------------------------------------------------------------------- mail


def test_two_people_set_themselves_up_and_get_the_mail_each_in_their_time(flows: Flows) -> None:
    """The chats come from /setup; a 429 is waited out; each has a schedule; nothing is delivered twice."""
    assert flows.say("Alice_TG", 11, "/setup every 1") == 200
    assert flows.say("bob_tg", 12, "/setup every 60 search from:ann") == 200
    trial.eventually(lambda: len(flows.sent(11)) == 1 and len(flows.sent(12)) == 1, 60)
    assert flows.sent(11) == ["Set up: mail every 1 minutes."]
    assert flows.sent(12) == ["Set up: mail every 60 minutes, of what you search."]
    assert flows.sql("gmail-to-telegram", "select username, chat from people order by 1") == [
        "alice_tg|1011",
        "bob_tg|1012",
    ]
    # Each is looked at once before there is any mail; then one comes, while Telegram limits bob.
    trial.eventually(lambda: len(flows.state["searches"]) >= 2, 60)
    flows.mail("m1", "Honey <b>& more</b>")
    flows.do(limits={"1012": 2})
    flows.sql("gmail-to-telegram", "update people set next_at = now()")
    trial.eventually(lambda: any("Honey" in text for text in flows.sent(12)), 90)
    trial.eventually(lambda: any("Honey" in text for text in flows.sent(11)), 30)
    assert flows.state["refused"] == 2
    expected = "<b>Honey &lt;b&gt;&amp; more&lt;/b&gt;</b>\nAnn &lt;ann@example.org&gt;\nBees &amp; flowers"
    assert flows.sent(11)[1:] == [expected]
    assert any(search.startswith("(from:ann) after:") for search in flows.state["searches"])
    assert any(search.startswith("in:inbox after:") for search in flows.state["searches"])
    # Alice's minute comes round by itself; bob's hour does not, and what both have is not sent again.
    flows.mail("m2", "Second")
    trial.eventually(lambda: any("Second" in text for text in flows.sent(11)), 100)
    assert len(flows.sent(11)) == 3 and len(flows.sent(12)) == 2
    flows.sql("gmail-to-telegram", "update people set next_at = now() where username = 'bob_tg'")
    trial.eventually(lambda: any("Second" in text for text in flows.sent(12)), 60)
    assert len(flows.sent(12)) == 3
    assert flows.sql("gmail-to-telegram", "select count(*) from delivered") == ["4"]
    state = flows.state
    assert 1 <= state["tokens"] <= 3 < len(state["searches"])  # asked for by the first at once, and kept
    assert "undefined" not in json.dumps([state["searches"], state["sent"]])


def test_a_failure_is_told_and_backed_off_from_and_health_says_so(flows: Flows) -> None:
    health = f"{flows.url}/webhook/gmail-to-telegram/health"
    trial.eventually(lambda: flows.browser.get(health).status_code == 200, 60)
    flows.sql("gmail-to-telegram", "update people set active = (username = 'bob_tg')")
    flows.do(gmailDown=1000)
    flows.sql("gmail-to-telegram", "update people set next_at = now() where username = 'bob_tg'")
    trial.eventually(lambda: any("could not be read" in text for text in flows.sent(12)), 60)
    notice = flows.sent(12)[-1]
    assert re.fullmatch(
        r"Your mail could not be read: 429 Rate &lt;limit&gt; exceeded; next try at \d\d:\d\d", notice
    ), notice
    waits = flows.sql(
        "gmail-to-telegram", "select failures, next_at > now() + interval '30 s' from people where username = 'bob_tg'"
    )
    assert waits == ["1|t"]
    answer = flows.browser.get(health)
    assert answer.status_code == 503 and answer.json()["failing"] == 1
    flows.do(gmailDown=0)
    flows.sql("gmail-to-telegram", "update people set next_at = now() where username = 'bob_tg'")
    trial.eventually(lambda: flows.browser.get(health).status_code == 200, 60)


def test_what_nobody_expected_is_told_once_and_stands_in_the_history(flows: Flows) -> None:
    flows.sql("gmail-to-telegram", "alter table people rename column search to broken")
    try:
        trial.eventually(lambda: any("failed at Due" in text for text in flows.sent(12)), 60)
    finally:
        flows.sql("gmail-to-telegram", "alter table people rename column broken to search")
    assert len([text for text in flows.sent(12) if "failed at" in text]) == 1
    trial.eventually(lambda: bool(flows.n8n("history", name="gmail-to-telegram", limit=20)), 30)
    failed = [run for run in flows.n8n("history", name="gmail-to-telegram", limit=20) if run["status"] == "error"]
    assert failed and all(run["error"].startswith("at Due") for run in failed), failed


def test_strangers_forgers_and_other_accounts_get_nothing(flows: Flows) -> None:
    before = flows.sql("gmail-to-telegram", "select * from people where username = 'bob_tg'")
    assert flows.say("bob_tg", 12, "/setup", token="forged") == 403
    # What anybody can work out from the template: n8n would take the ids of workflow and node for Telegram's secret.
    template = next(item for item in templates.discover() if item.name == "gmail-to-telegram")
    values = render.parameters(template, flows.plan.settings)[0]
    node = next(n for n in render.document(template, values, "UTC")["nodes"] if n["name"] == "Said to the bot")
    assert flows.say("bob_tg", 12, "/setup", token=f"{render.workflow_id(template.name)}_{node['id']}") == 403
    assert node["id"] not in flows.state["webhook"]["url"]
    assert flows.say("bob_tg", 99, "/setup every 5") == 200
    assert flows.say("mallory", 66, "/setup every 5") == 200
    trial.eventually(lambda: bool(flows.sent(99)) and bool(flows.sent(66)), 60)
    assert flows.sent(99) == ["This name belongs to another account."]
    assert flows.sent(66) == ["This bot is private. Its operator can add your user name."]
    assert flows.sql("gmail-to-telegram", "select * from people where username = 'bob_tg'")[0][:12] == before[0][:12]
    assert flows.sql("gmail-to-telegram", "select count(*) from people") == ["2"]


def test_mail_is_labelled_by_the_model(flows: Flows) -> None:
    flows.mail("m9", "Bees")
    trial.eventually(lambda: bool(flows.state["modified"]), 180)
    state = flows.state
    names = {label["id"]: label["name"] for label in state["labels"]}
    assert {"kit-bees", "kit-other"} <= set(names.values())
    assert all(names[item["addLabelIds"][0]] in ("kit-bees", "kit-other") for item in state["modified"])
    assert len({item["id"] for item in state["modified"]}) == len(state["modified"])  # each once


# ----------------------------------------------------------------------------------------------- summaries


def test_a_page_is_summarised_for_who_has_the_key_and_nothing_of_our_own_is_fetched(flows: Flows) -> None:
    hook = f"{flows.url}/webhook/summarise-url"
    key = {"X-Api-Key": KEY}
    page = "http://page.standin.test:8080/bees"
    assert flows.browser.post(hook, json={"url": page}).status_code == 403
    answer = flows.browser.post(hook, json={"url": page}, headers=key, timeout=180)
    assert answer.status_code == 200, answer.text
    assert answer.json()["url"] == page and answer.json()["model"] == "kit-tiny-chat"
    assert isinstance(answer.json()["summary"], str)
    assert flows.state["fetched"] == 1
    for own, status in (
        ("http://postgres:5432/", 403),
        ("http://127.0.0.1:5678/", 403),
        ("http://2130706433/", 403),
        ("http://[::1]:5678/", 403),
        ("https://n8n.kit.localhost/", 403),
        ("http://me:pw@page.standin.test/", 400),
        ("file:///etc/passwd", 400),
        ("http://page.standin.test:8080/moved", 422),
    ):
        refused = flows.browser.post(hook, json={"url": own}, headers=key, timeout=60)
        assert refused.status_code == status, (own, refused.status_code, refused.text)
    assert flows.state["fetched"] == 1


# ------------------------------------------------------------------------------------------------- imports


def test_importing_again_changes_nothing_and_leaves_others_alone(flows: Flows) -> None:
    own = {"name": "mine", "nodes": [], "connections": {}, "settings": {}}
    mine = flows.n8n("make", workflow=own)["id"]
    look = 'select id, name, "versionId", active from workflow_entity order by id'
    credentials = "select id, data from credentials_entity order by id"
    before = flows.sql("n8n", look), flows.sql("n8n", credentials)
    log = flows.importing()
    assert [line for line in log.splitlines() if not line.endswith(": unchanged")] == []
    after = flows.sql("n8n", look), flows.sql("n8n", credentials)
    assert after[0] == before[0] and len(after[1]) == len(before[1])
    assert any(row.startswith(f"{mine}|mine") for row in after[0])
    ids = {row.split("|")[0] for row in after[0]}
    assert {render.workflow_id(name) for name in SELECTED} <= ids


def test_a_change_updates_an_edit_is_kept_and_what_is_deselected_is_switched_off(flows: Flows) -> None:
    changed = replace(
        flows.plan.settings,
        workflows=("summarise-url",),
        workflow_parameters={"summarise-url.words": "50"},
    )
    identity = render.workflow_id("summarise-url")
    flows.n8n("edit", id=identity, node="Checked", code="return $input.all();")
    log = flows.importing(changed)
    assert "summarise-url: was edited" in log and "summarise-url: updated" in log
    assert "gmail-to-telegram: not selected any more, switched off and kept" in log
    names = flows.sql("n8n", 'select name, active from workflow_entity order by "createdAt"')
    assert "gmail-to-telegram|f" in names and "summarise-url|t" in names and "mine|f" in names
    assert any(name.startswith("summarise-url (edited, kept on ") and name.endswith("|f") for name in names)
    exported = flows.n8n("export", name="summarise-url")
    words = next(node for node in exported["nodes"] if node["name"] == "Parameters")
    assert any(item["value"] == 50 for item in words["parameters"]["assignments"]["assignments"])
    assert flows.state["webhook"] is None  # Telegram was told
    flows.n8n("remove", name="gmail-to-telegram")
    assert not [row for row in flows.sql("n8n", "select name from workflow_entity") if row == "gmail-to-telegram"]


def test_history_says_how_it_went_and_prints_no_payload(flows: Flows) -> None:
    runs = flows.n8n("history", name="summarise-url", limit=50)
    assert runs and {run["status"] for run in runs} <= {"success", "error", "running", "crashed"}
    assert all(run["seconds"] >= 0 for run in runs if run["seconds"] is not None)
    text = json.dumps(runs)
    assert "page.standin.test" not in text and "Bees" not in text
    with pytest.raises(KitError):
        flows.n8n("history", name="no such workflow", limit=5)


def test_no_secret_is_in_inspect_logs_or_workflows(flows: Flows) -> None:
    secrets = {str(key): value for key, value in flows.trial.values.items()}
    for container in ("n8n", "n8n-worker-1", "n8n-runner-1", "n8n-workflows"):
        for kind in ("inspect", "logs"):
            name = f"kit-{STACK}-{container}"
            assert not leaks_in(docker(kind, name, check=False), f"{kind} {name}", secrets)
    nodes = "\n".join(flows.sql("n8n", "select nodes::text || coalesce(meta::text, '') from workflow_entity"))
    assert "summarise-url" in nodes and not leaks_in(nodes, "workflow_entity", secrets)
