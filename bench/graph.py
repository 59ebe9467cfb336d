"""Twenty trivial containers with health checks, twenty volumes, one network: our components against compose.

    .venv/bin/python -m bench.graph [-n RUNS] [--network-exists]

Both make the same containers of the same image, in alternating order, from nothing. The figure to reach is a ratio
of 1.75. Needs the `tools` image and a toolchain: run `./kit up` once before.

`--network-exists` gives both sides a network that is there already. It shows what the rest costs: the Docker provider
waits a fixed 2 s after making a network before it lets anything use it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from airgap.images import ensure as ensure_images
from bench.measure import Series, Timed, all_ready, header, ratios, run, swept, table
from ops import toolchain
from ops.engine import DockerApi
from ops.enginestate import EngineState
from ops.paths import ROOT
from ops.progress import Progress
from ops.pulumirun import PARALLEL
from ops.up import BuildProgress

STACK = "benchgraph"
NETWORK = f"kit-{STACK}-net"
COUNT = 20

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import pulumi
from components.common import Attachment, VolumeMount
from components.host import Host, HostArgs
from components.network import Network, NetworkArgs
from components.service import Limits, Probe, Service, ServiceArgs
from components.volume import DataVolume, VolumeArgs

labels = {{"aikit.stack": {stack!r}}}
opts = pulumi.ResourceOptions(providers=[Host("host", HostArgs()).provider])
net = "kit-{stack}-net"
if not {network_exists}:
    net = Network("net", NetworkArgs(network_name=net, internal=False, labels=labels), opts=opts).network_name
for number in range({count}):
    name = f"kit-{stack}-{{number}}"
    volume = DataVolume(name, VolumeArgs(volume_name=name, labels=labels, protect=False), opts=opts)
    Service(name, ServiceArgs(
        container_name=name, image={image!r}, user="1000:1000", command=["sleep", "100000"],
        health=Probe(argv=["true"], interval_s=1, start_period_s=5), limits=Limits(memory_mb=16, cpus=0.5),
        networks=[Attachment(network=net, aliases=[name])],
        mounts=[VolumeMount(volume=volume.volume_name, path="/data")], labels=labels, stop_grace_s=1,
    ), opts=opts)
"""


def compose_document(image: str, *, network_exists: bool) -> dict[str, Any]:
    """The same graph for compose."""
    network = {"external": True} if network_exists else {"labels": {"aikit.stack": STACK}}
    names = [f"kit-{STACK}-{number}" for number in range(COUNT)]
    service = {
        "image": image,
        "user": "1000:1000",
        "command": ["sleep", "100000"],
        "healthcheck": {"test": ["CMD", "true"], "interval": "1s", "timeout": "5s", "start_period": "5s", "retries": 5},
        "mem_limit": "16m",
        "memswap_limit": "16m",
        "cpus": 0.5,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "labels": {"aikit.stack": STACK},
        "networks": ["net"],
    }
    return {
        "name": STACK,
        "services": {name: {**service, "container_name": name, "volumes": [f"{name}:/data"]} for name in names},
        "networks": {"net": {"name": NETWORK, **network}},
        "volumes": {name: {"name": name, "labels": {"aikit.stack": STACK}} for name in names},
    }


def ready(engine: EngineState) -> bool:
    return all_ready(engine, frozenset(f"kit-{STACK}-{number}" for number in range(COUNT)), frozenset())


def with_pulumi(tools: toolchain.Toolchain, image: str, work: Path, *, network_exists: bool = False) -> Timed:
    """From an empty state to healthy."""
    project = work / "pulumi"
    shutil.rmtree(project, ignore_errors=True)
    (project / "backend").mkdir(parents=True)
    (project / "Pulumi.yaml").write_text(f"name: {STACK}\nruntime: python\n", encoding="utf-8")
    program = PROGRAM.format(root=str(ROOT), stack=STACK, count=COUNT, image=image, network_exists=network_exists)
    (project / "__main__.py").write_text(program, encoding="utf-8")
    env = tools.environment() | {
        "PULUMI_BACKEND_URL": f"file://{project}/backend",
        "PULUMI_CONFIG_PASSPHRASE": "bench",
        "AIKIT_PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}:{tools.environment().get('PATH', '')}",
    }
    log = work / "pulumi.log"
    run([str(tools.pulumi), "stack", "init", STACK], env=env, directory=project, stack=STACK, ready=_always, log=log)
    up = [str(tools.pulumi), "up", "--yes", "--skip-preview", "--non-interactive", "--parallel", PARALLEL]
    return run(up, env=env, directory=project, stack=STACK, ready=ready, log=log)


def with_compose(compose: Path, image: str, work: Path, *, network_exists: bool = False) -> Timed:
    """From nothing to healthy."""
    project = work / "compose"
    project.mkdir(parents=True, exist_ok=True)
    (project / "compose.json").write_text(
        json.dumps(compose_document(image, network_exists=network_exists)), encoding="utf-8"
    )
    up = [str(compose), "-f", "compose.json", "up", "--detach", "--wait"]
    return run(up, env=os.environ, directory=project, stack=STACK, ready=ready, log=work / "compose.log")


def _always(_: EngineState) -> bool:
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.graph", description=__doc__)
    parser.add_argument("-n", type=int, default=10, help="pairs of runs (10)")
    parser.add_argument("--network-exists", action="store_true", help="give both sides a network made before")
    arguments = parser.parse_args()
    exists = bool(arguments.network_exists)
    progress = Progress()
    tools = toolchain.ensure(progress, toolchain.sdk_versions())
    compose = toolchain.ensure_compose(progress)
    image = ensure_images(["tools"], BuildProgress(progress))["tools"].reference
    work = Path(tempfile.mkdtemp(prefix="aikit-bench-"))
    pulumi_ready, pulumi_total = Series("pulumi: all healthy"), Series("pulumi: command returned")
    compose_ready, compose_total = Series("compose: all healthy"), Series("compose: command returned")
    print(
        header(
            f"{COUNT} trivial containers, {COUNT} volumes, 1 network{' made before' if exists else ''}; logs in {work}"
        )
    )
    for number in range(arguments.n + 1):
        runs = [
            (lambda: with_pulumi(tools, image, work, network_exists=exists), pulumi_ready, pulumi_total),
            (lambda: with_compose(compose, image, work, network_exists=exists), compose_ready, compose_total),
        ]
        for go, to_ready, total in runs if number % 2 else reversed(runs):
            with swept(STACK):
                if exists:
                    DockerApi().post("/networks/create", {"Name": NETWORK, "Labels": {"aikit.stack": STACK}})
                timed = go()
            if number:  # the first pair warms caches
                to_ready.values.append(timed.to_ready)
                total.values.append(timed.total)
    print(table([pulumi_ready, compose_ready, pulumi_total, compose_total]))
    print(table([ratios("ratio pulumi / compose: all healthy", pulumi_ready, compose_ready)]))
    print(table([ratios("ratio pulumi / compose: command returned", pulumi_total, compose_total)]))


if __name__ == "__main__":
    main()
