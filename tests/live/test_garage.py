"""Garage on its real image, started with plain docker from the derived texts, with hostile secrets.

Proves that configuration, probe and job fit the server; that a second implementation of the signatures agrees with
the job's; that what was written outlives a kill; and that a rotated key replaces the older one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from stack.derive.encode import encode
from stack.model import Encoding
from stack.plan import SecretKey
from tests.live import standing, trial
from tests.live.standing import Standing
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

KEY = SecretKey("garage", "key")
HELD = "refused without the key and with a wrong one"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    with standing.stack("storage", folder, "storage", http_port=18642, https_port=18643, admin_port=18644) as up:
        yield up


def address(storage: Standing) -> str:
    """The container's own address: this machine's engine lets its host in, and nobody else."""
    networks = json.loads(docker("inspect", storage.name("garage")))[0]["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


def s3(
    storage: Standing, method: str, path: str, body: bytes = b"", *, query: str = "", secret: str | None = None
) -> httpx.Response:
    """A request with AWS Signature Version 4, written from its description and not from the job."""
    secret = storage.trial.secret(KEY.owner, KEY.name) if secret is None else secret
    key_id, key = "GK" + encode(secret, Encoding.NAME_24), encode(secret, Encoding.HEX_32)
    host, moment = f"{address(storage)}:3900", datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/garage/s3/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = "\n".join(
        [
            method,
            path,
            query,
            f"host:{host}",
            f"x-amz-content-sha256:{digest}",
            f"x-amz-date:{moment}",
            "",
            names,
            digest,
        ]
    )
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signing = f"AWS4{key}".encode()
    for part in scope.split("/"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    signature = hmac.digest(signing, text.encode(), "sha256").hex()
    return httpx.request(
        method,
        f"http://{host}{path}{'?' + query if query else ''}",
        content=body,
        headers={
            "x-amz-content-sha256": digest,
            "x-amz-date": moment,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}",
        },
        timeout=60,
    )


def garage(storage: Standing, *argv: str) -> str:
    return docker("exec", storage.name("garage"), "/garage", *argv)


def test_an_object_is_written_read_and_removed_and_proven(storage: Standing) -> None:
    assert HELD in storage.trial.run(storage.job("garage-bucket")), "a second run ends as the first"
    holds, text = storage.prove()
    assert holds, text
    assert HELD in text
    assert "<Key>" not in s3(storage, "GET", "/kit", query="list-type=2").text, "nothing stays behind"


def test_another_client_agrees_and_a_large_object_comes_back_whole(storage: Standing) -> None:
    content = os.urandom(9 * 2**20 + 17)
    assert s3(storage, "PUT", "/kit/large/one", content).status_code == 200
    assert s3(storage, "GET", "/kit/large/one").content == content
    assert "<Key>large/one</Key>" in s3(storage, "GET", "/kit", query="list-type=2").text
    assert s3(storage, "DELETE", "/kit/large/one").status_code == 204
    assert s3(storage, "GET", "/kit/large/one").status_code == 404


def test_without_the_key_nothing_is_answered(storage: Standing) -> None:
    assert s3(storage, "PUT", "/kit/closed", b"x").status_code == 200
    host = f"http://{address(storage)}"
    for path in ("/kit/closed", "/kit", "/"):
        assert httpx.get(f"{host}:3900{path}").status_code == 403, path
    wrong = s3(storage, "GET", "/kit/closed", secret="another")
    assert wrong.status_code == 403 and "No such key" in wrong.text
    assert httpx.put(f"{host}:3900/kit/closed", content=b"y").status_code == 403
    assert s3(storage, "GET", "/kit/closed").content == b"x"
    for path in ("/v2/GetClusterStatus", "/v2/ListKeys", "/metrics"):
        assert httpx.get(f"{host}:3903{path}").status_code == 403, path
        assert httpx.get(f"{host}:3903{path}", headers={"Authorization": "Bearer x"}).status_code == 403, path
    token = encode(storage.trial.secret("garage", "metrics"), Encoding.HEX_32)
    metrics = httpx.get(f"{host}:3903/metrics", headers={"Authorization": f"Bearer {token}"})
    assert metrics.status_code == 200 and "garage_build_info" in metrics.text
    assert s3(storage, "DELETE", "/kit/closed").status_code == 204


def test_the_secrets_are_in_no_log_process_list_or_inspect(storage: Standing) -> None:
    forms = {encode(HOSTILE, encoding) for encoding in (Encoding.RAW, Encoding.HEX_32)}
    for name in (storage.name("garage"), storage.job("garage-bucket").name):
        for text in (docker("logs", name, check=False), docker("inspect", name)):
            assert not [form for form in forms if form in text], f"{name} shows a secret"
    processes = docker("top", storage.name("garage"), "-eo", "pid,args")
    assert not [form for form in forms if form in processes]


def test_it_has_no_way_out_and_no_capability(storage: Standing) -> None:
    state = json.loads(docker("inspect", storage.name("garage")))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "1000:1000"
    assert list(state["NetworkSettings"]["Networks"]) == ["kit-storage-data"]
    assert json.loads(docker("network", "inspect", "kit-storage-data"))[0]["Internal"]


def test_what_was_written_outlives_a_kill(storage: Standing) -> None:
    assert s3(storage, "PUT", "/kit/kept", b"by the disk").status_code == 200
    docker("kill", storage.name("garage"))
    docker("start", storage.name("garage"))
    storage.trial.wait_healthy(storage.container("garage"))
    trial.eventually(lambda: s3(storage, "GET", "/kit/kept").content == b"by the disk", 30)


def test_it_stops_when_asked_and_a_new_container_has_the_same_objects(storage: Standing) -> None:
    docker("stop", "--time", "30", storage.name("garage"))
    assert json.loads(docker("inspect", storage.name("garage")))[0]["State"]["ExitCode"] == 0
    storage.trial.start(storage.container("garage"))
    storage.trial.wait_healthy(storage.container("garage"))
    assert HELD in storage.trial.run(storage.job("garage-bucket"))
    assert s3(storage, "GET", "/kit/kept").content == b"by the disk"


def test_a_rotated_key_replaces_the_older_one_and_nobody_elses(storage: Standing) -> None:
    garage(storage, "key", "create", "somebody")
    storage.trial.values[KEY] = "rotated " + HOSTILE
    try:
        assert "older key" in storage.trial.run(storage.job("garage-bucket"))
        assert s3(storage, "GET", "/kit/kept").content == b"by the disk"
        assert s3(storage, "GET", "/kit/kept", secret=HOSTILE).status_code == 403
        assert "older key" not in storage.trial.run(storage.job("garage-bucket"))
        keys = garage(storage, "key", "list")
        assert "somebody" in keys and keys.count("kit-services") == 1
    finally:
        storage.trial.values[KEY] = "rotated " + HOSTILE


def test_a_job_that_takes_too_long_leaves_nothing_behind(storage: Standing) -> None:
    trial.stopped_in_time(storage.trial, storage.job("garage-bucket"))


def test_memory_stays_below_the_limit(storage: Standing) -> None:
    used = trial.memory_mb(storage.name("garage"))
    print(f"garage: {used:.0f} MB, start {storage.trial.started[storage.name('garage')]:.1f} s")
    assert not used > 0.9 * storage.container("garage").limits.memory_mb
