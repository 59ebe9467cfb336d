"""The six service files: rules that hold for each, and the choices that must not be lost by accident."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stack.catalog import discover
from stack.derive import models, runtime
from stack.model import AsEnv, ImageSource, Role, ServiceSpec, Target, Zone
from stack.plan import Plan, build
from stack.settings import Settings
from stack.targets import profile

ROOT = Path(__file__).resolve().parents[2]
SERVICES = discover()
IDS = [spec.name for spec in SERVICES]
SCRIPTS = sorted((ROOT / "stack/services/files").rglob("*.sh"))


def planned(target: Target = Target.DEV, **changes: object) -> Plan:
    settings = Settings(stack="test", target=target, **changes)  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), SERVICES)


def file_text(plan: Plan, container: str, name: str) -> str:
    """A delivered file with its secrets as <owner/name>."""
    found = next(c for c in runtime.build(plan).containers if c.name == f"kit-test-{container}")
    text = next(file.text for file in found.files if file.name == name)
    return "".join(piece if isinstance(piece, str) else f"<{getattr(piece, 'key', 'certificate')}>" for piece in text)


@pytest.mark.parametrize("spec", SERVICES, ids=IDS)
def test_hardened_without_exception(spec: ServiceSpec) -> None:
    for container in spec.containers:
        uid = container.user.split(":")[0]
        assert uid.isdigit() and uid != "0", f"{spec.name} runs as {container.user}"
        assert not container.capabilities
        assert set(container.limits) == set(Target)
        if container.writable:
            assert container.writable.sources == {ImageSource.REGISTRY} and container.writable.reason


@pytest.mark.parametrize("spec", SERVICES, ids=IDS)
def test_no_secret_costs_an_inspectable_variable(spec: ServiceSpec) -> None:
    assert not [secret.name for secret in spec.secrets if isinstance(secret.delivery, AsEnv)]


@pytest.mark.parametrize("spec", SERVICES, ids=IDS)
def test_it_is_documented_and_proven(spec: ServiceSpec) -> None:
    assert (ROOT / "docs/services" / f"{spec.name}.md").is_file()
    assert spec.proofs


def test_one_front_door_one_login_one_database() -> None:
    for role in Role:
        found = [spec.name for spec in SERVICES if role in spec.roles]
        assert len(found) == 1 or (role is Role.MODEL_API and not found)


def test_data_stays_inside() -> None:
    for spec in SERVICES:
        for container in spec.containers:
            if Zone.DATA in container.zones:
                assert Zone.EDGE not in container.zones, spec.name
                assert Zone.EGRESS not in container.zones or container.way_out, spec.name


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("target", Target)
def test_redis_keeps_below_its_limit(target: Target) -> None:
    plan = planned(target)
    ceiling = re.search(r"^maxmemory (\d+)mb$", file_text(plan, "redis", "redis.conf"), re.MULTILINE)
    assert ceiling is not None
    assert int(ceiling[1]) <= 0.75 * plan.service("redis").memory_mb


def test_redis_has_no_user_without_a_password_that_can_do_anything() -> None:
    assert "\naclfile /data/users.acl\n" in file_text(planned(), "redis", "redis.conf")
    lines = [line for line in file_text(planned(), "redis", "static.acl").splitlines() if line.startswith("user ")]
    assert lines[1].startswith("user kit on ><redis/access> ")
    assert [line for line in lines if "nopass" in line] == ["user health on nopass resetkeys resetchannels -@all +ping"]


@pytest.mark.parametrize("target", Target)
def test_postgres_has_connections_for_every_pool_and_memory_for_its_buffers(target: Target) -> None:
    plan = planned(target)
    text = file_text(plan, "postgres", "postgresql.conf")
    connections = re.search(r"max_connections = (\d+)", text)
    buffers = re.search(r"shared_buffers = (\d+)MB", text)
    assert connections and buffers
    assert int(connections[1]) >= 20 + 2 * (10 + 20) + 10
    assert int(buffers[1]) <= plan.service("postgres").memory_mb / 4


def test_postgres_superuser_only_over_the_socket() -> None:
    lines = [
        line.split()
        for line in file_text(planned(), "postgres", "pg_hba.conf").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines == [
        ["local", "all", "postgres", "peer"],
        ["host", "all", "postgres", "all", "reject"],
        ["host", "replication", "postgres", "all", "reject"],
        ["host", "all", "all", "all", "scram-sha-256"],
        ["host", "replication", "all", "all", "scram-sha-256"],
    ]


def test_a_replica_allows_what_its_primary_allows() -> None:
    """A standby with fewer connections, or senders, than its primary refuses to start."""
    plan = planned(profiles=("chat", "replica"))
    settings = [
        {
            line.partition("=")[0].strip(): line.partition("=")[2].strip()
            for line in file_text(plan, name, "postgresql.conf").splitlines()
            if "=" in line and not line.startswith("#")
        }
        for name in ("postgres", "postgres-replica")
    ]
    follows = {"primary_conninfo", "primary_slot_name"}
    assert settings[1].keys() - settings[0].keys() == follows
    assert settings[0] == {name: value for name, value in settings[1].items() if name not in follows}
    assert settings[1]["primary_conninfo"] == (
        "'host=postgres port=5432 dbname=postgres-replica application_name=postgres_replica'"
    )


def test_only_a_replicas_role_may_stream_the_log() -> None:
    jobs = {job.name: job for job in runtime.build(planned(profiles=("chat", "replica"))).jobs}
    assert {name for name, job in jobs.items() if "KIT_REPLICATION" in job.env} == {
        "kit-test-database-postgres-replica"
    }


def test_keycloak_is_started_with_one_credential_and_administered_with_another() -> None:
    provider = next(spec for spec in SERVICES if Role.IDENTITY in spec.roles)
    assert provider.identity_provider is not None
    admin, secret = provider.identity_provider.admin_client_id, provider.identity_provider.admin_secret
    text = file_text(planned(), "keycloak", "keycloak.conf")
    assert "bootstrap-admin-client-id=kit-bootstrap\n" in text
    assert "bootstrap-admin-client-secret=<keycloak/bootstrap>\n" in text
    assert "hostname=https://auth.kit.localhost:8443\n" in text
    # The server itself does not have the credential that counts: a new one does not restart it.
    assert (admin, secret) == ("kit-admin", "admin") and "<keycloak/admin>" not in text
    job = next(job for job in runtime.build(planned()).jobs if job.name == "kit-test-keycloak-administration")
    # It is made beside the server and waits for it by itself; not before there is a database to start with.
    assert "kit-test-keycloak" not in job.after and "kit-test-database-keycloak" in job.after
    files = {file.name: "".join(map(str, file.text)) for file in job.files}
    assert "client_id=kit-admin&" in files["admin.form"] and "client_id=kit-bootstrap&" in files["bootstrap.form"]
    assert not [value for value in job.env.values() if "secret" in value.lower()]


def test_keycloak_at_a_path_has_it_from_one_place() -> None:
    """The server, its jobs, and everybody who knows the issuer; the program in the job is not built anew for it."""
    plan = planned(paths={"auth": "/keycloak"})
    issuer = "https://kit.localhost:8443/keycloak/realms/kit"
    text = file_text(plan, "keycloak", "keycloak.conf")
    for line in (
        "hostname=https://kit.localhost:8443/keycloak",
        "http-relative-path=/keycloak",
        "http-management-relative-path=/",
    ):
        assert f"\n{line}\n" in text
    built = runtime.build(plan)
    server = next(step for step in built.containers if step.service == "keycloak")
    assert not server.read_only
    jobs = {job.name: job for job in (*built.jobs, *built.after_realm)}
    for name in ("administration", "realm"):
        assert jobs[f"kit-test-keycloak-{name}"].env["KIT_PATH"] == "/keycloak"
    for file in jobs["kit-test-keycloak-administration"].files:
        assert "http-relative-path" not in "".join(map(str, file.text))
    assert f'oidc_issuer_url = "{issuer}"' in file_text(
        planned(paths={"auth": "/keycloak"}, profiles=("chat", "automation")), "oauth2-proxy", "oauth2-proxy.cfg"
    )
    chat = next(step for step in built.containers if step.service == "open-webui")
    assert chat.env["OPENID_PROVIDER_URL"] == f"{issuer}/.well-known/openid-configuration"
    everything = str(built)
    assert "auth.kit.localhost" not in everything


def test_keycloaks_build_options_are_those_of_the_image_built_here() -> None:
    text = file_text(planned(), "keycloak", "keycloak.conf")
    dockerfile = (ROOT / "airgap/images/keycloak/Dockerfile").read_text(encoding="utf-8")
    for option in ("db=postgres", "health-enabled=true", "metrics-enabled=true"):
        assert f"\n{option}\n" in text and f"--{option}" in dockerfile


def test_the_chat_has_no_login_of_its_own_and_asks_nobody_outside() -> None:
    chat = next(c for c in runtime.build(planned()).containers if c.service == "open-webui")
    expected = {
        "ENABLE_PERSISTENT_CONFIG": "false",
        "ENABLE_SIGNUP": "false",
        "ENABLE_LOGIN_FORM": "false",
        "ENABLE_PASSWORD_AUTH": "false",
        "PGVECTOR_CREATE_EXTENSION": "false",
        "OFFLINE_MODE": "true",
        "OLLAMA_BASE_URL": "http://ollama-queue:11435",
        "RAG_OLLAMA_BASE_URL": "http://ollama-queue:11435",
        "OPENID_PROVIDER_URL": "https://auth.kit.localhost:8443/realms/kit/.well-known/openid-configuration",
        "OPENID_REDIRECT_URI": "https://chat.kit.localhost:8443/oauth/oidc/callback",
    }
    assert {name: chat.env.get(name) for name in expected} == expected
    exported = {file.name for file in chat.files if file.name.startswith("env/")}
    assert exported == {
        f"env/{name}"
        for name in (
            *("DATABASE_URL", "PGVECTOR_DB_URL", "REDIS_URL", "WEBSOCKET_REDIS_URL"),
            *("OAUTH_CLIENT_SECRET", "WEBUI_SECRET_KEY"),
        )
    }


def test_the_chat_does_not_wait_for_the_login() -> None:
    chat = next(c for c in runtime.build(planned()).containers if c.service == "open-webui")
    assert not [name for name in chat.after if "keycloak" in name]


def test_models_are_the_settings_or_fit_the_target() -> None:
    assert models.all_of(Settings(stack="t", target=Target.PI)) == ("llama3.2:1b", "nomic-embed-text:v1.5")
    chosen = Settings(stack="t", target=Target.GPU, models=("a:1b", "b:2b"), embedding_model="a:1b")
    assert models.all_of(chosen) == ("a:1b", "b:2b")
    assert any("deepseek-r1" in model for model in models.chat(Settings(stack="t", target=Target.GPU)))
    job = next(j for j in runtime.build(planned(models=("x:1b",), embedding_model="y")).jobs if "models" in j.name)
    assert job.env["KIT_MODELS"] == "x:1b y"
    assert job.env["KIT_THREADS"] == "2"


def test_nobody_but_the_queue_is_with_the_model_servers() -> None:
    """They ask nobody who they are: whoever is in their network may pull, push and delete."""
    for spec in SERVICES:
        for container in spec.containers:
            if Zone.MODEL in container.zones:
                assert container.files or Zone.APP not in container.zones, f"{spec.name}/{container.name}"
                assert spec.name == "ollama"
    server = next(c for c in runtime.build(planned()).containers if c.name == "kit-test-ollama")
    assert {network.zone for network in server.networks} == {Zone.MODEL, Zone.EGRESS}


def test_models_are_tuned_to_the_machine() -> None:
    def server(target: Target) -> runtime.ContainerPlan:
        return next(c for c in runtime.build(planned(target)).containers if c.name == "kit-test-ollama")

    gpu, pi = server(Target.GPU), server(Target.PI)
    assert (gpu.env["OLLAMA_MAX_LOADED_MODELS"], gpu.env["OLLAMA_KEEP_ALIVE"]) == ("2", "10m")
    assert (gpu.limits.cpus, gpu.limits.memory_mb, gpu.limits.shm_mb, gpu.limits.gpu) == (6, 32768, 2048, True)
    assert (pi.env["OLLAMA_MAX_LOADED_MODELS"], pi.limits.cpuset, pi.limits.cpus) == ("1", "1-3", 3)
    jobs = {t: next(j for j in runtime.build(planned(t)).jobs if "KIT_MODELS" in j.env) for t in Target}
    assert {target: job.env["KIT_THREADS"] for target, job in jobs.items()} == {
        Target.DEV: "2",
        Target.PI: "3",
        Target.GPU: "8",
    }


def test_the_chat_speaks_the_operators_language_and_may_be_handed_over() -> None:
    def chat(**changes: str | bool) -> dict[str, str]:
        return dict(
            next(c for c in runtime.build(planned(Target.DEV, **changes)).containers if c.service == "open-webui").env
        )

    assert chat(chat_language="de")["DEFAULT_LOCALE"] == "de"
    handed = chat(chat_page_settings=True)
    assert handed["ENABLE_PERSISTENT_CONFIG"] == "true"
    assert handed["ENABLE_OAUTH_PERSISTENT_CONFIG"] == "false"
