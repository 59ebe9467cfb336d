"""The web application firewall: ModSecurity with the OWASP Core Rule Set, behind whichever ingress there is.

Upstream: coreruleset/modsecurity-crs-docker. Facts: docs/services/waf.md

What it looks for, and what it lets pass where, is in stack/derive/waf.py and at each service's own route.
"""

from stack import images
from stack.derive import waf
from stack.model import (
    ContainerSpec,
    Derived,
    File,
    HealthCheck,
    Http,
    Mount,
    NoBackup,
    Port,
    Proof,
    ResourceLimits,
    Role,
    ServiceSpec,
    Static,
    Target,
    Volume,
    Zone,
)

SERVICE = ServiceSpec(
    name="waf",
    summary="Looks for attacks in every request that the front door hands on",
    roles=frozenset({Role.FIREWALL}),
    containers=(
        ContainerSpec(
            image=images.WAF,
            user="101:101",
            zones=frozenset({Zone.APP}),
            ports=(Port(waf.PORT, 8080),),
            entrypoint=("/bin/bash", "/run/kit/waf.sh"),
            files=(
                File(name="nginx.conf", source=Derived(waf.nginx), reload=True),
                File(name="rules.conf", source=Derived(waf.rules), reload=True),
                File(name="waf.sh", source=Static("waf.sh")),
                File(name="audit.pl", source=Static("audit.pl")),
            ),
            mounts=(Mount("spool", waf.SPOOL),),
            tmpfs={"/tmp": 8},
            # It is tried where nothing but /dev/shm can be written.
            reload=(
                "sh",
                "-c",
                f"sed 's#{waf.SPOOL}/#/dev/shm/#; s#/tmp/#/dev/shm/#' /run/kit/nginx.conf > /dev/shm/nginx.conf"
                " && nginx -t -q -c /dev/shm/nginx.conf && kill -HUP 1",
            ),
            health=HealthCheck(test=Http(waf.PORT, "/healthz"), interval_s=3, start_period_s=30),
            # 25 MB for one worker, 10 more for the second, and the largest request (derive/waf.py).
            limits={
                Target.DEV: ResourceLimits(memory_mb=128, cpus=2, pids=64),
                Target.PI: ResourceLimits(memory_mb=64, cpus=2, pids=64),
                Target.GPU: ResourceLimits(memory_mb=512, cpus=4, pids=64),
            },
            # Open streams are not waited for.
            stop_grace_s=5,
        ),
    ),
    volumes=(Volume("spool", NoBackup("large requests on their way, seconds old"), passing=True),),
    proofs=(
        Proof("what looks like an attack is refused at every route", "stack.proofs.waf:attacks"),
        Proof("prompts full of SQL, shell and HTML are let through", "stack.proofs.waf:prompts"),
    ),
)
