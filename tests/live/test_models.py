"""Real models on the real server behind the real queue, started with plain docker from the derived texts.

Tiny models with random weights: what they say means nothing, how they are served is real. What is not proven here: a
graphics card, and a pull from the library (this runs without one; versions change by making a model anew).
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import queue as bench
from ops import deploying, model, modelrecord, tunnel
from ops.cli import parse
from ops.console import KitError
from ops.engine import DockerApi
from ops.modelserver import ModelServer, server_of
from ops.progress import Progress
from ops.session import Session
from stack.derive import queue, runtime
from stack.plan import Plan
from tests.live.trial import Authority, Trial, docker, eventually

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]
STACK = "mdl"
QUEUE, SERVER = f"kit-{STACK}-ollama-queue", f"kit-{STACK}-ollama"
SECOND, ASKERS = f"kit-{STACK}-second", f"kit-{STACK}-asking"
STEPS = ("ollama", "ollama-queue", "ollama-models")
STACK_FILE = """\
# The models of a test.
config:
  ai-kit:target: dev
  ai-kit:images: airgap
  ai-kit:httpPort: 18880
  ai-kit:httpsPort: 18843
  ai-kit:adminPort: 18844
  ai-kit:models:
    - kit-tiny-chat  # the first
  ai-kit:embeddingModel: kit-tiny-embed
  ai-kit:electricityCents: 30
  ai-kit:powerWatts: 20
"""


ASKING = """
        import concurrent.futures, json, sys, time, urllib.error, urllib.request
        BASE, finished = "http://ollama-queue:11435", []
        def ask(who, tokens):
            options = {"num_predict": tokens}
            body = {"model": "kit-tiny-chat", "prompt": "x", "stream": False, "options": options}
            headers = {"Content-Type": "application/json", "X-OpenWebUI-User-Id": who}
            request = urllib.request.Request(BASE + "/api/generate", json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    json.load(answer)["eval_count"]
                    finished.append((who, answer.status, None, ""))
            except urllib.error.HTTPError as error:
                finished.append((who, error.code, error.headers["Retry-After"], error.read().decode()))
"""


class Models:
    """The stack of this module, with its models up."""

    def __init__(self, session: Session, plan: Plan, running: Trial) -> None:
        self.session = session
        self.plan = plan
        self.trial = running
        self.docker = DockerApi()

    @property
    def server(self) -> ModelServer:
        return server_of(self.session, self.plan)

    def kit(self, *words: str) -> int:
        """`./kit model WORDS` in this clone. KitError as a person would see it."""
        _, arguments = parse(["model", *words, STACK], self.session.root)
        return model.run(argparse.Namespace(**vars(arguments)))

    def versions(self) -> dict[str, str]:
        return {item.name: item.version for item in self.server.models()}

    def answer(self, name: str) -> str:
        found = self.server.ask(
            name, "What is the colour of the sky?", {"temperature": 0, "seed": 7, "num_predict": 12}
        )
        assert not found.error and found.done, found
        return found.text

    def python(self, program: str) -> str:
        """Run a program where the services are, with an image that has Python."""
        image = next(c.image for c in self.trial.runtime.containers if c.service == "open-webui")
        docker("rm", "-f", "-v", ASKERS, check=False)
        argv = [
            "run",
            "--rm",
            "-i",
            "--name",
            ASKERS,
            "--network",
            f"kit-{STACK}-app",
            "--entrypoint",
            "python3",
            image,
            "-",
        ]
        return docker(*argv, data=textwrap.dedent(program).encode())

    def raw(self, method: str, path: str, body: str = "{}", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        """A request line exactly as written, at the queue's port."""
        connection = tunnel._Connection(self.docker, QUEUE, 11435, 600)
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        try:
            return answer.status, answer.headers, answer.read().decode()
        finally:
            answer.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    from airgap import images

    images.ensure(["ollama", "tiny-models", "haproxy", "open-webui", "tools"])
    root = tmp_path_factory.mktemp("clone")
    shutil.copy(ROOT / "Pulumi.yaml", root)
    (root / f"Pulumi.{STACK}.yaml").write_text(STACK_FILE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(root / "state"))
        patched.setattr(model, "Session", lambda stack: Session(stack, root))
        session = Session(STACK, root)
        plan = session.plan()
        running = Trial(runtime.build(plan), Authority(root / "authority", ("none.kit.localhost",)))
        docker("rm", "-f", "-v", SECOND, check=False)
        running.down()
        try:
            running.up(only=STEPS)
            yield Models(session, plan, running)
        finally:
            docker("rm", "-fv", SECOND, ASKERS, check=False)
            running.down()


# --------------------------------------------------------------------------------------------------- the door


CLOSED = [
    *((method, path) for path in ("/api/pull", "/api/push", "/api/create", "/api/copy") for method in ("POST", "PUT")),
    *(("DELETE", path) for path in ("/api/delete", "/API/delete", "/api//delete", "/api/delete/", "/api/delet%65")),
    *(("POST", f"/api/blobs/sha256:{'0' * 64}"), ("HEAD", f"/api/blobs/sha256:{'0' * 64}")),
    *(
        ("POST", path)
        for path in ("/API/PULL", "/Api/Pull", "/api/pul%6c", "/api/pul%6C", "/%61pi/pull", "/api%2fpull")
    ),
    *(("POST", path) for path in ("//api/pull", "/api//pull", "/./api/pull", "/api/./pull", "/api/generate/../pull")),
    *(
        ("POST", path)
        for path in ("/api/pull/", "/api/pull?/api/generate", "/api/pull;x", "/api/pull%00", "/api\\pull")
    ),
    *(("POST", path) for path in ("/x/../api/pull", "/api/generate%2f..%2fpull", "http://ollama/api/pull")),
    *(
        ("POST", path)
        for path in ("/api/me", "/api/signout", "/api/experimental/aliases", "/api/experimental/web_fetch")
    ),
    *(("GET", path) for path in ("/api/status", "/api/pull", "/metrics", "/debug/pprof/", "/v1/models/a%2f..%2fb")),
]


@pytest.mark.parametrize(("method", "path"), CLOSED, ids=[f"{method} {path}" for method, path in CLOSED])
def test_nothing_that_changes_models_passes_however_it_is_written(models: Models, method: str, path: str) -> None:
    before = models.versions()
    status, _, _ = models.raw(method, path, '{"model": "kit-tiny-chat", "source": "kit-tiny-chat", "destination": "x"}')
    assert status in (400, 403)
    assert models.versions() == before


def test_lists_pass_and_say_what_is_there(models: Models) -> None:
    for method, path in (("GET", "/api/tags"), ("GET", "/v1/models"), ("GET", "/api/ps"), ("HEAD", "/"), ("GET", "/")):
        assert models.raw(method, path)[0] == 200, path
    assert "kit-tiny-chat:latest" in models.raw("GET", "/api/tags")[2]
    assert models.raw("POST", "/api/show", '{"model": "kit-tiny-chat"}')[0] == 200
    assert models.raw("GET", "/v1/models/kit-tiny-chat:latest")[0] == 200


def test_nobody_but_the_queue_reaches_the_server(models: Models) -> None:
    """Neither from where the services are, nor over the way out that some of them share with it."""
    image = models.trial.runtime.tools_image
    address = json.loads(docker("inspect", SERVER))[0]["NetworkSettings"]["Networks"]

    def reaches(zone: str, host: str, port: int) -> bool:
        test = f"nc -w 3 {host} {port} -e true && echo reached || echo not"
        network = f"kit-{STACK}-{zone}"
        return docker("run", "--rm", "--network", network, image, "sh", "-c", test).strip() == "reached"

    assert reaches("app", "ollama-queue", 11435)
    assert not reaches("app", "ollama", 11434)
    for zone, attached in address.items():
        assert not reaches("app", attached["IPAddress"], 11434), zone
    assert not reaches("egress", address[f"kit-{STACK}-egress"]["IPAddress"], 11434)
    assert not reaches("egress", SERVER, 11434)
    assert reaches("model", "ollama", 11434)


# -------------------------------------------------------------------------------------------------- the queue


def test_eight_people_get_the_same_nothing_is_lost_and_the_model_is_kept_busy(models: Models) -> None:
    """Fair and complete every time; without gaps in one of three runs: other work on the machine makes some as well."""
    idle: list[float] = []
    while len(idle) < 3 and min(idle, default=1) > bench.IDLE:
        found = bench.measure(models.docker, models.plan, clients=8, seconds=8, tokens=800, model="kit-tiny-chat")
        print(found.row())
        assert found.dropped == 0
        assert min(found.answers) >= 2, "too few answers to say anything"
        assert found.fairness >= bench.FAIR
        assert found.idle is not None
        idle.append(found.idle)
    assert min(idle) <= bench.IDLE, idle


def test_who_asks_one_thing_passes_who_asks_ten(models: Models) -> None:
    program = (
        ASKING
        + """
        with concurrent.futures.ThreadPoolExecutor(11) as pool:
            asked = [pool.submit(ask, "many", 200) for _ in range(10)]
            while not finished: time.sleep(0.01)
            asked.append(pool.submit(ask, "one", 200))
        print(json.dumps(finished))
    """
    )
    finished = json.loads(models.python(program))
    assert {status for _, status, _, _ in finished} == {200}
    order = [who for who, *_ in finished]
    assert order.index("one") <= 5, order


def test_a_full_queue_says_so_and_when_to_come_back_and_lists_do_not_wait(models: Models) -> None:
    """One person fills their part of the queue; somebody else still gets in."""
    program = (
        ASKING
        + """
        with concurrent.futures.ThreadPoolExecutor(60) as pool:
            asked = [pool.submit(ask, "greedy", 800) for _ in range(NUMBER)]
            time.sleep(1)
            begin = time.monotonic()
            urllib.request.urlopen(BASE + "/api/tags", timeout=60).read()
            listed = time.monotonic() - begin
            other = pool.submit(ask, "other", 10)
        print(json.dumps([finished, listed]))
    """.replace("NUMBER", str(queue.WAITING_EACH + 16))
    )
    finished, listed = json.loads(models.python(program))
    assert listed < 2, "a list waited in the queue"
    refused = [entry for entry in finished if entry[1] == 503]
    assert len(refused) >= 5 and {entry[0] for entry in refused} == {"greedy"}
    for _, _, after, text in refused:
        assert after == "30" and "queue is full" in text
    answered = [who for who, status, *_ in finished if status == 200]
    assert len(answered) == len(finished) - len(refused) and "other" in answered


def test_a_second_server_takes_part_once_it_has_the_models(models: Models) -> None:
    server = next(c for c in models.trial.runtime.containers if c.name == SERVER)
    job = next(job for job in models.trial.runtime.jobs if "KIT_MODELS" in job.env)
    environment = [word for name, value in server.env.items() for word in ("--env", f"{name}={value}")]
    network = ["--network", f"kit-{STACK}-model", "--network-alias", "second"]
    user = ["--user", "1000:1000", "--tmpfs", "/var/lib/ollama:uid=1000,gid=1000", "--tmpfs", "/tmp"]
    docker("run", "-d", "--name", SECOND, *user, *network, *environment, server.image)
    changed = replace(models.plan.settings, ollama_backends=("second:11434",))
    before = models.trial.runtime
    models.trial.runtime = runtime.build(replace(models.plan, settings=changed))
    program = (
        ASKING
        + """
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda number: ask(f"person {number}", 200), range(6)))
        print(json.dumps(finished))
    """
    )

    def served_by() -> set[str]:
        mark = docker("logs", QUEUE).count("\n")
        finished = json.loads(models.python(program))
        if {entry[1] for entry in finished} != {200}:
            return {str(finished)}
        lines = docker("logs", QUEUE).splitlines()[mark:]
        return set(re.findall(r" queue inference/(\S+) ", "\n".join(lines)))

    try:
        models.trial.reload(QUEUE)
        eventually(lambda: served_by() == {"ollama"}, 60)  # the other one lacks the models
        models.trial.run(replace(job, name=f"{job.name}-second", env={**job.env, "OLLAMA_HOST": "http://second:11434"}))
        eventually(lambda: served_by() == {"ollama", "remote-1"}, 90)
    finally:
        docker("rm", "-f", "-v", SECOND, f"{job.name}-second", check=False)
        models.trial.runtime = before
        models.trial.reload(QUEUE)


# ------------------------------------------------------------------------------------------------- ./kit model


def test_every_model_has_the_machines_threads_and_a_second_run_changes_nothing(models: Models) -> None:
    def threads(name: str) -> list[str]:
        shown = docker("exec", SERVER, "ollama", "show", name, "--parameters")
        return [line.split()[1] for line in shown.splitlines() if line.startswith("num_thread")]

    job = next(job for job in models.trial.runtime.jobs if "KIT_MODELS" in job.env)
    docker("exec", SERVER, "ollama", "cp", "kit-tiny-chat", "plain")
    models.trial.run(replace(job, env={**job.env, "KIT_MODELS": "plain"}))
    before = models.versions()
    assert [threads(name) for name in ("plain", "kit-tiny-chat", "kit-tiny-embed")] == [["2"], ["1"], ["1"]]
    said = models.trial.run(replace(job, env={**job.env, "KIT_MODELS": "kit-tiny-chat plain"}))
    assert f"[1/2] kit-tiny-chat is there: {before['kit-tiny-chat:latest']}" in said
    assert models.versions() == before
    models.kit("remove", "plain")


def test_the_life_of_a_model(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    """Added, refreshed, switched back, removed; the operator's file and the record follow."""
    file = models.session.state.stack_file
    before = file.read_text(encoding="utf-8")
    with pytest.raises(KitError, match="is there already"):
        models.kit("add", "kit-tiny-chat")
    with pytest.raises(KitError, match="not to be had"):
        models.kit("add", "kit-tiny-nothing")
    assert file.read_text(encoding="utf-8") == before

    assert models.kit("add", "kit-tiny-chat-b") == 0
    assert file.read_text(encoding="utf-8") == before.replace(
        "    - kit-tiny-chat  # the first\n", "    - kit-tiny-chat  # the first\n    - kit-tiny-chat-b\n"
    )
    name = "kit-tiny-chat-b:latest"
    assert modelrecord.read(models.session.state)[name].version == models.versions()[name]

    # What an earlier release of it would be: other weights under the same name.
    docker("exec", SERVER, "ollama", "cp", "kit-tiny-chat", "kit-tiny-chat-b")
    old, old_answer = models.versions()[name], models.answer(name)
    capsys.readouterr()
    assert models.kit("add", "kit-tiny-chat-b", "--refresh") == 0
    assert f"./kit model switch kit-tiny-chat-b {old}" in capsys.readouterr().out
    new, new_answer = models.versions()[name], models.answer(name)
    assert new != old and new_answer != old_answer
    assert models.versions()[f"{name}-kept-{old}"] == old

    assert models.kit("add", "kit-tiny-chat-b", "--refresh") == 0
    assert "nothing newer" in capsys.readouterr().out
    assert sorted(models.versions()) == sorted(
        ["kit-tiny-chat:latest", name, f"{name}-kept-{old}", "kit-tiny-embed:latest"]
    )

    assert models.kit("switch", "kit-tiny-chat-b", old[:5]) == 0
    assert models.answer(name) == old_answer and models.versions()[f"{name}-kept-{new}"] == new
    assert models.kit("switch", "kit-tiny-chat-b", new) == 0
    assert models.answer(name) == new_answer
    with pytest.raises(KitError, match="no kept version"):
        models.kit("switch", "kit-tiny-chat-b", "0000")
    with pytest.raises(KitError, match="there is no model"):
        models.kit("switch", "kit-tiny-chta-b", old)

    capsys.readouterr()
    assert models.kit("list") == 0
    shown = capsys.readouterr().out
    assert old in shown and new in shown and "embedding" in shown
    assert models.kit("list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows[name]["versions_kept"] == [old] and rows[name]["digest"].startswith(new)
    assert rows[name]["loaded_mb"]

    for refused, said in (("kit-tiny-embed", "finds the documents"), ("nothing", "there is no model")):
        with pytest.raises(KitError, match=said):
            models.kit("remove", refused)
    assert models.kit("remove", "kit-tiny-chat-b") == 0
    assert file.read_text(encoding="utf-8") == before
    assert sorted(models.versions()) == ["kit-tiny-chat:latest", "kit-tiny-embed:latest"]
    with pytest.raises(KitError, match="only model to chat with"):
        models.kit("remove", "kit-tiny-chat")


def test_a_model_that_left_the_list_stays_until_it_is_removed(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    docker("exec", SERVER, "ollama", "cp", "kit-tiny-chat", "left")
    models.trial.run(next(job for job in models.trial.runtime.jobs if "KIT_MODELS" in job.env))
    capsys.readouterr()
    models.kit("list")
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("left")] == [
        ["left:latest", "kept"]
    ]
    assert models.kit("remove", "left") == 0
    assert "left:latest" not in models.versions()


def test_two_models_are_compared_on_ones_own_questions(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docker("exec", SERVER, "ollama", "cp", "kit-tiny-chat", "same")
    models.kit("add", "kit-tiny-chat-b")
    questions = tmp_path / "questions.txt"
    questions.write_text("# mine\nWhat is it?\nHow many?\n", encoding="utf-8")
    capsys.readouterr()
    chosen = "kit-tiny-chat,kit-tiny-chat-b,same"
    assert models.kit("eval", str(questions), "--models", chosen, "--max-tokens", "16", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == ["What is it?", "How many?"]
    assert found["agreement"]["kit-tiny-chat | same"] == 1
    assert found["agreement"]["kit-tiny-chat | kit-tiny-chat-b"] < 1
    for score in found["scores"]:
        assert score["failed"] == 0 and score["tokens_per_s"] > 0 and score["mean_tokens"] >= 1
        assert 0 < score["first_token_s"] < 60 and score["cents_per_1000"] > 0
    kept = Path(found["file"])
    assert json.loads(kept.read_text(encoding="utf-8"))["scores"] == found["scores"]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert models.kit("eval", str(questions), "--models", chosen, "--max-tokens", "4") == 0
    assert "agreement kit-tiny-chat | same: 1.00" in capsys.readouterr().out
    for wanted, said in (("kit-tiny-chat", "two models"), ("kit-tiny-chat,nothing", "no model nothing")):
        with pytest.raises(KitError, match=said):
            models.kit("eval", str(questions), "--models", wanted)
    for name in ("same", "kit-tiny-chat-b"):
        models.kit("remove", name)


def test_a_stack_that_is_down_has_a_list_and_says_how_to_come_up(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    models.kit("list")
    docker("stop", SERVER)
    try:
        capsys.readouterr()
        assert models.kit("list") == 0
        shown = capsys.readouterr().out
        assert "kit-tiny-chat:latest" in shown and "is not up" in shown
        for words in (("add", "x:1b"), ("remove", "x"), ("switch", "x", "1")):
            with pytest.raises(KitError, match="is not up") as caught:
                models.kit(*words)
            assert "./kit up" in caught.value.fix
    finally:
        docker("start", SERVER)
        models.trial.wait_healthy(next(c for c in models.trial.runtime.containers if c.name == SERVER))


def test_a_port_that_nobody_listens_at_is_a_sentence(models: Models) -> None:
    with (
        pytest.raises(KitError, match=r"does not answer at its port 9: Connection refused"),
        tunnel.answer(models.docker, SERVER, 9, "GET", "/"),
    ):
        pass


# ------------------------------------------------------------------------------------------------ the progress


def test_what_a_job_says_is_shown_while_it_runs(models: Models) -> None:
    stream = io.StringIO()
    progress = Progress(stream, tty=False, environ={})
    heard: list[dict[str, str]] = []

    class Tracker(deploying.ProgressTracker):
        def job_says(self, said: dict[str, str]) -> None:
            heard.append(said)
            super().job_says(said)

    script = "echo 'fetching one'; sleep 1; echo '  pulling 40%'; sleep 3; echo 'one is there'; sleep 1"
    labels = ["--label", f"aikit.stack={STACK}", "--label", "aikit.kind=job"]
    name = f"kit-{STACK}-fetching"
    docker("rm", "-f", "-v", name, check=False)
    try:
        with progress.step("stack") as step:
            tracker = Tracker(progress, step)
            with deploying.JobWatcher(models.docker, STACK, tracker, look_every_s=0.2):
                docker("run", "-d", "--name", name, *labels, models.trial.runtime.tools_image, "sh", "-c", script)
                eventually(lambda: {"fetching": "pulling 40%"} in heard, 20)
                eventually(lambda: "fetching: one is there" in stream.getvalue(), 20)
                eventually(lambda: heard[-1] == {}, 20)
    finally:
        docker("rm", "-f", "-v", name, check=False)
    assert "pulling" not in stream.getvalue().replace("stack", ""), "details have no line of their own"
