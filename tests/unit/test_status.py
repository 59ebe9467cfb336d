"""What ./kit status shows to who asks for the login."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ops import status
from ops.session import Session


class Asked:
    """A session whose stack exports this."""

    def __init__(self, **outputs: Any) -> None:
        self.exported = outputs

    def ready_pulumi(self) -> None:
        pass

    def outputs(self, _pulumi: None) -> dict[str, Any]:
        return self.exported


def shown(capsys: pytest.CaptureFixture[str], **outputs: Any) -> list[str]:
    assert status.show_login(cast(Session, Asked(adminUser="me", adminPassword="a b", **outputs))) == 0
    return capsys.readouterr().out.splitlines()


def test_the_login_comes_with_the_keys_that_are_handed_out(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"supabase/service-key": "eyJ.b.c", "supabase/anon-key": "eyJ.a.c"}
    assert shown(capsys, keys=keys) == [
        "user      me",
        "password  a b",
        "key       supabase/anon-key  eyJ.a.c",
        "key       supabase/service-key  eyJ.b.c",
    ]


@pytest.mark.parametrize("outputs", [{}, {"keys": {}}, {"keys": None}])
def test_without_keys_it_is_the_login_alone(outputs: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, **outputs) == ["user      me", "password  a b"]
