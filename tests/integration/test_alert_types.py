"""The doors of alerts take the types that their document names, and no others that could be bent into them."""

from typing import Any

import pytest

from opsplane.auth.capabilities import Capability
from opsplane.runbooks.service import Plane
from tests import web
from tests.web import Doors

SOMEBODYS = "01900000-0000-7000-8000-000000000000"
RULES, DESTINATIONS = "/system/alerts/rules", "/system/alerts/destinations"


@pytest.mark.parametrize(
    "bent", [{"enabled": 0}, {"enabled": "yes"}, {"cooldown_s": True}, {"cooldown_s": "60"}], ids=repr
)
async def test_a_number_is_no_switch_and_a_switch_is_no_number(
    doors: Doors, plane: Plane, bent: dict[str, Any]
) -> None:
    user = await web.platform_user(plane, Capability.SYSTEM_ACCESS, Capability.ALERTS_MANAGE)
    client = await doors.signed_in(user.email)
    asked = [await client.post(RULES, json={"name": "r", **bent})]
    asked.append(await client.patch(f"{RULES}/{SOMEBODYS}", json=bent))
    if "enabled" in bent:
        asked.append(await client.patch(f"{DESTINATIONS}/{SOMEBODYS}", json=bent))
    assert {(answer.status_code, answer.json()["code"]) for answer in asked} == {(422, "invalid_request")}
