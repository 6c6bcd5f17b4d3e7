"""A change that a cookie vouches for comes from our own pages, as JSON; nothing else gets through."""

from itertools import product

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from opsplane.api import origin
from opsplane.api.origin import SameOrigin
from opsplane.api.refusals import CrossSiteRequest, JsonRequired

BASE = "https://ops.example"
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post"]
SITES = [None, "same-origin", "none", "same-site", "cross-site", "", "SAME-ORIGIN", "same-origin, cross-site"]
ORIGINS = [
    None, BASE, "null", "", "https://evil.example", "http://ops.example", "https://ops.example:8443",
    "https://ops.example.evil", "https://evil.ops.example", "https://ops.example/", "https://OPS.example", f"{BASE} {BASE}",
]  # fmt: skip
KINDS = [None, "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
SENDERS_OF_OURS = {*product(["same-origin", "none"], ORIGINS), (None, BASE)}


def headers(**values: str | None) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in values.items() if value is not None})


def verdict(method: str, given: Headers, base_url: str = BASE) -> str:
    try:
        origin.check(method, given, base_url)
    except (CrossSiteRequest, JsonRequired) as refusal:
        return refusal.code
    return "passed"


def test_of_all_combinations_only_json_of_our_own_pages_passes() -> None:
    seen = dict.fromkeys(("passed", "cross_site_request", "json_required"), 0)
    for method, site, sender, kind in product(UNSAFE, SITES, ORIGINS, KINDS):
        given = headers(sec_fetch_site=site, origin=sender, content_type=kind, content_length="2", cookie="session=x")
        expected = "cross_site_request"
        if (site, sender) in SENDERS_OF_OURS:
            expected = "passed" if kind == "application/json" else "json_required"
        assert verdict(method, given) == expected, (method, given)
        seen[expected] += 1
    assert seen == {"passed": 200, "cross_site_request": 2840, "json_required": 800}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_is_nobodys_secret_to_ask_for(method: str) -> None:
    assert verdict(method, headers(sec_fetch_site="cross-site", origin="https://evil.example")) == "passed"


def test_a_token_passes_because_no_browser_sends_one_by_itself() -> None:
    assert verdict("POST", headers(authorization="Bearer x", origin="https://evil.example")) == "passed"
    assert verdict("POST", headers(authorization="bEARER x")) == "passed"


@pytest.mark.parametrize("sent", ["Basic dTpw", "Digest x", "Negotiate x", "", "Bearerx", "x Bearer"])
def test_what_browsers_do_send_by_themselves_does_not_pass(sent: str) -> None:
    assert verdict("POST", headers(authorization=sent, sec_fetch_site="cross-site")) == "cross_site_request"


def test_a_doubled_header_must_be_right_twice() -> None:
    for name, good, bad in [("sec-fetch-site", "same-origin", "cross-site"), ("origin", BASE, "https://evil.example")]:
        for pair in ((good, bad), (bad, good)):
            given = Headers(raw=[(name.encode(), value.encode()) for value in pair])
            assert verdict("POST", given) == "cross_site_request", name


@pytest.mark.parametrize(
    ("kind", "length", "chunked", "expected"),
    [
        (None, None, None, "passed"),
        (None, "0", None, "passed"),
        ("text/plain", "0", None, "passed"),
        (None, "1", None, "json_required"),
        (None, None, "chunked", "json_required"),
        ("application/json; charset=utf-8", "1", None, "passed"),
        ("Application/JSON", "1", None, "passed"),
        ("application/merge-patch+json", "1", None, "passed"),
        ("application/jsonx", "1", None, "json_required"),
        ("text/plain; application/json", "1", None, "json_required"),
        ("text/plain+json", "1", None, "json_required"),
        ("text/plain", None, "chunked", "json_required"),
    ],
)
def test_a_body_must_be_json_and_none_needs_no_type(
    kind: str | None, length: str | None, chunked: str | None, expected: str
) -> None:
    given = headers(
        sec_fetch_site="same-origin", content_type=kind, content_length=length, transfer_encoding=chunked
    )  # fmt: skip
    assert verdict("POST", given) == expected


@pytest.mark.parametrize(
    ("base_url", "sent"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("https://ops.example:443/", "https://ops.example"),
        ("http://OPS.internal:80", "http://ops.internal"),
        ("https://ops.example/opsplane", "https://ops.example"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_the_origin_is_written_as_browsers_write_it(base_url: str, sent: str) -> None:
    assert verdict("POST", headers(origin=sent), base_url) == "passed"


def test_on_a_laptop_another_name_of_the_same_server_works() -> None:
    given = headers(sec_fetch_site="same-origin", origin="http://127.0.0.1:8000")
    assert verdict("POST", given, "http://localhost:8000") == "passed"


async def test_a_refusal_is_a_problem_and_the_application_is_not_asked() -> None:
    transport = httpx.ASGITransport(SameOrigin(PlainTextResponse("changed"), BASE))
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        refused = await client.post("/", headers={"Origin": "https://evil.example"})
        unread = await client.post("/", content=b"x", headers={"Sec-Fetch-Site": "same-origin"})
        passed = await client.post("/", json={}, headers={"Sec-Fetch-Site": "same-origin"})
    assert (refused.status_code, refused.json()["code"]) == (403, "cross_site_request")
    assert (unread.status_code, unread.json()["code"]) == (415, "json_required")
    assert {answer.headers["content-type"] for answer in (refused, unread)} == {"application/problem+json"}
    assert passed.text == "changed"
