"""The way out to OpenAI, or to whoever speaks like it: one host, one key, and nothing else leaves through it.

Upstream: haproxy. Facts: docs/services/litellm.md
"""

from stack import images
from stack.derive import cloud
from stack.model import (
    AsExport,
    ContainerSpec,
    Derived,
    File,
    HealthCheck,
    Http,
    Port,
    Profile,
    Proof,
    Provided,
    ResourceLimits,
    Secret,
    ServiceSpec,
    Target,
    Zone,
)

SERVICE = ServiceSpec(
    name="openai",
    summary="The way out to OpenAI, where no local model answers",
    profiles=frozenset(
        {
            Profile(
                "cloud",
                "Answers from OpenAI, or who speaks like it, where no local model can: questions leave the machine",
            )
        }
    ),
    containers=(
        ContainerSpec(
            image=images.HAPROXY,
            user="99:99",
            zones=frozenset({Zone.APP, Zone.EGRESS}),
            ports=(Port("api", cloud.PORT), Port("healthz", cloud.HEALTH_PORT)),
            command=("haproxy", "-f", "/run/kit/haproxy.cfg"),
            files=(File(name="haproxy.cfg", source=Derived(cloud.config)),),
            tmpfs={"/tmp": 8},
            trust_ca=True,
            health=HealthCheck(test=Http("healthz", "/healthz"), interval_s=3, start_period_s=10),
            limits={
                Target.DEV: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
                Target.PI: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
                Target.GPU: ResourceLimits(memory_mb=128, cpus=1, pids=64),
            },
            stop_grace_s=5,
        ),
    ),
    # In the environment of this one process: no other service, and no answer, ever has it.
    secrets=(Secret("key", Provided("openaiApiKey"), AsExport("KIT_OPENAI_KEY")),),
    proofs=(Proof("the way out answers nobody outside", "stack.proofs.ports:closed"),),
)
