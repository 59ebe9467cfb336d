"""Lego: has the front door's certificate signed by an ACME server, such as Let's Encrypt, and renews it.

Upstream: goacme/lego. Facts: docs/certificates.md
"""

from dataclasses import replace

from stack import images
from stack.derive import acme
from stack.model import (
    AsFile,
    BackupSet,
    CertificateProvider,
    Challenge,
    Choice,
    Command,
    ContainerSpec,
    Derived,
    File,
    HealthCheck,
    LeafCertificates,
    Mount,
    Port,
    Proof,
    Provided,
    ResourceLimits,
    Role,
    Secret,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Zone,
)


def _by_dns(service: ServiceSpec) -> ServiceSpec:
    """With DNS-01 it writes to the zone, and needs whatever whoever serves the zone asks for."""
    secret = Secret("dns", Provided("acmeDnsCredentials"), AsFile("dns-credentials"))
    return replace(service, secrets=(*service.secrets, secret))


SERVICE = ServiceSpec(
    name="lego",
    summary="Certificates by ACME",
    roles=frozenset({Role.CERTIFICATES}),
    containers=(
        ContainerSpec(
            image=images.LEGO,
            # Not who any other service runs as: the account's key is nobody else's business. The group reads what the
            # front door shows.
            user=f"8402:{CertificateProvider.GROUP}",
            zones=frozenset({Zone.APP, Zone.EGRESS}),
            ports=(Port("challenge", 8402),),
            entrypoint=("sh",),
            command=("/run/kit/lego.sh",),
            env={"HOME": "/tmp"},
            files=(
                File(name="lego.sh", source=Static("lego.sh")),
                File(name="order.sh", source=Derived(acme.order)),
                File(name="names", source=Derived(acme.names)),
                File(name="roots.pem", source=Derived(acme.roots)),
                File(name="leaf.pem", source=Template((LeafCertificates(),))),
            ),
            mounts=(Mount("data", "/data"),),
            tmpfs={"/tmp": 4},
            # There is something to show. Whether an order went through is no reason to keep the stack from starting:
            # the proof of the front door and ./kit status say how long the certificate lasts.
            health=HealthCheck(test=Command(("sh", "-c", "[ -s /data/live.pem ]")), start_period_s=20),
            limits={t: ResourceLimits(memory_mb=128, cpus=0.5, pids=32) for t in Target},
            stop_grace_s=5,
            wait_s=60,
        ),
    ),
    # Readable by the group, and the account and what was signed in folders that are not.
    volumes=(Volume("data", BackupSet.files(), mode="0750"),),
    certificate_provider=CertificateProvider(port="challenge", volume="data"),
    proofs=(Proof("an authority outside has signed the certificate", "stack.proofs.lego:signed"),),
    choices=(
        Choice(
            key="acmeChallenge",
            read=lambda settings: settings.acme_challenge,
            options={Challenge.HTTP_01: lambda service: service, Challenge.DNS_01: _by_dns},
        ),
    ),
)
