"""The traps of the Docker provider and of the engine, each on the real ones. What a mock can see is in
tests/components; here is what it cannot: diffs, refreshes, exit codes, permissions, interruptions."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.live.leaks import find_leaks
from tests.live.pulumi_project import Project, Result, docker, inspect

pytestmark = pytest.mark.live

Images = Callable[[str], str]

IMPORTS = """
import pulumi_docker as docker
from components.common import Attachment, Content, VolumeMount
from components.files import DeliveredFile, FileDelivery, FileDeliveryArgs, Ownership
from components.host import Host, HostArgs
from components.image import Image, ImageArgs
from components.job import Job, JobArgs
from components.network import Network, NetworkArgs
from components.reload import Reload, ReloadArgs
from components.secret import DigestKey, GeneratedSecret, SecretArgs
from components.service import Limits, Probe, PublishedPort, Service, ServiceArgs
from components.volume import DataVolume, VolumeArgs

host = Host("host", HostArgs())
docker_opts = ResourceOptions(providers=[host.provider])
"""

# All that has ever broken somebody's quoting, and both ends that tools like to trim.
HOSTILE = "  q'uo\"te $HOME ${x} $(id) `id` ; & | < > \\ \\n %s %25 # ü日本語 e\u0301 \t\r\nsecond line\n\n"


def explain(result: Result) -> str:
    return str(result)


# ------------------------------------------------------------------------------------------------------------ jobs

JOB = (
    IMPORTS
    + """
flag = DataVolume("flag", VolumeArgs(volume_name=f"{{PREFIX}}-flag", labels={{}}, protect=False), docker_opts)
job = Job(
    "job",
    JobArgs(
        container_name=f"{{PREFIX}}-job", image={image!r}, user="0:0", command=["sh", "-c", {command!r}],
        mounts=[VolumeMount(volume=flag.volume_name, path="/flag")], timeout_s={timeout},
        files=[Content(name="password", content={password!r})],
    ),
    docker_opts,
)
docker.Container(
    "consumer", name=f"{{PREFIX}}-consumer", image={image!r}, command=["sleep", "1000"],
    opts=ResourceOptions(provider=host.provider, depends_on=[job.done], delete_before_replace=True),
)
"""
)


def job_program(images: Images, command: str, *, timeout: int = 60, shown: str = "hunter2-hunter2") -> str:
    return JOB.format(image=images("tools"), command=command, timeout=timeout, password=shown)


def in_flag_volume(project: Project, images: Images, *command: str) -> str:
    return docker("run", "--rm", "-v", f"{project.prefix}-flag:/flag", images("tools"), *command)


def test_a_failed_job_fails_the_deployment_and_runs_again_until_it_succeeds(project: Project, images: Images) -> None:
    project.program = job_program(
        images, "echo ran >>/flag/runs; echo secret: $(cat /run/kit/password); test -f /flag/ok"
    )
    first = project.up()
    assert not first.ok, explain(first)
    assert len(first.errors) == 1, explain(first)
    assert "job job failed with exit code 1" in first.errors[0]
    assert "secret: [secret]" in first.errors[0]
    assert "hunter2" not in first.text
    assert not first.ops("consumer"), explain(first)

    preview = project.preview()
    assert preview.ok, explain(preview)
    assert preview.ops("job-attempt-2") == {"create"}
    assert preview.ops("consumer") == {"create"}

    second = project.up()
    assert not second.ok, explain(second)
    assert second.ops("job-attempt-2") == {"create"}
    assert "-job-attempt-2." in second.errors[0]
    assert not second.ops("consumer")

    in_flag_volume(project, images, "touch", "/flag/ok")
    third = project.up()
    assert third.ok, explain(third)
    assert third.ops("consumer") == {"create"}
    assert in_flag_volume(project, images, "cat", "/flag/runs").split() == ["ran"] * 3

    assert project.up().quiet
    assert project.refresh().quiet
    assert project.up().quiet
    assert project.preview().quiet
    assert in_flag_volume(project, images, "cat", "/flag/runs").split() == ["ran"] * 3


def test_a_changed_job_runs_once_more_and_leaves_its_consumers_alone(project: Project, images: Images) -> None:
    project.program = job_program(images, "true")
    assert project.up().ok
    consumer = inspect([f"{project.prefix}-consumer"])[0]["Id"]

    project.program = job_program(images, "true; true")
    preview = project.preview()
    assert "replace" in preview.ops("job"), explain(preview)
    assert not preview.ops("consumer"), explain(preview)
    changed = project.up()
    assert changed.ok, explain(changed)
    assert "replace" in changed.ops("job")
    assert inspect([f"{project.prefix}-consumer"])[0]["Id"] == consumer
    assert project.up().quiet

    project.program = job_program(images, "true; exit 7")
    failed = project.up()
    assert not failed.ok
    assert "exit code 7" in failed.errors[0]
    # Made anew in this run, it is this run's failure: it is not tried twice at once.
    assert not failed.ops("job-attempt-2"), explain(failed)

    project.program = job_program(images, "true")
    repaired = project.up()
    assert repaired.ok, explain(repaired)
    assert project.up().quiet


def test_a_job_that_takes_too_long_is_stopped_and_says_so(project: Project, images: Images) -> None:
    project.program = job_program(images, "trap '' TERM; sleep 100", timeout=2)
    started = time.monotonic()
    result = project.up()
    assert not result.ok
    assert time.monotonic() - started < 40
    assert "2 s" in result.errors[0], explain(result)


def interrupted_up(project: Project, *how: signal.Signals) -> Result:
    """An `up` that gets the signals while its job runs, the second a second after the first."""
    process = project.start("up", "--yes", "--skip-preview")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not docker("ps", "-q", "--filter", f"name={project.prefix}-job"):
        time.sleep(0.2)
    time.sleep(0.5)
    for signalled in how[:-1]:
        os.killpg(process.pid, signalled)
        time.sleep(1)
    project.interrupt(process, how[-1])
    return project.up()


def test_ctrl_c_lets_the_running_job_end_and_goes_on_from_there(project: Project, images: Images) -> None:
    project.program = job_program(images, "echo ran >>/flag/runs; sleep 6")
    again = interrupted_up(project, signal.SIGINT)
    assert again.ok, explain(again)
    assert again.ops("consumer") == {"create"}
    assert in_flag_volume(project, images, "cat", "/flag/runs").split() == ["ran"]
    assert project.up().quiet


@pytest.mark.parametrize("how", [(signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)], ids=["ctrl-c twice", "kill"])
def test_a_killed_run_leaves_a_container_in_the_way_and_once_it_is_gone_the_job_runs_again(
    project: Project, images: Images, how: tuple[signal.Signals, ...]
) -> None:
    project.program = job_program(images, "echo ran >>/flag/runs; sleep 6")
    again = interrupted_up(project, *how)
    if not again.ok:
        # First the lock, which a killed run cannot take back; then the name, which its container still has.
        project.unlock()
        again = project.up()
    if not again.ok:
        assert any("already in use" in error for error in again.errors), explain(again)
        orphans = project.orphans()
        assert len(orphans) == 1
        docker("rm", "-f", "-v", *orphans)
        again = project.up()
    assert again.ok, explain(again)
    assert in_flag_volume(project, images, "cat", "/flag/runs").split() == ["ran"] * 2
    assert again.ops("consumer") == {"create"}
    assert project.up().quiet


# -------------------------------------------------------------------------------------- files, services and reload

SERVICE = (
    IMPORTS
    + """
key = DigestKey("digest-key")
generated = GeneratedSecret("generated", SecretArgs(special=True, protect=False))
pulumi.export("generated", generated.value)
pulumi.export("key", key.value)
config = DataVolume("config", VolumeArgs(volume_name=f"{{PREFIX}}-config", labels={{}}, protect=False), docker_opts)
data = DataVolume("data", VolumeArgs(volume_name=f"{{PREFIX}}-data", labels={labels!r}), docker_opts)
inside = Network("inside", NetworkArgs(network_name=f"{{PREFIX}}-in", internal=True, labels={labels!r}), docker_opts)
edge = Network("edge", NetworkArgs(network_name=f"{{PREFIX}}-edge", internal=False, labels={labels!r}), docker_opts)
image = Image("image", ImageArgs(reference={image!r}, local=True), docker_opts)
delivery = FileDelivery(
    "service-files",
    FileDeliveryArgs(
        container_name=f"{{PREFIX}}-service-files", image=image.reference, volume_name=config.volume_name,
        uid_gid="1000:1000", digest_key=key.value, labels={{"aikit.kind": "test"}},
        files=[
            DeliveredFile(name="generated", content=generated.value),
            DeliveredFile(name="hostile", content=Output.secret({hostile!r})),
            DeliveredFile(name="empty", content="", mode="0444"),
            DeliveredFile(name="deep/er/reloaded.conf", content={conf!r}, mode="0440", restarts=False),
            *[DeliveredFile(name=name, content="x") for name in {more!r}],
        ],
        ownership=[Ownership(volume=data.volume_name, owner="1000:1000", mode="0700")],
    ),
    docker_opts,
)
service = Service(
    "service",
    ServiceArgs(
        container_name=f"{{PREFIX}}-service", image=image.reference, user="1000:1000",
        health=Probe(argv={probe!r}, interval_s=1, retries=3, start_period_s={start_period}),
        limits=Limits(memory_mb={memory}, cpus=0.5, shm_mb=32),
        networks=[
            Attachment(network=inside.network_name, aliases=["service", "auth.kit.localhost"]),
            Attachment(network=edge.network_name),
        ],
        command={command!r}, env={env!r},
        mounts=[
            VolumeMount(volume=config.volume_name, path="/run/kit", read_only=True),
            VolumeMount(volume=data.volume_name, path="/data"),
        ],
        publish=[
            PublishedPort(internal=9443, external={port} + 1, ip="127.0.0.1"),
            PublishedPort(internal=9080, external={port}, ip="127.0.0.1"),
        ],
        tmpfs={tmpfs!r}, capabilities=["CAP_NET_BIND_SERVICE"],
        restart_digest=delivery.restart_digest, stop_grace_s=3, wait_s={wait}, after=[delivery.done],
    ),
    docker_opts,
)
Reload(
    "service-reload",
    ReloadArgs(
        container_name=f"{{PREFIX}}-service-reload", target=service.container_name, image=image.reference,
        user="1000:1000", reload_digest=delivery.reload_digest, digest_key=key.value, after=[service.done],
        command=["sh", "-c", "grep -q good /run/kit/deep/er/reloaded.conf && kill -USR2 1"],
        mounts=[VolumeMount(volume=config.volume_name, path="/run/kit", read_only=True)],
    ),
    docker_opts,
)
"""
)

SERVE = (
    "trap 'echo reload >>/data/reloads' USR2; trap 'echo stopped >>/data/stops; exit 0' TERM; "
    "echo up >>/data/starts; while true; do sleep 0.2; done"
)


def service_program(images: Images, **changes: object) -> str:
    values: dict[str, object] = {
        "image": images("tools"),
        "hostile": HOSTILE,
        "conf": "good 1",
        "more": [],
        "labels": {"a": "b"},
        "probe": ["test", "-f", "/data/starts"],
        "start_period": 90,
        "memory": 64,
        "command": ["sh", "-c", SERVE],
        "env": {"A": "1", "B": "two words"},
        "port": 19080,
        "tmpfs": {"/tmp": 8},
        "wait": 30,
    }
    return SERVICE.format(**{**values, **changes})


def in_service(project: Project, *command: str) -> str:
    return docker("exec", f"{project.prefix}-service", *command)


def service_id(project: Project) -> str:
    return inspect([f"{project.prefix}-service"])[0]["Id"]


def containers(project: Project) -> list[str]:
    names = docker("ps", "-a", "--format", "{{.Names}}", "--filter", f"name={project.prefix}").split()
    assert names
    return names


class TestService:
    """One stack, in the order of a life: made, looked at, changed, broken, repaired."""

    @pytest.fixture
    def project(self, shared_project: Project, images: Images) -> Project:
        # Whoever runs the program may have these set: neither may pick the machine (trap 1.16).
        shared_project.environment.update({"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CONTEXT": "nonsense"})
        if not shared_project.program:
            shared_project.program = service_program(images)
            made = shared_project.up()
            assert made.ok, explain(made)
        return shared_project

    def test_a_second_up_and_a_refresh_change_nothing(self, project: Project) -> None:
        for result in (project.up(), project.refresh(), project.up(), project.preview()):
            assert result.quiet, explain(result)

    def test_files_arrive_exactly_with_owner_and_mode(self, project: Project) -> None:
        outputs = project.outputs()
        listed = in_service(project, "sh", "-c", "cd /run/kit && find . -exec stat -c '%n %u:%g %a' {} ';'")
        assert sorted(listed.splitlines()) == [
            ". 0:0 755",
            "./deep 0:0 755",
            "./deep/er 0:0 755",
            "./deep/er/reloaded.conf 1000:1000 440",
            "./empty 1000:1000 444",
            "./generated 1000:1000 400",
            "./hostile 1000:1000 400",
        ]
        assert (
            bytes.fromhex(_hex(in_service(project, "od", "-An", "-v", "-tx1", "/run/kit/hostile"))) == HOSTILE.encode()
        )
        assert in_service(project, "cat", "/run/kit/generated") == outputs["generated"]
        assert in_service(project, "stat", "-c", "%u:%g %a", "/data").strip() == "1000:1000 700"

    def test_the_container_is_locked_down(self, project: Project) -> None:
        described = inspect([f"{project.prefix}-service"])[0]
        settings, config = described["HostConfig"], described["Config"]
        assert settings["CapDrop"] == ["ALL"]
        assert settings["CapAdd"] == ["CAP_NET_BIND_SERVICE"]
        assert settings["SecurityOpt"] == ["no-new-privileges:true"]
        assert settings["ReadonlyRootfs"] is True
        assert settings["Memory"] == settings["MemorySwap"] == 64 * 2**20
        assert settings["NanoCpus"] == 500_000_000
        assert settings["RestartPolicy"]["Name"] == "unless-stopped"
        assert settings["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
        assert config["User"] == "1000:1000"
        assert config["StopTimeout"] == 3
        assert sorted(described["NetworkSettings"]["Networks"]) == [f"{project.prefix}-edge", f"{project.prefix}-in"]
        assert "auth.kit.localhost" in described["NetworkSettings"]["Networks"][f"{project.prefix}-in"]["Aliases"]

    def test_no_secret_is_where_it_can_be_read(self, project: Project) -> None:
        secrets = {**project.outputs(), "hostile": HOSTILE}
        assert set(secrets) == {"generated", "key", "hostile"}
        assert find_leaks(secrets, state=project.export(), containers=containers(project)) == []

    def test_a_reloaded_file_reaches_the_running_service(self, project: Project, images: Images) -> None:
        before = service_id(project)
        in_service(project, "sh", "-c", ": >/data/reloads")
        project.program = service_program(images, conf="good 2")
        preview = project.preview()
        assert "replace" in preview.ops("service-reload")
        assert not preview.ops("service"), explain(preview)
        changed = project.up()
        assert changed.ok, explain(changed)
        assert service_id(project) == before
        assert in_service(project, "cat", "/run/kit/deep/er/reloaded.conf") == "good 2"
        assert in_service(project, "cat", "/data/reloads").split() == ["reload"]
        assert project.up().quiet

    def test_a_reloaded_file_that_is_wrong_fails_and_leaves_the_service_alone(
        self, project: Project, images: Images
    ) -> None:
        before = service_id(project)
        in_service(project, "sh", "-c", ": >/data/reloads")
        project.program = service_program(images, conf="wrong")
        result = project.up()
        assert not result.ok
        assert "job service-reload failed" in result.errors[0]
        assert service_id(project) == before
        assert in_service(project, "cat", "/data/reloads") == ""
        project.program = service_program(images)
        repaired = project.up()
        assert repaired.ok, explain(repaired)
        assert project.up().quiet

    def test_a_changed_file_replaces_the_container_and_unwanted_files_go(
        self, project: Project, images: Images
    ) -> None:
        before = service_id(project)
        project.program = service_program(images, more=["extra", "deep/extra"])
        assert project.up().ok
        assert service_id(project) != before
        assert "extra" in in_service(project, "ls", "/run/kit")
        # Stopped, not killed (trap 1.2).
        assert in_service(project, "cat", "/data/stops").split() == ["stopped"]
        project.program = service_program(images)
        assert project.up().ok
        assert in_service(project, "ls", "/run/kit", "/run/kit/deep").split() == [
            "/run/kit:", "deep", "empty", "generated", "hostile", "/run/kit/deep:", "er",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "shows"),
        [
            ({"probe": ["test", "-d", "/"]}, lambda c: c["Config"]["Healthcheck"]["Test"][1:] == ["test", "-d", "/"]),
            ({"tmpfs": {"/tmp": 16}}, lambda c: c["HostConfig"]["Tmpfs"]["/tmp"].startswith("size=16m,")),
            ({"env": {}}, lambda c: not any(v.startswith("A=") for v in c["Config"]["Env"])),
        ],
        ids=["healthcheck", "tmpfs", "env taken away"],
    )  # fmt: skip
    def test_changes_that_would_be_lost_replace_the_container(
        self, project: Project, images: Images, change: dict[str, object], shows: Callable[[dict[str, object]], bool]
    ) -> None:
        before = service_id(project)
        project.program = service_program(images, **change)
        result = project.up()
        assert result.ok, explain(result)
        assert service_id(project) != before
        assert shows(inspect([f"{project.prefix}-service"])[0])
        assert project.up().quiet

    def test_memory_changes_in_place(self, project: Project, images: Images) -> None:
        project.program = service_program(images)
        assert project.up().ok
        before = service_id(project)
        project.program = service_program(images, memory=96)
        result = project.up()
        assert result.ok, explain(result)
        assert service_id(project) == before
        settings = inspect([f"{project.prefix}-service"])[0]["HostConfig"]
        assert settings["Memory"] == settings["MemorySwap"] == 96 * 2**20
        assert project.refresh().quiet
        assert project.up().quiet

    def test_labels_of_volumes_and_networks_touch_nothing(self, project: Project, images: Images) -> None:
        project.program = service_program(images, memory=96, labels={"a": "c", "d": "e"})
        assert project.up().quiet

    def test_what_was_removed_or_stopped_by_hand_comes_back(self, project: Project) -> None:
        docker("rm", "-f", "-v", f"{project.prefix}-service")
        assert project.refresh().ok
        assert project.up().ok
        assert inspect([f"{project.prefix}-service"])[0]["State"]["Health"]["Status"] == "healthy"
        docker("stop", f"{project.prefix}-service")
        assert project.refresh().ok
        assert project.up().ok
        assert inspect([f"{project.prefix}-service"])[0]["State"]["Running"] is True
        assert project.up().quiet

    def test_data_volumes_are_protected(self, project: Project) -> None:
        result = project.destroy()
        assert not result.ok
        assert "protect" in result.text
        assert f"{project.prefix}-data" in docker("volume", "ls", "--format", "{{.Name}}")


def test_a_service_that_never_gets_healthy_fails_now_and_on_the_next_up(project: Project, images: Images) -> None:
    project.program = service_program(images, probe=["false"], start_period=1, wait=5, port=19180)
    first = project.up()
    assert not first.ok
    assert any("healthy" in error for error in first.errors), explain(first)
    assert not first.ops("service-reload"), explain(first)
    before = service_id(project)

    preview = project.preview()
    assert "replace" in preview.ops("service"), explain(preview)
    second = project.up()
    assert not second.ok, explain(second)
    assert service_id(project) != before

    project.program = service_program(images, port=19180)
    repaired = project.up()
    assert repaired.ok, explain(repaired)
    assert project.up().quiet


# ----------------------------------------------------------------------------------------------------------- leaks

PLANTED = "Pl4nted-s'ecret$ü\"x"

PLANTS = {
    "env": ("Env of", {"environment": f"PASSWORD={PLANTED}"}),
    "argument": ("Cmd of", {"argument": PLANTED}),
    "label": ("Labels of", {"label": PLANTED}),
    "log": ("log of", {"says": PLANTED}),
}


@pytest.mark.parametrize("place", PLANTS)
def test_the_leak_check_finds_a_secret_planted_in_a_container(place: str, images: Images) -> None:
    where, plant = PLANTS[place]
    name = f"kittrial-leak-{place}"
    docker("rm", "-f", "-v", name, check=False)
    arguments = ["run", "-d", "-i", "--name", name, "--label", f"l={plant.get('label', '')}"]
    arguments += ["-e", plant.get("environment", "X=1"), images("tools"), "sh", "-c", 'read -r x; echo "$x"; sleep 60']
    try:
        docker(*arguments, plant.get("argument", ""))
        if "says" in plant:
            docker("rm", "-f", "-v", name)
            docker("run", "-i", "--name", name, images("tools"), "cat", stdin=plant["says"])
        found = find_leaks({"planted": PLANTED, "other": "not-there-at-all"}, state=None, containers=[name])
    finally:
        docker("rm", "-f", "-v", name, check=False)
    assert {leak.secret for leak in found} == {"planted"}
    assert any(leak.where.startswith(where) for leak in found), found


@pytest.mark.parametrize("form", ["plain", "base64", "url", "json in json", "inside base64"])
def test_the_leak_check_finds_a_secret_planted_in_a_state(form: str) -> None:
    import base64
    from urllib.parse import quote

    written = {
        "plain": PLANTED,
        "base64": base64.b64encode(PLANTED.encode()).decode(),
        "url": f"postgres://role:{quote(PLANTED, safe='')}@host/db",
        "json in json": json.dumps({"password": PLANTED}),
        "inside base64": base64.b64encode(f"password={PLANTED}\n".encode()).decode(),
    }[form]
    state = {"deployment": {"resources": [{"urn": "urn:x", "inputs": {"content": written}}]}}
    found = find_leaks({"planted": PLANTED}, state=state, containers=[])
    assert [leak.where for leak in found] == ["state of urn:x"]
    clean = {"deployment": {"resources": [{"urn": "urn:x", "inputs": {"content": {"ciphertext": "v1:abc"}}}]}}
    assert find_leaks({"planted": PLANTED}, state=clean, containers=[]) == []


def _hex(dumped: str) -> str:
    return "".join(dumped.split())
