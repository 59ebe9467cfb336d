"""Leaving, as a person does who signs out at the identity provider."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urljoin

import httpx

from stack.proofs.context import ProofError, expect


def leave(browser: httpx.Client, issuer: str, client: str) -> None:
    """Open the issuer's page for signing out, and confirm. ProofError when it does not say that it is done."""
    address = f"{issuer}/protocol/openid-connect/logout"
    confirm(browser, expect(browser.get(address, params={"client_id": client}), 200, "the page for signing out"))


def confirm(browser: httpx.Client, page: httpx.Response) -> httpx.Response:
    """Say yes on the issuer's page for signing out; what comes then."""
    form = re.search(r'<form[^>]*action="([^"]*logout-confirm[^"]*)"', page.text)
    if form is None:
        raise ProofError("the page for signing out asks for nothing: nobody was signed in there")
    fields = {
        name: unescape(value)
        for field in re.findall(r"<input[^>]*>", page.text)
        for name, value in [(_attribute(field, "name"), _attribute(field, "value"))]
        if name
    }
    return expect(browser.post(urljoin(str(page.url), unescape(form.group(1))), data=fields), 200, "signing out")


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return found.group(1) if found else ""
