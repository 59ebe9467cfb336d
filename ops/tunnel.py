"""A connection to a port inside a running container, through nothing but the engine's exec API.

What a stack keeps inside has no port on the host and no route from here. A shell in the container opens the connection
and passes bytes both ways, so it works over ssh:// as well, and closes with the process that asked. Needs bash and cat
in the image. Standard library only.
"""

from __future__ import annotations

import http.client
import io
import json
import struct
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from ops.engine import ApiError, DockerApi, EngineError, explain

# $1 is the address, $2 the port. The second cat ends when we close, and takes the first with it.
_SCRIPT = 'exec 3<>"/dev/tcp/$1/$2" || exit 9; cat <&3 & cat >&3; kill $! 2>/dev/null'
_STDERR = 2


class TunnelError(EngineError):
    """Nobody answers at that port of that container."""


class _Frames(io.RawIOBase):
    """The bytes that come back: the engine wraps them in frames of kind, three zeros, length, content."""

    def __init__(self, tunnel: _Tunnel) -> None:
        self._tunnel = tunnel
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left:
            header = self._tunnel.stream.read(8)
            if len(header) < 8:
                return 0
            (length,) = struct.unpack(">I", header[4:])
            content = self._tunnel.stream.read(length)
            if header[0] == _STDERR:
                self._tunnel.complaint += content.decode("utf-8", "replace")
            else:
                self._left = content
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._tunnel.shut()


class _Tunnel:
    """What http.client needs of a socket. It closes when the answer was read, not when the connection lets go of it."""

    def __init__(self, api: DockerApi, container: str, address: str, port: int, timeout: float | None) -> None:
        self.complaint = ""
        self._reading = False
        exec_id = api.post(
            f"/containers/{urllib.parse.quote(container, safe='')}/exec",
            {
                "AttachStdin": True,
                "AttachStdout": True,
                "AttachStderr": True,
                "Tty": False,
                "Cmd": ["bash", "-c", _SCRIPT, "tunnel", address, str(port)],
            },
        )["Id"]
        self._socket, self._process = api.open_socket(timeout)
        body = json.dumps({"Detach": False, "Tty": False}).encode()
        head = (
            f"POST /exec/{exec_id}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        self.stream: BinaryIO = self._socket.makefile("rb")
        status = self.stream.readline().split(b" ")
        while self.stream.readline().strip():
            pass
        if len(status) < 2 or status[1] not in (b"101", b"200"):
            self.shut()
            raise ApiError(int(status[1]) if len(status) > 1 else 0, "no stream", "POST /exec/start")

    def sendall(self, data: Any) -> None:
        self._socket.sendall(data)

    def makefile(self, mode: str = "rb", buffering: int | None = None) -> io.BufferedReader:
        self._reading = True
        return io.BufferedReader(_Frames(self), 1 << 16)

    def close(self) -> None:
        if not self._reading:
            self.shut()

    def shut(self) -> None:
        self.stream.close()
        self._socket.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


class _Connection(http.client.HTTPConnection):
    def __init__(self, api: DockerApi, container: str, port: int, timeout: float | None) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self._open = (api, container, "127.0.0.1", port, timeout)
        self.tunnel: _Tunnel | None = None

    def connect(self) -> None:
        self.tunnel = _Tunnel(*self._open)
        self.sock = cast(Any, self.tunnel)


@contextmanager
def answer(
    api: DockerApi,
    container: str,
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = 60.0,
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request at a port inside the container, whatever its status. EngineError when there is none."""
    connection = _Connection(api, container, port, timeout)
    content = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
    response: http.client.HTTPResponse | None = None
    try:
        try:
            connection.request(method, path, body=content, headers=sent)
            response = connection.getresponse()
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise _why(api, container, port, connection.tunnel, error) from error
    finally:
        if response is not None:
            response.close()
        connection.close()


def _why(
    api: DockerApi, container: str, port: int, tunnel: _Tunnel | None, error: OSError | http.client.HTTPException
) -> EngineError:
    if tunnel is None:
        return explain(api.host, error)
    said = tunnel.complaint.strip().splitlines()
    words = said[-1].rsplit(": ", 1)[-1] if said else str(error) or type(error).__name__
    return TunnelError(f"{container} does not answer at its port {port}: {words}.")
