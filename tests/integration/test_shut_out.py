"""What is taken back is gone at the next request, and a code is one login; TOTP_ROUNDS=500 makes it the long campaign."""

import asyncio
import os
from collections import Counter

import pytest
from sqlalchemy import text

from opsplane.auth import members, tokens, users
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import PlatformUser, SystemSession
from opsplane.auth.roles import Role
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.integration.test_sign_in import EMAIL, ann, enrolled, login
from tests.web import Doors

__all__ = ["ann"]

ROUNDS = int(os.environ.get("TOTP_ROUNDS", "10"))
AT_ONCE = 5  # of one code: no more are judged in five minutes
BY = Actor.shell("tester")
RUNS = "/system/ops/runs"


@pytest.mark.parametrize("act", ["revoke", "disable the owner", "take its capability from the owner"])
async def test_a_token_is_refused_on_the_next_request(doors: Doors, plane: Plane, act: str) -> None:
    user = await web.platform_user(plane, *registry.capabilities())
    secret = await web.token(plane, user, *registry.capabilities())
    client = doors.client(Authorization=f"Bearer {secret}")
    assert (await client.get(RUNS)).status_code == 200
    async with plane.db.transaction() as tx:
        if act == "revoke":
            await tokens.revoke(tx.session, secret.split("_")[2], by=BY)
        elif act == "disable the owner":
            await users.disable(tx.session, await users.find(tx.session, user.email))
        else:
            await users.revoke(tx.session, user, frozenset({Capability.OPS_VIEW}))
    assert (await client.get(RUNS)).status_code == (403 if "capability" in act else 401)


@pytest.mark.parametrize("act", ["disable", "remove"])
async def test_a_member_shut_out_sees_nothing_on_the_next_request(
    doors: Doors, plane: Plane, tenants: list[Tenant], act: str
) -> None:
    member = await web.tenant_user(plane, Role.OWNER, tenants[0])
    client = await doors.signed_in(member.email, plane="admin")
    assert (await client.get("/admin/findings")).status_code == 200
    async with plane.db.transaction() as tx:
        if act == "disable":
            await members.disable(tx.session, await members.find(tx.session, member.email))
        else:
            await members.remove(tx.session, member, workspace_id=tenants[0].workspace_id, tenant=tenants[0])
    assert (await client.get("/admin/findings")).status_code == 404


async def forget_uses(plane: Plane) -> None:
    """As if no code had been used or counted yet."""
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE platform_users SET totp_last_step = NULL"))
        await tx.session.execute(text("DELETE FROM system_sessions"))
    await plane.queue.redis.flushdb()


async def test_a_code_sent_many_times_at_once_is_one_login_in_every_round(
    doors: Doors, plane: Plane, ann: PlatformUser
) -> None:
    secret, _ = await enrolled(await doors.signed_in(EMAIL))
    answers: Counter[int] = Counter()
    for number in range(ROUNDS):
        await forget_uses(plane)
        await doors.sign_in.codes.clear(str(ann.id))
        code = web.code(secret)
        places = [doors.client(f"198.18.{number % 250}.{n}") for n in range(AT_ONCE)]
        given = await asyncio.gather(*(login(client, totp=code) for client in places))
        answers.update(answer.status_code for answer in given)
        assert sorted(answer.status_code for answer in given) == [204, *[401] * (AT_ONCE - 1)], f"round {number}"
        assert await support.count(plane, SystemSession) == 1
    print(f"{ROUNDS * AT_ONCE} uses of {ROUNDS} codes: {answers[204]} logins, {answers[401]} refused")  # noqa: T201


async def test_a_code_that_confirms_an_enrolment_twice_at_once_confirms_it_once(
    doors: Doors, ann: PlatformUser
) -> None:
    client, other = await doors.signed_in(EMAIL), await doors.signed_in(EMAIL)
    secret = (await client.post("/system/totp", json={"password": web.PASSWORD})).json()["secret"]
    body = {"code": web.code(secret)}
    answers = await asyncio.gather(*(one.post("/system/totp/confirm", json=body) for one in (client, other)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert statuses[1] in {401, 404, 409}, "the other session has ended, or the authenticator is there"
