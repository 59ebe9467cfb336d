"""Registrations of the certificate components."""

from __future__ import annotations

import pulumi
import pytest

from components.certificate import (
    CaArgs,
    CertificateAuthority,
    CrossArgs,
    CrossCertificate,
    LeafArgs,
    LeafCertificate,
)
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
    assert certificate.inputs["validityPeriodHours"] <= 366 * 24
    assert certificate.inputs["earlyRenewalHours"] == 30 * 24
    assert "server_auth" in certificate.inputs["allowedUses"]
    assert "isCaCertificate" not in certificate.inputs
    assert "caPrivateKeyPem" in certificate.secret_inputs
    assert not recording.one("PrivateKey", "leaf-key").protect
    assert seen == ["KEY leaf-key\nCERTIFICATE leaf\nCERTIFICATE ca\n", "CERTIFICATE leaf\n", True]


def test_the_older_authority_signs_name_and_key_of_the_newer_one() -> None:
    seen: list[object] = []

    def program() -> object:
        old = CertificateAuthority("ca", CaArgs(common_name="kit CA", protect=False))
        new = CertificateAuthority("ca-g2", CaArgs(common_name="kit CA 2", after=[old.own]))
        cross = CrossCertificate("ca-g2-cross", CrossArgs(ca=new, by=old))
        leaf = LeafCertificate("leaf", LeafArgs(ca=new, hosts=["chat.kit"], cross=cross))
        return leaf.pem.apply(seen.append)

    recording = record(program)
    request, cross = recording.one("CertRequest", "ca-g2-cross-request"), recording.one("Cert", "ca-g2-cross")
    assert request.inputs["subject"] == {"commonName": "kit CA 2", "organization": "ai-kit"}
    assert request.inputs["subject"] == recording.one("SelfSignedCert", "ca-g2").inputs["subject"]
    assert cross.inputs["isCaCertificate"] is True and cross.inputs["setSubjectKeyId"] is True
    assert cross.inputs["allowedUses"] == ["cert_signing", "crl_signing"]
    assert cross.inputs["caCertPem"] == "CERTIFICATE ca\n" and "caPrivateKeyPem" in cross.secret_inputs
    assert not cross.protect and not recording.one("PrivateKey", "ca-key").protect
    newer = recording.one("PrivateKey", "ca-g2-key")
    assert newer.protect and "ca" in recording.names(newer.dependencies)
    # Not the newer one's own: a client that trusts the older one alone might take that and stop.
    assert seen == ["KEY leaf-key\nCERTIFICATE leaf\nCERTIFICATE ca-g2-cross\n"]


def test_a_leaf_needs_a_name() -> None:
    with pytest.raises(ValueError, match="host name"):
        record(lambda: LeafArgs(ca=CertificateAuthority("ca", CaArgs(common_name="x")), hosts=[]))
