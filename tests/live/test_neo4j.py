"""Neo4j on its real image, started with plain docker from the derived texts, with a hostile password.

Proves that configuration, first password, probe and job fit the server, that what was committed outlives a kill, and
that a volume with another password is told apart.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from stack.plan import SecretKey
from tests.live import standing, trial
from tests.live.standing import Standing
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

PASSWORD = SecretKey("neo4j", "password")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    folder = tmp_path_factory.mktemp("authority")
    with standing.stack("graph", folder, "graph", http_port=18632, https_port=18633, admin_port=18634) as up:
        yield up


def query(graph: Standing, statement: str) -> object:
    """The first value of the first row, asked with the stack's password as the job asks it."""
    body = base64.b64encode(json.dumps({"statements": [{"statement": statement}]}).encode()).decode()
    script = f"""
        set -euo pipefail
        token=$(printf 'neo4j:%s' "$(cat)" | base64 -w 0)
        body=$(base64 -d <<<{body})
        exec 3<>/dev/tcp/127.0.0.1/7474
        printf 'POST /db/neo4j/tx/commit HTTP/1.0\\r\\nAuthorization: Basic %s\\r\\n' "$token" >&3
        printf 'Content-Type: application/json\\r\\nContent-Length: %s\\r\\n\\r\\n%s' "${{#body}}" "$body" >&3
        cat <&3 | tail -n 1
    """
    password = graph.trial.secret(PASSWORD.owner, PASSWORD.name).encode()
    answer = json.loads(docker("exec", "-i", graph.name("neo4j"), "bash", "-c", script, data=password))
    assert not answer["errors"], answer
    rows = answer["results"][0]["data"]
    return rows[0]["row"][0] if rows else None


def test_a_node_is_written_found_and_removed_and_proven(graph: Standing) -> None:
    assert "written, found, removed" in graph.trial.run(graph.job("neo4j-graph"))
    holds, text = graph.prove()
    assert holds, text
    assert "written, found, removed" in text
    assert query(graph, "MATCH (n) RETURN count(n)") == 0


def test_the_password_is_in_no_log_process_list_or_inspect(graph: Standing) -> None:
    for name in (graph.name("neo4j"), graph.job("neo4j-graph").name):
        for text in (docker("logs", name, check=False), docker("inspect", name)):
            for needle in (HOSTILE, HOSTILE[:12], json.dumps(HOSTILE)[1:-1]):
                assert needle not in text, f"{name} shows the password"
    assert HOSTILE[:12] not in docker("top", graph.name("neo4j"), "-eo", "pid,args")


def test_without_the_password_nothing_is_answered(graph: Standing) -> None:
    script = """
        exec 3<>/dev/tcp/127.0.0.1/7474
        printf 'POST /db/neo4j/tx/commit HTTP/1.0\\r\\nContent-Length: 2\\r\\n\\r\\n{}' >&3
        head -n 1 <&3
    """
    assert " 401 " in docker("exec", graph.name("neo4j"), "bash", "-c", script)


def test_it_reads_no_file_and_no_address_for_a_query(graph: Standing) -> None:
    for url in ("file:///etc/passwd", "http://127.0.0.1:7474/", "http://169.254.169.254/"):
        with pytest.raises(AssertionError, match=r"errors|not allowed|blocked|disallowed"):
            query(graph, f"LOAD CSV FROM '{url}' AS line RETURN line LIMIT 1")


def test_it_has_no_way_out_and_no_capability(graph: Standing) -> None:
    state = json.loads(docker("inspect", graph.name("neo4j")))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["Config"]["User"] == "7474:7474"
    assert list(state["NetworkSettings"]["Networks"]) == ["kit-graph-data"]
    assert json.loads(docker("network", "inspect", "kit-graph-data"))[0]["Internal"]


def test_what_was_committed_outlives_a_kill(graph: Standing) -> None:
    query(graph, "CREATE (:Kept {by: 'the log'})")
    docker("kill", graph.name("neo4j"))
    docker("start", graph.name("neo4j"))
    graph.trial.wait_healthy(graph.container("neo4j"))
    assert query(graph, "MATCH (n:Kept) DETACH DELETE n RETURN count(n)") == 1


def test_it_stops_when_asked_and_starts_again_with_the_same_password(graph: Standing) -> None:
    begin = time.monotonic()
    docker("stop", "--time", "120", graph.name("neo4j"))
    assert json.loads(docker("inspect", graph.name("neo4j")))[0]["State"]["ExitCode"] in (0, 143)
    assert time.monotonic() - begin < 60
    docker("start", graph.name("neo4j"))
    graph.trial.wait_healthy(graph.container("neo4j"))
    assert "written, found, removed" in graph.trial.run(graph.job("neo4j-graph"))


def test_a_volume_with_another_password_is_told_apart(graph: Standing) -> None:
    graph.trial.values[PASSWORD] = "another" + HOSTILE
    try:
        graph.trial.start(graph.container("neo4j"))
        graph.trial.wait_healthy(graph.container("neo4j"))
        with pytest.raises(RuntimeError, match="another password than this stack's"):
            graph.trial.run(graph.job("neo4j-graph"))
        holds, text = graph.prove()
        assert not holds and "another password" in text
    finally:
        graph.trial.values[PASSWORD] = HOSTILE
        graph.trial.start(graph.container("neo4j"))
        graph.trial.wait_healthy(graph.container("neo4j"))
    # Three wrong passwords lock a user out for five seconds.
    trial.eventually(lambda: "removed" in _run_quietly(graph), 60)


def _run_quietly(graph: Standing) -> str:
    try:
        return graph.trial.run(graph.job("neo4j-graph"))
    except RuntimeError as problem:
        return str(problem).split("\n")[0]


def test_the_way_out_that_it_names_gives_the_volume_this_stacks_password(graph: Standing) -> None:
    query(graph, "CREATE (:Kept {by: 'whoever made this volume'})")
    graph.trial.values[PASSWORD] = "the one of this stack " + HOSTILE
    graph.trial.start(graph.container("neo4j"))
    graph.trial.wait_healthy(graph.container("neo4j"))
    with pytest.raises(RuntimeError) as refused:
        graph.trial.run(graph.job("neo4j-graph"))
    way = next(line for line in str(refused.value).splitlines() if "adopt-password" in line)
    subprocess.run(["bash", "-euc", way.strip()], check=True, capture_output=True)
    graph.trial.wait_healthy(graph.container("neo4j"))
    trial.eventually(lambda: "removed" in _run_quietly(graph), 180)
    assert query(graph, "MATCH (n:Kept) DETACH DELETE n RETURN count(n)") == 1
    log = docker("logs", graph.name("neo4j"), check=False)
    assert "has the password of this stack now" in log and HOSTILE[:12] not in log


def test_a_rotated_password_takes_the_place_of_the_one_before(graph: Standing) -> None:
    query(graph, "CREATE (:Kept {by: 'before the rotation'})")
    graph.rotate(PASSWORD, "rotated " + HOSTILE)
    graph.trial.start(graph.container("neo4j"))
    began = time.monotonic()
    graph.trial.wait_healthy(graph.container("neo4j"))
    said = graph.trial.run(graph.job("neo4j-graph"))
    print(f"neo4j: {time.monotonic() - began:.1f} s from the start to the new password's first answer")
    assert "has the new password" in said and "removed" in said and HOSTILE[:12] not in said
    assert query(graph, "MATCH (n:Kept) DETACH DELETE n RETURN count(n)") == 1
    assert "has the new password" not in graph.trial.run(graph.job("neo4j-graph")), "it is given once"


def test_memory_stays_below_the_limit(graph: Standing) -> None:
    used = trial.memory_mb(graph.name("neo4j"))
    print(f"neo4j: {used:.0f} MB, start {graph.trial.started[graph.name('neo4j')]:.1f} s")
    assert not used > 0.9 * graph.container("neo4j").limits.memory_mb
