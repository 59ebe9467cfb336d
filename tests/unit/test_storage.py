"""Object storage and the service catalogue, as text. That servers take it: test_garage.py, test_consul.py, live."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack.catalog import discover, profiles
from stack.derive import discovery, runtime
from stack.derive.encode import encode
from stack.derive.values import SecretPiece, Text
from stack.model import Access, BackupSet, Encoding, InTemplate, Ref, SpecError, Target, Template, Zone
from stack.plan import Plan, build
from stack.proofs import consul as proof
from stack.proofs.context import ProofError
from stack.settings import Settings
from stack.targets import profile

FILES = Path(__file__).resolve().parents[2] / "stack/services/files"
SERVICES = discover()


def planned(*chosen: str, target: Target = Target.DEV, **changes: Any) -> Plan:
    settings = Settings(stack="test", target=target, profiles=chosen, **changes)
    return build(settings, profile(settings), SERVICES)


def container(plan: Plan, name: str) -> runtime.ContainerPlan:
    return next(c for c in runtime.build(plan).containers if c.name == f"kit-test-{name}")


def written(text: Text) -> str:
    """A delivered text, every secret in it being its own name."""
    return "".join(
        piece if isinstance(piece, str) else encode(str(piece.key), piece.encoding)
        for piece in text
        if isinstance(piece, str | SecretPiece)
    )


def file_text(plan: Plan, of: str, name: str) -> str:
    return written(next(file.text for file in container(plan, of).files if file.name == name))


def test_both_are_profiles_of_their_own() -> None:
    assert {"storage", "discovery"} <= set(profiles(SERVICES))
    assert [service.name for service in planned("storage").services] == ["garage"]
    brought = {service.name: service.why for service in planned("discovery").services}
    assert brought["consul"] == ("profile discovery",)
    assert "keycloak" in brought, "the page is for administrators, and somebody has to know who they are"
    assert not {"garage", "consul"} & {service.name for service in planned("chat").services}


@pytest.mark.parametrize("target", Target)
def test_they_fit_every_target(target: Target) -> None:
    assert planned("storage", "discovery", target=target).service("garage").why == ("profile storage",)


# ------------------------------------------------------------------------------------------------------ storage


@pytest.mark.parametrize("target", Target)
def test_the_storage_is_one_node_that_keeps_what_it_was_given(target: Target) -> None:
    config = tomllib.loads(file_text(planned("storage", target=target), "garage", "garage.toml"))
    assert config["replication_factor"] == 1 and config["metadata_fsync"] and config["data_fsync"]
    assert config["rpc_bind_addr"].startswith("127.0.0.1:")
    assert config["admin"]["metrics_require_token"] is True
    assert not {"s3_web", "k2v_api"} & set(config)
    buffer = int(config["block_ram_buffer_max"].removesuffix("M"))
    assert 3 * buffer <= container(planned("storage", target=target), "garage").limits.memory_mb


def test_the_storage_is_reached_from_the_data_zone_alone_and_backed_up_while_stopped() -> None:
    spec = planned("storage").service("garage").spec
    assert {zone for each in spec.containers for zone in each.zones} == {Zone.DATA}
    assert not spec.routes
    assert {volume.name: volume.backup for volume in spec.volumes} == {
        "meta": BackupSet(stop=True),
        "data": BackupSet(stop=True),
    }


def test_its_secrets_are_files_that_nobody_else_may_read() -> None:
    plan = container(planned("storage"), "garage")
    assert not plan.secret_env
    assert {file.name: file.mode for file in plan.files} == dict.fromkeys(
        ("garage.toml", "rpc-secret", "admin-token", "metrics-token"), "0400"
    )


def test_another_service_gets_the_key_that_the_job_makes() -> None:
    """By a Ref: what it reads is what the job imports, id and key."""
    user = next(spec for spec in SERVICES if spec.name == "redis")
    env = {
        "S3": Ref("garage", "s3"),
        "ID": Ref("garage", "s3", template="GK{key}", secrets=("key",), encoding=Encoding.NAME_24),
        "KEY": Ref("garage", "s3", template="{key}", secrets=("key",), encoding=Encoding.HEX_32),
    }
    (main,) = user.containers
    files = tuple(replace(main.files[0], name=name, source=Template((value,))) for name, value in env.items())
    user = replace(user, containers=(replace(main, files=main.files + files),))
    settings = Settings(stack="test", target=Target.DEV, profiles=(), services=("redis",))
    plan = build(settings, profile(settings), (*(spec for spec in SERVICES if spec.name != "redis"), user))
    assert file_text(plan, "redis", "S3") == "http://garage:3900"
    job = next(job for job in runtime.build(plan).jobs if job.name == "kit-test-garage-bucket")
    made = {file.name: written(file.text) for file in job.files}
    assert (made["key-id"], made["key"]) == (file_text(plan, "redis", "ID"), file_text(plan, "redis", "KEY"))


# ---------------------------------------------------------------------------------------------------- catalogue


def test_the_catalogue_is_a_server_that_lets_nobody_in_without_a_token() -> None:
    plan = planned("discovery")
    config = json.loads(file_text(plan, "consul", "server.json"))
    assert config["server"] is True and config["bootstrap_expect"] == 1
    assert config["acl"]["enabled"] and config["acl"]["default_policy"] == "deny"
    assert config["bind_addr"] == config["advertise_addr"] == "127.0.0.1"
    assert config["server_rejoin_age_max"] == "876000h", "it starts again after a long time down, and on an old backup"
    assert len(config["encrypt"]) == 44
    assert config["acl"]["tokens"]["dns"] != config["acl"]["tokens"]["initial_management"]
    assert config["telemetry"]["prometheus_retention_time"] != "0s"
    assert "-dev" not in container(plan, "consul").command


def test_its_page_is_for_administrators_and_it_stands_where_it_can_look() -> None:
    spec = planned("discovery").service("consul").spec
    assert [(route.name, route.access) for route in spec.routes] == [("consul", Access.ADMIN)]
    assert {zone for each in spec.containers for zone in each.zones} == {Zone.APP, Zone.DATA}
    shared = {secret.name for secret in spec.secrets if secret.shared}
    assert shared == {"reader"} and all(isinstance(secret.delivery, InTemplate) for secret in spec.secrets)


def test_it_lists_the_plan_and_checks_what_it_can_reach() -> None:
    plan = planned("discovery", "chat", "automation", "storage", memory_mb=16384)
    listed = json.loads(file_text(plan, "consul", "services.json"))["services"]
    by_id = {instance["id"]: instance for instance in listed}
    assert len(by_id) == len(listed)
    expected = {
        f"{each.host_name}-{port.name}"
        for service in plan.running
        if service.name != "consul"
        for each in service.containers
        for port in each.spec.ports
    }
    assert set(by_id) == expected
    assert by_id["redis-redis"]["check"]["tcp"] == "redis:6379"
    assert by_id["n8n-worker-1-broker-1"]["name"] == "n8n"
    for service in plan.running:
        for each in service.containers:
            for port in each.spec.ports:
                instance = by_id.get(f"{each.host_name}-{port.name}")
                if instance:
                    reachable = bool({Zone.APP, Zone.DATA} & each.spec.zones)
                    assert ("check" in instance) == reachable, instance["id"]


def test_a_zone_out_of_reach_is_listed_without_a_check() -> None:
    plan = planned("chat", "discovery")
    listed = json.loads(discovery.definitions("consul", {Zone.OBSERVE})(plan))["services"]
    assert listed and not any("check" in instance for instance in listed)


def test_a_changed_plan_is_a_reload() -> None:
    small, large = planned("discovery"), planned("discovery", "storage")
    differing = [
        file.name
        for file, other in zip(container(small, "consul").files, container(large, "consul").files, strict=True)
        if file != other
    ]
    assert differing == ["services.json"]
    assert not next(file for file in container(small, "consul").files if file.name == "services.json").restarts
    (reload,) = [job for job in runtime.build(small).jobs if job.reloads == "kit-test-consul"]
    assert "kill -HUP 1" in " ".join(reload.command)


class Said:
    """A proof's context in which the job has said something."""

    def __init__(self, plan: Plan, words: str) -> None:
        self.plan, self.words = plan, words
        self.notes: list[str] = []

    def step(self, title: str) -> None: ...

    def run_job(self, name: str) -> str:
        return self.words

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_proof_compares_the_catalogue_with_the_plan() -> None:
    plan = planned("discovery")
    names = " ".join(service.name for service in plan.running)
    good = Said(plan, f"led by x; found with a token alone: {names}")
    proof.catalogue(good)  # pyright: ignore[reportArgumentType]
    assert "services found" in good.notes[0]
    for words, what in ((names.replace("postgres", ""), "postgres"), (f"{names} stranger", "stranger")):
        with pytest.raises(ProofError, match=what):
            proof.catalogue(Said(plan, f"led by x; found with a token alone: {words}"))  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------------------------- both

SCRIPTS = ["garage/bucket.sh", "consul/access.sh"]

# A program's arguments are in the list of processes; those of the shell's own words (printf, [) are not.
PROGRAM = re.compile(
    r"(?:^|[|&;({!]|\b(?:do|then|if|while)\b)\s*(?:consul|nc|grep|sed|awk|head|tr|cut|sha256sum)\b(.*)"
)
SECRET = re.compile(r"\$\{?(?:key|admin_token|5)\b|\$\(cat ")


def gives_a_secret(line: str) -> bool:
    return any(SECRET.search(found[1]) for found in PROGRAM.finditer(line))


@pytest.mark.parametrize("name", [*SCRIPTS, "shared/http.sh"])
def test_scripts_are_plain_shell_and_give_no_secret_to_a_program(name: str) -> None:
    path = FILES / name
    subprocess.run(["sh", "-n", str(path)], check=True)
    for line in path.read_text(encoding="utf-8").splitlines():
        assert not ("wget" in line or "curl" in line), line
        assert not gives_a_secret(line), line


@pytest.mark.parametrize(
    "line",
    [
        'consul login -token "$(cat /run/kit/management)"',
        '    nc -e "$key" host',
        'grep -q "${key}" "$work/body"',
        "    sed s/x/$admin_token/",
        'x=$(awk -v secret="$5" 1)',
        '[ -z "$x" ] || head -c "$key" x',
        'if tr x "$key"; then',
    ],
)
def test_a_secret_given_to_a_program_is_noticed(line: str) -> None:
    assert gives_a_secret(line)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_clean_up_when_they_are_stopped(name: str) -> None:
    """BusyBox's shell runs no EXIT trap when a signal ends it. That it helps: the live tests."""
    lines = [line for line in (FILES / name).read_text(encoding="utf-8").splitlines() if line.startswith("trap ")]
    assert lines[:2] == ["trap 'rm -rf \"$work\"' EXIT", "trap 'exit 143' TERM INT HUP"]


@pytest.mark.parametrize("name", ["garage", "consul"])
def test_leaving_one_out_that_is_needed_is_refused(name: str) -> None:
    user = next(spec for spec in SERVICES if spec.name == "redis")
    user = replace(user, needs=(name,))
    settings = Settings(stack="test", target=Target.DEV, profiles=(), services=("redis",), without=(name,))
    with pytest.raises(SpecError, match=name):
        build(settings, profile(settings), (*(spec for spec in SERVICES if spec.name != "redis"), user))
