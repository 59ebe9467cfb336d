"""Workflow templates: what is refused in one, what becomes of parameters, and what the plan gets of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import workflows as verb
from ops.console import KitError
from stack import catalog, targets
from stack import plan as planning
from stack.automation import check, render, templates
from stack.automation.template import (
    Credential,
    FromConfig,
    Kind,
    Link,
    Node,
    Parameter,
    RolePassword,
    Slot,
    WorkflowTemplate,
    gathered,
    program,
    query,
    request,
)
from stack.derive import runtime
from stack.derive.values import SecretPiece
from stack.model import Problem, SpecError, Target
from stack.settings import Settings

TEMPLATE = WorkflowTemplate(
    name="thing",
    summary="does a thing",
    parameters=(Parameter(name="words", kind=Kind.NUMBER, meaning="how many", default=5, low=1, high=10),),
    credentials=(
        Credential(name="Key", type="httpHeaderAuth", fields={"name": "X-Key", "value": FromConfig("thingKey", "any")}),
    ),
    databases=("thing",),
    nodes=(
        Node(
            name="Asked",
            type=check.WEBHOOK,
            version=2,
            parameters={"path": "thing", "authentication": "headerAuth"},
            credential="Key",
        ),
        gathered("Parameters", (1, 0), words=Slot("words")),
        program("Done", (2, 0), "return [{ json: { text: `${$input.first().json.words}` } }];"),
    ),
    links=(Link("Asked", "Parameters"), Link("Parameters", "Done")),
)


def found(template: WorkflowTemplate) -> list[Problem]:
    return check.template_problems(template)


def with_node(node: Node) -> WorkflowTemplate:
    """The template with one more node, linked."""
    return replace(TEMPLATE, nodes=(*TEMPLATE.nodes, node), links=(*TEMPLATE.links, Link("Done", node.name)))


def with_value(value: object, key: str = "value") -> WorkflowTemplate:
    return with_node(Node(name="New", type="n8n-nodes-base.set", version=3.4, parameters={key: value}))


def with_program(text: str) -> WorkflowTemplate:
    return with_node(program("New", (3, 0), text))


def with_credential(**fields: Any) -> WorkflowTemplate:
    credential = replace(TEMPLATE.credentials[0], fields={**TEMPLATE.credentials[0].fields, **fields})
    return replace(TEMPLATE, credentials=(credential,))


def test_the_template_that_is_broken_below_is_fine() -> None:
    assert found(TEMPLATE) == []


def test_every_template_of_ours_is_fine_and_has_a_page() -> None:
    found_ones = templates.discover()
    assert {template.name for template in found_ones} >= {"gmail-to-telegram", "summarise-url", "classify-inbox"}
    text = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text(encoding="utf-8")
    for template in found_ones:
        assert f"## {template.name}" in text
        for item in template.config_keys:
            assert item.key in text


# Split, so that no scanner takes them for what they imitate.
BOT = "123456789:" + "AAH" + "x" * 32
JWT = "eyJ" + "hbGciOiJI" + ".eyJ" + "zdWIiOiIx" + ".abc"
PLANTED: list[tuple[str, WorkflowTemplate, str]] = [
    ("a bot token in a value", with_value(f"bot {BOT}"), "a Telegram bot token"),
    ("a bot token in a program", with_program(f"return '{BOT}';"), "a Telegram bot token"),
    ("a web token", with_value(JWT), "a JSON web token"),
    ("a bearer token", with_value("Bearer abcdefghijkl1234"), "a bearer token"),
    ("a Google secret", with_value("GOCSPX-" + "a" * 20), "a Google token"),
    ("an API key", with_value("sk-" + "a1" * 12), "an API key"),
    ("a private key", with_value("-----BEGIN RSA " + "PRIVATE KEY-----"), "a private key"),
    ("a password by its name", with_value("hunter2", key="password"), "is a secret"),
    ("a header's secret", with_value([{"name": "Authorization", "value": "letmein"}]), "is a secret"),
    ("a chat id by its name", with_value("42", key="chatId"), "somebody's chat"),
    ("a chat id as a number", with_value(42, key="chat_id"), "somebody's chat"),
    ("a chat id in a text", with_value("to -1001234567890"), "chat's or a person's id"),
    ("a mail address", with_value("to ann@example.org"), "the mail address ann@example.org"),
    ("an address", with_value("https://api.example/v1"), "holds the address"),
    ("an address with a password", with_value("https://me:pw@api.example/"), "with a secret in it"),
    ("an address with a key", with_value("https://api.example/?api_key=abc"), "with a secret in it"),
    ("another n8n's id", with_value("a1" * 32), "the id of another n8n"),
    ("a picked id", with_value({"__rl": True, "mode": "list", "value": "Xy12"}, key="workflowId"), "an id of one"),
    ("an error workflow", with_value("Xy12", key="errorWorkflow"), "names a workflow by its id"),
    ("a variable of the machine", with_value("={{ $env.HOME }}"), "reads $env"),
    ("n8n's own variables", with_value("={{ $vars.chat }}"), "reads $vars"),
    ("the process's variables", with_program("return process.env.HOME;"), "reads process.env"),
    ("an unknown variable", with_value("={{ $jsno.x }}"), "$jsno is no variable"),
    ("an unknown node", with_value("={{ $('Askd').first().json }}"), 'there is no node "Askd"'),
    ("an unknown parameter", with_value(Slot("wrods")), "there is no parameter"),
    ("a community node", with_node(Node(name="New", type="n8n-nodes-evil.run", version=1)), "no node of n8n's own"),
    (
        "a program of the machine",
        with_node(Node(name="New", type="n8n-nodes-base.executeCommand", version=1)),
        "allowed",
    ),
    (
        "an open webhook",
        with_node(Node(name="New", type=check.WEBHOOK, version=2, parameters={"path": "x"})),
        "anybody may call",
    ),
    ("an unknown credential", with_node(request("New", (3, 0), "={{ $json.x }}", credential="Kye")), "no credential"),
    ("a credential's content", with_credential(password="hunter2"), "is the content of a credential"),
    ("a credential's token", with_credential(value=f"x {BOT}"), "a Telegram bot token"),
    ("a nested token", with_credential(more={"access_token": "abc"}), "is a token"),
    ("an unknown database", with_credential(password=RolePassword("other")), "there is no database"),
    (
        "an unused credential",
        replace(TEMPLATE, credentials=(*TEMPLATE.credentials, Credential(name="B", type="x", fields={}))),
        "used by no node",
    ),
    (
        "an unused parameter",
        replace(
            TEMPLATE,
            parameters=(*TEMPLATE.parameters, Parameter(name="x", kind=Kind.TEXT, meaning="m", default="d")),
        ),
        "is used nowhere",
    ),
    (
        "a default that does not fit",
        replace(TEMPLATE, parameters=(replace(TEMPLATE.parameters[0], default=11),)),
        "its default 11",
    ),
    (
        "a default that is a person",
        replace(TEMPLATE, parameters=(replace(TEMPLATE.parameters[0], kind=Kind.TEXT, default="ann@example.org"),)),
        "the mail address",
    ),
    ("a link to nowhere", replace(TEMPLATE, links=(*TEMPLATE.links, Link("Done", "Nowhere"))), "there is no node"),
    ("a node alone", replace(TEMPLATE, links=(Link("Asked", "Parameters"),)), "linked to nothing"),
    ("a bad name", replace(TEMPLATE, name="Thing!"), "is no name"),
]


@pytest.mark.parametrize(("template", "expected"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_what_is_planted_is_found(template: WorkflowTemplate, expected: str) -> None:
    problems = found(template)
    assert len(problems) == 1, problems
    assert expected in problems[0].what and problems[0].fix
    assert BOT not in str(problems[0]) and "hunter2" not in str(problems[0]) and "pw@" not in str(problems[0])


def test_everything_planted_is_found_at_once() -> None:
    template = with_value({"a": BOT, "chatId": "42", "b": "ann@example.org", "c": "={{ $env.X }}", "d": Slot("nope")})
    assert len(found(template)) == 5


@pytest.mark.parametrize(
    "text",
    [
        "={{ $json.a + $('Asked').first().json.b }}",
        "={{ $json.gmail }}/gmail/v1/users/me",
        "SELECT $1::text, $2 FROM people WHERE x ~ '^a$'",
        "const t = `${x} costs 5$`; // 12345678",
        "the token of the page, 8 characters",
        "Bearer token",
        "key=value",
    ],
)
def test_what_belongs_to_nobody_is_taken(text: str) -> None:
    assert found(with_value(text)) == []


# ---------------------------------------------------------------------------------------------------- exports


def exported(change: Callable[[dict[str, Any]], None] = lambda document: None) -> list[Problem]:
    document: dict[str, Any] = {
        "name": "mine",
        "nodes": [{"name": "A", "type": "n8n-nodes-base.set", "parameters": {"value": "={{ $json.x }}"}}],
        "connections": {},
        "settings": {"executionOrder": "v1"},
    }
    change(document)
    return check.exported_problems("mine.json", json.dumps(document))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(id="abc"), '"id" belongs'),
        (lambda d: d.update(versionId="abc"), '"versionId" belongs'),
        (lambda d: d.update(meta={"instanceId": "a" * 64}), "another n8n"),
        (lambda d: d.update(pinData={"A": [{}]}), "somebody's runs"),
        (lambda d: d.update(staticData={"x": 1}), "a trigger remembers"),
        (lambda d: d["settings"].update(errorWorkflow="abc"), "by its id"),
        (lambda d: d["nodes"][0].update(credentials={"x": {"id": "1", "name": "K"}}), "has an id"),
        (lambda d: d["nodes"][0].update(webhookId="abc"), "webhook id"),
        (lambda d: d["nodes"][0]["parameters"].update(chatId="42"), "somebody's chat"),
        (lambda d: d["nodes"][0].update(type="n8n-nodes-base.webhook"), "anybody may call"),
        (lambda d: d.update(nodes=5), "is no workflow"),
    ],
)
def test_what_an_export_brings_along_is_found(change: Callable[[dict[str, Any]], None], expected: str) -> None:
    problems = exported(change)
    assert len(problems) == 1 and expected in problems[0].what


def test_a_clean_export_is_taken_and_no_json_is_not() -> None:
    assert exported() == []
    assert "no JSON" in check.exported_problems("x", "{")[0].what
    assert "no workflow" in check.exported_problems("x", "[1]")[0].what


@given(st.text(), st.text())
def test_the_check_of_an_export_never_trips(key: str, value: str) -> None:
    document = {"nodes": [{"name": value, "type": value, "parameters": {key: value}, "credentials": {key: value}}]}
    check.exported_problems("x", json.dumps(document))
    check.exported_problems("x", value)


# ------------------------------------------------------------------------------------------------- parameters


@given(st.sampled_from(Kind), st.text(max_size=40))
def test_no_value_becomes_an_expression_or_leaves_its_line(kind: Kind, value: str) -> None:
    parameter = Parameter(name="p", kind=kind, meaning="m", default=None)
    if not check.unfit_value(parameter, value):
        assert not value.lstrip().startswith("=") and "{{" not in value
        assert "\n" not in value and "\0" not in value


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Kind.NUMBER, ["1", "10"], ["0", "11", "x", "1.5", "", "١"]),
        (
            Kind.ADDRESS,
            ["http://ollama-queue:11435", "https://a.example/v1"],
            ["ftp://a", "https://u:p@a/", "https://a/?k=1"],
        ),
        (Kind.PATH, ["a", "a/b-c"], ["/a", "a/../b", "A", "a b", ""]),
        (Kind.NAMES, ["a", "a, @b"], ["", "a;b", 'a"', "={{ 1 }}"]),
        (Kind.MODEL, ["llama3.2:1b"], ["a b", ""]),
        (Kind.TEXT, ["x'\"$;<>é", "a = b"], ["=1", "{{ 1 }}", "a\nb"]),
    ],
)
def test_what_each_kind_takes(kind: Kind, good: list[str], bad: list[str]) -> None:
    parameter = Parameter(name="p", kind=kind, meaning="m", default=None, low=1, high=10)
    assert [value for value in good if check.unfit_value(parameter, value)] == []
    assert [value for value in bad if not check.unfit_value(parameter, value)] == []


def stack(**changes: Any) -> Settings:
    base = Settings(
        stack="dev",
        target=Target.DEV,
        profiles=("automation",),
        models=("kit-tiny-chat",),
        provided_secrets=templates.config_keys(),
    )
    return replace(base, **changes)


def refused(settings: Settings) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        planning.build(settings, targets.profile(settings), catalog.discover())
    return [(problem.where, problem.what) for problem in caught.value.problems]


def test_what_is_wrong_with_workflows_is_said_at_once() -> None:
    parameters = {
        "summarise-url.words": "many",
        "summarise-url.wrods": "5",
        "classify-inbox.days": "3",
        "nothing.x": "1",
    }
    settings = stack(workflows=("summarise-url", "gmail-to-telgram"), workflow_parameters=parameters)
    assert sorted(where for where, _ in refused(settings)) == [
        "workflowParameters classify-inbox.days",
        "workflowParameters nothing.x",
        "workflowParameters summarise-url.words",
        "workflowParameters summarise-url.wrods",
        "workflows[1]",
    ]


def test_a_parameter_without_a_default_must_be_said_and_a_secret_be_set() -> None:
    settings = stack(workflows=("gmail-to-telegram",), provided_secrets=frozenset({"telegramBotToken"}))
    assert sorted(where for where, _ in refused(settings)) == [
        "gmailClientId",
        "gmailClientSecret",
        "gmailRefreshToken",
        "workflowParameters gmail-to-telegram.people",
    ]


def test_workflows_without_anybody_to_run_them_are_refused() -> None:
    assert ("workflows", "nothing in this stack runs workflows") in refused(
        stack(profiles=("chat",), workflows=("summarise-url",))
    )


def job_of(settings: Settings) -> tuple[planning.Plan, runtime.JobPlan]:
    plan = planning.build(settings, targets.profile(settings), catalog.discover())
    return plan, next(job for job in runtime.build(plan).jobs if job.name.endswith("n8n-workflows"))


def test_the_plan_gets_databases_secrets_and_services_of_what_is_selected_and_no_more() -> None:
    nothing, job = job_of(stack())
    assert "values" not in str([file.name for file in job.files])
    assert [owned.item.name for owned in nothing.databases if owned.owner == "n8n"] == ["n8n", "credentials"]
    assert "ollama" not in [service.name for service in nothing.services]
    settings = stack(
        workflows=("gmail-to-telegram", "summarise-url"), workflow_parameters={"gmail-to-telegram.people": "ann"}
    )
    plan, job = job_of(settings)
    assert [o.item.name for o in plan.databases if o.owner == "n8n"] == ["n8n", "credentials", "gmail-to-telegram"]
    assert "ollama" in [service.name for service in plan.services]
    files = {file.name: file.text for file in job.files}
    assert files["values/secret-telegramBotToken"][0] == SecretPiece(
        planning.SecretKey("n8n", "config-telegram-bot-token")
    )
    assert not any(isinstance(piece, SecretPiece) for piece in files["workflows.json"])
    database = {"DB_POSTGRESDB_HOST", "DB_POSTGRESDB_PORT"}
    assert not job.command and set(job.env) == {"KIT_URL", "KIT_OWNER_EMAIL", *database}


def test_ids_follow_from_names_and_nothing_else() -> None:
    first = render.bundle(stack(workflows=("summarise-url",))).document
    second = render.bundle(
        stack(stack="other", workflows=("summarise-url",), workflow_parameters={"summarise-url.words": "50"})
    ).document
    ids = [[node["id"] for node in document["workflows"][0]["nodes"]] for document in (first, second)]
    assert first["workflows"][0]["id"] == second["workflows"][0]["id"] == render.workflow_id("summarise-url")
    assert ids[0] == ids[1] and len(set(ids[0])) == len(ids[0])
    assert first != second


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_a_hostile_value_arrives_as_it_is_and_nowhere_else(value: str) -> None:
    settings = stack(workflows=("summarise-url",), workflow_parameters={"summarise-url.ownDomain": value})
    template = next(t for t in templates.discover() if t.name == "summarise-url")
    values, wrong = render.parameters(template, settings)
    if wrong:
        return
    document = json.loads(json.dumps(render.document(template, values, "UTC")))
    plain = json.loads(json.dumps(render.document(template, {**values, "ownDomain": "marker"}, "UTC")))
    assert document == _replaced(plain, "marker", value)


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return new if value == old else value


# ------------------------------------------------------------------------------------------------ files, verb


def test_a_file_must_define_a_template_named_as_it(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    source = (templates.PACKAGE_DIR / "summarise_url.py").read_text(encoding="utf-8")
    (tmp_path / "other.py").write_text(source)
    with pytest.raises(SpecError) as caught:
        templates.read(tmp_path)
    assert [problem.what for problem in caught.value.problems] == [
        "defines no TEMPLATE",
        'TEMPLATE is named "summarise-url"',
    ]


def test_two_templates_mean_the_same_by_one_credential(tmp_path: Path) -> None:
    source = (templates.PACKAGE_DIR / "summarise_url.py").read_text(encoding="utf-8")
    (tmp_path / "summarise_url.py").write_text(source)
    (tmp_path / "other.py").write_text(
        source.replace('name="summarise-url"', 'name="other"').replace("summariseUrlKey", "anotherKey")
    )
    with pytest.raises(SpecError) as caught:
        templates.read(tmp_path)
    assert len(caught.value.problems) == 1 and "is another one in" in caught.value.problems[0].what


def asked(action: str, name: str = "", **more: Any) -> argparse.Namespace:
    base = {"action": action, "name": name, "stack": "dev", "json": False, "workflow": False, "limit": 20}
    return argparse.Namespace(**{**base, **more})


def test_list_and_show_need_no_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.run(asked("")) == 0
    text = capsys.readouterr().out
    assert "summarise-url" in text and "nothing in stack dev runs workflows" in text
    assert verb.run(asked("list", json=True)) == 0
    rows = json.loads(capsys.readouterr().out)["templates"]
    assert all(row["inN8n"] is None and row["selected"] is False for row in rows)
    assert verb.run(asked("show", "gmail-to-telegram")) == 0
    text = capsys.readouterr().out
    assert "telegramBotToken" in text and "gmail-to-telegram.people=..." in text
    assert verb.run(asked("show", "summarise-url", workflow=True)) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "summarise-url"
    assert verb.run(asked("show", "summarise-url", json=True)) == 0
    assert json.loads(capsys.readouterr().out)["secrets"][0]["key"] == "summariseUrlKey"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (asked("", "sohw"), 'has no "sohw"'),
        (asked("show"), "needs a name"),
        (asked("show", "nope"), 'no template "nope"'),
        (asked("check", "/nowhere.json"), "no file"),
        (asked("history"), "runs workflows"),
        (asked("export", "x"), "runs workflows"),
        (asked("list", stack="nope"), 'no stack "nope"'),
    ],
)
def test_what_cannot_be_done_is_said(arguments: argparse.Namespace, what: str) -> None:
    with pytest.raises(KitError) as caught:
        verb.run(arguments)
    assert what in caught.value.what


def test_a_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"id": "x", "nodes": [], "connections": {}}))
    assert verb.run(asked("check", str(path), json=True)) == 2
    assert len(json.loads(capsys.readouterr().out)) == 1
    with pytest.raises(SpecError):
        verb.run(asked("check", str(path)))
    assert verb.run(asked("check", str(templates.PACKAGE_DIR / "summarise_url.py"))) == 0
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KitError):
        verb.run(asked("check", str(path)))


def test_queries_take_values_and_no_text() -> None:
    """No template builds SQL from what people say: every statement is fixed."""
    for template in templates.discover():
        for node in template.nodes:
            if node.type.endswith(".postgres"):
                assert "{{" not in node.parameters["query"], f"{template.name} {node.name}"


def test_a_query_without_values_has_no_replacement() -> None:
    assert query("Q", (0, 0), "SELECT 1", credential="K").parameters["options"] == {}
