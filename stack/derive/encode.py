"""How a secret is written so that its reader gets it as it must be. One function per Encoding.

Every text is encoded as UTF-8. A NUL character is refused: no variable, file format or database here can hold it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping
from urllib.parse import quote

from stack.model import Encoding


def encode(value: str, encoding: Encoding) -> str:
    """`value` as `encoding` wants it. ValueError when it holds a NUL character."""
    if "\0" in value:
        raise ValueError("a secret cannot hold a NUL character")
    match encoding:
        case Encoding.RAW:
            return value
        case Encoding.URL:
            return quote(value, safe="")
        case Encoding.REDIS:
            return _redis(value)
        case Encoding.PROPERTIES:
            return _properties(value)
        case Encoding.JSON:
            return json.dumps(value)
        case Encoding.ARGUMENT:
            return _argument(value)
        case Encoding.HEX_32:
            return _digest(encoding, value).hex()
        case Encoding.BASE64_32:
            return base64.b64encode(_digest(encoding, value)).decode()
        case Encoding.BASE64URL_32:
            return base64.urlsafe_b64encode(_digest(encoding, value)).decode().rstrip("=")
        case Encoding.UUID:
            return str(uuid.UUID(bytes=_digest(encoding, value)[:16], version=4))
        case Encoding.NAME_24:
            return _digest(encoding, value).hex()[:24]


def _digest(encoding: Encoding, value: str) -> bytes:
    """32 bytes that follow from the secret, different ones for each encoding: a name tells nothing about a key."""
    return hashlib.sha256(f"ai-kit {encoding.value}\0{value}".encode()).digest()


def token(secret: str, claims: Mapping[str, str]) -> str:
    """A JSON Web Token, signed with HMAC-SHA256 under the UTF-8 bytes of `secret`. Equal arguments, equal token."""
    head = _segment(json.dumps({"alg": "HS256", "typ": "JWT"}, separators=(",", ":")).encode())
    body = _segment(json.dumps(dict(sorted(claims.items())), separators=(",", ":")).encode())
    signature = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{_segment(signature)}"


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _redis(value: str) -> str:
    """A double-quoted argument. Plain ASCII stays readable, every other byte becomes \\xHH."""
    parts: list[str] = []
    for byte in value.encode():
        char = chr(byte)
        if char in '"\\':
            parts.append("\\" + char)
        elif 0x20 <= byte < 0x7F:
            parts.append(char)
        else:
            parts.append(f"\\x{byte:02x}")
    return '"' + "".join(parts) + '"'


def _properties(value: str) -> str:
    """A value of a .properties file as Keycloak reads it.

    Java takes one backslash of two. Then `\\$` stands for a dollar sign that begins no expression, while any other
    backslash is just one. UTF-16 units outside ASCII become \\uXXXX, whatever the charset.
    """
    parts: list[str] = []
    for char in value:
        if char in _PROPERTY_ESCAPES:
            parts.append(_PROPERTY_ESCAPES[char])
        elif " " < char < "\x7f":
            parts.append(char)
        else:
            units = char.encode("utf-16-be")
            parts += [f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)]
    return "".join(parts)


def _argument(value: str) -> str:
    """One double-quoted word as Java's StreamTokenizer reads it, in the default charset UTF-8.

    An octal escape stands for every control character: it ends after three digits, whatever follows.
    """
    escaped = (f"\\{char}" if char in '"\\' else f"\\{ord(char):03o}" if char < " " else char for char in value)
    return '"' + "".join(escaped) + '"'


_PROPERTY_ESCAPES = {"\\": "\\\\", "$": "\\\\$"}
