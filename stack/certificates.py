"""Where the certificate that people see comes from, and whether one that the operator brings can be used.

Inside the stack, and for its own administration, the front door always shows a certificate of the stack's CA: what is
decided here is for those who come from outside (docs/adr/0028-certificates.md). Files are read, nothing is changed.
"""

from __future__ import annotations

import hashlib
import itertools
import ssl
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from stack import x509
from stack.model import CertificateSource, Challenge, Problem
from stack.words import listed

if TYPE_CHECKING:
    from stack.plan import Plan
    from stack.settings import Settings


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"

# Names that no public authority signs for (RFC 2606, RFC 6761, RFC 6762, RFC 8375, ICANN's .internal).
NOBODYS = ("localhost", "test", "example", "invalid", "local", "internal", "lan", "home.arpa")

ALERT_DAYS = 7  # with so little left, renewal has failed for weeks: three weeks with the usual 90 days

# The front door says this at METRICS_PATH of its certificate listener, about the certificate that it shows outside.
METRIC = "aikit_front_certificate_not_after_seconds"
METRIC_HELP = "When the certificate that the front door shows outside ends, in seconds since 1970."
ALERT = f"{METRIC} - time() < {ALERT_DAYS} * 86400"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A chain, the server's own certificate first, and its private key: PEM. The key is secret."""

    chain_pem: str
    key_pem: str

    @property
    def pem(self) -> str:
        """Both in one, as HAProxy takes it."""
        return f"{self.key_pem.strip()}\n{self.chain_pem.strip()}\n"


def public_chain(settings: Settings) -> bool:
    """Whether everybody outside trusts what they are shown, without having imported anything.

    Only then may a browser be told never to come back without it (HSTS).
    """
    if settings.certificates is CertificateSource.OWN_CA or settings.certificate_roots:
        return False
    return settings.certificates is CertificateSource.FILES or settings.acme_directory != STAGING


def read(settings: Settings) -> Pair:
    """The operator's chain and key. OSError where they cannot be read: see problems()."""
    chain = Path(settings.certificate_chain).read_text(encoding="ascii")
    return Pair(chain_pem=chain, key_pem=Path(settings.certificate_key).read_text(encoding="ascii"))


def fingerprint(settings: Settings) -> str:
    """SHA-256 of the operator's chain, hexadecimal: public, and another one as soon as the certificate is renewed."""
    return hashlib.sha256(Path(settings.certificate_chain).read_bytes()).hexdigest()


def roots_pem(settings: Settings) -> str:
    """The roots that the operator named, "" for none."""
    return Path(settings.certificate_roots).read_text(encoding="ascii") if settings.certificate_roots else ""


def trusted_outside(settings: Settings, ca_pem: str) -> str:
    """What verifies the front door from outside: the stack's CA, and where another signs, public roots and named ones.

    The stack's CA stays: until the first certificate has come, its own is shown.
    """
    if settings.certificates is CertificateSource.OWN_CA:
        return ca_pem
    return "\n".join((ca_pem, roots_pem(settings), _public_roots()))


def _public_roots() -> str:
    import certifi  # not before it is needed: ./kit starts without any package

    return Path(certifi.where()).read_text(encoding="ascii")


# --------------------------------------------------------------------------------------------------- checks


def problems(plan: Plan, root: Path, now: datetime | None = None) -> tuple[Problem, ...]:
    """Everything that is wrong with what the operator brings. () for a stack that is down: nobody is shown anything.

    root: the clone, in which no key belongs. now: when, the present by default.
    """
    settings = plan.settings
    if settings.down:
        return ()
    found = list(_roots(settings))
    if settings.certificates is CertificateSource.FILES:
        found += _files(settings, plan.host_names, root, now or datetime.now(UTC), trusts=not found)
    elif settings.certificates is CertificateSource.ACME:
        found += _acme(settings, plan.host_names)
    return tuple(found)


def _roots(settings: Settings) -> Iterator[Problem]:
    if not settings.certificate_roots:
        return
    where = "certificateRoots"
    text = _text(Path(settings.certificate_roots))
    if isinstance(text, Problem):
        yield Problem(where=where, what=text.what, fix=text.fix)
        return
    try:
        found = x509.chain(text)
    except ValueError as error:
        yield Problem(where=where, what=f"{settings.certificate_roots}: {error}", fix="write it again, as PEM")
        return
    if not found:
        fix = "name a PEM file with the authority's own certificate, or take the key out for a public one"
        yield Problem(where=where, what=f"{settings.certificate_roots} has no certificate in it", fix=fix)
    for each in found:
        if not each.authority:
            what = f"{settings.certificate_roots} has {each.title or 'a certificate'}, which is no authority"
            yield Problem(where=where, what=what, fix="name the certificate that signs the others, not the server's")


def _files(settings: Settings, hosts: Collection[str], root: Path, now: datetime, *, trusts: bool) -> Iterator[Problem]:
    chain_path, key_path = Path(settings.certificate_chain), Path(settings.certificate_key)
    wrong = [*_place("certificateKey", key_path, root)]
    chain_text, key_text = _text(chain_path), _text(key_path)
    if isinstance(chain_text, Problem):
        wrong.append(Problem(where="certificateChain", what=chain_text.what, fix=chain_text.fix))
    if isinstance(key_text, Problem):
        wrong.append(Problem(where="certificateKey", what=key_text.what, fix=key_text.fix))
    yield from wrong
    if isinstance(chain_text, Problem) or isinstance(key_text, Problem):
        return
    try:
        chain = x509.chain(chain_text)
    except ValueError as error:
        yield Problem(where="certificateChain", what=f"{chain_path}: {error}", fix="write it again, as PEM")
        return
    broken = [*_chain(str(chain_path), chain, hosts, now), *_key(chain_path, key_path, key_text)]
    yield from broken
    if not broken and trusts:
        yield from _trust(settings, chain_path, key_path, chain)


def _text(path: Path) -> str | Problem:
    """What a file has, or why that cannot be said."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return Problem(where="", what=f"{path} is not there", fix="write the path of a PEM file on this machine")
    except UnicodeDecodeError:
        fix = f"convert it: openssl x509 -inform der -in {path} (a certificate), openssl pkcs12 -in {path} (PKCS #12)"
        return Problem(where="", what=f"{path} is no PEM", fix=fix)
    except OSError as error:
        return Problem(where="", what=f"{path} cannot be read: {error.strerror}", fix=f"ls -l {path}")


def _place(where: str, path: Path, root: Path) -> Iterator[Problem]:
    """A key lies where nobody else reads it and nobody commits it."""
    if path.resolve().is_relative_to(root.resolve()):
        fix = f"move it out of the clone, such as to /etc/ssl/private/{path.name}: what lies here is committed one day"
        yield Problem(where=where, what=f"{path} is inside {root}", fix=fix)
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # said when it is read
    if stat.S_IMODE(mode) & 0o007:
        what = f"{path} can be read by everybody on this machine (mode {stat.S_IMODE(mode):04o})"
        if not mode & 0o004:
            what = f"{path} can be changed by everybody on this machine (mode {stat.S_IMODE(mode):04o})"
        yield Problem(where=where, what=what, fix=f"chmod o= {path}, and think about whether somebody did")


def _chain(path: str, chain: tuple[x509.Certificate, ...], hosts: Collection[str], now: datetime) -> Iterator[Problem]:
    where = "certificateChain"
    if not chain:
        fix = "name the PEM file of the certificate, intermediate ones below it (often called fullchain.pem)"
        yield Problem(where=where, what=f"{path} has no certificate in it", fix=fix)
        return
    own = chain[0]
    if own.authority:
        fix = "the server's own certificate comes first, then each one that signed the one above it"
        yield Problem(where=where, what=f"{path} begins with an authority, {own.title or 'without a name'}", fix=fix)
        return
    for index, (lower, upper) in enumerate(itertools.pairwise(chain), start=2):
        if lower.issuer != upper.subject:
            what = f"{path}: certificate {index} is {_named(upper.title)}, and {_named(lower.issuer_title)} signed the "
            fix = "the server's own comes first, then each one that signed the one above it, and nothing else"
            yield Problem(where=where, what=f"{what}one before it", fix=fix)
    uncovered = [host for host in hosts if not own.covers(host)]
    if uncovered:
        fix = f"have it signed for each of these names, or for *.{_parent(uncovered[0])}"
        what = f"{path} is for {listed(own.names) or 'no name'}, and not for {listed(uncovered)}"
        yield Problem(where=where, what=what, fix=fix)
    for each in chain:
        who = "" if each is own else f" ({_named(each.title)} in it)"
        if each.not_after <= now:
            what = f"{path}{who} ended on {each.not_after:%Y-%m-%d}, {-each.days_left(now):.0f} days ago"
            yield Problem(where=where, what=what, fix="renew it where you had it from, and run this again")
        elif each.not_before > now:
            fix = "wait until then, or mend this machine's clock (./kit doctor looks at it)"
            yield Problem(where=where, what=f"{path}{who} begins on {each.not_before:%Y-%m-%d %H:%M} UTC", fix=fix)


def _named(title: str) -> str:
    return f'"{title}"' if title else "one without a name"


def _parent(host: str) -> str:
    return host.partition(".")[2] or host


def _key(chain_path: Path, key_path: Path, key_text: str) -> Iterator[Problem]:
    where = "certificateKey"
    if "PRIVATE KEY-----" not in key_text:
        fix = "name the PEM file that begins with -----BEGIN PRIVATE KEY----- (or EC or RSA PRIVATE KEY)"
        yield Problem(where=where, what=f"{key_path} has no private key in it", fix=fix)
        return
    if "ENCRYPTED" in key_text:
        fix = f"take that off: openssl pkey -in {key_path} -out KEY.pem. Nobody is there to type it when HAProxy starts"
        yield Problem(where=where, what=f"{key_path} is locked with a password", fix=fix)
        return
    try:
        _server(chain_path, key_path)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "mismatch" in reason:
            what, fix = f"is not the key of {chain_path}", "name the key that the certificate was asked for with"
        else:
            what, fix = f"cannot be used with {chain_path}: {reason}", f"look at it: openssl pkey -in {key_path} -check"
        yield Problem(where=where, what=f"{key_path} {what}", fix=fix)


def _server(chain: Path, key: Path) -> ssl.SSLContext:
    """A server with this chain and key. ssl.SSLError when they do not belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key, password=lambda: b"")
    return context


def _trust(
    settings: Settings, chain_path: Path, key_path: Path, chain: tuple[x509.Certificate, ...]
) -> Iterator[Problem]:
    """A handshake in memory with somebody who trusts the public roots, or those that are named and no others."""
    visitor = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    visitor.check_hostname = False  # names are looked at one by one
    visitor.load_verify_locations(cadata=roots_pem(settings) or _public_roots())
    try:
        _shake_hands(_server(chain_path, key_path), visitor)
    except ssl.SSLCertVerificationError as error:
        top = chain[-1]
        what = f"{chain_path} ends at {_named(top.issuer_title)}, which is not trusted: {error.verify_message}"
        if settings.certificate_roots:
            fix = f"add the missing intermediate certificates, or put that root into {settings.certificate_roots}"
        else:
            fix = "add the missing intermediate certificates; for an authority of your own, certificateRoots: its PEM"
        yield Problem(where="certificateChain", what=what, fix=fix)


def _shake_hands(server: ssl.SSLContext, visitor: ssl.SSLContext) -> None:
    """ssl.SSLError when the two do not come together."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (visitor.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True))
    for _ in range(6):  # flights: two or three are enough
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == len(ends):
            return


def _acme(settings: Settings, hosts: Iterable[str]) -> Iterator[Problem]:
    """What a public authority would refuse, and would count: five failures an hour are all that there are."""
    if settings.acme_directory not in (LETS_ENCRYPT, STAGING):
        return
    if any(settings.domain == name or settings.domain.endswith(f".{name}") for name in NOBODYS):
        fix = "choose a domain that you own, or certificates: own-ca"
        what = f"{settings.domain} is a name that no public authority signs for"
        yield Problem(where="domain", what=what, fix=fix)
    if settings.acme_challenge is Challenge.HTTP_01:
        if settings.bind_address in ("127.0.0.1", "::1"):
            what = f"{settings.bind_address}, where the authority cannot ask (acmeChallenge: http-01)"
            fix = "set bindAddress to where port 80 of your names arrives, or acmeChallenge to dns-01"
            yield Problem(where="bindAddress", what=what, fix=fix)
        if len(set(hosts)) > 100:
            fix = "choose acmeChallenge: dns-01, which asks for one wildcard"
            yield Problem(where="certificates", what="more than 100 names in one certificate", fix=fix)
