"""Builds the images that are missing, several at a time, and keeps the slow ones as files.

An image is its recipe's content: the tag carries the hash, so "is it there" is one question to the
engine. The state is the engine's and the cache folder's; an interrupted run is simply run again, and
finished build steps are in the engine's layer cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from airgap.images import engine
from airgap.images.recipe import (
    Recipe,
    by_name,
    by_pin,
    content_hash,
    files_of,
    host_arch,
    recipes,
    reference,
)

CA_BUNDLE = "ca-bundle.crt"
# Two builds at a time: most of a build is waiting for downloads and dpkg, and two cores are the floor.
DEFAULT_JOBS = 2
_LOG_TAIL = 15
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class BuildError(RuntimeError):
    """A build failed. The message holds the log's last lines and its path."""


class Progress(Protocol):
    """What a build says while it runs; ops.progress has it."""

    def step(self, text: str, /) -> contextlib.AbstractContextManager[object]: ...

    def note(self, text: str, /) -> None: ...


class Silent:
    """Progress for callers that want none."""

    def step(self, text: str, /) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def note(self, text: str, /) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """An image the engine holds. ``seconds`` and ``how`` say what this run did for it."""

    reference: str
    image_id: str
    recipe_hash: str
    how: str = "present"
    seconds: float = 0.0


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ai-kit" / "images"


@contextlib.contextmanager
def _lock(progress: Progress) -> Generator[None, None, None]:
    """One run at a time on this machine; a second one waits, says so, and then finds the work done."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note("another run is building images: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class _Children:
    """The programs this run started, so that an interrupt ends exactly those."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def start(
        self,
        command: list[str],
        *,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
        stdin: IO[bytes] | int | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self.stopping:
                raise BuildError("interrupted")
            child = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=env)
            self._running.add(child)
        return child

    def wait(self, child: subprocess.Popen[bytes]) -> int:
        try:
            return child.wait()
        finally:
            with self._lock:
                self._running.discard(child)

    def stop(self) -> None:
        with self._lock:
            self.stopping = True
            for child in self._running:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class _Task:
    recipe: Recipe
    hash: str
    reference: str
    bases: dict[str, str]
    """Build argument -> reference of the base."""

    @property
    def folder(self) -> Path:
        return cache_root() / self.recipe.name

    @property
    def tarball(self) -> Path:
        return self.folder / f"{self.recipe.version}-{self.hash[:12]}.tar.zst"

    @property
    def labels(self) -> dict[str, str]:
        recipe = self.recipe
        return {
            "org.opencontainers.image.title": recipe.title,
            "org.opencontainers.image.version": recipe.version,
            "org.opencontainers.image.description": (
                f"{recipe.purpose} Built locally by ai-kit from package registries; not the official image."
            ),
            "aikit.recipe": recipe.name,
            "aikit.recipe-hash": self.hash,
            **({"aikit.standin-for": recipe.standin_for} if recipe.standin_for else {}),
        }


class _Builder:
    def __init__(self, progress: Progress, *, use_cache: bool) -> None:
        self._progress = progress
        self._use_cache = use_cache
        self._say = threading.Lock()
        self.children = _Children()

    def note(self, text: str) -> None:
        with self._say:
            self._progress.note(text)

    def make(self, task: _Task) -> BuiltImage:
        """Load the image from the cache, or build it; then record what is inside."""
        started = time.monotonic()
        task.folder.mkdir(parents=True, exist_ok=True)
        log = task.folder / "build.log"
        with log.open("wb") as output:
            how = "loaded"
            if not self._load(task, output):
                how = "built"
                self.note(f"{task.recipe.name}: building")
                if task.recipe.is_base:
                    self._debootstrap(task, output, log)
                else:
                    self._docker_build(task, output, log)
        image = engine.present([task.reference]).get(task.reference)
        if image is None or image.recipe_hash != task.hash:
            raise BuildError(f"{task.recipe.name}: the engine does not hold {task.reference} after the build")
        seconds = time.monotonic() - started
        self.note(f"{task.recipe.name}: {how} in {seconds:.0f} s")
        if how == "built" and task.recipe.cache and self._use_cache:
            self._save(task)
        return BuiltImage(
            reference=task.reference,
            image_id=image.image_id,
            recipe_hash=task.hash,
            how=how,
            seconds=seconds,
        )

    # -- building ---------------------------------------------------------------------------------

    def _fail(self, task: _Task, log: Path, what: str) -> BuildError:
        if self.children.stopping:
            return BuildError("interrupted")
        text = _COLOUR.sub("", log.read_bytes().decode(errors="replace"))
        tail = [line[:400] for line in text.splitlines() if line.strip()][-_LOG_TAIL:]
        lines = [
            f"{task.recipe.name}: {what} failed. The log's last lines:",
            *(f"    {line}" for line in tail),
        ]
        return BuildError("\n".join([*lines, f"  the whole log: {log}"]))

    def _debootstrap(self, task: _Task, output: IO[bytes], log: Path) -> None:
        recipe = task.recipe
        options = [f"path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale", "info")]
        options += ["path-include=/usr/share/doc/*/copyright"]
        command = [
            "mmdebstrap",
            "--variant=minbase",
            "--quiet",
            f"--include={','.join(recipe.include)}",
        ]
        command += [f"--dpkgopt={option}" for option in options]
        # Installing leaves neither packages nor indexes in a layer. mmdebstrap itself needs both, so the
        # settings come when it is done.
        lines = (
            'APT::Keep-Downloaded-Packages "false";',
            'Dir::Cache::pkgcache "";',
            'Dir::Cache::srcpkgcache "";',
        )
        keep = f"""printf '%s\\n' {shlex.join(lines)} >> "$1/etc/apt/apt.conf.d/99mmdebstrap\""""
        keep += """ && rm -f "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb"""
        command += [
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=APT::Install-Recommends "false"',
        ]
        command += [f"--customize-hook={keep}", recipe.suite, "-"]
        changes = [
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            'CMD ["bash"]',
        ]
        changes += [f"LABEL {key}={json.dumps(value)}" for key, value in task.labels.items()]
        with tempfile.NamedTemporaryFile(dir=task.folder, suffix=".tar") as archive:
            child = self.children.start(command, stdout=archive, stderr=output)
            if self.children.wait(child) != 0:
                raise self._fail(task, log, "mmdebstrap")
            archive.flush()
            importing = [engine.docker(), "import"]
            for change in changes:
                importing += ["--change", change]
            child = self.children.start([*importing, archive.name, task.reference], stdout=output, stderr=output)
            if self.children.wait(child) != 0:
                raise self._fail(task, log, "docker import")
        self._record(task)

    def _docker_build(self, task: _Task, output: IO[bytes], log: Path) -> None:
        recipe = task.recipe
        with tempfile.TemporaryDirectory(prefix=f"aikit-{recipe.name}-") as name:
            context = Path(name)
            for path in files_of(recipe):
                target = context / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(recipe.folder / path, target)
                # Image layers keep modes: make them the same whatever the clone's umask was.
                target.chmod(0o755 if target.stat().st_mode & 0o100 else 0o644)
            for folder in context.rglob("*"):
                if folder.is_dir():
                    folder.chmod(0o755)
            if content_hash(recipe) != task.hash:
                raise BuildError(f"{recipe.name}: its files changed while the build was starting: run it again")
            if CA_BUNDLE in (recipe.folder / "Dockerfile").read_text(encoding="utf-8"):
                shutil.copyfile(engine.ca_bundle(), context / CA_BUNDLE)
            unfinished = f"{task.reference}-unfinished"
            command = [engine.docker(), "build", "--tag", unfinished]
            for key, value in {**task.bases, **recipe.args}.items():
                command += ["--build-arg", f"{key}={value}"]
            for key, value in task.labels.items():
                command += ["--label", f"{key}={value}"]
            output.write(f"$ {shlex.join(command)} {context}\n".encode())
            output.flush()
            child = self.children.start(
                [*command, str(context)],
                stdout=subprocess.PIPE,
                stderr=output,
                env=engine.build_environment(),
            )
            self._follow(task, child, output)
            if self.children.wait(child) != 0:
                raise self._fail(task, log, "docker build")
        self._finish(task, unfinished)

    def _follow(self, task: _Task, child: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        """Copy the build's output into the log; a step that takes long is named twice a minute."""
        step, said = "", time.monotonic()
        for line in child.stdout or ():
            output.write(line)
            output.flush()
            if line.startswith(b"Step "):
                step = line.decode(errors="replace").strip().partition(" : ")[0]
            now = time.monotonic()
            if now - said > 30:
                self.note(f"{task.recipe.name}: {step.lower()}")
                said = now

    def _finish(self, task: _Task, unfinished: str) -> None:
        """Give the image its name, with the versions the archives served as a label."""
        manifest = self._manifest(unfinished)
        versions = [f"{name}={manifest[name]}" for name in task.recipe.packages if name in manifest]
        labels = ["--label", f"aikit.packages={' '.join(versions)}"]
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        labels += ["--label", f"aikit.manifest-sha256={digest}"]
        command = [
            engine.docker(),
            "build",
            "--quiet",
            "--tag",
            task.reference,
            *labels,
            "-",
        ]
        result = subprocess.run(
            command,
            input=f"FROM {unfinished}\n".encode(),
            capture_output=True,
            env=engine.build_environment(),
            check=False,
        )
        if result.returncode != 0:
            raise BuildError(f"{task.recipe.name}: labelling failed: {result.stderr.decode(errors='replace').strip()}")
        engine.run(["image", "rm", "--no-prune", unfinished])
        self._record(task, manifest)

    def _manifest(self, image: str) -> dict[str, str]:
        """Debian packages inside, name -> version; an image without dpkg lists them in a file of its own."""
        query = ["--rm", "--network", "none", "--user", "0:0"]
        with contextlib.suppress(engine.EngineError):
            text = engine.run(
                [
                    "run",
                    *query,
                    "--entrypoint",
                    "dpkg-query",
                    image,
                    "-W",
                    "-f",
                    "${Package} ${Version}\\n",
                ]
            )
            return dict(line.split(" ", 1) for line in text.splitlines() if line)
        text = engine.run(["run", *query, "--entrypoint", "cat", image, "/usr/share/aikit/packages"])
        return dict(line.split(" ", 1) for line in text.splitlines() if line)

    def _record(self, task: _Task, manifest: dict[str, str] | None = None) -> None:
        content = {
            "reference": task.reference,
            "recipe_hash": task.hash,
            "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "debian_packages": manifest if manifest is not None else self._manifest(task.reference),
            "sources": [f"{source.kind} {source.name} {source.version}" for source in task.recipe.sources],
        }
        (task.folder / "manifest.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    # -- the cache of files -----------------------------------------------------------------------

    def _load(self, task: _Task, output: IO[bytes]) -> bool:
        if not (self._use_cache and task.recipe.cache and task.tarball.is_file()):
            return False
        self.note(f"{task.recipe.name}: loading from the cache")
        unpack = self.children.start(["zstd", "-dcq", str(task.tarball)], stdout=subprocess.PIPE, stderr=output)
        load = self.children.start([engine.docker(), "load"], stdin=unpack.stdout, stdout=output, stderr=output)
        # Only the reader keeps the pipe, so that its end ends the writer too.
        if unpack.stdout is not None:
            unpack.stdout.close()
        loaded = self.children.wait(load)
        unpacked = self.children.wait(unpack)
        if self.children.stopping:
            raise BuildError("interrupted")
        image = engine.present([task.reference]).get(task.reference)
        if loaded == 0 and unpacked == 0 and image is not None and image.recipe_hash == task.hash:
            return True
        self.note(f"{task.recipe.name}: the cached file is damaged: building instead")
        task.tarball.unlink(missing_ok=True)
        return False

    def _save(self, task: _Task) -> None:
        """Keep the image as a file. Losing this only costs time, so a failure is a note."""
        started = time.monotonic()
        with tempfile.NamedTemporaryFile(dir=task.folder, suffix=".partial", delete=False) as target:
            partial = Path(target.name)
            save = self.children.start(
                ["nice", "-n", "10", engine.docker(), "save", task.reference],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            pack = self.children.start(
                ["nice", "-n", "10", "zstd", "-q", "-T0", "-3", "-c"],
                stdin=save.stdout,
                stdout=target,
                stderr=subprocess.DEVNULL,
            )
            if save.stdout is not None:
                save.stdout.close()
            packed, saved = self.children.wait(pack), self.children.wait(save)
        if packed != 0 or saved != 0:
            partial.unlink(missing_ok=True)
            self.note(f"{task.recipe.name}: not kept in the cache")
            return
        partial.rename(task.tarball)
        for old in task.folder.glob("*.tar.zst"):
            if old != task.tarball:
                old.unlink(missing_ok=True)
        size = task.tarball.stat().st_size / 1e6
        self.note(f"{task.recipe.name}: kept in the cache ({size:.0f} MB, {time.monotonic() - started:.0f} s)")


def _closure(names: Iterable[str]) -> list[Recipe]:
    """The recipes asked for and what they stand on, bases first."""
    known = by_name()
    wanted: set[str] = set()

    def add(name: str) -> None:
        if name not in known:
            raise BuildError(f"there is no image {name!r}; there are: {', '.join(known)}")
        if name not in wanted:
            wanted.add(name)
            for base in known[name].bases.values():
                add(base)

    for name in names:
        add(name)
    return [recipe for recipe in recipes() if recipe.name in wanted]


def ensure(
    names: Iterable[str] | None = None,
    progress: Progress | None = None,
    *,
    jobs: int = DEFAULT_JOBS,
    use_cache: bool = True,
) -> dict[str, BuiltImage]:
    """Make sure the engine holds the images (all of them when ``names`` is None) and return them, by the names given.

    A name is a recipe's, or that of a pin whose place a stand-in takes.
    What is there is left alone: then this is one question to the engine. Missing ones are loaded from the
    cache or built, at most ``jobs`` at a time; a base is only made when something has to be built on it.
    Raises BuildError or engine.EngineError, after ending what it started. Run again, it goes on.
    """
    pins = by_pin()
    given = [recipe.name for recipe in recipes()] if names is None else list(names)
    meant = {name: pins[name].name if name in pins else name for name in given}
    built = _ensure(set(meant.values()), progress or Silent(), jobs, use_cache)
    return {name: built[recipe] for name, recipe in meant.items()}


def _ensure(asked: set[str], said: Progress, jobs: int, use_cache: bool) -> dict[str, BuiltImage]:
    todo = _closure(sorted(asked))
    tasks = {
        recipe.name: _Task(
            recipe=recipe,
            hash=content_hash(recipe),
            reference=reference(recipe),
            bases={argument: reference(by_name()[base]) for argument, base in recipe.bases.items()},
        )
        for recipe in todo
    }
    result = _present(tasks)
    if asked <= result.keys():
        return {name: image for name, image in result.items() if name in asked}

    with _lock(said):
        result = _present(tasks)
        if asked <= result.keys():
            return {name: image for name, image in result.items() if name in asked}
        if (there := engine.arch()) != host_arch():
            raise BuildError(
                f"the engine runs on {there}, this machine is {host_arch()}: build on the engine's machine"
            )
        missing = _needed(tasks, result, asked, use_cache=use_cache)
        for package in engine.need_host_programs(debian_archive=any(tasks[name].recipe.is_base for name in missing)):
            said.note(f"installed {package}")
        with said.step(f"building {len(missing)} images: {', '.join(missing)}"):
            builder = _Builder(said, use_cache=use_cache)
            result.update(_run(builder, {name: tasks[name] for name in missing}, jobs))
    return {name: result[name] for name in tasks if name in asked}


def _present(tasks: dict[str, _Task]) -> dict[str, BuiltImage]:
    there = engine.present([task.reference for task in tasks.values()])
    return {
        name: BuiltImage(
            reference=task.reference,
            image_id=there[task.reference].image_id,
            recipe_hash=task.hash,
        )
        for name, task in tasks.items()
        if task.reference in there and there[task.reference].recipe_hash == task.hash
    }


def _needed(
    tasks: dict[str, _Task],
    there: dict[str, BuiltImage],
    asked: set[str],
    *,
    use_cache: bool,
) -> list[str]:
    """What is missing, in build order: bases only for what cannot be loaded."""
    needed: set[str] = set()

    def add(name: str) -> None:
        if name in there or name in needed:
            return
        needed.add(name)
        task = tasks[name]
        if not (use_cache and task.recipe.cache and task.tarball.is_file()):
            for base in task.recipe.bases.values():
                add(base)

    for name in asked:
        add(name)
    return [name for name in tasks if name in needed]


def _run(builder: _Builder, tasks: dict[str, _Task], jobs: int) -> dict[str, BuiltImage]:
    """Run the tasks, each after what it stands on; the first failure ends the others."""
    done: dict[str, BuiltImage] = {}
    # The slow ones first, so that the last minutes still have two builds to run.
    waiting = dict(sorted(tasks.items(), key=lambda item: not item[1].recipe.cache))
    running: dict[Future[BuiltImage], str] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="image")
    try:
        while waiting or running:
            for name, task in list(waiting.items()):
                if len(running) < max(1, jobs) and not (
                    set(task.recipe.bases.values()) & (waiting.keys() | set(running.values()))
                ):
                    del waiting[name]
                    running[pool.submit(builder.make, task)] = name
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                done[name] = future.result()
    finally:
        # An exception, Ctrl-C included, ends what this run started and nothing else.
        if waiting or running:
            builder.children.stop()
        pool.shutdown(wait=True, cancel_futures=True)
    return done


def prune(progress: Progress | None = None) -> list[str]:
    """Remove what no current recipe needs: our images with other hashes, builder stages, old cache files."""
    said = progress or Silent()
    keep = {reference(recipe) for recipe in recipes()}
    removed: list[str] = []
    with _lock(said):
        listed = engine.run(
            [
                "image",
                "ls",
                "--format",
                "{{.Repository}}:{{.Tag}}",
                "--filter",
                "label=aikit.recipe",
            ]
        )
        for tag in sorted(set(listed.split()) - keep):
            if tag.endswith(":<none>"):
                continue
            try:
                engine.run(["image", "rm", tag])
                removed.append(tag)
            except engine.EngineError as error:
                said.note(f"kept {tag}: {error}")
        for label in ("aikit.builder", "aikit.recipe"):
            engine.run(["image", "prune", "--force", "--filter", f"label={label}"])
        current = {f"{recipe.version}-{content_hash(recipe)[:12]}.tar.zst" for recipe in recipes()}
        for path in cache_root().glob("*/*.tar.zst"):
            if path.name not in current:
                path.unlink()
                removed.append(str(path))
        for path in cache_root().glob("*/*.partial"):
            path.unlink()
    return removed


def on_terminal(print_line: Callable[[str], None]) -> Progress:
    """Plain progress: one line per event, with the time since the start."""
    started = time.monotonic()

    class Lines:
        @contextlib.contextmanager
        def step(self, text: str, /) -> Generator[None, None, None]:
            self.note(text)
            yield

        def note(self, text: str, /) -> None:
            print_line(f"[{time.monotonic() - started:4.0f} s] {text}")

    return Lines()
