"""What is real of Jenkins without Jenkins, which no package registry has: door, login, how its settings are read.

Proves, with the real servers and programs named: HAProxy leads to it and nowhere else; Keycloak takes its client's
authorization request, refuses every other redirect, and says the roles that its matrix knows; SnakeYAML and
commons-text, with which its configuration-as-code plugin reads and looks up, give back every text unharmed; its start
has Java trust the stack's issuer. In its place answers HAProxy's own image, which says what it was asked: nothing here
proves that Jenkins or a plugin of it starts, or does with its settings what they say.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx
import pytest

from ops import frontdoor
from stack import images
from stack.catalog import discover
from stack.derive import waf
from stack.model import File, HealthCheck, Http, ServiceSpec, Template
from stack.proofs import jenkins as proof
from stack.services import jenkins
from tests.live import standing
from tests.live.kitclone import free_ports
from tests.live.standing import Standing
from tests.live.trial import docker

pytestmark = pytest.mark.live

SCRIPT = Path(__file__).resolve().parents[2] / "stack/services/files/jenkins/plugins.sh"
HOSTILE = (
    "a'b\"c$d${e}^${f}\\g`h #i\n- j: &k *l !m\t%n {o} é€😀",
    "${readFile:/etc/hostname}",
    "${readFile:${base64:x}}",
    "^^${x:-y}",
    "$${a}",
    "${",
    "^${",
    "}${",
    "${}",
    "${a} ${ ^${b} ${",
    "^",
    "yes",
    "0123",
    "~",
    "\u0085\u2028\ufeff\x01",
)

# Says what it was asked, as a server behind the door sees it.
ECHO = """\
defaults
    mode http
    timeout connect 3s
    timeout client 60s
    timeout server 60s
frontend asked
    bind :8080
    http-request return status 200 content-type text/plain lf-string "%[method] %[pathq] %[req.hdr(x-forwarded-proto)]"
"""


def echoing(spec: ServiceSpec) -> ServiceSpec:
    """The service with its route and its client as they are, and somebody else behind them."""
    (main,) = spec.containers
    other = replace(
        main,
        image=images.HAPROXY,
        user="99:99",
        entrypoint=(),
        command=("haproxy", "-f", "/run/kit/echo.cfg"),
        env={},
        files=(File(name="echo.cfg", source=Template((ECHO,))),),
        mounts=(),
        health=HealthCheck(test=Http("http", "/jenkins/login"), interval_s=3),
    )
    return replace(spec, unavailable={}, containers=(other,), jobs=(), volumes=())


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    catalogue = tuple(echoing(spec) if spec.name == "jenkins" else spec for spec in discover())
    http, https, admin = free_ports(3)
    folder = tmp_path_factory.mktemp("authority")
    with standing.stack(
        "jenkinslab", folder, "ci", catalogue=catalogue, http_port=http, https_port=https, admin_port=admin
    ) as running:
        running.make_realm()
        running.settle()
        yield running


@pytest.fixture
def visitor(up: Standing) -> Iterator[httpx.Client]:
    with frontdoor.browser(up.plan.settings.domain, "127.0.0.1", up.outputs.ca_pem) as client:
        client.follow_redirects = False
        yield client


def one(up: Standing) -> str:
    return up.outputs.urls["jenkins"]


# -------------------------------------------------------------------------------------------------- the door


def test_the_door_leads_to_its_one_address_and_nowhere_else(up: Standing, visitor: httpx.Client) -> None:
    class Context:
        service, plan, outputs = "jenkins", up.plan, up.outputs

        def step(self, title: str) -> None: ...

        def url(self, route: str) -> str:
            return up.outputs.urls[route]

        def stranger(self) -> httpx.Client:
            return frontdoor.browser(up.plan.settings.domain, "127.0.0.1", up.outputs.ca_pem)

    proof.path(Context())  # type: ignore[arg-type]
    home, domain = one(up), one(up).replace("//jenkins.", "//")
    as_asked = visitor.get(f"{home}/jenkins/job/a%20b/?x=%2F&y")
    assert as_asked.text == "GET /jenkins/job/a%20b/?x=%2F&y https", "nothing is taken off the path"
    assert visitor.get(f"{home}/jenkins").text == "GET /jenkins https"
    for path in ("/jenkinsx", "/x/jenkins/", "//jenkins/", "/.well-known/x"):
        assert visitor.get(home + path).status_code == 404, path
        assert visitor.get(domain + path).status_code == 404, path
    hook = visitor.post(f"{domain}/jenkins/github-webhook/", content=b"{}")
    assert (hook.status_code, hook.headers["location"]) == (307, f"{home}/jenkins/github-webhook/")
    for odd in ("/jenkins/@elsewhere.example/", "/jenkins//elsewhere.example", "/jenkins/..//elsewhere.example/"):
        answer = visitor.get(domain, extensions={"target": odd.encode()})
        assert answer.headers["location"] == home + odd, "to another host leads nothing"


def test_plain_http_at_the_domain_leads_to_tls(up: Standing) -> None:
    domain, port = up.plan.settings.domain, up.plan.settings.http_port
    with httpx.Client(trust_env=False) as plain:
        answer = plain.get(f"http://127.0.0.1:{port}/jenkins/x", headers={"Host": f"{domain}:{port}"})
    assert answer.status_code == 301
    assert answer.headers["location"] == f"https://{domain}:{up.plan.settings.https_port}/jenkins/x"


# ------------------------------------------------------------------------------------------------- the login


def wish(up: Standing, verifier: str, **changes: str) -> str:
    """The authorization request as the plugin makes it."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "scope": "openid profile email",
        "response_type": "code",
        "redirect_uri": f"{one(up)}/jenkins/securityRealm/finishLogin",
        "state": "s",
        "nonce": "n",
        "client_id": "jenkins",
        "code_challenge_method": "S256",
        "code_challenge": challenge,
        **changes,
    }
    said = urlencode({name: value for name, value in query.items() if value})
    return f"{up.outputs.issuer}/protocol/openid-connect/auth?{said}"


def redeem(up: Standing, visitor: httpx.Client, code: str, verifier: str, secret: str) -> httpx.Response:
    """The code for tokens, as the plugin asks: its secret in the header."""
    return visitor.post(
        f"{up.outputs.issuer}/protocol/openid-connect/token",
        data={
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": f"{one(up)}/jenkins/securityRealm/finishLogin",
            "code_verifier": verifier,
        },
        auth=(quote(jenkins.NAME, safe=""), quote(secret, safe="")),
    )


def code_of(up: Standing, visitor: httpx.Client, verifier: str) -> str:
    back = frontdoor.authorize(visitor, wish(up, verifier), up.outputs.issuer, "admin-user", "correct horse")
    location = back.headers["location"]
    assert location.startswith(f"{one(up)}/jenkins/securityRealm/finishLogin?"), location
    return parse_qs(urlsplit(location).query)["code"][0]


def test_a_login_brings_the_roles_that_the_matrix_knows(up: Standing, visitor: httpx.Client) -> None:
    verifier = secrets.token_urlsafe(48)
    code = code_of(up, visitor, verifier)
    answer = redeem(up, visitor, code, verifier, up.trial.secret("jenkins", "oidc"))
    assert answer.status_code == 200, answer.text
    tokens = answer.json()
    said = visitor.get(
        f"{up.outputs.issuer}/protocol/openid-connect/userinfo",
        headers={"Authorization": f"Bearer {tokens['access_token']}"},
    ).json()
    body = tokens["id_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    realm: Any = jenkins.configuration(up.plan)["jenkins"]
    login = realm["securityRealm"]["oic"]
    for found in (claims, said):
        assert set(found[login["groupsFieldName"]]) == set(jenkins.PERMISSIONS)
        assert found[login["userNameField"]] == "admin-user"
        assert found[login["emailFieldName"]] == "admin@kit.localhost" and found[login["fullNameFieldName"]]
    leave = urlencode({"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": login["postLogoutRedirectUrl"]})
    leaving = f"{up.outputs.issuer}/protocol/openid-connect/logout?{leave}"
    left = visitor.get(leaving, follow_redirects=False)
    assert left.status_code == 302 and left.headers["location"].startswith(f"{one(up)}/jenkins/")


@pytest.mark.parametrize(
    "redirect",
    [
        "{domain}/jenkins/securityRealm/finishLogin",
        "{one}/securityRealm/finishLogin",
        "{one}/jenkins/securityRealm/finishLogin/",
        "{one}/jenkins/securityRealm/finishLoginX",
        "{one}/jenkins/securityRealm/../finishLogin",
        "{one}/jenkins/",
        "http://jenkins.kit.localhost/jenkins/securityRealm/finishLogin",
        "https://elsewhere.example/jenkins/securityRealm/finishLogin",
    ],
)
def test_another_redirect_is_refused(up: Standing, visitor: httpx.Client, redirect: str) -> None:
    asked = redirect.format(one=one(up), domain=one(up).replace("//jenkins.", "//"))
    answer = visitor.get(wish(up, "v" * 43, redirect_uri=asked))
    # 400 is the issuer's. Some of these look like an attack to the firewall before it, which answers 403.
    by_issuer = answer.status_code == 400 and "redirect_uri" in answer.text
    assert by_issuer or (answer.status_code == 403 and waf.REFUSED in answer.headers)
    assert "location" not in answer.headers


def test_without_pkce_or_with_another_secret_there_is_no_login(up: Standing, visitor: httpx.Client) -> None:
    bare = visitor.get(wish(up, "v" * 43, code_challenge="", code_challenge_method=""))
    assert "error=invalid_request" in bare.headers["location"]
    plain = visitor.get(wish(up, "v" * 43, code_challenge_method="plain"))
    assert "error=invalid_request" in plain.headers["location"]
    verifier = secrets.token_urlsafe(48)
    wrong = redeem(up, visitor, code_of(up, visitor, verifier), verifier, "another")
    assert wrong.status_code == 401
    other = redeem(up, visitor, code_of(up, visitor, verifier), "w" * 43, up.trial.secret("jenkins", "oidc"))
    assert other.status_code == 400, "the code is for who asked for it"


# ------------------------------------------------------------------------------------- how it starts and reads


FETCH = """
public class Fetch {
    public static void main(String[] urls) throws Exception {
        var asked = (java.net.HttpURLConnection) new java.net.URL(urls[0]).openConnection();
        System.out.println(new String(asked.getInputStream().readAllBytes()));
    }
}
"""


def test_its_start_has_java_trust_the_issuer_as_browsers_know_it(up: Standing, tmp_path: Path) -> None:
    """The image's start script, on another image with Java 21: here is none of Jenkins."""
    (tmp_path / "Fetch.java").write_text(FETCH)
    subprocess.run(["javac", "--release", "17", "Fetch.java"], cwd=tmp_path, check=True)
    pins = "git:1.2\n"
    kept = tmp_path / "plugins" / hashlib.sha256(f"{pins}jenkins 2.568.2\n".encode()).hexdigest()[:16]
    kept.mkdir(parents=True)
    (kept / "git.jpi").write_text("a plugin")
    (kept / "sums").write_text(f"{hashlib.sha256(b'a plugin').hexdigest()}  git.jpi\n")
    (tmp_path / "plugins.txt").write_text(pins)
    (tmp_path / "ca.crt").write_text(up.outputs.ca_pem)
    shutil.copy(SCRIPT, tmp_path / "plugins.sh")
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path), *map(str, tmp_path.parents[:2])], check=True)
    image, network = up.image("keycloak"), next(n for n in up.container("jenkins").networks if n.zone == "app").network
    variables = {"JENKINS_VERSION": "2.568.2", "JENKINS_HOME": "/home/x", "KIT_PLUGINS": "/run/kit/plugins"}
    java_home = docker("run", "--rm", "--entrypoint", "bash", image, "-c", "readlink -f $(which java)").strip()
    variables["JAVA_HOME"] = java_home.removesuffix("/bin/java")
    argv = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    argv += ["--read-only", "--tmpfs", "/tmp:noexec,mode=1777", "--tmpfs", "/home/x:mode=1777", "--user", "1000:1000"]
    argv += ["--network", network, "--cap-drop", "ALL", "--volume", f"{tmp_path}:/run/kit:ro", "--entrypoint", "bash"]
    asked = f"{up.outputs.issuer}/.well-known/openid-configuration"
    options = re.findall(r"-Djavax\S+", str(jenkins.SERVICE.container().env["JENKINS_JAVA_OPTS"]))
    java = ["java", *options, "-cp", "/run/kit", "Fetch", asked]
    found = docker("run", "--rm", *argv, image, "/run/kit/plugins.sh", "start", *java)
    assert json.loads(found)["issuer"] == up.outputs.issuer
    untrusted = docker("run", "--rm", *argv, image, "-c", f"java -cp /run/kit Fetch {asked}", check=False)
    assert "unable to find valid certification path" in untrusted, "without the script it is not trusted"


# What the plugin (2117.vc05a_0b_e6b_f4e) does with each text, with the libraries that it does it with: two passes, "^"
# kept by the first and taken by the second.
READ = """
import java.nio.file.*;
import java.util.*;
import org.apache.commons.text.StringSubstitutor;
import org.yaml.snakeyaml.*;
import org.yaml.snakeyaml.constructor.SafeConstructor;

public class Read {
    static final StringSubstitutor LOOKS_UP = new StringSubstitutor(key -> {
        if (!key.startsWith("readFile:")) return null;
        try { return Files.readString(Path.of(key.substring(9))); } catch (java.io.IOException e) { return null; }
    }).setEscapeChar('^').setEnableSubstitutionInVariables(true).setPreserveEscapes(true);
    static final StringSubstitutor REFUSES = new StringSubstitutor(key -> {
        throw new IllegalStateException("unresolved " + key);
    }).setEscapeChar('^');

    public static void main(String[] names) throws Exception {
        walk("", new Yaml(new SafeConstructor(new LoaderOptions())).load(Files.readString(Path.of(names[0]))));
    }

    static void walk(String path, Object node) {
        if (node instanceof Map<?, ?> map) map.forEach((key, each) -> walk(path + "/" + key, each));
        else if (node instanceof List<?> list) for (int i = 0; i < list.size(); i++) walk(path + "/" + i, list.get(i));
        else {
            String text = String.valueOf(node);
            if (text.contains("${")) text = REFUSES.replace(LOOKS_UP.replace(text));
            System.out.println(path + " " + Base64.getEncoder().encodeToString(text.getBytes()));
        }
    }
}
"""

LIBRARIES = (
    "org.yaml:snakeyaml:2.5",
    "org.apache.commons:commons-text:1.15.0",
    "org.apache.commons:commons-lang3:3.20.0",
)
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("mvn") or not shutil.which("javac"):
        pytest.skip("needs Maven and a JDK: SnakeYAML and commons-text come from Maven Central")
    folder = tmp_path_factory.mktemp("reader")
    for library in LIBRARIES:
        argv = ["mvn", "-q", "-B", COPY, f"-Dartifact={library}", f"-DoutputDirectory={folder}"]
        subprocess.run(argv, cwd=folder, check=True, timeout=300)
    (folder / "Read.java").write_text(READ)
    subprocess.run(["javac", "-cp", "*", "Read.java"], cwd=folder, check=True)
    return folder


def read(folder: Path, text: str) -> dict[str, str]:
    """Every text of a configuration as the plugin has it, by its path."""
    (folder / "jenkins.yaml").write_text(text, encoding="utf-8")
    argv = ["java", "-Dfile.encoding=UTF-8", "-cp", f".:{folder}/*", "Read", "jenkins.yaml"]
    done = subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True)
    lines = (line.rpartition(" ") for line in done.stdout.splitlines())
    return {path: base64.b64decode(coded).decode() for path, _, coded in lines}


def test_hostile_texts_are_read_as_they_were_written(reader: Path) -> None:
    found = read(reader, jenkins.rendered({"texts": HOSTILE}))
    assert tuple(found[f"/texts/{number}"] for number in range(len(HOSTILE))) == HOSTILE


def test_the_configuration_is_read_as_it_was_meant(reader: Path, up: Standing) -> None:
    secret = reader / "client-secret"
    secret.write_text("Ab3" * 11)
    found = read(reader, jenkins.config(up.plan).replace("/run/kit/client-secret", str(secret)))
    login = "/jenkins/securityRealm/oic"
    assert found[f"{login}/clientSecret"] == secret.read_text()
    well_known = found[f"{login}/serverConfiguration/wellKnown/wellKnownOpenIDConfigurationUrl"]
    assert well_known == f"{up.outputs.issuer}/.well-known/openid-configuration"
    assert found["/unclassified/location/url"] == f"{one(up)}/jenkins/"
    assert found["/jenkins/numExecutors"] == "0" and found["/jenkins/slaveAgentPort"] == "-1"
    matrix = "/jenkins/authorizationStrategy/globalMatrix/entries/0/group"
    assert (found[f"{matrix}/name"], found[f"{matrix}/permissions/0"]) == ("admin", "Overall/Administer")
