"""Supabase's files: what must not be lost by accident. That it runs: tests/live/test_supabase.py."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ops import planview
from stack.catalog import discover
from stack.derive import encode, runtime
from stack.derive.values import SecretPiece, plain
from stack.model import (
    Access,
    Database,
    Generated,
    ImageSource,
    InTemplate,
    Ref,
    RouteUrl,
    Secret,
    Signed,
    SpecError,
    Target,
    Zone,
)
from stack.outputs import StackOutputs
from stack.plan import Plan, SecretKey, build
from stack.services.supabase import OPEN
from stack.settings import Settings, load
from stack.targets import profile
from tests import factories
from tests.unit.test_proofs import OUTPUTS

SERVICES = discover()
SETUP = (Path(__file__).resolve().parents[2] / "stack/services/files/supabase/setup.sql").read_text(encoding="utf-8")


def planned(target: Target = Target.DEV, **changes: object) -> Plan:
    given: dict[str, Any] = {"profiles": ("supabase",), **changes}
    settings = Settings(stack="test", target=target, **given)
    return build(settings, profile(settings), SERVICES)


def files(plan: Plan, container: str) -> dict[str, str]:
    step = next(step for step in runtime.build(plan).containers if step.name == f"kit-test-{container}")
    return {
        file.name: "".join(
            piece if isinstance(piece, str) else f"<{getattr(piece, 'key', piece)}>" for piece in file.text
        )
        for file in step.files
    }


@pytest.mark.parametrize("target", Target)
def test_it_fits_every_target_and_brings_what_it_needs(target: Target) -> None:
    running = {service.name: service.why for service in planned(target).running}
    assert running["supabase"] == running["supabase-studio"] == ("profile supabase",)
    assert running["supabase-meta"] == ("supabase-studio",)
    assert {"postgres", "haproxy", "keycloak"} <= running.keys()


def test_the_order_is_database_auth_rest_gateway() -> None:
    steps = {step.name: step for step in runtime.build(planned()).steps}
    assert "kit-test-database-supabase" in steps["kit-test-supabase-auth"].after
    assert "kit-test-supabase-auth" in steps["kit-test-supabase-rest"].after
    assert {"kit-test-supabase-auth", "kit-test-supabase-rest"} <= set(steps["kit-test-supabase"].after)
    assert "kit-test-supabase-meta" in steps["kit-test-supabase-studio"].after


# ---------------------------------------------------------------------------------------------------- secrets


def test_each_container_has_no_more_secrets_than_it_needs() -> None:
    keys = {
        step.name.removeprefix("kit-test-"): {
            str(piece.key).removeprefix("supabase/")
            for file in step.files
            for piece in file.text
            if isinstance(piece, SecretPiece)
        }
        for step in runtime.build(planned()).containers
        if step.service.startswith("supabase")
    }
    assert keys == {
        "supabase": {"anon-key", "service-key"},
        "supabase-auth": {"jwt-secret", "auth-password", "oidc"},
        "supabase-rest": {"jwt-secret", "rest-password"},
        "supabase-meta": {"supabase-meta/crypto-key"},
        "supabase-studio": {"jwt-secret", "anon-key", "service-key", "admin-password", "supabase-meta/crypto-key"},
    }


def test_no_secret_is_in_a_variable_or_an_argument() -> None:
    for step in runtime.build(planned()).containers:
        if step.service.startswith("supabase"):
            assert not step.secret_env, step.name


def test_the_rest_service_needs_no_shell() -> None:
    """Its image has none: no wrapper, and its own program as the probe."""
    step = next(step for step in runtime.build(planned()).containers if step.name == "kit-test-supabase-rest")
    assert not step.entrypoint and not any(file.name == "start" for file in step.files)
    assert step.health.argv == ("postgrest", "--ready")
    # Upstream's probe refuses to run where the admin server has no address of its own.
    assert step.env["PGRST_ADMIN_SERVER_HOST"] == "127.0.0.1"
    assert {"database-url", "jwt-secret"} == {file.name for file in step.files}


def test_keys_are_tokens_of_the_two_roles_and_handed_out() -> None:
    secrets = {str(secret.key): secret for secret in planned().secrets}
    handed_out = {name for name, secret in secrets.items() if secret.handed_out}
    assert handed_out == {"supabase/anon-key", "supabase/service-key"}
    roles = {name: source.claims["role"] for name in handed_out if isinstance(source := secrets[name].source, Signed)}
    assert roles == {"supabase/anon-key": "anon", "supabase/service-key": "service_role"}
    assert isinstance(secrets["supabase/jwt-secret"].source, Generated)
    assert secrets["supabase/jwt-secret"].source.length >= 32  # what the REST service asks for


def test_a_token_is_what_others_make_of_the_same() -> None:
    claims = {"role": "anon", "iss": "supabase"}
    token = encode.token("s é😀", claims)
    head, body, signature = token.split(".")

    def read(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    assert json.loads(read(head)) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(read(body)) == claims
    assert read(signature) == hmac.new("s é😀".encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert token == encode.token("s é😀", dict(reversed(claims.items())))
    assert token != encode.token("another", claims)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", token)


def test_a_stack_from_before_hands_out_nothing() -> None:
    exported = {**OUTPUTS.to_dict(), "caPem": "PEM"}
    del exported["keys"]
    assert StackOutputs.from_dict(exported).keys == {}
    assert StackOutputs.from_dict({**exported, "keys": {"a/b": "c"}}).keys == {"a/b": "c"}
    with pytest.raises(ValueError, match="keys"):
        StackOutputs.from_dict({**exported, "keys": {"a/b": 1}})


# ---------------------------------------------------------------------------------------------------- gateway


def test_the_gateway_lets_through_without_a_key_only_what_browsers_are_led_to() -> None:
    text = files(planned(), "supabase")["haproxy.cfg"]
    assert f"acl open path -m str {' '.join(OPEN)}\n" in text
    assert not [path for path in OPEN if path.endswith("/")]
    refused = text.index("if !open !known_key")
    assert refused < text.index("set-header Authorization") < text.index("use_backend auth")
    assert "<" not in re.sub(r"#.*", "", text), "no secret, nothing unresolved"
    assert files(planned(), "supabase")["keys"] == "<supabase/anon-key>\n<supabase/service-key>\n"


def test_the_front_door_knows_two_folders_and_studio_is_for_admins() -> None:
    routes = {owned.item.name: owned.item for owned in planned().routes}
    assert routes["supabase"].access is Access.MACHINE
    assert routes["supabase"].paths == ("/auth/v1/", "/rest/v1/")
    assert routes["studio"].access is Access.ADMIN
    assert all(not name.startswith("supabase-meta") for name in routes)


def test_logins_lead_back_to_the_owners_apps_alone() -> None:
    def env(**changes: Any) -> dict[str, str]:
        plan = planned(**changes)
        step = next(step for step in runtime.build(plan).containers if step.name == "kit-test-supabase-auth")
        return dict(step.env)

    assert env()["GOTRUE_URI_ALLOW_LIST"] == ""
    two = env(supabase_sites=("https://app.example.org", "http://localhost:5173/"))
    assert two["GOTRUE_SITE_URL"] == "https://app.example.org"
    assert two["GOTRUE_URI_ALLOW_LIST"] == (
        "https://app.example.org,https://app.example.org/**,http://localhost:5173/,http://localhost:5173/**"
    )
    assert env()["GOTRUE_DISABLE_SIGNUP"] == "true"
    assert env()["GOTRUE_EXTERNAL_KEYCLOAK_REDIRECT_URI"] == "https://supabase.kit.localhost:8443/auth/v1/callback"


@pytest.mark.parametrize(
    "site", ["app.example.org", "javascript:alert(1)", "https://*.example.org", "https://a,https://b"]
)
def test_an_address_that_is_none_is_refused(site: str) -> None:
    with pytest.raises(SpecError, match=r"supabaseSites\[0\]"):
        load("test", {"target": "dev", "supabaseSites": [site]}, from_engine=False)


# --------------------------------------------------------------------------------------------------- database


def test_the_job_gets_the_roles_passwords_as_files_and_the_setup() -> None:
    job = next(job for job in runtime.build(planned()).jobs if job.name == "kit-test-database-supabase")
    found = {file.name: file.text for file in job.files}
    for role, secret in (
        ("authenticator", "rest-password"),
        ("supabase_admin", "admin-password"),
        ("supabase_auth_admin", "auth-password"),
    ):
        assert found[f"logins/{role}"] == (SecretPiece(SecretKey("supabase", secret)),)
    assert plain(found["setup.sql"]) == SETUP
    others = [job for job in runtime.build(planned()).jobs if job.grant and job.grant.database != "supabase"]
    assert others and all(not file.name.startswith(("logins/", "setup")) for job in others for file in job.files)


def test_the_setup_makes_nobody_a_superuser_and_can_run_twice() -> None:
    words = re.sub(r"--.*", "", SETUP)
    assert not re.search(r"(?<!NO)SUPERUSER", words)
    assert not re.search(r"(?<!NO)CREATEROLE|(?<!NO)CREATEDB|(?<!NO)REPLICATION", words)
    for statement in re.findall(r"CREATE (?:SCHEMA|EXTENSION|TABLE) (?!IF NOT EXISTS|AS'|')\S+", words):
        pytest.fail(f"fails the second time: {statement}")
    assert len(re.findall(r"CREATE (?:FUNCTION|VIEW|ROLE) ", words.replace("CREATE ROLE %I", ""))) == 0
    granted = re.findall(r"GRANT ([\w, ]+) TO authenticator;", words)
    assert granted == ["anon, authenticated, service_role"], "whom a request may become"


def test_connections_of_all_pools_fit() -> None:
    env = {step.name: step.env for step in runtime.build(planned()).containers}
    assert int(env["kit-test-supabase-auth"]["GOTRUE_DB_MAX_POOL_SIZE"]) <= 5
    assert int(env["kit-test-supabase-rest"]["PGRST_DB_POOL"]) <= 5


@pytest.mark.parametrize(
    ("database", "problem"),
    [
        (Database("app", logins={"other": "nowhere"}), "no secret 'nowhere'|no secret \"nowhere\""),
        (Database("app", logins={"postgres": "key"}), "no name of a role"),
        (Database("app", logins={"pg_monitor": "key"}), "no name of a role"),
        (Database("app", logins={"A role": "key"}), "no name of a role"),
        (Database("app", setup="nothing.sql"), "no file"),
    ],
)
def test_a_database_that_cannot_be_is_refused(database: Database, problem: str) -> None:
    spec = factories.app()
    secret = Secret("key", Generated(), InTemplate())
    broken = replace(spec, databases=(replace(database, name=spec.databases[0].name),), secrets=(*spec.secrets, secret))
    with pytest.raises(SpecError, match=problem):
        build(factories.settings(), factories.host(), factories.catalog(app=broken))


def test_a_role_of_two_databases_is_refused() -> None:
    spec = factories.app()
    secret = Secret("key", Generated(), InTemplate())
    first = replace(spec.databases[0], logins={"shared": "key"})
    broken = replace(
        spec, databases=(first, Database("second", logins={"shared": "key"})), secrets=(*spec.secrets, secret)
    )
    with pytest.raises(SpecError, match="there twice"):
        build(factories.settings(), factories.host(), factories.catalog(app=broken))


def test_a_token_of_no_secret_is_refused() -> None:
    spec = factories.app()
    for source in (Signed(key="nothing", claims={}), Signed(key="itself", claims={})):
        broken = replace(spec, secrets=(*spec.secrets, Secret("itself", source, InTemplate())))
        with pytest.raises(SpecError, match="has no secret"):
            build(factories.settings(), factories.host(), factories.catalog(app=broken))


def test_an_address_of_a_route_that_is_not_there_is_refused() -> None:
    spec = factories.app()
    container = replace(spec.containers[0], env={**spec.containers[0].env, "X": RouteUrl("app", "nothing")})
    broken = replace(spec, containers=(container, *spec.containers[1:]))
    with pytest.raises(SpecError, match="no route"):
        build(factories.settings(), factories.host(), factories.catalog(app=broken))


# ----------------------------------------------------------------------------------------------- what is missing


def test_without_a_registry_a_profile_does_without_studio_and_says_so() -> None:
    plan = planned(images=ImageSource.AIRGAP)
    assert not {"supabase-studio", "supabase-meta"} & {service.name for service in plan.services}
    assert list(plan.left_out) == ["supabase-studio"]
    line = "supabase-studio is left out: with images: airgap, no package registry has Studio"
    assert line in planview.table(plan, 160)
    assert planview.as_json(plan)["left_out"] == dict(plan.left_out)
    assert not planned().left_out and "left out" not in planview.table(planned(), 160)
    assert not planned(images=ImageSource.AIRGAP, without=("supabase-studio",)).left_out


def test_naming_studio_without_a_registry_is_refused() -> None:
    with pytest.raises(SpecError, match=r"services\[0\].*supabase-studio[\s\S]*cannot be had with images: airgap"):
        planned(images=ImageSource.AIRGAP, services=("supabase-studio",))


def test_needing_what_cannot_be_had_is_refused() -> None:
    spec = factories.app()
    container = replace(spec.containers[0], env={**spec.containers[0].env, "X": Ref("other", "http")})
    needs = replace(spec, containers=(container, *spec.containers[1:]))
    other = factories.service("other", unavailable={ImageSource.AIRGAP: "nobody has it"})
    with pytest.raises(SpecError, match="cannot be had with images: airgap"):
        build(
            factories.settings(images=ImageSource.AIRGAP),
            factories.host(),
            factories.catalog(app=needs, other=other),
        )


def test_meta_is_in_no_network_of_the_outside() -> None:
    for name in ("supabase", "supabase-meta", "supabase-studio"):
        for container in planned().service(name).containers:
            assert not {Zone.EDGE, Zone.EGRESS} & container.spec.zones, container.host_name
