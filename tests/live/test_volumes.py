"""States and volumes that do not belong together, with the real engine, Pulumi, PostgreSQL and Keycloak.

The chapters of one story, in order: data is made; the volumes are newer than the state; the state is lost; a volume is
somebody else's. Afterwards the same person and the same row are there, and nothing was deleted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ops import frontdoor
from ops.identity import Administration
from stack.outputs import StackOutputs
from stack.proofs.context import Person
from tests.live.kitclone import ROOT, Clone, engine_of, free_ports
from tests.live.trial import docker

pytestmark = pytest.mark.live

STACK = "voltest"
PERSON = Person(username="ada", email="ada@kit.localhost")


@dataclass
class Story:
    """What one chapter tells the next."""

    clone: Clone
    person: str = ""

    @property
    def home(self) -> Path:
        return self.clone.state_home / "ai-kit"

    @property
    def outputs(self) -> StackOutputs:
        shown = self.clone.pulumi("stack", "output", "--json", "--show-secrets", "--stack", STACK)
        (self.clone.log / f"{self.clone.count:02d}-pulumi-stack-output.log").unlink()
        return StackOutputs.from_dict(json.loads(shown.text))

    @contextmanager
    def administration(self) -> Iterator[Administration]:
        """As the program's own client: fails when it is locked out."""
        outputs = self.outputs
        with frontdoor.browser("kit.localhost", "127.0.0.1", outputs.ca_pem) as visitor:
            yield Administration(visitor, outputs.admin_url, outputs)

    def check(self) -> None:
        """The person is who they were, and the row is there."""
        with self.administration() as admin:
            assert admin.found(PERSON.username) == {PERSON.username: self.person}
        assert sql("SELECT word FROM kit_kept").split() == ["kept"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    artifacts = ROOT / "artifacts" / "volumes"
    shutil.rmtree(artifacts, ignore_errors=True)
    home = tmp_path_factory.mktemp("volumes")
    clone = Clone(directory=home / "clone", state_home=home / "state", log=artifacts)
    http, https, admin = free_ports(3)
    services = ["keycloak", "redis"]
    clone.write_stack(STACK, httpPort=http, httpsPort=https, adminPort=admin, profiles=[], services=services)
    remove(clone)
    try:
        yield Story(clone)
    finally:
        remove(clone)


def remove(clone: Clone) -> None:
    if not engine_of(STACK).empty:
        clone.kit("down", STACK, "--data", "--yes-delete", STACK)


def sql(statement: str) -> str:
    command = ("psql", "-X", "-A", "-t", "-U", "postgres", "-d", "postgres", "-c", statement)
    return docker("exec", f"kit-{STACK}-postgres", *command)


def volumes() -> list[str]:
    return engine_of(STACK).data_volumes


def test_data_is_made(story: Story) -> None:
    up = story.clone.kit("up", STACK, timeout=1200)
    assert up.code == 0, up.text
    with story.administration() as admin:
        admin.create(PERSON, "correct horse battery staple")
        story.person = admin.found(PERSON.username)[PERSON.username]
    sql("CREATE TABLE kit_kept (word text)")
    sql("INSERT INTO kit_kept VALUES ('kept')")
    story.check()


# ------------------------------------------------------------------------------------- older state, newer volumes


def test_an_older_state_beside_newer_volumes(story: Story) -> None:
    """The volumes' passwords are newer: those of a role, and of the client the program administers with."""
    older = story.home.with_name("older")
    shutil.copytree(story.home, older, symlinks=True)
    made = volumes()
    with story.administration() as admin:
        newer_client(admin)
    sql("ALTER ROLE keycloak PASSWORD 'newer'")
    assert story.clone.kit("down", STACK).code == 0
    shutil.rmtree(story.home)
    older.rename(story.home)

    up = story.clone.kit("up", STACK, timeout=1200)
    assert up.code == 0, up.text
    jobs = ("ps", "-a", "--format", "{{.Names}}", "--filter", f"label=aikit.stack={STACK}")
    said = [docker("logs", name) for name in docker(*jobs, "--filter", "label=aikit.service=keycloak").split()]
    assert any("making a temporary" in each for each in said), "Keycloak let the program in with the older secret"
    assert volumes() == made
    story.check()
    assert "nothing to change" in story.clone.kit("up", STACK, "--no-prove").text


def newer_client(admin: Administration) -> None:
    base = f"{admin.base}/admin/realms/master/clients"
    headers = {"Authorization": f"Bearer {admin._bearer()}"}
    name = admin.outputs.admin_client_id
    found = admin.client.get(base, params={"clientId": name}, headers=headers).json()[0]
    changed = admin.client.put(f"{base}/{found['id']}", json={**found, "secret": "newer"}, headers=headers)
    assert changed.is_success, changed.text


def test_no_temporary_administrator_stays(story: Story) -> None:
    with story.administration() as admin:
        headers = {"Authorization": f"Bearer {admin._bearer()}"}
        found = admin.client.get(f"{admin.base}/admin/realms/master/clients", headers=headers).json()
        assert [client["clientId"] for client in found if "recovery" in client["clientId"]] == []


def test_an_administrator_is_made_by_hand(story: Story) -> None:
    """The command of docs/security.md, with the password from a variable in place of the keyboard."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    written = next(block for block in page.split("```") if "bootstrap-admin user" in block)
    image = docker("inspect", "-f", "{{.Config.Image}}", f"kit-{STACK}-keycloak").strip()
    words = written.replace("\\\n", " ").replace("STACK", STACK).replace("IMAGE", image).split()
    assert words[:4] == ["docker", "run", "--rm", "-it"]
    docker("run", "--rm", "-e", "RESCUE=by hand, once", *words[4:], "--password:env=RESCUE")
    with story.administration() as admin:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "rescue", "password": "by hand, once"}
        answer = admin.client.post(f"{admin.base}/realms/master/protocol/openid-connect/token", data=form)
        assert answer.status_code == 200, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        users = f"{admin.base}/admin/realms/master/users"
        found = admin.client.get(users, params={"username": "rescue"}, headers=headers).json()
        assert admin.client.delete(f"{users}/{found[0]['id']}", headers=headers).is_success


# ------------------------------------------------------------------------------------------- a volume from elsewhere


def test_a_volume_of_another_state_is_refused_before_its_service_is_touched(story: Story) -> None:
    """As when the wrong backup was put back."""
    volume, name = f"kit-{STACK}-redis-data", f"kit-{STACK}-redis"
    image = json.loads(docker("inspect", f"{name}-files"))[0]["Config"]["Image"]
    at = ("run", "--rm", "-v", f"{volume}:/v", image, "sh", "-c")
    ours = docker(*at, "cat /v/.kit-state")
    docker("stop", name)
    docker(*at, "printf other >/v/.kit-state.new && mv -f /v/.kit-state.new /v/.kit-state")
    before = json.loads(docker("inspect", name))[0]["State"]["StartedAt"]
    try:
        up = story.clone.kit("up", STACK, timeout=600)
        assert up.code != 0
        assert f"made by another state than this one: {volume}" in up.text
        assert "--adopt" in up.text and "docker volume rm" in up.text
        assert json.loads(docker("inspect", name))[0]["State"]["StartedAt"] == before, "it was started"
    finally:
        docker(*at, f"printf {ours} >/v/.kit-state.new && mv -f /v/.kit-state.new /v/.kit-state")
    up = story.clone.kit("up", STACK, timeout=600)
    assert up.code == 0, up.text
    story.check()


# -------------------------------------------------------------------------------------------------- the state is lost


def test_a_new_state_beside_older_volumes_is_refused_first(story: Story) -> None:
    """While the stack of the lost state runs."""
    story.home.rename(story.home.with_name("lost"))
    made = sorted(item.id for item in engine_of(STACK).containers)
    up = story.clone.kit("up", STACK, timeout=600)
    assert up.code != 0
    for way in ("PULUMI_BACKEND_URL", f"./kit up {STACK} --adopt", f"./kit down {STACK} --data"):
        assert way in up.text
    assert sorted(item.id for item in engine_of(STACK).containers) == made


def test_a_new_state_adopts_older_volumes(story: Story) -> None:
    """The same person with the same id, the same row; the program and the first administrator get in."""
    made = volumes()
    before = story.home.with_name("lost")
    up = story.clone.kit("up", STACK, "--adopt", timeout=1200)
    assert up.code == 0, up.text
    assert "up and proven" in up.text
    assert volumes() == made
    story.check()
    assert story.outputs.admin_password != ""
    assert before.exists()
    again = story.clone.kit("up", STACK, timeout=600)
    assert again.code == 0, again.text
    story.check()
    assert "nothing to change" in story.clone.kit("up", STACK, "--no-prove").text


def test_the_first_administrator_has_the_password_of_the_new_state(story: Story) -> None:
    outputs = story.outputs
    asked = {
        "client_id": "account-console",
        "redirect_uri": f"{outputs.issuer}/account/",
        "response_type": "code",
        "scope": "openid",
        "code_challenge": "a" * 43,
        "code_challenge_method": "S256",
    }
    url = f"{outputs.issuer}/protocol/openid-connect/auth?{urlencode(asked)}"
    with frontdoor.browser("kit.localhost", "127.0.0.1", outputs.ca_pem) as visitor:
        user, password = outputs.admin_user, outputs.admin_password
        app = frontdoor.SecondFactor()  # an administrator sets one up at the first login
        led_to = frontdoor.authorize(visitor, url, outputs.issuer, user, password, app).headers["location"]
    assert "code=" in led_to
