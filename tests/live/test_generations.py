"""Generations of secrets on the real engine with plain `pulumi up`: nothing that is in use is ever lost.

The program is the stack's own, over a plan of one service: its secrets and certificates, and nothing in Docker.
"""

from __future__ import annotations

import pytest

from tests.live.pulumi_project import Project, Result

pytestmark = pytest.mark.live

PROGRAM = """
from stack import deploy, images, targets
from stack import plan as planning
from stack.model import (
    Command, ContainerSpec, Generated, HealthCheck, AsFile, ResourceLimits, Restart, Secret, ServiceSpec, Target, Zone,
)
from stack.rotation import Wish
from stack.settings import Settings

HOLDER = ServiceSpec(
    name="holder",
    summary="Has a secret",
    containers=(
        ContainerSpec(
            image=images.TOOLS,
            user="999:999",
            zones=frozenset({{Zone.DATA}}),
            command=("sleep", "1"),
            health=HealthCheck(test=Command(("sh", "-c", "true"))),
            limits={{t: ResourceLimits(memory_mb=8, cpus=0.1) for t in Target}},
        ),
    ),
    secrets=(
        Secret(
            name="key", source=Generated(length=32), to="main", delivery=AsFile("key"), rotates=Restart("it starts")
        ),
    ),
)
OTHER = ServiceSpec(name="other", summary="Has none", containers=HOLDER.containers)
wanted = Settings(stack="test", target=Target.DEV, profiles=(), services=({service!r},), rotation={rotation})
plan = planning.build(wanted, targets.profile(wanted), (HOLDER, OTHER))


class Persistent(deploy.Deployment):
    def run(self):
        self._secrets()
        self._certificates()
        for key, value in self.previous.items():
            pulumi.export("before", value)
        for key, value in self.secrets.items():
            pulumi.export("now", value)
        {last}


deploy.Deployment = Persistent
deploy.deploy(plan)
"""


def program(number: int, service: str = "holder", last: str = "") -> str:
    wishes = f'{{"holder/key": Wish({number})}}' if number > 1 and service == "holder" else "{}"
    return PROGRAM.format(service=service, rotation=wishes, last=last)


def up(project: Project, number: int, service: str = "holder", last: str = "") -> Result:
    project.program = program(number, service, last)
    return project.up()


def made(project: Project) -> dict[str, bool]:
    """The generations of the service's key in the state, and whether each is protected."""
    resources = project.export()["deployment"]["resources"]
    names = {each["urn"].rsplit("::", 1)[-1]: bool(each.get("protect")) for each in resources if each["custom"]}
    return {name: protected for name, protected in names.items() if name.startswith("holder-key")}


def test_what_is_in_use_is_neither_left_out_nor_taken_back(project: Project) -> None:
    assert up(project, 1).ok and made(project) == {"holder-key": True}
    cut = up(project, 2, last="raise RuntimeError('power cut')")
    second = {"holder-key": True, "holder-key-g2": True}
    assert not cut.ok and made(project) == second, str(cut)
    # Nothing was exported then: the program does not know that there is a second one, and a server may have it. The
    # engine itself refuses.
    lost = up(project, 1)
    assert not lost.ok and "protect" in lost.text and made(project) == second, str(lost)
    gone = up(project, 1, "other")
    assert not gone.ok and "nothing here declares it any more" in gone.text and made(project) == second, str(gone)
    third = up(project, 2)
    assert third.ok and made(project) == second, str(third)
    # Now it does.
    back = up(project, 1)
    assert not back.ok and "holder/key would go back from 2 to 1" in back.text
    gone = up(project, 1, "other")
    assert not gone.ok and "holder/key is in use in its generation 2" in gone.text, str(gone)
    assert "retired: [holder]" in gone.text and made(project) == second


def test_after_a_jump_the_one_before_is_the_one_that_was_in_use(project: Project) -> None:
    """The second was never there: who has only "this one and the one before" must be given the first."""
    assert up(project, 1).ok
    first = project.outputs()["now"]
    jumped = up(project, 3)
    assert jumped.ok and made(project) == {"holder-key": True, "holder-key-g3": True}, str(jumped)
    third = project.outputs()
    assert third["before"] == first != third["now"]
    assert up(project, 3).quiet and project.outputs() == third
    assert up(project, 4).ok and project.outputs()["before"] == third["now"]
    assert up(project, 5).ok
    assert made(project) == {"holder-key": True, "holder-key-g4": False, "holder-key-g5": True}
