"""The dev stack from nothing to all healthy: `pulumi up` against docker compose on the same plan.

    .venv/bin/python -m bench.devstack [-n RUNS] [--profiles chat,automation]

compose gets the document that derive/compose.py makes of the plan: the same images, limits, volumes, files, jobs and
health checks. Pulumi does more after that point (realm, clients, users); both columns are shown. Order alternates,
every run starts without containers, networks and volumes. The figure to reach is a ratio of 1.1 for all healthy.
Needs the images and a toolchain: run `./kit up` once before; everything else stays on ports and names of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.measure import Series, Timed, all_ready, header, ratios, run, swept, table
from ops import toolchain
from ops.enginestate import EngineState
from ops.paths import ROOT
from ops.progress import Progress
from ops.pulumirun import PARALLEL
from ops.session import Session
from ops.up import build_images
from stack.derive import compose, encode, runtime
from stack.derive.values import CaPiece, LeafPiece, SecretPiece, Text
from stack.plan import Plan, SecretKey

STACK = "benchdev"
STACK_FILE = """config:
  ai-kit:target: dev
  ai-kit:httpPort: 18080
  ai-kit:httpsPort: 18443
  ai-kit:adminPort: 18444
  ai-kit:models: [llama3.2:1b]
  ai-kit:embeddingModel: nomic-embed-text
"""


def clone(work: Path, profiles: Sequence[str] = ()) -> Path:
    """The tracked files, with the benchmark's stack file among them. profiles: () is what the target has."""
    root = work / "clone"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    chosen = f"  ai-kit:profiles: [{', '.join(profiles)}]\n" if profiles else ""
    (root / f"Pulumi.{STACK}.yaml").write_text(STACK_FILE + chosen, encoding="utf-8")
    return root


class Ready:
    """Every container of the plan healthy, every job of it ended well."""

    def __init__(self, built: runtime.Runtime) -> None:
        self._healthy = frozenset(container.name for container in built.containers)
        # Reloading is Pulumi's alone: compose has no such job.
        self._succeeded = frozenset(job.name for job in built.jobs if not job.reloads)

    def __call__(self, engine: EngineState) -> bool:
        return all_ready(engine, self._healthy, self._succeeded)


def with_pulumi(session: Session, tools: toolchain.Toolchain, ready: Ready, work: Path) -> Timed:
    """A new state, then one `up` as ./kit runs it."""
    shutil.rmtree(session.state.home, ignore_errors=True)
    pulumi = session.pulumi(tools)
    session.record_choice()
    session.write_config(pulumi)
    arguments = pulumi.arguments("up", "--yes", "--skip-preview", "--suppress-outputs", "--parallel", PARALLEL)
    return run(
        arguments,
        env=pulumi.environment,
        directory=session.root,
        stack=STACK,
        ready=ready,
        log=work / "pulumi.log",
    )


class Filled:
    """Texts with secrets in them, as compose needs them: generated for this run and gone with it."""

    def __init__(self, plan: Plan) -> None:
        # With a capital, a small letter and a digit in each, as the program's own have: some services ask for them.
        self._secrets = {secret.key: f"{secrets.token_hex(15)}aA" for secret in plan.secrets}
        self._ca, self._leaf = certificates([plan.host_name(owned.item) for owned in plan.routes])

    def __call__(self, text: Text) -> str:
        return "".join(self._piece(piece) for piece in text)

    def _piece(self, piece: object) -> str:
        match piece:
            case SecretPiece(_, _, True):
                return ""
            case SecretPiece(key, encoding):
                return encode.encode(self._secret(key), encoding)
            case CaPiece():
                return self._ca
            case LeafPiece():
                return self._leaf
            case _:
                return str(piece)

    def _secret(self, key: SecretKey) -> str:
        return self._secrets[key]


def certificates(hosts: list[str]) -> tuple[str, str]:
    """A throw-away certificate for the hosts that is its own authority: (certificate, key and certificate)."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=benchmark", "-keyout", "-", "-out", "-"]
    command += ["-addext", "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts)]
    both = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return both[both.index("-----BEGIN CERTIFICATE") :], both


def with_compose(program: Path, plan: Plan, built: runtime.Runtime, ready: Ready, work: Path) -> Timed:
    """The project written anew, then one `up --wait`."""
    project = work / "compose"
    shutil.rmtree(project, ignore_errors=True)
    made = compose.project(built, STACK, Filled(plan))
    jobs = {job.name: job.user for job in built.jobs}
    for name, text in made.files.items():
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        # A job reads its bound files as its own user; service files are copied by root.
        uid, gid = (jobs.get(name.split("/")[1]) or "0:0").split(":")
        os.chown(file, int(uid), int(gid))
        file.chmod(0o400)
    (project / "compose.json").write_text(json.dumps(made.document), encoding="utf-8")
    up = [str(program), "-f", "compose.json", "up", "--detach"]
    return run(up, env=os.environ, directory=project, stack=STACK, ready=ready, log=work / "compose.log")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m bench.devstack", description=__doc__)
    parser.add_argument("-n", type=int, default=5, help="pairs of runs (5)")
    parser.add_argument("--profiles", default="", help="comma-separated profiles in place of the dev stack's own")
    arguments = parser.parse_args()
    profiles = [name for name in arguments.profiles.split(",") if name]
    work = Path(tempfile.mkdtemp(prefix="aikit-bench-"))
    os.environ["XDG_STATE_HOME"] = str(work / "state")
    progress = Progress()
    tools = toolchain.ensure(progress, toolchain.sdk_versions())
    program = toolchain.ensure_compose(progress)
    session = Session(STACK, clone(work, profiles))
    session.choose_images()
    plan = session.plan()
    build_images(session, plan, progress)
    built = runtime.build(plan)
    ready = Ready(built)
    runs = {
        "pulumi": partial(with_pulumi, session, tools, ready, work),
        "compose": partial(with_compose, program, plan, built, ready, work),
    }
    reached = {name: Series(f"{name}: all healthy") for name in runs}
    total = {name: Series(f"{name}: command returned") for name in runs}
    print(header(f"{'+'.join(profiles) or 'dev'} stack, images {session.chosen_images}; logs in {work}"))
    for number in range(arguments.n):
        for name in sorted(runs, reverse=bool(number % 2)):
            with swept(STACK):
                timed = runs[name]()
            reached[name].values.append(timed.to_ready)
            total[name].values.append(timed.total)
            print(f"  run {number + 1}, {name}: all healthy after {timed.to_ready:.1f} s", flush=True)
    print(table([*reached.values(), *total.values()]))
    print(table([ratios("ratio pulumi / compose: all healthy", reached["pulumi"], reached["compose"])]))


if __name__ == "__main__":
    main()
