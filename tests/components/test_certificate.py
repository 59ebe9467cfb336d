"""Registrations of the certificate components."""

from __future__ import annotations

import pulumi
import pytest

from components.certificate import CaArgs, CertificateAuthority, LeafArgs, LeafCertificate
from tests.components.recording import record


def test_an_authority_signs_certificates_for_ten_years_and_is_protected() -> None:
    recording = record(lambda: CertificateAuthority("ca", CaArgs(common_name="kit CA")))
    key, certificate = recording.one("PrivateKey"), recording.one("SelfSignedCert")
    assert key.inputs == {"algorithm": "ECDSA", "ecdsaCurve": "P256"}
    assert key.protect
    assert certificate.protect
    assert certificate.inputs["isCaCertificate"] is True
    assert certificate.inputs["validityPeriodHours"] == 10 * 365 * 24
    assert certificate.inputs["allowedUses"] == ["cert_signing", "crl_signing"]
    assert certificate.secret_inputs == {"privateKeyPem"}


def test_a_leaf_has_all_names_its_own_key_and_renews_early() -> None:
    seen: list[object] = []

    def program() -> object:
        ca = CertificateAuthority("ca", CaArgs(common_name="kit CA"))
        leaf = LeafCertificate("leaf", LeafArgs(ca=ca, hosts=["chat.kit", "auth.kit"], ips=["127.0.0.1"]))
        secret = pulumi.Output.from_input(leaf.pem.is_secret())
        return pulumi.Output.all(leaf.pem, leaf.certificate_pem, secret).apply(seen.extend)

    recording = record(program)
    request, certificate = recording.one("CertRequest"), recording.one("LocallySignedCert")
    assert request.inputs["dnsNames"] == ["chat.kit", "auth.kit"]
    assert request.inputs["ipAddresses"] == ["127.0.0.1"]
    assert certificate.inputs["validityPeriodHours"] <= 397 * 24
    assert certificate.inputs["earlyRenewalHours"] == 30 * 24
    assert "server_auth" in certificate.inputs["allowedUses"]
    assert "isCaCertificate" not in certificate.inputs
    assert "caPrivateKeyPem" in certificate.secret_inputs
    assert not recording.one("PrivateKey", "leaf-key").protect
    assert seen == ["KEY leaf-key\nCERTIFICATE leaf\nCERTIFICATE ca\n", "CERTIFICATE leaf\n", True]


def test_a_leaf_needs_a_name() -> None:
    with pytest.raises(ValueError, match="host name"):
        record(lambda: LeafArgs(ca=CertificateAuthority("ca", CaArgs(common_name="x")), hosts=[]))
