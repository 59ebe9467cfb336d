"""Jenkins: pipelines, with its whole configuration as code and the stack's login.

Upstream: jenkinsci/docker. Facts: docs/services/jenkins.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stack import images
from stack.derive.values import issuer_url, route_named
from stack.model import (
    CONFIG_DIR,
    FREE_TEXT,
    REALM_ROLES,
    Access,
    BackupSet,
    ByTarget,
    CaCertificate,
    ClientSecret,
    ContainerSpec,
    Derived,
    File,
    HealthCheck,
    Http,
    ImageSource,
    Job,
    Mount,
    NoBackup,
    OidcClient,
    Port,
    Profile,
    Proof,
    RateClass,
    ResourceLimits,
    Route,
    ServiceSpec,
    Static,
    Target,
    Template,
    Volume,
    Waf,
    WafExclusion,
    Zone,
)

if TYPE_CHECKING:
    from stack.plan import Plan

NAME = "jenkins"
ROUTE = "jenkins"
PREFIX = "/jenkins"
HOME = "/var/jenkins_home"
SECRET = "client-secret"  # noqa: S105 - the name of a file

# Jenkins's own rights, for those who have a role of the stack. Who has the higher role has the lower one as well.
# Who configures jobs decides what agents run: an editor is trusted with whatever a job may use.
PERMISSIONS: Mapping[str, tuple[str, ...]] = {
    "admin": ("Overall/Administer",),
    "editor": (
        "Job/Build",
        "Job/Cancel",
        "Job/Configure",
        "Job/Create",
        "Job/Workspace",
        "Run/Update",
        "View/Configure",
        "View/Create",
    ),
    "viewer": ("Overall/Read", "Job/Discover", "Job/Read", "View/Read"),
}


@dataclass(frozen=True)
class Lookup:
    """What the configuration-as-code plugin puts in place of this when it reads the file: "${readFile:/path}"."""

    source: str
    key: str

    def __str__(self) -> str:
        return f"${{{self.source}:{self.key}}}"


# What a configuration may hold. A str is said as it is, whatever stands in it; only a Lookup is looked up.
Node = str | int | bool | Lookup | tuple["Node", ...] | Mapping[str, "Node"]


# Where a "}" follows: without one nothing is looked up, and a "^" would stay.
_LOOKED_UP = re.compile(r"\$\{(?=.*\})", re.DOTALL)


def rendered(node: Node) -> str:
    """A configuration for the configuration-as-code plugin, as JSON, which is YAML.

    The plugin looks up "${...}" in every text. "^" before it says that it is meant as it stands (the plugin's
    docs/features/secrets.adoc). ASCII alone: whatever else there is, is escaped.
    """
    return json.dumps(_plain(node), indent=2) + "\n"


def _plain(node: Node) -> object:
    match node:
        case bool() | int():
            return node
        case str():
            return _LOOKED_UP.sub(r"^\g<0>", node)
        case Lookup():
            return str(node)
        case tuple():
            return [_plain(each) for each in node]
        case _:
            return {name: _plain(each) for name, each in node.items()}


def configuration(plan: Plan) -> Mapping[str, Node]:
    """All of Jenkins's settings. What it does not know stops its start: nothing of it is lost by a word misspelt."""
    service = plan.service(NAME)
    home = plan.url(route_named(service.spec, ROUTE)) + PREFIX + "/"
    entries: tuple[Node, ...] = tuple(
        {"group": {"name": role, "permissions": PERMISSIONS[role]}} for role in sorted(REALM_ROLES)
    )
    return {
        "jenkins": {
            "systemMessage": f"Pipelines of {plan.stack}. Settings made here last until the next start.",
            # Nothing is built where the secrets are. Agents come in over HTTPS (WebSocket), so no other port is open.
            "numExecutors": 0,
            "slaveAgentPort": -1,
            "markupFormatter": "plainText",
            # The front door's address is not the client's, which may change meanwhile.
            "crumbIssuer": {"standard": {"excludeClientIPFromCrumb": True}},
            # A session lasts as long as the stack's: no cookie of weeks that logs in again.
            "disableRememberMe": True,
            "remotingSecurity": {"enabled": True},
            "authorizationStrategy": {"globalMatrix": {"entries": entries}},
            "securityRealm": {
                "oic": {
                    "serverConfiguration": {
                        "wellKnown": {
                            "wellKnownOpenIDConfigurationUrl": f"{issuer_url(plan)}/.well-known/openid-configuration",
                            "scopesOverride": "openid profile email",
                        }
                    },
                    "clientId": NAME,
                    "clientSecret": Lookup("readFile", f"{CONFIG_DIR}/{SECRET}"),
                    "userNameField": "preferred_username",
                    "fullNameFieldName": "name",
                    "emailFieldName": "email",
                    "groupsFieldName": "roles",  # this client's, and no others
                    "logoutFromOpenidProvider": True,
                    "postLogoutRedirectUrl": home,
                    "properties": ("pkce",),
                }
            },
        },
        "unclassified": {"location": {"url": home, "adminAddress": plan.settings.admin_email}},
    }


def config(plan: Plan) -> str:
    return rendered(configuration(plan))


SERVICE = ServiceSpec(
    name=NAME,
    summary="Pipelines, configured as code",
    profiles=frozenset({Profile("ci", "Pipelines on agents of one's own, with the stack's login (Jenkins)")}),
    unavailable={ImageSource.AIRGAP: "no package registry has Jenkins or its plugins, and nothing takes its place"},
    containers=(
        ContainerSpec(
            image=images.JENKINS,
            user="1000:1000",
            # No way out: plugins come by the job, agents come in through the front door.
            zones=frozenset({Zone.APP}),
            ports=(Port("http", 8080),),
            entrypoint=("/usr/bin/tini", "--", "/bin/bash", f"{CONFIG_DIR}/plugins.sh", "start"),
            command=("/usr/local/bin/jenkins.sh",),
            env={
                "HOME": HOME,
                "JENKINS_HOME": HOME,
                "JENKINS_OPTS": f"--prefix={PREFIX}",
                "JENKINS_SLAVE_AGENT_PORT": "-1",  # the image's own would open 50000 until the configuration is read
                "CASC_JENKINS_CONFIG": f"{CONFIG_DIR}/jenkins.yaml",
                "CASC_STRICT_SECRET_RESOLUTION": "true",  # a secret that is not there stops the start
                "JAVA_OPTS": ByTarget(
                    {
                        Target.DEV: "-Xms128m -Xmx768m",
                        Target.PI: "-Xms128m -Xmx512m",
                        Target.GPU: "-Xms256m -Xmx2g",
                    }
                ),
                "JENKINS_JAVA_OPTS": " ".join(
                    (
                        "-Djenkins.install.runSetupWizard=false",
                        "-Djavax.net.ssl.trustStore=/tmp/trust",
                        "-Djavax.net.ssl.trustStorePassword=changeit",
                        # A library that Java unpacks and loads: nothing in /tmp may be executed.
                        f"-Djna.tmpdir={HOME}/native",
                        "-XX:+ExitOnOutOfMemoryError",
                        "-XX:MaxMetaspaceSize=256m",
                        "-Dhudson.model.UsageStatistics.disabled=true",
                    )
                ),
            },
            files=(
                File(name="jenkins.yaml", source=Derived(config)),
                File(name="plugins.txt", source=Static("plugins.txt")),
                File(name="plugins.sh", source=Static("plugins.sh")),
                File(name="ca.crt", source=Template((CaCertificate(),)), mode="0444"),
                File(name=SECRET, source=Template((ClientSecret(),))),
            ),
            mounts=(Mount("home", HOME), Mount("plugins", "/plugins", read_only=True)),
            tmpfs={"/tmp": 128},
            health=HealthCheck(test=Http("http", f"{PREFIX}/login"), interval_s=5, start_period_s=300),
            # Estimates: it never ran where these were written.
            limits={
                Target.DEV: ResourceLimits(memory_mb=1536, cpus=2, pids=512),
                Target.PI: ResourceLimits(memory_mb=1024, cpus=1.5, pids=512),
                Target.GPU: ResourceLimits(memory_mb=3072, cpus=4, pids=512),
            },
            # It writes down which builds run, to go on with them.
            stop_grace_s=60,
            wait_s=600,
        ),
    ),
    jobs=(
        Job(
            name="plugins",
            image=images.JENKINS,
            user="1000:1000",
            entrypoint=("/bin/bash", f"{CONFIG_DIR}/plugins.sh", "fetch"),
            command=(),
            zones=frozenset({Zone.EGRESS}),
            env={"HOME": "/tmp", "CACHE_DIR": "/tmp/cache", "JAVA_OPTS": "-Xmx256m"},
            files=(
                File(name="plugins.txt", source=Static("plugins.txt")),
                File(name="plugins.sh", source=Static("plugins.sh")),
            ),
            mounts=(Mount("plugins", "/plugins"),),
            memory_mb=512,
            timeout_s=900,
            first=True,
        ),
    ),
    volumes=(
        # Jenkins writes each of its files anew beside the old one and renames it: a copy while it runs has whole ones.
        Volume(
            "home",
            BackupSet.files(exclude=("workspace/*", "caches/*", "native/*", "war/*", "plugins/*", "logs/*", "tmp/*")),
        ),
        Volume("plugins", NoBackup("fetched again, by pinned version")),
    ),
    routes=(
        # Agents keep a websocket open, logs stream while a build runs.
        Route(
            name=ROUTE,
            port="http",
            access=Access.APP,
            websocket=True,
            streaming=True,
            prefix=PREFIX,
            rate=RateClass.BUNDLE,
            waf=Waf(
                exclusions=(
                    WafExclusion(
                        rule="OWASP_CRS",
                        targets=(*FREE_TEXT, "XML:/*"),
                        paths=(f"{PREFIX}/job/", f"{PREFIX}/view/", f"{PREFIX}/createItem"),
                        reason="Jobs are scripts, sent by forms and as XML by those who may write them",
                    ),
                    WafExclusion(
                        rule="930130",
                        targets=("REQUEST_FILENAME",),
                        paths=(f"{PREFIX}/job/", f"{PREFIX}/view/"),
                        reason="A job is read and written at its config.xml, which is a file's name to a rule; Jenkins "
                        "asks who may",
                    ),
                ),
            ),
        ),
    ),
    oidc=OidcClient(
        route=ROUTE,
        redirect_paths=(f"{PREFIX}/securityRealm/finishLogin",),
        roles=REALM_ROLES,
        logout_path=f"{PREFIX}/",
    ),
    proofs=(
        Proof("people are in by single sign-on, with their role's rights", "stack.proofs.jenkins:login"),
        Proof("without a login nothing is shown, and nobody has a password", "stack.proofs.jenkins:closed"),
        Proof("its path of the domain leads to its one address", "stack.proofs.jenkins:path"),
    ),
)
