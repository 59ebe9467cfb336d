"""A health check -> the command that Docker runs inside the container, with a program its image has."""

from __future__ import annotations

from stack.model import Command, HealthCheck, Http, ImagePin, Port, Tcp


class NoProbeError(ValueError):
    """The image has no program that could run the check. The message says which would do."""


STARTING_S = 15  # for so long one check goes on asking a container that is starting

# While the container starts, a check that finds it not ready asks again: Docker would only do so an interval later,
# and everything that needs this container waits for the answer. The container's age is that of its process 1, whose
# start /proc has in hundredths of a second since the boot.
#
# They run every few seconds for years, on small machines. bash reads the first line of the answer by itself: no second
# program, about 3 ms. Of node and python, what loads least: half the processor time of `fetch`, two thirds of that of
# `http.client` with site packages.
_BASH_HTTP = (
    "ask() {{ exec 3<>/dev/tcp/127.0.0.1/{port} || return; "
    r"printf 'GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: health\r\nConnection: close\r\n\r\n' >&3; "
    "read -r -t {timeout} line <&3; "
    '[[ $line == HTTP/1.?" 200"* ]]; }}; '
    "until ask; do "
    "read -r up rest </proc/uptime; read -r stat </proc/1/stat; set -- ${{stat##*) }}; "
    "((${{up%.*}} - ${{20}} / 100 < {starting} && SECONDS < {patience})) || exit 1; "
    "read -r -t 0.3 <> <(:); done 2>/dev/null; exit 0"
)
_NODE_HTTP = (
    "const {{get}}=require('http'),read=f=>require('fs').readFileSync(f,'utf8'),end=Date.now()+{patience}e3;"
    "const age=()=>parseFloat(read('/proc/uptime'))-read('/proc/1/stat').split(') ').pop().split(' ')[19]/100;"
    "const no=()=>Date.now()<end&&age()<{starting}?setTimeout(ask,300):process.exit(1);"
    "const ask=()=>{{let n=0;const failed=()=>n++||no();get('http://127.0.0.1:{port}{path}',{{timeout:{timeout}e3}},"
    "a=>{{a.statusCode===200&&process.exit(0);a.destroy();failed()}})"
    ".on('timeout',function(){{this.destroy()}}).on('error',failed)}};ask()"
)
_PYTHON_HTTP = """\
import socket, time
end = time.monotonic() + {patience}
def well():
    try:
        with socket.create_connection(('127.0.0.1', {port}), {timeout}) as s:
            head = 'GET {path} HTTP/1.1', 'Host: localhost', 'User-Agent: health', 'Connection: close', '', ''
            s.sendall('\\r\\n'.join(head).encode())
            return s.recv(64).split()[1:2] == [b'200']
    except OSError:
        return False
def age():
    up, stat = open('/proc/uptime').read(), open('/proc/1/stat').read()
    return float(up.split()[0]) - int(stat.split(') ')[-1].split()[19]) / 100
while not well():
    if time.monotonic() > end or age() > {starting}:
        raise SystemExit(1)
    time.sleep(0.3)
"""
_NODE_TCP = (
    "require('net').connect({port},'127.0.0.1').on('connect',()=>process.exit(0)).on('error',()=>process.exit(1))"
)
_SCRIPTS = (("bash", "-c", _BASH_HTTP), ("node", "-e", _NODE_HTTP), ("python3", "-ISc", _PYTHON_HTTP))
_PYTHON_TCP = "import socket; socket.create_connection(('127.0.0.1', {port}), {timeout})"


def argv(health: HealthCheck, ports: tuple[Port, ...], image: ImagePin) -> tuple[str, ...]:
    """The command, for Docker's `CMD` form.

    NoProbeError when the image has no program for it, KeyError when the port is not named.
    """
    test = health.test
    if isinstance(test, Command):
        if test.argv[0] not in image.programs:
            raise NoProbeError(f"image {image.name} is not known to have {test.argv[0]!r}; it has {_listed(image)}")
        return test.argv
    number = _number(test.port, ports)
    timeout = max(1, health.timeout_s - 1)
    if isinstance(test, Tcp):
        return _tcp(number, timeout, image)
    if by := _asks_again(health, image):
        program, option, script = by
        words = {"starting": health.start_period_s, "patience": STARTING_S}
        return (program, option, script.format(port=number, path=test.path, timeout=timeout, **words))
    return _http(number, test, timeout, image)


def timeout_s(health: HealthCheck, image: ImagePin) -> int:
    """Seconds after which Docker gives a check up: its own, and what it may go on asking while the container starts."""
    return health.timeout_s + (STARTING_S if _asks_again(health, image) else 0)


def _asks_again(health: HealthCheck, image: ImagePin) -> tuple[str, str, str] | None:
    """The program, its option and the script with which a check over HTTP goes on asking; None where it cannot."""
    if not isinstance(health.test, Http):
        return None
    return next((script for script in _SCRIPTS if script[0] in image.programs), None)


def _http(port: int, test: Http, timeout: int, image: ImagePin) -> tuple[str, ...]:
    url = f"http://127.0.0.1:{port}{test.path}"
    if "curl" in image.programs:
        return ("curl", "--fail", "--silent", "--output", "/dev/null", "--max-time", str(timeout), url)
    if "wget" in image.programs:
        return ("wget", "-q", "-O", "/dev/null", "-T", str(timeout), url)
    raise NoProbeError(
        f"image {image.name} has nothing to ask over HTTP with (bash, curl, wget, node or python3); "
        f"it has {_listed(image)}: use a Command of the image's own"
    )


def _tcp(port: int, timeout: int, image: ImagePin) -> tuple[str, ...]:
    if "bash" in image.programs:
        return ("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")
    if "nc" in image.programs:
        return ("nc", "-z", "-w", str(timeout), "127.0.0.1", str(port))
    if "node" in image.programs:
        return ("node", "-e", _NODE_TCP.format(port=port))
    if "python3" in image.programs:
        return ("python3", "-c", _PYTHON_TCP.format(port=port, timeout=timeout))
    raise NoProbeError(
        f"image {image.name} has nothing to open a connection with (bash, nc, node or python3); "
        f"it has {_listed(image)}: use a Command of the image's own"
    )


def _number(name: str, ports: tuple[Port, ...]) -> int:
    for port in ports:
        if port.name == name:
            return port.number
    raise KeyError(f"the container has no port {name!r}")


def _listed(image: ImagePin) -> str:
    return ", ".join(sorted(image.programs)) or "none"
