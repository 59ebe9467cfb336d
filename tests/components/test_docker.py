"""Registrations of the Docker components. Numbers are those of the traps in the provider and the engine."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

from components.common import Attachment, Content, VolumeMount, keyed_digest
from components.database import Database, DatabaseArgs
from components.files import DeliveredFile, FileDelivery, FileDeliveryArgs, Ownership
from components.host import Host, HostArgs, RegistryLogin
from components.image import Image, ImageArgs
from components.job import THIS_RUN, Job, JobArgs, redacted
from components.network import Network, NetworkArgs
from components.reload import Reload, ReloadArgs
from components.secret import DigestKey, GeneratedSecret, SecretArgs
from components.service import Limits, Probe, PublishedPort, Service, ServiceArgs
from components.volume import DataVolume, VolumeArgs
from tests.components.recording import UNKNOWN, Recording, Registered, record

HANDLED_BY_REPLACEMENT = {"#initerror", "healthcheck", "tmpfs", "init", "cpuPeriod", "cpuQuota", "rm"}


def value_of(registered: Registered, label: str) -> str:
    return {each["label"]: each["value"] for each in registered.inputs["labels"]}[label]


def labels_of(registered: Registered) -> set[str]:
    return {each["label"] for each in registered.inputs["labels"]}


def registers_outputs(recording: Recording) -> bool:
    """Every component says that it is complete."""
    components = {each.urn for each in recording.resources if each.type.startswith("aikit:")}
    return bool(components) and components <= set(recording.outputs)


# ------------------------------------------------------------------------------------------------------------ host


class TestHost:
    def test_names_the_engine_whatever_the_environment_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """1.16: `context` overrides `host`, and both default to the environment."""
        monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
        recording = record(lambda: Host("host", HostArgs()))
        provider = recording.one("pulumi:providers:docker")
        assert provider.inputs["host"] == "unix:///var/run/docker.sock"
        assert provider.inputs["context"] == ""
        assert provider.parent == "host"
        assert registers_outputs(recording)

    def test_takes_another_machine_and_hides_registry_passwords(self) -> None:
        login = RegistryLogin(address="r.example", username="u", password="p4ssword")
        args = HostArgs(docker_host="ssh://kit@pi", registries=[login], ssh_opts=["-o", "ControlMaster=auto"])
        provider = record(lambda: Host("host", args)).one("pulumi:providers:docker")
        assert provider.inputs["host"] == "ssh://kit@pi"
        assert any(path.startswith("registryAuth") for path in provider.secret_inputs)

    def test_its_provider_reaches_the_children_of_components(self) -> None:
        """4.1: never the default provider."""

        def program() -> None:
            host = Host("host", HostArgs())
            args = NetworkArgs(network_name="n", internal=True, labels={})
            Network("net", args, pulumi.ResourceOptions(providers=[host.provider]))

        assert "pulumi:providers:docker::host" in record(program).one("network:Network", "net").provider


# ------------------------------------------------------------------------------------------ network, volume, image


class TestNetworkVolumeImage:
    def test_a_network_takes_its_containers_down_with_it_but_not_for_a_label(self) -> None:
        """1.10."""
        recording = record(
            lambda: Network("net", NetworkArgs(network_name="kit-net", internal=True, labels={"b": "2", "a": "1"}))
        )
        network = recording.one("network:Network")
        assert network.inputs == {
            "name": "kit-net",
            "driver": "bridge",
            "internal": True,
            "labels": [{"label": "a", "value": "1"}, {"label": "b", "value": "2"}],
        }
        assert network.delete_before_replace
        assert network.ignore_changes == {"labels"}
        assert network.parent == "net"
        assert registers_outputs(recording)

    def test_members_of_an_isolated_network_do_not_reach_each_other(self) -> None:
        args = NetworkArgs(network_name="kit-net", internal=False, labels={}, isolated=True)
        network = record(lambda: Network("net", args)).one("network:Network")
        assert network.inputs["options"] == {"com.docker.network.bridge.enable_icc": "false"}

    def test_nothing_replaces_a_data_volume(self) -> None:
        """1.7: every property is ForceNew, labels included."""
        recording = record(lambda: DataVolume("data", VolumeArgs(volume_name="kit-data", labels={"a": "1"})))
        volume = recording.one("volume:Volume")
        assert volume.protect
        assert volume.ignore_changes == {"labels", "driverOpts"}
        assert volume.inputs["name"] == "kit-data"
        assert registers_outputs(recording)

    def test_a_config_volume_may_go(self) -> None:
        volume = record(lambda: DataVolume("c", VolumeArgs(volume_name="c", labels={}, protect=False))).one(
            "volume:Volume"
        )
        assert not volume.protect
        assert not volume.retain_on_delete

    def test_a_kept_volume_is_forgotten_not_deleted(self) -> None:
        volume = record(lambda: DataVolume("c", VolumeArgs(volume_name="c", labels={}, keep=True))).one("volume:Volume")
        assert volume.retain_on_delete

    def test_a_registry_image_is_pinned_by_id_and_never_removed(self) -> None:
        """1.15."""
        seen: list[str] = []

        def program() -> None:
            image = Image("image", ImageArgs(reference="postgres:17@sha256:1", local=False))
            image.reference.apply(seen.append)

        recording = record(program)
        image = recording.one("RemoteImage")
        assert image.inputs == {"name": "postgres:17@sha256:1", "keepLocally": True}
        assert seen == ["sha256:abc"]
        assert registers_outputs(recording)

    def test_a_local_image_is_not_pulled(self) -> None:
        seen: list[str] = []
        recording = record(
            lambda: Image("image", ImageArgs(reference="kit/tools:1", local=True)).reference.apply(seen.append)
        )
        assert recording.all("RemoteImage") == []
        assert seen == ["kit/tools:1"]


# --------------------------------------------------------------------------------------------------------- secrets


class TestSecrets:
    def test_a_generated_secret_is_protected_and_secret(self) -> None:
        """3.1."""
        seen: list[bool] = []

        def program() -> object:
            secret = GeneratedSecret("s", SecretArgs(length=24, special=True))
            return pulumi.Output.from_input(secret.value.is_secret()).apply(seen.append)

        recording = record(program)
        password = recording.one("RandomPassword")
        assert password.protect
        assert password.inputs == {
            "length": 24,
            "special": True,
            "minLower": 1,
            "minUpper": 1,
            "minNumeric": 1,
            "minSpecial": 1,
        }
        assert seen == [True]
        assert registers_outputs(recording)

    def test_rotation_is_a_keeper(self) -> None:
        password = record(lambda: GeneratedSecret("s", SecretArgs(rotation="2"))).one("RandomPassword")
        assert password.inputs["keepers"] == {"rotation": "2"}

    def test_a_short_secret_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 8"):
            SecretArgs(length=7)


# ------------------------------------------------------------------------------------------------------------ jobs


def job(**changes: Any) -> JobArgs:
    values: dict[str, Any] = {
        "container_name": "kit-job",
        "image": "tools",
        "user": "70:70",
        "command": ["run", "it"],
        "entrypoint": ["sh"],
        "timeout_s": 30,
    }
    return JobArgs(**{**values, **changes})


def ended(code: int, run: str = THIS_RUN, log: str = "") -> Any:
    """Attempts end like this: every attempt but one more than `code` says. See the tests."""

    def state(type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not type_.endswith("Container"):
            return {}
        return {"exitCode": code, "hostname": run, "containerLogs": log}

    return state


class TestJob:
    def test_runs_to_its_end_inside_up(self) -> None:
        """8.1, 1.4, 1.5, 1.11."""
        recording = record(lambda: Job("job", job()))
        container = recording.one("Container")
        assert container.name == "job"
        assert {key: container.inputs[key] for key in ("mustRun", "attach", "logs", "restart", "init")} == {
            "mustRun": False,
            "attach": True,
            "logs": True,
            "restart": "no",
            "init": True,
        }
        assert container.inputs["entrypoints"] == ["timeout", "-k", "5", "30"]
        assert container.inputs["command"] == ["sh", "run", "it"]
        assert container.inputs["memory"] == container.inputs["memorySwap"] == 256
        assert container.inputs["networkMode"] == "none"
        assert container.inputs["readOnly"] is True
        assert container.inputs["capabilities"] == {"drops": ["ALL"]}
        assert container.delete_before_replace
        assert container.replace_on_changes == HANDLED_BY_REPLACEMENT
        assert container.ignore_changes == {"hostname", "pidMode"}
        assert container.additional_secret_outputs == {"containerLogs"}
        assert container.create_timeout == "90s"
        assert registers_outputs(recording)

    def test_carries_the_run_that_made_it(self) -> None:
        assert record(lambda: Job("job", job())).one("Container").inputs["hostname"] == THIS_RUN

    def test_a_failure_of_this_run_fails_the_deployment_with_the_end_of_the_log(self) -> None:
        log = "\n".join(f"line {number}" for number in range(40)) + "\npassword is s3cret-word here"
        files = [Content(name="password", content="s3cret-word\n")]
        recording = record(lambda: Job("job", job(files=files)), state=ended(3, log=log))
        assert recording.error.startswith("job job failed with exit code 3. The end of its log:")
        assert "line 39" in recording.error
        assert "line 5" not in recording.error.split()
        assert "s3cret-word" not in recording.error
        assert "[secret]" in recording.error
        assert [each.name for each in recording.all("Container")] == ["job"]

    @pytest.mark.parametrize(("code", "why"), [(124, "30 s"), (143, "30 s"), (137, "256 MB")])
    def test_a_failure_says_what_the_code_means(self, code: int, why: str) -> None:
        assert why in record(lambda: Job("job", job()), state=ended(code)).error

    def test_a_failure_of_an_earlier_run_is_tried_again(self) -> None:
        def state(type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            failed = name in ("job", "job-attempt-2")
            return {"exitCode": 1, "hostname": "run-before"} if failed else {}

        recording = record(lambda: Job("job", job()), state=state)
        assert recording.error == ""
        attempts = recording.all("Container")
        assert [each.name for each in attempts] == ["job", "job-attempt-2", "job-attempt-3"]
        assert [each.inputs["name"] for each in attempts] == ["kit-job", "kit-job-attempt-2", "kit-job-attempt-3"]
        assert recording.names(attempts[2].dependencies) == {"job-attempt-2"}
        assert {each.parent for each in attempts} == {"job"}

    def test_consumers_wait_for_the_attempt_that_succeeded(self) -> None:
        def state(type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"exitCode": 1, "hostname": "run-before"} if name == "first" else {}

        def program() -> None:
            first = Job("first", job())
            Job("second", job(container_name="kit-second", after=[first.done]))

        recording = record(program, state=state)
        second = recording.one("Container", "second")
        assert {"first", "first-attempt-2"} <= recording.names(second.dependencies)
        assert [each.name for each in recording.all("Container")] == ["first", "first-attempt-2", "second"]

    def test_consumers_of_a_failed_job_are_not_registered(self) -> None:
        def state(type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"exitCode": 1} if name == "first" else {}

        def program() -> None:
            Job("second", job(container_name="kit-second", after=[Job("first", job()).done]))

        recording = record(program, state=state)
        assert "job first failed" in recording.error
        assert [each.name for each in recording.all("Container")] == ["first"]

    def test_a_preview_that_will_run_it_shows_its_consumers_unchanged(self) -> None:
        """An unknown exit code must neither fail nor hide or change what comes after."""

        def state(type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"exitCode": UNKNOWN, "containerLogs": UNKNOWN} if name == "first" else {}

        def program() -> None:
            Job("second", job(container_name="kit-second", after=[Job("first", job()).done]))

        recording = record(program, state=state, preview=True)
        assert recording.error == ""
        second = recording.one("Container", "second")
        known = record(lambda: Job("second", job(container_name="kit-second"))).one("Container", "second")
        assert second.inputs == known.inputs

    def test_files_are_secret_bytes_and_leave_the_root_file_system_writable(self) -> None:
        """1.8, and strings lose their Unicode form on the way to a provider while base64 does not."""
        text = "e\u0301 'q' $x\n"
        container = record(lambda: Job("job", job(files=[Content(name="password", content=text)]))).one("Container")
        upload = container.inputs["uploads"][0]
        assert upload["file"] == "/run/kit/password"
        assert base64.b64decode(upload["contentBase64"]) == text.encode()
        assert upload["permissions"] == "0444"  # root's, in a container of its own: the user must read it
        assert container.secret_inputs == {"uploads[0].contentBase64"}
        assert container.inputs["readOnly"] is False

    def test_triggers_are_marked_without_being_shown(self) -> None:
        def marker(trigger: str, key: str = "k" * 32) -> str:
            recording = record(lambda: Job("job", job(triggers=[pulumi.Output.secret(trigger)], digest_key=key)))
            container = recording.one("Container")
            assert not any(path.startswith("labels") for path in container.secret_inputs)
            return value_of(container, "aikit.triggers")

        assert marker("a") != marker("b")
        assert marker("a") != marker("a", key="x" * 32)
        assert marker("a") == marker("a")
        assert "labels" not in record(lambda: Job("job", job())).one("Container").ignore_changes

    def test_triggers_need_a_key(self) -> None:
        with pytest.raises(ValueError, match="digest_key"):
            record(lambda: Job("job", job(triggers=["a"])))

    def test_shares_anothers_processes_without_an_init_of_its_own(self) -> None:
        container = record(lambda: Job("job", job(pid_of="kit-haproxy"))).one("Container")
        assert container.inputs["pidMode"] == "container:kit-haproxy"
        assert container.inputs["init"] is False

    def test_redaction_leaves_no_line_of_a_secret(self) -> None:
        key = "-----BEGIN KEY-----\nabcdefghij\n-----END KEY-----\n"
        assert redacted("x abcdefghij y", [key]) == "x [secret] y"
        assert redacted("nothing", ["", "\n"]) == "nothing"


class TestDatabase:
    def test_hands_the_password_over_as_a_file(self) -> None:
        args = DatabaseArgs(database="chat", role="chat", password="p'4ss", job=job(), extensions=("vector", "citext"))
        recording = record(lambda: Database("db", args))
        container = recording.one("Container")
        assert container.inputs["envs"] == ["KIT_DATABASE=chat", "KIT_EXTENSIONS=vector citext", "KIT_ROLE=chat"]
        assert container.inputs["uploads"][0]["file"] == "/run/kit/password"
        assert container.secret_inputs == {"uploads[0].contentBase64"}
        assert registers_outputs(recording)


# ------------------------------------------------------------------------------------------------- files and reload


def delivery(**changes: Any) -> FileDeliveryArgs:
    values: dict[str, Any] = {
        "container_name": "kit-files",
        "image": "tools",
        "volume_name": "kit-config",
        "uid_gid": "1000:1000",
        "files": [
            DeliveredFile(name="b/secret", content=pulumi.Output.secret("s3cret"), mode="0400"),
            DeliveredFile(name="a.conf", content="conf", mode="0440", restarts=False),
        ],
        "digest_key": pulumi.Output.secret("k" * 32),
        "ownership": [Ownership(volume="kit-data", owner="999:999", mode="0700")],
    }
    return FileDeliveryArgs(**{**values, **changes})


def digests(**changes: Any) -> tuple[str, str, bool]:
    seen: list[Any] = []

    def program() -> object:
        made = FileDelivery("files", delivery(**changes))
        secret = pulumi.Output.from_input(made.restart_digest.is_secret())
        return pulumi.Output.all(made.restart_digest, made.reload_digest, secret).apply(seen.extend)

    record(program)
    return seen[0], seen[1], seen[2]


class TestFileDelivery:
    def test_a_root_job_with_what_it_takes_and_no_more(self) -> None:
        """8.2, 1.8."""
        recording = record(lambda: FileDelivery("files", delivery()))
        container = recording.one("Container")
        assert container.inputs["user"] == "0:0"
        assert container.inputs["capabilities"] == {
            "drops": ["ALL"],
            "adds": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"],
        }
        assert container.inputs["networkMode"] == "none"
        (upload,) = container.inputs["uploads"]
        assert upload["file"] == "/kit/files.tar"
        assert upload["permissions"] == "0400"
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(upload["contentBase64"]))) as tar:
            entries = {entry.name: (entry, tar.extractfile(entry)) for entry in tar}
        assert {name: file.read().decode() for name, (_, file) in entries.items() if file} == {
            "0": "conf",
            "1": "s3cret",
        }
        assert {(entry.uid, entry.mtime) for entry, _ in entries.values()} == {(0, 0)}
        assert len(base64.b64decode(upload["contentBase64"])) == 6 * 512, "two files, nothing for tapes"
        assert sorted(container.inputs["envs"]) == [
            "KIT_ADOPT=",
            "KIT_DATA=0 999:999 0700",
            "KIT_FILES=0 0440 a.conf\n1 0400 b/secret",
            "KIT_OWNER=1000:1000",
            f"KIT_STATE={keyed_digest('k' * 32, ['state'])}",
            "KIT_VOLUMES=0 kit-data",
        ]
        assert len(container.secret_inputs) == 1
        assert [(each["source"], each["target"]) for each in container.inputs["mounts"]] == [
            ("kit-config", "/volume"),
            ("kit-data", "/data/0"),
        ]
        assert "s3cret" not in str(container.inputs["command"])
        assert registers_outputs(recording)

    def test_digests_follow_what_they_stand_for_and_are_readable(self) -> None:
        restart, reload, secret = digests()
        assert secret is False
        files = delivery().files
        changed = [DeliveredFile(name="b/secret", content="other", mode="0400"), files[1]]
        assert digests(files=changed)[0] != restart
        assert digests(files=changed)[1] == reload
        reloaded = [files[0], DeliveredFile(name="a.conf", content="other", mode="0440", restarts=False)]
        assert digests(files=reloaded)[0] == restart
        assert digests(files=reloaded)[1] != reload
        assert digests(uid_gid="1:1")[0] != restart
        assert digests(digest_key="other" * 8)[0] != restart
        assert digests(files=list(reversed(files)))[:2] == (restart, reload)

    @pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../b", "a b", "", "a//b", "x\n", "."])
    def test_refuses_names_that_lead_elsewhere(self, name: str) -> None:
        with pytest.raises(ValueError, match="file name"):
            delivery(files=[DeliveredFile(name=name, content="x")])

    @pytest.mark.parametrize(
        "changes",
        [
            {"uid_gid": "root:root"},
            {"files": [DeliveredFile(name="a", content="x", mode="644")]},
            {"ownership": [Ownership(volume="v", owner="999", mode="0700")]},
            {"volume_name": None},
            {"files": []},
        ],
    )
    def test_refuses_what_it_could_not_carry_out(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            delivery(**changes)

    def test_only_owners_need_no_volume(self) -> None:
        recording = record(lambda: FileDelivery("files", delivery(files=[], volume_name=None)))
        assert [each["target"] for each in recording.one("Container").inputs["mounts"]] == ["/data/0"]


def test_reload_runs_as_the_service_in_its_processes() -> None:
    args = ReloadArgs(
        container_name="kit-haproxy-reload",
        target="kit-haproxy",
        image="haproxy",
        user="99:99",
        command=["sh", "-c", "check && kill -USR2 1"],
        reload_digest="d1",
        digest_key="k" * 32,
        mounts=[VolumeMount(volume="kit-config", path="/run/kit", read_only=True)],
    )
    recording = record(lambda: Reload("reload", args))
    container = recording.one("Container")
    assert container.inputs["pidMode"] == "container:kit-haproxy"
    assert container.inputs["user"] == "99:99"
    assert container.inputs["capabilities"] == {"drops": ["ALL"]}
    assert "aikit.triggers" in labels_of(container)
    assert registers_outputs(recording)


# --------------------------------------------------------------------------------------------------------- service


def service(**changes: Any) -> ServiceArgs:
    values: dict[str, Any] = {
        "container_name": "kit-chat",
        "image": "chat",
        "user": "1000:1000",
        "health": Probe(argv=["curl", "-f", "http://localhost:8080/health"], start_period_s=90),
        "limits": Limits(memory_mb=512, cpus=1),
        "networks": [Attachment(network="kit-app", aliases=["chat"]), Attachment(network="kit-egress")],
        "env": {"B": "2", "A": "1"},
        "publish": [
            PublishedPort(internal=8443, external=443, ip="127.0.0.1"),
            PublishedPort(internal=8080, external=80, ip="127.0.0.1"),
        ],
        "tmpfs": {"/tmp": 64},
        "stop_grace_s": 30,
        "wait_s": 120,
    }
    return ServiceArgs(**{**values, **changes})


class TestService:
    def test_the_container_as_registered(self) -> None:
        """1.2, 1.4, 1.5, 1.7, 1.10, 1.11, 1.12, 1.13."""
        recording = record(lambda: Service("chat", service(labels={"aikit.stack": "dev"}, restart_digest="d1")))
        container = recording.one("Container")
        assert container.inputs == {
            "name": "kit-chat",
            "image": "chat",
            "user": "1000:1000",
            "envs": ["A=1", "B=2"],
            "networkMode": "bridge",
            "networksAdvanced": [{"name": "kit-app", "aliases": ["chat"]}, {"name": "kit-egress"}],
            "ports": [
                {"internal": 8080, "external": 80, "ip": "127.0.0.1", "protocol": "tcp"},
                {"internal": 8443, "external": 443, "ip": "127.0.0.1", "protocol": "tcp"},
            ],
            "capabilities": {"drops": ["ALL"]},
            "securityOpts": ["no-new-privileges:true"],
            "readOnly": True,
            "logDriver": "json-file",
            "logOpts": {"max-file": "3", "max-size": "10m"},
            "tmpfs": {"/tmp": "size=64m,mode=1777,uid=1000,gid=1000"},
            "healthcheck": {
                "tests": ["CMD", "curl", "-f", "http://localhost:8080/health"],
                "interval": "2s",
                "timeout": "5s",
                "startPeriod": "1m30s",
                "retries": 5,
            },
            "wait": True,
            "waitTimeout": 120,
            "memory": 512,
            "memorySwap": 512,
            "cpus": "1.0",
            "cpuShares": 1024,
            "mustRun": True,
            "restart": "unless-stopped",
            "destroyGraceSeconds": 30,
            "stopTimeout": 30,
            "labels": [
                {"label": "aikit.files", "value": "d1"},
                {"label": "aikit.given", "value": "env"},
                {"label": "aikit.pids", "value": "256"},
                {"label": "aikit.stack", "value": "dev"},
            ],
        }
        assert container.delete_before_replace
        assert container.replace_on_changes == HANDLED_BY_REPLACEMENT
        assert container.ignore_changes == frozenset()
        assert container.parent == "chat"
        assert container.create_timeout == "180s"
        assert container.delete_timeout == "90s"
        assert registers_outputs(recording)

    def test_without_networks_it_has_none(self) -> None:
        """1.10: never the default bridge."""
        container = record(lambda: Service("chat", service(networks=[]))).one("Container")
        assert container.inputs["networkMode"] == "none"
        assert "networksAdvanced" not in container.inputs

    def test_networks_and_volumes_are_edges_not_literals(self) -> None:
        """1.10: a literal would leave "active endpoints" behind when a network is replaced."""

        def program() -> None:
            net = Network("net", NetworkArgs(network_name="kit-net", internal=True, labels={}))
            volume = DataVolume("data", VolumeArgs(volume_name="kit-data", labels={}))
            Service(
                "chat",
                service(
                    networks=[Attachment(network=net.network_name)],
                    mounts=[VolumeMount(volume=volume.volume_name, path="/data")],
                ),
            )

        recording = record(program)
        assert {"net", "data"} <= recording.names(recording.one("Container").dependencies)
        assert recording.one("Container").inputs["mounts"] == [
            {"type": "volume", "source": "kit-data", "target": "/data", "readOnly": False}
        ]

    def test_an_argument_taken_away_shows_in_a_label(self) -> None:
        """Optional arguments are computed: leaving one out keeps the old value without a word."""
        before = record(lambda: Service("chat", service(command=["serve"]))).one("Container")
        after = record(lambda: Service("chat", service())).one("Container")
        assert value_of(before, "aikit.given") != value_of(after, "aikit.given")

    def test_gpu_and_shared_memory(self) -> None:
        """1.14: `gpus`, not device_requests, whose driver defaults to cdi."""
        limits = Limits(memory_mb=512, cpus=2, gpu=True, shm_mb=64, cpuset="0-1")
        container = record(lambda: Service("chat", service(limits=limits))).one("Container")
        assert container.inputs["gpus"] == "all"
        assert container.inputs["shmSize"] == 64
        assert container.inputs["cpuSet"] == "0-1"
        assert "deviceRequests" not in container.inputs

    def test_starts_after_its_files_and_jobs_with_readable_labels(self) -> None:
        def program() -> None:
            key = DigestKey("key")
            files = FileDelivery("files", delivery(digest_key=key.value))
            ready = Job("ready", job())
            Service("chat", service(restart_digest=files.restart_digest, after=[files.done, ready.done]))

        recording = record(program)
        container = recording.one("Container", "chat")
        assert {"files", "ready"} <= recording.names(container.dependencies)
        assert container.secret_inputs == frozenset()
        assert len(value_of(container, "aikit.files")) == 32

    def test_secret_variables_stay_secret(self) -> None:
        container = record(lambda: Service("chat", service(env={"P": pulumi.Output.secret("x")}))).one("Container")
        assert any(path.startswith("envs") for path in container.secret_inputs)
