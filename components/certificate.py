"""The stack's own certificate authority, and certificates for its host names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_tls as tls

from components.common import After, child

ORGANIZATION = "ai-kit"
HOURS_A_DAY = 24
CA_DAYS = 3650
CROSS_DAYS = 825  # how long the older CA vouches for the newer one; made anew by an `up` in its last 30 days
LEAF_DAYS = 365  # Mozilla's intermediate profile wants 366 at the most, browsers 398
RENEW_DAYS = 30  # a leaf is made anew by the first `up` in its last 30 days


@dataclass(frozen=True, kw_only=True)
class CaArgs:
    """protect: a new CA has to be trusted anew by every browser. after: what comes first, such as an older CA.

    common_name: each generation's is another, so that who builds a chain by names takes the right one.
    """

    common_name: str
    protect: bool = True
    after: After = ()


class CertificateAuthority(pulumi.ComponentResource):
    """ECDSA P-256, 10 years, signs leaves, and its successor."""

    common_name: str
    ca_pem: pulumi.Output[str]
    private_key_pem: pulumi.Output[str]
    own: tls.SelfSignedCert

    def __init__(self, name: str, args: CaArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:tls:CertificateAuthority", name, None, opts)
        self.common_name = args.common_name
        key = tls.PrivateKey(
            f"{name}-key", algorithm="ECDSA", ecdsa_curve="P256", opts=child(self, args.after, protect=args.protect)
        )
        certificate = tls.SelfSignedCert(
            name,
            private_key_pem=key.private_key_pem,
            subject=tls.SelfSignedCertSubjectArgs(common_name=args.common_name, organization=ORGANIZATION),
            is_ca_certificate=True,
            set_subject_key_id=True,
            validity_period_hours=CA_DAYS * HOURS_A_DAY,
            allowed_uses=["cert_signing", "crl_signing"],
            opts=child(self, args.after, protect=args.protect),
        )
        self.own = certificate
        self.ca_pem = certificate.cert_pem
        self.private_key_pem = pulumi.Output.secret(key.private_key_pem)
        self.register_outputs({"ca_pem": self.ca_pem})


@dataclass(frozen=True, kw_only=True)
class CrossArgs:
    """ca: the newer authority. by: the older one, whom everybody trusts."""

    ca: CertificateAuthority
    by: CertificateAuthority


class CrossCertificate(pulumi.ComponentResource):
    """`.cert_pem`: name and key of the newer CA, signed by the older one.

    A server that hands it out with its own certificate is believed by who trusts either of the two.
    """

    cert_pem: pulumi.Output[str]

    def __init__(self, name: str, args: CrossArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:tls:CrossCertificate", name, None, opts)
        request = tls.CertRequest(
            f"{name}-request",
            private_key_pem=args.ca.private_key_pem,
            subject=tls.CertRequestSubjectArgs(common_name=args.ca.common_name, organization=ORGANIZATION),
            opts=child(self),
        )
        certificate = tls.LocallySignedCert(
            name,
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=args.by.private_key_pem,
            ca_cert_pem=args.by.ca_pem,
            is_ca_certificate=True,
            set_subject_key_id=True,
            validity_period_hours=CROSS_DAYS * HOURS_A_DAY,
            early_renewal_hours=RENEW_DAYS * HOURS_A_DAY,
            allowed_uses=["cert_signing", "crl_signing"],
            opts=child(self),
        )
        self.cert_pem = certificate.cert_pem
        self.register_outputs({"cert_pem": self.cert_pem})


@dataclass(frozen=True, kw_only=True)
class LeafArgs:
    """hosts: DNS names, the first is the common name. ips: for those who come without a name.

    cross: handed out in place of the CA's own certificate while an older CA is trusted too. With both, a client that
    trusts the older one alone may stop at the newer one's own and refuse it.
    """

    ca: CertificateAuthority
    hosts: Sequence[str]
    ips: Sequence[str] = ()
    cross: CrossCertificate | None = None

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("a certificate needs at least one host name")


class LeafCertificate(pulumi.ComponentResource):
    """`.pem` is private key, certificate and CA (or cross certificate) in one file (secret), as HAProxy takes it."""

    pem: pulumi.Output[str]
    certificate_pem: pulumi.Output[str]

    def __init__(self, name: str, args: LeafArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:tls:LeafCertificate", name, None, opts)
        key = tls.PrivateKey(f"{name}-key", algorithm="ECDSA", ecdsa_curve="P256", opts=child(self))
        request = tls.CertRequest(
            f"{name}-request",
            private_key_pem=key.private_key_pem,
            # 64 characters is as long as a common name gets; names are read from the alternative names anyway.
            subject=tls.CertRequestSubjectArgs(common_name=args.hosts[0][:64], organization=ORGANIZATION),
            dns_names=list(args.hosts),
            ip_addresses=list(args.ips) or None,
            opts=child(self),
        )
        certificate = tls.LocallySignedCert(
            name,
            cert_request_pem=request.cert_request_pem,
            ca_private_key_pem=args.ca.private_key_pem,
            ca_cert_pem=args.ca.ca_pem,
            validity_period_hours=LEAF_DAYS * HOURS_A_DAY,
            early_renewal_hours=RENEW_DAYS * HOURS_A_DAY,
            allowed_uses=["digital_signature", "key_encipherment", "server_auth"],
            opts=child(self),
        )
        self.certificate_pem = certificate.cert_pem
        chain = args.cross.cert_pem if args.cross else args.ca.ca_pem
        self.pem = pulumi.Output.secret(pulumi.Output.concat(key.private_key_pem, certificate.cert_pem, chain))
        self.register_outputs({"certificate_pem": self.certificate_pem})
