"""Signing in to the system plane: passwords, sessions, one-time codes, and how each ends."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from opsplane.audit.models import AuditEvent
from opsplane.auth import passwords, users
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import PlatformUser, SystemSession
from opsplane.auth.passwords import Passwords, Verdict
from opsplane.config import Environment, Settings
from opsplane.runbooks.service import Plane
from tests import support, web
from tests.web import PASSWORD, Client, Doors

ACCESS = Capability.SYSTEM_ACCESS
EMAIL = "ann@ops.test"


@pytest.fixture
async def ann(plane: Plane) -> PlatformUser:
    return await web.platform_user(plane, ACCESS, Capability.OPS_VIEW, email=EMAIL)


async def login(client: Client, **given: Any) -> httpx.Response:
    return await client.post("/system/login", json={"username": EMAIL, "password": PASSWORD, **given})


async def enrolled(client: Client) -> tuple[str, list[str]]:
    secret = (await client.post("/system/totp", json={"password": PASSWORD})).json()["secret"]
    codes = (await client.post("/system/totp/confirm", json={"code": web.code(secret, steps_ago=1)})).json()
    return secret, codes["recovery_codes"]


async def actions(plane: Plane) -> list[str]:
    async with plane.db.reading() as session:
        return list(await session.scalars(select(AuditEvent.action).order_by(AuditEvent.id)))


async def age(plane: Plane, column: str, seconds: int) -> None:
    async with plane.db.transaction() as tx:
        moved = text(f"UPDATE system_sessions SET {column} = {column} - make_interval(secs => :s)")
        await tx.session.execute(moved, {"s": seconds})


async def test_a_login_sets_the_cookie_of_its_plane_alone(doors: Doors, ann: PlatformUser) -> None:
    client = doors.client()
    answer = await login(client)
    assert (answer.status_code, answer.content) == (204, b"")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(r"opsplane_system=[\w-]{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=lax", cookie), cookie
    assert "admin" not in cookie
    me = (await client.get("/system/me")).json()
    assert (me["display"], me["kind"], me["must_enrol"]) == (EMAIL, "platform_user", False)
    assert (await client.get("/system/ops/runs")).status_code == 200


async def test_over_https_the_cookie_belongs_to_the_host(plane: Plane, settings: Settings, ann: PlatformUser) -> None:
    secure = settings.model_copy(update={"base_url": "https://ops.test"})
    async with web.doors(plane, secure) as found:
        cookie = (await login(found.client())).headers["set-cookie"]
    assert cookie.startswith("__Host-opsplane_system=")
    assert "Secure" in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    "given",
    [
        {"password": "wrong"},
        {"username": "nobody@ops.test"},
        {"username": "off@ops.test"},
        {"totp": "123456", "password": "no"},
    ],
    ids=["password", "unknown", "disabled", "code"],
)
async def test_every_wrong_login_gets_the_same_answer(
    doors: Doors, plane: Plane, ann: PlatformUser, given: dict[str, str]
) -> None:
    off = await web.platform_user(plane, ACCESS, email="off@ops.test")
    async with plane.db.transaction() as tx:
        await users.disable(tx.session, await users.find(tx.session, off.email))
    answer = await login(doors.client(), **given)
    assert answer.status_code == 401
    assert answer.json() == {
        "type": "urn:opsplane:problem:invalid_credentials",
        "title": "Unauthorized",
        "status": 401,
        "detail": "User name, password or one-time code is wrong.",
        "code": "invalid_credentials",
    }
    assert "set-cookie" not in answer.headers
    assert (await actions(plane))[-1] == "platform.auth.login_failed"


async def test_a_session_idle_for_too_long_is_over(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    client = await doors.signed_in(EMAIL)
    await age(plane, "last_seen_at", plane.settings.system_idle_s - 30)
    assert (await client.get("/system/me")).status_code == 200
    await age(plane, "last_seen_at", plane.settings.system_idle_s - 30)
    assert (await client.get("/system/me")).status_code == 200, "the request before kept it awake"
    await age(plane, "last_seen_at", plane.settings.system_idle_s + 1)
    assert (await client.get("/system/me")).status_code == 404


async def test_a_session_ends_however_busy_it_is(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    client = await doors.signed_in(EMAIL)
    await age(plane, "expires_at", plane.settings.system_session_s + 1)
    assert (await client.get("/system/me")).status_code == 404


async def test_logout_ends_the_session_for_whoever_kept_its_cookie(doors: Doors, ann: PlatformUser) -> None:
    client = await doors.signed_in(EMAIL)
    thief = doors.client()
    thief.cookies = httpx.Cookies(client.cookies)
    assert (await client.post("/system/logout")).status_code == 204
    assert not client.cookies
    assert (await thief.get("/system/me")).status_code == 404


async def test_a_new_login_ends_the_session_the_browser_had(doors: Doors, ann: PlatformUser) -> None:
    client = await doors.signed_in(EMAIL)
    before = doors.client()
    before.cookies = httpx.Cookies(client.cookies)
    await login(client)
    assert (await client.get("/system/me")).status_code == 200
    assert (await before.get("/system/me")).status_code == 404, "an id planted before the login is worth nothing"


async def test_the_database_holds_no_session_secret(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    client = await doors.signed_in(EMAIL)
    async with plane.db.reading() as session:
        dump = str(await session.scalar(text("SELECT json_agg(s) FROM system_sessions s")))
    assert client.cookies["opsplane_system"] not in dump


@pytest.mark.parametrize("act", ["disable", "password"])
async def test_a_user_shut_out_is_refused_on_the_next_request(
    doors: Doors, plane: Plane, ann: PlatformUser, act: str
) -> None:
    client = await doors.signed_in(EMAIL)
    assert (await client.get("/system/ops/runs")).status_code == 200
    async with plane.db.transaction() as tx:
        user = await users.find(tx.session, EMAIL)
        if act == "disable":
            await users.disable(tx.session, user)
        else:
            await users.set_password(tx.session, user, web.CHEAP.hash("another"))
    assert (await client.get("/system/ops/runs")).status_code == 404


async def test_a_capability_taken_back_is_missing_on_the_next_request(
    doors: Doors, plane: Plane, ann: PlatformUser
) -> None:
    client = await doors.signed_in(EMAIL)
    async with plane.db.transaction() as tx:
        await users.revoke(tx.session, await users.find(tx.session, EMAIL), frozenset({Capability.OPS_VIEW}))
    answer = await client.get("/system/ops/runs")
    assert (answer.status_code, answer.json()["capability"]) == (403, Capability.OPS_VIEW)


async def test_once_enrolled_a_login_needs_a_code(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    secret, _ = await enrolled(await doors.signed_in(EMAIL))
    client = doors.client()
    assert (await login(client)).status_code == 401
    assert (await login(client, totp="000000")).status_code == 401
    assert (await login(client, totp=web.code(secret))).status_code == 204
    assert (await client.get("/system/me")).json()["second_factor"] is True


async def test_a_code_works_once(doors: Doors, ann: PlatformUser) -> None:
    secret, _ = await enrolled(await doors.signed_in(EMAIL))
    now = web.code(secret)
    assert (await login(doors.client(), totp=now)).status_code == 204
    assert (await login(doors.client(), totp=now)).status_code == 401
    assert (await login(doors.client(), totp=web.code(secret, steps_ago=1))).status_code == 401, "older than the last"


async def test_a_code_used_twice_at_once_gives_one_login(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    secret, recovery = await enrolled(await doors.signed_in(EMAIL))
    for one in (web.code(secret), recovery[0]):
        logins = (login(doors.client(f"192.0.2.{n}"), totp=one) for n in range(3))
        answers = sorted(answer.status_code for answer in await asyncio.gather(*logins))
        assert answers == [204, 401, 401]


async def test_a_recovery_code_stands_in_once(doors: Doors, ann: PlatformUser) -> None:
    _, recovery = await enrolled(await doors.signed_in(EMAIL))
    assert len(set(recovery)) == 10
    assert (await login(doors.client(), totp=recovery[3].upper())).status_code == 204
    assert (await login(doors.client(), totp=recovery[3])).status_code == 401


async def test_guessing_codes_with_the_right_password_is_throttled_and_says_nothing(
    doors: Doors, plane: Plane, ann: PlatformUser
) -> None:
    """A 429 would tell that the password was right."""
    secret, _ = await enrolled(await doors.signed_in(EMAIL))
    tried = [await login(doors.client(f"198.51.100.{n}"), totp=f"00000{n}") for n in range(5)]
    tried.append(await login(doors.client("198.51.100.9"), totp=web.code(secret)))
    assert {(answer.status_code, answer.text) for answer in tried} == {(401, tried[0].text)}
    assert (await actions(plane))[-1] == "platform.auth.login_throttled"


async def test_guessing_the_code_of_an_enrolment_is_throttled(doors: Doors, ann: PlatformUser) -> None:
    client = await doors.signed_in(EMAIL)
    await client.post("/system/totp", json={"password": PASSWORD})
    tried = [await client.post("/system/totp/confirm", json={"code": f"00000{n}"}) for n in range(6)]
    assert [answer.status_code for answer in tried] == [422] * 5 + [429]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Awaitable[None]]]:
    """What happens between the moment a password is judged and the moment it counts."""
    acts: list[Callable[[], Awaitable[None]]] = []
    verify = Passwords.verify

    async def slow(self: Passwords, password: str, kept: str | None) -> Verdict:
        verdict = await verify(self, password, kept)
        while acts:
            await acts.pop()()
        return verdict

    monkeypatch.setattr(Passwords, "verify", slow)
    return acts


async def reset(plane: Plane, hashed: str) -> None:
    async with plane.db.transaction() as tx:
        await users.set_password(tx.session, await users.find(tx.session, EMAIL), hashed)


async def test_a_password_that_was_reset_while_it_was_judged_opens_nothing(
    doors: Doors, plane: Plane, ann: PlatformUser, meanwhile: list[Any]
) -> None:
    meanwhile.append(lambda: reset(plane, web.CHEAP.hash("a new one")))
    assert (await login(doors.client())).status_code == 401
    assert await support.count(plane, SystemSession, SystemSession.revoked_at.is_(None)) == 0


async def test_renewing_a_weak_hash_does_not_undo_a_reset(
    doors: Doors, plane: Plane, ann: PlatformUser, meanwhile: list[Any]
) -> None:
    await reset(plane, web.weaker().hash(PASSWORD))
    new = web.CHEAP.hash("a new one")
    meanwhile.append(lambda: reset(plane, new))
    assert (await login(doors.client())).status_code == 401
    async with plane.db.reading() as session:
        assert (await users.find(session, EMAIL)).password_hash == new


@pytest.mark.parametrize("path", ["/system/password", "/system/totp"])
async def test_a_session_that_ended_under_way_changes_nothing(
    doors: Doors, plane: Plane, ann: PlatformUser, meanwhile: list[Any], path: str
) -> None:
    thief = await doors.signed_in(EMAIL)
    new = web.CHEAP.hash("a new one")
    meanwhile.append(lambda: reset(plane, new))
    change = {"current": PASSWORD, "new": "seven violet tractors hum"}
    answer = await thief.post(path, json={"password": PASSWORD} if path == "/system/totp" else change)
    assert answer.status_code == 401
    async with plane.db.reading() as session:
        kept = await users.find(session, EMAIL)
    assert (kept.password_hash, kept.totp_secret) == (new, None)
    assert (await thief.get("/system/me")).status_code == 404


@pytest.mark.parametrize("field", ["password", "totp", "username"])
async def test_half_a_surrogate_pair_is_no_text(doors: Doors, ann: PlatformUser, field: str) -> None:
    given = {"username": EMAIL, "password": PASSWORD, field: "\ud800"}
    headers = {"Content-Type": "application/json"}
    answer = await doors.client().post("/system/login", content=json.dumps(given).encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_when_too_many_passwords_wait_the_next_is_told_to_come_back(
    doors: Doors, ann: PlatformUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 0)
    answer = await login(doors.client())
    assert (answer.status_code, answer.json()["code"]) == (503, "too_busy")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_enrolling_takes_the_password_and_ends_other_sessions(doors: Doors, ann: PlatformUser) -> None:
    client, other = await doors.signed_in(EMAIL), await doors.signed_in(EMAIL)
    assert (await client.post("/system/totp", json={"password": "wrong"})).status_code == 401
    picture = await client.get("/system/totp/qr")
    assert picture.status_code == 404
    secret = (await client.post("/system/totp", json={"password": PASSWORD})).json()["secret"]
    picture = await client.get("/system/totp/qr")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.text.lstrip().startswith("<?xml")
    assert (await client.post("/system/totp/confirm", json={"code": "000000"})).json()["code"] == "wrong_code"
    assert (await client.post("/system/totp/confirm", json={"code": web.code(secret)})).status_code == 200
    assert (await client.get("/system/totp/qr")).status_code == 404, "a confirmed secret is never shown again"
    assert (await client.get("/system/me")).status_code == 200
    assert (await other.get("/system/me")).status_code == 404
    assert (await client.post("/system/totp", json={"password": PASSWORD})).json()["code"] == "already_enrolled"


async def test_in_production_an_operator_can_do_nothing_before_enrolling(
    plane: Plane, settings: Settings, ann: PlatformUser
) -> None:
    production = settings.model_copy(update={"base_url": "https://ops.test", "env": Environment.PRODUCTION})
    async with web.doors(plane, production) as found:
        client = await found.signed_in(EMAIL)
        refused = await client.get("/system/ops/runs")
        assert (refused.status_code, refused.json()["code"]) == (403, "second_factor_required")
        assert (await client.get("/system/me")).json()["must_enrol"] is True
        await enrolled(client)
        assert (await client.get("/system/ops/runs")).status_code == 200


async def test_changing_the_password_takes_the_old_one_and_a_strong_new_one(doors: Doors, ann: PlatformUser) -> None:
    client, other = await doors.signed_in(EMAIL), await doors.signed_in(EMAIL)
    strong = "seven violet tractors hum"
    for new in ("short", "passwordpassword", "ann@ops.test1", "x" * 129):
        answer = await client.post("/system/password", json={"current": PASSWORD, "new": new})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), new
        assert new not in answer.text
    wrong = await client.post("/system/password", json={"current": "wrong", "new": strong})
    assert wrong.status_code == 401
    assert (await client.post("/system/password", json={"current": PASSWORD, "new": strong})).status_code == 204
    assert (await client.get("/system/me")).status_code == 200
    assert (await other.get("/system/me")).status_code == 404
    assert (await login(doors.client(), password=strong)).status_code == 204


async def test_a_hash_of_weaker_parameters_is_renewed_at_login(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    weak = web.weaker().hash(PASSWORD)
    async with plane.db.transaction() as tx:
        (await users.find(tx.session, EMAIL)).password_hash = weak
    await doors.signed_in(EMAIL)
    async with plane.db.reading() as session:
        kept = (await users.find(session, EMAIL)).password_hash
    assert kept not in {None, weak}


async def test_what_people_type_as_a_name_is_not_kept(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    await login(doors.client(), username="my secret password")
    async with plane.db.reading() as session:
        event = (await session.scalars(select(AuditEvent).order_by(AuditEvent.id.desc()).limit(1))).one()
    assert event.details["username"] == "(unknown)"
    assert event.details["address"] == "192.0.2.1"


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b"[" * 20_000, b"1" * 5000, b'{"username": null}', b'"x"'])
async def test_a_malformed_login_is_a_client_error(doors: Doors, body: bytes) -> None:
    answer = await doors.client().post("/system/login", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"


async def test_a_login_is_counted_as_a_session_of_that_client(doors: Doors, plane: Plane, ann: PlatformUser) -> None:
    await doors.signed_in(EMAIL, address="198.51.100.7")
    assert await support.count(plane, SystemSession, SystemSession.client_address == "198.51.100.7") == 1
