"""A health check -> the command that Docker runs inside the container, with a program its image has."""

from __future__ import annotations

from stack.model import Command, HealthCheck, Http, ImagePin, Port, Tcp


class NoProbeError(ValueError):
    """The image has no program that could run the check. The message says which would do."""


# One line of the answer is enough, and bash reads it by itself: no second program, about 3 ms.
_BASH_HTTP = (
    "exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1; "
    r"printf 'GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: health\r\nConnection: close\r\n\r\n' >&3; "
    "read -r -t {timeout} line <&3; "
    '[[ $line == HTTP/1.?" 200"* ]]'
)
_NODE_HTTP = (
    "fetch('http://127.0.0.1:{port}{path}',{{redirect:'manual'}})"
    ".then(r=>process.exit(r.status===200?0:1)).catch(()=>process.exit(1))"
)
_PYTHON_HTTP = (
    "import http.client as h; c = h.HTTPConnection('127.0.0.1', {port}, timeout={timeout}); "
    "c.request('GET', '{path}'); raise SystemExit(c.getresponse().status != 200)"
)
_NODE_TCP = (
    "require('net').connect({port},'127.0.0.1').on('connect',()=>process.exit(0)).on('error',()=>process.exit(1))"
)
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
    return _http(number, test, timeout, image)


def _http(port: int, test: Http, timeout: int, image: ImagePin) -> tuple[str, ...]:
    url = f"http://127.0.0.1:{port}{test.path}"
    if "bash" in image.programs:
        return ("bash", "-c", _BASH_HTTP.format(port=port, path=test.path, timeout=timeout))
    if "curl" in image.programs:
        return ("curl", "--fail", "--silent", "--output", "/dev/null", "--max-time", str(timeout), url)
    if "wget" in image.programs:
        return ("wget", "-q", "-O", "/dev/null", "-T", str(timeout), url)
    if "node" in image.programs:
        return ("node", "-e", _NODE_HTTP.format(port=port, path=test.path))
    if "python3" in image.programs:
        return ("python3", "-c", _PYTHON_HTTP.format(port=port, path=test.path, timeout=timeout))
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
