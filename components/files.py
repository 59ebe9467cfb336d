"""Files for a read-only, capability-less, non-root container: delivered to a named volume by a one-shot job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components.common import After, Content, Done, VolumeMount, open_digest
from components.job import Job, JobArgs

STAGE = "/kit"
ARCHIVE = "files.tar"
VOLUME = "/volume"

# What root needs to give files away: to whom, past whose directory modes, and with which mode.
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER")

NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
MODE = re.compile(r"0[0-7]{3}")
OWNER = re.compile(r"[0-9]+:[0-9]+")

# A file appears under its name at once, complete and with its owner and mode: written beside it, then renamed.
# First of all, and before anything of the service is touched: a volume that another state made has other credentials
# in it. Each says in a file whose it is.
MARK = ".kit-state"
SCRIPT = f"""
set -eu
umask 077
foreign=
while read -r number name; do
    mark=/data/$number/{MARK}
    [ -n "$number" ] && [ -f "$mark" ] || continue
    [ "$(cat "$mark")" = "$KIT_STATE" ] || foreign="$foreign $name"
done <<END
$KIT_VOLUMES
END
if [ -n "$foreign" ] && [ -z "$KIT_ADOPT" ]; then
    echo "made by another state than this one:$foreign. Nothing was touched. One of:"
    echo '- go back to the state that made it: PULUMI_BACKEND_URL (or XDG_STATE_HOME) says where it is'
    echo '- that state is lost: ./kit up STACK --adopt keeps the data and gives it new credentials (docs/security.md)'
    echo '- nothing in it is wanted: ./kit down STACK, then docker volume rm the volume'
    exit 1
fi
if [ -d {VOLUME} ]; then
    [ -f {STAGE}/{ARCHIVE} ] || {{ echo 'the files of this delivery are gone: run up again'; exit 1; }}
    tar -x -f {STAGE}/{ARCHIVE} -C {STAGE}
    chmod 0755 {VOLUME}
    while read -r number mode name; do
        [ -n "$number" ] || continue
        path={VOLUME}/$name
        directory=${{path%/*}}
        mkdir -p -m 0755 "$directory"
        while [ "$directory" != {VOLUME} ]; do chmod 0755 "$directory"; directory=${{directory%/*}}; done
        if [ -d "$path" ]; then rm -rf "$path"; fi
        temporary={VOLUME}/.kit-new
        cat "{STAGE}/$number" >"$temporary"
        chown "$KIT_OWNER" "$temporary"
        chmod "$mode" "$temporary"
        mv -f "$temporary" "$path"
    done <<END
$KIT_FILES
END
    echo "$KIT_FILES" | cut -d ' ' -f 3- >{STAGE}/wanted
    cd {VOLUME}
    find . ! -type d | while read -r found; do
        grep -qxF "${{found#./}}" {STAGE}/wanted || rm -f "$found"
    done
    find . -depth -mindepth 1 -type d -empty -exec rmdir {{}} ';'
    cd /
    rm -rf {STAGE}
fi
while read -r number owner mode seeded; do
    [ -n "$number" ] || continue
    top=/data/$number
    [ "$(stat -c %u:%g "$top")" = "$owner" ] || chown "$owner" "$top"
    [ "0$(stat -c %a "$top")" = "$mode" ] || chmod "$mode" "$top"
    if [ -z "$seeded" ] || [ -n "$(ls -A "$top")" ]; then
        rm -rf "$top/{MARK}.new" # the service owns this directory: nothing of its making is written through
        printf %s "$KIT_STATE" >"$top/{MARK}.new"
        chmod 0444 "$top/{MARK}.new"
        mv -f "$top/{MARK}.new" "$top/{MARK}"
    fi
done <<END
$KIT_DATA
END
"""


@dataclass(frozen=True, kw_only=True)
class DeliveredFile(Content):
    """restarts: a change of it replaces the container; otherwise it is reloaded."""

    restarts: bool = True


@dataclass(frozen=True, kw_only=True)
class Ownership:
    """Who the top directory of a volume belongs to (uid:gid), and its mode. What is inside stays as it is.

    Where the service's image has a directory of its own at the path of the mount, the engine copies that one into an
    empty volume when it makes the container, owner and mode included: then the image decides the first time. Mount
    data where the image has nothing, or run as the user the image made the directory for.

    The volume gets a file that says which state it belongs to. seeded: what the image has there is wanted, so nothing
    may be in it before; it gets that file with a later delivery.
    """

    volume: pulumi.Input[str]
    owner: str
    mode: str
    seeded: bool = False


@dataclass(frozen=True, kw_only=True)
class FileDeliveryArgs:
    """image: has a BusyBox-like sh. volume_name: None when there are no files, only owners to set.

    The volume is ours alone: what is not in `files` is removed from it. uid_gid owns every file; directories are
    root's, 0755. digest_key: the stack's DigestKey, so that change markers tell nothing about a weak secret; what its
    volumes are marked with follows from it, too. adopt: volumes that another state made become this one's.
    """

    container_name: str
    image: pulumi.Input[str]
    volume_name: pulumi.Input[str] | None
    uid_gid: str
    files: Sequence[DeliveredFile]
    digest_key: pulumi.Input[str]
    ownership: Sequence[Ownership] = ()
    adopt: bool = False
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    after: After = ()

    def __post_init__(self) -> None:
        if bool(self.files) != (self.volume_name is not None):
            raise ValueError(f"{self.container_name}: files need a volume, and a volume needs files")
        for file in self.files:
            if not NAME.fullmatch(file.name) or {".", ".."} & set(file.name.split("/")):
                raise ValueError(f"{self.container_name}: {file.name!r} is no plain relative file name")
            if not MODE.fullmatch(file.mode):
                raise ValueError(f"{self.container_name}: {file.mode!r} is no mode like '0400'")
        for owner in (self.uid_gid, *(ownership.owner for ownership in self.ownership)):
            if not OWNER.fullmatch(owner):
                raise ValueError(f"{self.container_name}: {owner!r} is not uid:gid in numbers")
        for ownership in self.ownership:
            if not MODE.fullmatch(ownership.mode):
                raise ValueError(f"{self.container_name}: {ownership.mode!r} is no mode like '0700'")


class FileDelivery(pulumi.ComponentResource):
    """`.restart_digest` and `.reload_digest` change with the files; neither is secret nor says anything about them."""

    restart_digest: pulumi.Output[str]
    reload_digest: pulumi.Output[str]
    done: Done

    def __init__(self, name: str, args: FileDeliveryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aikit:docker:FileDelivery", name, None, opts)
        files = sorted(args.files, key=lambda file: file.name)
        job = Job(
            name,
            JobArgs(
                container_name=args.container_name,
                image=args.image,
                user="0:0",
                command=("sh", "-c", SCRIPT),
                capabilities=CAPABILITIES,
                # Names, modes and owners are no secret.
                env={
                    "KIT_OWNER": args.uid_gid,
                    "KIT_FILES": "\n".join(f"{number} {file.mode} {file.name}" for number, file in enumerate(files)),
                    "KIT_DATA": "\n".join(
                        f"{number} {owned.owner} {owned.mode}{' seeded' if owned.seeded else ''}"
                        for number, owned in enumerate(args.ownership)
                    ),
                    "KIT_VOLUMES": _listed([owned.volume for owned in args.ownership]),
                    "KIT_STATE": open_digest(args.digest_key, ["state"]),
                    "KIT_ADOPT": "1" if args.adopt else "",
                },
                files=[Content(name=str(number), content=file.content) for number, file in enumerate(files)],
                files_dir=STAGE,
                archive=ARCHIVE,
                mounts=[
                    *([] if args.volume_name is None else [VolumeMount(volume=args.volume_name, path=VOLUME)]),
                    *(
                        VolumeMount(volume=ownership.volume, path=f"/data/{number}")
                        for number, ownership in enumerate(args.ownership)
                    ),
                ],
                memory_mb=64,
                timeout_s=120,
                labels={**args.labels, "aikit.kind": "files"},
                after=args.after,
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.restart_digest = digest(args.digest_key, [file for file in files if file.restarts], args.uid_gid)
        self.reload_digest = digest(args.digest_key, [file for file in files if not file.restarts], args.uid_gid)
        self.done = job.done
        self.register_outputs({"restart_digest": self.restart_digest, "reload_digest": self.reload_digest})


def _listed(volumes: Sequence[pulumi.Input[str]]) -> pulumi.Output[str]:
    def lines(names: Sequence[str]) -> str:
        return "\n".join(f"{number} {name}" for number, name in enumerate(names))

    return pulumi.Output.all(*volumes).apply(lines)


def digest(key: pulumi.Input[str], files: Sequence[Content], owner: str) -> pulumi.Output[str]:
    """Changes with names, modes, contents and owner."""
    parts: list[pulumi.Input[str]] = [owner]
    for file in files:
        parts += [file.name, file.mode, file.content]
    return open_digest(key, parts)
