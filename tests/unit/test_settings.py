"""The configuration: what every key takes, what is refused, and that nothing secret is ever shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ops import configref
from stack import project
from stack import settings as settings_module
from stack.model import ImageSource, SpecError, Target
from stack.settings import KEYS, Kind, RetiredKey, Settings, default_of, from_files, load

MINIMAL: dict[str, object] = {"target": "dev"}


PROFILES = ("api", "chat")


def problems(raw: dict[str, object], **more: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        load("dev", {**MINIMAL, **raw}, **{"profiles": PROFILES, **more})
    return [(problem.where, problem.what, problem.fix) for problem in caught.value.problems]


def one(raw: dict[str, object], **more: Any) -> tuple[str, str, str]:
    found = problems(raw, **more)
    assert len(found) == 1, found
    return found[0]


# ------------------------------------------------------------------------------------------- one list of keys


def test_pulumi_yaml_settings_and_parser_say_the_same(root: Path) -> None:
    schema = project.schema(root)
    field_names = [item.name for item in fields(Settings) if item.name not in ("stack", "provided_secrets")]
    assert [key.field for key in KEYS.values()] == field_names
    assert list(schema) == list(KEYS)
    for name, key in KEYS.items():
        entry = schema[name]
        assert entry["type"] == key.kind, name
        assert entry.get("default", MISSING) == default_of(key), name
        assert entry["description"].strip(), name
        assert set(entry) <= {"type", "items", "default", "description"}, name
        if key.kind is Kind.ARRAY:
            assert entry["items"] == {"type": key.items}, name


def test_the_schema_names_every_choice(root: Path) -> None:
    schema = project.schema(root)
    for name, kind in (("target", Target), ("images", ImageSource)):
        for member in kind:
            assert member.value in schema[name]["description"], (name, member)


def test_defaults_are_those_of_settings() -> None:
    assert load("dev", MINIMAL) == Settings(stack="dev", target=Target.DEV)
    defaults = {name: default_of(key) for name, key in KEYS.items() if default_of(key) is not MISSING}
    assert load("dev", {**defaults, **MINIMAL}) == Settings(stack="dev", target=Target.DEV)


# ------------------------------------------------------------------------------------------------ what is taken

TAKEN: list[tuple[str, object, object]] = [
    ("target", "gpu", Target.GPU),
    ("domain", "home.example", "home.example"),
    ("domain", "lan", "lan"),
    ("bindAddress", "0.0.0.0", "0.0.0.0"),
    ("bindAddress", "::1", "::1"),
    ("httpPort", 80, 80),
    ("httpPort", "80", 80),
    ("httpsPort", "65535", 65535),
    ("adminPort", 1, 1),
    ("paths", ["auth = /keycloak", "jenkins=/ci-2"], {"auth": "/keycloak", "jenkins": "/ci-2"}),
    ("profiles", ["chat"], ("chat",)),
    ("profiles", '["chat"]', ("chat",)),
    ("without", ["redis", "n8n"], ("redis", "n8n")),
    ("retired", "[]", ()),
    (
        "models",
        ["deepseek-r1:14b", "hf.co/bartowski/Llama-3.2:Q4_K_M"],
        ("deepseek-r1:14b", "hf.co/bartowski/Llama-3.2:Q4_K_M"),
    ),
    ("embeddingModel", "kit-tiny-embed", "kit-tiny-embed"),
    ("embeddingModel", "", ""),
    ("dockerHost", "ssh://pi@raspberry.local:2222", "ssh://pi@raspberry.local:2222"),
    ("dockerHost", "unix:///run/user/1000/docker.sock", "unix:///run/user/1000/docker.sock"),
    ("dockerHost", "", None),
    ("memoryMb", "16384", 16384),
    ("memoryMb", 0, None),
    ("reserveMb", 2048, 2048),
    ("cpus", "4", 4),
    ("diskGb", "0", None),
    ("images", "airgap", ImageSource.AIRGAP),
    ("airgapImages", ["redis=kit/redis:8@sha256:ab=c"], {"redis": "kit/redis:8@sha256:ab=c"}),
    ("realm", "home", "home"),
    ("adminEmail", "me@home.example", "me@home.example"),
    ("apiRequestsPerMinute", "0", 0),
    ("apiRequestsPerMinute", 600, 600),
    ("apiWebhook", "http://n8n:5678/webhook/a-b?c=d", "http://n8n:5678/webhook/a-b?c=d"),
    ("apiWebhook", "", ""),
    ("openaiUrl", "https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
    ("openaiUrl", "https://eu.example:8443/v1", "https://eu.example:8443/v1"),
    ("openaiModels", ["a/b:free", "c"], ("a/b:free", "c")),
    ("down", True, True),
    ("down", "true", True),
    ("down", "false", False),
    ("adopt", True, True),
]


@pytest.mark.parametrize(("key", "value", "expected"), TAKEN)
def test_taken(key: str, value: object, expected: object) -> None:
    assert getattr(load("dev", {**MINIMAL, key: value}), KEYS[key].field) == expected


# ---------------------------------------------------------------------------------------------- what is refused

REFUSED: list[tuple[str, object, str, str]] = [
    ("target", "rpi", "target", 'is no target. Did you mean "pi"? Targets: dev, gpu, pi'),
    ("target", 5, "target", "is no text"),
    ("domain", "Home.Example", "domain", "is no domain"),
    ("domain", "-a.example", "domain", "is no domain"),
    ("domain", "192.168.1.5", "domain", "is no domain"),
    ("domain", "a..b", "domain", "is no domain"),
    ("bindAddress", "localhost", "bindAddress", "is no IP address"),
    ("paths", ["auth"], "paths[0]", "is not ROUTE = /PATH, such as auth = /keycloak"),
    ("paths", ["auth = keycloak"], "paths[0]", "is not ROUTE = /PATH"),
    ("paths", ["auth = /a/b"], "paths[0]", "is not ROUTE = /PATH"),
    ("paths", ["auth = /"], "paths[0]", "is not ROUTE = /PATH"),
    ("paths", ["auth = /a b"], "paths[0]", "is not ROUTE = /PATH"),
    ("paths", ["auth = /a", "auth = /b"], "paths[1]", "stands there twice"),
    ("paths", ["auth = /a", "jenkins = /a"], "paths[1]", "leads to auth already"),
    ("httpPort", 0, "httpPort", "1 to 65,535"),
    ("httpPort", "65536", "httpPort", "1 to 65,535"),
    ("httpPort", -1, "httpPort", "1 to 65,535"),
    ("httpPort", "eighty", "httpPort", "is no whole number"),
    ("httpPort", "80.0", "httpPort", "is no whole number"),
    ("httpPort", 80.5, "httpPort", "is no whole number"),
    ("httpPort", True, "httpPort", "is no whole number"),
    ("httpPort", [80], "httpPort", "is no whole number"),
    ("httpPort", "", "httpPort", "is no whole number"),
    ("httpPort", "９０", "httpPort", "is no whole number"),
    ("httpPort", "010", "httpPort", "is no whole number"),  # 8 to the engine, 10 to whoever wrote it
    ("httpsPort", 8080, "httpsPort", "is httpPort already"),
    ("apiRequestsPerMinute", -1, "apiRequestsPerMinute", "0 to 100,000"),
    ("apiWebhook", "n8n/webhook", "apiWebhook", "is no URL"),
    ("apiWebhook", "http://user:pass@n8n/", "apiWebhook", "is no URL"),
    ("apiWebhook", "http://n8n/a b", "apiWebhook", "is no URL"),
    ("openaiUrl", "http://api.openai.com/v1", "openaiUrl", "is no HTTPS URL"),
    ("openaiUrl", "https://api.openai.com/v1?x=y", "openaiUrl", "is no HTTPS URL"),
    ("openaiUrl", "https://a.example/v1\nserver x", "openaiUrl", "is no HTTPS URL"),
    ("adminPort", 8443, "adminPort", "is httpsPort already"),
    (
        "profiles",
        ["chat", "chta"],
        "profiles[1]",
        'is no profile. Did you mean "chat"? Profiles: api, chat',
    ),
    ("vectorStore", "PG vector", "vectorStore", "is no store of vectors"),
    ("vectorStore", 5, "vectorStore", "is no text"),
    (
        "profiles",
        ["chatt"],
        "profiles[0]",
        'Did you mean "chat"?',
    ),
    ("profiles", ["Chat!"], "profiles[0]", "is no profile"),
    ("profiles", ["chat", "chat"], "profiles[1]", "twice"),
    ("profiles", "chat", "profiles", "is no list"),
    ("profiles", '{"chat": 1}', "profiles", "is no list"),
    ("profiles", None, "profiles", "is no list"),
    ("without", ["Redis"], "without[0]", "is no service name"),
    ("without", [5], "without[0]", "is no text"),
    ("models", ["llama3.2:1b; rm -rf /"], "models[0]", "is no model name"),
    ("models", ["../etc/passwd"], "models[0]", "is no model name"),
    ("models", ["a" * 201], "models[0]", "is no model name"),
    ("embeddingModel", "a b", "embeddingModel", "is no model name"),
    ("dockerHost", "tcp://10.0.0.1:2375", "dockerHost", "anybody would be root"),
    ("dockerHost", "ssh://pi@host -oProxyCommand=x", "dockerHost", "is neither"),
    ("memoryMb", 256, "memoryMb", "is out of range"),
    ("cpus", "1.5", "cpus", "is no whole number"),
    ("images", "dockerhub", "images", "is no image source"),
    ("airgapImages", ["redis"], "airgapImages[0]", "is not name=reference"),
    ("airgapImages", ["redis=a", "redis=b"], "airgapImages[1]", "twice"),
    ("realm", "master", "realm", "is no realm name"),
    ("realm", "my realm", "realm", "is no realm name"),
    ("adminEmail", "me", "adminEmail", "is no mail address"),
    ("down", "yes", "down", "is neither true nor false"),
    ("down", 1, "down", "is neither true nor false"),
]


@pytest.mark.parametrize(("key", "value", "where", "fix"), REFUSED)
def test_refused(key: str, value: object, where: str, fix: str) -> None:
    found = one({key: value})
    assert found[0] == where
    assert fix in found[2]


def test_target_must_be_said() -> None:
    with pytest.raises(SpecError, match="target: is not set"):
        load("dev", {})


def test_unknown_key_is_refused_with_a_guess() -> None:
    where, what, fix = one({"profils": ["chat"]})
    assert (where, what) == ("profils", "is no key of this project")
    assert fix == 'Did you mean "profiles"? To take it out: pulumi config rm profils -s dev'


def test_retired_key_names_its_replacement() -> None:
    retired = {"hostName": RetiredKey("domain", "host names are made from the routes")}
    assert one({"hostName": "x"}, retired=retired) == (
        "hostName",
        "is no longer a key",
        "host names are made from the routes. Write domain instead",
    )


def test_retired_keys_are_no_keys() -> None:
    assert not set(settings_module.RETIRED) & set(KEYS)


def test_without_and_retired_exclude_each_other() -> None:
    where, _, fix = one({"without": ["redis"], "retired": ["n8n", "redis"]})
    assert where == "retired[1]"
    assert "choose one" in fix


@pytest.mark.parametrize("stack", ["", "Dev", "1dev", "dev_2", "dev-2", "../dev", "d" * 32, "dev\n"])
def test_stack_names(stack: str) -> None:
    with pytest.raises(SpecError, match="is no stack name"):
        load(stack, MINIMAL)


def test_stack_need_not_be_named_as_its_target() -> None:
    assert load("dev2", MINIMAL).stack == "dev2"


def test_everything_wrong_is_said_at_once_and_reads_well() -> None:
    raw: dict[str, object] = {
        "target": "pi",
        "profiles": ["chat", "chta"],
        "httpPort": "eighty",
        "memory": 5,
        "down": "perhaps",
    }
    with pytest.raises(SpecError) as caught:
        load("pi", raw, profiles=PROFILES)
    assert str(caught.value) == (
        "Pulumi.pi.yaml cannot be planned: 4 problems\n"
        "\n"
        "  memory: is no key of this project\n"
        '      Did you mean "memoryMb"? To take it out: pulumi config rm memory -s pi\n'
        '  httpPort: "eighty"\n'
        "      is no whole number\n"
        '  down: "perhaps"\n'
        "      is neither true nor false\n"
        '  profiles[1]: "chta"\n'
        '      is no profile. Did you mean "chat"? Profiles: api, chat\n'
        "\n"
        "Nothing was changed."
    )


# ------------------------------------------------------------------------------------------------------ secrets


def test_provided_secret_is_known() -> None:
    loaded = load("dev", {**MINIMAL, "smtpPassword": "s3cret"}, {"smtpPassword"}, {"smtpPassword", "other"})
    assert loaded.provided_secrets == {"smtpPassword"}


def test_provided_secret_in_clear_text_is_refused_and_never_shown() -> None:
    where, what, fix = one({"smtpPassword": "hunter2"}, provided_keys={"smtpPassword"})
    assert where == "smtpPassword"
    assert "clear text" in what
    assert "pulumi config set --secret smtpPassword -s dev" in fix
    assert "hunter2" not in where + what + fix


def test_empty_secret_is_refused() -> None:
    assert "empty" in one({"smtpPassword": ""}, secret_keys={"smtpPassword"}, provided_keys={"smtpPassword"})[1]


def test_encrypted_plain_key_is_refused_and_never_shown() -> None:
    where, what, fix = one({"domain": "hunter2"}, secret_keys={"domain"})
    assert (where, what) == ("domain", "is encrypted")
    assert "hunter2" not in fix


def test_unknown_keys_value_is_never_shown() -> None:
    assert "hunter2" not in "".join(one({"smtpPasswort": "hunter2"}, provided_keys={"smtpPassword"}))


# ---------------------------------------------------------------------------------------- engine and file agree

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(sorted(KEYS)), JSON_VALUES)
def test_no_value_ever_gets_through_as_a_traceback(key: str, value: object) -> None:
    try:
        loaded = load("dev", {**MINIMAL, key: value})
    except SpecError as error:
        assert all(problem.where.startswith(key) or "Port" in problem.where for problem in error.problems)
    else:
        assert isinstance(loaded, Settings)


def engine_text(value: object) -> str:
    """How the engine hands a YAML value over."""
    if isinstance(value, str):
        return value
    return json.dumps(value)


@pytest.mark.parametrize(("key", "value", "expected"), TAKEN)
def test_engine_and_file_mean_the_same(key: str, value: object, expected: object) -> None:
    from_file = load("dev", {**MINIMAL, key: value})
    from_engine = load("dev", {**MINIMAL, key: engine_text(value)})
    assert from_file == from_engine


# -------------------------------------------------------------------------------------------------------- files

Write = Callable[[str, str], None]


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Path:
    (tmp_path / "Pulumi.yaml").write_text((root / "Pulumi.yaml").read_text())
    return tmp_path


def write(clone: Path, text: str, stack: str = "dev") -> None:
    (clone / f"Pulumi.{stack}.yaml").write_text(text)


def test_from_files(clone: Path) -> None:
    write(clone, 'config:\n  ai-kit:target: pi\n  httpsPort: 443\n  aws:region: x\n  ai-kit:models: ["a:1b"]\n')
    loaded = from_files(clone, "dev", frozenset())
    assert (loaded.target, loaded.https_port, loaded.models) == (Target.PI, 443, ("a:1b",))


def test_other_things_in_a_stack_file_do_not_matter(clone: Path) -> None:
    write(clone, "secretsprovider: passphrase\nencryptionsalt: v1:abc=\nconfig:\n  ai-kit:target: dev\n")
    assert from_files(clone, "dev", frozenset()).target is Target.DEV


def test_encrypted_values_count_as_set(clone: Path) -> None:
    write(clone, "config:\n  ai-kit:target: dev\n  ai-kit:smtpPassword:\n    secure: v1:abc=\n")
    assert from_files(clone, "dev", {"smtpPassword"}).provided_secrets == {"smtpPassword"}


def test_overrides_replace_what_the_file_says(clone: Path) -> None:
    write(clone, "config:\n  ai-kit:target: dev\n  ai-kit:models: [a]\n")
    loaded = from_files(clone, "dev", frozenset(), {"images": "airgap", "models": ["kit-tiny-chat"]})
    assert (loaded.images, loaded.models) == (ImageSource.AIRGAP, ("kit-tiny-chat",))


@pytest.mark.parametrize(
    "text", ["down: yes", "down: on", "down: 'true '", "realm: 5", "httpPort: 0x50", "cpus: 010", "models: '[]'"]
)
def test_yaml_is_read_as_pulumi_reads_it(clone: Path, text: str) -> None:
    write(clone, f"config:\n  ai-kit:target: dev\n  ai-kit:{text}\n")
    with pytest.raises(SpecError):
        from_files(clone, "dev", frozenset())


def test_missing_stack_names_those_there_are(clone: Path) -> None:
    write(clone, "config: {}", "dev")
    write(clone, "config: {}", "pi")
    with pytest.raises(SpecError) as caught:
        from_files(clone, "prod", frozenset())
    assert "Stacks: dev, pi." in str(caught.value)
    assert "cp Pulumi.dev.yaml Pulumi.prod.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config:\n  a: [1\n  b: 2\n", "line 3"),
        ("config:\n  ai-kit:target: dev\n  ai-kit:target: pi\n", "line 3: ai-kit:target stands there twice"),
        ("- 1\n- 2\n", "is no mapping"),
        ("config: [1, 2]\n", "config is no mapping"),
        ("a\tb: !!python/object:os.system {}\n", "line 1"),
    ],
)
def test_unreadable_file_is_a_report_with_the_line(clone: Path, text: str, expected: str) -> None:
    write(clone, text)
    with pytest.raises(SpecError) as caught:
        from_files(clone, "dev", frozenset())
    assert "Pulumi.dev.yaml" in str(caught.value)
    assert expected in str(caught.value)


def test_empty_stack_file_lacks_its_target(clone: Path) -> None:
    write(clone, "")
    with pytest.raises(SpecError, match="target: is not set"):
        from_files(clone, "dev", frozenset())


def test_stack_name_is_no_path(clone: Path) -> None:
    with pytest.raises(SpecError, match="is no stack name"):
        from_files(clone, "../etc", frozenset())


@pytest.mark.parametrize("stack", ["dev", "pi", "gpu"])
def test_committed_stack_files_hold_only_what_differs(root: Path, stack: str) -> None:
    values = yaml.safe_load((root / f"Pulumi.{stack}.yaml").read_text())["config"]
    for name, value in values.items():
        key = KEYS[name.removeprefix("ai-kit:")]
        assert value != default_of(key), name


# ------------------------------------------------------------------------------------------------------- engine


def test_from_pulumi_sees_every_key_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    import pulumi
    from pulumi.runtime import config

    monkeypatch.setattr(pulumi, "get_project", lambda: "ai-kit")
    monkeypatch.setattr(pulumi, "get_stack", lambda: "dev")
    values = {
        "ai-kit:target": "dev",
        "ai-kit:models": '["a:1b"]',
        "ai-kit:smtpPassword": "hunter2",
        "ai-kit:profils": "x",
        "docker:host": "y",
    }
    token = config.CONFIG.set(values)
    secret_token = config._SECRET_KEYS.set({"ai-kit:smtpPassword"})
    try:
        with pytest.raises(SpecError) as caught:
            settings_module.from_pulumi({"smtpPassword"})
        del values["ai-kit:profils"]
        loaded = settings_module.from_pulumi({"smtpPassword"})
    finally:
        config.CONFIG.reset(token)
        config._SECRET_KEYS.reset(secret_token)
    assert [problem.where for problem in caught.value.problems] == ["profils"]
    assert loaded.models == ("a:1b",)
    assert loaded.provided_secrets == {"smtpPassword"}


def test_the_reference_page_is_current(root: Path, golden: Callable[[str, str], None]) -> None:
    golden("docs/reference/config.md", configref.render(root))
