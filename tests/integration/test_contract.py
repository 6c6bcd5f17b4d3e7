"""What the documents promise holds for requests that nobody would write: a slice of `make fuzz`."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from opsplane.access.sign_in import ADMIN, SYSTEM
from opsplane.api import openapi
from opsplane.auth.roles import Role
from opsplane.config import Settings
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.fuzz import campaign, stand
from tests.fuzz.campaign import Way
from tests.web import Client, Doors

DOCUMENTS = {plane: json.loads(openapi.rendered(plane)) for plane in openapi.PLANES}
OPERATIONS = [
    (plane, method, path)
    for plane, document in DOCUMENTS.items()
    for path, methods in document["paths"].items()
    for method in methods
]
SOMEBODYS = "01900000-0000-7000-8000-000000000000"


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


ODD = {
    "nul": "\0",
    "nul in a cursor": cursor("\0"),
    "half a surrogate": b"\xed\xa0\x80".decode("latin-1"),
    "year 1 in a cursor": cursor(f"0001-01-01T00:00:00+14:00 {SOMEBODYS}"),
    "no offset in a cursor": cursor(f"0001-01-01T00:00:00 {SOMEBODYS}"),
    "year 1": "0001-01-01T00:00:00+14:00",
    "year 9999": "9999-12-31T23:59:59.999999-14:00",
    "year 0": "0000-01-01T00:00:00Z",
    "a huge number": "9" * 300,
    "a cursor of a huge number": cursor("9" * 300),
    "a cursor of the largest number": cursor("9" * 18),
}


@pytest.mark.parametrize(("plane", "method", "path"), OPERATIONS)
def test_every_operation_documents_what_the_edge_may_answer(plane: str, method: str, path: str) -> None:
    answers = DOCUMENTS[plane]["paths"][path][method]["responses"]
    assert {"403", "404", "413", "415", "422", "429", "503"} <= answers.keys()
    assert "Retry-After" in answers["429"]["headers"]


@pytest.fixture
async def people(doors: Doors, plane: Plane, tenants: list[Tenant]) -> dict[str, Client]:
    operator = await web.platform_user(plane, *registry.capabilities())
    member = await web.tenant_user(plane, Role.OWNER, None)
    return {
        "system": await doors.signed_in(operator.email),
        "admin": await doors.signed_in(member.email, plane="admin"),
    }


def texts(node: Any, components: dict[str, Any], odd: str) -> Any:
    """A body in which every text is an odd one."""
    if "$ref" in node:
        return texts(components[node["$ref"].rpartition("/")[2]], components, odd)
    for choice in ("anyOf", "oneOf"):
        if choice in node:
            return texts(node[choice][0], components, odd)
    if node.get("type") == "object":
        return {name: texts(one, components, odd) for name, one in node["properties"].items()}
    if node.get("type") == "array":
        return [texts(node["items"], components, odd)]
    if "const" in node:
        return node["const"]
    if "enum" in node:
        return node["enum"][-1]
    if node.get("format") == "uuid":
        return SOMEBODYS
    return {"string": odd, "integer": 1, "boolean": False}[node["type"]]


def parameters(plane: str, method: str, path: str) -> Iterator[str]:
    for one in DOCUMENTS[plane]["paths"][path][method].get("parameters", []):
        if one["in"] == "query":
            yield one["name"]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_no_odd_value_is_a_defect(people: dict[str, Client], odd: str) -> None:
    for plane, method, path in OPERATIONS:
        if path == "/logout":
            continue
        url = re.sub(r"\{\w+\}", SOMEBODYS, f"/{plane}{path}".replace("{key}", "findings.lifecycle.backfill"))
        documented = DOCUMENTS[plane]["paths"][path][method]
        for name in parameters(plane, method, path):
            answer = await people[plane].request(method, url, params={name: odd})
            assert str(answer.status_code) in documented["responses"], f"{method} {url} {name}: {answer.text}"
            assert answer.status_code < 500, f"{method} {url} {name}"
        if "requestBody" in documented:
            schema = documented["requestBody"]["content"]["application/json"]["schema"]
            body = texts(schema, DOCUMENTS[plane]["components"]["schemas"], odd)
            answer = await people[plane].request(method, url, json=body)
            assert str(answer.status_code) in documented["responses"], f"{method} {url}: {answer.text}"
            assert answer.status_code < 500, f"{method} {url}"


async def test_a_field_named_by_half_a_surrogate_pair_is_refused(people: dict[str, Client]) -> None:
    for path in ("/system/break-glass", "/system/password", "/system/totp"):
        headers = {"Content-Type": "application/json"}
        answer = await people["system"].post(path, content=campaign.SURROGATES, headers=headers)
        assert answer.status_code == 422, path


async def test_a_number_is_no_date(people: dict[str, Client]) -> None:
    assert (await people["system"].get("/system/audit?since=0.5")).status_code == 422
    assert (await people["system"].get("/system/audit?since=2026-11-21T08:00:00Z")).status_code == 200


@pytest.mark.timeout(600)  # 900 requests and more, on a machine that may be busy
async def test_a_few_generated_requests_keep_to_the_contract(settings: Settings, plane: Plane) -> None:
    tallies = {}
    with stand.serving(settings) as url:
        place = await stand.furnish(settings, url)
        for way in (Way(SYSTEM, "token"), Way(ADMIN, "session")):
            tallies[way] = await asyncio.to_thread(campaign.run, place, way, seed=11, examples=40, phases=["fuzzing"])
    assert {str(way): tally.failures for way, tally in tallies.items() if tally.failures} == {}
    assert sum(tally.requests for tally in tallies.values()) >= 900
