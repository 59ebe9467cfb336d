"""The workflow templates in a real n8n (queue mode) with PostgreSQL, Redis, the front door and a model by Ollama.

Gmail, Telegram and the page on the internet are stand-ins (standin_mail.js), and prove nothing about the real ones.
Nothing here is about Pulumi: the job that imports runs as it would, with plain docker.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from ops import cli, credentials, frontdoor, workflows
from ops.console import KitError
from stack import plan as planning
from stack import targets
from stack.automation import render, templates
from stack.catalog import discover
from stack.derive import models, runtime, waf
from stack.model import ImageSource, SpecError, Target
from stack.plan import Plan, SecretKey
from stack.proofs import n8n as proofs
from stack.proofs.context import ProofContext, ProofError
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
    *("haproxy", "waf", "postgres", "database-n8n", "database-gmail-to-telegram", "database-credentials"),
    *("redis-queue", "ollama", "ollama-queue"),
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

    names = ("haproxy", "waf", "keycloak", "n8n", "n8n-runners", "oauth2-proxy", "ollama", "postgres", "redis")
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
        assert waf.REFUSED not in refused.headers, f"{own}: the workflow says so, and not the firewall before it"
        assert refused.status_code == status, (own, refused.status_code, refused.text)
    assert flows.state["fetched"] == 1


# --------------------------------------------------------------------------------------------- credentials

STORE_KEY = SecretKey("n8n", "credentials-key")
NEW_BOT = "5678:another_token-of-the-same-bot"
NEW_SECRET = f"second {HOSTILE}"
NEW_REFRESH = f"1//{HOSTILE}"
ODD_NAME = 'it\'s "odd"; $(x) `é€😀`'
ODD_VALUE = f"{HOSTILE}\n$1; DROP TABLE store.audit; -- second line\t"

Kit = Callable[..., tuple[int, str]]


@pytest.fixture
def kit(flows: Flows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kit:
    """./kit credentials, with what it reads on standard input: its exit code and what it printed."""

    class OfTheTest:
        def __init__(self, stack: str) -> None:
            assert stack == STACK

        def plan(self) -> Plan:
            return flows.plan

    def run(*argv: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr(credentials, "Session", OfTheTest)
        monkeypatch.setattr(cli, "check_stack", lambda root, stack: None)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        capsys.readouterr()
        arguments = cli.parse(["credentials", *argv, "--stack", STACK], Path())[1]
        return credentials.run(arguments), capsys.readouterr().out

    return run


def store(flows: Flows, statement: str, *, role: str = "credential_store") -> str:
    """What the store's database says to a role, as the server's own superuser may become it; complaints included."""
    psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "credentials", "-Atq")
    become = ("-c", f"set role {role}") if role else ()
    return docker("exec", f"kit-{STACK}-postgres", *psql, *become, "-c", statement, check=False)


def proven(flows: Flows) -> None:
    """Run the proof of the store. ProofError when it does not hold."""

    class Inside:
        def inside(self, container: str, argv: Sequence[str]) -> str:
            return docker("exec", f"kit-{STACK}-n8n", *argv)

    proofs.credentials(cast(ProofContext, Inside()))


def in_n8n(flows: Flows) -> list[str]:
    """What of n8n a rotation must leave as it is: its workflows, and which credentials they name."""
    look = 'select id, "versionId", "activeVersionId", md5(nodes::text) from workflow_entity order by id'
    return flows.sql("n8n", look) + flows.sql("n8n", "select id, name, type from credentials_entity order by id")


def test_what_templates_use_is_in_the_store_and_good(flows: Flows, kit: Kit) -> None:
    code, printed = kit("list", "--json")
    rows = {row["name"]: row for row in json.loads(printed)}
    assert code == 0 and set(rows) == {"Gmail", "Telegram bot", "Key of summarise-url"}
    assert rows["Gmail"]["workflows"] == ["classify-inbox", "gmail-to-telegram"]
    assert rows["Telegram bot"]["kind"] == "telegram" and rows["Telegram bot"]["n8nVersion"] == 1
    code, printed = kit("check")
    assert code == 0 and "Telegram bot (version 1): valid, @standin_bot" in printed, printed
    assert "Gmail (version 1): valid" in printed and "Key of summarise-url (version 1): unknown" in printed
    assert kit("list")[1].count("has it") == 3


def test_a_bots_new_token_is_used_by_the_workflow_as_it_stands(flows: Flows, kit: Kit) -> None:
    before = in_n8n(flows)
    # The old one is revoked, as by BotFather, and Telegram has forgotten where the bot listens.
    flows.control.post("/_expect", json={"bot": NEW_BOT}).raise_for_status()
    code, printed = kit("check", "Telegram bot")
    assert code == 1 and "refused, Unauthorized" in printed
    with pytest.raises(KitError, match="refused where it was issued") as caught:
        kit("rotate", "Telegram bot", stdin="9:not-that-one\n")
    assert caught.value.code == 1
    with pytest.raises(SpecError) as wrong:
        kit("rotate", "Telegram bot", stdin="two words")
    assert "two words" not in wrong.value.render()
    flows.do(webhook=None)
    code, printed = kit("rotate", "Telegram bot", stdin=f"{NEW_BOT}\n")
    assert code == 0 and "version 2 is what counts now" in printed and "n8n has it" in printed
    assert flows.state["webhook"]["url"].startswith(f"{flows.url}/webhook/")
    assert in_n8n(flows) == before
    heard = len(flows.sent(11))
    assert flows.say("alice_tg", 11, "/status") == 200
    trial.eventually(lambda: len(flows.sent(11)) > heard, 60)
    assert "already" in kit("rotate", "Telegram bot", stdin=NEW_BOT)[1]
    assert kit("get", "Telegram bot", "--show")[1] == f"{NEW_BOT}\n"
    assert kit("get", "Telegram bot", "--show", "--version", "1")[1] == f"{BOT}\n"
    masked = kit("get", "Telegram bot")[1]
    assert NEW_BOT[:-5] not in masked and HOST in masked


def test_a_second_client_secret_and_another_refresh_token_reach_gmail_in_place(flows: Flows, kit: Kit) -> None:
    before = in_n8n(flows)
    for said, expected in (
        # As Google's console lets one download it.
        ({"web": {"client_id": "client-of-the-standin", "client_secret": NEW_SECRET}}, {"secret": NEW_SECRET}),
        ({"refreshToken": NEW_REFRESH}, {"refresh": NEW_REFRESH}),
    ):
        flows.control.post("/_expect", json=expected).raise_for_status()
        assert kit("check", "Gmail")[0] == 1
        code, printed = kit("rotate", "Gmail", stdin=json.dumps(said))
        assert code == 0 and "valid" in printed, printed
        assert in_n8n(flows) == before
        tokens, searches = flows.state["tokens"], len(flows.state["searches"])
        flows.sql("gmail-to-telegram", "update people set active = true, next_at = now()")
        trial.eventually(
            lambda t=tokens, s=searches: flows.state["tokens"] > t and len(flows.state["searches"]) > s, 60
        )
    assert kit("check", "Gmail")[0] == 0
    # Nobody to be asked is no refusal, and changes nothing.
    stopped = kit("get", "Gmail", "--json")[1]
    docker("pause", STANDIN)
    try:
        with pytest.raises(KitError, match="no answer within 15 s") as caught:
            kit("rotate", "Gmail", stdin=json.dumps({"clientSecret": "third"}))
    finally:
        docker("unpause", STANDIN)
    assert caught.value.code == 3 and kit("get", "Gmail", "--json")[1] == stopped


def test_a_value_of_ones_own_comes_back_byte_for_byte_and_a_dump_shows_none(flows: Flows, kit: Kit) -> None:
    assert kit("set", ODD_NAME, "--kind", "generic", stdin=ODD_VALUE)[0] == 0
    assert kit("get", ODD_NAME, "--show")[1] == f"{ODD_VALUE}\n"
    assert json.loads(kit("get", ODD_NAME, "--show", "--json")[1])["value"] == {"value": ODD_VALUE}
    with pytest.raises(KitError, match="already"):
        kit("set", ODD_NAME, "--kind", "generic", stdin="other")
    assert kit("set", "Own key", "--kind", "generic", "--header", "X-Own", stdin="own-key-of-the-test")[0] == 0
    assert "Own key|httpHeaderAuth" in flows.sql("n8n", "select name, type from credentials_entity")
    assert not [name for name in flows.sql("n8n", "select name from credentials_entity") if name == ODD_NAME]
    with pytest.raises(KitError, match="there is no credential"):
        kit("get", "nobody's")
    dump = docker("exec", f"kit-{STACK}-postgres", "pg_dumpall", "-h", "/var/run/postgresql", "-U", "postgres")
    assert ODD_NAME.split("$")[0].replace("'", "'") in dump and "credentials_entity" in dump
    values = {str(key): value for key, value in flows.trial.values.items() if len(value) > 12}
    values |= {
        "odd": ODD_VALUE,
        "bot": NEW_BOT,
        "client": NEW_SECRET,
        "refresh": NEW_REFRESH,
        "own": "own-key-of-the-test",
    }
    assert not leaks_in(dump, "a dump of all databases", values)
    nowhere = docker("inspect", f"kit-{STACK}-n8n") + docker("logs", f"kit-{STACK}-n8n", check=False)
    assert not leaks_in(nowhere, "n8n's inspect and logs", values)


def test_the_audit_log_has_it_all_and_nobody_changes_it(flows: Flows, kit: Kit) -> None:
    rows = json.loads(kit("audit", "Telegram bot", "--json")[1])
    did = [(row["action"], row["version"], row["detail"]) for row in reversed(rows)]
    assert did[:2] == [("made", 1, "from the configuration"), ("injected", 1, "into n8n")]
    for one in (
        ("turned down", None, "refused"),
        ("rotated", 2, ""),
        ("injected", 2, "into n8n"),
        ("read", 1, "shown"),
    ):
        assert one in did, did
    assert {row["login"] for row in rows} == {"credential_store"} and credentials.who() in {row["who"] for row in rows}
    assert "Telegram bot" in kit("audit")[1]
    count = store(flows, "select count(*) from store.audit")
    for statement in (
        "update store.audit set who = 'nobody'",
        "delete from store.audit",
        "truncate store.audit",
        "drop table store.audit",
        "alter table store.audit disable trigger final",
        "insert into store.audit (who, action, name, at) values ('x', 'x', 'x', now() - interval '1 year')",
        "insert into store.audit (who, action, name, login) values ('x', 'x', 'x', 'somebody')",
        "delete from store.version",
        "delete from store.credential",
    ):
        said = store(flows, statement)
        assert "permission denied" in said or "must be owner" in said, (statement, said)
    for statement in ("update store.audit set who = 'nobody'", "delete from store.audit", "truncate store.audit"):
        assert "only added to" in store(flows, statement, role=""), "the trigger stops the owner as well"
        assert "does not exist" not in store(flows, statement, role="")
        assert "permission denied" in store(flows, statement, role="credentials"), "the database's own role"
    assert store(flows, "select count(*) from store.audit") == count
    proven(flows)
    # The proof notices when the log is open, and leaves no trace of having tried.
    store(flows, "grant delete on store.audit to credential_store; drop trigger final on store.audit", role="")
    try:
        with pytest.raises(ProofError, match="takes DELETE"):
            proven(flows)
    finally:
        flows.trial.run(next(job for job in flows.trial.runtime.jobs if job.name.endswith("-database-credentials")))
    proven(flows)
    assert store(flows, "select count(*) from store.audit") == count


def test_a_moved_row_is_noticed_and_what_was_cut_short_is_ended(flows: Flows, kit: Kit) -> None:
    swap = "update store.version set ciphertext = o.ciphertext, nonce = o.nonce from store.version o where"
    swap += " store.version.name = 'Telegram bot' and o.name = 'Telegram bot' and store.version.version = 3 - o.version"
    store(flows, swap, role="")
    with pytest.raises(KitError, match="not as it was written"):
        kit("get", "Telegram bot", "--show")
    store(flows, swap, role="")
    # As a run that ended between the store and n8n leaves it: n8n has the first, the second counts.
    store(flows, "update store.credential set n8n_version = 1 where name = 'Telegram bot'", role="")
    assert "behind" in kit("list")[1]
    before = in_n8n(flows)
    assert "Telegram bot: n8n has it now" in kit("sync")[1]
    assert "everything already" in kit("sync")[1] and in_n8n(flows) == before
    # Deleted in the editor: made again by the next sync of a new version, under its name.
    heard = len(flows.sent(11))
    assert flows.say("alice_tg", 11, "/status") == 200
    trial.eventually(lambda: len(flows.sent(11)) > heard, 60)


def test_a_rotation_that_is_killed_before_n8n_has_it_is_ended_by_the_same_once_more(flows: Flows, kit: Kit) -> None:
    look = "select data from credentials_entity where name = 'Own key'"
    before = flows.sql("n8n", look)
    psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "n8n", "-Atq")
    lock = subprocess.Popen(
        ["docker", "exec", "-i", f"kit-{STACK}-postgres", *psql], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert lock.stdin is not None and lock.stdout is not None
    try:
        # n8n cannot look into its own credentials now, so it does not answer.
        lock.stdin.write(b"begin; lock table credentials_entity in access exclusive mode; select 'locked';\n")
        lock.stdin.flush()
        assert lock.stdout.readline().strip() == b"locked"
        request = {"verb": "rotate", "name": "Own key", "patch": {"value": "the-next-of-the-test"}, "who": "x"}
        asking = subprocess.Popen(
            ["docker", "exec", "-i", f"kit-{STACK}-n8n", "node", "/run/kit/credentials.js"], stdin=subprocess.PIPE
        )
        assert asking.stdin is not None
        asking.stdin.write(json.dumps({**request, "owner": flows.plan.settings.admin_email}).encode() + b"\n")
        asking.stdin.flush()
        version = "select current from store.credential where name = 'Own key'"
        trial.eventually(lambda: store(flows, version).strip() == "2", 30)
        top = docker("top", f"kit-{STACK}-n8n", "-eo", "pid,args").splitlines()
        (pid,) = [int(line.split()[0]) for line in top if line.endswith("node /run/kit/credentials.js")]
        os.kill(pid, signal.SIGKILL)
        asking.stdin.close()
        asking.wait(30)
    finally:
        lock.stdin.close()
        lock.wait(30)
    assert flows.sql("n8n", look) == before
    row = next(item for item in json.loads(kit("list", "--json")[1]) if item["name"] == "Own key")
    assert (row["version"], row["n8nVersion"]) == (2, 1)
    code, printed = kit("rotate", "Own key", stdin="the-next-of-the-test")
    assert code == 0 and "version 2 already" in printed and "n8n has it" in printed
    assert flows.sql("n8n", look) != before


def test_the_stores_own_key_rotates_and_every_version_with_it(flows: Flows, kit: Kit) -> None:
    values = flows.trial
    old = values.secret(STORE_KEY.owner, STORE_KEY.name)
    ids = store(flows, "select distinct key_id from store.version").split()
    values.previous[STORE_KEY], values.values[STORE_KEY] = old, f"another {HOSTILE}"
    main = next(step for step in values.runtime.containers if step.name == f"kit-{STACK}-n8n")
    values.deliver(main)
    assert kit("get", "Telegram bot", "--show")[1] == f"{NEW_BOT}\n"  # before they are encrypted anew
    log = flows.importing()
    assert re.search(r"credentials: \d+ versions are encrypted with the new key", log), log
    assert not set(ids) & set(store(flows, "select distinct key_id from store.version").split())
    values.previous.pop(STORE_KEY)
    values.deliver(main)
    assert kit("get", "Telegram bot", "--show", "--version", "1")[1] == f"{BOT}\n"
    assert kit("get", ODD_NAME, "--show")[1] == f"{ODD_VALUE}\n"
    assert "re-encrypted" in kit("audit", ODD_NAME)[1]


def test_the_configuration_counts_when_it_changes_and_only_then(flows: Flows, kit: Kit) -> None:
    assert "credential Telegram bot" not in flows.importing()
    key = SecretKey("n8n", render.secret_name("telegramBotToken"))
    assert flows.trial.values[key] == BOT != NEW_BOT
    flows.trial.values[key] = NEW_BOT  # the operator follows: nothing is new to the store
    assert "credential Telegram bot" not in flows.importing()
    assert json.loads(kit("get", "Telegram bot", "--json")[1])["version"] == 2
    flows.trial.values[key] = "9999:from-the-configuration"
    assert "credential Telegram bot: version 3" in flows.importing()
    flows.trial.values[key] = NEW_BOT
    assert "credential Telegram bot: version 4" in flows.importing()
    assert kit("check", "Telegram bot")[0] == 0


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
