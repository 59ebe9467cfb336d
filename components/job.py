"""One-shot containers whose failure fails the deployment, and which then run again on the next one.

The provider calls a container created when it has ended, whatever its exit code, and nothing of it changes
afterwards: by itself a failed job is never run again. So each job is a chain of attempts. An attempt carries the
run of the program that made it as its host name, which is written when the container is made and ignored after.
The program looks at what the state says about the last attempt:

- exit code 0: done;
- failed, made by this run: the deployment fails, with the end of the log;
- failed, made by an earlier run: one more attempt is registered.

When the inputs change, the first attempt is replaced, and the later ones go away once it succeeds.
"""

from __future__ import annotations

import base64
import io
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_docker as docker

from components.common import (
    REPLACE_ON,
    After,
    Attachment,
    Content,
    Done,
    VolumeMount,
    child,
    encoded,
    environment,
    given,
    hardening,
    labels,
    mounts,
    networking,
    open_digest,
)

# One word per run of the program: every `pulumi up` is a process of its own.
THIS_RUN = f"run-{secrets.token_hex(6)}"

LOG_TAIL_LINES = 20

# Longer than the time the job allows itself: the engine's limit is the second line, for a job that cannot be killed.
ENGINE_GRACE_S = 60


@dataclass(frozen=True, kw_only=True)
class JobArgs:
    """Runs once, and again when anything here changes or when it failed the last time.

    `entrypoint` + `command` run as they are written: the image's own entrypoint plays no part. The image needs
    `timeout` (coreutils or BusyBox). `files` are uploaded to `files_dir`/<name>, owned by the user, and are treated
    as secret. `archive`: they come as one tar of that name in `files_dir` instead, for a command that unpacks it:
    every upload costs the engine a process of its own. `triggers` are further inputs; only their HMAC under
    `digest_key` is written down. pid_of: name of a container whose processes it shares.
    """

    container_name: str
    image: pulumi.Input[str]
    user: str
    command: Sequence[str]
    entrypoint: Sequence[str] = ()
    env: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    files: Sequence[Content] = ()
    files_dir: str = "/run/kit"
    archive: str | None = None
    mounts: Sequence[VolumeMount] = ()
    networks: Sequence[Attachment] = ()
    triggers: Sequence[pulumi.Input[str]] = ()
    digest_key: pulumi.Input[str] | None = None
    capabilities: Sequence[str] = ()
    pid_of: pulumi.Input[str] | None = None
    memory_mb: int = 256
    timeout_s: int = 300
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    after: After = ()


class JobFailed(pulumi.RunError):
    """A job ended with an exit code other than 0."""


class Job(pulumi.ComponentResource):
    """`.done` goes into `after` of whatever needs the job's effect."""

    done: Done

    def __init__(self, name: str, args: JobArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:Job", name, None, opts)
        self._name = name
        self._args = args
        self._marker = self._trigger_label()
        self.done = self._attempt(1, args.after)
        self.register_outputs({})

    def _trigger_label(self) -> dict[str, pulumi.Input[str]]:
        if not self._args.triggers:
            return {}
        if self._args.digest_key is None:
            raise ValueError(f"job {self._name}: triggers need a digest_key")
        return {"aikit.triggers": open_digest(self._args.digest_key, self._args.triggers)}

    def _attempt(self, number: int, after: After) -> Done:
        container = self._container(number, after)

        def judge(seen: Sequence[object]) -> pulumi.Output[pulumi.Resource] | pulumi.Resource:
            code, made_by, log, *contents = seen
            if code == 0:
                return container
            if made_by != THIS_RUN:
                return self._attempt(number + 1, [container])
            hidden = [str(content) for content in contents]
            raise JobFailed(_failure(self._name, number, self._args, int(str(code)), str(log or ""), hidden))

        known = [file.content for file in self._args.files]
        seen = pulumi.Output.all(container.exit_code, container.hostname, container.container_logs, *known)
        return seen.apply(judge)

    def _container(self, number: int, after: After) -> docker.Container:
        args = self._args
        suffix = _attempt_suffix(number)
        seconds = args.timeout_s
        # Process 1 ignores signals it does not handle, so `timeout` could not stop a job that is process 1. With
        # another container's processes that one is process 1 already.
        init = args.pid_of is None
        return docker.Container(
            f"{self._name}{suffix}",
            name=f"{args.container_name}{suffix}",
            hostname=THIS_RUN,
            image=args.image,
            user=args.user,
            entrypoints=["timeout", "-k", "5", str(seconds)],
            command=[*args.entrypoint, *args.command],
            envs=environment(args.env) or None,
            uploads=(
                [packed(args.files, f"{args.files_dir}/{args.archive}")]
                if args.archive and args.files
                else uploads(args.files, args.files_dir, args.user) or None
            ),
            mounts=mounts(args.mounts) or None,
            **networking(args.networks),
            # Uploads are copied through the root file system, which a read-only one refuses.
            **hardening(args.capabilities, read_only=not args.files),
            pid_mode=None if args.pid_of is None else pulumi.Output.concat("container:", args.pid_of),
            init=init,
            memory=args.memory_mb,
            memory_swap=args.memory_mb,
            must_run=False,
            attach=True,
            logs=True,
            restart="no",
            labels=labels(
                {
                    **args.labels,
                    "aikit.given": given(env=args.env, files=args.files, mounts=args.mounts, pid_of=args.pid_of),
                    **self._marker,
                }
            ),
            opts=child(
                self,
                after,
                delete_before_replace=True,
                replace_on_changes=REPLACE_ON,
                # hostname is who made it; the engine turns the name in pid_mode into an id.
                ignore_changes=["hostname", "pid_mode"],
                additional_secret_outputs=["container_logs"],
                custom_timeouts=pulumi.CustomTimeouts(create=f"{seconds + ENGINE_GRACE_S}s"),
            ),
        )


def uploads(files: Sequence[Content], directory: str, user: str) -> list[docker.ContainerUploadArgs]:
    """Files for a container that has not started, secret in the state.

    They belong to root: giving them away makes the engine look the container's "uid:gid" up as a name, which fails
    (20.10). A job that is not root therefore gets them world-readable, in a file system that is its own alone.
    """
    root = user.partition(":")[0] in ("", "0", "root")
    return [
        docker.ContainerUploadArgs(
            file=f"{directory}/{file.name}",
            content_base64=pulumi.Output.secret(file.content).apply(encoded),
            permissions=file.mode if root else "0555" if int(file.mode, 8) & 0o111 else "0444",
        )
        for file in files
    ]


def packed(files: Sequence[Content], path: str) -> docker.ContainerUploadArgs:
    """All the files in one tar at `path`, root's and readable by root alone, secret in the state."""
    names = [(file.name, int(file.mode, 8)) for file in files]
    contents = pulumi.Output.secret(pulumi.Output.all(*(file.content for file in files)))
    return docker.ContainerUploadArgs(
        file=path, content_base64=contents.apply(lambda texts: _tar(names, texts)), permissions="0400"
    )


def _tar(names: Sequence[tuple[str, int]], texts: Sequence[str]) -> str:
    """Base64 of a tar that is the same for the same files, whenever it is made."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for (name, mode), text in zip(names, texts, strict=True):
            data = text.encode("utf-8")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Without the padding that tapes want: the state holds it twice, encrypted.
    return base64.b64encode(written.getvalue()[:end]).decode("ascii")


def redacted(text: str, contents: Sequence[str]) -> str:
    """The text without any of the contents, whole or line by line."""
    known = {content.strip() for content in contents}
    known |= {line.strip() for content in contents for line in content.splitlines() if len(line.strip()) >= 6}
    for secret in sorted(known - {""}, key=len, reverse=True):
        text = text.replace(secret, "[secret]")
    return text


def _attempt_suffix(number: int) -> str:
    return "" if number == 1 else f"-attempt-{number}"


def _failure(name: str, number: int, args: JobArgs, code: int, log: str, contents: Sequence[str]) -> str:
    why = {
        124: f" (it took longer than {args.timeout_s} s)",
        137: f" (killed: more than {args.memory_mb} MB of memory, or longer than {args.timeout_s} s)",
        143: f" (stopped: longer than {args.timeout_s} s, or by hand)",
    }.get(code, "")
    tail = redacted(log, contents).splitlines()[-LOG_TAIL_LINES:]
    said = "\n".join(f"    {line}" for line in tail) or "    (it wrote nothing)"
    return (
        f"job {name} failed with exit code {code}{why}. The end of its log:\n{said}\n"
        f"  Its container is {args.container_name}{_attempt_suffix(number)}. It runs again on the next `up`."
    )
