"""The firewall on its real image between a real HAProxy and a small server that says what reached it.

Proves that attacks end there, that exclusions hold where they are meant and nowhere else, that what is let through
arrives as it was sent, streamed answers and websockets included, and that its log shows no secret. That people's
programs are not in its way is for the live tests of these: it stands in front of all of them.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ops import frontdoor
from stack import images
from stack.catalog import discover
from stack.derive import ingress, runtime, waf
from stack.model import (
    FREE_TEXT,
    Access,
    ContainerSpec,
    File,
    HealthCheck,
    Http,
    Port,
    Profile,
    RateClass,
    ResourceLimits,
    Role,
    Route,
    ServiceSpec,
    Target,
    Template,
    Waf,
    WafExclusion,
    Zone,
)
from stack.proofs.context import as_written
from stack.proofs.waf import ATTACKS, PROMPTS, SCANNER
from stack.settings import WafMode
from tests.live import standing, trial
from tests.live.kitclone import free_ports
from tests.live.standing import Standing
from tests.live.trial import docker

pytestmark = pytest.mark.live

STACK = "wafs"
SERVER = (Path(__file__).parent / "waf_echo.py").read_text(encoding="utf-8")
ECHO = ServiceSpec(
    name="echo",
    summary="Says what reached it",
    profiles=frozenset({Profile("echo", "A test")}),
    containers=(
        ContainerSpec(
            image=images.OPEN_WEBUI,  # for its Python
            user="1000:1000",
            zones=frozenset({Zone.APP}),
            ports=(Port("http", 8080),),
            entrypoint=("python3", "/run/kit/echo.py"),
            files=(File(name="echo.py", source=Template((SERVER,))),),
            health=HealthCheck(test=Http("http", "/")),
            limits={target: ResourceLimits(memory_mb=128, cpus=1, pids=64) for target in Target},
        ),
    ),
    routes=(
        Route(name="plain", port="http", access=Access.PUBLIC, rate=RateClass.BUNDLE, body_mb=2),
        Route(
            name="text",
            port="http",
            access=Access.PUBLIC,
            rate=RateClass.BUNDLE,
            websocket=True,
            streaming=True,
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS", targets=FREE_TEXT, paths=("/prompt", "/notes/"), reason="Text of the test"
                    ),
                    WafExclusion(rule="913100", paths=("/scanners",), reason="Scanners are welcome here"),
                ),
            ),
            body_mb=8,
        ),
    ),
)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    wanted = {Role.INGRESS, Role.FIREWALL}
    catalogue = (*(spec for spec in discover() if wanted & spec.roles), ECHO)
    http, https, admin = free_ports(3)
    with standing.stack(
        STACK,
        tmp_path_factory.mktemp("authority"),
        "echo",
        catalogue=catalogue,
        http_port=http,
        https_port=https,
        admin_port=admin,
    ) as running:
        running.settle()
        yield running


@pytest.fixture
def visitor(up: Standing) -> Iterator[httpx.Client]:
    with frontdoor.browser(up.plan.settings.domain, "127.0.0.1", up.outputs.ca_pem) as client:
        client.timeout = httpx.Timeout(120)
        yield client


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.headers.get(waf.REFUSED) == "refused"


def audit(up: Standing) -> list[dict[str, object]]:
    lines = docker("logs", up.name("waf"), check=False).splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"log":"waf"')]


def test_attacks_end_there_and_everything_else_goes_on(up: Standing, visitor: httpx.Client) -> None:
    for route in ("plain", "text"):
        url = up.outputs.urls[route]
        for name, text in ATTACKS.items():
            assert refused(visitor.get(f"{url}/x", params={"q": text})), name
            assert refused(visitor.post(f"{url}/x", json={"q": text})), f"{name} in JSON"
            assert refused(visitor.post(f"{url}/x", data={"q": text})), f"{name} in a form"
        assert refused(visitor.get(f"{url}/x", headers={"user-agent": SCANNER}))
        for method in ("GET", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
            body = {"name": "Zoë", "note": "see you at 5, it's fine"} if method[0] in "PD" else None
            answer = visitor.request(method, f"{url}/x", json=body)
            assert answer.status_code == 200 and answer.json()["method"] == method


def test_an_exclusion_holds_where_it_is_meant_and_nowhere_else(up: Standing, visitor: httpx.Client) -> None:
    text, plain = up.outputs.urls["text"], up.outputs.urls["plain"]
    for prompt in PROMPTS:
        # The names as well: to a rule about files, this one is a shell's.
        form = {"chat": {"history": {"messages": [{"role": "user", "content": prompt}]}}}
        for path in ("/prompt", "/notes/a/b"):
            assert visitor.post(f"{text}{path}", json=form).status_code == 200, prompt
        for url in (f"{text}/prompts", f"{text}/other", f"{plain}/prompt", f"{plain}/notes/a"):
            assert refused(visitor.post(url, json=form)), (url, prompt)
        for path in ("/notes/../other", "/notes/%2e%2e/other", "//prompt", "/notes/a%2f..%2fb"):
            assert refused(as_written(visitor, text, path, "POST", json=form)), (path, prompt)
    scanner = {"user-agent": SCANNER}
    assert visitor.get(f"{text}/scanners", headers=scanner).status_code == 200
    assert refused(visitor.get(f"{text}/scanners", headers=scanner, params={"q": ATTACKS["script in a page"]}))


def test_a_request_arrives_as_it_was_sent(up: Standing, visitor: httpx.Client) -> None:
    url = up.outputs.urls["text"]
    answer = as_written(
        visitor,
        url,
        "/a//b/%7Ec%20d?q=%41+b&empty=",
        headers={"x_odd_name": "kept", "X-Kit-Route": "plain", "X-Forwarded-For": "6.6.6.6", "cookie": "a=b; c=d"},
    )
    said = answer.json()
    assert said["path"] == "/a//b/%7Ec%20d?q=%41+b&empty="
    headers = said["headers"]
    assert headers["x_odd_name"] == "kept" and headers["cookie"] == "a=b; c=d"
    assert "x-kit-route" not in headers and "6.6.6.6" not in headers["x-forwarded-for"]
    assert headers["host"] == url.removeprefix("https://") and headers["x-forwarded-proto"] == "https"
    assert "server" not in answer.headers, "what the service says about itself is for nobody"


def test_sizes_are_those_of_the_route(up: Standing, visitor: httpx.Client) -> None:
    text, plain = up.outputs.urls["text"], up.outputs.urls["plain"]
    prompt = {"content": "select a model, then write " * 40_000}
    began = time.monotonic()
    assert visitor.post(f"{text}/prompt", json=prompt).json()["size"] > 1_000_000
    print(f"a prompt of 1 MB: {time.monotonic() - began:.2f} s")
    began = time.monotonic()
    assert visitor.post(f"{text}/other", json=prompt).status_code == 413, "text that would take seconds to look at"
    print(f"refused where it is not expected: {time.monotonic() - began:.2f} s")
    content = os.urandom(5 * 2**20)
    # More than is looked at, only where nothing would be looked for.
    for path, status in (("/notes/files", 200), ("/files", 413)):
        assert visitor.post(f"{text}{path}", files={"file": ("a.pdf", content)}).status_code == status
    assert visitor.post(f"{plain}/files", files={"file": ("a.pdf", content)}).status_code == 413
    smaller = content[: 3 * 2**20]
    assert visitor.post(f"{text}/files", files={"file": ("a.pdf", smaller, "application/pdf")}).status_code == 200
    attack = {"q": ATTACKS["script in a page"]}
    assert refused(visitor.post(f"{text}/files", data=attack, files={"file": ("a.pdf", smaller)}))
    before = {"expect": "100-continue"}
    assert visitor.post(f"{text}/notes/files", files={"file": ("a.pdf", smaller)}, headers=before).status_code == 200
    longer = {"content": "select a model, then write " * 180_000}
    assert visitor.post(f"{text}/prompt", json=longer).json()["size"] > 4_500_000
    assert visitor.post(f"{text}/other", json=longer).status_code == 413
    octets = {"content-type": "application/octet-stream"}
    raw = visitor.put(f"{text}/notes/a", content=content, headers=octets).json()
    assert raw["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_body_that_does_not_say_its_size_is_measured(up: Standing, visitor: httpx.Client) -> None:
    def parts(count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield b"a" * 2**16

    octets = {"content-type": "application/octet-stream"}
    url = f"{up.outputs.urls['plain']}/x"
    assert visitor.post(url, content=parts(16), headers=octets).json()["size"] == 2**20
    refusal = visitor.post(url, content=parts(48), headers=octets)
    assert refusal.status_code == 413 and refusal.headers[waf.REFUSED] == "refused"
    large = visitor.post(f"{up.outputs.urls['text']}/notes/a", content=parts(16 * 9), headers=octets)
    assert large.status_code == 413


def test_who_sends_a_little_and_then_nothing_takes_no_memory_from_others(up: Standing, visitor: httpx.Client) -> None:
    """Bodies that stop half way, over as many connections as one client has."""
    host, _, port = up.outputs.urls["text"].removeprefix("https://").partition(":")
    context = ssl.create_default_context(cadata=up.outputs.ca_pem)
    head = f"POST /prompt HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: test\r\nAccept: */*\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 200000\r\n\r\n"
    before = trial.memory_mb(up.name("waf"))
    with ExitStack() as held:
        for _ in range(200):
            plain = held.enter_context(socket.create_connection(("127.0.0.1", int(port)), 20))
            connection = held.enter_context(context.wrap_socket(plain, server_hostname=host))
            connection.sendall(head.encode() + b'{"a":"' + b"a" * 125_000)
        trial.eventually(lambda: visitor.get(f"{up.outputs.urls['plain']}/x").status_code == 200, 30)
        after = trial.memory_mb(up.name("waf"))
    print(f"200 half bodies of 125 kB: {before:.0f} MB before, {after:.0f} MB")
    # 125 kB each would be 25 MB in buffers alone; the firewall's limit on a Raspberry Pi is 64.
    assert after - before < 24
    state = json.loads(docker("inspect", up.name("waf")))[0]["State"]
    assert state["OOMKilled"] is False


def test_answers_stream_as_they_are_written(up: Standing, visitor: httpx.Client) -> None:
    """Also after a silence that is longer than any timeout which is not meant for streams."""
    url = f"{up.outputs.urls['text']}/stream"
    seen: list[tuple[str, float]] = []

    def read(query: str) -> None:
        began = time.monotonic()
        with visitor.stream("GET", f"{url}?{query}") as answer:
            seen.extend((query, time.monotonic() - began) for line in answer.iter_lines() if line)

    long = threading.Thread(target=read, args=("n=2&every=70",))
    long.start()
    read("n=5&every=0.5")
    quick = [when for query, when in seen if "0.5" in query]
    print(f"first of five events after {quick[0]:.3f} s")
    # Held back, the first would come with the last.
    assert len(quick) == 5 and quick[0] < 1 and quick[-1] > 1.9
    assert all(later - earlier > 0.2 for earlier, later in itertools.pairwise(quick))
    long.join(120)
    slow = [when for query, when in seen if "70" in query]
    assert len(slow) == 2 and slow[0] < 5 and slow[1] > 69


def test_a_websocket_is_opened_and_talks(up: Standing) -> None:
    host, _, port = up.outputs.urls["text"].removeprefix("https://").partition(":")
    context = ssl.create_default_context(cadata=up.outputs.ca_pem)
    key = base64.b64encode(os.urandom(16)).decode()
    ask = f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: test\r\nAccept: */*\r\n"
    ask += f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", int(port)), 20) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(ask.encode())
        assert b" 101 " in connection.recv(4096).split(b"\r\n")[0]
        for text in (b"hello", b"<script>alert(1)</script> ' OR 1=1 --"):
            frame = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text
            connection.sendall(frame)
            assert connection.recv(4096) == frame


def test_the_audit_log_is_json_without_what_was_sent(up: Standing, visitor: httpx.Client) -> None:
    secret = "Geheim-8d1f<script>alert(1)</script>"
    answer = visitor.post(
        f"{up.outputs.urls['plain']}/audited",
        params={"token": secret},
        data={"password": secret},
        headers={"authorization": f"Bearer {secret}", "cookie": f"session={secret}"},
    )
    assert refused(answer)
    trial.eventually(lambda: any(line["path"] == "/audited" for line in audit(up)), 10)
    line = next(line for line in audit(up) if line["path"] == "/audited")
    rules = line["rules"]
    assert isinstance(rules, list) and {rule["id"] for rule in rules} >= {941110, 949110}
    assert {rule["target"] for rule in rules} & {"ARGS:password", "ARGS:token", "REQUEST_COOKIES:session"}
    assert line["method"] == "POST" and line["status"] == 403 and line["engine"] == "Enabled" and line["client"]
    assert "Geheim" not in docker("logs", up.name("waf"), check=False)
    assert not any("error" in line for line in audit(up)), "every record could be read"


def test_it_is_proven(up: Standing) -> None:
    holds, text = up.prove("waf")
    assert holds, text
    assert "none taken for an attack" in text and "mode block" in text


def test_it_has_no_way_out_and_no_port_of_the_host(up: Standing) -> None:
    state = json.loads(docker("inspect", up.name("waf")))[0]
    assert state["HostConfig"]["ReadonlyRootfs"] and state["HostConfig"]["CapDrop"] == ["ALL"]
    assert state["Config"]["User"] == "101:101" and not state["HostConfig"]["PortBindings"]
    assert list(state["NetworkSettings"]["Networks"]) == [f"kit-{STACK}-app"]
    assert json.loads(docker("network", "inspect", f"kit-{STACK}-app"))[0]["Internal"]


def test_without_it_nothing_is_handed_on(up: Standing, visitor: httpx.Client) -> None:
    url = f"{up.outputs.urls['plain']}/x"
    docker("stop", up.name("waf"))
    try:
        answers = [visitor.get(url) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {503}
        assert answers[-1].headers["retry-after"] == "5"
    finally:
        docker("start", up.name("waf"))
    trial.eventually(lambda: visitor.get(url).status_code == 200, 60)


def test_a_service_that_is_gone_is_a_sentence(up: Standing, visitor: httpx.Client) -> None:
    url = f"{up.outputs.urls['plain']}/x"
    docker("kill", up.name("echo"))
    try:
        trial.eventually(lambda: visitor.get(url).status_code == 503, 60)
        assert visitor.get(url).headers["retry-after"] == "5"
    finally:
        docker("start", up.name("echo"))
    trial.eventually(lambda: visitor.get(url).status_code == 200, 60)


def test_attacks_may_be_logged_alone_and_rules_are_taken_over_while_it_runs(
    up: Standing, visitor: httpx.Client
) -> None:
    blocking, settings = up.trial.runtime, replace(up.plan.settings, waf=WafMode.DETECT)
    before = json.loads(docker("inspect", up.name("waf")))[0]["State"]["Pid"]
    url = f"{up.outputs.urls['plain']}/watched"
    attack = {"q": ATTACKS["SQL injection"]}
    assert refused(visitor.get(url, params=attack))
    try:
        up.trial.runtime = runtime.build(replace(up.plan, settings=settings))
        up.trial.reload(up.name("waf"))
        trial.eventually(lambda: visitor.get(url, params=attack).status_code == 200, 20)
        trial.eventually(lambda: any(line["engine"] == "DetectionOnly" for line in audit(up)), 10)
    finally:
        up.trial.runtime = blocking
        up.trial.reload(up.name("waf"))
    trial.eventually(lambda: refused(visitor.get(url, params=attack)), 20)
    assert json.loads(docker("inspect", up.name("waf")))[0]["State"]["Pid"] == before


def address(container: str) -> str:
    """Where a container is reached on the stack's internal network, from this machine."""
    networks = json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"]
    return networks[f"kit-{STACK}-app"]["IPAddress"]


def test_what_it_costs_is_written_down(up: Standing, visitor: httpx.Client) -> None:
    """No bound: what the documents say comes from here, on a machine that does nothing else.

    The same requests to the server itself, through the front door's second half, through firewall and second half, and
    all the way, in turns.
    """
    body = {"model": "m", "messages": [{"role": "user", "content": "a question about data and code " * 62}]}
    through = {"host": up.outputs.urls["text"].removeprefix("https://"), waf.HEADER: "text"}
    ways: dict[str, tuple[httpx.Client, str, dict[str, str]]] = {
        "direct": (httpx.Client(), f"http://{address(up.name('echo'))}:8080", {}),
        "haproxy": (httpx.Client(), f"http://{address(up.name('haproxy'))}:{ingress.INNER_PORT}", through),
        "firewall": (httpx.Client(), f"http://{address(up.name('waf'))}:8080", through),
        "all the way": (visitor, up.outputs.urls["text"], {}),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    excluded: list[float] = []
    first: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(150):
        for name, (client, url, headers) in ways.items():
            began = time.monotonic()
            assert client.post(f"{url}/x", json=body, headers=headers).status_code == 200, name
            took[name].append(time.monotonic() - began)
        began = time.monotonic()
        assert visitor.post(f"{up.outputs.urls['text']}/prompt", json=body).status_code == 200
        excluded.append(time.monotonic() - began)
        if turn % 5 == 0:
            for name, (client, url, headers) in ways.items():
                began = time.monotonic()
                with client.stream("GET", f"{url}/stream?n=2&every=0", headers=headers) as answer:
                    next(answer.iter_lines())
                    first[name].append(time.monotonic() - began)
    took["all the way, excluded"] = excluded
    print(f"load {os.getloadavg()[0]:.1f}")
    for what, figures in (("2 kB of JSON", took), ("first line of a stream", first)):
        for name, times in figures.items():
            ordered = sorted(1000 * each for each in times)
            p99 = ordered[int(len(ordered) * 0.99)]
            print(f"{what}, {name}: median {statistics.median(ordered):.2f} ms, p99 {p99:.2f} ms, n={len(ordered)}")


def test_memory_stays_below_the_limit(up: Standing) -> None:
    used = trial.memory_mb(up.name("waf"))
    print(f"waf: {used:.0f} MB, start {up.trial.started[up.name('waf')]:.1f} s")
    assert used < 0.9 * up.container("waf").limits.memory_mb
