"""Every way in which one thing can be wrong, each with where it must be reported.

A Breakage changes one service of the factories' catalog (or the settings, or the host) so that exactly one thing
is wrong. tests/unit tries each on the standing catalog, tests/property on generated ones and in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from stack.model import (
    Access,
    Alternative,
    Arch,
    AsEnv,
    AsExport,
    AsFile,
    BackupSet,
    ByTarget,
    CaCertificate,
    Capability,
    Command,
    Database,
    DatabasePassword,
    DatabaseProvider,
    DatabaseUrl,
    Derived,
    File,
    Generated,
    HealthCheck,
    Http,
    ImagePin,
    InTemplate,
    Job,
    LeafCertificates,
    ModelMemory,
    Mount,
    NoBackup,
    OidcClient,
    OwnPath,
    OwnUrl,
    Port,
    Proof,
    Provided,
    Publish,
    Ref,
    Role,
    Route,
    Secret,
    SecretValue,
    ServiceSpec,
    Static,
    Target,
    Tcp,
    Template,
    Volume,
    Writable,
    Zone,
)
from tests import factories as make

BARE = ImagePin(name="bare", repository="registry.example/bare", tag="1", arches=frozenset(Arch))
SHELL_LESS = replace(BARE, name="shell-less", programs=frozenset({"curl"}))
ONE_ARCH = replace(make.IMAGE, name="one-arch", arches=frozenset({Arch.ARM64}))

Change = Callable[[ServiceSpec], ServiceSpec]


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """`change` breaks a service that has at least one container named main; `says` must be in the report."""

    name: str
    change: Change
    says: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    host: dict[str, Any] = field(default_factory=dict[str, Any])


def _models(container: str) -> ModelMemory:
    each = dict.fromkeys(Target, 1)
    return ModelMemory(
        models=lambda settings: ("x",), loaded=each, context=each, cache_bits=each, own_mb=1, container=container
    )


def _nothing(spec: ServiceSpec) -> ServiceSpec:
    return spec


def _in_container(**changes: Any) -> Change:
    return lambda spec: make.with_container(spec, **changes)


def _env(value: Any) -> Change:
    return lambda spec: make.with_container(spec, env={**spec.containers[0].env, "BROKEN": value})


def _file(*files: File) -> Change:
    return lambda spec: make.with_container(spec, files=(*spec.containers[0].files, *files))


def _text(name: str = "a.conf", **more: Any) -> File:
    return File(name=name, source=Template(("x",)), **more)


def _add(**more: Any) -> Change:
    """Add items to the service's tuples."""
    return lambda spec: replace(spec, **{name: (*getattr(spec, name), *items) for name, items in more.items()})


def _job(**changes: Any) -> Job:
    return replace(Job(name="once", image=make.IMAGE, user="1000:1000", command=("true",)), **changes)


def _second(**changes: Any) -> Change:
    """Add a container named second."""
    box = make.container(name="second", ports=(), health=HealthCheck(test=Command(("sh",))))
    return _add(containers=(replace(box, **changes),))


def _publish(spec: ServiceSpec) -> ServiceSpec:
    return make.with_container(spec, publish=(Publish(spec.containers[0].ports[0].name, lambda settings: 9999),))


def _limits(**changes: Any) -> Change:
    return _in_container(limits=make.limits(**changes))


def _both(*changes: Change) -> Change:
    def change(spec: ServiceSpec) -> ServiceSpec:
        for each in changes:
            spec = each(spec)
        return spec

    return change


def _derived_lookup(plan: Any) -> str:
    return str(plan.service("nowhere"))


# Breakages of any service.
ANY: tuple[Breakage, ...] = (
    Breakage(name="no limits for the target", change=_in_container(limits={}), says="none for target dev"),
    Breakage(name="impossible limits", change=_limits(memory_mb=5), says="nothing could run in it"),
    Breakage(name="no processors", change=_limits(cpus=0), says="nothing could run in it"),
    Breakage(name="more processors than there are", change=_limits(cpus=4.5), says="4.5 CPUs wanted, 4 there"),
    Breakage(name="a core that is not there", change=_limits(cpuset="0,9"), says="pinned to core 9 of 4"),
    Breakage(name="a core that is none", change=_limits(cpuset="all"), says="'all' is no core"),
    Breakage(
        name="models in no container",
        change=lambda spec: replace(spec, model_memory=_models("nope")),
        says="model_memory: there is no container nope",
    ),
    Breakage(
        name="a lighter service that is none",
        change=_add(alternatives=(Alternative("nowhere", "speed"),)),
        says='alternatives: "nowhere" cannot stand in for',
    ),
    Breakage(name="no graphics card", change=_limits(gpu=True), says="wants a GPU"),
    Breakage(
        name="memory over budget",
        change=_limits(memory_mb=100_000),
        says="MB wanted, 3,072 MB to give (4,096 less 1,024",
    ),
    Breakage(
        name="a probe the image cannot run",
        change=_in_container(health=HealthCheck(test=Command(("nmap", "localhost")))),
        says="image thing has no nmap to probe with",
    ),
    Breakage(name="an empty probe", change=_in_container(health=HealthCheck(test=Command(()))), says="to probe with"),
    Breakage(
        name="nothing to probe HTTP with",
        change=_second(image=BARE, ports=(Port("second", 99),), health=HealthCheck(test=Http("second", "/"))),
        says="image bare has no curl or wget or bash or python3 or node",
    ),
    Breakage(
        name="nothing to probe TCP with",
        change=_second(image=BARE, ports=(Port("second", 99),), health=HealthCheck(test=Tcp("second"))),
        says="image bare has no bash or nc or python3 or node",
    ),
    Breakage(
        name="a probe of no port",
        change=_in_container(health=HealthCheck(test=Http("htpp", "/"))),
        says='container main has no port "htpp"',
    ),
    Breakage(
        name="a wrapper without a command",
        change=_second(command=(), env={"CA": CaCertificate()}),
        says="env.CA needs the wrapper, which does not know what to start",
    ),
    Breakage(
        name="a wrapper without a shell",
        change=_second(image=SHELL_LESS, trust_ca=True, health=HealthCheck(test=Command(("curl",)))),
        says="trust_ca needs a shell, and image shell-less has none",
    ),
    Breakage(
        name="an exported secret without a command",
        change=_both(_second(command=()), _add(secrets=(Secret("x", Generated(), AsExport("X"), to="second"),))),
        says="secret x needs the wrapper",
    ),
    Breakage(
        name="a secret in a job's variables",
        change=_add(jobs=(_job(env={"KEY": LeafCertificates()}),)),
        says="once.env.KEY: is secret",
    ),
    Breakage(name="a file outside of its place", change=_file(_text("../a")), says="main.files.../a: is no file name"),
    Breakage(name="an absolute file", change=_file(_text("/a")), says="is no file name"),
    Breakage(name="a file of the kit", change=_file(_text("start")), says="main.files.start: is the kit's own file"),
    Breakage(name="a variable of the kit", change=_file(_text("env/A")), says="is the kit's own file"),
    Breakage(name="a file twice", change=_file(_text(), _text()), says="main.files.a.conf: is delivered twice"),
    Breakage(
        name="a file and a secret of one name",
        change=_both(_file(_text("key")), _add(secrets=(Secret("x", Generated(), AsFile("key")),))),
        says="main.files.key: is delivered twice",
    ),
    Breakage(name="a mode that is none", change=_file(_text(mode="rw-")), says='"rw-" is no mode'),
    Breakage(
        name="a static file that is not there",
        change=_file(File(name="a.conf", source=Static("nowhere.conf"))),
        says="has no such file",
    ),
    Breakage(name="a reload nobody knows", change=_file(_text(reload=True)), says="nothing says how"),
    Breakage(
        name="a derived file that cannot be made",
        change=_file(File(name="a.conf", source=Derived(_derived_lookup))),
        says="cannot be made: \"no service 'nowhere' in the plan\"",
    ),
    Breakage(
        name="a derived file that mentions no service",
        change=_file(File(name="a.conf", source=Derived(lambda plan: Template((Ref("caché", "http"),))))),
        says='there is no service "caché"',
    ),
    Breakage(
        name="a derived file with a foreign secret",
        change=_file(File(name="a.conf", source=Derived(lambda plan: Template((SecretValue("nope"),))))),
        says='the service has no secret "nope"',
    ),
    Breakage(
        name="no such volume", change=_in_container(mounts=(Mount("dta", "/x"),)), says="mounts.dta: there is no such"
    ),
    Breakage(
        name="a volume mounted nowhere", change=_add(volumes=(Volume("spare", BackupSet()),)), says="is mounted nowhere"
    ),
    Breakage(
        name="two mounts on one path",
        change=_both(
            _add(volumes=(Volume("a", BackupSet()), Volume("b", BackupSet()))),
            _second(mounts=(Mount("a", "/x"), Mount("b", "/x"))),
        ),
        says="second.mounts.b: /x is mounted twice",
    ),
    Breakage(name="a user by name", change=_in_container(user="postgres"), says='"postgres" is no uid:gid'),
    Breakage(name="writable for no reason", change=_in_container(writable=Writable(" ")), says="without a reason"),
    Breakage(
        name="a capability for no reason",
        change=_in_container(capabilities=(Capability("CAP_CHOWN", ""),)),
        says="main.capabilities.CAP_CHOWN: is an exception without a reason",
    ),
    Breakage(
        name="a capability that is none",
        change=_in_container(capabilities=(Capability("chown", "to own"),)),
        says="main.capabilities.chown: is no capability",
    ),
    Breakage(
        name="no backup for no reason",
        change=_both(_add(volumes=(Volume("a", NoBackup("")),)), _second(mounts=(Mount("a", "/x"),))),
        says="volumes.a.backup: is an exception without a reason",
    ),
    Breakage(
        name="a visible secret for no reason",
        change=_add(secrets=(Secret("x", Generated(), AsEnv("X", "")),)),
        says="secrets.x: is an exception without a reason",
    ),
    Breakage(
        name="a secret that was not provided",
        change=_add(secrets=(Secret("smtp", Provided("smtpPassword"), AsFile("smtp")),)),
        says="pulumi config set --secret smtpPassword -s dev",
    ),
    Breakage(
        name="a secret to nobody",
        change=_add(secrets=(Secret("x", Generated(), AsFile("x"), to="mian"),)),
        says='there is no container "mian"\n      Did you mean "main"?',
    ),
    Breakage(
        name="a variable twice",
        change=_both(_env("x"), _add(secrets=(Secret("x", Generated(), AsExport("BROKEN")),))),
        says="BROKEN is set by something else too",
    ),
    Breakage(
        name="two secrets of one name",
        change=_add(secrets=(Secret("x", Generated(), InTemplate()), Secret("x", Generated(), InTemplate()))),
        says='secrets: two are named "x"',
    ),
    Breakage(
        name="a secret named as an implied one",
        change=_add(secrets=(Secret("oidc", Generated(), InTemplate()),)),
        says='"oidc" is no name',
    ),
    Breakage(name="two containers of one name", change=_second(name="main"), says='containers: two are named "main"'),
    Breakage(name="a container with a bad name", change=_second(name="My_Box"), says='"My_Box" is no name'),
    Breakage(
        name="a job named as a container",
        change=_both(_second(), _add(jobs=(_job(name="second"),))),
        says="would be the container kit-dev-",
    ),
    Breakage(
        name="a volume named as the kit's",
        change=_both(_add(volumes=(Volume("config", BackupSet()),)), _second(mounts=(Mount("config", "/x"),))),
        says="would be the volume kit-dev-",
    ),
    Breakage(name="a URL of no route", change=_env(OwnUrl("nope")), says='the service has no route "nope"'),
    Breakage(name="a foreign secret", change=_env(SecretValue("nope")), says='the service has no secret "nope"'),
    Breakage(
        name="a secret missing deep in a template",
        change=_env(Template(("a", SecretValue("nope")))),
        says='the service has no secret "nope"',
    ),
    Breakage(
        name="no value for the target", change=_env(ByTarget({Target.PI: "x"})), says="has no value for target dev"
    ),
    Breakage(
        name="a route to no port",
        change=_add(routes=(Route(name="extra", port="htpp", access=Access.PUBLIC),)),
        says='routes.extra: the service has no port "htpp"',
    ),
    Breakage(
        name="a host name that is none",
        change=lambda spec: _add(
            routes=(Route(name="A_b", port=spec.containers[0].ports[0].name, access=Access.PUBLIC),)
        )(spec),
        says='routes: "A_b" is no name',
    ),
    Breakage(
        name="a denied path that is none",
        change=lambda spec: _add(
            routes=(
                Route(name="denying", port=spec.containers[0].ports[0].name, access=Access.PUBLIC, deny=("admin",)),
            )
        )(spec),
        says='deny "admin"',
    ),
    Breakage(
        name="two ports of one number",
        change=_second(ports=(Port("one", 99), Port("two", 98), Port("three", 70000))),
        says="second.ports.three: 70000",
    ),
    Breakage(
        name="a proof that names no function",
        change=_add(proofs=(Proof("it works", "stack.proofs.app"),)),
        says='"stack.proofs.app"\n      name it as module:function',
    ),
    Breakage(name="in no network", change=_second(zones=frozenset()), says="second.zones: are empty"),
    Breakage(
        name="from the front door to the data",
        change=_second(zones=frozenset({Zone.EDGE, Zone.APP, Zone.DATA})),
        says="would join data and edge",
    ),
    Breakage(
        name="from the data to the internet",
        change=_second(zones=frozenset({Zone.DATA, Zone.EGRESS})),
        says="would join data and egress",
    ),
    Breakage(
        name="from the data to the internet by way of the apps",
        change=_second(zones=frozenset({Zone.DATA, Zone.APP, Zone.EGRESS})),
        says="second.zones: lead from data to the outside",
    ),
    Breakage(
        name="an excuse for nothing",
        change=_second(way_out="it must be"),
        says="second.way_out: excuses nothing",
    ),
    Breakage(
        name="an elder that is not there",
        change=_second(after=("mian",)),
        says='second.after: there is no container "mian"',
    ),
    Breakage(
        name="containers that wait for each other",
        change=_second(after=("second",)),
        says="second.after: second and second wait for each other",
    ),
    Breakage(
        name="an open path where no login is",
        change=lambda spec: _add(
            routes=(
                Route(
                    name="extra",
                    port=spec.containers[0].ports[0].name,
                    access=Access.PUBLIC,
                    open=("/webhook/",),
                ),
            )
        )(spec),
        says='open "/webhook/", and its access is public',
    ),
    Breakage(name="an image for another machine", change=_second(image=ONE_ARCH), says="is not made for amd64"),
    Breakage(
        name="no service of that name",
        change=_env(Ref("cahce", "http", start=False)),
        says='there is no service "cahce"',
    ),
    Breakage(name="a need of nobody", change=_add(needs=("nobody",)), says='there is no service "nobody"'),
    Breakage(
        name="more images than disk",
        change=_second(image=replace(make.IMAGE, name="huge", size_mb=20_000)),
        says="for the images and their next versions, 20,480 MB there",
    ),
)

# Breakages of services that are not the ingress.
BEHIND_THE_INGRESS: tuple[Breakage, ...] = (
    Breakage(name="a port beside the ingress", change=_publish, says="goes around the ingress"),
    Breakage(
        name="a second ingress",
        change=lambda spec: replace(spec, roles=spec.roles | {Role.INGRESS}, needs=(*spec.needs, "front")),
        says="both have it",
    ),
)

# Breakages of the service `app` of the factories.
OF_APP: tuple[Breakage, ...] = (
    Breakage(
        name="an open path that is no folder",
        change=_add(routes=(Route(name="extra", port="http", access=Access.SSO, open=("/webhook",)),)),
        says='open "/webhook"',
    ),
    Breakage(
        name="a prefix that is no folder",
        change=_add(routes=(Route(name="extra", port="http", access=Access.PUBLIC, prefix="/wiki/"),)),
        says='prefix "/wiki/"',
    ),
    Breakage(
        name="a prefix of another's",
        change=_add(
            routes=(
                Route(name="extra", port="http", access=Access.PUBLIC, prefix="/wiki"),
                Route(name="more", port="http", access=Access.PUBLIC, prefix="/wiki"),
            )
        ),
        says="kit.localhost/wiki",
    ),
    Breakage(
        name="a path that is not below the prefix",
        change=_add(
            routes=(Route(name="extra", port="http", access=Access.PUBLIC, prefix="/wiki", paths=("/wikis/",)),)
        ),
        says='"/wikis/" is not below /wiki',
    ),
    Breakage(
        name="a Ref to no port",
        change=_env(Ref("cache", "htpp")),
        says='main.env.BROKEN: cache has no port "htpp"\n      Did you mean "http"? Ports: http',
    ),
    Breakage(
        name="a secret that is not shared",
        change=_env(Ref("login", "http", secrets=("bootstrap",), start=False)),
        says='login shares no secret "bootstrap"',
    ),
    Breakage(
        name="a template with an unknown field",
        change=_env(Ref("cache", "http", template="http://{user}@{host}")),
        says="{user} stands for nothing",
    ),
    Breakage(name="half a template", change=_env(Ref("cache", "http", template="http://{host")), says='"http://{host"'),
    Breakage(
        name="a Ref across networks",
        change=_second(env={"CACHE": Ref("cache", "http")}),
        says="is in app, cache in data: they share no network\n      add Zone.DATA to its zones",
    ),
    Breakage(
        name="a Ref across a wall",
        change=_second(env={"CACHE": Ref("cache", "http")}, zones=frozenset({Zone.EGRESS})),
        says="data may be reached from app, manage, observe only",
    ),
    Breakage(
        name="a database across networks",
        change=_second(command=("serve",), env={"DB": DatabaseUrl("app"), "MORE": DatabaseUrl("app")}),
        says="second.env.DB: is in app, base in data: they share no network",
    ),
    Breakage(
        name="another's database",
        change=_env(DatabasePassword("login")),
        says='the service has no database "login"\n      Its databases: app',
    ),
    Breakage(
        name="a database of another's name",
        change=_add(databases=(Database("login"),)),
        says="there would be two of that name",
    ),
    Breakage(
        name="a host name of another's",
        change=_add(routes=(Route(name="auth", port="http", access=Access.APP),)),
        says="auth.kit.localhost",
    ),
    Breakage(
        name="a login that comes back to nowhere",
        change=lambda spec: replace(spec, oidc=OidcClient(route="chta", redirect_paths=("/callback",))),
        says='oidc.route: the service has no route "chta"',
    ),
    Breakage(
        name="a login that comes back anywhere",
        change=lambda spec: replace(spec, oidc=OidcClient(route="app", redirect_paths=("/*",))),
        says='"/*"\n      write an exact path',
    ),
    Breakage(
        name="a second database server",
        change=lambda spec: replace(
            spec,
            roles=frozenset({Role.DATABASE}),
            needs=("base",),
            database_provider=DatabaseProvider(job=_job(), port="http"),
        ),
        says="app and base both have it",
    ),
    Breakage(
        name="a role without what it takes",
        change=lambda spec: replace(
            spec, identity_provider=make.login().identity_provider, secrets=make.login().secrets
        ),
        says="one is there without the other",
    ),
    Breakage(
        name="moved, and it cannot be",
        change=_nothing,
        settings={"paths": {"app": "/app"}},
        says="app can be at a host name of its own only",
    ),
    Breakage(
        name="moved, and nobody's",
        change=_nothing,
        settings={"paths": {"nope": "/app"}},
        says='no service has a route "nope"',
    ),
    Breakage(name="a path of no route", change=_env(OwnPath("nope")), says='the service has no route "nope"'),
    Breakage(name="left out and needed", change=_nothing, settings={"without": ("cache",)}, says="app needs it"),
    Breakage(name="retired and needed", change=_nothing, settings={"retired": ("cache",)}, says="app needs it"),
    Breakage(
        name="left out and in a role",
        change=_nothing,
        settings={"without": ("base",)},
        says='without[0]: "base"\n      app, login need it: take that out as well, or keep base',
    ),
    Breakage(
        name="left out and unknown",
        change=_nothing,
        settings={"without": ("cahce",)},
        says='is no service. Did you mean "cache"? Services: app, base, cache, front, login',
    ),
    Breakage(
        name="retired and unknown",
        change=_nothing,
        settings={"retired": ("old",)},
        says='retired[0]: "old"\n      is no service.',
    ),
)
