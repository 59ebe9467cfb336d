"""Consul on its real image, started with plain docker from the derived texts, with hostile secrets.

Proves that configuration, probe, job and definitions fit the server, that nothing is answered without a token, that
what was written outlives a kill, and that rotated tokens replace the older ones. Its route is left out here: it would
bring everything that a login needs.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from stack.catalog import discover
from stack.derive.encode import encode
from stack.model import Encoding
from stack.plan import SecretKey
from tests.live import standing, trial
from tests.live.standing import Standing
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

MANAGEMENT, READER = SecretKey("consul", "management"), SecretKey("consul", "reader")
FOUND = "found with a token alone: consul redis"
A, CNAME, SRV = 1, 5, 33


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    services = tuple(replace(spec, routes=()) if spec.name == "consul" else spec for spec in discover())
    ports: dict[str, Any] = {"http_port": 18652, "https_port": 18653, "admin_port": 18654}
    with standing.stack(
        "directory", folder, "discovery", catalogue=services, services=("redis",), start=False, **ports
    ) as up:
        # Each secret has a value of its own: the two tokens may not be one.
        up.trial.values[READER] = "reader " + HOSTILE
        up.trial.up()
        yield up


def address(directory: Standing) -> str:
    networks = json.loads(docker("inspect", directory.name("consul")))[0]["NetworkSettings"]["Networks"]
    return str(networks["kit-directory-data"]["IPAddress"])


def token(directory: Standing, key: SecretKey) -> str:
    return encode(directory.trial.secret(key.owner, key.name), Encoding.UUID)


def ask(directory: Standing, path: str, who: str = "", *, method: str = "GET", body: bytes = b"") -> httpx.Response:
    headers = {"X-Consul-Token": who} if who else {}
    return httpx.request(method, f"http://{address(directory)}:8500{path}", headers=headers, content=body, timeout=30)


def dns(directory: Standing, name: str, kind: int) -> tuple[int, bytes]:
    """How many answers there are for a name, and all of them, as they came."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    packet = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(5)
        connection.sendto(packet, (address(directory), 8600))
        answer = connection.recv(4096)
    return struct.unpack(">H", answer[6:8])[0], answer


def status(directory: Standing, service: str) -> set[str]:
    entries: list[dict[str, Any]] = ask(directory, f"/v1/health/service/{service}", token(directory, READER)).json()
    return {check["Status"] for entry in entries for check in entry["Checks"] if check["ServiceName"] == service}


def restart(directory: Standing) -> None:
    directory.trial.start(directory.container("consul"))
    directory.trial.wait_healthy(directory.container("consul"))


def test_there_is_a_leader_and_the_plan_is_listed_and_proven(directory: Standing) -> None:
    assert ask(directory, "/v1/status/leader").json() == "127.0.0.1:8300"
    assert FOUND in directory.trial.run(directory.job("consul-access")), "a second run ends as the first"
    holds, text = directory.prove("consul")
    assert holds, text
    assert "2 services found" in text


def test_a_service_is_found_over_http_and_dns(directory: Standing) -> None:
    (found,) = ask(directory, "/v1/catalog/service/redis", token(directory, READER)).json()
    assert (found["ServiceAddress"], found["ServicePort"]) == ("redis", 6379)
    trial.eventually(lambda: status(directory, "redis") == {"passing"}, 90)
    count, answer = dns(directory, "redis.service.consul", SRV)
    assert count == 1 and struct.pack(">H", 6379) in answer and b"redis" in answer
    count, answer = dns(directory, "redis.service.consul", A)
    assert count == 1 and struct.pack(">HH", CNAME, 1) in answer, "a name that Docker's DNS knows"
    assert dns(directory, "nobody.service.consul", SRV)[0] == 0


def test_a_service_that_is_gone_is_seen(directory: Standing) -> None:
    docker("stop", directory.name("redis"))
    try:
        trial.eventually(lambda: status(directory, "redis") == {"critical"}, 90)
    finally:
        docker("start", directory.name("redis"))
    trial.eventually(lambda: status(directory, "redis") == {"passing"}, 90)


def test_without_a_token_nothing_is_answered(directory: Standing) -> None:
    assert not ask(directory, "/v1/catalog/services").text.count("redis")
    for path in ("/v1/agent/self", "/v1/acl/tokens", "/v1/agent/metrics?format=prometheus", "/v1/snapshot"):
        assert ask(directory, path).status_code == 403, path
        assert ask(directory, path, "00000000-0000-4000-8000-000000000000").status_code == 403, path
    for who in ("", token(directory, READER)):
        assert ask(directory, "/v1/kv/x", who, method="PUT", body=b"x").status_code == 403
        assert ask(directory, "/v1/agent/service/register", who, method="PUT", body=b'{"Name": "x"}').status_code == 403
    assert ask(directory, "/v1/acl/tokens", token(directory, READER)).status_code == 403
    metrics = ask(directory, "/v1/agent/metrics?format=prometheus", token(directory, READER))
    assert metrics.status_code == 200 and "consul_raft" in metrics.text
    assert "<title>Consul" in ask(directory, "/ui/").text


def test_the_secrets_are_in_no_log_process_list_or_inspect(directory: Standing) -> None:
    secrets = {token(directory, MANAGEMENT), token(directory, READER), HOSTILE}
    secrets.add(encode(directory.trial.secret("consul", "gossip"), Encoding.BASE64_32))
    for name in (directory.name("consul"), directory.job("consul-access").name):
        for text in (docker("logs", name, check=False), docker("inspect", name)):
            assert not [secret for secret in secrets if secret in text], f"{name} shows a secret"
    processes = docker("top", directory.name("consul"), "-eo", "pid,args")
    assert not [secret for secret in secrets if secret in processes]


def test_it_has_no_way_out_and_no_capability(directory: Standing) -> None:
    state = json.loads(docker("inspect", directory.name("consul")))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "100:1000"
    networks = sorted(state["NetworkSettings"]["Networks"])
    assert networks == ["kit-directory-app", "kit-directory-data"]
    assert all(found["Internal"] for found in json.loads(docker("network", "inspect", *networks)))


def test_a_changed_plan_is_taken_in_place(directory: Standing) -> None:
    plan = directory.container("consul")
    begin = json.loads(docker("inspect", plan.name))[0]["State"]["StartedAt"]
    more = json.dumps({"services": [{"name": "later", "address": "later", "port": 1}]})
    changed = tuple(replace(file, text=(more,)) if file.name == "services.json" else file for file in plan.files)
    reload = next(step for step in directory.trial.runtime.jobs if step.reloads == plan.name)
    reader = token(directory, READER)
    try:
        directory.trial.deliver(replace(plan, files=changed))
        directory.trial.run(reload)
        trial.eventually(lambda: "later" in ask(directory, "/v1/catalog/services", reader).json(), 30)
        trial.eventually(lambda: "redis" not in ask(directory, "/v1/catalog/services", reader).json(), 30)
    finally:
        directory.trial.reload(plan.name)
    trial.eventually(lambda: "redis" in ask(directory, "/v1/catalog/services", reader).json(), 30)
    assert json.loads(docker("inspect", plan.name))[0]["State"]["StartedAt"] == begin


def test_what_was_written_outlives_a_kill_and_a_new_container(directory: Standing) -> None:
    manager = token(directory, MANAGEMENT)
    assert ask(directory, "/v1/kv/kept", manager, method="PUT", body=b"by the log").text.strip() == "true"
    docker("kill", directory.name("consul"))
    docker("start", directory.name("consul"))
    directory.trial.wait_healthy(directory.container("consul"))
    trial.eventually(lambda: ask(directory, "/v1/kv/kept?raw", manager).text == "by the log", 30)
    docker("stop", "--time", "30", directory.name("consul"))
    restart(directory)
    trial.eventually(lambda: ask(directory, "/v1/kv/kept?raw", manager).text == "by the log", 30)
    assert FOUND in directory.trial.run(directory.job("consul-access"))


def test_it_starts_again_after_a_long_time_down(directory: Standing) -> None:
    name, seen = directory.name("consul"), "/consul/data/server_metadata.json"
    assert "last_seen_unix" in docker("exec", name, "cat", seen)
    docker("exec", name, "sh", "-c", f"""echo '{{"last_seen_unix": 1}}' >{seen}""")
    docker("kill", name)  # whoever stops it in peace may have the time written down
    docker("start", name)
    directory.trial.wait_healthy(directory.container("consul"))
    assert ask(directory, "/v1/status/leader").json() == "127.0.0.1:8300"
    assert FOUND in directory.trial.run(directory.job("consul-access")), "soon after the election, too"


def test_a_service_that_somebody_registered_is_theirs(directory: Standing) -> None:
    """No port, and words in its metadata that look like a service of ours."""
    manager = token(directory, MANAGEMENT)
    theirs = json.dumps({"Name": "somebodys", "Meta": {"Service": "nowhere"}}).encode()
    assert ask(directory, "/v1/agent/service/register", manager, method="PUT", body=theirs).status_code == 200
    try:
        trial.eventually(lambda: "somebodys" in ask(directory, "/v1/catalog/services", manager).json(), 30)
        words = directory.trial.run(directory.job("consul-access"))
        assert FOUND in words and "somebodys" not in words
        holds, text = directory.prove("consul")
        assert holds, text
        assert "2 services found" in text
        assert "somebodys" in ask(directory, "/v1/catalog/services", manager).json(), "it stays"
    finally:
        ask(directory, "/v1/agent/service/deregister/somebodys", manager, method="PUT")


def test_a_token_that_the_server_does_not_have_changes_nothing(directory: Standing) -> None:
    kept = directory.trial.values[MANAGEMENT]
    directory.trial.values[MANAGEMENT] = "another"
    try:
        with pytest.raises(RuntimeError, match="has not taken this stack's token yet") as caught:
            directory.trial.run(directory.job("consul-access"))
        assert "docker logs kit-directory-consul" in str(caught.value)
    finally:
        directory.trial.values[MANAGEMENT] = kept
    assert FOUND in directory.trial.run(directory.job("consul-access"))


def test_a_job_that_takes_too_long_leaves_nothing_behind(directory: Standing) -> None:
    trial.stopped_in_time(directory.trial, directory.job("consul-access"))


def test_rotated_tokens_replace_the_older_ones_and_nobody_elses(directory: Standing) -> None:
    before = {key: token(directory, key) for key in (MANAGEMENT, READER)}
    made = ask(
        directory, "/v1/acl/token", before[MANAGEMENT], method="PUT", body=b'{"Description": "somebody\'s"}'
    ).json()["SecretID"]
    for key in before:
        directory.trial.values[key] = f"rotated {key.name} {HOSTILE}"
    restart(directory)
    words = directory.trial.run(directory.job("consul-access"))
    assert words.count("an older token is gone") == 2 and FOUND in words
    for old in before.values():
        assert ask(directory, "/v1/acl/token/self", old).status_code == 403
    for who in (made, *(token(directory, key) for key in before)):
        assert ask(directory, "/v1/acl/token/self", who).status_code == 200
    assert ask(directory, "/v1/kv/kept?raw", token(directory, MANAGEMENT)).text == "by the log"
    assert "older token" not in directory.trial.run(directory.job("consul-access"))


def test_memory_stays_below_the_limit(directory: Standing) -> None:
    used = trial.memory_mb(directory.name("consul"))
    print(f"consul: {used:.0f} MB, start {directory.trial.started[directory.name('consul')]:.1f} s")
    assert not used > 0.9 * directory.container("consul").limits.memory_mb
