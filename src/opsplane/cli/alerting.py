"""What the commands of alerts share: who may, which one is meant, and what is wrong with what was typed."""

import shlex
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from opsplane.alerts import words
from opsplane.alerts.rules import Name
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.cli import context, output
from opsplane.errors import InvalidInput, NotFound
from opsplane.runbooks.service import Plane

T = TypeVar("T")

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
OnOff = Annotated[bool | None, typer.Option("--enable/--disable", help="Switch it on or off.", show_default=False)]

NOTHING_GIVEN = "Say what to change; --help lists the options."


class Named(Protocol):
    """A destination or a rule."""

    @property
    def id(self) -> uuid.UUID:
        """What programs call it."""

    @property
    def name(self) -> str:
        """What people call it."""


Thing = TypeVar("Thing", bound=Named)


def run(as_: str | None, act: Callable[[Plane, Actor], Awaitable[T]]) -> T:
    """Run an act in the name of somebody who may manage alerts."""

    async def permitted(plane: Plane) -> T:
        by = await context.actor(plane, as_)
        by.require(Capability.ALERTS_MANAGE)
        return await act(plane, by)

    return context.run(permitted)


def pick(things: Sequence[Thing], wanted: str, noun: str, *, none_yet: str) -> Thing:
    """The one with this name or id.

    Raises:
        NotFound: there is none; it says which there are.
    """
    for thing in things:
        if wanted in {thing.name, str(thing.id)}:
            return thing
    there_are = f"there are {words.listed([repr(thing.name) for thing in things])}." if things else none_yet
    raise NotFound(f"There is no {noun} {wanted!r}; {there_are}")


def parsed(wanted: Any, given: object, options: Mapping[str, str]) -> Any:
    """What was typed, as the type that is wanted; `options` says for each field where it was typed.

    Raises:
        InvalidInput: in one sentence that names the option, and repeats nothing secret.
    """
    try:
        return TypeAdapter(wanted).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = next((options[str(part)] for part in first["loc"] if str(part) in options), options.get(""))
        said = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise InvalidInput(f"{where}: {said}." if where else f"{said}.") from None


def name(typed: str, option: str = "NAME") -> str:
    """A name that tells no secret: it is shown to everybody, and stands in the audit for ever.

    Raises:
        InvalidInput: it is none.
    """
    if "://" in typed:
        raise InvalidInput(f"{option} is what people call it, such as ops; a URL is a secret, and is asked for.")
    return str(parsed(Name, typed, {"": option}))


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if somebody wants that."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput("There is nobody to ask; add --yes to go on without asking.")
    with context.prompting():
        wanted = typer.confirm(question, err=True)
    if not wanted:
        output.note("Nothing was deleted.")
        raise typer.Exit(context.FAILED)


def quoted(name: str) -> str:
    """A name as part of a command to copy."""
    return shlex.quote(name)
