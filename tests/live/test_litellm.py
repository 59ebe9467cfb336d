"""The unified API on its real images: LiteLLM in front of a real Ollama, with Keycloak's logins and hostile secrets.

Proves that people's keys and tokens open the models and nothing else, that answers are Ollama's, that rates, counts and
the cache are per person, and what happens when the models or the login are gone. The cloud is a stand-in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from ops import frontdoor
from stack.derive import models
from tests.live import standing, trial
from tests.live.standing import Standing, inside
from tests.live.trial import HOSTILE, docker

pytestmark = pytest.mark.live

MODEL, OTHER = models.TINY_CHAT
CLOUD_KEY = "sk-standin-" + "k%[env(HOME)]\"'é"  # a key may hold what HAProxy's own language is made of
CLOUD_MODEL = "standin-model"
RATE = 40


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing.stack(
        "api",
        tmp_path_factory.mktemp("authority"),
        *("api", "cloud"),
        plain=lambda key: key.name in ("session-key", "master-key") or key.owner == "openai",
        provided_secrets=frozenset({"openaiApiKey"}),
        openai_url="https://standin-openai:8443/compatible/v1",
        openai_models=(CLOUD_MODEL,),
        api_requests_per_minute=RATE,
        api_webhook="http://standin-openai:8081/told",
        start=False,
        http_port=18622,
        https_port=18623,
        admin_port=18624,
    ) as made:
        made.trial.values.update({key: CLOUD_KEY for key in _keys(made) if key.owner == "openai"})
        made.trial.up()
        made.make_realm()
        made.settle()
        yield made


def _keys(made: Standing) -> list[Any]:
    return [secret.key for secret in made.plan.secrets]


@pytest.fixture(scope="module")
def person(api: Standing) -> httpx.Client:
    """Somebody with an account, in a browser at the page where keys are made."""
    return _browser(api, "ann")


def _browser(api: Standing, name: str) -> httpx.Client:
    _account(api, name)
    visitor = frontdoor.browser(api.plan.settings.domain, "127.0.0.1", api.outputs.ca_pem)
    login = frontdoor.log_in(visitor, api.outputs.urls["api"] + "/me/login", api.outputs.issuer, name, "correct horse")
    assert login.response.status_code == 200 and "Keys for the unified API" in login.response.text
    visitor.base_url = api.outputs.urls["api"]
    visitor.headers["Origin"] = api.outputs.urls["api"]
    return visitor


def _account(api: Standing, name: str) -> None:
    from ops.identity import Administration
    from stack.proofs.context import Person

    with frontdoor.browser(api.plan.settings.domain, "127.0.0.1", api.outputs.ca_pem) as client:
        administration = Administration(client, api.outputs.admin_url, api.outputs)
        administration.create(Person(username=name, email=f"{name}@kit.localhost"), "correct horse")


def _client(api: Standing, key: str) -> httpx.Client:
    client = frontdoor.browser(api.plan.settings.domain, "127.0.0.1", api.outputs.ca_pem)
    client.base_url = api.outputs.urls["api"]
    client.headers["Authorization"] = f"Bearer {key}"
    return client


def _make(person: httpx.Client, **wish: Any) -> dict[str, Any]:
    made = person.post("/me/keys", json={"label": "a test's", "days": 1, **wish})
    assert made.status_code == 201, made.text
    return made.json()


def _question(model: str = MODEL, text: str = "What is the colour of the sky?", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0, "seed": 7, "max_tokens": 12, **more}


def _text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def _sql(api: Standing, query: str) -> str:
    psql = ("psql", "-h", "/var/run/postgresql", "-U", "postgres", "-d", "litellm", "-Atc", query)
    return docker("exec", api.name("postgres"), *psql)


def _used(person: httpx.Client, model: str = MODEL) -> dict[str, int]:
    rows = [row for row in person.get("/me/usage").json() if row["model"] == model]
    return {name: sum(row[name] for row in rows) for name in ("requests", "cached", "limited", "completion_tokens")}


def test_the_answer_is_ollamas(api: Standing, person: httpx.Client) -> None:
    made = _make(person)
    program = f"""
import json, urllib.request
question = {{"model": "{MODEL}", "messages": [{{"role": "user", "content": "What is the colour of the sky?"}}],
            "stream": False, "options": {{"temperature": 0, "seed": 7, "num_predict": 12}}}}
request = urllib.request.Request("http://ollama-queue:11435/api/chat", data=json.dumps(question).encode())
print(json.load(urllib.request.urlopen(request, timeout=300))["message"]["content"], end="")
"""
    direct = inside(api.name("litellm"), program)
    with _client(api, made["key"]) as client:
        answer = client.post("/v1/chat/completions", json=_question())
        assert _text(answer) == direct and direct
        assert answer.json()["usage"]["completion_tokens"] == 12
        other = client.post("/v1/chat/completions", json=_question(OTHER))
        assert _text(other) != direct, "models with different weights gave the same answer"


def test_it_is_proven_and_nothing_stays_behind(api: Standing) -> None:
    for _ in range(2):
        holds, text = api.prove()
        assert holds, text
    assert "kit-prove-" not in _sql(api, "SELECT name FROM people UNION SELECT label FROM keys")
    assert _sql(api, "SELECT count(*) FROM keys WHERE label LIKE '%proof'").strip() == "0"


def test_the_store_on_a_real_database(api: Standing) -> None:
    program = Path(__file__).with_name("api_store.py").read_text(encoding="utf-8")
    held = inside(api.name("litellm"), program).splitlines()
    assert len(held) == program.count("\ndef check_") > 10, held


def test_the_persons_rate_holds_for_all_keys_together(api: Standing) -> None:
    bob = _browser(api, "bob")
    keys = [_make(bob)["key"] for _ in range(2)]
    statuses: list[int] = []
    for number in range(2 * RATE + 2):
        with _client(api, keys[number % 2]) as client:
            statuses.append(client.post("/v1/chat/completions", json=_question()).status_code)
    # A minute may turn meanwhile, once.
    assert statuses[:RATE] == [200] * RATE, statuses
    assert 429 in statuses and set(statuses) == {200, 429}, statuses
    trial.eventually(lambda: _used(bob)["limited"] == statuses.count(429), 30)
    assert _used(bob)["requests"] == statuses.count(200)
    assert _used(bob)["cached"] >= RATE - 1
    with _client(api, keys[0]) as client:
        refused = client.post("/v1/chat/completions", json=_question())
        if refused.status_code == 429:
            assert int(refused.headers["retry-after"]) <= 61


def test_a_token_of_the_login_opens_the_models_too(api: Standing) -> None:
    token = _token(api, "ann", "litellm")
    with _client(api, token) as client:
        assert _text(client.post("/v1/chat/completions", json=_question()))
        assert {row["id"] for row in client.get("/v1/models").json()["data"]} >= {MODEL, OTHER, models.TINY_EMBEDDING}
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "somebody else"}).encode()).rstrip(b"=").decode()
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    for bad in (f"{head}.{forged}.{signature}", f"{unsigned}.{body}.", f"{head}.{body}.{'A' * len(signature)}"):
        with _client(api, bad) as client:
            assert client.post("/v1/chat/completions", json=_question()).status_code == 401


def test_an_id_token_and_another_applications_token_open_nothing(api: Standing) -> None:
    for bad in (_token(api, "ann", "litellm", kind="id_token"), _token(api, "ann", "account-console")):
        with _client(api, bad) as client:
            assert client.post("/v1/chat/completions", json=_question()).status_code == 401


def _token(api: Standing, name: str, client_id: str, kind: str = "access_token") -> str:
    """By the authorization code flow, as the client itself would."""
    issuer, url = api.outputs.issuer, api.outputs.urls["api"]
    redirect = f"{issuer}/account/" if client_id == "account-console" else f"{url}/me/callback"
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "client_id": client_id,
        "redirect_uri": redirect,
        "response_type": "code",
        "scope": "openid",
        "state": "s",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    with frontdoor.browser(api.plan.settings.domain, "127.0.0.1", api.outputs.ca_pem) as visitor:
        start = f"{issuer}/protocol/openid-connect/auth?{urlencode(query)}"
        answer = frontdoor.authorize(visitor, start, issuer, name, "correct horse")
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "client_id": client_id, "redirect_uri": redirect, "code": code}
        if client_id != "account-console":
            form["client_secret"] = api.trial.secret("litellm", "oidc")
        granted = visitor.post(f"{issuer}/protocol/openid-connect/token", data={**form, "code_verifier": verifier})
        return granted.raise_for_status().json()[kind]


def test_keys_administer_nothing_even_from_inside(api: Standing, person: httpx.Client) -> None:
    key = _make(person)["key"]
    program = f"""
import urllib.error, urllib.request
for method, path in (("POST", "/key/generate"), ("GET", "/model/info"), ("GET", "/health"), ("POST", "/config/update"),
                     ("GET", "/spend/logs"), ("POST", "/chat/completions"), ("POST", "/ollama/api/generate")):
    request = urllib.request.Request("http://127.0.0.1:4000" + path, data=b"{{}}" if method == "POST" else None,
        method=method, headers={{"Authorization": "Bearer {key}", "Content-Type": "application/json"}})
    try:
        print(urllib.request.urlopen(request, timeout=60).status, path)
    except urllib.error.HTTPError as error:
        print(error.code, path)
"""
    answers = inside(api.name("litellm"), program).splitlines()
    assert len(answers) == 7 and not [line for line in answers if line.split()[0] not in ("401", "403", "404")], answers


def test_no_secret_is_in_a_log_or_in_inspect(api: Standing, person: httpx.Client) -> None:
    key = _make(person)["key"]
    with _client(api, key) as client:
        client.post("/v1/chat/completions", json=_question(text="a word that nobody else writes: varnholtish"))
        client.post("/v1/chat/completions", json=_question("no-such-model"))
    master = api.trial.secret("litellm", "master-key")
    for name in ("litellm", "openai", "ollama-queue", "haproxy"):
        for text in (docker("logs", api.name(name), check=False), docker("inspect", api.name(name))):
            for needle in (
                HOSTILE[:12],
                json.dumps(HOSTILE)[1:13],
                key,
                key[7:],
                master,
                CLOUD_KEY[:15],
                "varnholtish",
            ):
                assert needle not in text, f"{name} shows {needle[:8]}"


def test_others_do_not_share_a_cache_or_keys(api: Standing, person: httpx.Client) -> None:
    carol = _browser(api, "carol")
    hers, his = _make(carol), _make(person)
    asked = _question(text=f"a question of two {secrets.token_hex(4)}")
    for key in (hers["key"], his["key"], his["key"]):
        with _client(api, key) as client:
            assert _text(client.post("/v1/chat/completions", json=asked))
    trial.eventually(lambda: _used(carol)["requests"] == 1, 30)
    assert _used(carol)["cached"] == 0, "an answer to somebody else came from the cache"
    assert carol.delete(f"/me/keys/{his['id']}").status_code == 404
    assert carol.get("/me/usage?everybody=true").status_code == 403
    assert {row["label"] for row in carol.get("/me/keys").json()} == {"a test's"}


def test_administrators_see_everybody_and_end_the_keys_of_who_left(api: Standing) -> None:
    dave = _browser(api, "dave")
    key = _make(dave)["key"]
    visitor = frontdoor.browser(api.plan.settings.domain, "127.0.0.1", api.outputs.ca_pem)
    start = api.outputs.urls["api"] + "/me/login"
    frontdoor.log_in(visitor, start, api.outputs.issuer, "admin-user", "correct horse")
    visitor.base_url, visitor.headers["Origin"] = api.outputs.urls["api"], api.outputs.urls["api"]
    people = {row["name"]: row for row in visitor.get("/me/people").json()}
    assert people["dave"]["keys"] == 1
    assert visitor.delete(f"/me/people/{people['dave']['sub']}").status_code == 204
    with _client(api, key) as client:
        assert client.get("/v1/models").status_code == 401


def test_the_swagger_page_shows_what_there_is_for_people(api: Standing) -> None:
    visitor = frontdoor.browser(api.plan.settings.domain, "127.0.0.1", api.outputs.ca_pem)
    visitor.base_url = api.outputs.urls["api"]
    page = visitor.get("/")
    assert page.status_code == 200 and "swagger" in page.text.lower()
    from html.parser import HTMLParser

    class Files(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [
                value or "" for name, value in attrs if name in ("src", "href") and tag in ("script", "link")
            ]

    files = Files()
    files.feed(page.text)
    own = [file for file in files.found if not file.startswith(("http://", "https://"))]
    assert [visitor.get(file).status_code for file in own] == [200] * len(own) and own
    schema = visitor.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/models", "/me/keys"} <= set(schema["paths"])
    assert not [path for path in schema["paths"] if not path.startswith(("/v1/", "/me"))]
    assert len(json.dumps(schema)) < 1_000_000


def test_metrics_are_inside_only_and_name_people_and_models_that_are_there(api: Standing, person: httpx.Client) -> None:
    with _client(api, _make(person)["key"]) as client:
        _text(client.post("/v1/chat/completions", json=_question(text=f"a question {secrets.token_hex(4)}")))
        client.post("/v1/chat/completions", json=_question("no-such-model"), headers={"User-Agent": "strange-browser"})
    with _client(api, "sk-kit-nobodys") as stranger:
        stranger.post("/v1/chat/completions", json=_question("strangers-model"))
    program = 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:4000/metrics").read().decode())'
    answered = f'kit_api_requests_total{{model="{MODEL}",outcome="answered",person="ann"}}'
    trial.eventually(lambda: answered in inside(api.name("litellm"), program), 30)
    text = inside(api.name("litellm"), program)
    assert f'kit_api_seconds_count{{model="{MODEL}"}}' in text
    assert not [word for word in ("no-such-model", "strangers-model", "strange-browser") if word in text]
    assert len(text) < 100_000
    assert person.get("/metrics").status_code == 403


def test_without_its_database_it_says_so_and_comes_back_by_itself(api: Standing, person: httpx.Client) -> None:
    key = _make(person)["key"]
    with _client(api, key) as client:
        docker("stop", api.name("postgres"))
        try:
            answer = client.post("/v1/chat/completions", json=_question(), timeout=60)
            assert answer.status_code == 503 and "try again" in answer.text, answer.text
        finally:
            docker("start", api.name("postgres"))
            api.restarted("postgres")
        trial.eventually(lambda: client.get("/v1/models").status_code == 200, 60)


def test_it_starts_without_the_login_service_and_keys_go_on(api: Standing, person: httpx.Client) -> None:
    key = _make(person)["key"]
    docker("stop", api.name("keycloak"))
    try:
        docker("restart", api.name("litellm"))
        api.restarted("litellm")
        with _client(api, key) as client:
            trial.eventually(lambda: client.get("/v1/models").status_code == 200, 60)
            assert _text(client.post("/v1/chat/completions", json=_question()))
        with _client(api, "a.b.c") as client:
            assert client.get("/v1/models").status_code in (401, 503)
    finally:
        docker("start", api.name("keycloak"))
        api.restarted("keycloak")


def test_without_the_cache_it_answers_all_the_same(api: Standing, person: httpx.Client) -> None:
    key = _make(person)["key"]
    docker("stop", api.name("redis"))
    try:
        with _client(api, key) as client:
            assert _text(client.post("/v1/chat/completions", json=_question(text="without a cache"), timeout=120))
    finally:
        docker("start", api.name("redis"))


STANDIN = """
import json, ssl, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        print(json.dumps([self.path, dict(self.headers), body]), flush=True)
        if self.path == "/told":
            answer = {}
        else:
            message = {"role": "assistant", "content": "the stand-in answers"}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body.get("model"),
                      "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                      "usage": {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_): pass

plain = ThreadingHTTPServer(("", 8081), Handler)
threading.Thread(target=plain.serve_forever, daemon=True).start()
server = ThreadingHTTPServer(("", 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/leaf.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture
def cloud(api: Standing, tmp_path: Path) -> Iterator[str]:
    """standin-openai: answers like OpenAI, with a certificate of the stack's CA, and writes down what it is asked.

    It stands in the app zone: members of the egress network do not reach each other, and there is no internet here.
    """

    folder = api.trial.authority.folder
    other = tmp_path / "certificate"
    other.mkdir()
    for name in ("ca.key", "ca.pem", "ca.srl"):
        if (folder / name).exists():
            (other / name).write_bytes((folder / name).read_bytes())
    _certificate(other, "standin-openai")
    name = "kit-api-standin-openai"
    docker("rm", "-f", "-v", name, check=False)
    argv = ["create", "--name", name, "--network", "kit-api-app", "--network-alias", "standin-openai"]
    docker(*argv, "--entrypoint", "python3", api.image("litellm"), "-u", "/tmp/standin.py")
    (other / "standin.py").write_text(STANDIN)
    docker("cp", str(other / "leaf.pem"), f"{name}:/tmp/leaf.pem")
    docker("cp", str(other / "standin.py"), f"{name}:/tmp/standin.py")
    docker("start", name)
    try:
        yield name
    finally:
        docker("rm", "-f", "-v", name)


def _certificate(folder: Path, host: str) -> None:
    import subprocess

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True)

    (folder / "leaf.ext").write_text(f"subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-new", *curve, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=standin")
    signed = ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl(*signed, "-days", "20", "-out", "leaf.crt", "-extfile", "leaf.ext")
    (folder / "leaf.pem").write_text((folder / "leaf.key").read_text() + (folder / "leaf.crt").read_text())


def _asked(cloud: str) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    lines = docker("logs", cloud, check=False).splitlines()
    return [tuple(json.loads(line)) for line in lines if line.startswith("[")]  # pyright: ignore


def test_the_cloud_answers_by_its_name_and_where_the_local_models_fail(
    api: Standing, person: httpx.Client, cloud: str
) -> None:
    with _client(api, _make(person)["key"]) as client:
        trial.eventually(
            lambda: (
                client.post("/v1/chat/completions", json=_question(CLOUD_MODEL, cache={"no-cache": True})).status_code
                == 200
            ),
            30,
        )
        assert (
            _text(client.post("/v1/chat/completions", json=_question(text="local, while it can")))
            != "the stand-in answers"
        )
        docker("stop", api.name("ollama-queue"))
        try:
            fallen = client.post("/v1/chat/completions", json=_question(text="local, when it cannot"), timeout=120)
            assert _text(fallen) == "the stand-in answers"
        finally:
            docker("start", api.name("ollama-queue"))
    chats = [asked for asked in _asked(cloud) if asked[0] != "/told"]
    assert {path for path, _, _ in chats} == {"/compatible/v1/chat/completions"}
    for _, headers, body in chats:
        sent = {name.lower(): value for name, value in headers.items()}
        assert sent["authorization"].encode("latin-1").decode() == f"Bearer {CLOUD_KEY}"
        assert body["model"] == CLOUD_MODEL
        assert not [name for name in sent if name.startswith("x-") or name == "cookie"]
    api.trial.wait_healthy(next(c for c in api.trial.runtime.containers if c.name == api.name("ollama-queue")))


def test_nothing_else_gets_out_by_that_way(api: Standing, cloud: str) -> None:
    program = """
import urllib.error, urllib.request
for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models/../files", "/", "/v1/chat/completions/x"):
    try:
        print(urllib.request.urlopen("http://openai:8080" + path, timeout=20).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
    assert inside(api.name("litellm"), program).split() == ["403"] * 5
    out = 'import socket; socket.create_connection(("1.1.1.1", 443), 3)'
    with pytest.raises(RuntimeError, match=r"unreachable|timed out"):
        inside(api.name("litellm"), out)


def test_the_webhook_is_told_what_an_operator_wants_to_know(api: Standing, cloud: str) -> None:
    erin = _browser(api, "erin")
    key = _make(erin, rate=1)["key"]
    with _client(api, key) as client:
        for _ in range(3):
            client.post("/v1/chat/completions", json=_question())
    told = lambda: [body for path, _, body in _asked(cloud) if path == "/told" and body["person"] == "erin"]  # noqa: E731
    trial.eventually(lambda: {body["event"] for body in told()} >= {"key made", "limited"}, 30)
    assert len([body for body in told() if body["event"] == "limited"]) == 1, "one word a minute is enough"
    assert key not in json.dumps(told()) and all(body["text"] for body in told())


def test_times_and_memory_are_written_down(api: Standing) -> None:
    """No bound: what the documents say comes from here, on a machine that does nothing else."""
    for name in ("litellm", "openai"):
        print(f"{name} {api.trial.started[api.name(name)]:.1f} s {trial.memory_mb(api.name(name)):.0f} MB")
