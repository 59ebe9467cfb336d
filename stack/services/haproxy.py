"""HAProxy: the front door. The only service that publishes ports.

Upstream: haproxy. Facts: docs/services/haproxy.md
"""

import shlex
from dataclasses import replace

from stack import images
from stack.derive import forward_auth, ingress
from stack.model import (
    CONFIG_DIR,
    CertificateProvider,
    CertificateSource,
    Choice,
    ContainerSpec,
    Derived,
    File,
    FrontCertificate,
    HealthCheck,
    Http,
    Job,
    LeafCertificates,
    Port,
    Proof,
    Publish,
    ResourceLimits,
    Role,
    ServiceSpec,
    Static,
    Target,
    Template,
    Zone,
)

# What its configuration names, as it is delivered and as it is looked at before.
SCRIPTS = (
    File(name=forward_auth.SCRIPT, source=Static(forward_auth.SCRIPT), reload=True),
    File(name=ingress.STATE_SCRIPT, source=Static(ingress.STATE_SCRIPT), reload=True),
    File(name=ingress.METRIC_SCRIPT, source=Static(ingress.METRIC_SCRIPT), reload=True),
    File(name="certs/leaf.pem", source=Template((LeafCertificates(),)), reload=True),
)
FILES = (File(name="haproxy.cfg", source=Derived(ingress.config), reload=True), *SCRIPTS)
VOUCHERS = File(name=forward_auth.VOUCHERS, source=Derived(forward_auth.vouchers), reload=True)
NO_VOUCHERS = File(name=forward_auth.VOUCHERS, source=Template(("# A check needs the file, and nobody's secrets.\n",)))


def _brought(service: ServiceSpec) -> ServiceSpec:
    """The certificate that the operator brings, taken over without a restart when it is another one."""
    main, *others = service.containers
    file = File(name=ingress.BROUGHT, source=Template((FrontCertificate(),)), reload=True)
    checks = tuple(replace(job, files=(*job.files, file)) for job in service.jobs)
    return replace(service, containers=(replace(main, files=(*main.files, file)), *others), jobs=checks)


def _signed(service: ServiceSpec) -> ServiceSpec:
    """The certificate that an authority outside signs: who has it signed says nothing, so the file is watched."""
    main, *others = service.containers
    live = f"{ingress.SIGNED}/{CertificateProvider.LIVE}"
    watched = replace(
        main,
        certificates=ingress.SIGNED,
        command=("sh", "/run/kit/watch.sh", live, shlex.join(main.reload), *main.command),
        files=(*main.files, File(name="watch.sh", source=Static("watch.sh"))),
        tmpfs={**main.tmpfs, "/tmp": 1},
    )
    return replace(service, containers=(watched, *others))


SERVICE = ServiceSpec(
    name="haproxy",
    summary="The front door: TLS and routes",
    roles=frozenset({Role.INGRESS}),
    containers=(
        ContainerSpec(
            image=images.HAPROXY,
            user="99:99",
            zones=frozenset({Zone.EDGE, Zone.APP, Zone.MANAGE}),
            ports=(
                Port("http", ingress.HTTP_PORT),
                Port("https", ingress.HTTPS_PORT),
                Port("admin", ingress.ADMIN_PORT),
                Port("inner", ingress.INNER_PORT),
                Port("healthz", ingress.HEALTH_PORT),
                Port("figures", ingress.FIGURES_PORT),
                Port("certificate", ingress.CERTIFICATE_PORT),
            ),
            command=("haproxy", "-f", "/run/kit/haproxy.cfg"),
            files=(*FILES, VOUCHERS, File(name="reload.sh", source=Static("reload.sh"), reload=True)),
            reload=("sh", f"{CONFIG_DIR}/reload.sh"),
            publish=(
                Publish("http", lambda settings: settings.http_port),
                Publish("https", lambda settings: settings.https_port),
                # Where the program, on this machine, administers the identity provider.
                Publish("admin", lambda settings: settings.admin_port, loopback_only=True),
            ),
            tmpfs={ingress.RUN: 1},
            health=HealthCheck(test=Http("healthz", "/healthz"), interval_s=3, start_period_s=10),
            limits={
                Target.DEV: ResourceLimits(memory_mb=128, cpus=1, pids=64),
                Target.PI: ResourceLimits(memory_mb=128, cpus=1, pids=64),
                Target.GPU: ResourceLimits(memory_mb=256, cpus=2, pids=64),
            },
            # Open websockets outlive a soft stop; nobody waits for them when the stack goes down.
            stop_grace_s=5,
        ),
    ),
    jobs=(
        # Before any file is delivered: a running front door never sees what HAProxy refuses, not even when it restarts.
        Job(
            name="check",
            image=images.HAPROXY,
            user="99:99",
            command=("haproxy", "-c", "-f", f"{CONFIG_DIR}/haproxy.cfg"),
            files=(File(name="haproxy.cfg", source=Derived(ingress.to_check), reload=True), *SCRIPTS, NO_VOUCHERS),
            memory_mb=64,
            timeout_s=180,
            first=True,
        ),
    ),
    choices=(
        Choice(
            key="certificates",
            read=lambda settings: settings.certificates,
            options={
                CertificateSource.OWN_CA: lambda service: service,
                CertificateSource.FILES: _brought,
                CertificateSource.ACME: _signed,
            },
        ),
    ),
    proofs=(
        Proof("certificates verify and plain HTTP leads to TLS", "stack.proofs.haproxy:tls"),
        Proof("the certificate lasts", "stack.proofs.haproxy:lasts"),
        Proof("only the front door answers", "stack.proofs.haproxy:closed"),
    ),
)
