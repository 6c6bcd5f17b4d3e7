"""Where a result was found: an address, and a region of it."""

from pathlib import Path
from typing import Any, NamedTuple

from opsplane.findings.sarif.rules import Budget
from opsplane.findings.sarif.stream import members
from opsplane.findings.sarif.values import Refused, dotted, expect_object, get, get_int, get_object, get_objects
from opsplane.findings.sarif.walker import array_of, members_of_runs, object_of, scalars

LOCATIONS = array_of(
    object_of(
        {
            "physicalLocation": object_of(
                {
                    "artifactLocation": object_of(scalars("uri", "index")),
                    "region": object_of(scalars("startLine", "startColumn", "endLine", "endColumn")),
                }
            ),
            "logicalLocations": array_of(object_of(scalars("fullyQualifiedName", "name"))),
        }
    )
)
_ARTIFACTS = members_of_runs("artifacts", object_of({"location": object_of(scalars("uri"))}, is_item=True))


class Region(NamedTuple):
    """Lines and columns from 1, as far as they are known."""

    start_line: int | None = None
    start_column: int | None = None
    end_line: int | None = None
    end_column: int | None = None


class Location(NamedTuple):
    """An address, and the region of it."""

    uri: str
    region: Region


class Artifacts:
    """Addresses that results name by number only; few tools do, so the table is read on demand."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._budget = budget
        self._uris: dict[tuple[int, int], str] | None = None

    def uri(self, run: int, index: int, at: str) -> str:
        """The address of this artifact of this run."""
        if self._uris is None:
            self._uris = self._read()
        uri = self._uris.get((run, index))
        if uri is None:
            raise Refused(f"{at}: artifact {index} is not in runs[{run}].artifacts")
        return uri

    def _read(self) -> dict[tuple[int, int], str]:
        uris: dict[tuple[int, int], str] = {}
        for place, value, chars in members(self._path, _ARTIFACTS):
            at = dotted(place)
            self._budget.spend(chars, at)
            location = get_object(expect_object(value, at), "location", at)
            uris[int(place[1]), int(place[3])] = get(location, "uri", str, at) or ""
        return uris


def location_of(result: dict[str, Any], run: int, artifacts: Artifacts, at: str) -> Location:
    """The first physical location, or else the first logical one."""
    locations = [
        (location, f"{at}.locations[{index}]") for index, location in enumerate(get_objects(result, "locations", at))
    ]
    for location, here in locations:
        if found := _physical(location, run, artifacts, here):
            return found
    for location, here in locations:
        if name := _logical(location, here):
            return Location(name, Region())
    raise Refused(f"{at}: has no location")


def _physical(location: dict[str, Any], run: int, artifacts: Artifacts, at: str) -> Location | None:
    physical = get_object(location, "physicalLocation", at)
    at = f"{at}.physicalLocation"
    artifact = get_object(physical, "artifactLocation", at)
    uri = get(artifact, "uri", str, at)
    if not uri:
        index = get_int(artifact, "index", at)
        uri = None if index is None else artifacts.uri(run, index, at)
    return Location(uri, _region(physical, at)) if uri else None


def _logical(location: dict[str, Any], at: str) -> str | None:
    for logical in get_objects(location, "logicalLocations", at):
        if name := get(logical, "fullyQualifiedName", str, at) or get(logical, "name", str, at):
            return name
    return None


def _region(physical: dict[str, Any], at: str) -> Region:
    region = get_object(physical, "region", at)
    at = f"{at}.region"
    start_line = get_int(region, "startLine", at)
    end_line = get_int(region, "endLine", at)
    return Region(
        start_line=start_line,
        start_column=get_int(region, "startColumn", at),
        end_line=start_line if end_line is None else end_line,
        end_column=get_int(region, "endColumn", at),
    )
