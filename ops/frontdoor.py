"""Browsers at a stack's front door, from wherever ./kit runs: no DNS entry and no installed CA needed."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

from stack.derive import rates
from stack.plan import Plan
from stack.proofs.context import Login, ProofError
from stack.proofs.totp import Authenticator

TIMEOUT = httpx.Timeout(60, connect=10)
MAX_REDIRECTS = 20
PATIENCE = 60.0  # seconds in which a request that came too often is sent again


def address_of(plan: Plan) -> str:
    """Where the front door is reached from this machine: the bind address, or the host that Docker runs on."""
    host = plan.settings.docker_host or ""
    if host.startswith("ssh://"):
        return urlsplit(host).hostname or "127.0.0.1"
    bind = plan.settings.bind_address
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104


def answers(host: str, port: int) -> bool:
    """Whether anybody takes connections there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


class Door(httpx.BaseTransport):
    """Connects to `address` for the stack's domain and all names in it; TLS still asks for the name.

    Who asks more often than one client may is told to come back later, and does: proofs are many requests at once, and
    somebody may run them twice.
    """

    def __init__(self, domain: str, address: str, context: ssl.SSLContext) -> None:
        self._domain = domain
        self._address = address
        self._through = httpx.HTTPTransport(verify=context, retries=1, trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host != self._domain and not host.endswith(f".{self._domain}"):
            return self._through.handle_request(request)
        meant = httpx.Request(
            request.method,
            request.url.copy_with(host=self._address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._through.handle_request(meant)
            wait = _told_to_wait(answer)
            if not wait or not isinstance(request.stream, httpx.ByteStream) or time.monotonic() + wait > end:
                return answer
            answer.close()
            time.sleep(wait)

    def close(self) -> None:
        self._through.close()


def trust(ca_pem: str) -> ssl.SSLContext:
    """TLS that believes these authorities, the stack's own CA among them, and nobody else."""
    return ssl.create_default_context(cadata=ca_pem)


def _told_to_wait(answer: httpx.Response) -> int:
    """The seconds after which the front door takes the request. 0 for an answer, a service's own 429 among them."""
    if answer.status_code != httpx.codes.TOO_MANY_REQUESTS or rates.REFUSED not in answer.headers:
        return 0
    return int(answer.headers.get("retry-after", "0"))


def browser(domain: str, address: str, ca_pem: str) -> httpx.Client:
    """A browser without anybody logged in. It follows redirects and keeps cookies."""
    return httpx.Client(
        transport=Door(domain, address, trust(ca_pem)),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=TIMEOUT,
        trust_env=False,
        headers={"User-Agent": "kit-prove", "Accept": "text/html,application/json;q=0.9,*/*;q=0.8"},
    )


@dataclass
class SecondFactor:
    """The authenticator app of one person: empty until the issuer asks for one to be set up."""

    app: Authenticator | None = None

    def answer(self, visitor: httpx.Client, page: httpx.Response, issuer: str) -> httpx.Response:
        """What follows once the pages that ask for a code, or for an app to be set up, are answered. Each once."""
        for wanted in ("kc-totp-settings-form", "kc-otp-login-form"):
            while page.is_redirect and _at_next(page, issuer):
                page = visitor.get(urljoin(str(page.url), page.headers["location"]))
            forms = forms_of(page, issuer)
            if forms is None or wanted not in forms.actions:
                continue
            if wanted == "kc-totp-settings-form":
                key = forms.fields["totpSecret"]
                self.app = Authenticator(key.encode())
                said = {"totp": self.app.next(), "totpSecret": key, "userLabel": "kit"}
            elif self.app:
                said = {"otp": self.app.next()}
            else:
                raise ProofError("the identity provider asks for a code of an app that is not ours")
            page = visitor.post(urljoin(str(page.url), forms.actions[wanted]), data=said)
        return page


def log_in(
    visitor: httpx.Client, start: str, issuer: str, username: str, password: str, second: SecondFactor | None = None
) -> Login:
    """Open `start`; fill in the issuer's login form when it is shown. ProofError says what came instead."""
    page = visitor.get(start)
    form = login_form(page, issuer)
    if form is None:
        return Login(browser=visitor, response=page, asked=False)
    page = visitor.post(form, data={"username": username, "password": password, "credentialId": ""})
    if second:
        page = second.answer(visitor, page, issuer)
    _refuse_other_pages(page, issuer)
    return Login(browser=visitor, response=page, asked=True)


def authorize(
    visitor: httpx.Client, url: str, issuer: str, username: str, password: str, second: SecondFactor | None = None
) -> httpx.Response:
    """Open an authorization URL, log in where asked, and return the redirect that carries the code."""
    visitor.follow_redirects = False
    try:
        page = visitor.get(url)
        form = login_form(page, issuer)
        if form is not None:
            page = visitor.post(form, data={"username": username, "password": password, "credentialId": ""})
        if second:
            page = second.answer(visitor, page, issuer)
        for _ in range(MAX_REDIRECTS):
            if not page.is_redirect:
                _refuse_other_pages(page, issuer)
                raise ProofError(f"the identity provider answered {page.status_code} and led nowhere")
            target = urljoin(str(page.url), page.headers["location"])
            if "code=" in urlsplit(target).query or "error=" in urlsplit(target).query:
                return page
            page = visitor.get(target)
        raise ProofError("the identity provider redirects for ever")
    finally:
        visitor.follow_redirects = True


def login_form(page: httpx.Response, issuer: str) -> str | None:
    """Where the issuer's login form on this page posts to. None when the page is no login form."""
    forms = forms_of(page, issuer)
    action = forms.actions.get("kc-form-login") if forms else None
    return urljoin(str(page.url), action) if action else None


def forms_of(page: httpx.Response, issuer: str) -> Forms | None:
    """The forms of a page of the issuer; None of a page of anybody else."""
    if not _at(page, issuer):
        return None
    forms = Forms()
    forms.feed(page.text)
    return forms


def _refuse_other_pages(page: httpx.Response, issuer: str) -> None:
    """A page of the issuer after the password means that it wants something else, or did not like it."""
    if not _at(page, issuer):
        return
    found = (match.group(1) for pattern in _MESSAGES for match in re.finditer(pattern, page.text, re.DOTALL))
    said = (" ".join(re.sub(r"<[^>]*>", " ", words).split()) for words in found)
    words = next(filter(None, said), "no reason given")
    raise ProofError(f"the identity provider did not let the user in ({page.status_code}): {words}")


_MESSAGES = (
    r'id="input-error[^"]*"[^>]*>(.*?)</',
    r'class="[^"]*kc-feedback-text[^"]*"[^>]*>(.*?)<',
    r'id="kc-error-message"[^>]*>\s*<p[^>]*>(.*?)<',
    r'id="kc-page-title"[^>]*>(.*?)<',
)


def _at(page: httpx.Response, issuer: str) -> bool:
    wanted = httpx.URL(issuer)
    return page.url.host == wanted.host and page.url.path.startswith(wanted.path)


def _at_next(page: httpx.Response, issuer: str) -> bool:
    """Whether a redirect stays with the issuer's login, where there may be more to answer."""
    target = urljoin(str(page.url), page.headers["location"])
    return target.startswith(f"{issuer}/login-actions/")


class Forms(HTMLParser):
    """actions: where each form posts to, by its id. fields: what its inputs hold, by their names."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.actions: dict[str, str] = {}
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.actions[found.get("id") or ""] = found.get("action") or ""
        elif tag == "input" and found.get("name"):
            self.fields[found["name"] or ""] = found.get("value") or ""
