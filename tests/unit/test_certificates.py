"""The front door's certificate: what is refused before anything changes, what is shown where, how long it lasts.

Certificates are made by openssl, with every date and name that is wanted; nothing is deployed.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops import certificates as ops_certificates
from ops.certificates import Shown
from ops.doctor import Facts, Level, examine
from ops.stackstate import StackState
from stack import certificates, settings, x509
from stack.catalog import discover, provided_keys
from stack.certificates import LETS_ENCRYPT, STAGING
from stack.derive import acme, ingress, runtime
from stack.derive.values import FrontPiece
from stack.model import CertificateSource, Challenge, Role, SpecError, Target
from stack.plan import Plan, build
from stack.settings import Settings
from stack.targets import profile
from tests.authority import Authority

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

SERVICES = discover()
NOW = datetime.now(UTC)
CLONE = Path(__file__).resolve().parents[2]


def planned(**changes: Any) -> Plan:
    changes = {"stack": "test", "target": Target.DEV, "domain": "home.example.org", **changes}
    decided = Settings(**changes)
    return build(decided, profile(decided), SERVICES)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.leaf("good", "*.home.example.org", "home.example.org")
    made.write("chain.pem", made.text("good.pem", "middle.pem"))
    return made


def brought(authority: Authority, chain: str = "chain.pem", key: str = "good.key", **more: Any) -> Plan:
    roots = more.pop("roots", "root.pem")
    return planned(
        certificates=CertificateSource.FILES,
        certificate_chain=str(authority.folder / chain),
        certificate_key=str(authority.folder / key),
        certificate_roots=str(authority.folder / roots) if roots else "",
        **more,
    )


def wrong(plan: Plan, now: datetime | None = None) -> list[str]:
    return [str(problem) for problem in certificates.problems(plan, CLONE, now)]


# ------------------------------------------------------------------------------------------------------- reading


def test_what_is_read_is_what_openssl_says(authority: Authority) -> None:
    found = x509.chain(authority.text("chain.pem"))
    assert [each.authority for each in found] == [False, True]
    assert found[0].names == ("*.home.example.org", "home.example.org") and found[0].addresses == ("127.0.0.1",)
    assert found[0].issuer == found[1].subject and found[0].issuer_title == "Test Middle" and found[0].title == ""
    assert not found[0].self_issued and x509.chain(authority.text("root.pem"))[0].self_issued
    assert 89 < found[0].days_left(NOW) <= 90.1
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", str(authority.folder / "good.pem")],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    if "=" in shown:  # Debian 12's has the option
        assert f"{found[0].not_after:%Y-%m-%d %H:%M:%S}Z" in shown


def test_every_public_root_can_be_read() -> None:
    import certifi

    found = x509.chain(Path(certifi.where()).read_text(encoding="ascii"))
    assert len(found) > 100 and all(each.self_issued for each in found)


@pytest.mark.parametrize(
    ("name", "host", "covers"),
    [
        ("chat.home.example", "chat.home.example", True),
        ("CHAT.home.example.", "chat.home.example", True),
        ("*.home.example", "chat.home.example", True),
        ("*.home.example", "a.b.home.example", False),
        ("*.home.example", "home.example", False),
        ("home.example", "xhome.example", False),
        ("*", "home", False),
    ],
)
def test_a_wildcard_stands_for_one_label(authority: Authority, name: str, host: str, covers: bool) -> None:
    some = x509.chain(authority.text("good.pem"))[0]
    assert replace(some, names=(name,)).covers(host) is covers


@pytest.mark.parametrize(
    "der", [b"", b"\x30", b"\x30\x03\x02\x01\x01", b"\x30\x85\x01\x01\x01\x01\x01", b"nonsense" * 9]
)
def test_what_is_no_certificate_is_said_to_be_none(der: bytes) -> None:
    with pytest.raises(ValueError, match="not a certificate"):
        x509.parse(der)


def test_a_certificate_that_is_cut_short_is_none(authority: Authority) -> None:
    whole = ssl.PEM_cert_to_DER_cert(authority.text("good.pem"))
    for length in range(1, len(whole), 17):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever was cut
            x509.parse(whole[:length])


# ----------------------------------------------------------------------------------------------------- refusals


def test_a_whole_chain_with_its_key_is_taken(authority: Authority) -> None:
    assert wrong(brought(authority)) == []
    with_root = authority.write("with-root.pem", authority.text("good.pem", "middle.pem", "root.pem"))
    assert wrong(brought(authority, with_root.name)) == []


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    authority.leaf("other", "*.home.example.org")
    (found,) = wrong(brought(authority, key="other.key"))
    assert "certificateKey: " in found and "is not the key of" in found and "asked for with" in found


def test_names_that_are_missing_are_refused_by_name(authority: Authority) -> None:
    authority.leaf("few", "auth.home.example.org")
    authority.write("few-chain.pem", authority.text("few.pem", "middle.pem"))
    (found,) = wrong(brought(authority, "few-chain.pem", "few.key"))
    assert "is for auth.home.example.org, and not for chat.home.example.org" in found
    assert "*.home.example.org" in found and "not for auth" not in found


def test_one_that_ended_and_one_that_has_not_begun(authority: Authority) -> None:
    authority.leaf("old", "*.home.example.org", days=-3)
    authority.write("old-chain.pem", authority.text("old.pem", "middle.pem"))
    (found,) = wrong(brought(authority, "old-chain.pem", "old.key"))
    assert "3 days ago" in found and "renew it" in found
    early = wrong(brought(authority), NOW - timedelta(days=20))
    assert "begins on" in early[0] and "clock" in early[0] and '"Test Middle" in it' in early[1]


def test_an_intermediate_one_that_ended_is_named(authority: Authority) -> None:
    found = wrong(brought(authority), NOW + timedelta(days=1001))
    assert any('"Test Middle" in it' in each for each in found)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("middle.pem", "good.pem"), "begins with an authority, Test Middle"),
        (("good.pem", "root.pem"), '"Test Root", and "Test Middle" signed the one before it'),
        (("good.pem", "good.pem"), 'certificate 2 is one without a name, and "Test Middle" signed'),
        (("good.pem",), 'ends at "Test Middle", which is not trusted'),
        (("good.key",), "has no certificate in it"),
    ],
)
def test_a_chain_that_is_out_of_order_or_not_whole(authority: Authority, parts: tuple[str, ...], said: str) -> None:
    path = authority.write("broken.pem", authority.text(*parts))
    found = wrong(brought(authority, path.name))
    assert any(said in each and "certificateChain" in each for each in found), found


def test_a_chain_that_nobody_trusts_needs_its_root(authority: Authority) -> None:
    (found,) = wrong(brought(authority, roots=""))
    assert "is not trusted" in found and "certificateRoots" in found
    (leaf,) = wrong(brought(authority, roots="good.pem"))
    assert "certificateRoots: " in leaf and "no authority" in leaf
    (missing,) = wrong(brought(authority, roots="nowhere.pem"))
    assert "certificateRoots: " in missing and "is not there" in missing


@pytest.mark.parametrize(
    ("mode", "said"), [(0o644, "read by everybody"), (0o602, "changed by everybody"), (0o640, ""), (0o400, "")]
)
def test_a_key_that_everybody_reads_is_refused(authority: Authority, mode: int, said: str) -> None:
    authority.write("open.key", authority.text("good.key"), mode)
    found = wrong(brought(authority, key="open.key"))
    assert (len(found) == 1 and said in found[0] and "chmod o=" in found[0]) if said else found == []


def test_a_key_in_the_clone_is_refused(authority: Authority, tmp_path: Path) -> None:
    plan = brought(authority)
    (found,) = certificates.problems(plan, authority.folder)
    assert found.where == "certificateKey" and "is inside" in found.what
    link = tmp_path / "link.key"  # a link from outside to the inside
    link.symlink_to(authority.folder / "good.key")
    linked = replace(plan, settings=replace(plan.settings, certificate_key=str(link)))
    assert "is inside" in certificates.problems(linked, authority.folder)[0].what


def test_keys_that_cannot_be_used(authority: Authority) -> None:
    subprocess.run(
        ["openssl", "pkey", "-in", "good.key", "-aes128", "-passout", "pass:x", "-out", "locked.key"],
        cwd=authority.folder, check=True, capture_output=True,
    )  # fmt: skip
    (authority.folder / "locked.key").chmod(0o600)
    authority.write("none.key", authority.text("good.pem"))
    authority.write("torn.key", authority.text("good.key")[:80] + "\n-----END PRIVATE KEY-----\n")
    (authority.folder / "binary.key").write_bytes(b"\x30\x82\xff\xfe")
    for name, said in (
        ("locked.key", "locked with a password"),
        ("none.key", "has no private key in it"),
        ("torn.key", "cannot be used with"),
        ("binary.key", "is no PEM"),
        ("nowhere.key", "is not there"),
        (".", "cannot be read"),
    ):
        found = wrong(brought(authority, key=name))
        assert any(said in each and "certificateKey" in each for each in found), (name, found)
        assert not any(authority.text("good.key")[30:60] in each for each in found), "a key is in a message"


def test_everything_that_is_wrong_is_said_at_once(authority: Authority) -> None:
    authority.leaf("bad", "other.example", days=-1)
    authority.write("bad.key", authority.text("good.key"), 0o644)
    found = wrong(brought(authority, "bad.pem", "bad.key"))
    assert len(found) == 4, found  # read by all, not for our names, ended, another's key


def test_a_stack_that_is_down_needs_no_certificate(authority: Authority) -> None:
    assert wrong(brought(authority, key="nowhere.key", down=True)) == []


# ----------------------------------------------------------------------------------------------------- settings


def loaded(**raw: object) -> Settings:
    secret = frozenset({"acmeDnsCredentials"}) & set(raw)
    return settings.load("dev", {"target": "dev", **raw}, secret, provided_keys(SERVICES))


def refused(**raw: object) -> str:
    with pytest.raises(SpecError) as caught:
        loaded(**raw)
    return str(caught.value)


def test_what_a_source_needs_and_what_it_does_not_read() -> None:
    text = refused(certificates="files")
    assert "certificateChain: is not set" in text and "certificateKey: is not set" in text
    assert "acmeDns: is not set" in refused(certificates="acme", acmeChallenge="dns-01")
    assert "nobody reads it with certificates: own-ca" in refused(certificateKey="/etc/x.key")
    assert "certificates: acme" in refused(certificates="own-ca", acmeDns="cloudflare")
    assert "acmeChallenge: http-01" in refused(certificates="acme", acmeDns="cloudflare")
    assert "is no whole path" in refused(certificates="files", certificateKey="x.key", certificateChain="/x")
    assert "is no HTTPS URL" in refused(certificates="acme", acmeDirectory="http://ca.example/dir")
    assert "is no HTTPS URL" in refused(certificates="acme", acmeDirectory="https://ca.example/'; reboot;'")
    assert "is no source of certificates" in refused(certificates="letsencrypt")
    assert "choose another" in refused(certificates="acme", httpsPort=10443)
    assert loaded(certificates="acme").acme_directory == LETS_ENCRYPT


def test_what_a_public_authority_would_refuse_is_refused_here() -> None:
    def found(**changes: Any) -> str:
        return " ".join(wrong(planned(certificates=CertificateSource.ACME, **changes)))

    assert "no public authority signs for" in found(domain="kit.localhost", bind_address="0.0.0.0")
    assert "no public authority signs for" in found(domain="home.arpa", acme_directory=STAGING)
    assert "cannot ask" in found()
    assert found(bind_address="0.0.0.0") == ""
    assert (
        found(acme_challenge=Challenge.DNS_01, acme_dns="exec", provided_secrets=frozenset({"acmeDnsCredentials"}))
        == ""
    )
    assert found(domain="kit.localhost", acme_directory="https://ca.lan/dir") == ""


def test_dns_credentials_are_a_secret_and_only_with_dns() -> None:
    with pytest.raises(SpecError, match="acmeDnsCredentials"):
        planned(certificates=CertificateSource.ACME, acme_challenge=Challenge.DNS_01, acme_dns="exec")
    with pytest.raises(SpecError, match="clear text"):
        settings.load("dev", {"target": "dev", "acmeDnsCredentials": "TOKEN=x"}, frozenset(), provided_keys(SERVICES))


@pytest.mark.parametrize(
    ("changes", "public"),
    [
        ({}, False),
        ({"certificates": CertificateSource.ACME}, True),
        ({"certificates": CertificateSource.ACME, "acme_directory": STAGING}, False),
        ({"certificates": CertificateSource.ACME, "certificate_roots": "/x.pem"}, False),
        ({"certificates": CertificateSource.FILES, "certificate_chain": "/c", "certificate_key": "/k"}, True),
        ({"certificates": CertificateSource.FILES, "certificate_roots": "/x.pem"}, False),
    ],
)
def test_strict_transport_security_only_with_a_public_chain(changes: dict[str, Any], public: bool) -> None:
    decided = Settings(stack="test", target=Target.DEV)
    plan = planned(http_port=80, https_port=443, domain="kit.example.org")
    plan = replace(plan, settings=replace(plan.settings, **changes))
    assert certificates.public_chain(replace(decided, **changes)) is plan.public_chain is public
    if plan.settings.certificates is not CertificateSource.ACME:
        assert ("set-header Strict-Transport-Security" in ingress.config(plan)) is public


# ------------------------------------------------------------------------------------------------- what is made


def door(plan: Plan) -> runtime.ContainerPlan:
    provider = plan.provider(Role.INGRESS)
    assert provider
    return next(c for c in runtime.build(plan).containers if c.service == provider.name)


def binds(plan: Plan) -> dict[str, str]:
    lines = (
        line.split()
        for line in ingress.config(plan).splitlines()
        if line.strip().startswith("bind") and " crt " in line
    )
    return {words[1]: words[4] for words in lines}


def test_inside_and_for_the_program_the_stacks_own_ca_signs_always(authority: Authority) -> None:
    own = "/run/kit/certs/"
    assert binds(planned()) == dict.fromkeys((":10443", ":8443", ":10444", ":10407"), own)
    files = "/run/kit/front/front.pem"
    assert binds(brought(authority)) == {":10443": files, ":8443": own, ":10444": own, ":10407": files}
    live = "/run/certificates/live.pem"
    signed = planned(certificates=CertificateSource.ACME)
    assert binds(signed) == {":10443": live, ":8443": own, ":10444": own, ":10407": live}


def test_a_renewed_file_is_read_anew_and_restarts_nothing(authority: Authority) -> None:
    file = next(file for file in door(brought(authority)).files if file.name == "front/front.pem")
    assert file.text == (FrontPiece(),) and not file.restarts and file.mode == "0400"
    assert "front/front.pem" not in {file.name for file in door(planned()).files}


def test_the_acme_client_comes_with_acme_alone_and_before_the_front_door() -> None:
    assert planned().provider(Role.CERTIFICATES) is None
    plan = planned(certificates=CertificateSource.ACME)
    client = plan.provider(Role.CERTIFICATES)
    assert client is not None
    front = door(plan)
    assert client.containers[0].docker_name in front.after
    volume = next(mount for mount in front.mounts if mount.path == "/run/certificates")
    assert volume.read_only
    reload = next(job for job in runtime.build(plan).jobs if job.reloads == front.name)
    assert volume in reload.mounts, "the check of the configuration needs what it names"
    assert front.command[:2] == ("sh", "/run/kit/watch.sh") and front.command[-2:] == ("-f", "/run/kit/haproxy.cfg")
    made = next(c for c in runtime.build(plan).containers if c.service == client.name)
    assert made.read_only and not made.capabilities and not made.publish and made.user == "8402:99"
    assert not [name for name in made.env if "DNS" in name or "TOKEN" in name]


def test_http_01_is_answered_at_port_80_without_a_way_to_tls() -> None:
    text = ingress.config(planned(certificates=CertificateSource.ACME))
    assert "unless { path -m beg /.well-known/acme-challenge/ }" in text
    assert "use_backend challenge if { path -m beg /.well-known/acme-challenge/ }" in text
    assert "acme-challenge" not in ingress.config(planned())


def test_names_are_the_plans_or_one_wildcard() -> None:
    plan = planned(certificates=CertificateSource.ACME)
    assert acme.names(plan).split() == sorted(plan.host_names)
    said = planned(
        certificates=CertificateSource.ACME, acme_challenge=Challenge.DNS_01, acme_dns="exec", acme_dns_wait=5,
        provided_secrets=frozenset({"acmeDnsCredentials"}),
    )  # fmt: skip
    assert acme.names(said).split() == ["*.home.example.org", "home.example.org"]
    order = dict(line.split("=", 1) for line in acme.order(said).splitlines())
    assert order == {
        "DIRECTORY": f"'{LETS_ENCRYPT}'", "CHALLENGE": "'dns-01'", "DNS": "'exec'", "DNS_WAIT": "'5'",
        "DOOR_HOST": "''", "DOOR_PORT": "''",
    }  # fmt: skip
    assert "DOOR_PORT='10080'" in acme.order(plan)


# ---------------------------------------------------------------------------------------------------- how long


def lasting(days: float) -> Shown:
    return Shown(signed_by="X", ends=NOW + timedelta(days=days), days=days)


@pytest.mark.parametrize(("days", "short"), [(40, False), (7.1, False), (6.9, True), (0.5, True), (-2, True)])
def test_less_than_seven_days_is_told(days: float, short: bool) -> None:
    plan = planned()
    noted, warned = ops_certificates.lines(plan, lasting(days))
    assert bool(warned) is short and bool(noted) is not short
    assert not short or "./kit up test renews it" in warned[0]
    checks = {check.name: check for check in examine(Facts(engine=None, certificate=lasting(days)), plan, "test")}
    assert checks["certificate"].level is (Level.WARN if short else Level.OK), "up must be able to mend it"


def test_words_for_what_is_left() -> None:
    assert lasting(40.2).sentence().startswith("40 days left, until ")
    assert lasting(0.5).sentence().startswith("12 hours left")
    assert lasting(-2.1).sentence().startswith("ended 2 days ago")


def test_a_renewed_file_is_due(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = brought(authority)
    known = certificates.fingerprint(plan.settings)

    class Session:
        state = StackState(CLONE, "test")

    for output, due in ((known, False), ("0" * 64, True), (None, False)):
        monkeypatch.setattr(ops_certificates, "_outputs", lambda _, output=output: {"frontCertificate": output})
        assert ops_certificates.renewed(Session(), plan) is due  # pyright: ignore[reportArgumentType]
        assert not ops_certificates.renewed(Session(), planned())  # pyright: ignore[reportArgumentType]
