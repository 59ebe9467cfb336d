"""Starts a Runtime with plain docker, without Pulumi: to try services and their files on the real images.

What it proves is about the derived texts. How Pulumi carries them out is proven elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from components.service import tmpfs_options
from stack.derive.encode import encode
from stack.derive.runtime import ContainerPlan, FilePlan, JobPlan, Runtime
from stack.derive.values import CaPiece, LeafPiece, SecretPiece, Text
from stack.model import standin_in
from stack.plan import SecretKey

# Everything a secret may hold: each reader must give it back unharmed.
HOSTILE = "a'b\"c$d${e}\\f`g h#i%j{k}é€😀;&|<>!*?~@:/[]=+,^\\"

# Stand-ins that ran, with the test files they ran in: the report names them, for what passed proves nothing of the real
# servers.
STANDINS: dict[str, set[str]] = {}

PATIENCE = 3  # the machine may be building images beside the test


def docker(*argv: str, data: bytes | None = None, check: bool = True) -> str:
    """Run docker and return what it printed. CalledProcessError with its words when it fails."""
    done = subprocess.run(["docker", *argv], input=data, capture_output=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"docker {argv[0]} failed: {done.stderr.decode()[-2000:]}{done.stdout.decode()[-2000:]}")
    return done.stdout.decode() + (done.stderr.decode() if not check else "")


@dataclass
class Authority:
    """A CA and one leaf certificate for every host name, made by openssl in a folder."""

    folder: Path
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "leaf.pem").exists():
            return
        alternative = ",".join([*(f"DNS:{name}" for name in self.names), "IP:127.0.0.1"])
        (self.folder / "leaf.ext").write_text(f"subjectAltName={alternative}\nbasicConstraints=CA:FALSE\n")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._openssl(
            "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=trial CA"
        )
        self._openssl("req", "-new", *curve, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=trial")
        self._openssl(
            *("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "20", "-out", "leaf.crt", "-extfile", "leaf.ext"),
        )
        text = (self.folder / "leaf.key").read_text() + (self.folder / "leaf.crt").read_text() + self.ca_pem
        (self.folder / "leaf.pem").write_text(text)

    def _openssl(self, *argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=self.folder, check=True, capture_output=True)

    @property
    def ca_pem(self) -> str:
        return (self.folder / "ca.pem").read_text()

    @property
    def leaf_pem(self) -> str:
        return (self.folder / "leaf.pem").read_text()


@dataclass
class Trial:
    """A runtime on the local Docker. `values` are its secrets: what is not given is made, and kept in the folder."""

    runtime: Runtime
    authority: Authority
    values: dict[SecretKey, str] = field(default_factory=dict)
    previous: dict[SecretKey, str] = field(default_factory=dict)  # those before, of secrets that were rotated
    started: dict[str, float] = field(default_factory=dict)

    def secret(self, owner: str, name: str) -> str:
        key = SecretKey(owner, name)
        if key not in self.values:
            kept = self.authority.folder / f"secret-{owner}-{name}".replace(":", "_")
            if not kept.exists():
                kept.write_text(secrets.token_hex(16))
            self.values[key] = kept.read_text()
        return self.values[key]

    def text(self, text: Text) -> str:
        """The text with its secrets and certificates in place."""
        parts: list[str] = []
        for piece in text:
            match piece:
                case str():
                    parts.append(piece)
                case SecretPiece(key, _, True):
                    parts.append(encode(self.previous[key], piece.encoding) if key in self.previous else "")
                case SecretPiece(key, encoding):
                    parts.append(encode(self.secret(key.owner, key.name), encoding))
                case CaPiece():
                    parts.append(self.authority.ca_pem)
                case LeafPiece():
                    parts.append(self.authority.leaf_pem)
        return "".join(parts)

    def up(self, only: Iterable[str] | None = None) -> None:
        """Start everything, or the steps whose docker names end in one of `only`, each when its needs are met."""
        for network in self.runtime.networks:
            if network.name not in docker("network", "ls", "--format", "{{.Name}}").split():
                internal = ["--internal"] if network.internal else []
                icc = ["-o", "com.docker.network.bridge.enable_icc=false"] if network.isolated else []
                docker("network", "create", *internal, *icc, network.name)
        wanted = None if only is None else tuple(only)
        for step in self.runtime.steps:
            if wanted is not None and not any(step.name.endswith(f"-{name}") for name in wanted):
                continue
            begin = time.monotonic()
            if isinstance(step, ContainerPlan):
                self.start(step)
                self.wait_healthy(step)
            elif not step.reloads:
                print(f"--- {step.name}:\n{self.run(step)}", end="")
            self.started[step.name] = time.monotonic() - begin
            print(f"{step.name}: {self.started[step.name]:.1f} s", flush=True)

    def start(self, plan: ContainerPlan) -> None:
        if name := standin_in(plan.image):
            STANDINS.setdefault(name, set()).add(os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0])
        docker("rm", "-f", "-v", plan.name, check=False)
        for owned in plan.ownership:
            chown = f"chown {owned.owner} /v && chmod {owned.mode} /v"
            self._tools("-v", f"{owned.volume}:/v", argv=("sh", "-c", chown))
        if plan.files:
            self.deliver(plan)
        argv = ["create", "--name", plan.name, "--user", plan.user, "--cap-drop", "ALL"]
        argv += ["--security-opt", "no-new-privileges", "--restart", "unless-stopped"]
        argv += ["--stop-timeout", str(plan.stop_grace_s), "--pids-limit", str(plan.limits.pids)]
        argv += ["--memory", f"{plan.limits.memory_mb}m", "--memory-swap", f"{plan.limits.memory_mb}m"]
        argv += ["--cpus", str(plan.limits.cpus)]
        argv += [word for name, value in plan.labels.items() for word in ("--label", f"{name}={value}")]
        argv += ["--shm-size", f"{plan.limits.shm_mb}m"] if plan.limits.shm_mb else []
        argv += ["--read-only"] if plan.read_only else []
        for path, size in plan.tmpfs.items():
            argv += ["--tmpfs", f"{path}:rw,noexec,nosuid,nodev,{tmpfs_options(size, plan.user)}"]
        for name in plan.capabilities:
            argv += ["--cap-add", name]
        for name, value in {**plan.env, **{n: self.text(t) for n, t in plan.secret_env.items()}}.items():
            argv += ["--env", f"{name}={value}"]
        for mount in plan.mounts:
            argv += ["--mount", f"type=volume,src={mount.volume},dst={mount.path}" + (",readonly" * mount.read_only)]
        for publish in plan.publish:
            argv += ["--publish", f"{publish.ip}:{publish.external}:{publish.internal}"]
        health = plan.health
        argv += ["--health-interval", f"{health.interval_s}s", "--health-timeout", f"{health.timeout_s}s"]
        argv += ["--health-retries", str(health.retries), "--health-start-period", f"{health.start_period_s}s"]
        # The command line only knows the shell form of a probe; exec keeps it one process.
        argv += ["--health-cmd", "exec " + " ".join(_shell(word) for word in health.argv)]
        argv += self._networked(plan)
        argv += ["--entrypoint", plan.entrypoint[0]] if plan.entrypoint else []
        docker(*argv, plan.image, *plan.entrypoint[1:], *plan.command)
        self._connect(plan)
        docker("start", plan.name)

    def deliver(self, plan: ContainerPlan) -> None:
        """The files of a container into its config volume, as the container's user."""
        archive = self._archive(plan.files, plan.user)
        self._tools("-v", f"{plan.config_volume}:/v", argv=("tar", "-x", "-p", "-C", "/v"), data=archive)

    def run(self, plan: JobPlan) -> str:
        """Run a job to its end and return its log. RuntimeError with the log when it fails."""
        env, files = dict(plan.env), plan.files
        if plan.grant:
            grant = plan.grant
            env |= {
                "KIT_DATABASE": grant.database,
                "KIT_ROLE": grant.role,
                "KIT_EXTENSIONS": " ".join(grant.extensions),
            }
            files += (FilePlan(name="password", text=grant.password, mode="0400", restarts=True),)
        docker("rm", "-f", "-v", plan.name, check=False)
        argv = [
            "create",
            "--name",
            plan.name,
            "--user",
            plan.user,
            "--cap-drop",
            "ALL",
            "--memory",
            f"{plan.memory_mb}m",
        ]
        argv += [word for name, value in plan.labels.items() for word in ("--label", f"{name}={value}")]
        for name, value in env.items():
            argv += ["--env", f"{name}={value}"]
        for mount in plan.mounts:
            argv += ["--mount", f"type=volume,src={mount.volume},dst={mount.path}" + (",readonly" * mount.read_only)]
        argv += ["--pid", f"container:{plan.reloads}"] if plan.reloads else []
        argv += self._networked(plan)
        argv += ["--entrypoint", plan.entrypoint[0]] if plan.entrypoint else []
        docker(*argv, plan.image, *plan.entrypoint[1:], *plan.command)
        self._connect(plan)
        if files:
            docker("cp", "-", f"{plan.name}:/", data=self._archive(files, plan.user, "run/kit"))
        docker("start", plan.name)
        code = docker("wait", plan.name).strip()
        log = docker("logs", plan.name, check=False)
        if code != "0":
            raise RuntimeError(f"job {plan.name} ended with {code}:\n{log}")
        return log

    def reload(self, container: str) -> str:
        """Deliver the container's files again and run its reload job."""
        plan = next(c for c in self.runtime.containers if c.name == container)
        self.deliver(plan)
        return self.run(next(job for job in self.runtime.jobs if job.reloads == container))

    def wait_healthy(self, plan: ContainerPlan) -> None:
        deadline = time.monotonic() + PATIENCE * plan.wait_s
        while time.monotonic() < deadline:
            state = json.loads(docker("inspect", plan.name))[0]["State"]
            if state["Health"]["Status"] == "healthy":
                return
            if state["Restarting"] or not state["Running"]:
                break
            time.sleep(0.2)
        raise RuntimeError(f"{plan.name} is not healthy:\n{docker('logs', '--tail', '60', plan.name, check=False)}")

    def down(self) -> None:
        """Remove everything the trial made, volumes included."""
        names = [step.name for step in (*self.runtime.steps, *self.runtime.after_realm)]
        docker("rm", "-f", "-v", *names, check=False)
        volumes = {m.volume for step in self.runtime.steps for m in step.mounts}
        docker("volume", "rm", "-f", *volumes, check=False)
        docker("network", "rm", *(network.name for network in self.runtime.networks), check=False)

    def _tools(self, *argv: str, data: bytes | None = None, **command: tuple[str, ...]) -> None:
        docker("run", "--rm", "-i", "--network", "none", *argv, self.runtime.tools_image, *command["argv"], data=data)

    def _archive(self, files: Iterable[FilePlan], user: str, top: str = "") -> bytes:
        uid, gid = (int(part) for part in user.split(":"))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            folders = {f"{top}/" if top else "./"}
            for file in files:
                path = f"{top}/{file.name}".lstrip("/")
                folders |= {f"{parent}/" for parent in map(str, Path(path).parents) if parent not in (".", "run")}
            for folder in sorted(folders):
                info = tarfile.TarInfo(folder)
                info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o500, uid, gid
                archive.addfile(info)
            for file in files:
                content = self.text(file.text).encode()
                info = tarfile.TarInfo(f"{top}/{file.name}".lstrip("/"))
                info.size, info.mode, info.uid, info.gid = len(content), int(file.mode, 8), uid, gid
                archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    def _networked(self, plan: ContainerPlan | JobPlan) -> list[str]:
        if plan.reloads if isinstance(plan, JobPlan) else False:
            return ["--network", "none"]
        if not plan.networks:
            return ["--network", "none"]
        first = plan.networks[0]
        return ["--network", first.network, *(f"--network-alias={alias}" for alias in first.aliases)]

    def _connect(self, plan: ContainerPlan | JobPlan) -> None:
        for network in plan.networks[1:]:
            aliases = [word for alias in network.aliases for word in ("--alias", alias)]
            docker("network", "connect", *aliases, network.network, plan.name)


def memory_mb(container: str) -> float:
    """Anonymous memory of a container's cgroup, in MB: what it costs, without the page cache."""
    pid = json.loads(docker("inspect", container))[0]["Id"]
    for pattern in (
        f"/sys/fs/cgroup/memory/docker/{pid}/memory.stat",
        f"/sys/fs/cgroup/system.slice/docker-{pid}.scope/memory.stat",
    ):
        path = Path(pattern)
        if path.exists():
            stat: Mapping[str, str] = dict(line.split() for line in path.read_text().splitlines())
            return int(stat.get("total_rss") or stat.get("anon") or 0) / 2**20
    return float("nan")


def eventually(holds: Callable[[], bool], seconds: float) -> None:
    """Wait until it holds. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.3)


def stopped_in_time(trial: Trial, job: JobPlan) -> None:
    """A job of a script that waits for a server which is not there cleans up when its time is over."""
    script = " ".join((*job.entrypoint, *job.command))
    held = f"mkdir /tmp/w && TMPDIR=/tmp/w timeout 3 {script}; echo ended $?; ls -A /tmp/w"
    alone = replace(job, entrypoint=("sh", "-c", held), command=(), env={**job.env, "KIT_HOST": "127.0.0.1"})
    assert trial.run(alone).strip() == "ended 143", "it waited, was stopped, and left no file"


def _shell(word: str) -> str:
    return "'" + word.replace("'", "'\"'\"'") + "'"
