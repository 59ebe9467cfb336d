"""The locally built images on the real engine: each keeps the contract its recipe states.

What this does not prove: that the official image behaves the same. The contracts are written from its
documentation; the stack's own live tests run on whichever source was chosen.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airgap import images
from airgap.images import Recipe, build, engine
from airgap.registry import Registry

pytestmark = pytest.mark.live

RECIPES = {recipe.name: recipe for recipe in images.recipes() if not recipe.is_base}
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"]
HOSTILE = {
    "quotes": 'it\'s "quoted" `id` $(id) ${HOME} $$',
    "backslashes": r"back\slash \n \\ \0 %s",
    "unicode": "pässwörd ✓ 密码 🔑",
    "line break inside": "first\nsecond\r\nthird",
    "looks like options": "--help; -c x=y # :'name' :\"name\" ; drop table",
}

Ref = Callable[[str], str]


@pytest.fixture(scope="module")
def ref() -> Ref:
    """ref(name): the image's reference; built first where it is missing."""
    return lambda name: images.ensure([name])[name].reference


@dataclass
class Sandbox:
    """Containers, volumes and a network of one test, gone afterwards."""

    prefix: str = field(default_factory=lambda: f"kit-test-{uuid.uuid4().hex[:8]}")
    containers: list[str] = field(default_factory=list[str])
    volumes: list[str] = field(default_factory=list[str])
    networks: list[str] = field(default_factory=list[str])

    def volume(self, name: str) -> str:
        full = f"{self.prefix}-{name}"
        engine.run(["volume", "create", full])
        self.volumes.append(full)
        return full

    def network(self) -> str:
        if not self.networks:
            engine.run(["network", "create", self.prefix])
            self.networks.append(self.prefix)
        return self.networks[0]

    def start(self, name: str, image: str, *options: str, command: tuple[str, ...] = ()) -> str:
        full = f"{self.prefix}-{name}"
        self.containers.append(full)
        engine.run(
            [
                "run",
                "-d",
                "--name",
                full,
                "--network",
                self.network(),
                "--network-alias",
                name,
                *options,
                image,
                *command,
            ]
        )
        return full

    def remove(self) -> None:
        for kind, names in (("container", self.containers), ("volume", self.volumes), ("network", self.networks)):
            for name in names:
                force = ["--force"] if kind != "network" else []
                subprocess.run([engine.docker(), kind, "rm", *force, name], capture_output=True, check=False)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    try:
        yield made
    finally:
        made.remove()


def inside(container: str, *command: str, **environment: str) -> str:
    """Run a command in a container, with variables that never become arguments of ours."""
    options = [part for name in environment for part in ("--env", name)]
    result = subprocess.run(
        [engine.docker(), "exec", *options, container, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise engine.EngineError(result.stderr.strip() or result.stdout.strip() or f"exit {result.returncode}")
    return result.stdout.strip()


def wait_for(container: str, *probe: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            inside(container, *probe)
            return
        except engine.EngineError as error:
            running = engine.run(["inspect", "--format", "{{.State.Running}}", container]).strip() == "true"
            if not running or time.monotonic() > deadline:
                logs = subprocess.run(
                    [engine.docker(), "logs", "--tail", "30", container], capture_output=True, check=False
                )
                pytest.fail(f"{container}: {error}\n{(logs.stdout + logs.stderr).decode(errors='replace')}")
            time.sleep(0.25)


def failure(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a container that is expected to end by itself."""
    result = subprocess.run([engine.docker(), "run", "--rm", *arguments], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def http_probe(port: int, path: str) -> tuple[str, ...]:
    """Without curl: bash speaks TCP."""
    return (
        "bash",
        "-c",
        f"exec 3<>/dev/tcp/127.0.0.1/{port}; "
        f'printf "GET {path} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" >&3; grep -q " 200" <&3',
    )


# ------------------------------------------------------------------------------- what every image keeps


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_the_image_is_configured_as_its_contract_says(recipe: Recipe, ref: Ref) -> None:
    contract = recipe.contract
    assert contract is not None
    (found,) = json.loads(engine.run(["image", "inspect", ref(recipe.name)]))
    config: dict[str, Any] = found["Config"]
    assert (config.get("User") or "") == contract.user
    assert tuple(config.get("Entrypoint") or ()) == contract.entrypoint
    assert tuple(config.get("Cmd") or ()) == contract.cmd
    assert tuple(sorted(config.get("ExposedPorts") or {})) == tuple(sorted(contract.ports))
    assert tuple(sorted(config.get("Volumes") or {})) == tuple(sorted(contract.volumes))
    assert (config.get("StopSignal") or "") == contract.stop_signal
    assert (config.get("WorkingDir") or "").rstrip("/") == contract.workdir.rstrip("/")
    environment = dict(item.split("=", 1) for item in config["Env"])
    assert contract.env.items() <= environment.items()
    labels: dict[str, str] = config["Labels"]
    assert "not the official image" in labels["org.opencontainers.image.description"]
    assert labels["org.opencontainers.image.version"] == recipe.version
    assert labels["aikit.recipe-hash"] == images.content_hash(recipe)
    assert [item.split("=")[0] for item in labels["aikit.packages"].split()] == list(recipe.packages)
    assert not [name for name in environment if "CERT" in name or "CA_" in name]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_programs_and_files_of_the_contract_are_there(recipe: Recipe, ref: Ref) -> None:
    contract = recipe.contract
    assert contract is not None
    script = 'for x in $PROGRAMS; do command -v "$x" >/dev/null || echo "program $x"; done;'
    script += 'for x in $FILES; do [ -e "$x" ] || echo "file $x"; done; [ ! -e /run/aikit ] || echo left over'
    options = ["--rm", "--network", "none", "--entrypoint", "sh"]
    options += ["-e", f"PROGRAMS={' '.join(contract.programs)}", "-e", f"FILES={' '.join(contract.files)}"]
    assert engine.run(["run", *options, ref(recipe.name), "-c", script]).split("\n") == [""]


# --------------------------------------------------------------------- hardened, as the platform runs them


@dataclass(frozen=True, kw_only=True)
class Run:
    """How an image is started hardened, and how one sees that it works."""

    name: str
    user: str
    uid: str
    probe: tuple[str, ...]
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    data: str = ""
    seconds: float = 180
    stop_code: int = 0


RUNS = (
    Run(
        name="tools",
        user="65534:65534",
        uid="65534",
        probe=("true",),
        command=("sleep", "600"),
        stop_code=137,
    ),
    Run(
        name="postgres",
        user="999:999",
        uid="999",
        probe=("pg_isready", "-q", "-h", "127.0.0.1"),
        options=("--tmpfs", "/var/run/postgresql", "-e", "POSTGRES_PASSWORD=x"),
        data="/var/lib/postgresql/data",
    ),
    Run(name="redis", user="999:999", uid="999", probe=("redis-cli", "ping"), data="/data"),
    Run(name="haproxy", user="", uid="99", probe=http_probe(8080, "/"), data="/usr/local/etc/haproxy"),
    Run(
        name="ollama",
        user="1000:1000",
        uid="1000",
        probe=("ollama", "list"),
        options=("-e", "HOME=/tmp", "-e", "OLLAMA_MODELS=/tmp/models"),
        stop_code=0,
    ),
    Run(
        name="open-webui",
        user="1000:1000",
        uid="1000",
        probe=("curl", "-fsS", "http://127.0.0.1:8080/ready"),
        options=(
            *("-e", "HOME=/app/backend/data/home", "-e", "STATIC_DIR=/app/backend/data/static"),
            *("-e", "WEBUI_SECRET_KEY=kit-test", "-e", "RAG_EMBEDDING_ENGINE=ollama"),
        ),
        data="/app/backend/data",
        seconds=600,
    ),
)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_it_runs_hardened_and_stops_when_told(run: Run, ref: Ref, sandbox: Sandbox) -> None:
    options = [*HARDENED, "--tmpfs", "/tmp", *run.options]
    if run.user:
        options += ["--user", run.user]
    if run.data:
        volume = sandbox.volume("data")
        options += ["-v", f"{volume}:{run.data}"]
        if run.name == "haproxy":
            config = "defaults\\n mode http\\n timeout client 5s\\n timeout connect 5s\\n timeout server 5s\\n"
            config += "frontend web\\n bind :8080\\n http-request return status 200\\n"
            write = f"printf '{config}' > /config/haproxy.cfg && chown 99:99 /config/haproxy.cfg"
            engine.run(["run", "--rm", "-v", f"{volume}:/config", ref("tools"), "sh", "-c", write])
    container = sandbox.start(run.name, ref(run.name), *options, command=run.command)
    wait_for(container, *run.probe, seconds=run.seconds)
    status = inside(container, "cat", "/proc/1/status")
    assert f"\nUid:\t{run.uid}\t" in status
    assert "CapEff:\t0000000000000000" in status
    started = time.monotonic()
    engine.run(["stop", "--time", "3" if run.name == "tools" else "60", container])
    assert time.monotonic() - started < 50
    assert engine.run(["inspect", "--format", "{{.State.ExitCode}}", container]).strip() == str(run.stop_code)


def test_keycloak_starts_on_postgres_without_building_again(ref: Ref, sandbox: Sandbox) -> None:
    database = sandbox.start("db", ref("postgres"), "-e", "POSTGRES_PASSWORD=pw", "-e", "POSTGRES_USER=keycloak")
    wait_for(database, "pg_isready", "-q", "-h", "127.0.0.1")
    options = [*HARDENED, "--tmpfs", "/tmp", "--tmpfs", "/opt/keycloak/data:uid=1000", "--memory", "1g"]
    for setting in (
        "KC_DB_URL=jdbc:postgresql://db/keycloak",
        "KC_DB_USERNAME=keycloak",
        "KC_DB_PASSWORD=pw",
        "KC_HTTP_ENABLED=true",
        "KC_HOSTNAME=https://auth.kit.localhost:8443",
        "KC_CACHE=local",
    ):
        options += ["-e", setting]
    container = sandbox.start("keycloak", ref("keycloak"), *options, command=("start", "--optimized"))
    wait_for(container, *http_probe(9000, "/health/ready"), seconds=900)
    wait_for(container, *http_probe(9000, "/metrics"))
    assert "\nUid:\t1000\t" in inside(container, "cat", "/proc/1/status")
    logs = subprocess.run([engine.docker(), "logs", container], capture_output=True, check=True)
    assert b"augmentation" not in logs.stdout + logs.stderr


# --------------------------------------------------------------------------------------------- PostgreSQL


@pytest.mark.parametrize("password", HOSTILE.values(), ids=HOSTILE.keys())
def test_postgres_keeps_every_byte_of_a_hostile_password(password: str, ref: Ref, sandbox: Sandbox) -> None:
    options = ["--env", "POSTGRES_PASSWORD", "--env", "POSTGRES_USER=kit", "--env", "POSTGRES_DB=a \"b' c"]
    name = f"{sandbox.prefix}-db"
    sandbox.containers.append(name)
    subprocess.run(
        [engine.docker(), "run", "-d", "--name", name, "--network", sandbox.network(), *options, ref("postgres")],
        env={**os.environ, "POSTGRES_PASSWORD": password},
        check=True,
        capture_output=True,
    )
    wait_for(name, "pg_isready", "-q", "-h", "127.0.0.1")
    address = engine.run(
        ["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name]
    ).strip()
    psql = ("psql", "-h", address, "-U", "kit", "-d", "a \"b' c", "-Atc", "show server_encoding")
    assert inside(name, *psql, PGPASSWORD=password) == "UTF8"
    with pytest.raises(engine.EngineError, match="password authentication failed"):
        inside(name, *psql, PGPASSWORD=password[:-1])
    # What the server hands to its children is what it has.
    sql = "create temp table e (line text); copy e from program 'env'; select line from e where line like 'P%'"
    environment = inside(name, "psql", "-qU", "kit", "-d", "postgres", "-Atc", sql)
    assert "PGDATA=" in environment
    assert "POSTGRES_PASSWORD" not in environment


def test_postgres_refuses_what_the_official_image_refuses(ref: Ref) -> None:
    image = ref("postgres")
    code, words = failure("-e", "POSTGRES_PASSWORD=a", "-e", "POSTGRES_PASSWORD_FILE=/x", image)
    assert (code, "both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are set" in words) == (1, True)
    code, words = failure(image)
    assert (code, "the superuser has no password" in words) == (1, True)


def test_postgres_runs_init_files_once_and_reads_secrets_from_files(ref: Ref, sandbox: Sandbox) -> None:
    init, secrets, data = sandbox.volume("init"), sandbox.volume("secrets"), sandbox.volume("data")
    script = (
        "printf pw >/secrets/password; cd /init; echo 'create table a (n int); insert into a values (1);' >1.sql;"
        "echo 'insert into a values (2);' | gzip >2.sql.gz;"
        'printf \'psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "insert into a values (3)"\' >3.sh'
    )
    engine.run(["run", "--rm", "-v", f"{init}:/init", "-v", f"{secrets}:/secrets", ref("tools"), "sh", "-c", script])
    options = ["-e", "POSTGRES_PASSWORD_FILE=/secrets/password", "-v", f"{init}:/docker-entrypoint-initdb.d:ro"]
    options += ["-v", f"{secrets}:/secrets:ro", "-v", f"{data}:/var/lib/postgresql/data"]
    container = sandbox.start("db", ref("postgres"), *options)
    query = ("psql", "-U", "postgres", "-Atc", "select string_agg(n::text, ',') from a")
    for _ in range(2):
        wait_for(container, "pg_isready", "-q", "-h", "127.0.0.1")
        assert inside(container, *query) == "1,2,3"
        engine.run(["restart", container])


@pytest.mark.parametrize("after", [0.3, 0.8, 1.5])
def test_postgres_begins_again_after_an_interrupted_initialisation(after: float, ref: Ref, sandbox: Sandbox) -> None:
    data, init = sandbox.volume("data"), sandbox.volume("init")
    slow = "echo 'create table half (n int); select pg_sleep(2); create table done (n int);' >/init/1.sql"
    engine.run(["run", "--rm", "-v", f"{init}:/init", ref("tools"), "sh", "-c", slow])
    options = ["-v", f"{data}:/var/lib/postgresql/data", "-v", f"{init}:/docker-entrypoint-initdb.d:ro"]
    container = sandbox.start("db", ref("postgres"), *options, "-e", "POSTGRES_PASSWORD=x")
    time.sleep(after)
    engine.run(["kill", container])
    engine.run(["start", container])
    wait_for(container, "pg_isready", "-q", "-h", "127.0.0.1")
    assert inside(container, "psql", "-U", "postgres", "-Atc", "select count(*) from half, done") == "0"
    assert "aikit" not in inside(container, "ls", "-a", "/var/lib/postgresql/data")


def test_postgres_has_pgvector(ref: Ref, sandbox: Sandbox) -> None:
    container = sandbox.start("db", ref("postgres"), "-e", "POSTGRES_PASSWORD=x")
    wait_for(container, "pg_isready", "-q", "-h", "127.0.0.1")
    sql = "create extension vector; select '[1,2]'::vector <-> '[4,6]'"
    assert inside(container, "psql", "-qU", "postgres", "-Atc", sql) == "5"


# ------------------------------------------------------------------------------------ Ollama and its models


@pytest.mark.parametrize("cache", ["f16", "q8_0"])  # as on dev, and as on pi and gpu
def test_tiny_models_are_really_run(ref: Ref, sandbox: Sandbox, cache: str) -> None:
    conversation = ("-e", f"OLLAMA_KV_CACHE_TYPE={cache}", "-e", f"OLLAMA_FLASH_ATTENTION={int(cache != 'f16')}")
    server = sandbox.start("ollama", ref("ollama"), "--user", "1000:1000", "-e", "HOME=/tmp", *conversation)
    wait_for(server, "ollama", "list")
    create = ["run", "--rm", *HARDENED, "--tmpfs", "/tmp", "--network", sandbox.network(), ref("tiny-models")]
    engine.run(create)
    engine.run([*create, "kit-tiny-chat"])

    def ask(path: str, body: dict[str, object]) -> dict[str, Any]:
        request = json.dumps(body)
        post = ["wget", "-q", "-O", "-", "--header", "Content-Type: application/json", "--post-data", request]
        return json.loads(
            engine.run(
                ["run", "--rm", "--network", sandbox.network(), ref("tools"), *post, f"http://ollama:11434{path}"]
            )
        )

    def generate(model: str) -> dict[str, Any]:
        options = {"temperature": 0, "seed": 1, "num_predict": 12}
        return ask("/api/generate", {"model": model, "prompt": "hello world", "stream": False, "options": options})

    first, again, other = generate("kit-tiny-chat"), generate("kit-tiny-chat"), generate("kit-tiny-chat-b")
    assert first["eval_count"] == 12
    assert first["response"] == again["response"]
    assert first["response"] != other["response"]
    vectors = ask("/api/embed", {"model": "kit-tiny-embed", "input": ["hello world", "zebra"]})["embeddings"]
    assert [len(vector) for vector in vectors] == [768, 768]
    assert vectors[0] != vectors[1]


# -------------------------------------------------------------------------------------- pulls, and the builder


def test_a_pull_by_digest_from_a_real_registry(ref: Ref, tmp_path: Path) -> None:
    image = ref("tools")
    with Registry(tmp_path / "registry") as registry:
        pinned = registry.push(image, "kit/tools", "1")
        assert pinned.startswith(f"localhost:{registry.port}/kit/tools@sha256:")
        assert registry.digest("kit/tools", "1") == pinned.partition("@")[2]
        try:
            engine.run(["pull", "--quiet", pinned])
            assert engine.run(["run", "--rm", pinned, "echo", "pulled"]).strip() == "pulled"
            with pytest.raises(engine.EngineError):
                engine.run(["pull", "--quiet", pinned[:-4] + "0000"])
        finally:
            subprocess.run([engine.docker(), "image", "rm", pinned], capture_output=True, check=False)
    with pytest.raises(engine.EngineError):
        engine.run(["pull", "--quiet", f"{pinned}"])
    assert engine.present([image])


def test_what_is_there_is_not_built_again() -> None:
    images.ensure()
    started = time.monotonic()
    built = images.ensure()
    seconds = time.monotonic() - started
    assert {image.how for image in built.values()} == {"present"}
    assert set(built) == {recipe.name for recipe in images.recipes()}
    # 0.1 s on an idle machine with two cores; the rest is room for a busy one.
    assert seconds < 2


def test_a_failed_build_shows_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images" / "broken"
    folder.mkdir(parents=True)
    source = RECIPES["tools"].folder
    data = json.loads((source / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**data, "name": "broken"}))
    (folder / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN echo the-last-words && exit 3\n")
    base = tmp_path / "images" / "base-trixie"
    base.mkdir()
    (base / "recipe.json").write_bytes((source.parent / "base-trixie" / "recipe.json").read_bytes())
    known = {recipe.name: recipe for recipe in images.recipes(tmp_path / "images")}
    images.ensure(["base-trixie"])
    monkeypatch.setattr(build, "recipes", lambda: tuple(known.values()))
    monkeypatch.setattr(build, "by_name", lambda: known)
    with pytest.raises(build.BuildError) as caught:
        build.ensure(["broken"])
    assert "the-last-words" in str(caught.value)
    assert str(build.cache_root() / "broken" / "build.log") in str(caught.value)
