"""X.509 certificates as far as we read them: who, by whom, for which names, from when to when. Pure.

The standard library verifies certificates and checks that a key belongs to one, but reads none that nobody trusts.
Source: RFC 5280 (the structure), X.690 (DER).
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_SEQUENCE, _BOOLEAN = 0x30, 0x01
_UTC_TIME, _VERSION, _EXTENSIONS = 0x17, 0xA0, 0xA3
_DNS, _IP = 0x82, 0x87  # of a GeneralName
_COMMON_NAME = bytes.fromhex("550403")
_ALTERNATIVE_NAMES = bytes.fromhex("551d11")
_BASIC_CONSTRAINTS = bytes.fromhex("551d13")

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """subject, issuer: DER, as they are compared. title: the subject's common name, "" for none. der: all of it.

    names, addresses: of the subject's alternative names; a common name is no name any more (RFC 9525).
    """

    der: bytes
    subject: bytes
    issuer: bytes
    title: str
    issuer_title: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    authority: bool

    @property
    def self_issued(self) -> bool:
        return self.subject == self.issuer

    def covers(self, host: str) -> bool:
        """Whether it is for a host name: one of its names, or a wildcard for exactly the first label (RFC 9525)."""
        return any(_matches(name.lower().rstrip("."), host.lower()) for name in self.names)

    def days_left(self, now: datetime) -> float:
        """Days until it ends; negative when it has ended."""
        return (self.not_after - now).total_seconds() / 86400


def chain(pem: str) -> tuple[Certificate, ...]:
    """Every certificate of a PEM text, in its order. ValueError for one that cannot be read."""
    return tuple(parse(ssl.PEM_cert_to_DER_cert(block.strip())) for block in _PEM.findall(pem))


def parse(der: bytes) -> Certificate:
    """One certificate. ValueError when it is none."""
    try:
        return _parse(der)
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _matches(name: str, host: str) -> bool:
    if name.startswith("*."):
        _, dot, rest = host.partition(".")
        return bool(dot) and rest == name[2:]
    return name == host


def _parse(der: bytes) -> Certificate:
    tag, outer = next(_read(der))
    if tag != _SEQUENCE:
        raise ValueError("not a certificate")
    fields = list(_read(next(_read(outer))[1]))
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    # serial number, signature algorithm, issuer, validity, subject, public key, extensions
    issuer, validity, subject = (value for _, value in fields[2:5])
    before, after = (_time(kind, value) for kind, value in _read(validity))
    names: list[str] = []
    addresses: list[str] = []
    authority = False
    for kind, value in fields[6:]:
        if kind != _EXTENSIONS:
            continue
        for _, extension in _read(next(_read(value))[1]):
            parts = list(_read(extension))
            identifier, content = parts[0][1], parts[-1][1]
            if identifier == _ALTERNATIVE_NAMES:
                for form, name in _read(next(_read(content))[1]):
                    if form == _DNS:
                        names.append(name.decode("ascii"))
                    elif form == _IP:
                        addresses.append(str(ipaddress.ip_address(name)))
            elif identifier == _BASIC_CONSTRAINTS:
                authority = any(form == _BOOLEAN and flag != b"\x00" for form, flag in _read(next(_read(content))[1]))
    return Certificate(
        der=der, subject=subject, issuer=issuer, title=_common_name(subject), issuer_title=_common_name(issuer),
        not_before=before, not_after=after, names=tuple(names), addresses=tuple(addresses), authority=authority,
    )  # fmt: skip


def _read(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each value that stands in data."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                raise ValueError("not a certificate")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("not a certificate: it is cut short")
        yield tag, data[at : at + length]
        at += length


def _time(kind: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year: 50 to 99 were before 2000
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _common_name(name: bytes) -> str:
    for _, part in _read(name):
        for _, pair in _read(part):
            (_, identifier), (_, value) = list(_read(pair))[:2]
            if identifier == _COMMON_NAME:
                return value.decode("utf-8", errors="replace")
    return ""
