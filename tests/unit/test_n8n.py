"""n8n's file: what must not be lost by accident. That it runs: tests/live/test_n8n.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stack import images
from stack.catalog import discover, provided_keys
from stack.derive import ingress, runtime
from stack.derive.values import SecretPiece
from stack.model import Generated, SpecError, Target, Zone
from stack.plan import Plan, SecretKey, build
from stack.proofs import n8n as proofs
from stack.settings import Settings, load
from stack.targets import profile

SERVICES = discover()


def planned(target: Target = Target.DEV, **changes: object) -> Plan:
    profiles = ("automation", "chat")
    if target is Target.PI and not changes.keys() & {"memory_mb", "monitoring_mb"}:
        changes["memory_mb"] = 16384  # with 8 GB it is the workflows or the monitoring
    settings = Settings(stack="test", target=target, profiles=profiles, **changes)  # pyright: ignore[reportArgumentType]
    return build(settings, profile(settings), SERVICES)


def test_broker_and_runner_are_of_one_version() -> None:
    assert images.N8N.tag == images.N8N_RUNNERS.tag


@pytest.mark.parametrize(("target", "count"), [(Target.DEV, 1), (Target.PI, 1), (Target.GPU, 2)])
def test_workers_by_target_and_by_setting(target: Target, count: int) -> None:
    names = [c.host_name for c in planned(target).service("n8n").containers]
    assert names == ["n8n", *(f"n8n-{kind}-{n}" for kind in ("worker", "runner") for n in range(1, count + 1))]
    more = [c.host_name for c in planned(Target.GPU, n8n_workers=4).service("n8n").containers]
    assert len(more) == 9


def test_both_profiles_fit_every_target() -> None:
    for target in Target:
        planned(target)  # SpecError when not
    planned(Target.PI, monitoring_mb=1)
    with pytest.raises(SpecError, match="kept for monitoring"):
        planned(Target.PI, memory_mb=8192)


def test_every_runner_has_a_worker_of_its_own_and_no_way_to_data_or_out() -> None:
    plan = planned(Target.GPU, n8n_workers=3)
    steps = {step.name: step for step in runtime.build(plan).containers}
    for number in (1, 2, 3):
        runner = steps[f"kit-test-n8n-runner-{number}"]
        assert runner.env["N8N_RUNNERS_TASK_BROKER_URI"] == f"http://n8n-worker-{number}:5679"
        assert {network.zone for network in runner.networks} == {Zone.APP}


def test_secrets_are_files_and_workers_have_no_more_of_them_than_they_need() -> None:
    keys = {
        step.name.removeprefix("kit-test-"): {
            str(piece.key) for file in step.files for piece in file.text if isinstance(piece, SecretPiece)
        }
        for step in runtime.build(planned()).containers
        if step.service == "n8n"
    }
    worker = {"n8n/encryption-key", "n8n/runner-token", "n8n/db:n8n", "redis-queue/password"}
    assert keys == {
        "n8n": worker | {"n8n/owner-password", "n8n/voucher", "n8n/credentials-key", "n8n/credentials-password"},
        "n8n-worker-1": worker,
        "n8n-runner-1": {"n8n/runner-token"},
    }


def test_the_key_is_compared_before_anything_of_n8n_is_touched() -> None:
    built = runtime.build(planned())
    for container in built.containers:
        if container.service == "n8n":
            assert built.guards(container) == ("kit-test-n8n-key",)
        else:
            assert "kit-test-n8n-key" not in built.guards(container)
    key = next(job for job in built.jobs if job.name == "kit-test-n8n-key")
    assert key.after == ()
    assert all(mount.read_only for mount in key.mounts)


def test_an_operator_may_bring_a_key() -> None:
    assert "n8nEncryptionKey" in provided_keys(SERVICES)
    raw: dict[str, object] = {"target": "dev", "profiles": ["automation"], "n8nEncryptionKey": "x"}
    settings = load("test", raw, {"n8nEncryptionKey"}, provided_keys(SERVICES))
    plan = build(settings, profile(settings), SERVICES)
    (planned_secret,) = [s for s in plan.secrets if s.key == SecretKey("n8n", "encryption-key")]
    assert isinstance(planned_secret.source, Generated)
    assert planned_secret.source.config_key in settings.provided_secrets


def test_callers_have_their_folders_and_nothing_else() -> None:
    text = ingress.config(planned())
    assert "acl open_n8n path -m beg /webhook/ /webhook-waiting/ /form/ /form-waiting/\n" in text
    assert "timeout tunnel" not in text.split("backend n8n-n8n")[1].split("backend")[0]


def test_a_stopped_worker_has_time_to_end_what_it_runs() -> None:
    for step in runtime.build(planned()).containers:
        if "N8N_GRACEFUL_SHUTDOWN_TIMEOUT" in step.env:
            assert step.stop_grace_s > int(step.env["N8N_GRACEFUL_SHUTDOWN_TIMEOUT"]) + 4


def test_node_collects_garbage_before_the_kernel_kills_it() -> None:
    for target in Target:
        for container in planned(target).service("n8n").containers:
            step = next(s for s in runtime.build(planned(target)).containers if s.name == container.docker_name)
            heap = int(step.env["NODE_OPTIONS"].split("=")[1])
            assert heap < 0.85 * container.limits.memory_mb, container.docker_name


def test_without_the_profile_nothing_of_it_is_there() -> None:
    settings = Settings(stack="test", target=Target.DEV)
    names = {service.name for service in build(settings, profile(settings), SERVICES).services}
    assert not names & {"n8n", "redis-queue"}


def test_the_proofs_workflow_is_whole() -> None:
    workflow = proofs._workflow("kit-prove-x")
    names = {node["name"] for node in workflow["nodes"]}
    assert set(workflow["connections"]) <= names
    assert json.loads(json.dumps(workflow)) == workflow
    assert Path(proofs.PROGRAM).is_file()
