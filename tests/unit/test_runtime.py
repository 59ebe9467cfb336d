"""The runtime of the real catalogue: what every container and job is made of, before any engine is asked."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from ops import planview
from stack import catalog, targets
from stack import plan as planning
from stack.catalog import discover
from stack.derive import runtime
from stack.derive.runtime import START_SCRIPT, ContainerPlan, JobPlan
from stack.derive.values import SecretPiece, is_plain, plain
from stack.model import ImageSource, Role, Zone

ROOT = Path(__file__).resolve().parents[2]
ROOM = {"memory_mb": 2**20, "disk_gb": 2**12}  # for every service at once
STACKS = ("dev", "pi", "gpu")
HOSTILE = [
    "it's",
    'a "quoted" one',
    "$HOME $(id) `id`",
    "; rm -rf / #",
    "back\\slash\\n",
    "two\nlines\n",
    "ünïcødé 🔑",
    " ",
]


def resolved(base: str, /, **changes: object) -> planning.Plan:
    """The plan of one of the repository's stacks, with settings changed."""
    loaded = planview.load_plan(ROOT, base)
    settings = dataclasses.replace(loaded.settings, **changes)  # pyright: ignore[reportArgumentType]
    return planning.build(settings, targets.profile(settings), discover())


@pytest.mark.parametrize("stack", STACKS)
def test_every_step_comes_after_what_it_needs(stack: str) -> None:
    seen: set[str] = set()
    for step in runtime.build(resolved(stack)).steps:
        assert set(step.after) <= seen, f"{step.name} comes before {set(step.after) - seen}"
        seen.add(step.name)


def test_no_job_is_given_an_empty_file() -> None:
    """The provider refuses to upload one: the secret before one that was never rotated is no file at all."""
    profiles = tuple(catalog.profiles(discover()))
    built = runtime.build(
        resolved("dev", profiles=profiles, provided_secrets=catalog.provided_keys(discover()), **ROOM)
    )
    for job in built.jobs:
        for file in job.files:
            pieces = [each for each in file.text if not (isinstance(each, SecretPiece) and each.previous)]
            assert "".join(map(str, pieces)), f"{file.name} of {job.name}"


@pytest.mark.parametrize("stack", STACKS)
def test_what_others_wait_for_gets_its_files_first(stack: str) -> None:
    built = runtime.build(resolved(stack))
    seen: set[str] = set()
    for container in built.containers:
        assert set(built.needed(container)) <= seen, "a delivery waits for one that is not registered yet"
        assert set(container.after) & seen <= set(built.needed(container))
        seen.add(container.name)
    (identity,) = (each for each in built.containers if each.service == "keycloak")
    assert built.needed(identity) == (f"kit-{stack}-postgres",)


@pytest.mark.parametrize("stack", STACKS)
def test_only_the_front_door_publishes_and_only_it_and_downloads_have_a_way_out(stack: str) -> None:
    plan = resolved(stack)
    built = runtime.build(plan)
    ingress = plan.provider(Role.INGRESS)
    assert ingress is not None
    assert {c.service for c in built.containers if c.publish} == {ingress.name}
    open_networks = {n.zone for n in built.networks if not n.internal}
    assert open_networks <= {Zone.EDGE, Zone.EGRESS}
    assert {c.service for c in built.containers for n in c.networks if n.zone is Zone.EDGE} == {ingress.name}


@pytest.mark.parametrize("stack", STACKS)
def test_the_hardening_everyone_gets(stack: str) -> None:
    for container in runtime.build(resolved(stack, images=ImageSource.AIRGAP)).containers:
        assert container.read_only, f"{container.name} can write to its image"
        assert not container.user.startswith(("0", "root")), container.name
        assert container.capabilities == (), container.name
        assert container.limits.memory_mb > 0 and container.limits.pids > 0
        assert container.stop_grace_s > 0, "an unset grace time is a kill"
        config = [mount for mount in container.mounts if mount.volume == container.config_volume]
        assert all(mount.read_only for mount in config)


def test_a_writable_root_is_an_exception_of_one_image_source() -> None:
    built = runtime.build(resolved("dev", images=ImageSource.REGISTRY))
    assert {c.service for c in built.containers if not c.read_only} == {"keycloak"}


@pytest.mark.parametrize("stack", STACKS)
def test_a_secret_stands_in_files_only(stack: str) -> None:
    built = runtime.build(resolved(stack))
    for step in built.steps:
        assert all(isinstance(value, str) for value in step.env.values())
    assert all(not container.secret_env for container in built.containers)
    secret_files = [f for step in built.steps for f in step.files if any(isinstance(p, SecretPiece) for p in f.text)]
    assert len(secret_files) > 8, "the check above would pass on a stack without secrets"
    assert all(file.mode[-1] == "0" for file in secret_files), "a secret that others may read"


def test_exported_values_cost_a_wrapper_that_ends_in_the_images_own_program() -> None:
    built = runtime.build(resolved("dev"))
    by_name = {container.name: container for container in built.containers}
    chat = by_name["kit-dev-open-webui"]
    assert chat.entrypoint == ("/bin/sh", "/run/kit/start")
    assert chat.command[0] == "bash"
    assert {"env/DATABASE_URL", "env/OAUTH_CLIENT_SECRET", "ca.pem", "start"} <= {f.name for f in chat.files}
    assert "DATABASE_URL" not in chat.env
    postgres = by_name["kit-dev-postgres"]
    assert "start" not in {file.name for file in postgres.files}


def test_the_ingress_answers_inside_to_every_public_name() -> None:
    built = runtime.build(resolved("dev"))
    front = next(container for container in built.containers if container.publish)
    aliases = {network.zone: network.aliases for network in front.networks}
    assert {"chat.kit.localhost", "auth.kit.localhost"} <= set(aliases[Zone.APP])
    assert not {"chat.kit.localhost"} & set(aliases[Zone.EDGE])


def test_each_database_has_a_job_that_its_owner_waits_for() -> None:
    built = runtime.build(resolved("dev"))
    jobs = {job.name: job for job in built.jobs}
    for database in ("keycloak", "open-webui"):
        job = jobs[f"kit-dev-database-{database}"]
        assert job.grant is not None
        assert job.grant.database == job.grant.role == database
        assert not is_plain(job.grant.password)
        assert job.networks == (), "it talks over the socket"
        owner = next(c for c in built.containers if c.name == f"kit-dev-{database}")
        assert job.name in owner.after


def test_a_reload_job_belongs_to_a_container_with_files_that_need_no_restart() -> None:
    built = runtime.build(resolved("dev"))
    reloads = {job.reloads: job for job in built.jobs if job.reloads}
    told = {"kit-dev-redis"}  # a job tells it
    assert set(reloads) == {c.name for c in built.containers if any(not file.restarts for file in c.files)} - told
    front = next(c for c in built.containers if c.publish)
    job = reloads[front.name]
    assert job.image == front.image and job.user == front.user and job.after == (front.name,)
    assert [mount.volume for mount in job.mounts] == [front.config_volume]


def test_down_leaves_the_data_and_nothing_that_runs() -> None:
    running = runtime.build(resolved("dev"))
    down = runtime.build(resolved("dev", down=True))
    assert down.steps == () and down.networks == ()
    assert down.volumes == running.volumes != ()
    assert resolved("dev", down=True).secrets == resolved("dev").secrets != ()


def test_two_stacks_share_no_name() -> None:
    def names(stack: str) -> set[str]:
        built = runtime.build(resolved("dev", stack=stack))
        found = {step.name for step in built.steps} | {n.name for n in built.networks} | {v.name for v in built.volumes}
        return found | {c.config_volume for c in built.containers if c.config_volume}

    assert not names("one") & names("two")


def test_it_is_the_same_every_time() -> None:
    assert runtime.build(resolved("dev")) == runtime.build(resolved("dev"))


def test_a_text_with_a_secret_is_not_plain() -> None:
    text = ("a", SecretPiece(planning.SecretKey("owner", "name")))
    assert not is_plain(text)
    with pytest.raises(TypeError, match="not known while planning"):
        plain(text)


@pytest.mark.parametrize("stack", STACKS)
def test_public_urls_are_the_same_inside_and_outside(stack: str) -> None:
    plan = resolved(stack)
    built = runtime.build(plan)
    texts = [value for c in built.containers for value in c.env.values()]
    texts += [piece for step in built.steps for f in step.files for piece in f.text if isinstance(piece, str)]
    port = plan.settings.https_port
    wanted = f"https://auth.{plan.settings.domain}" + ("" if port == 443 else f":{port}")
    assert sum(wanted in text for text in texts) >= 2, "Keycloak and its clients must name the same issuer"


@pytest.mark.parametrize("value", HOSTILE)
def test_the_wrapper_exports_every_byte(tmp_path: Path, value: str) -> None:
    script = tmp_path / "start"
    script.write_text(START_SCRIPT.replace("/run/kit", str(tmp_path)).replace("/tmp/kit-ca", str(tmp_path / "ca")))
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "KIT_HOSTILE").write_text(value, encoding="utf-8")
    shown = subprocess.run(
        ["/bin/sh", str(script), "python3", "-c", "import os, sys; sys.stdout.write(os.environ['KIT_HOSTILE'])"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert shown.stdout == value


def test_the_wrapper_becomes_the_program_so_that_signals_reach_it(tmp_path: Path) -> None:
    script = tmp_path / "start"
    script.write_text(START_SCRIPT.replace("/run/kit", str(tmp_path)))
    process = subprocess.Popen(["/bin/sh", str(script), "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=10)
    assert int(output) == process.pid


def test_the_wrapper_trusts_the_system_and_the_stack(tmp_path: Path) -> None:
    script = tmp_path / "start"
    script.write_text(START_SCRIPT.replace("/run/kit", str(tmp_path)).replace("/tmp/kit-ca", str(tmp_path / "ca")))
    (tmp_path / "ca.pem").write_text("OURS\n")
    command = ["/bin/sh", str(script), "sh", "-c", 'cat "$SSL_CERT_FILE"; [ "$SSL_CERT_FILE" = "$REQUESTS_CA_BUNDLE" ]']
    shown = subprocess.run(command, capture_output=True, check=True, text=True)
    assert shown.stdout.endswith("OURS\n")


def test_steps_are_containers_and_jobs() -> None:
    built = runtime.build(resolved("dev"))
    assert set(map(type, built.steps)) == {ContainerPlan, JobPlan}
    assert len(built.containers) + len(built.jobs) == len(built.steps)
