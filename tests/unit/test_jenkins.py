"""Jenkins's files: what must not be lost by accident, and its scripts with the image's tools stood in for.

The real parser and look-up of its configuration, the front door and Keycloak: tests/live/test_jenkins.py. Jenkins
itself ran nowhere here: no package registry has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.catalog import discover
from stack.derive import oidc, runtime
from stack.derive.values import SecretPiece
from stack.model import REALM_ROLES, Access, ImageSource, NoBackup, SpecError, Target, Zone
from stack.plan import Plan, build
from stack.proofs import jenkins as proof
from stack.proofs.context import Login, Person, ProofError
from stack.services import jenkins
from stack.services.jenkins import Lookup
from stack.settings import Settings
from stack.targets import profile
from tests.unit.test_proofs import OUTPUTS

SERVICES = discover()
FILES = Path(__file__).resolve().parents[2] / "stack/services/files/jenkins"
HOSTILE = "a'b\"c$d${e}^${f}\\g`h #i\n- j: &k *l !m\t%n {o} ${readFile:/run/kit/client-secret} é€😀"


def planned(target: Target = Target.DEV, **changes: object) -> Plan:
    given: dict[str, Any] = {"profiles": ("ci",), **changes}
    settings = Settings(stack="test", target=target, **given)
    return build(settings, profile(settings), SERVICES)


def meant(text: str) -> str:
    """A text as the plugin reads it: "^" goes where a variable would stand, and nothing may be left to look up.

    That it reads so, with its own libraries: tests/live/test_jenkins.py.
    """
    assert not re.search(r"(?<!\^)\$\{(?=[\s\S]*\})", text), f"would be looked up: {text!r}"
    return re.sub(r"\^(\$\{)(?=[\s\S]*\})", r"\1", text)


def texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for each in node.values() for text in texts(each)]
    if isinstance(node, list):
        return [text for each in node for text in texts(each)]
    return [node] if isinstance(node, str) else []


def container(plan: Plan) -> runtime.ContainerPlan:
    return next(step for step in runtime.build(plan).containers if step.name == "kit-test-jenkins")


# ---------------------------------------------------------------------------------------------- configuration


def test_the_configuration(golden: Callable[[str, str], None]) -> None:
    golden("tests/golden/jenkins.yaml", jenkins.config(planned()))


@given(st.one_of(st.text(), st.text(alphabet="^${}:-ab\n")))
def test_a_text_is_said_as_it_is(text: str) -> None:
    assert meant(json.loads(jenkins.rendered({"x": text}))["x"]) == text


@pytest.mark.parametrize(
    "text", [HOSTILE, "^", "^^${x}", "${", "$${a}", "${a:-b}", "${${a}}", "${a}${", "a}^${", "${}", "}", "^$", ""]
)
def test_hostile_texts_are_said_as_they_are(text: str) -> None:
    whole = jenkins.rendered({"jenkins": {"systemMessage": text, "list": (text, {"deep": text})}})
    assert whole.isascii() and "\t" not in whole
    found = texts(json.loads(whole))
    assert [meant(each) for each in found] == [text] * 3


def test_a_hostile_address_and_name_stay_texts() -> None:
    plan = planned()
    settings = replace(plan.settings, stack=HOSTILE, domain=HOSTILE, realm=HOSTILE, admin_email=HOSTILE)
    found = texts(json.loads(jenkins.config(replace(plan, settings=settings))))
    lookups = [text for text in found if re.search(r"(?<!\^)\$\{", text)]
    assert lookups == ["${readFile:/run/kit/client-secret}"]


def test_the_secret_is_read_from_a_file_and_stands_nowhere_else() -> None:
    step = container(planned())
    by_name = {file.name: file for file in step.files}
    (piece,) = by_name["client-secret"].text
    assert isinstance(piece, SecretPiece) and str(piece.key) == "jenkins/oidc"
    assert by_name["client-secret"].mode == "0400"
    others = [file.text for name, file in by_name.items() if name != "client-secret"]
    assert not [each for text in others for each in text if isinstance(each, SecretPiece)]
    assert not step.secret_env
    realm: Any = jenkins.configuration(planned())["jenkins"]
    assert realm["securityRealm"]["oic"]["clientSecret"] == Lookup("readFile", "/run/kit/client-secret")


def test_who_may_what() -> None:
    assert set(jenkins.PERMISSIONS) == set(REALM_ROLES)
    assert jenkins.PERMISSIONS["admin"] == ("Overall/Administer",)
    for role in ("editor", "viewer"):
        given = jenkins.PERMISSIONS[role]
        assert not [name for name in given if name.startswith(("Overall/Admin", "Agent/", "Credentials/"))]
    assert not [name for name in jenkins.PERMISSIONS["viewer"] if re.search("Build|Configure|Create|Delete|Up", name)]
    said = json.loads(jenkins.config(planned()))["jenkins"]["authorizationStrategy"]["globalMatrix"]["entries"]
    assert [list(entry) for entry in said] == [["group"]] * 3, "nobody by name, not anonymous, not every login"


def test_what_guards_it() -> None:
    said = json.loads(jenkins.config(planned()))["jenkins"]
    assert said["numExecutors"] == 0 and said["slaveAgentPort"] == -1
    assert said["crumbIssuer"] == {"standard": {"excludeClientIPFromCrumb": True}}
    assert said["remotingSecurity"] == {"enabled": True} and said["disableRememberMe"] is True
    login = said["securityRealm"]["oic"]
    assert login["properties"] == ["pkce"], "no escape hatch, nonce and token are verified"
    assert not {"disableSslVerification", "tokenExpirationCheckDisabled", "rootURLFromRequest"} & login.keys()
    env = container(planned()).env
    assert "-Djenkins.install.runSetupWizard=false" in env["JENKINS_JAVA_OPTS"]
    assert env["CASC_STRICT_SECRET_RESOLUTION"] == "true"


# ---------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("target", Target)
def test_it_fits_every_target_with_room_beside_its_heap(target: Target) -> None:
    plan = planned(target)
    running = {service.name: service.why for service in plan.running}
    assert running["jenkins"] == ("profile ci",) and {"haproxy", "keycloak", "postgres"} <= running.keys()
    heap = re.search(r"-Xmx(\d+)([mg])", container(plan).env["JAVA_OPTS"])
    assert heap
    assert int(heap[1]) * (1024 if heap[2] == "g" else 1) <= 0.7 * plan.service("jenkins").memory_mb
    assert target is not Target.PI or plan.service("jenkins").memory_mb <= 1024


def test_only_the_job_has_a_way_out_and_nothing_has_the_engine() -> None:
    plan = planned()
    built = runtime.build(plan)
    assert {network.zone for network in container(plan).networks} == {Zone.APP}
    (job,) = (job for job in built.jobs if job.name == "kit-test-jenkins-plugins")
    assert {network.zone for network in job.networks} == {Zone.EGRESS}
    assert container(plan).publish == () and container(plan).read_only
    assert "docker.sock" not in json.dumps([str(step) for step in (container(plan), job)])


def test_the_plugins_are_there_before_it_starts() -> None:
    steps = {step.name: step for step in runtime.build(planned()).steps}
    assert "kit-test-jenkins-plugins" in steps["kit-test-jenkins"].after
    assert [mount.read_only for mount in steps["kit-test-jenkins"].mounts if mount.path == "/plugins"] == [True]


def test_the_backup_has_what_cannot_be_made_again() -> None:
    volumes = {owned.item.name: owned.item.backup for owned in planned().volumes if owned.owner == "jenkins"}
    home = volumes["home"]
    assert isinstance(volumes["plugins"], NoBackup) and not isinstance(home, NoBackup)
    assert {"workspace/*", "caches/*", "plugins/*"} <= set(home.exclude)
    assert not {"secrets/*", "jobs/*", "users/*", "*"} & set(home.exclude)


def test_it_is_left_out_where_no_registry_has_it() -> None:
    plan = planned(profiles=("chat", "ci"), images=ImageSource.AIRGAP)
    assert "jenkins" not in {service.name for service in plan.services}
    assert "no package registry has Jenkins" in plan.left_out["jenkins"]
    with pytest.raises(SpecError, match="no package registry has Jenkins"):
        planned(profiles=(), services=("jenkins",), images=ImageSource.AIRGAP)


@pytest.mark.parametrize(("port", "suffix"), [(8443, ":8443"), (443, "")])
def test_it_comes_back_from_a_login_to_one_address(port: int, suffix: str) -> None:
    plan = planned(https_port=port, domain="home.example")
    (client,) = (client for client in oidc.clients(plan) if client.service == "jenkins")
    home = f"https://jenkins.home.example{suffix}/jenkins/"
    assert client.redirect_uris == (f"{home}securityRealm/finishLogin",)
    assert client.post_logout_redirect_uris == (home,)
    assert {role.name: role.audience.value for role in client.roles} == REALM_ROLES
    said = json.loads(jenkins.config(plan))
    assert said["unclassified"]["location"]["url"] == home, "its redirect URI is made of this"
    assert said["jenkins"]["securityRealm"]["oic"]["postLogoutRedirectUrl"] == home
    assert container(plan).env["JENKINS_OPTS"] == "--prefix=/jenkins"
    (route,) = plan.service("jenkins").spec.routes
    assert route.prefix == "/jenkins" and route.access is Access.APP and route.websocket


# ------------------------------------------------------------------------------------------------- its plugins


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (FILES / "plugins.txt").read_text().splitlines()]
    return dict(line.split(":") for line in lines if line)


def test_every_plugin_is_pinned_once() -> None:
    found = pins()
    assert {"configuration-as-code", "matrix-auth", "oic-auth", "git", "workflow-aggregator"} <= found.keys()
    for name, version in found.items():
        assert re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"\d[\w.-]*", version), name
    written = re.findall(r"^([a-z][a-z0-9-]*):", (FILES / "plugins.txt").read_text(), re.MULTILINE)
    assert len(written) == len(found)


class Home:
    """A folder for each volume, and the two tools of the image, stood in for: one that fetches, one that trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("kit", "plugins", "home", "tmp", "bin", "java/lib/security"):
            (folder / name).mkdir(parents=True)
        (folder / "java/lib/security/cacerts").write_text("the system's\n")
        (folder / "kit/ca.crt").write_text("ours\n")
        self.pin("git:1.2", "mailer:3")
        self._tool("keytool", 'while [ "$1" != -keystore ]; do shift; done; cat "$KIT_DIR/ca.crt" >> "$2"')
        self.gives({"git": "1.2", "mailer": "3", "structs": "9"})

    def pin(self, *lines: str) -> None:
        (self.folder / "kit/plugins.txt").write_text("# ours\n" + "".join(f"{line}  # why\n" for line in lines))

    def gives(self, plugins: dict[str, str], code: int = 0) -> None:
        """What the tool that fetches comes back with."""
        store = self.folder / "store"
        store.mkdir(exist_ok=True)
        for old in store.iterdir():
            old.unlink()
        for name, version in plugins.items():
            with zipfile.ZipFile(store / f"{name}.jpi", "w") as archive:
                archive.writestr("META-INF/MANIFEST.MF", f"Short-Name: {name}\r\nPlugin-Version: {version}\r\n")
        self._tool(
            "jenkins-plugin-cli",
            f'echo "$*" >> "{self.folder}/asked"\n'
            'while [ "$1" != --plugin-download-directory ]; do shift; done\n'
            f'cp "{store}"/*.jpi "$2"\nexit {code}',
        )

    def run(self, *argv: str, version: str = "2.568.2") -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "KIT_DIR": f"{self.folder}/kit",
            "KIT_PLUGINS": f"{self.folder}/plugins",
            "JENKINS_HOME": f"{self.folder}/home",
            "JENKINS_VERSION": version,
            "JAVA_HOME": f"{self.folder}/java",
            "TMPDIR": f"{self.folder}/tmp",
        }
        argv = ("bash", str(FILES / "plugins.sh"), *argv)
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    @property
    def asked(self) -> list[str]:
        found = self.folder / "asked"
        return found.read_text().splitlines() if found.exists() else []

    @property
    def sets(self) -> list[Path]:
        return sorted(each for each in (self.folder / "plugins").iterdir() if each.is_dir())

    def installed(self) -> set[str]:
        return {path.name for path in (self.folder / "home/plugins").iterdir()}

    def _tool(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_plugins_are_fetched_once_with_their_sums(home: Home) -> None:
    first, second = home.run("fetch"), home.run("fetch")
    assert first.stdout == "fetched: 3 plugins\n" and first.returncode == 0, first.stderr
    assert second.stdout == "there already: 3 plugins, each as its sum says\n"
    (asked,) = home.asked
    assert "--latest=false" in asked and asked.startswith(f"--plugin-file {home.folder}/kit/plugins.txt ")
    (kept,) = home.sets
    sums = dict(line.split()[::-1] for line in (kept / "sums").read_text().splitlines())
    assert sums["git.jpi"] == hashlib.sha256((kept / "git.jpi").read_bytes()).hexdigest() and len(sums) == 3


def test_a_damaged_or_half_set_is_fetched_again(home: Home) -> None:
    home.run("fetch")
    (home.sets[0] / "git.jpi").write_text("something else")
    assert home.run("fetch").stdout == "fetched: 3 plugins\n"
    (home.sets[0] / "git.jpi").unlink()
    assert home.run("fetch").stdout == "fetched: 3 plugins\n"
    assert len(home.sets) == 1 and len(home.asked) == 3


@pytest.mark.parametrize(
    ("gives", "code", "says"),
    [
        ({"git": "1.3", "mailer": "3"}, 0, "git came as 1.3, and plugins.txt says 1.2"),
        ({"mailer": "3"}, 0, "git was not fetched"),
        ({"git": "1.2", "mailer": "3"}, 1, ""),
    ],
    ids=["another version", "not there", "the tool failed"],
)
def test_what_is_not_the_list_is_never_kept(home: Home, gives: dict[str, str], code: int, says: str) -> None:
    home.gives(gives, code)
    done = home.run("fetch")
    assert done.returncode != 0 and says in done.stderr
    assert not [each for each in home.sets if each.name != "next"]
    assert home.run("start", "true").returncode != 0, "nothing half is started with"
    home.gives({"git": "1.2", "mailer": "3"})
    assert home.run("fetch").stdout == "fetched: 2 plugins\n", "what was left over is no hindrance"


def test_another_list_or_another_jenkins_is_another_set_and_one_before_stays(home: Home) -> None:
    home.run("fetch")
    home.run("fetch", version="2.600.1")
    assert len(home.sets) == 2
    home.pin("git:1.2")
    home.run("fetch", version="2.600.1")
    assert len(home.sets) == 2 and len(home.asked) == 3, "the oldest is gone"
    assert home.run("start", "true", version="2.600.1").returncode == 0


def test_it_starts_with_exactly_the_list_and_the_ca(home: Home) -> None:
    assert "are not there whole" in home.run("start", "true").stderr
    home.run("fetch")
    own = home.folder / "home/plugins"
    (own / "added").mkdir(parents=True)
    (own / "added.jpi").write_text("added in the page")
    done = home.run("start", "sh", "-c", "echo became $0 $1", "x", "a b")
    assert done.stdout == "became x a b\n", done.stderr
    assert home.installed() == {"git.jpi", "mailer.jpi", "structs.jpi"}
    assert (home.folder / "tmp/trust").read_text() == "the system's\nours\n"
    assert (home.folder / "tmp/trust").stat().st_mode & 0o777 == 0o600
    assert home.run("start", "true").returncode == 0, "a second start"


def test_a_damaged_set_is_not_started_with(home: Home) -> None:
    home.run("fetch")
    (home.sets[0] / "mailer.jpi").write_text("something else")
    assert "are not there whole" in home.run("start", "true").stderr


# -------------------------------------------------------------------------------------------------- its proofs


class Context:
    """A Jenkins of a few answers behind its front door; `known` are the authorities of who logs in."""

    service = "jenkins"
    outputs = OUTPUTS
    user = Person(username="kit-proof-x", email="x@kit.localhost")

    def __init__(self, answers: Callable[[httpx.Request], httpx.Response]) -> None:
        self.plan = planned()
        self._answers = answers

    def step(self, title: str) -> None: ...

    def note(self, text: str) -> None: ...

    def url(self, route: str) -> str:
        return f"https://{route}.kit.localhost:8443"

    def stranger(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self._answers), follow_redirects=True)

    def _login(self, start: str, who: str) -> Login:
        browser = self.stranger()
        browser.headers["X-Who"] = who
        assert start.startswith(
            "https://jenkins.kit.localhost:8443/jenkins/securityRealm/commenceLogin?from=%2Fjenkins"
        )
        return Login(browser=browser, response=httpx.Response(200), asked=True)

    def login(self, start: str) -> Login:
        return self._login(start, self.user.username)

    def login_admin(self, start: str) -> Login:
        return self._login(start, OUTPUTS.admin_user)


def people(
    user: tuple[str, ...] = (), admin: tuple[str, ...] = ("admin",), seen: int = 403, executors: int = 0
) -> Context:
    def answers(request: httpx.Request) -> httpx.Response:
        who = request.headers["X-Who"]
        if request.url.path == "/jenkins/whoAmI/api/json":
            return httpx.Response(200, json={"name": who, "authorities": admin if who == OUTPUTS.admin_user else user})
        if request.url.path == "/jenkins/computer/api/json":
            own = {"_class": "hudson.model.Hudson$MasterComputer", "numExecutors": executors}
            agent = {"_class": "hudson.slaves.SlaveComputer", "numExecutors": 4}
            return httpx.Response(200, json={"computer": [own, agent]})
        return httpx.Response(seen)

    return Context(answers)


def test_the_proof_of_the_login() -> None:
    proof.login(people())  # type: ignore[arg-type]
    for broken, says in (
        (people(user=("admin",)), "without a role is an administrator"),
        (people(seen=200), "answered 200"),
        (people(admin=("authenticated",)), "the role did not arrive"),
        (people(executors=2), "beside Jenkins's secrets"),
    ):
        with pytest.raises(ProofError, match=says):
            proof.login(broken)  # type: ignore[arg-type]


def test_the_proof_that_it_is_closed() -> None:
    def leaky(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.extensions["target"].endswith(b"/script") else 403)

    proof.closed(Context(lambda _: httpx.Response(403)))  # type: ignore[arg-type]
    with pytest.raises(ProofError, match="/jenkins/script answered 200"):
        proof.closed(Context(leaky))  # type: ignore[arg-type]


def test_the_proof_of_its_path() -> None:
    def door(request: httpx.Request) -> httpx.Response:
        one, path = "https://jenkins.kit.localhost:8443", request.url.raw_path.decode()
        if request.url.host == "kit.localhost" and re.match(r"/jenkins(/|$)", path):
            return httpx.Response(307, headers={"location": one + path})
        if request.url.host == "jenkins.kit.localhost" and path == "/":
            return httpx.Response(307, headers={"location": f"{one}/jenkins/"})
        return httpx.Response(404)

    proof.path(Context(door))  # type: ignore[arg-type]
    elsewhere = httpx.Response(307, headers={"location": "https://elsewhere.example/"})
    with pytest.raises(ProofError, match=r"leads to https://elsewhere\.example/"):
        proof.path(Context(lambda _: elsewhere))  # type: ignore[arg-type]
