"""Qdrant's service on its stand-in, and the chat with its documents there, with a hostile key.

Proves that configuration, key, probe, job, read-only root and volumes fit each other, that what was acknowledged
outlives a kill, that the copy a backup takes comes back, and that Open WebUI's own client stores and finds documents in
it. It proves NOTHING about Qdrant's real server, which no package registry has: `standin-qdrant` runs in its place.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stack.plan import SecretKey
from tests.live import standing, trial
from tests.live.standing import Standing
from tests.live.trial import docker

pytestmark = pytest.mark.live

KEY = SecretKey("qdrant", "key")
# A header carries what can be seen of ASCII. Everything that a shell, YAML or JSON reads as its own is among it.
HOSTILE = "k'e\"y$d${e}\\f`g h#i%j{k};&|<>!*?~@:/[]=+,^\\n: - yes"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    with standing.stack("vectors", folder, "vectors", start=False) as up:
        up.trial.values[KEY] = HOSTILE
        up.trial.up()
        yield up


ASK = """
import http.client, json, sys
def ask(method, path, body=None, **headers):
    link = http.client.HTTPConnection("127.0.0.1", 6333, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    link.putrequest(method, path)
    for name, value in headers.items():
        link.putheader(name.replace("_", "-"), value)
    link.putheader("Content-Length", str(len(data)))
    link.endheaders(data)
    answer = link.getresponse()
    text = answer.read().decode()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text
"""


def ask(up: Standing, method: str, path: str, body: Any = None, key: str | None = HOSTILE) -> tuple[int, Any]:
    """What the server answers, asked from inside with a key, the stack's unless another is given."""
    header = {} if key is None else {"api_key": key.encode()}
    program = f"{ASK}\nprint(json.dumps(ask({method!r}, {path!r}, {body!r}, **{header!r})))"
    status, answer = json.loads(standing.inside(up.name("qdrant"), program))
    return status, answer


def fill(up: Standing, name: str, count: int, size: int = 8) -> None:
    assert ask(up, "PUT", f"/collections/{name}", {"vectors": {"size": size, "distance": "Cosine"}})[0] == 200
    points: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        vector = [1.0 if at == number % size else 0.01 * number for at in range(size)]
        points.append({"id": number, "vector": vector, "payload": {"n": number}})
    for start in range(0, count, 200):  # what is asked runs beside the server, in its memory
        part = {"points": points[start : start + 200]}
        assert ask(up, "PUT", f"/collections/{name}/points?wait=true", part)[0] == 200


def count(up: Standing, name: str) -> int:
    return ask(up, "POST", f"/collections/{name}/points/count", {"exact": True})[1]["result"]["count"]


def test_vectors_are_written_found_and_removed_and_proven(vectors: Standing) -> None:
    assert "written, found, removed; refused without the key" in vectors.trial.run(vectors.job("qdrant-vectors"))
    holds, text = vectors.prove()
    assert holds, text
    assert text.count("[stand-in: standin-qdrant]") == 2
    assert "against a stand-in only (standin-qdrant), which counts nothing for the real server" in text
    assert ask(vectors, "GET", "/collections")[1]["result"]["collections"] == []


def test_it_says_what_it_is(vectors: Standing) -> None:
    assert "standin-qdrant" in vectors.image("qdrant")
    assert "not Qdrant" in ask(vectors, "GET", "/", key=None)[1]["title"]
    assert "it is not Qdrant" in docker("logs", vectors.name("qdrant"), check=False)
    label = json.loads(docker("inspect", vectors.name("qdrant")))[0]["Config"]["Labels"]["aikit.standin-for"]
    assert label.startswith("Qdrant's server")


def test_the_key_is_in_no_log_process_list_or_inspect(vectors: Standing) -> None:
    for name in (vectors.name("qdrant"), vectors.job("qdrant-vectors").name):
        for text in (docker("logs", name, check=False), docker("inspect", name)):
            for needle in (HOSTILE, HOSTILE[:10], json.dumps(HOSTILE)[1:-1]):
                assert needle not in text, f"{name} shows the key"
    assert HOSTILE[:10] not in docker("top", vectors.name("qdrant"), "-eo", "pid,args")


@pytest.mark.parametrize(
    "key", [None, "", " ", HOSTILE[:-1], HOSTILE + "x", HOSTILE.upper(), "Bearer", "kéy", "k" * 5000], ids=repr
)
def test_without_the_key_nothing_is_answered(vectors: Standing, key: str | None) -> None:
    for method, path, body in (
        ("GET", "/collections", None),
        ("PUT", "/collections/mine", {"vectors": {"size": 2, "distance": "Dot"}}),
        ("POST", "/collections/x/points/query", {"query": [1]}),
        ("GET", "/metrics", None),
        ("GET", "/collections/../healthz", None),
    ):
        assert ask(vectors, method, path, body, key=key)[0] == 401, path
    assert ask(vectors, "GET", "/readyz", key=key)[0] == 200


def test_it_has_no_way_out_and_no_capability(vectors: Standing) -> None:
    state = json.loads(docker("inspect", vectors.name("qdrant")))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "1000:1000"
    assert (
        list(state["NetworkSettings"]["Networks"]) == ["kit-vectors-data"] and not state["HostConfig"]["PortBindings"]
    )
    assert json.loads(docker("network", "inspect", "kit-vectors-data"))[0]["Internal"]


REFUSED: list[tuple[str, str, Any, int]] = [
    ("POST", "/collections/none/points/query", {"query": [1.0]}, 404),
    ("PUT", "/collections/here", {"vectors": {"size": 2, "distance": "Dot"}}, 409),
    ("PUT", "/collections/..%2f..%2fetc", {"vectors": {"size": 2, "distance": "Dot"}}, 422),
    ("PUT", "/collections/..", {"vectors": {"size": 2, "distance": "Dot"}}, 422),
    ("PUT", "/collections/%2e", {"vectors": {"size": 2, "distance": "Dot"}}, 422),
    ("PUT", "/collections/%00", {"vectors": {"size": 2, "distance": "Dot"}}, 422),
    ("PUT", "/collections/other", {"vectors": {"size": 2, "distance": "Manhatten"}}, 400),
    ("PUT", "/collections/here/points", {"points": [{"id": 1, "vector": [1.0]}]}, 400),
    ("PUT", "/collections/here/points", {"points": [{"id": "no-uuid", "vector": [1.0] * 8}]}, 400),
    ("POST", "/collections/here/points/query", {"query": [1.0, 2.0]}, 400),
    ("POST", "/collections/here/points/delete", {}, 400),
    ("POST", "/collections/here/points/count", {"filter": {"must": [{"surprise": 1}]}}, 400),
    ("POST", "/collections/here/points/count", [1], 400),
    ("POST", "/collections/here/snapshots", None, 404),
    ("GET", "/telemetry", None, 404),
]


def test_what_it_cannot_do_is_refused_and_it_goes_on(vectors: Standing) -> None:
    fill(vectors, "here", 3)
    try:
        for method, path, body, status in REFUSED:
            assert ask(vectors, method, path, body)[0] == status, (path, body)
        assert count(vectors, "here") == 3
    finally:
        ask(vectors, "DELETE", "/collections/here")


def test_what_was_acknowledged_outlives_a_kill(vectors: Standing) -> None:
    fill(vectors, "kept", 200)
    # What the real server wrote here, before images were built on this machine, is not the stand-in's to tidy up.
    real = "/qdrant/storage/collections/real/config.json"
    docker("exec", vectors.name("qdrant"), "sh", "-c", f"mkdir -p {real.rpartition('/')[0]} && echo x >{real}")
    docker("kill", vectors.name("qdrant"))
    docker("start", vectors.name("qdrant"))
    vectors.trial.wait_healthy(vectors.container("qdrant"))
    assert count(vectors, "kept") == 200
    assert docker("exec", vectors.name("qdrant"), "cat", real).strip() == "x"
    assert ask(vectors, "DELETE", "/collections/kept")[0] == 200


def test_it_stops_when_asked_and_starts_with_the_same_vectors(vectors: Standing) -> None:
    fill(vectors, "stays", 50)
    begin = time.monotonic()
    docker("stop", "--time", "60", vectors.name("qdrant"))
    assert json.loads(docker("inspect", vectors.name("qdrant")))[0]["State"]["ExitCode"] in (0, 143)
    assert time.monotonic() - begin < 30
    docker("start", vectors.name("qdrant"))
    vectors.trial.wait_healthy(vectors.container("qdrant"))
    query = {"query": [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], "limit": 1, "with_payload": True}
    (found,) = ask(vectors, "POST", "/collections/stays/points/query", query)[1]["result"]["points"]
    assert found["payload"]["n"] == found["id"] == 3
    assert ask(vectors, "DELETE", "/collections/stays")[0] == 200


def test_the_copy_that_a_backup_takes_comes_back(vectors: Standing) -> None:
    """As the volume's BackupSet says: while the server is stopped."""
    name, tools = vectors.name("qdrant"), vectors.trial.runtime.tools_image
    volume = next(mount.volume for mount in vectors.container("qdrant").mounts if mount.path == "/qdrant/storage")
    fill(vectors, "before", 40)
    docker("stop", "--time", "60", name)
    argv = ["run", "--rm", "-i", "--network", "none", "-v", f"{volume}:/v", "--entrypoint", "sh", tools, "-c"]
    copy = subprocess.run(["docker", *argv, "tar -c -C /v ."], capture_output=True, check=True).stdout
    docker("start", name)
    vectors.trial.wait_healthy(vectors.container("qdrant"))
    fill(vectors, "after", 5)
    ask(vectors, "DELETE", "/collections/before")
    docker("stop", "--time", "60", name)
    docker(*argv, "rm -rf /v/* && tar -x -p -C /v", data=copy)
    docker("start", name)
    vectors.trial.wait_healthy(vectors.container("qdrant"))
    names = [each["name"] for each in ask(vectors, "GET", "/collections")[1]["result"]["collections"]]
    assert names == ["before"] and count(vectors, "before") == 40
    assert ask(vectors, "DELETE", "/collections/before")[0] == 200


def test_memory_stays_below_the_limit(vectors: Standing) -> None:
    fill(vectors, "many", 2000, size=64)
    used = trial.memory_mb(vectors.name("qdrant"))
    print(f"standin-qdrant: {used:.0f} MB, start {vectors.trial.started[vectors.name('qdrant')]:.1f} s")
    assert not used > 0.9 * vectors.container("qdrant").limits.memory_mb
    assert ask(vectors, "DELETE", "/collections/many")[0] == 200


# --------------------------------------------------------------------------------------- the chat's documents


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    # A session key is signed with, not sent: nothing reads it as text.
    with standing.stack(
        "chatvectors",
        folder,
        "chat",
        plain=lambda key: key.name.startswith("session"),
        start=False,
        vector_store="qdrant",
        http_port=9110,
        https_port=9543,
        admin_port=9544,
    ) as up:
        up.trial.values[KEY] = HOSTILE
        up.trial.up()
        up.make_realm()
        up.settle()
        yield up


def test_a_document_is_stored_and_found_in_qdrant(chat: Standing) -> None:
    holds, text = chat.prove("open-webui")
    assert holds, text
    ended = [line for line in text.splitlines() if "[stand-in: standin-qdrant]" in line]
    assert len(ended) == 1 and "a document is found by its meaning" in ended[0]
    names = {each["name"] for each in ask(chat, "GET", "/collections")[1]["result"]["collections"]}
    assert {"open-webui_knowledge", "open-webui_files"} <= names
    assert count(chat, "open-webui_knowledge") == 0  # the proof's clean-up reached it too
    tables = docker("exec", chat.name("postgres"), "psql", "-U", "postgres", "-d", "open-webui", "-Atc", "\\dt")
    assert "document_chunk" not in tables


CLIENT = """
import uuid
from open_webui.retrieval.vector.factory import VECTOR_DB_CLIENT as client
name = f"kit-test-{uuid.uuid4()}"
def item(number, vector, **metadata):
    return {"id": str(uuid.UUID(int=number)), "text": f"text {number}", "vector": vector, "metadata": metadata}
first = item(1, [1.0] + [0.0] * 7, file_id="a", hash="x")
client.upsert(name, [first, item(2, [0.0, 1.0] + [0.0] * 6, file_id="b", hash="y")])
client.upsert(f"user-memory-{name}", [item(3, [1.0] + [0.0] * 7, file_id="c")])
found = client.search(name, [[0.1, 0.9] + [0.0] * 6], limit=5)
print(type(client).__module__, client.has_collection(name), found.ids[0][0][-1], len(found.ids[0]))
print(sorted(text for text in client.get(name).documents[0]), client.query(name, {"file_id": "a"}).documents)
client.delete(name, filter={"file_id": "a"})
print(len(client.get(name).ids[0]), client.query(name, {"hash": "x"}).ids)
client.delete(name, ids=[str(uuid.UUID(int=2))])
print(client.has_collection(name), client.has_collection(f"user-memory-{name}"))
client.delete_collection(f"user-memory-{name}")
print(client.has_collection(f"user-memory-{name}"), client.has_collection("kit-nobody"))
client.reset()
"""


def test_open_webuis_own_client_does_all_it_does(chat: Standing) -> None:
    """Its module, its settings and its client, run once more beside it: every call it has for documents."""
    exports = 'for f in /run/kit/env/*; do v=$(cat "$f"; printf x); export "${f##*/}"="${v%x}"; done;'
    # Its own collections: a collection's vectors are of one size.
    exports += " export QDRANT_COLLECTION_PREFIX=kit-test; exec python3 -"
    printed = docker("exec", "-i", chat.name("open-webui"), "bash", "-c", exports, data=CLIENT.encode())
    assert printed.strip().splitlines()[-5:] == [
        "open_webui.retrieval.vector.dbs.qdrant_multitenancy True 2 2",
        "['text 1', 'text 2'] [['text 1']]",
        "1 [[]]",
        "False True",
        "False False",
    ]


def test_the_key_is_not_in_the_chats_inspect_either(chat: Standing) -> None:
    for name in ("open-webui", "qdrant"):
        for text in (docker("inspect", chat.name(name)), docker("logs", chat.name(name), check=False)):
            assert HOSTILE[:10] not in text and json.dumps(HOSTILE)[1:-1] not in text


def test_documents_outlive_a_restart_of_the_store(chat: Standing) -> None:
    docker("kill", chat.name("qdrant"))
    docker("start", chat.name("qdrant"))
    chat.trial.wait_healthy(chat.container("qdrant"))
    holds, text = chat.prove("open-webui")
    assert holds, text
