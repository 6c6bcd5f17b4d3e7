"""Schemathesis over the documents of both planes, once for each way in; counts what was asked and what was wrong."""

import copy
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from opsplane.access.sign_in import ADMIN, SYSTEM
from tests import web
from tests.fuzz.stand import Stand, elsewhere

ROOT = Path(__file__).parents[2]
# Not: unsupported_method (an unknown method is the 404 of an unknown path), positive_data_acceptance (a well-formed
# request may name a tenant that is not there), ignored_auth (the campaign without a credential asks everything).
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection",
]  # fmt: skip
ENDS_THE_SESSION = ("/logout", "/password", "/totp", "/totp/confirm", "/break-glass")
ONLY_BROWSERS = {"Sec-Fetch-Site": "same-origin"}
SURROGATES = r'{"reason": "\ud800", "\udfff": 1, "username": "\ud800", "password": "x"}'


@dataclass(frozen=True)
class Way:
    """A plane and the credential shown to it."""

    plane: str
    credential: str

    def __str__(self) -> str:
        return f"{self.plane}/{self.credential}"


WAYS = (
    Way(ADMIN, "session"), Way(ADMIN, "nothing"), Way(SYSTEM, "nothing"),
    Way(SYSTEM, "session"), Way(SYSTEM, "token"),
)  # fmt: skip


@dataclass
class Tally:
    """What came of the requests of one way."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many were answered."""
        return self.statuses.total()


def run(stand: Stand, way: Way, *, seed: int, examples: int, phases: list[str], seconds: int | None = None) -> Tally:
    """One pass of the generator over one document, for at most so long."""
    schema = _loaded(stand, way, seed=seed, seconds=seconds, examples=examples, phases=phases)
    schema.auth(refresh_interval=None)(_credential(stand, way))
    tally = Tally()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _count(event.recorder, way, tally)
        elif isinstance(event, events.NonFatalError):
            tally.failures[f"{event.label}: {event.info.title}"] = str(event.value)[:1000]
        elif isinstance(event, events.FatalError):
            tally.failures["the generator"] = repr(event.exception)[:1000]
    return tally


def _loaded(stand: Stand, way: Way, *, seed: int, seconds: int | None, examples: int, phases: list[str]) -> Any:
    document = json.loads((ROOT / "openapi" / f"{way.plane}.json").read_text(encoding="utf-8"))
    config = SchemathesisConfig(seed=seed, max_time=seconds)
    project = config.projects.default
    project.update(
        base_url=f"{stand.url}/{way.plane}", headers=dict(ONLY_BROWSERS), workers=1, continue_on_failure=True,
        request_timeout=30,
    )  # fmt: skip
    project.checks.update(included_check_names=CHECKS)
    accepted = project.checks.negative_data_rejection
    accepted.expected_statuses = [*accepted.expected_statuses, "413"]
    project.phases.update(phases=phases)
    project.generation.update(
        max_examples=examples, no_shrink=True, with_security_parameters=False, database="none", allow_x00=True
    )
    return schemathesis.openapi.from_dict(hinted(document, stand.known), config=config)


def hinted(document: dict[str, Any], known: dict[str, list[str]]) -> dict[str, Any]:
    """The same contract, with values that exist beside all others, or hardly any request would find something."""
    document = copy.deepcopy(document)
    for name, schema in _named(document):
        if values := known.get(name):
            rest = dict(schema)
            schema.clear()
            schema["anyOf"] = [{"type": "string", "enum": values}, rest]
    return document


def _named(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        for one in node:
            yield from _named(one)
    elif isinstance(node, dict):
        if "in" in node and "schema" in node:
            yield node["name"], node["schema"]
        if str(node.get("title", "")).endswith("In"):  # bodies that are sent
            yield from list(node.get("properties", {}).items())
        for one in list(node.values()):
            yield from _named(one)


def _credential(stand: Stand, way: Way) -> type:
    standing = stand.signed_in(way.plane) if way.credential == "session" else None

    class Shown:
        """What each request carries; one that may end its session gets a session of its own."""

        def get(self, case: Any, _context: Any) -> dict[str, str]:
            if way.credential == "token":
                return {"Authorization": f"Bearer {stand.token}"}
            if standing is None:
                return {}
            own = case.operation.path in ENDS_THE_SESSION
            return {"Cookie": stand.signed_in(way.plane) if own else standing}

        def set(self, case: Any, data: dict[str, str], _context: Any) -> None:
            case.headers = {**(case.headers or {}), **data, **elsewhere()}

    return Shown


def _count(recorder: Any, way: Way, tally: Tally) -> None:
    for case_id, interaction in recorder.interactions.items():
        label = recorder.label
        if interaction.response is None:
            tally.failures[f"{label}: no answer"] = interaction.request.uri
            continue
        status = interaction.response.status_code
        tally.statuses[status] += 1
        if way.credential == "nothing" and not _turned_away(recorder.cases[case_id].value.operation.path, status):
            tally.failures[f"{label}: {status} without a credential"] = interaction.request.uri
    for check in itertools.chain.from_iterable(recorder.checks.values()):
        if check.status != Status.SUCCESS:
            _note(check, recorder.label, tally)


def _note(check: Any, label: str, tally: Tally) -> None:
    info = check.failure_info
    said = f"{info.failure.message[:600]}\n{info.code_sample[:600]}" if info else ""
    tally.failures.setdefault(f"{label}: {check.name} {info.failure.title if info else ''}", said)


def _turned_away(path: str, status: int) -> bool:
    return status in {401, 404} if path != "/login" else 400 <= status < 500


def by_hand(stand: Stand, way: Way) -> Tally:
    """What no generator writes: half a surrogate pair, in values and in names of fields."""
    tally = Tally()
    document = json.loads((ROOT / "openapi" / f"{way.plane}.json").read_text(encoding="utf-8"))
    headers = {**web.SAME_ORIGIN, **elsewhere(), "Content-Type": "application/json"}
    for path, methods in document["paths"].items():
        if "post" not in methods:
            continue
        credential = _credential(stand, way)
        case = type("Case", (), {"operation": type("Operation", (), {"path": path})})
        url = f"{stand.url}/{way.plane}{path}".replace("{key}", stand.known["key"][0])
        answer = httpx.post(url, content=SURROGATES, headers=headers | credential().get(case, None))
        tally.statuses[answer.status_code] += 1
        if str(answer.status_code) not in methods["post"]["responses"]:
            tally.failures[f"POST {path}: {answer.status_code} to a lone surrogate"] = answer.text
    return tally
