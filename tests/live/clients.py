"""Requests of many clients from this one machine.

The front door counts the requests of each client (stack/derive/rates.py), and all of a test come from one address.
Where a test asks more often than a person does, its stack trusts that address as a proxy, and each request is another
client's.
"""

from __future__ import annotations

import itertools

# As the front door sees this machine: Docker's networks are among these.
PROXIES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")

_numbers = itertools.count(1)


def another() -> dict[str, str]:
    """The header of a request from an address that nobody has had before (RFC 2544 keeps these for such tests)."""
    number = next(_numbers)
    return {"X-Forwarded-For": f"198.18.{number // 250 % 250}.{number % 250}"}


def line() -> str:
    """The same for a request that is written by hand."""
    return "".join(f"{name}: {value}\r\n" for name, value in another().items())
