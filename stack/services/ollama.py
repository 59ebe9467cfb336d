"""Ollama: local models, and the fair queue in front of them.

Upstream: ollama/ollama. Facts: docs/services/ollama.md
"""

from stack import images
from stack.derive import models, queue
from stack.model import (
    ByTarget,
    ContainerSpec,
    Derived,
    File,
    FromSettings,
    HealthCheck,
    Http,
    Job,
    ModelMemory,
    Mount,
    NoBackup,
    Port,
    Proof,
    Ref,
    ResourceLimits,
    ServiceSpec,
    Static,
    Target,
    Volume,
    Zone,
)

SERVICE = ServiceSpec(
    name="ollama",
    summary="Local models, one question at a time each",
    containers=(
        ContainerSpec(
            image=images.OLLAMA,
            user="1000:1000",
            # Asks nobody who they are, so nobody but the queue is with it. Out: only to fetch models.
            zones=frozenset({Zone.MODEL, Zone.EGRESS}),
            ports=(Port("api", 11434),),
            env={
                "HOME": "/var/lib/ollama",
                "OLLAMA_MODELS": "/var/lib/ollama/models",
                "OLLAMA_HOST": "0.0.0.0:11434",
                "OLLAMA_NO_CLOUD": "1",  # nothing anybody asks leaves the machine
                "OLLAMA_NUM_PARALLEL": "1",  # the queue admits one at a time
                # One to chat with and one to embed with: swapping them would reload both for every document.
                # A Pi has memory for one.
                "OLLAMA_MAX_LOADED_MODELS": ByTarget({Target.DEV: "2", Target.PI: "1", Target.GPU: "2"}),
                "OLLAMA_KEEP_ALIVE": ByTarget({Target.DEV: "5m", Target.PI: "5m", Target.GPU: "10m"}),
                "OLLAMA_CONTEXT_LENGTH": ByTarget({Target.DEV: "4096", Target.PI: "4096", Target.GPU: "8192"}),
                "OLLAMA_FLASH_ATTENTION": ByTarget({Target.DEV: "0", Target.PI: "1", Target.GPU: "1"}),
                "OLLAMA_KV_CACHE_TYPE": ByTarget({Target.DEV: "f16", Target.PI: "q8_0", Target.GPU: "q8_0"}),
            },
            mounts=(Mount("models", "/var/lib/ollama"),),
            tmpfs={"/tmp": 256},
            health=HealthCheck(test=Http("api", "/api/version"), interval_s=4, start_period_s=30),
            limits={
                # Both models of a stack that says nothing, with a conversation: 2,168 MB (planning/models.py).
                Target.DEV: ResourceLimits(memory_mb=2304, cpus=2, pids=512),
                # Three cores for models, the fourth for everything else.
                Target.PI: ResourceLimits(memory_mb=3100, cpus=3, cpuset="1-3", pids=512),
                Target.GPU: ResourceLimits(memory_mb=32768, cpus=6, pids=1024, gpu=True, shm_mb=2048),
            },
        ),
        ContainerSpec(
            name="queue",
            image=images.HAPROXY,
            user="99:99",
            # Out: to the servers of ollamaBackends, which its file names, and nobody else.
            zones=frozenset({Zone.APP, Zone.MODEL, Zone.EGRESS}),
            ports=(Port("queue", 11435), Port("healthz", queue.HEALTH_PORT)),
            command=("haproxy", "-f", "/run/kit/haproxy.cfg"),
            files=(File(name="haproxy.cfg", source=Derived(queue.config), reload=True),),
            reload=("sh", "-c", "haproxy -c -f /run/kit/haproxy.cfg && kill -USR2 1"),
            health=HealthCheck(test=Http("healthz", "/healthz"), interval_s=3, start_period_s=10),
            limits={
                Target.DEV: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
                Target.PI: ResourceLimits(memory_mb=64, cpus=0.5, pids=64),
                Target.GPU: ResourceLimits(memory_mb=128, cpus=1, pids=64),
            },
            stop_grace_s=5,
        ),
    ),
    jobs=(
        Job(
            name="models",
            image=images.MODEL_LOADER,
            user="1000:1000",
            entrypoint=("/bin/bash", "/run/kit/models.sh"),
            command=(),
            zones=frozenset({Zone.MODEL}),
            env={
                "HOME": "/tmp",
                "OLLAMA_HOST": Ref("ollama", "api"),
                "KIT_MODELS": FromSettings(lambda settings: " ".join(models.all_of(settings))),
                "KIT_THREADS": FromSettings(lambda settings: str(models.threads(settings))),
            },
            files=(File(name="models.sh", source=Static("models.sh")),),
            timeout_s=4 * 3600,  # a first pull of several GB over a home line
        ),
    ),
    model_memory=ModelMemory(
        models=models.all_of,
        # What the variables above say.
        loaded={Target.DEV: 2, Target.PI: 1, Target.GPU: 2},
        context={Target.DEV: 4096, Target.PI: 4096, Target.GPU: 8192},
        cache_bits={Target.DEV: 16, Target.PI: 8, Target.GPU: 8},
        own_mb=40,  # 35 MB without a model, measured 2026-11 on 0.17.4
    ),
    volumes=(Volume("models", NoBackup("models are named in the settings and fetched again")),),
    proofs=(Proof("the models answer nobody outside", "stack.proofs.ports:closed"),),
)
