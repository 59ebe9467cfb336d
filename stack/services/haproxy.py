"""HAProxy: the front door. The only service that publishes ports.

Upstream: haproxy. Facts: docs/services/haproxy.md
"""

from stack import images
from stack.derive import forward_auth, ingress
from stack.model import (
    ContainerSpec,
    Derived,
    File,
    HealthCheck,
    Http,
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

SERVICE = ServiceSpec(
    name="haproxy",
    summary="The front door: TLS and routes",
    roles=frozenset({Role.INGRESS}),
    containers=(
        ContainerSpec(
            image=images.HAPROXY,
            user="99:99",
            zones=frozenset({Zone.EDGE, Zone.APP}),
            ports=(
                Port("http", ingress.HTTP_PORT),
                Port("https", ingress.HTTPS_PORT),
                Port("admin", ingress.ADMIN_PORT),
                Port("healthz", ingress.HEALTH_PORT),
            ),
            command=("haproxy", "-f", "/run/kit/haproxy.cfg"),
            files=(
                File(name="haproxy.cfg", source=Derived(ingress.config), reload=True),
                File(name=forward_auth.SCRIPT, source=Static(forward_auth.SCRIPT), reload=True),
                File(name=forward_auth.VOUCHERS, source=Derived(forward_auth.vouchers), reload=True),
                File(name=ingress.STATE_SCRIPT, source=Static(ingress.STATE_SCRIPT), reload=True),
                File(name="certs/leaf.pem", source=Template((LeafCertificates(),)), reload=True),
            ),
            reload=("sh", "-c", "haproxy -c -f /run/kit/haproxy.cfg && kill -USR2 1"),
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
    proofs=(
        Proof("certificates verify and plain HTTP leads to TLS", "stack.proofs.haproxy:tls"),
        Proof("only the front door answers", "stack.proofs.haproxy:closed"),
    ),
)
