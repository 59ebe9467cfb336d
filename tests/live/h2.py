"""HTTP/2 as somebody with bad intentions speaks it: frames of any content, and what a server answers to them.

No more of RFC 9113 than tests need. Headers are written as literals without compression, so that a name or a value may
be anything. What comes back is told by its status where that is in the static table or a plain literal.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_INDEXED = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
_DIGITS = {0b00000: "0", 0b00001: "1", 0b00010: "2", 0b011001: "3", 0b011010: "4", 0b011011: "5"}
_DIGITS |= {0b011100: "6", 0b011101: "7", 0b011110: "8", 0b011111: "9"}

Header = tuple[bytes, bytes]


def block(headers: Iterable[Header]) -> bytes:
    """Headers as literals that are not indexed (RFC 7541, 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    length, rest = b"\x7f", len(text) - 127
    while rest >= 128:
        length += bytes([rest % 128 | 128])
        rest //= 128
    return length + bytes([rest]) + text


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Connection:
    """A connection that has said its preface. `context` must offer h2."""

    def __init__(self, port: int, name: str, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket = context.wrap_socket(plain, server_hostname=name)
        assert self.socket.selected_alpn_protocol() == "h2"
        self._read = b""
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def request(self, stream: int, headers: Iterable[Header], *bodies: bytes, open_: bool = False) -> None:
        """HEADERS and a DATA frame for each body; open_: the end of the stream is not said."""
        last = 0 if open_ else END_STREAM
        self.send(
            frame(HEADERS, END_HEADERS | (0 if bodies else last), stream, block(headers)),
            *(frame(DATA, last if body is bodies[-1] else 0, stream, body) for body in bodies),
        )

    def answer(self, stream: int = 1, seconds: float = 20) -> int:
        """The status of a stream; 0 when it or the connection was ended instead."""
        self.socket.settimeout(seconds)
        while True:
            try:
                kind, flags, number, payload = self._frame()
            except (OSError, EOFError):
                return 0
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
            elif kind == GOAWAY or (kind == RST_STREAM and number == stream):
                return 0
            elif kind == HEADERS and number == stream:
                return _status(payload)

    def _frame(self) -> tuple[int, int, int, bytes]:
        head = self._exactly(9)
        length = int.from_bytes(head[:3])
        return head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFFFFFF, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self._read += more
        found, self._read = self._read[:count], self._read[count:]
        return found


def _status(payload: bytes) -> int:
    """:status is the first header of an answer: indexed, or a literal with the name's index 8."""
    first = payload[0]
    if first & 0x80:
        return _INDEXED[first & 0x7F]
    length = payload[1]
    raw = payload[2 : 2 + (length & 0x7F)]
    return int(_digits(raw) if length & 0x80 else raw)


def _digits(raw: bytes) -> str:
    """Three digits in Huffman's code."""
    bits = "".join(f"{byte:08b}" for byte in raw)
    found = ""
    while len(found) < 3:
        size = 5 if int(bits[:5], 2) < 3 else 6
        found += _DIGITS[int(bits[:size], 2)]
        bits = bits[size:]
    return found
