"""A stack as ./kit makes it, looked at from inside its containers and from the host: what do they give away?

The rules of stack/policy.py are about what the engine is told; here is what it and the kernel make of that. The report
of the CIS benchmark is kept in artifacts/hardening/.
"""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops import planview
from stack import policy
from stack.catalog import discover
from stack.model import Zone
from stack.outputs import StackOutputs
from stack.plan import Plan
from stack.zones import ZONES, shared
from tests.live import cisdocker
from tests.live.auditors import installed
from tests.live.kitclone import ROOT, Clone, engine_of, free_ports
from tests.live.trial import Authority, docker, eventually

pytestmark = pytest.mark.live

STACK = "hardened"
PREFIX = f"kit-{STACK}-"
ARTIFACTS = ROOT / "artifacts" / "hardening"

# Scored checks that fail, each with the reason; 5.2 is the host's, and passes where it has AppArmor.
REASONS = {
    "5.2": "this host's kernel has no AppArmor; Docker's default profile applies where it has",
    "5.9": "the ingress is the one way in, and publishes its ports on one address of the host",
}


@dataclass(frozen=True)
class Up:
    """The stack, and what the engine says of each of its running containers, by docker name."""

    plan: Plan
    inspected: dict[str, dict[str, Any]]
    ca_pem: str = ""

    def planned(self, name: str) -> Any:
        """The service's container in the plan."""
        every = (container for service in self.plan.running for container in service.containers)
        return next(container for container in every if container.docker_name == name)

    def address(self, name: str, network: str) -> str:
        return str(self.inspected[name]["NetworkSettings"]["Networks"][network]["IPAddress"])

    def networks(self, name: str) -> list[str]:
        return sorted(self.inspected[name]["NetworkSettings"]["Networks"])

    @property
    def python(self) -> str:
        """An image that has Python, of this stack."""
        return next(item["Config"]["Image"] for name, item in self.inspected.items() if name.endswith("-open-webui"))

    def inside(self, name: str, program: str, argument: Any = None) -> Any:
        """What a program prints as JSON, in the network of a container, as nobody and without capabilities."""
        argv = ["run", "--rm", "-i", "--network", f"container:{name}", *CLOSED, self.python, "-"]
        return json.loads(docker(*argv, data=_program(program, argument)))

    def beside(self, network: str, program: str, argument: Any = None) -> Any:
        """The same in a container of its own on one of the stack's networks."""
        argv = ["run", "--rm", "-i", "--network", network, "--name", f"{PREFIX}stranger", *CLOSED, self.python, "-"]
        return json.loads(docker(*argv, data=_program(program, argument)))


CLOSED = ("--user", "65534:65534", "--cap-drop", "ALL", "--read-only", "--pids-limit", "64", "--entrypoint", "python3")


def _program(program: str, argument: Any) -> bytes:
    return (
        f"import json\nARGUMENT = json.loads({json.dumps(json.dumps(argument))})\n{textwrap.dedent(program)}".encode()
    )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    home = tmp_path_factory.mktemp("hardened")
    clone = Clone(directory=home / "clone", state_home=home / "state", log=ARTIFACTS)
    ports = free_ports(3)
    clone.write_stack(STACK, profiles=["chat"], httpPort=ports[0], httpsPort=ports[1], adminPort=ports[2])

    def remove() -> None:
        if not engine_of(STACK).empty:
            clone.kit("down", STACK, "--data", "--yes-delete", STACK)

    remove()
    try:
        outcome = clone.kit("up", STACK, "--no-prove", timeout=1800)
        assert outcome.code == 0, outcome.text
        names = [item.name for item in engine_of(STACK).containers if item.state == "running"]
        inspected = {item["Name"].lstrip("/"): item for item in json.loads(docker("inspect", *names))}
        yield Up(planview.load_plan(clone.directory, STACK), inspected, _outputs(clone).ca_pem)
    finally:
        remove()


def _outputs(clone: Clone) -> StackOutputs:
    shown = clone.pulumi("stack", "output", "--json", "--show-secrets", "--stack", STACK)
    (clone.log / f"{clone.count:02d}-pulumi-stack-output.log").unlink()  # no secret among the artifacts
    return StackOutputs.from_dict(json.loads(shown.text))


# ---------------------------------------------------------------------------------------------------- containers


def test_at_least_24_of_the_26_scored_checks_pass_and_no_other_fails_without_a_reason(up: Up) -> None:
    processes = {name: frozenset(row[-1].split()[0] for row in json.loads(_top(name))) for name in up.inspected}
    seen = cisdocker.Seen(
        info=json.loads(docker("info", "--format", "{{json .}}")),
        containers=tuple(up.inspected.values()),
        processes=processes,
        selinux=Path("/sys/fs/selinux/enforce").exists(),
    )
    results = cisdocker.run(seen)
    text = cisdocker.report(results, REASONS)
    print(text)
    (ARTIFACTS / "cis.txt").write_text(text, encoding="utf-8")
    assert len(results) == 26
    failed = {result.number: result.failed for result in results if result.failed}
    assert set(failed) <= set(REASONS), failed
    assert failed.get("5.9") == (f"{PREFIX}haproxy",)
    assert len(results) - len(failed) >= 24


def _top(name: str) -> str:
    lines = docker("top", name, "-eo", "pid,comm").splitlines()[1:]
    return json.dumps([line.split(maxsplit=1) for line in lines])


def test_the_kernel_sees_processes_without_any_privilege(up: Up) -> None:
    for name, item in up.inspected.items():
        pid = item["State"]["Pid"]
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        sets = {key: int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert not any(sets.values()), f"{name} has capabilities: {sets}"
        assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2"), name
        assert "0" not in status["Uid"].split(), f"{name} runs as root"
        root = next(line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines() if " / " in line)
        assert "ro" in root[3].split(","), f"{name} can write to its root"


def test_each_probe_is_a_program_that_is_there_and_says_healthy(up: Up) -> None:
    for name, item in up.inspected.items():
        test = item["Config"]["Healthcheck"]["Test"]
        assert test[0] == "CMD" and item["State"]["Health"]["Status"] == "healthy", name
        docker("exec", name, *test[1:])


def test_what_is_mounted_is_volumes_of_the_stack(up: Up) -> None:
    """Jobs, which have ended, as well: no directory of the host, and so no docker.sock."""
    ids = docker("ps", "-aq", "--filter", f"label=aikit.stack={STACK}").split()
    for item in json.loads(docker("inspect", *ids)):
        for mount in item["Mounts"]:
            # Of a job: a volume without a name, which an image asks for and which goes with the container.
            nameless = item["Config"]["Labels"]["aikit.kind"] != "service" and re.fullmatch(
                "[0-9a-f]{64}", mount["Name"]
            )
            assert mount["Type"] == "volume" and (mount["Name"].startswith(PREFIX) or nameless), item["Name"]
        binds = item["HostConfig"].get("Binds") or []
        assert not [each for each in binds if each.startswith("/")], item["Name"]


def test_exceptions_that_are_written_down_are_the_only_ones(up: Up) -> None:
    known = policy.exemptions(discover())
    excused = {(item.rule, item.container) for item in known}
    for name, item in up.inspected.items():
        own = name.removeprefix(PREFIX)
        host = item["HostConfig"]
        facts = {
            "read-only-root": not host["ReadonlyRootfs"],
            "add-none": bool(host["CapAdd"]),
            "unpublished": bool(host["PortBindings"]),
            "gpu": bool(host.get("DeviceRequests")),
        }
        assert not [rule for rule, broken in facts.items() if broken and (rule, own) not in excused], name
        log = host["LogConfig"]
        assert (log["Type"], set(log["Config"])) == ("json-file", {"max-file", "max-size"}), name


# --------------------------------------------------------------------------------------------------------- zones

# For each [name, address, port]: open, refused, or cut (no answer, no way).
REACH = """
import socket
found = []
for name, address, port in ARGUMENT:
    probe = socket.socket()
    probe.settimeout(1.5)
    try:
        probe.connect((address, port))
        found.append([name, "open"])
    except ConnectionRefusedError:
        found.append([name, "refused"])
    except OSError:
        found.append([name, "cut"])
    finally:
        probe.close()
print(json.dumps(found))
"""


REACH_AT_ONCE = """
import socket
from concurrent.futures import ThreadPoolExecutor
def reach(target):
    name, address, port = target
    with socket.socket() as probe:
        probe.settimeout(1.5)
        try:
            probe.connect((address, port))
        except OSError:
            return name, "cut"
        try:
            probe.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")  # which gets an answer of TLS as well
            return name, "open" if probe.recv(1) else "closed"
        except ConnectionResetError:
            return name, "closed"
        except OSError:
            return name, "open"
with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(reach, ARGUMENT))))
"""


def test_containers_reach_each_other_where_they_share_a_zone_and_nowhere_else(up: Up) -> None:
    """Every ordered pair, on every address of the other one: asked from inside the first one's own network."""
    targets = [
        [f"{name} {network}", up.address(name, network), up.planned(name).spec.ports[0].number]
        for name in up.inspected
        for network in up.networks(name)
        if up.planned(name).spec.ports
    ]

    def look(name: str) -> dict[str, str]:
        return dict(up.inside(name, REACH, [target for target in targets if not target[0].startswith(f"{name} ")]))

    with ThreadPoolExecutor(max_workers=4) as pool:
        seen = dict(zip(up.inspected, pool.map(look, up.inspected), strict=True))
    wrong: list[str] = []
    pairs = 0
    for source, answers in seen.items():
        for target, answer in answers.items():
            other, network = target.split()
            zone = next(zone for zone in ZONES if network == f"{PREFIX}{zone}")
            together = shared({zone}, up.planned(source).spec.zones) and zone in up.planned(other).spec.zones
            pairs += 1
            if (answer == "open") != bool(together):
                wrong.append(
                    f"{source} -> {target}: {answer}, though they {'share' if together else 'do not share'} it"
                )
    assert not wrong, "\n".join(wrong)
    assert pairs > 30, "too few were tried"
    # Both directions were tried: the databases do not reach the ingress, nor it them.
    ingress, data = f"{PREFIX}haproxy", f"{PREFIX}postgres"
    assert {answer for target, answer in seen[data].items() if target.startswith(f"{ingress} ")} == {"cut"}
    assert {answer for target, answer in seen[ingress].items() if target.startswith(f"{data} ")} == {"cut"}


def test_names_of_other_zones_are_not_known(up: Up) -> None:
    program = """
    import socket
    found = {}
    for name in ARGUMENT:
        try:
            found[name] = bool(socket.gethostbyname(name))
        except OSError:
            found[name] = False
    print(json.dumps(found))
    """
    names = {name: name.removeprefix(PREFIX) for name in up.inspected}
    for source in (f"{PREFIX}postgres", f"{PREFIX}ollama", f"{PREFIX}haproxy"):
        answers = up.inside(source, program, list(names.values()))
        zones = up.planned(source).spec.zones
        for other, own in names.items():
            if other != source:
                assert answers[own] == bool(shared(zones, up.planned(other).spec.zones)), f"{source} asks for {own}"


@contextmanager
def outside() -> Iterator[tuple[str, int]]:
    """A machine that this one forwards to, as it does to the internet: a network namespace with a server in it."""
    space, ours, theirs, port = "kit-outside", "198.18.77.1", "198.18.77.2", 8099
    server = f"import socket, time; s = socket.create_server(('{theirs}', {port})); time.sleep(300)"

    def ip(*argv: str, check: bool = True) -> None:
        subprocess.run(["ip", *argv], check=check, capture_output=True)

    ip("netns", "delete", space, check=False)
    ip("netns", "add", space)
    try:
        ip("link", "add", "kitout0", "type", "veth", "peer", "name", "kitout1", "netns", space)
        ip("address", "add", f"{ours}/30", "dev", "kitout0")
        ip("link", "set", "kitout0", "up")
        ip("-n", space, "address", "add", f"{theirs}/30", "dev", "kitout1")
        ip("-n", space, "link", "set", "kitout1", "up")
        ip("-n", space, "route", "add", "default", "via", ours)
        with subprocess.Popen(["ip", "netns", "exec", space, sys.executable, "-c", server]) as process:
            try:
                eventually(lambda: _open(theirs, port), 15)
                yield theirs, port
            finally:
                process.kill()
    finally:
        ip("netns", "delete", space, check=False)  # and with it both ends of the cable


def test_internal_networks_have_no_way_out(up: Up) -> None:
    """Nothing is forwarded from them; from those that have a way out it is, so the question is a good one.

    The host itself they do reach, at any of its addresses: that is for its firewall (docs/security.md, Firewall).
    """
    with outside() as (address, port):
        for name in up.inspected:
            inside_only = all(ZONES[zone].internal for zone in up.planned(name).spec.zones)
            answer = dict(up.inside(name, REACH, [["outside", address, port]]))["outside"]
            assert answer == ("cut" if inside_only else "open"), f"{name}: {answer}"


def _own_address() -> str:
    """The address of this machine that its default route, or any other of its networks, goes out by."""
    lines = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").split()
    return lines[0]


# ---------------------------------------------------------------------------------------------------- port scans

# Every TCP port of each address in ARGUMENT. A port that is closed on the same host answers at once.
SCAN = """
import socket
def scan(address):
    found = []
    for port in range(1, 65536):
        probe = socket.socket()
        probe.settimeout(1)
        if probe.connect_ex((address, port)) == 0:
            found.append(port)
        probe.close()
    return found
print(json.dumps({name: scan(address) for name, address in ARGUMENT.items()}))
"""


def test_a_stranger_on_their_network_finds_only_the_declared_ports(up: Up) -> None:
    """All 65,535 of each container, from another container, on one of its networks."""
    where: dict[str, dict[str, str]] = {}
    for name in up.inspected:
        network = next(each for each in up.networks(name) if not ZONES[Zone(each.removeprefix(PREFIX))].isolated)
        where.setdefault(network, {})[name] = up.address(name, network)
    found: dict[str, list[int]] = {}
    for network, addresses in where.items():
        found |= up.beside(network, SCAN, addresses)
    assert set(found) == set(up.inspected)
    for name, ports in found.items():
        assert ports and set(ports) <= _declared(up, name), name


def test_the_host_finds_the_same_and_publishes_only_what_the_ingress_does(up: Up) -> None:
    """From the host every container can be reached by its address; of the host's own ports, only those are ours."""
    declared = {name: _declared(up, name) for name in up.inspected}
    for name in up.inspected:
        address = up.address(name, up.networks(name)[-1])
        ports = _listens(address, up.inspected[name]["State"]["Pid"])
        assert ports and ports <= declared[name], name
    settings = up.plan.settings
    wanted = {("127.0.0.1", port) for port in (settings.http_port, settings.https_port, settings.admin_port)}
    published = {
        (item["HostIp"], int(item["HostPort"]))
        for each in up.inspected.values()
        for several in (each["NetworkSettings"]["Ports"] or {}).values()
        for item in several or []
    }
    assert published == wanted
    assert {port for _, port in wanted if _open("127.0.0.1", port)} == {port for _, port in wanted}
    # Bound to loopback: the machine's other addresses, by which others come, do not have them.
    assert not [port for _, port in wanted if _open(_own_address(), port)]


def test_a_machine_outside_finds_none_of_them(up: Up) -> None:
    """One that has this host for its router: at the containers' own addresses, which it can name, nobody answers.

    And at the host's own address, by which it is reached, nothing of the stack: that is published on loopback.
    """
    with outside() as (address, _):
        host = address.rpartition(".")[0] + ".1"
        settings = up.plan.settings
        targets = [
            [f"{name} {network} {port}", up.address(name, network), port]
            for name in up.inspected
            for network in up.networks(name)
            for port in sorted(_declared(up, name))
        ]
        targets += [[f"host {port}", host, port] for port in (settings.http_port, settings.https_port)]
        targets += [[f"host {settings.admin_port}", host, settings.admin_port]]
        program = _program(REACH_AT_ONCE, targets)
        argv = ["ip", "netns", "exec", "kit-outside", sys.executable, "-"]
        done = subprocess.run(argv, input=program, capture_output=True, check=True)
    found = dict(json.loads(done.stdout))
    assert len(found) == len(targets) > 20
    assert [name for name, answer in found.items() if answer == "open"] == []


def _declared(up: Up, name: str) -> set[int]:
    """Those of the service's file; the ingress answers inside at the public port as well, so that URLs are the same."""
    container = up.planned(name)
    public = {up.plan.settings.https_port} if container.spec.publish else set[int]()
    return {port.number for port in container.spec.ports} | public


def _listens(address: str, pid: int) -> set[int]:
    """The ports on which a container listens, by the kernel's table, that answer the host at its address."""
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return {port for port in ports if _open(address, port)}


def _open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.5)
        return probe.connect_ex((address, port)) == 0


# ----------------------------------------------------------------------------------------------------------- TLS

SSLYZE = "sslyze==6.3.1"


def _sslyze(ca: Path, name: str, *ports: int) -> dict[int, list[str]]:
    """What Mozilla's intermediate profile, version 5.7, minds at each port of this machine; [] when nothing.

    The verdict is sslyze's own: protocols, ciphers, curves, key, signature and life of the certificate, a chain that
    ends at `ca`, and seven known attacks.
    """
    argv = ["--mozilla_config=intermediate", "--certinfo_ca_file", str(ca), "--sni", name]
    argv += [f"127.0.0.1:{port}" for port in ports]
    done = subprocess.run([str(installed(SSLYZE, "sslyze")), *argv], capture_output=True, text=True, check=False)
    verdicts = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    found: dict[int, list[str]] = {}
    for line in verdicts.splitlines():
        if verdict := re.match(r" +127\.0\.0\.1:(\d+): (OK - Compliant\.|FAILED - Not compliant\.)$", line):
            found[int(verdict[1])] = []
        elif found and (issue := re.match(r" +\* (.+)", line)):
            found[max(found, key=list(found).index)].append(issue[1])
    compliant = len(found) == len(ports) and not any(found.values())
    assert set(found) == set(ports) and (done.returncode == 0) == compliant, done.stdout[-3000:] + done.stderr[-1000:]
    return found


def test_tls_is_what_mozilla_calls_intermediate(up: Up, tmp_path: Path) -> None:
    """With the certificate that the stack made by itself, checked against the authority that its people install."""
    ca = tmp_path / "ca.pem"
    ca.write_text(up.ca_pem, encoding="utf-8")
    settings = up.plan.settings
    name = next(host for host in up.plan.host_names if host.startswith("chat."))
    assert _sslyze(ca, name, settings.https_port, settings.admin_port) == {
        settings.https_port: [],
        settings.admin_port: [],
    }


def test_that_question_finds_what_is_wrong(tmp_path: Path) -> None:
    """A server with an old cipher and an authority that nobody named: both are said."""
    authority = Authority(tmp_path / "authority", ("chat.kit.localhost",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "leaf.pem")
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        port = server.server_address[1]
        other = Authority(tmp_path / "other", ("chat.kit.localhost",)).folder / "ca.pem"
        said = _sslyze(other, "chat.kit.localhost", port)[port]
    finally:
        server.shutdown()
        server.server_close()
    assert any(each.startswith("ciphers:") and "AES_128_CBC_SHA" in each for each in said), said
    assert any(each.startswith("certificate_path_validation:") for each in said), said
