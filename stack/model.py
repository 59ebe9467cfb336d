"""The vocabulary: every word a service file may use, and nothing that knows an engine.

All types are frozen, keyword-friendly dataclasses. Sizes are MB (2**20 bytes), times are seconds, modes are
octal strings as `chmod` takes them. A field without a default is one where a wrong guess would be unsafe or
silent (access, backup, limits, health).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from string import Formatter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from stack.plan import Plan
    from stack.settings import Settings


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


STATIC_FILES = Path(__file__).resolve().parent / "services" / "files"
CONFIG_DIR = "/run/kit"  # where every container finds its delivered files, read-only


# --------------------------------------------------------------------------------------------------- problems


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: where it stands, what it is, and how to fix it."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n      {self.fix}"


class SpecError(Exception):
    """Everything that is wrong, at once. Raised before anything is changed."""

    def __init__(self, subject: str, problems: tuple[Problem, ...]) -> None:
        self.subject = subject
        self.problems = problems
        super().__init__(self.render())

    def render(self) -> str:
        """The report a person reads: a line of what, then each problem, then that nothing happened."""
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        lines = [f"{self.subject}: {count}", ""]
        for problem in self.problems:
            lines += [f"  {problem.where}: {problem.what}", f"      {problem.fix}"]
        return "\n".join([*lines, "", "Nothing was changed."])


# ------------------------------------------------------------------------------------------- hosts and zones


class Target(StrEnum):
    """A kind of machine. Each has a HostProfile in targets.py."""

    DEV = "dev"
    PI = "pi"
    GPU = "gpu"


class Arch(StrEnum):
    AMD64 = "amd64"
    ARM64 = "arm64"


@dataclass(frozen=True, kw_only=True)
class HostProfile:
    """The machine a stack is planned for.

    memory_mb is what the machine has, reserve_mb what stays with the system; services share the difference.
    observe_mb of that is kept for monitoring, whether it runs or not, and is all that it may take; 0 is no rule.
    docker_host is None for the local socket. page_size is the kernel's, in bytes (16384 on a stock Pi 5).
    emulated: it stands for a larger or other machine than the one that is there, whose limits are cut to `cpus`.
    """

    target: Target
    arches: frozenset[Arch]
    docker_host: str | None
    memory_mb: int
    reserve_mb: int
    cpus: float
    disk_gb: int
    gpu: bool
    page_size: int
    observe_mb: int = 0
    emulated: bool = False


class Zone(StrEnum):
    """A network. zones.py says which may reach which."""

    EDGE = "edge"
    APP = "app"
    MODEL = "model"
    DATA = "data"
    OBSERVE = "observe"
    MANAGE = "manage"
    EGRESS = "egress"


@dataclass(frozen=True, kw_only=True)
class ZoneSpec:
    """internal: Docker gives it no way out. reachable_from: zones whose members may open connections into it.

    isolated: its members do not reach each other over it.
    """

    zone: Zone
    summary: str
    internal: bool
    reachable_from: frozenset[Zone]
    isolated: bool = False


@dataclass(frozen=True, order=True)
class Profile:
    """A bundle of services that users choose by name.

    One service says what it is for (`summary`); others that belong to it give its name alone.
    """

    name: str
    summary: str = ""


class Role(StrEnum):
    """What a service offers to all others without knowing them. At most one selected service has each."""

    INGRESS = "ingress"
    IDENTITY = "identity"
    DATABASE = "database"
    MODEL_API = "model-api"  # one API for all models, where a name may stand for several of them
    FIREWALL = "firewall"  # looks at what the ingress hands on, and hands it back; without it nobody does
    FORWARD_AUTH = "forward-auth"  # logs people in for routes whose service cannot; without it they stay shut
    CERTIFICATES = "certificates"  # has the front door's certificates signed by an authority outside
    LOGINS = (
        "logins"  # makes database logins that end by themselves, for services that can follow them (Database.leased)
    )


# ---------------------------------------------------------------------------------------------------- images


class ImageSource(StrEnum):
    """Where images come from: an image registry, or built here from package registries (airgap/)."""

    REGISTRY = "registry"
    AIRGAP = "airgap"


class CertificateSource(StrEnum):
    """Who signs what the front door shows outside."""

    OWN_CA = "own-ca"
    ACME = "acme"
    FILES = "files"


class Challenge(StrEnum):
    """How an ACME server is shown that a name is ours (RFC 8555, section 8)."""

    HTTP_01 = "http-01"
    DNS_01 = "dns-01"


# How the image of a stand-in is named, and nothing else: a small server of ours that speaks what we use of a real one
# that no package registry has. airgap/images names them so, and whatever people read finds them by it.
STANDIN = "standin-"


def standin_in(reference: str) -> str:
    """The name of the stand-in that an image reference is of, "" when it is of a real server."""
    name = reference.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return name if name.startswith(STANDIN) else ""


# The kernel's page sizes, in bytes: 4 KiB nearly everywhere, 16 KiB on a stock Raspberry Pi 5.
EVERY_PAGE_SIZE = frozenset({4096, 16384})


@dataclass(frozen=True, kw_only=True)
class ImagePin:
    """One image. `name` is also the recipe's name in airgap/images, or what follows STANDIN in it.

    `programs` are those a health probe may use.

    `pinned` is the day (YYYY-MM-DD) on which somebody chose this tag: what is known about its age where no registry
    answers. `page_sizes` are the kernels' page sizes its programs run with: some are built for 4 KiB alone.
    """

    name: str
    repository: str
    tag: str
    arches: frozenset[Arch]
    digest: str | None = None
    programs: frozenset[str] = frozenset()
    size_mb: int = 0
    pinned: str = ""
    page_sizes: frozenset[int] = EVERY_PAGE_SIZE

    def __post_init__(self) -> None:
        if self.tag in ("", "latest"):
            raise ValueError(f"image {self.name}: a pin needs a tag, and 'latest' is none")

    @property
    def reference(self) -> str:
        """repository:tag, with @digest where one is locked."""
        return self.tagged + (f"@{self.digest}" if self.digest else "")

    @property
    def tagged(self) -> str:
        """repository:tag, which is what a lock is kept under."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, kw_only=True)
class ImageLock:
    """What a tag stood for when it was locked: the digest of the whole image, all its architectures included.

    `locked` is the day (YYYY-MM-DD) on which it was, "" where that is not known.
    """

    digest: str
    arches: frozenset[Arch]
    locked: str = ""


# ---------------------------------------------------------------------------------------------------- values


class Encoding(StrEnum):
    """How a secret is written so that its reader gets back exactly its bytes, whatever characters it has.

    The last five are one-way: what is written follows from the secret by SHA-256, in the one form that a program
    takes, and the same secret always gives the same. NAME_24 may be seen by everybody.
    """

    RAW = "raw"
    URL = "url"  # percent-encoded, for the userinfo part of a URL
    REDIS = "redis"  # a double-quoted argument of redis.conf
    PROPERTIES = "properties"  # a value in a Java .properties file that Keycloak's expander reads
    JSON = "json"  # a JSON string, its quotes included
    ARGUMENT = "argument"  # one argument in a file of arguments (@file) of a Java program's picocli
    HEX_32 = "hex-32"  # a key of 32 bytes, as 64 hexadecimal digits
    BASE64_32 = "base64-32"  # a key of 32 bytes, as base64
    BASE64URL_32 = "base64url-32"  # the same in the alphabet for URLs, without padding
    UUID = "uuid"  # a random UUID (version 4) as to its form
    NAME_24 = "name-24"  # 24 hexadecimal digits that name the secret and give nothing of it away


@dataclass(frozen=True)
class OwnUrl:
    """The public URL of one of the service's own routes, without a trailing slash, plus `path`."""

    route: str
    path: str = ""


@dataclass(frozen=True)
class OwnPath:
    """The path of the domain that one of the service's own routes is at (Route.movable); `otherwise`: none."""

    route: str
    otherwise: str = ""


@dataclass(frozen=True)
class RouteUrl:
    """The public URL of a route of another service, without a trailing slash, plus `path`. No start edge."""

    service: str
    route: str
    path: str = ""


@dataclass(frozen=True)
class Issuer:
    """The one issuer URL of the stack's realm, the same for browsers and containers, plus `path`."""

    path: str = ""


@dataclass(frozen=True)
class Ref:
    """Another service's port: its URL, the dependency edge and the shared-zone check in one.

    `template` may name {host}, {port} and each of `secrets`, which must be shared by that service; they are written
    in `encoding`, and a Ref with secrets is itself secret. `start=False` when the other may come later.
    """

    service: str
    port: str
    template: str = "http://{host}:{port}"
    secrets: tuple[str, ...] = ()
    start: bool = True
    encoding: Encoding = Encoding.URL


@dataclass(frozen=True)
class DatabaseUrl:
    """The URL of one of the service's own databases, role and password included: secret."""

    database: str
    scheme: str = "postgresql"


@dataclass(frozen=True)
class DatabasePassword:
    """The password of the role of one of the service's own databases: secret."""

    database: str
    encoding: Encoding = Encoding.RAW


@dataclass(frozen=True)
class DatabaseUser:
    """As whom the service logs in to one of its own databases.

    The database's role, or once its password was rotated a login that acts as the role. It goes where the password
    goes: in a container's variables it comes as a file, so that the two always belong together.
    """

    database: str


@dataclass(frozen=True)
class SecretValue:
    """One of the service's own secrets, inside a larger value.

    previous: the one before it, "" for a secret that was never rotated.
    A file of a job that has nothing else is missing then.
    """

    secret: str
    encoding: Encoding = Encoding.RAW
    previous: bool = False


@dataclass(frozen=True)
class ClientId:
    """The id of the service's own OIDC client."""


@dataclass(frozen=True)
class ClientSecret:
    """The secret of the service's own OIDC client: secret."""

    encoding: Encoding = Encoding.RAW


@dataclass(frozen=True)
class FromSettings:
    """A plain value computed from the stack's settings."""

    read: Callable[[Settings], str]


@dataclass(frozen=True)
class ByTarget:
    """A plain value per target."""

    values: Mapping[Target, str]


@dataclass(frozen=True)
class CaCertificate:
    """The stack's CA certificate, PEM."""


@dataclass(frozen=True)
class LeafCertificates:
    """The private key and certificate chain for every host name of the stack, one PEM: secret."""


@dataclass(frozen=True)
class FrontCertificate:
    """The private key and chain that the operator brings for those who come from outside, one PEM: secret."""


Value = (
    str
    | OwnUrl
    | OwnPath
    | RouteUrl
    | Issuer
    | Ref
    | DatabaseUrl
    | DatabasePassword
    | DatabaseUser
    | SecretValue
    | ClientId
    | ClientSecret
    | FromSettings
    | ByTarget
    | CaCertificate
    | LeafCertificates
    | FrontCertificate
)


@dataclass(frozen=True)
class Template:
    """Values joined in order. Secret as soon as one of them is."""

    parts: tuple[Value, ...]

    @staticmethod
    def of(text: str, **values: Value) -> Template:
        """`text` with each {name} replaced by that value. ValueError when names and values do not match."""
        parts: list[Value] = []
        used: set[str] = set()
        for literal, name, _, _ in Formatter().parse(text):
            if literal:
                parts.append(literal)
            if name is not None:
                if name not in values:
                    raise ValueError(f"the text names {{{name}}}, which has no value")
                parts.append(values[name])
                used.add(name)
        if used != set(values):
            raise ValueError(f"the text does not name {', '.join(sorted(set(values) - used))}")
        return Template(tuple(parts))


@dataclass(frozen=True)
class Static:
    """A file kept in services/files/<service>/; shared: in services/files/shared/, for several services."""

    name: str
    shared: bool = False

    def path(self, service: str) -> Path:
        """Where it is kept; whether it is there is not looked at."""
        return STATIC_FILES / ("shared" if self.shared else service) / self.name


@dataclass(frozen=True)
class Derived:
    """Text computed from the whole plan by a pure function in derive/."""

    make: Callable[[Plan], str | Template]


FileSource = Template | Static | Derived


@dataclass(frozen=True, kw_only=True)
class File:
    """A file delivered to CONFIG_DIR/<name>, owned by the container's user.

    A changed file restarts the container, unless `reload` is True: then the container's `reload` job runs. live: it is
    read at the start alone, and a job of the service tells the running program: a change restarts and reloads nothing.
    """

    name: str
    source: FileSource
    mode: str = "0400"
    reload: bool = False
    live: bool = False


# --------------------------------------------------------------------------------------------------- secrets


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Made by the program once and kept in the state, encrypted.

    config_key: an operator who has the secret already sets it under this key, and then that one counts.
    """

    length: int = 32
    special: bool = False
    config_key: str = ""


@dataclass(frozen=True)
class Provided:
    """Set by the operator: `pulumi config set --secret <config_key>`. Missing is refused while planning."""

    config_key: str


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A JSON Web Token with these claims, signed (HS256) with another secret of the same service.

    It has no end of its own: it holds until the secret named `key` is made anew, and changes with it.
    """

    key: str
    claims: Mapping[str, str]


@dataclass(frozen=True)
class AsFile:
    """A file at CONFIG_DIR/<name>, without a trailing newline."""

    name: str
    mode: str = "0400"


@dataclass(frozen=True)
class AsExport:
    """A variable exported by a wrapper that reads a file and then execs the image's own entrypoint.

    Appears in no `docker inspect`. Needs a shell in the image and the container's `entrypoint` spelled out.
    """

    variable: str


@dataclass(frozen=True)
class AsEnv:
    """A plain environment variable, visible in `docker inspect`: only where an image has no shell."""

    variable: str
    reason: str


@dataclass(frozen=True)
class InTemplate:
    """Delivered only as part of other values of the same service, or of a Ref where it is shared."""


Delivery = AsFile | AsExport | AsEnv | InTemplate


@dataclass(frozen=True)
class Overlap:
    """Rotated without a gap: the server takes the new secret beside the old one until all who have it have moved.

    Both are jobs of the service. `accept` has the server take the new one; whoever has the secret waits for it.
    `retire` runs only for a secret that was rotated, after all containers and jobs that have it: it has the server
    refuse every other, and proves that. Both get KIT_GENERATION; for generation 1 `accept` does the refusing itself.
    """

    accept: str
    retire: str


@dataclass(frozen=True)
class Restart:
    """Rotated by starting again, with the new one, all that has it. notice: what people see of that."""

    notice: str


@dataclass(frozen=True)
class Never:
    """Not rotated by a number, and why: what to do instead, where anything can be done."""

    reason: str


@dataclass(frozen=True)
class Reload:
    """Rotated by a file that the server reads anew while it goes on."""


Rotates = Overlap | Restart | Reload | Never


@dataclass(frozen=True)
class Secret:
    """A secret of a service, delivered to its container `to`. shared: others may take it through a Ref.

    handed_out: people need it for programs of their own, so the stack exports it, as a secret output.
    rotates: how it is made anew. A service that does not say is one where nobody thought about it: refused.
    passing: nothing is lost with it, so that it may leave the state again; others stay there once they were made.
    """

    name: str
    source: Generated | Provided | Signed
    delivery: Delivery
    shared: bool = False
    to: str = "main"
    handed_out: bool = False
    rotates: Rotates | None = None
    passing: bool = False


# ------------------------------------------------------------------------------------------------ containers


@dataclass(frozen=True)
class Port:
    name: str
    number: int


@dataclass(frozen=True)
class Http:
    """Healthy when GET path on the named port answers 200."""

    port: str
    path: str


@dataclass(frozen=True)
class Tcp:
    """Healthy when the named port accepts a connection."""

    port: str


@dataclass(frozen=True)
class Command:
    """Healthy when the program exits 0. argv[0] must be one of the image's programs."""

    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """The Docker health check, in seconds. The interval bounds how late `up` notices that a service is ready.

    Where the image has bash, node or python3, a check over HTTP does not wait for the next one while the container
    starts: it asks again by itself (stack/derive/probe.py).
    """

    test: Http | Tcp | Command
    interval_s: int = 2
    timeout_s: int = 5
    retries: int = 5
    start_period_s: int = 30


@dataclass(frozen=True, kw_only=True)
class ResourceLimits:
    """Hard limits. memory_mb is also the swap limit: a container gets no swap. shm_mb 0 is the engine's default."""

    memory_mb: int
    cpus: float
    pids: int = 256
    cpuset: str = ""
    gpu: bool = False
    shm_mb: int = 0


@dataclass(frozen=True)
class Writable:
    """An exception from the read-only root file system. `sources`: with images from there only."""

    reason: str
    sources: frozenset[ImageSource] = frozenset(ImageSource)


@dataclass(frozen=True)
class Capability:
    """An exception from cap_drop ALL, in Docker's CAP_ form."""

    name: str
    reason: str


@dataclass(frozen=True)
class Mount:
    """One of the service's own volumes in one of its containers or jobs."""

    volume: str
    path: str
    read_only: bool = False


@dataclass(frozen=True)
class Publish:
    """A port on the host's bind address. Only the ingress may publish. `external` reads the host's port."""

    port: str
    external: Callable[[Settings], int]
    loopback_only: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """A long-running container. `user` is uid:gid. `entrypoint`/`command` are the image's own when left empty.

    trust_ca: SSL_CERT_FILE and REQUESTS_CA_BUNDLE point at the system's CAs and the stack's. after: containers of the
    same service that are healthy first. certificates: where it finds, read-only, the volume of whoever has
    Role.CERTIFICATES, which it needs then, "" for not at all. way_out: why a container in the data zone is in the
    egress zone as well, an exception. replicas: so many of the same run, <name>-1 and on, each with its ports numbered
    likewise; among containers with replicas, a Ref of the one numbered n goes to the port of the one numbered n
    (planning/replicas.py).
    """

    image: ImagePin
    user: str
    zones: frozenset[Zone]
    health: HealthCheck
    limits: Mapping[Target, ResourceLimits]
    name: str = "main"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, Value | Template] = field(default_factory=_empty)
    ports: tuple[Port, ...] = ()
    files: tuple[File, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, int] = field(default_factory=_empty)
    publish: tuple[Publish, ...] = ()
    writable: Writable | None = None
    capabilities: tuple[Capability, ...] = ()
    trust_ca: bool = False
    stop_grace_s: int = 10
    reload: tuple[str, ...] = ()
    wait_s: int = 300
    after: tuple[str, ...] = ()
    certificates: str = ""
    way_out: str = ""
    replicas: Callable[[Settings], int] | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A one-shot container: idempotent, run after the service is healthy, again when its inputs change.

    Its inputs are its image, command, env, files and `triggers`. `files` are secret-safe: uploaded, never in env or
    argv. first: it runs before the service's containers, and none of them is touched unless it succeeds. waits: it is
    made beside them and waits for them by itself, which spares the way to it the start of a container. after_realm: of
    the identity provider, once the realm, its clients and its people are made.
    """

    name: str
    image: ImagePin
    user: str
    command: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    zones: frozenset[Zone] = frozenset()
    env: Mapping[str, Value | Template] = field(default_factory=_empty)
    files: tuple[File, ...] = ()
    mounts: tuple[Mount, ...] = ()
    triggers: tuple[Value, ...] = ()
    memory_mb: int = 256
    timeout_s: int = 300
    first: bool = False
    waits: bool = False
    after_realm: bool = False


# ------------------------------------------------------------------------- what a service asks of the others


@dataclass(frozen=True)
class BackupSet:
    """What of a volume goes into the backup. stop: its files are whole only while the service is stopped."""

    exclude: tuple[str, ...] = ()
    stop: bool = False

    @staticmethod
    def files(exclude: tuple[str, ...] = ()) -> BackupSet:
        return BackupSet(exclude=exclude)


@dataclass(frozen=True)
class NoBackup:
    reason: str


@dataclass(frozen=True)
class Volume:
    """A named volume of the service. Top directory owned by `owner` (uid:gid), the main container's by default.

    seeded: the image has something at the volume's path, which the engine copies into it while it is empty.
    passing: nothing in it is worth keeping, so that it goes when the service has it no more; others are kept.
    """

    name: str
    backup: BackupSet | NoBackup
    owner: str | None = None
    mode: str = "0700"
    seeded: bool = False
    passing: bool = False


@dataclass(frozen=True)
class Database:
    """A database and a role of the same name, made by a job of whoever has Role.DATABASE.

    replication: the role may stream all of the server's log, and keep a slot there.
    logins: further roles that may log in, each with the name of the service's secret that is its password.
    setup: a file in services/files/<service>/ with SQL that the superuser runs in the database, after roles and
    extensions, in one transaction, whenever anything of this changes: any number of runs must end alike.
    makes_logins: the role makes logins that end by themselves, for the databases of others that are `leased`.
    leased: the service can follow logins that change while it runs. Where somebody has Role.LOGINS, its containers get
    them in place of the password (planning/leases.py), each changed by this function; else nothing changes.
    """

    name: str
    extensions: tuple[str, ...] = ()
    replication: bool = False
    logins: Mapping[str, str] = field(default_factory=_empty)
    setup: str = ""
    makes_logins: bool = False
    leased: Callable[[ContainerSpec], ContainerSpec] | None = None


# The realm's groups of those who have a role; who is in none of them, and may log in all the same, is in PEOPLE.
ROLE_GROUPS: Mapping[str, str] = MappingProxyType({"admin": "admins", "editor": "editors", "viewer": "viewers"})
PEOPLE = "users"


class Access(StrEnum):
    """Who may use a route. There is no default."""

    PUBLIC = "public"  # no login
    APP = "app"  # the application logs people in through OIDC
    SSO = "sso"  # forward authentication at the ingress
    ADMIN = "admin"  # the same, administrators alone
    MACHINE = "machine"  # keys or signatures, exact paths


class RateClass(StrEnum):
    """How often one client may ask. derive/rates.py has the numbers; what is more is answered 429 with Retry-After."""

    PAGE = "page"  # 100 requests in 10 seconds: a person with a browser
    BUNDLE = "bundle"  # 500 at once, then as above: an application whose page is made of hundreds of files
    STEADY = "steady"  # 100 a minute, 200 at once
    API = "api"  # 10 a minute, 20 at once: too few for any page


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What browsers are told to refuse on a route's behalf. A header that the application sends itself stays as it is.

    These are for an application of which nothing is known: they break none that loads its own parts. Each service says
    what is tighter, or what it must have, where its pages were looked at in a browser. "" sends no such header.
    """

    csp: str = "base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
    frame: str = "SAMEORIGIN"
    referrer: str = "same-origin"
    permissions: str = (
        "camera=(), display-capture=(), geolocation=(), microphone=(), midi=(), payment=(), serial=(), usb=()"
    )
    coop: str = "same-origin"

    @staticmethod
    def nothing() -> Headers:
        """For routes that programs call: no page of theirs may load, frame or send anything."""
        return Headers(
            csp="default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            frame="DENY",
            referrer="no-referrer",
        )


FREE_TEXT = ("ARGS", "ARGS_NAMES", "REQUEST_BODY")
"""Targets of the firewall: every parameter of query, form and JSON, its name (in JSON its place, so that a chat's
`history.messages` is a file name to a rule), and the body as it came."""


BODY_TEXT = (*FREE_TEXT, "XML:/*")
"""FREE_TEXT, and the texts of XML: for a body of any kind."""


@dataclass(frozen=True, kw_only=True)
class WafExclusion:
    """What the firewall lets pass at a route that its rules would take for an attack. Without a `reason` it is refused.

    rule: the six digits of a rule's id, or a tag, for all rules that carry it; OWASP_CRS is carried by every one.
    targets: the parts of a request that these rules no longer look at: FREE_TEXT, or such as ARGS:password,
    ARGS:json.password, XML:/* or REQUEST_COOKIES:name; none is all of it, for one rule alone.
    paths: where, as a Route's `paths`: exactly these, and what is below those that end in a slash; empty is everywhere.
    plain_query: only for requests whose query, if any, holds nothing but letters, digits and - . _ = & , : @. For
    bodies that may be anything where the query may not: parameters are ARGS wherever they come from. A query that
    holds more is looked at, and the body with it.
    """

    rule: str
    targets: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    plain_query: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Waf:
    """What the firewall should know of a route.

    text_kb: how much text a request's parameters may hold together where they are looked at: that takes seconds for
    each MB, so that more needs an exclusion of FREE_TEXT.
    """

    exclusions: tuple[WafExclusion, ...] = ()
    text_kb: int = 128


@dataclass(frozen=True, kw_only=True)
class Route:
    """A host name at the ingress: <name>.<domain>. deny: exact path prefixes answered 403.

    movable: the operator may put it at a path of the domain itself instead (`paths` of the settings). Requests arrive
    with that path, which the service takes from OwnPath; all paths here are below it.

    paths: where not empty, only these are let through, exactly, and what is below those that end in a slash.
    open: path prefixes, "/" at both ends, that need no login although the rest of the route does.

    With Access.SSO, roles: who gets in (of ROLE_GROUPS); empty is everybody who can log in. logout: the
    service's own path that ends a session of its own; it ends the login as well. voucher: a shared secret of the
    service, of which the ingress sends the HEX_32 form with each request that it says a person of: who has no voucher
    is not the ingress, whatever the other headers say (derive/forward_auth.py).

    prefix: the path, such as /wiki, below which alone the service answers, and which the ingress does not take away.
    The one address is then <name>.<domain>/wiki/: the host's "/" and <domain>/wiki lead there, and nothing else of the
    host is handed on.

    streaming: answers may take their time, 30 minutes between two parts of them. rate: how often one client may ask.
    body_mb: a request that announces more is answered 413.
    waf: what the firewall lets pass here (derive/waf.py).
    """

    name: str
    port: str
    access: Access
    movable: bool = False
    websocket: bool = False
    streaming: bool = False
    deny: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    logout: str = ""
    voucher: str = ""
    prefix: str = ""
    rate: RateClass = RateClass.PAGE
    body_mb: int = 100
    headers: Headers = Headers()
    waf: Waf = field(default_factory=Waf)


EVERYBODY = "*"
REALM_ROLES: Mapping[str, str] = MappingProxyType({"admin": "admin", "editor": "editor", "viewer": "viewer"})
"""The roles that a person has in the stack, highest first, as a client's roles: for services without their own."""


@dataclass(frozen=True, kw_only=True)
class OidcClient:
    """A confidential client named after the service. Redirect *paths* only: the URLs come from its route.

    roles: the service's own role -> who gets it: one of REALM_ROLES, for those who have that one or a higher one, or
    EVERYBODY. They arrive in the flat claim `roles`; a service without roles of its own says REALM_ROLES.
    logout_path: where the identity provider leads after a logout that began here. backchannel_logout_path: where the
    service hears of logouts elsewhere, on the port of its route, from inside (OpenID Connect Back-Channel Logout 1.0).
    """

    route: str
    redirect_paths: tuple[str, ...]
    roles: Mapping[str, str] = field(default_factory=_empty)
    logout_path: str = ""
    backchannel_logout_path: str = ""


@dataclass(frozen=True)
class Proof:
    """How a user would notice that the service works. `run` is "module:function" taking a ProofContext.

    through: other services that must work for it to hold, and about which it would therefore say something.
    """

    title: str
    run: str
    cleanup: str = ""
    through: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatabaseProvider:
    """How whoever has Role.DATABASE makes a database.

    `job` runs once per Database. It gets env KIT_DATABASE, KIT_ROLE, KIT_EXTENSIONS (space separated), for a replica
    KIT_REPLICATION=1, and the role's password in the file CONFIG_DIR/password. KIT_MAKES_LOGINS=1 says that the role is
    one that `makes_logins`, KIT_LOGINS_BY which role makes those of this one. Where the Database has them: the password
    of each further role in CONFIG_DIR/logins/<role>, and CONFIG_DIR/setup.sql.

    KIT_USER is the login that gets the password: the role itself, or for a rotated password another one that acts as
    the role, while the one before goes on. `retire` then runs after all that have the password. It gets KIT_DATABASE,
    KIT_ROLE and KIT_USER, the password in CONFIG_DIR/password, the one before in CONFIG_DIR/previous and its login in
    KIT_PREVIOUS_USER: it has the server refuse all other logins of the role, and proves that.
    """

    job: Job
    port: str
    retire: Job | None = None


@dataclass(frozen=True, kw_only=True)
class LoginProvider:
    """How whoever has Role.LOGINS hands logins to the service that a leased database belongs to.

    `agent` makes, for a user (uid:gid) and a database, the container that runs beside the service. It keeps a login in
    the file FOLDER/login: JSON with `user` and `password`, replaced at once, the next one in time before the last ends.
    The provider knows the service by the service's secret KEY, and has made all it needs once its `job` has run.
    """

    KEY: ClassVar[str] = "lease-key"  # the name of a secret
    FOLDER: ClassVar[str] = "/run/login"

    agent: Callable[[str, str], ContainerSpec]
    job: str


@dataclass(frozen=True, kw_only=True)
class CertificateProvider:
    """How whoever has Role.CERTIFICATES hands them over, and how an authority's question reaches it.

    LIVE in `volume` is the PEM that is to be shown outside, key first: replaced at once, readable by the GROUP that
    every ingress runs in, and there before anybody needs it. What is asked below CHALLENGE of any name of the stack,
    over plain HTTP, is for `port`.
    """

    GROUP: ClassVar[int] = 99
    LIVE: ClassVar[str] = "live.pem"
    CHALLENGE: ClassVar[str] = "/.well-known/acme-challenge/"  # RFC 8555, section 8.3

    port: str
    volume: str


@dataclass(frozen=True, kw_only=True)
class IdentityProvider:
    """How whoever has Role.IDENTITY is administered.

    `admin_client_id` is a service client of its own (master) realm, whose secret is the service's `admin_secret`. It
    is there once the service's jobs have run. `port` serves logins and the admin API.
    """

    admin_client_id: str
    admin_secret: str
    port: str


@dataclass(frozen=True, kw_only=True)
class ForwardAuth:
    """How whoever has Role.FORWARD_AUTH is asked about a request, over HTTP, by its cookie named `cookie`.

    GET `check`, in which {groups} stands for group names with commas between them, answers 202 with the person in the
    headers X-Auth-Request-User, -Email, -Groups and -Preferred-Username, 403 to a person in none of the groups, 401 to
    nobody. `start`, on the service's own `route`, leads to the login and back to the URL in its query `rd`. GET
    `sign_out` ends the session, here and at the identity provider.
    """

    port: str
    route: str
    cookie: str
    check: str
    start: str
    sign_out: str


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """That a container holds models in memory, within its limit: `modelMemoryMb` of the settings, where that is set.

    `models` gives their names, `loaded` how many are held at once, `context` how many tokens of a conversation each
    keeps, `cache_bits` how many bits a number of that takes, `own_mb` what the server takes without any model.
    planning/models.py says what follows from a model's name.
    """

    models: Callable[[Settings], tuple[str, ...]]
    loaded: Mapping[Target, int]
    context: Mapping[Target, int]
    cache_bits: Mapping[Target, int]
    own_mb: int
    container: str = "main"


@dataclass(frozen=True)
class Alternative:
    """A lighter service that does the same for most people, offered where a machine has no room for this one.

    `loss` says what is missed then. Only offered while no other service names this one.
    """

    service: str
    loss: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A setting that decides what a service is made of: the value of the config key `key` names one of `options`.

    An option is what it changes: a function from the service to the service as it then is. What it names thereby is
    needed, and what another option names is not. moved: what a new value means for what is there already; `up` says it.
    """

    key: str
    read: Callable[[Settings], str]
    options: Mapping[str, Callable[[ServiceSpec], ServiceSpec]]
    moved: str = ""


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """Everything about one service. `name` equals its file's name.

    unavailable: sources of images that cannot give it, each with the reason. A profile then does without it, and the
    plan says so; whoever names it, or needs it, is refused.
    """

    name: str
    summary: str
    containers: tuple[ContainerSpec, ...]
    profiles: frozenset[Profile] = frozenset()
    targets: frozenset[Target] = frozenset(Target)
    unavailable: Mapping[ImageSource, str] = field(default_factory=_empty)
    roles: frozenset[Role] = frozenset()
    needs: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()
    secrets: tuple[Secret, ...] = ()
    volumes: tuple[Volume, ...] = ()
    databases: tuple[Database, ...] = ()
    database_provider: DatabaseProvider | None = None
    login_provider: LoginProvider | None = None
    certificate_provider: CertificateProvider | None = None
    identity_provider: IdentityProvider | None = None
    forward_auth: ForwardAuth | None = None
    routes: tuple[Route, ...] = ()
    oidc: OidcClient | None = None
    proofs: tuple[Proof, ...] = ()
    model_memory: ModelMemory | None = None
    alternatives: tuple[Alternative, ...] = ()
    choices: tuple[Choice, ...] = ()
    # It runs workflows: the job that imports those the settings select (automation/render.py adds them to its files).
    workflow_importer: Job | None = None
    # It keeps the credentials of workflows: the program, in its first container, that takes one line of JSON on its
    # standard input and answers with one (ops/credentials.py).
    credential_store: tuple[str, ...] = ()
    counted_in: Zone | None = None  # whose share of the machine it takes; None: that of each container's first zone
    source: str = field(default="", compare=False)  # the file it was found in, for messages

    def container(self, name: str = "main") -> ContainerSpec:
        """The container of that name. KeyError when there is none."""
        for container in self.containers:
            if container.name == name:
                return container
        raise KeyError(f"{self.name} has no container {name!r}")

    def endpoint(self, port: str) -> tuple[ContainerSpec, Port]:
        """The container that has the port of that name, and the port. KeyError when there is none."""
        for container in self.containers:
            for candidate in container.ports:
                if candidate.name == port:
                    return container, candidate
        raise KeyError(f"{self.name} has no port {port!r}")


Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True)
class Owned(Generic[Item]):
    """A contribution and the service that made it."""

    owner: str
    item: Item
